//! The kernels of a device: the modules that it has loaded of their sources ([`super::sources`]).
//!
//! A source becomes a cubin at release build, where a compiler was at hand then, or when a device
//! first wants it ([`super::images`]). A module is loaded when the first of its kernels is
//! launched.
//!
//! - [`signature`]: what each kernel declares, read from its source

pub mod signature;

use std::{collections::BTreeMap, sync::Arc};

use self::signature::Signature;
use super::{
    driver::{Arg, Driver, Function, Geometry, Launch, Module},
    images::Images,
    sources::Source,
};
use crate::error::DeviceError;

/// A kernel with all that it is launched with.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Its name.
    pub name: &'static str,
    /// How often it runs.
    pub geometry: Geometry,
    /// Its arguments.
    pub args: Vec<Arg>,
}

/// The kernels of one device.
#[derive(Debug)]
pub struct Kernels<D: Driver> {
    driver: Arc<D>,
    images: Images,
    signatures: BTreeMap<String, Signature>,
    modules: BTreeMap<&'static str, Module>,
    functions: BTreeMap<&'static str, Function>,
}

impl<D: Driver> Kernels<D> {
    /// Those of `driver`'s device, none of them loaded.
    pub fn new(driver: Arc<D>, images: Images) -> Self {
        let (modules, functions) = (BTreeMap::new(), BTreeMap::new());
        Self { driver, images, signatures: signature::signatures(), modules, functions }
    }

    /// Enqueues a kernel; one without blocks has nothing to do.
    ///
    /// # Errors
    /// The driver's, and what [`Images::of`] says when there is no image for this device.
    pub fn launch(&mut self, call: &Call) -> Result<(), DeviceError> {
        if call.geometry.grid.contains(&0) {
            return Ok(());
        }
        let function = self.function(call.name)?;
        let Call { name, geometry, args } = call;
        self.driver.launch(&Launch { name, function, geometry: *geometry, args })?;
        Ok(())
    }

    /// Loads a source's module, so that no request waits for it.
    ///
    /// # Errors
    /// As [`Self::launch`].
    pub fn load(&mut self, source: &Source) -> Result<Module, DeviceError> {
        if let Some(module) = self.modules.get(source.name) {
            return Ok(*module);
        }
        let image = self.images.of(source, self.driver.facts())?;
        let module = self.driver.load(&image)?;
        self.modules.insert(source.name, module);
        Ok(module)
    }

    fn function(&mut self, name: &'static str) -> Result<Function, DeviceError> {
        if let Some(function) = self.functions.get(name) {
            return Ok(*function);
        }
        let Some(signature) = self.signatures.get(name) else {
            return Err(DeviceError::Contract(format!("there is no kernel {name}")));
        };
        let source = signature.source;
        let module = self.load(&source)?;
        let function = self.driver.function(module, name)?;
        self.functions.insert(name, function);
        Ok(function)
    }
}
