//! Where cubins come from.
//!
//! A release build embeds them for the devices that most have (A100; L4 and L40; H100 and H200).
//! For any other, NVRTC compiles the embedded sources when a device first wants them, and keeps
//! what it made on disk. A cubin for 8.0 runs on every 8.x; one for 9.0a on 9.0 alone.

use std::{
    borrow::Cow,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use super::{
    compile::{Cache, Compiler},
    driver::DeviceFacts,
    options::architecture,
    sources::Source,
};
use crate::error::DeviceError;

/// A source of cubins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Images {
    /// None that is one: for a driver that reads none.
    Blank,
    /// Embedded ones, else compiled here and kept in this folder.
    Real(PathBuf),
}

/// (source, architecture, cubin) of each that the build embedded.
const EMBEDDED: &[(&str, &str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/cubins.rs"));

impl Images {
    /// The cubin of a source for a device.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`], which says what is missing and what helps.
    pub fn of(
        &self,
        source: &Source,
        facts: &DeviceFacts,
    ) -> Result<Cow<'static, [u8]>, DeviceError> {
        let Self::Real(folder) = self else { return Ok(Cow::Borrowed(&[])) };
        if let Some(image) = embedded(source.name, facts.capability) {
            return Ok(Cow::Borrowed(image));
        }
        let (cache, own) = (Cache::new(folder), architecture(facts.capability));
        let image = cache.image(compiler(facts)?.as_ref(), source, &own);
        image.map(Cow::Owned).map_err(|error| DeviceError::Unsupported(error.to_string()))
    }

    /// Whether there are cubins for a device, or what makes them.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn check(&self, facts: &DeviceFacts) -> Result<(), DeviceError> {
        match self {
            Self::Real(_) if embedded("norm", facts.capability).is_none() => {
                compiler(facts).map(|_| ())
            }
            Self::Blank | Self::Real(_) => Ok(()),
        }
    }
}

/// What the build embedded, as a sentence for logs.
pub fn embedded_architectures() -> String {
    let mut all: Vec<&str> = EMBEDDED.iter().map(|(_, architecture, _)| *architecture).collect();
    all.dedup();
    match all.is_empty() {
        true => "none: kernels are compiled by NVRTC when a device first wants them".into(),
        false => all.join(", "),
    }
}

fn embedded(source: &str, capability: (u32, u32)) -> Option<&'static [u8]> {
    let wanted = match capability {
        (9, 0) => "sm_90a",
        (8, minor) if minor >= 9 => "sm_89",
        (8, _) => "sm_80",
        _ => return None,
    };
    let found = EMBEDDED.iter().find(|(name, own, _)| (*name, *own) == (source, wanted));
    found.map(|(_, _, image)| *image)
}

/// NVRTC, loaded when it is first wanted.
fn compiler(facts: &DeviceFacts) -> Result<Arc<Compiler>, DeviceError> {
    // Once for a process: it is a library, and holds no state of ours.
    static COMPILER: OnceLock<Result<Arc<Compiler>, String>> = OnceLock::new();
    let open = || Compiler::open(&[]).map(Arc::new).map_err(|error| error.to_string());
    let found = COMPILER.get_or_init(open).clone();
    found.map_err(|why| {
        DeviceError::Unsupported(format!(
            "this binary has no kernels for {} ({}; embedded are {}), and nothing here compiles \
             them: {why}. Put it where the loader looks (LD_LIBRARY_PATH)",
            facts.name,
            architecture(facts.capability),
            embedded_architectures()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::{driver::Driver, fake::FakeDriver};

    #[test]
    fn what_is_missing_is_said_with_what_helps() {
        let facts = FakeDriver::new(0).with_capability((12, 0)).facts().clone();
        assert!(Images::Blank.check(&facts).is_ok());
        // A machine with CUDA can compile for it.
        if let Err(error) = Images::Real(PathBuf::from("nowhere")).check(&facts) {
            let said = error.to_string();
            for part in ["sm_120a", "NVRTC", "LD_LIBRARY_PATH"] {
                assert!(said.contains(part), "{said}");
            }
        }
    }
}
