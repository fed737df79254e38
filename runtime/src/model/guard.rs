//! The edge to libraries that read models' files: a panic in them is an error of the file.
//!
//! Tokenizers and templates are outside data, and the libraries that work with them were made for
//! files that somebody trusts. What they assume and a file does not keep ends in a panic; here it
//! ends in an error, and the process and all other requests go on.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// What `work` returns, or the words of its panic. What it was changing must not be used after one.
pub(super) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| format!("panic: {}", words(&*panic)))
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no words")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_in_its_words() {
        assert_eq!(guarded(|| 3), Ok(3));
        assert_eq!(guarded(|| panic!("no {}", 4)), Err::<(), _>("panic: no 4".to_owned()));
        assert_eq!(guarded(|| panic!("none")), Err::<(), _>("panic: none".to_owned()));
    }
}
