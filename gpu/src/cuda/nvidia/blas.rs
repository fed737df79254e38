//! Dense products by cuBLASLt, where that library is installed ("cuBLAS", NVIDIA's reference).
//!
//! The library is column-major: a row-major `x [m][k]` is its matrix of `k x m`, so that
//! `out = x * weight^T` is `out' = weight'^T * x'` there. For each shape it proposes a kernel,
//! which is kept: steps have few shapes, because rows go up a ladder.

use std::{collections::BTreeMap, ffi::c_void, path::PathBuf, ptr, sync::Arc};

use super::{
    api::{Api, Handle},
    library::functions,
};
use crate::cuda::driver::{DriverError, Element, Fault, Product};

functions! {
    /// The library of products.
    struct BlasApi returns i32 {
        fn cublasLtCreate(handle: *mut Handle);
        fn cublasLtDestroy(handle: Handle);
        fn cublasLtMatmulDescCreate(desc: *mut Handle, compute: i32, scale: i32);
        fn cublasLtMatmulDescDestroy(desc: Handle);
        fn cublasLtMatmulDescSetAttribute(
            desc: Handle,
            attribute: i32,
            value: *const c_void,
            bytes: usize,
        );
        fn cublasLtMatrixLayoutCreate(
            layout: *mut Handle,
            element: i32,
            rows: u64,
            columns: u64,
            stride: i64,
        );
        fn cublasLtMatrixLayoutDestroy(layout: Handle);
        fn cublasLtMatmulPreferenceCreate(preference: *mut Handle);
        fn cublasLtMatmulPreferenceDestroy(preference: Handle);
        fn cublasLtMatmulPreferenceSetAttribute(
            preference: Handle,
            attribute: i32,
            value: *const c_void,
            bytes: usize,
        );
        fn cublasLtMatmulAlgoGetHeuristic(
            handle: Handle,
            desc: Handle,
            a: Handle,
            b: Handle,
            c: Handle,
            d: Handle,
            preference: Handle,
            asked: i32,
            found: *mut Found,
            count: *mut i32,
        );
        fn cublasLtMatmul(
            handle: Handle,
            desc: Handle,
            alpha: *const c_void,
            a: *const c_void,
            a_layout: Handle,
            b: *const c_void,
            b_layout: Handle,
            beta: *const c_void,
            c: *const c_void,
            c_layout: Handle,
            d: *mut c_void,
            d_layout: Handle,
            algorithm: *const [u64; 8],
            workspace: *mut c_void,
            workspace_bytes: usize,
            stream: Handle,
        );
    }
}

/// What the library proposes: `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Found {
    algorithm: [u64; 8],
    workspace: usize,
    state: i32,
    waves: f32,
    reserved: [i32; 4],
}

/// The library, with working memory on the device.
#[derive(Debug)]
pub(super) struct Blas {
    api: BlasApi,
    driver: Arc<Api>,
    handle: Handle,
    workspace: u64,
    plans: BTreeMap<Shape, Plan>,
}

// SAFETY: handle and plans may be used from any thread, one at a time, as `&mut` sees to.
unsafe impl Send for Blas {}

type Shape = (u32, u32, u32, u8, u8);

#[derive(Debug)]
struct Plan {
    desc: Handle,
    /// Of the weights, the input and the output.
    layouts: [Handle; 3],
    algorithm: [u64; 8],
}

impl Blas {
    /// The library, in the current context; `None` if it is not installed.
    pub(super) fn open(driver: &Arc<Api>) -> Result<Option<Self>, DriverError> {
        let api = match BlasApi::open(&NAMES.map(PathBuf::from)) {
            Ok(api) => api,
            Err(error) => {
                tracing::warn!(
                    %error,
                    "dense products go without cuBLASLt, by kernels that are slower at many rows"
                );
                return Ok(None);
            }
        };
        let mut workspace = 0;
        // SAFETY: `workspace` is a place for a number.
        let code = unsafe { (driver.cuMemAlloc_v2)(&raw mut workspace, WORKSPACE_BYTES) };
        driver.check("cuMemAlloc", code)?;
        let mut blas = Self {
            api,
            driver: Arc::clone(driver),
            handle: ptr::null_mut(),
            workspace,
            plans: BTreeMap::new(),
        };
        // SAFETY: the handle is a place for one; a context is current.
        let code = unsafe { (blas.api.cublasLtCreate)(&raw mut blas.handle) };
        check("cublasLtCreate", code)?;
        Ok(Some(blas))
    }

    /// Enqueues a product.
    pub(super) fn run(&mut self, call: &Product, stream: Handle) -> Result<(), DriverError> {
        let shape = (call.m, call.n, call.k, call.input as u8, call.output as u8);
        if !self.plans.contains_key(&shape) {
            if self.plans.len() == MOST_PLANS {
                self.forget();
            }
            let plan = self.plan(call)?;
            self.plans.insert(shape, plan);
        }
        // It was put there if it was not there.
        let Some(plan) = self.plans.get(&shape) else { return Ok(()) };
        let (alpha, beta) = (1.0f32, if call.accumulate { 1.0f32 } else { 0.0 });
        let at = |address: u64| ptr::with_exposed_provenance_mut::<c_void>(address as usize);
        let [weight, x, out] = plan.layouts;
        // SAFETY: the layouts are those of the regions, which the caller checked; the algorithm is
        // what the library proposed for them, and needs no more than the workspace; alpha and beta
        // are read before the call returns.
        let code = unsafe {
            (self.api.cublasLtMatmul)(
                self.handle,
                plan.desc,
                (&raw const alpha).cast(),
                at(call.weight.address.0),
                weight,
                at(call.x.address.0),
                x,
                (&raw const beta).cast(),
                at(call.out.address.0),
                out,
                at(call.out.address.0),
                out,
                &raw const plan.algorithm,
                at(self.workspace),
                WORKSPACE_BYTES,
                stream,
            )
        };
        check("cublasLtMatmul", code)
    }

    fn plan(&self, call: &Product) -> Result<Plan, DriverError> {
        let mut plan =
            Plan { desc: ptr::null_mut(), layouts: [ptr::null_mut(); 3], algorithm: [0; 8] };
        let filled = self.fill(&mut plan, call);
        if filled.is_err() {
            self.drop_plan(&plan);
        }
        filled.map(|()| plan)
    }

    fn fill(&self, plan: &mut Plan, call: &Product) -> Result<(), DriverError> {
        let api = &self.api;
        // SAFETY: `desc` is a place for a handle.
        let code = unsafe {
            (api.cublasLtMatmulDescCreate)(&raw mut plan.desc, COMPUTE_F32, data_type(Element::F32))
        };
        check("cublasLtMatmulDescCreate", code)?;
        let transposed = 1i32;
        // SAFETY: the attribute is an `int32_t`.
        let code = unsafe {
            (api.cublasLtMatmulDescSetAttribute)(
                plan.desc,
                TRANSPOSE_A,
                (&raw const transposed).cast(),
                size_of::<i32>(),
            )
        };
        check("cublasLtMatmulDescSetAttribute", code)?;
        let shapes = [
            (call.input, call.k, call.n),
            (call.input, call.k, call.m),
            (call.output, call.n, call.m),
        ];
        for (layout, (element, rows, columns)) in plan.layouts.iter_mut().zip(shapes) {
            // SAFETY: `layout` is a place for a handle.
            let code = unsafe {
                (api.cublasLtMatrixLayoutCreate)(
                    layout,
                    data_type(element),
                    rows.into(),
                    columns.into(),
                    rows.into(),
                )
            };
            check("cublasLtMatrixLayoutCreate", code)?;
        }
        let mut preference = ptr::null_mut();
        // SAFETY: `preference` is a place for a handle.
        let code = unsafe { (api.cublasLtMatmulPreferenceCreate)(&raw mut preference) };
        check("cublasLtMatmulPreferenceCreate", code)?;
        let proposed = self.propose(plan, preference);
        // SAFETY: it was just made, and nobody else has it.
        unsafe { (api.cublasLtMatmulPreferenceDestroy)(preference) };
        match proposed? {
            Some(algorithm) => {
                plan.algorithm = algorithm;
                Ok(())
            }
            None => Err(DriverError {
                fault: Fault::Other,
                call: "cublasLtMatmulAlgoGetHeuristic",
                detail: format!(
                    "no kernel for {} x {} x {} of {:?} to {:?}",
                    call.m, call.n, call.k, call.input, call.output
                ),
            }),
        }
    }

    fn propose(&self, plan: &Plan, preference: Handle) -> Result<Option<[u64; 8]>, DriverError> {
        let (api, bytes) = (&self.api, WORKSPACE_BYTES);
        // SAFETY: the attribute is a `size_t`.
        let code = unsafe {
            (api.cublasLtMatmulPreferenceSetAttribute)(
                preference,
                MOST_WORKSPACE,
                (&raw const bytes).cast(),
                size_of::<usize>(),
            )
        };
        check("cublasLtMatmulPreferenceSetAttribute", code)?;
        let (mut found, mut count) = (Found::default(), 0);
        let [weight, x, out] = plan.layouts;
        // SAFETY: one result is asked for, and there is room for one.
        let code = unsafe {
            (api.cublasLtMatmulAlgoGetHeuristic)(
                self.handle,
                plan.desc,
                weight,
                x,
                out,
                out,
                preference,
                1,
                &raw mut found,
                &raw mut count,
            )
        };
        if code == NOT_SUPPORTED {
            return Ok(None);
        }
        check("cublasLtMatmulAlgoGetHeuristic", code)?;
        Ok((count > 0 && found.state == 0).then_some(found.algorithm))
    }

    fn forget(&mut self) {
        let plans = std::mem::take(&mut self.plans);
        plans.values().for_each(|plan| self.drop_plan(plan));
    }

    fn drop_plan(&self, plan: &Plan) {
        // SAFETY: made by this library and used by nobody else; what was enqueued has its own copy.
        unsafe {
            for layout in plan.layouts.into_iter().filter(|layout| !layout.is_null()) {
                (self.api.cublasLtMatrixLayoutDestroy)(layout);
            }
            if !plan.desc.is_null() {
                (self.api.cublasLtMatmulDescDestroy)(plan.desc);
            }
        }
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        self.forget();
        // SAFETY: handle and workspace are this library's; the stream was waited for before.
        unsafe {
            if !self.handle.is_null() {
                (self.api.cublasLtDestroy)(self.handle);
            }
            (self.driver.cuMemFree_v2)(self.workspace);
        }
    }
}

fn check(call: &'static str, code: i32) -> Result<(), DriverError> {
    if code == 0 {
        return Ok(());
    }
    let fault = match code {
        ALLOCATION_FAILED => Fault::OutOfMemory,
        EXECUTION_FAILED => Fault::Lost,
        _ => Fault::Other,
    };
    Err(DriverError { fault, call, detail: format!("cuBLAS status {code}") })
}

/// The library's number for an element type.
fn data_type(element: Element) -> i32 {
    match element {
        Element::F32 => 0,
        Element::F16 => 2,
        Element::Bf16 => 14,
    }
}

const NAMES: [&str; 3] = ["libcublasLt.so.12", "libcublasLt.so.13", "libcublasLt.so"];
/// Working memory, as much as NVIDIA advises for devices of capability 9.0.
pub(super) const WORKSPACE_BYTES: usize = 32 << 20;
/// More shapes than a step's ladder has.
const MOST_PLANS: usize = 1024;
const COMPUTE_F32: i32 = 68;
const TRANSPOSE_A: i32 = 3;
const MOST_WORKSPACE: i32 = 1;
const ALLOCATION_FAILED: i32 = 3;
const EXECUTION_FAILED: i32 = 13;
const NOT_SUPPORTED: i32 = 15;
