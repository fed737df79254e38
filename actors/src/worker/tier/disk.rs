//! Blocks on a rank's disk: one file, in which every slot has its place.
//!
//! Reading and writing happen on a thread of their own, in the order in which they were asked for:
//! what is written to a slot is there for whoever asks next. A thread that does not keep up is
//! given nothing more to write; what it was not given is not there. So are blocks whose checksum
//! does not fit. A disk that fails is left alone from then on, and nobody is harmed.
//!
//! The file has no name while it is used: it is gone with the process.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread,
};

use troupe_runtime::id::{Coordinate, Digest};

/// Says what was read for whom: a load, and the number of its piece.
pub type Ticket = (u128, u64);

/// The way to a disk.
#[derive(Debug)]
pub struct Disk {
    lane: Lane,
}

#[derive(Debug)]
enum Lane {
    /// A thread does it.
    Thread(SyncSender<Job>, Receiver<Answer>),
    /// It is done at once, for tests.
    Here(Box<Shop>, Vec<Answer>),
}

#[derive(Debug)]
enum Job {
    Write((u32, u32), u128, Vec<u8>),
    Read((u32, u32), u128, Ticket),
}

type Answer = (Ticket, Result<Vec<u8>, String>);

/// The file, and what is in it.
#[derive(Debug)]
struct Shop {
    file: Option<File>,
    /// Bytes of a slot of each KV group. Slots of one number lie side by side, so that the file
    /// need not know how many there are.
    sizes: Vec<u64>,
    held: BTreeMap<(u32, u32), Held>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    key: u128,
    bytes: usize,
    sum: Digest,
}

// === impl Disk ===

impl Disk {
    /// A file of this rank in a folder, which is made if there is none; `sizes` are the bytes of a
    /// block of each KV group.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(folder: &Path, rank: Coordinate, sizes: Vec<u64>) -> io::Result<Self> {
        let mut shop = Shop::open(folder, rank, sizes)?;
        let (jobs, todo) = sync_channel(MOST_JOBS);
        // Whoever asked takes them between steps; until then it waits.
        let (answers, done) = sync_channel(MOST_JOBS);
        thread::Builder::new().name(format!("kv-disk-{rank}")).spawn(move || {
            // It ends when the rank does.
            while let Ok(job) = todo.recv() {
                if let Some(answer) = shop.take(job)
                    && answers.send(answer).is_err()
                {
                    return;
                }
            }
        })?;
        Ok(Self { lane: Lane::Thread(jobs, done) })
    }

    /// The same without a thread: what is asked for is done at once, and never in between.
    ///
    /// # Errors
    /// What the system says.
    pub fn open_here(folder: &Path, rank: Coordinate, sizes: Vec<u64>) -> io::Result<Self> {
        let shop = Box::new(Shop::open(folder, rank, sizes)?);
        Ok(Self { lane: Lane::Here(shop, Vec::new()) })
    }

    /// Writes a block, unless too much is left to write.
    pub fn write(&mut self, slot: (u32, u32), key: u128, bytes: Vec<u8>) {
        self.ask(Job::Write(slot, key, bytes));
    }

    /// Has a block read; false if too much is left to do.
    pub fn read(&mut self, slot: (u32, u32), key: u128, ticket: Ticket) -> bool {
        self.ask(Job::Read(slot, key, ticket))
    }

    /// What has been read since this was last asked.
    pub fn read_so_far(&mut self) -> Vec<Answer> {
        match &mut self.lane {
            Lane::Thread(_, done) => done.try_iter().collect(),
            Lane::Here(_, done) => std::mem::take(done),
        }
    }

    fn ask(&mut self, job: Job) -> bool {
        match &mut self.lane {
            Lane::Thread(jobs, _) => match jobs.try_send(job) {
                Ok(()) => true,
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
            },
            Lane::Here(shop, done) => {
                done.extend(shop.take(job));
                true
            }
        }
    }
}

// === impl Shop ===

impl Shop {
    fn open(folder: &Path, rank: Coordinate, sizes: Vec<u64>) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        // Others may be about to take theirs, and one that died meanwhile has left its own.
        let free = (0..MOST_NAMES).find_map(|number| {
            let name = format!("kv-{rank}-{number}.blocks").replace('/', "-");
            let path = folder.join(name);
            match options.open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
                opened => Some(opened.map(|file| (file, path))),
            }
        });
        let (file, path) = free.unwrap_or_else(|| Err(io::ErrorKind::AlreadyExists.into()))?;
        // What is left of it when the process is gone is nothing that anybody could use.
        fs::remove_file(&path)?;
        Ok(Self { file: Some(file), sizes, held: BTreeMap::new() })
    }

    fn take(&mut self, job: Job) -> Option<Answer> {
        match job {
            Job::Write(slot, key, bytes) => {
                self.held.remove(&slot);
                if let Err(error) = self.write(slot, key, &bytes) {
                    tracing::warn!(%error, "the disk takes no KV blocks any more");
                    (self.file, self.held) = (None, BTreeMap::new());
                }
                None
            }
            Job::Read(slot, key, ticket) => Some((ticket, self.read(slot, key))),
        }
    }

    fn write(&mut self, slot: (u32, u32), key: u128, bytes: &[u8]) -> io::Result<()> {
        let (Some(file), Some(at)) = (&self.file, self.place(slot)) else { return Ok(()) };
        if bytes.len() as u64 > self.sizes[slot.0 as usize] {
            return Ok(());
        }
        file.write_all_at(bytes, at)?;
        let held = Held { key, bytes: bytes.len(), sum: Digest::of(bytes) };
        self.held.insert(slot, held);
        Ok(())
    }

    fn read(&mut self, slot: (u32, u32), key: u128) -> Result<Vec<u8>, String> {
        let held = self.held.get(&slot).filter(|held| held.key == key).copied();
        let (Some(held), Some(file), Some(at)) = (held, &self.file, self.place(slot)) else {
            return Err(format!("slot {} is not written", slot.1));
        };
        let mut bytes = vec![0; held.bytes];
        file.read_exact_at(&mut bytes, at).map_err(|error| error.to_string())?;
        match Digest::of(&bytes) == held.sum {
            true => Ok(bytes),
            false => {
                self.held.remove(&slot);
                Err(format!("slot {} is not as it was written", slot.1))
            }
        }
    }

    /// Where a slot begins: each row has one slot of every group.
    fn place(&self, (group, slot): (u32, u32)) -> Option<u64> {
        let before = self.sizes.get(..group as usize)?.iter().sum::<u64>();
        self.sizes.get(group as usize)?;
        let row = self.sizes.iter().sum::<u64>().checked_mul(slot.into())?;
        row.checked_add(before)
    }
}

/// Blocks that may wait to be written or read: as much memory as that may be taken by what is on
/// its way.
const MOST_JOBS: usize = 64;
/// Names that are tried for a file.
const MOST_NAMES: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    const RANK: Coordinate = Coordinate { dp: 0, stage: 0, tp: 1 };

    fn read(disk: &mut Disk, slot: (u32, u32), key: u128) -> Result<Vec<u8>, String> {
        assert!(disk.read(slot, key, (1, 2)));
        loop {
            if let Some((ticket, read)) = disk.read_so_far().pop() {
                assert_eq!(ticket, (1, 2));
                return read;
            }
            thread::yield_now();
        }
    }

    #[test]
    fn what_is_written_is_there_until_its_slot_is_used_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("made");
        for mut disk in [
            Disk::open(&folder, RANK, vec![4, 2]).expect("a disk"),
            Disk::open_here(&folder, RANK, vec![4, 2]).expect("a disk"),
        ] {
            disk.write((0, 0), 7, vec![1, 2, 3, 4]);
            disk.write((1, 0), 8, vec![5, 6]);
            disk.write((0, 1), 9, vec![7, 8, 9, 10]);
            assert_eq!(read(&mut disk, (0, 0), 7), Ok(vec![1, 2, 3, 4]));
            assert_eq!(read(&mut disk, (1, 0), 8), Ok(vec![5, 6]));
            assert_eq!(read(&mut disk, (0, 1), 9), Ok(vec![7, 8, 9, 10]));
            disk.write((0, 0), 11, vec![0; 4]);
            assert_eq!(read(&mut disk, (0, 0), 11), Ok(vec![0; 4]));
            for (slot, key) in [((0, 0), 7), ((1, 1), 8), ((2, 0), 7), ((0, u32::MAX), 7)] {
                assert!(read(&mut disk, slot, key).is_err(), "{slot:?} {key}");
            }
        }
    }

    #[test]
    fn what_is_not_as_it_was_written_is_not_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut shop = Shop::open(folder.path(), RANK, vec![4]).expect("a disk");
        shop.take(Job::Write((0, 2), 7, vec![1, 2, 3, 4]));
        shop.file.as_ref().expect("it is open").write_all_at(&[9], 9).expect("a byte");
        assert!(shop.read((0, 2), 7).is_err_and(|why| why.contains("not as it was written")));
        assert!(shop.read((0, 2), 7).is_err_and(|why| why.contains("not written")));
    }

    #[test]
    fn a_disk_that_takes_nothing_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut shop = Shop::open(folder.path(), RANK, vec![4]).expect("a disk");
        shop.take(Job::Write((0, 0), 7, vec![1, 2, 3, 4]));
        // As a full one, it refuses.
        let name = folder.path().join("read only");
        fs::write(&name, [0; 8]).expect("a file");
        shop.file = Some(File::open(&name).expect("a file"));
        shop.take(Job::Write((0, 1), 8, vec![1, 2, 3, 4]));
        assert!(shop.file.is_none());
        assert!(shop.read((0, 0), 7).is_err() && shop.read((0, 1), 8).is_err());
        shop.take(Job::Write((0, 1), 8, vec![1, 2, 3, 4]));
        assert!(shop.read((0, 1), 8).is_err());
    }
}
