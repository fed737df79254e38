//! Makes the entry points of one instruction set: each takes on the set's features, and the
//! generic kernels are inlined into it.

/// `entry_points!(Simd type, attribute)`.
macro_rules! entry_points {
    ($simd:ty, $(#[$feature:meta])?) => {
        /// [`crate::cpu::simd::product::task`].
        ///
        /// # Safety
        /// The machine must have this module's features.
        $(#[$feature])?
        pub(crate) unsafe fn product(job: &crate::cpu::simd::product::Product<'_>, task: usize) {
            // SAFETY: features as promised by the caller.
            unsafe { crate::cpu::simd::product::task::<$simd>(job, task) }
        }

        /// [`crate::cpu::simd::pairs::rows_of_panel`] with widened pairs.
        ///
        /// # Safety
        /// The machine must have this module's features.
        $(#[$feature])?
        pub(crate) unsafe fn pairs(
            job: &crate::cpu::simd::product::Product<'_>,
            weights: &[u32],
            task: usize,
        ) {
            use crate::cpu::simd::pairs::rows_of_panel;
            let (panel, first) = job.place(task);
            // SAFETY: features as promised by the caller.
            unsafe { rows_of_panel::<$simd>(job, weights, panel, first) }
        }

        /// [`crate::cpu::simd::pairs::spread`] for widened pairs.
        ///
        /// # Safety
        /// The machine must have this module's features.
        $(#[$feature])?
        pub(crate) unsafe fn spread_pairs(x: &[f32], width: usize, out: &mut [u32]) {
            use crate::cpu::{pairs::PairOrder, simd::pairs::spread};
            spread::<true>(PairOrder::Natural, x, width, out);
        }

        /// [`crate::cpu::simd::pairs::narrow_rows`].
        ///
        /// # Safety
        /// The machine must have this module's features.
        $(#[$feature])?
        #[allow(dead_code, reason = "tiles take rows, and only x86-64 has tiles")]
        pub(crate) unsafe fn narrow_rows(x: &[f32], width: usize, out: &mut [u32]) {
            crate::cpu::simd::pairs::narrow_rows(x, width, out);
        }

        /// [`crate::cpu::simd::integers::spread`].
        ///
        /// # Safety
        /// The machine must have this module's features.
        $(#[$feature])?
        pub(crate) unsafe fn spread_integers(
            x: &[f32],
            peaks: &[f32],
            width: usize,
            out: &mut [u32],
        ) {
            crate::cpu::simd::integers::spread(x, peaks, width, out);
        }

        /// [`crate::cpu::simd::integers::quantize_rows`].
        ///
        /// # Safety
        /// The machine must have this module's features.
        $(#[$feature])?
        #[allow(dead_code, reason = "tiles take rows, and only x86-64 has tiles")]
        pub(crate) unsafe fn quantize_rows(
            x: &[f32],
            peaks: &[f32],
            width: usize,
            out: &mut [u32],
        ) {
            crate::cpu::simd::integers::quantize_rows(x, peaks, width, out);
        }

        /// [`crate::cpu::simd::attention::task`].
        ///
        /// # Safety
        /// The machine must have this module's features.
        $(#[$feature])?
        pub(crate) unsafe fn attention(
            job: &crate::cpu::simd::attention::Attention<'_>,
            task: usize,
        ) {
            // SAFETY: features as promised by the caller.
            unsafe { crate::cpu::simd::attention::task::<$simd>(job, task) }
        }

        /// [`crate::cpu::simd::probe::multiply_add`].
        ///
        /// # Safety
        /// The machine must have this module's features.
        $(#[$feature])?
        pub(crate) unsafe fn probe_multiply_add(rounds: usize) -> (f32, usize) {
            // SAFETY: features as promised by the caller.
            unsafe { crate::cpu::simd::probe::multiply_add::<$simd>(rounds) }
        }

        /// [`crate::cpu::simd::probe::read`].
        ///
        /// # Safety
        /// The machine must have this module's features.
        $(#[$feature])?
        pub(crate) unsafe fn probe_read(memory: &[f32]) -> f32 {
            // SAFETY: features as promised by the caller.
            unsafe { crate::cpu::simd::probe::read::<$simd>(memory) }
        }

        /// [`crate::cpu::simd::rows::sum_of_squares`].
        ///
        /// # Safety
        /// The machine must have this module's features.
        $(#[$feature])?
        pub(crate) unsafe fn sum_of_squares(x: &[f32]) -> f32 {
            // SAFETY: features as promised by the caller.
            unsafe { crate::cpu::simd::rows::sum_of_squares::<$simd>(x) }
        }

        /// [`crate::cpu::simd::rows::silu_mul`].
        ///
        /// # Safety
        /// The machine must have this module's features.
        $(#[$feature])?
        pub(crate) unsafe fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
            // SAFETY: features as promised by the caller.
            unsafe { crate::cpu::simd::rows::silu_mul::<$simd>(gate, up, out) }
        }

        /// [`crate::cpu::simd::rows::gelu_mul`].
        ///
        /// # Safety
        /// The machine must have this module's features.
        $(#[$feature])?
        pub(crate) unsafe fn gelu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
            // SAFETY: features as promised by the caller.
            unsafe { crate::cpu::simd::rows::gelu_mul::<$simd>(gate, up, out) }
        }

        /// [`crate::cpu::simd::rows::gelu`].
        ///
        /// # Safety
        /// The machine must have this module's features.
        $(#[$feature])?
        pub(crate) unsafe fn gelu(values: &mut [f32]) {
            // SAFETY: features as promised by the caller.
            unsafe { crate::cpu::simd::rows::gelu::<$simd>(values) }
        }

        /// [`crate::cpu::simd::latent::task`].
        ///
        /// # Safety
        /// The machine must have this module's features.
        $(#[$feature])?
        pub(crate) unsafe fn latent(job: &crate::cpu::simd::latent::Latent<'_>, task: usize) {
            // SAFETY: features as promised by the caller.
            unsafe { crate::cpu::simd::latent::task::<$simd>(job, task) }
        }
    };
}

pub(crate) use entry_points;
