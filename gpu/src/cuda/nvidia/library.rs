//! A shared library and a table of its functions.
//!
//! [`functions!`](functions) declares a table; opening it looks up every function, so that whatever
//! is missing is known before anything is called.

use std::path::PathBuf;

/// Why a table could not be filled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LibraryError {
    /// None of the names is a library here.
    #[error("none of {tried} was found ({why})")]
    NotFound {
        /// The names.
        tried: String,
        /// What the loader said of the last.
        why: String,
    },
    /// A library without one of the functions.
    #[error("{library} has no function {function}: it is too old")]
    NoFunction {
        /// The library.
        library: String,
        /// The function.
        function: &'static str,
    },
}

/// Opens the first of `names` that the loader finds.
pub(super) fn open(names: &[PathBuf]) -> Result<(libloading::Library, String), LibraryError> {
    let mut why = String::new();
    for name in names {
        // SAFETY: the names are those of NVIDIA's libraries, whose initializers may run at any time
        // and on any thread.
        match unsafe { libloading::Library::new(name) } {
            Ok(library) => return Ok((library, name.display().to_string())),
            Err(error) => why = error.to_string(),
        }
    }
    let tried: Vec<String> = names.iter().map(|name| name.display().to_string()).collect();
    Err(LibraryError::NotFound { tried: tried.join(", "), why })
}

/// Declares a table of functions, with a constructor `open(names)` that fills it.
macro_rules! functions {
    (
        $(#[$about:meta])*
        struct $table:ident returns $code:ty {
            $(fn $name:ident($($arg:ident: $kind:ty),* $(,)?);)*
        }
    ) => {
        $(#[$about])*
        #[allow(non_snake_case, reason = "functions have the names that NVIDIA gave them")]
        pub(super) struct $table {
            $(pub(super) $name: unsafe extern "C" fn($($arg: $kind),*) -> $code,)*
            /// The functions live as long as their library.
            _library: libloading::Library,
        }

        impl $table {
            /// Opens the first library that there is and looks all functions up.
            pub(super) fn open(
                names: &[std::path::PathBuf],
            ) -> Result<Self, $crate::cuda::nvidia::library::LibraryError> {
                let (library, found) = $crate::cuda::nvidia::library::open(names)?;
                Ok(Self {
                    $($name: {
                        // SAFETY: the type is that of the function in NVIDIA's headers, which has
                        // not changed since it got this name; the table keeps the library open for
                        // as long as the pointer can be used.
                        let symbol = unsafe {
                            library.get::<unsafe extern "C" fn($($kind),*) -> $code>(
                                concat!(stringify!($name), "\0").as_bytes(),
                            )
                        };
                        match symbol {
                            Ok(symbol) => *symbol,
                            Err(_) => {
                                let function = stringify!($name);
                                return Err(
                                    $crate::cuda::nvidia::library::LibraryError::NoFunction {
                                        library: found,
                                        function,
                                    },
                                );
                            }
                        }
                    },)*
                    _library: library,
                })
            }
        }

        impl std::fmt::Debug for $table {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($table))
            }
        }
    };
}

pub(super) use functions;

#[cfg(test)]
mod tests {
    use super::*;

    functions! {
        /// A function that every C library has, and one that none has.
        #[expect(dead_code, reason = "it cannot be opened")]
        struct Wrong returns i32 {
            fn abs(value: i32);
            fn troupe_has_no_such_function(value: i32);
        }
    }

    functions! {
        struct Right returns i32 {
            fn abs(value: i32);
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let names = ["libtroupe-no-such.so.1", "libtroupe-none.so"].map(PathBuf::from);
        let error = Right::open(&names).unwrap_err().to_string();
        assert!(error.contains("libtroupe-no-such.so.1, libtroupe-none.so"), "{error}");
        let names = ["libtroupe-none.so", "libc.so.6"].map(PathBuf::from);
        let error = Wrong::open(&names).unwrap_err().to_string();
        assert!(error.contains("troupe_has_no_such_function"), "{error}");
        let table = Right::open(&names).unwrap();
        // SAFETY: C's `abs` takes any `int` but the least.
        assert_eq!(unsafe { (table.abs)(-3) }, 3);
    }
}
