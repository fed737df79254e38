//! Memory that two processes of one host share, so that tensors between them need not be cut into
//! packets, encrypted and put together again.
//!
//! A [`Segment`] is its sender's: memory without a name (a memfd), gone with the last process that
//! has it mapped, however these end. The receiver opens it by way of `/proc`, which the kernel
//! allows to processes of the same user that see each other; so there is nothing to guess and
//! nothing to clean up. That it is the very memory that was offered is proven, not assumed: the
//! host must be the same and the process numbers those of the same namespace, the file must be
//! such memory, sealed so that it can never become shorter, and have the offered nonce inside.
//! Wherever one of this is not so, as between containers, there is a reason and no [`View`], and
//! tensors go over the network.
//!
//! A receiver only ever copies out of it. What is checked is the copy: until a moment ago somebody
//! else could write what was copied. [`line`] makes carriers of frames out of it.

pub mod line;

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    ptr,
    sync::atomic::{Ordering, fence},
};

use bytes::Bytes;
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};

use crate::wire::shared::SegmentOffer;

pub use line::{Ring, borrow, lend};

/// Memory that this process writes and another one reads.
#[derive(Debug)]
pub struct Segment {
    map: MmapRaw,
    /// For others to open; closed once they have, or have not.
    file: Option<File>,
    offer: SegmentOffer,
}

/// Memory that another process writes and this one reads.
#[derive(Debug)]
pub struct View {
    map: MmapRaw,
    slots: u32,
    slot_bytes: u32,
}

// === impl Segment ===

impl Segment {
    /// So many places of so many bytes; none of it takes memory before it is written.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(Ring { slots, slot_bytes }: Ring) -> io::Result<Self> {
        let host = this_host()?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(rustix::fs::memfd_create(NAME, flags)?);
        file.set_len(length(slots, slot_bytes))?;
        rustix::fs::fcntl_add_seals(&file, SEALS)?;
        let map = MmapOptions::new().map_raw(&file)?;
        let nonce = rand::random::<u128>();
        let number = u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?;
        let process = std::process::id();
        let offer = SegmentOffer { host, process, file: number, slots, slot_bytes, nonce };
        let mut segment = Self { map, file: Some(file), offer };
        segment.write(0, &nonce.to_le_bytes());
        Ok(segment)
    }

    /// What another process needs to know to read it.
    pub fn offer(&self) -> SegmentOffer {
        self.offer
    }

    /// Nobody opens it any more.
    pub fn close(&mut self) {
        self.file = None;
    }

    /// Writes into a place. What was there must have been taken, or its reader takes this.
    ///
    /// # Panics
    /// If there is no such place or it is too small: callers know both.
    pub fn put(&mut self, slot: u32, bytes: &[u8]) {
        assert!(slot < self.offer.slots && bytes.len() <= self.offer.slot_bytes as usize);
        self.write(start(slot, self.offer.slot_bytes), bytes);
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        assert!(at.checked_add(bytes.len()).is_some_and(|end| end <= self.map.len()));
        // SAFETY: the mapping is writable and has these bytes, as was just checked; it lives as
        // long as `self`, and the seals keep the file as long as it is, so that every page is
        // there. `bytes` is memory of this process that the mapping, which nobody has a reference
        // into, cannot overlap. Another process may read meanwhile: it copies, and checks the copy.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), self.map.as_mut_ptr().add(at), bytes.len());
        }
        // Whoever is told of these bytes is to see them.
        fence(Ordering::Release);
    }
}

// === impl View ===

impl View {
    /// Opens what was offered.
    ///
    /// # Errors
    /// Why it is not the memory that was offered, or cannot be opened from here.
    pub fn open(offer: &SegmentOffer) -> Result<Self, String> {
        let said = |error: io::Error| error.to_string();
        if this_host().map_err(said)? != offer.host {
            return Err("it is another host, or has process numbers of its own".into());
        }
        let path = format!("/proc/{}/fd/{}", offer.process, offer.file);
        // Opening what is no memory might do something.
        let name = fs::read_link(&path).map_err(said)?;
        if name.to_str() != Some(&format!("/memfd:{NAME} (deleted)")) {
            return Err(format!("{path} is {}", name.display()));
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = rustix::fs::open(&path, flags, Mode::empty());
        let file = File::from(file.map_err(io::Error::from).map_err(said)?);
        let seals = rustix::fs::fcntl_get_seals(&file).map_err(io::Error::from).map_err(said)?;
        if !seals.contains(SEALS) {
            return Err("it could become shorter while it is read".into());
        }
        let (is, told) =
            (file.metadata().map_err(said)?.len(), length(offer.slots, offer.slot_bytes));
        if is != told {
            return Err(format!("it has {is} bytes and not {told}"));
        }
        let map = MmapOptions::new().map_raw_read_only(&file).map_err(said)?;
        let view = Self { map, slots: offer.slots, slot_bytes: offer.slot_bytes };
        if view.read(0, NONCE_BYTES)[..] != offer.nonce.to_le_bytes() {
            return Err("its nonce is another".into());
        }
        Ok(view)
    }

    /// Places of its ring.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// A copy of what is in a place; `None` if there is no such place or it is not as long.
    pub fn copy(&self, slot: u32, length: u32) -> Option<Bytes> {
        (slot < self.slots && length <= self.slot_bytes)
            .then(|| self.read(start(slot, self.slot_bytes), length as usize))
    }

    fn read(&self, at: usize, length: usize) -> Bytes {
        assert!(at.checked_add(length).is_some_and(|end| end <= self.map.len()));
        fence(Ordering::Acquire);
        let mut copy = Vec::with_capacity(length);
        // SAFETY: the mapping is readable and has these bytes, as was just checked; it lives as
        // long as `self`, and the file's seals were checked, so that nobody can take its pages
        // away. The new vector has room for as many and overlaps nothing; after the copy that many
        // of its bytes are written. No reference into the mapping is ever made, because its owner
        // may write meanwhile: then the copy is of no use, which is found by whoever checks it.
        unsafe {
            ptr::copy_nonoverlapping(self.map.as_ptr().add(at), copy.as_mut_ptr(), length);
            copy.set_len(length);
        }
        Bytes::from(copy)
    }
}

/// Names this host since it was started, together with the namespace of its process numbers: what
/// `/proc` says of a process means the same to all who have this in common.
fn this_host() -> io::Result<u128> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&fs::read("/proc/sys/kernel/random/boot_id")?);
    hasher.update(fs::read_link("/proc/self/ns/pid")?.as_os_str().as_encoded_bytes());
    let mut name = [0; 16];
    hasher.finalize_xof().fill(&mut name);
    Ok(u128::from_le_bytes(name))
}

/// Bytes of a segment: the nonce has a page of its own.
fn length(slots: u32, slot_bytes: u32) -> u64 {
    PAGE as u64 + u64::from(slots) * u64::from(slot_bytes)
}

fn start(slot: u32, slot_bytes: u32) -> usize {
    PAGE + slot as usize * slot_bytes as usize
}

/// As `/proc` shows it.
const NAME: &str = "troupe-tensors";
/// It stays as long as it is: reading what was cut off would end the reader.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);
const PAGE: usize = 4096;
const NONCE_BYTES: usize = 16;

#[cfg(test)]
mod tests;
