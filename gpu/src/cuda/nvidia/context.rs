//! One device through NVIDIA's driver: its primary context, one stream, page-locked memory for
//! copies, and the library of products if there is one.
//!
//! Several drivers of one device share its primary context and have a stream each: so ranks can
//! share a device where that was allowed.

use std::{
    ffi::{CString, c_void},
    ptr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    api::{
        Api, CAPTURE_OF_THREAD, DYNAMIC_SHARED_MEMORY, Handle, OWN_SHARED_MEMORY,
        STREAM_NON_BLOCKING,
    },
    blas::Blas,
    devices::{self, Absent},
    staging::Staging,
};
use crate::cuda::driver::{
    Address, Arg, DeviceFacts, DeviceMemory, Driver, DriverError, Fault, Function, Graph, Launch,
    Module, Product,
};

/// A device of this machine.
#[derive(Debug)]
pub struct Nvidia {
    api: Arc<Api>,
    facts: DeviceFacts,
    device: i32,
    context: Handle,
    stream: Handle,
    /// What must go before stream and context do.
    parts: Mutex<Parts>,
    has_products: bool,
}

#[derive(Debug, Default)]
struct Parts {
    staging: Option<Staging>,
    products: Option<Blas>,
    modules: Vec<Handle>,
}

// SAFETY: the driver's handles may be used from any thread once the context is current there, which
// each call sees to; what is not safe to share is behind a lock.
unsafe impl Send for Nvidia {}
// SAFETY: as above.
unsafe impl Sync for Nvidia {}
// SAFETY: module handles are used under the lock alone.
unsafe impl Send for Parts {}

impl Nvidia {
    /// Opens a device. Without a library of products, or without the wish for one, products are
    /// left to our own kernels.
    ///
    /// # Errors
    /// [`Absent`] if there is no such device or it cannot be opened.
    pub fn open(ordinal: u32, with_products: bool) -> Result<Self, Absent> {
        let count = devices::devices()?.len();
        if ordinal as usize >= count {
            return Err(Absent::NoDevice(format!(
                "there is no device {ordinal}, its {count} are counted from 0"
            )));
        }
        let broken = |error: DriverError| Absent::Broken(error.to_string());
        let api = devices::driver()?;
        let facts = devices::facts(&api, ordinal).map_err(broken)?;
        let device = devices::device(&api, ordinal).map_err(broken)?;
        let mut context = ptr::null_mut();
        // SAFETY: `context` is a place for a handle.
        let code = unsafe { (api.cuDevicePrimaryCtxRetain)(&raw mut context, device) };
        api.check("cuDevicePrimaryCtxRetain", code).map_err(broken)?;
        let mut opened = Self {
            api: Arc::clone(&api),
            facts,
            device,
            context,
            stream: ptr::null_mut(),
            parts: Mutex::default(),
            has_products: false,
        };
        opened.complete(with_products).map_err(broken)?;
        Ok(opened)
    }

    /// The rest of opening; what is half done is undone when `self` is dropped.
    fn complete(&mut self, with_products: bool) -> Result<(), DriverError> {
        self.enter()?;
        // SAFETY: `stream` is a place for a handle.
        let code = unsafe { (self.api.cuStreamCreate)(&raw mut self.stream, STREAM_NON_BLOCKING) };
        self.api.check("cuStreamCreate", code)?;
        let staging = Staging::new(&self.api)?;
        let products = match with_products {
            true => Blas::open(&self.api)?,
            false => None,
        };
        self.has_products = products.is_some();
        let mut parts = self.parts();
        (parts.staging, parts.products) = (Some(staging), products);
        Ok(())
    }

    /// Makes this device's context the calling thread's.
    fn enter(&self) -> Result<(), DriverError> {
        // SAFETY: the context is retained for as long as `self` lives.
        let code = unsafe { (self.api.cuCtxSetCurrent)(self.context) };
        self.api.check("cuCtxSetCurrent", code)
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        // A panic between leaves handles that are still valid.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters the context and judges what the call said.
    fn call(&self, name: &'static str, call: impl FnOnce(&Api) -> i32) -> Result<(), DriverError> {
        self.enter()?;
        self.api.check(name, call(&self.api))
    }
}

impl Driver for Nvidia {
    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    fn memory(&self) -> Result<DeviceMemory, DriverError> {
        let (mut free, mut total) = (0, 0);
        self.call("cuMemGetInfo", |api| {
            // SAFETY: both are places for numbers.
            unsafe { (api.cuMemGetInfo_v2)(&raw mut free, &raw mut total) }
        })?;
        Ok(DeviceMemory { free: free as u64, total: total as u64 })
    }

    fn allocate(&self, bytes: u64) -> Result<Address, DriverError> {
        let mut address = 0;
        let done = self.call("cuMemAlloc", |api| {
            // SAFETY: `address` is a place for a number.
            unsafe { (api.cuMemAlloc_v2)(&raw mut address, bytes as usize) }
        });
        let of_this = |error: DriverError| {
            let free = self.memory().map_or(0, |memory| memory.free);
            let detail = format!("{bytes} bytes where {free} are free: {}", error.detail);
            DriverError { detail, ..error }
        };
        done.map(|()| Address(address)).map_err(of_this)
    }

    fn free(&self, address: Address) {
        let freed = self.call("cuMemFree", |api| {
            // SAFETY: the address is of `allocate`, and whoever frees it uses it no more; what was
            // enqueued is waited for by the driver.
            unsafe { (api.cuMemFree_v2)(address.0) }
        });
        if let Err(error) = freed {
            tracing::debug!(%error, "free device memory");
        }
    }

    fn load(&self, image: &[u8]) -> Result<Module, DriverError> {
        let mut module = ptr::null_mut();
        self.call("cuModuleLoadData", |api| {
            // SAFETY: `module` is a place for a handle; the image is a whole cubin, whose header
            // says how long it is.
            unsafe { (api.cuModuleLoadData)(&raw mut module, image.as_ptr().cast()) }
        })?;
        self.parts().modules.push(module);
        Ok(Module(module.addr() as u64))
    }

    fn function(&self, module: Module, name: &str) -> Result<Function, DriverError> {
        let call = "cuModuleGetFunction";
        let other = |detail| DriverError { fault: Fault::Other, call, detail };
        let zero_ended = CString::new(name).map_err(|error| other(error.to_string()))?;
        let mut function = ptr::null_mut();
        let found = self.call(call, |api| {
            // SAFETY: `function` is a place for a handle, the module is loaded and the name ends
            // with zero.
            unsafe {
                (api.cuModuleGetFunction)(&raw mut function, handle(module.0), zero_ended.as_ptr())
            }
        });
        found.map_err(|error| DriverError {
            detail: format!("{name}: {}", error.detail),
            ..error
        })?;
        let mut own = 0;
        self.call("cuFuncGetAttribute", |api| {
            // SAFETY: `own` is a place for a number, and the function was just found.
            unsafe { (api.cuFuncGetAttribute)(&raw mut own, OWN_SHARED_MEMORY, function) }
        })?;
        let rest = self.facts.shared_memory.cast_signed().saturating_sub(own).max(0);
        self.call("cuFuncSetAttribute", |api| {
            // SAFETY: the function was just found; the sum is what a block may have at most.
            unsafe { (api.cuFuncSetAttribute)(function, DYNAMIC_SHARED_MEMORY, rest) }
        })?;
        Ok(Function(function.addr() as u64))
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), DriverError> {
        // The driver copies each argument from where its pointer points, as many bytes as the
        // kernel's parameter has; the low bytes come first on every machine that has the driver.
        let mut values: Vec<Vec<u64>> = launch.args.iter().map(Arg::words).collect();
        let mut params: Vec<*mut c_void> =
            values.iter_mut().map(|words| words.as_mut_ptr().cast()).collect();
        let Launch { name, function, geometry, .. } = launch;
        let ([gx, gy, gz], [bx, by, bz]) = (geometry.grid, geometry.block);
        let (function, shared, stream) = (handle(function.0), geometry.shared, self.stream);
        let launched = self.call("cuLaunchKernel", |api| {
            // SAFETY: there are as many arguments as the kernel has parameters, of their types and
            // sizes, and what pointers point to lies within live allocations: `cuda/launch.rs` sees
            // to that, and tests hold every launch against the kernels' declarations.
            unsafe {
                (api.cuLaunchKernel)(
                    function,
                    gx,
                    gy,
                    gz,
                    bx,
                    by,
                    bz,
                    shared,
                    stream,
                    params.as_mut_ptr(),
                    ptr::null_mut(),
                )
            }
        });
        launched.map_err(|error| DriverError {
            detail: format!("{name} with {geometry:?}: {}", error.detail),
            ..error
        })
    }

    fn has_products(&self) -> bool {
        self.has_products
    }

    fn product(&self, call: &Product) -> Result<(), DriverError> {
        self.enter()?;
        match &mut self.parts().products {
            Some(products) => products.run(call, self.stream),
            None => Err(DriverError {
                fault: Fault::Other,
                call: "cublasLtMatmul",
                detail: "cuBLASLt is not installed".into(),
            }),
        }
    }

    fn upload(&self, from: &[u8], to: Address) -> Result<(), DriverError> {
        self.enter()?;
        match &mut self.parts().staging {
            Some(staging) => staging.upload(from, to, self.stream),
            None => Ok(()),
        }
    }

    fn download(&self, from: Address, to: &mut [u8]) -> Result<(), DriverError> {
        self.enter()?;
        match &mut self.parts().staging {
            Some(staging) => staging.download(from, to, self.stream),
            None => Ok(()),
        }
    }

    fn copy(&self, from: Address, to: Address, bytes: u64) -> Result<(), DriverError> {
        self.call("cuMemcpyDtoDAsync", |api| {
            // SAFETY: the caller checked that both runs lie in live allocations.
            unsafe { (api.cuMemcpyDtoDAsync_v2)(to.0, from.0, bytes as usize, self.stream) }
        })
    }

    fn fill(&self, at: Address, byte: u8, bytes: u64) -> Result<(), DriverError> {
        self.call("cuMemsetD8Async", |api| {
            // SAFETY: the caller checked that the run lies in a live allocation.
            unsafe { (api.cuMemsetD8Async)(at.0, byte, bytes as usize, self.stream) }
        })
    }

    fn synchronize(&self) -> Result<(), DriverError> {
        self.call("cuStreamSynchronize", |api| {
            // SAFETY: the stream lives as long as `self`.
            unsafe { (api.cuStreamSynchronize)(self.stream) }
        })
    }

    fn begin_capture(&self) -> Result<(), DriverError> {
        self.call("cuStreamBeginCapture", |api| {
            // SAFETY: as above.
            unsafe { (api.cuStreamBeginCapture_v2)(self.stream, CAPTURE_OF_THREAD) }
        })
    }

    fn end_capture(&self) -> Result<Graph, DriverError> {
        let (mut graph, mut exec) = (ptr::null_mut(), ptr::null_mut());
        self.call("cuStreamEndCapture", |api| {
            // SAFETY: `graph` is a place for a handle.
            unsafe { (api.cuStreamEndCapture)(self.stream, &raw mut graph) }
        })?;
        let made = self.call("cuGraphInstantiate", |api| {
            // SAFETY: `exec` is a place for a handle, the graph was just captured.
            unsafe { (api.cuGraphInstantiateWithFlags)(&raw mut exec, graph, 0) }
        });
        self.call("cuGraphDestroy", |api| {
            // SAFETY: what can be launched was made of it and does not need it any more.
            unsafe { (api.cuGraphDestroy)(graph) }
        })?;
        made.map(|()| Graph(exec.addr() as u64))
    }

    fn launch_graph(&self, graph: Graph) -> Result<(), DriverError> {
        self.call("cuGraphLaunch", |api| {
            // SAFETY: the graph is of `end_capture` and was not freed.
            unsafe { (api.cuGraphLaunch)(handle(graph.0), self.stream) }
        })
    }

    fn free_graph(&self, graph: Graph) {
        let freed = self.call("cuGraphExecDestroy", |api| {
            // SAFETY: whoever frees it launches it no more; a launch under way is finished first.
            unsafe { (api.cuGraphExecDestroy)(handle(graph.0)) }
        });
        if let Err(error) = freed {
            tracing::debug!(%error, "free a graph");
        }
    }
}

impl Drop for Nvidia {
    fn drop(&mut self) {
        // What fails from here on fails because the device is lost, and is gone with it.
        let _ = self.enter();
        if !self.stream.is_null() {
            let _ = self.synchronize();
        }
        let parts = std::mem::take(&mut *self.parts());
        let Parts { staging, products, modules } = parts;
        drop((staging, products));
        // SAFETY: modules, stream and context are this driver's; nothing was left to run, and
        // whoever holds memory or graphs of it holds the driver too.
        unsafe {
            for module in modules {
                (self.api.cuModuleUnload)(module);
            }
            if !self.stream.is_null() {
                (self.api.cuStreamDestroy_v2)(self.stream);
            }
            (self.api.cuDevicePrimaryCtxRelease_v2)(self.device);
        }
    }
}

/// A handle that the cut knows as a number.
fn handle(number: u64) -> Handle {
    ptr::with_exposed_provenance_mut(number as usize)
}
