//! Page-locked memory that copies between host and device go through: only from there can the
//! device copy while the host goes on.
//!
//! A ring of pieces. An upload fills the next piece and enqueues its copy; the piece is used again
//! only when the event behind that copy has come. A download enqueues copies into as many pieces as
//! there are, waits once, and empties them.

use std::{ffi::c_void, ptr, slice, sync::Arc};

use super::api::{Api, EVENT_WITHOUT_TIME, Handle};
use crate::cuda::driver::{Address, DriverError};

/// The ring.
#[derive(Debug)]
pub(super) struct Staging {
    api: Arc<Api>,
    pieces: Vec<Piece>,
    /// The piece that is next.
    next: usize,
}

#[derive(Debug)]
struct Piece {
    /// `PIECE_BYTES` bytes of page-locked memory.
    memory: *mut c_void,
    /// Behind the last copy from here.
    copied: Handle,
    /// Whether there was one.
    used: bool,
}

// SAFETY: the pointers are to memory and an event of the driver's, which may be used from any
// thread, and only by whoever has the ring as `&mut`.
unsafe impl Send for Staging {}

impl Staging {
    /// A ring in the current context.
    pub(super) fn new(api: &Arc<Api>) -> Result<Self, DriverError> {
        let mut ring = Self { api: Arc::clone(api), pieces: Vec::new(), next: 0 };
        for _ in 0..PIECES {
            let (mut memory, mut copied) = (ptr::null_mut(), ptr::null_mut());
            // SAFETY: `memory` is a place for a pointer.
            let code = unsafe { (api.cuMemHostAlloc)(&raw mut memory, PIECE_BYTES, 0) };
            api.check("cuMemHostAlloc", code)?;
            // SAFETY: the memory was just made and is nobody else's.
            unsafe { ptr::write_bytes(memory.cast::<u8>(), 0, PIECE_BYTES) };
            // SAFETY: `copied` is a place for a handle.
            let code = unsafe { (api.cuEventCreate)(&raw mut copied, EVENT_WITHOUT_TIME) };
            // Dropped with the ring if the event could not be made.
            ring.pieces.push(Piece { memory, copied, used: false });
            api.check("cuEventCreate", code)?;
        }
        Ok(ring)
    }

    /// Enqueues a copy of all of `from`.
    pub(super) fn upload(
        &mut self,
        from: &[u8],
        to: Address,
        stream: Handle,
    ) -> Result<(), DriverError> {
        for (number, bytes) in from.chunks(PIECE_BYTES).enumerate() {
            let api = &self.api;
            let piece = &mut self.pieces[self.next];
            if piece.used {
                // SAFETY: the event is the ring's own.
                let code = unsafe { (api.cuEventSynchronize)(piece.copied) };
                api.check("cuEventSynchronize", code)?;
            }
            piece.bytes()[..bytes.len()].copy_from_slice(bytes);
            let to = to.0 + (number * PIECE_BYTES) as u64;
            // SAFETY: the piece is page-locked, holds so many bytes and is not written to before
            // the event behind this copy has come; the caller checked that `to` has room for them.
            let code = unsafe { (api.cuMemcpyHtoDAsync_v2)(to, piece.memory, bytes.len(), stream) };
            api.check("cuMemcpyHtoDAsync", code)?;
            // SAFETY: event and stream are of one context and live.
            let code = unsafe { (api.cuEventRecord)(piece.copied, stream) };
            api.check("cuEventRecord", code)?;
            piece.used = true;
            self.next = (self.next + 1) % self.pieces.len();
        }
        Ok(())
    }

    /// Waits for all that was enqueued, and copies.
    pub(super) fn download(
        &mut self,
        from: Address,
        to: &mut [u8],
        stream: Handle,
    ) -> Result<(), DriverError> {
        let api = Arc::clone(&self.api);
        let wait = || {
            // SAFETY: the stream lives.
            api.check("cuStreamSynchronize", unsafe { (api.cuStreamSynchronize)(stream) })
        };
        if to.is_empty() {
            return wait();
        }
        // Uploads from the pieces come before in the stream, so they are done when this is.
        let at_once = PIECE_BYTES * self.pieces.len();
        for (turn, bytes) in to.chunks_mut(at_once).enumerate() {
            for (number, bytes) in bytes.chunks(PIECE_BYTES).enumerate() {
                let from = from.0 + (turn * at_once + number * PIECE_BYTES) as u64;
                let memory = self.pieces[number].memory;
                // SAFETY: the piece has room for so many bytes and is not read before the stream
                // was waited for; the caller checked that there are so many at `from`.
                let code = unsafe { (api.cuMemcpyDtoHAsync_v2)(memory, from, bytes.len(), stream) };
                api.check("cuMemcpyDtoHAsync", code)?;
            }
            wait()?;
            for (piece, bytes) in self.pieces.iter_mut().zip(bytes.chunks_mut(PIECE_BYTES)) {
                bytes.copy_from_slice(&piece.bytes()[..bytes.len()]);
                piece.used = false;
            }
        }
        Ok(())
    }
}

impl Piece {
    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: so many bytes of the ring's own, set when they were made; no copy from or to them
        // is under way, as the callers see to.
        unsafe { slice::from_raw_parts_mut(self.memory.cast(), PIECE_BYTES) }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        for piece in &self.pieces {
            // SAFETY: made by the ring and used by nobody else; the stream was waited for before.
            // What fails here fails because the context is gone, and the memory with it.
            unsafe {
                (self.api.cuMemFreeHost)(piece.memory);
                if !piece.copied.is_null() {
                    (self.api.cuEventDestroy_v2)(piece.copied);
                }
            }
        }
    }
}

/// Large enough that a copy's start costs little beside it.
const PIECE_BYTES: usize = 1 << 20;
/// Enough that one is filled while others are on their way.
const PIECES: usize = 8;
