//! What a rank is at, kept where it outlives the rank's process.
//!
//! When a process dies by its own fault, one of the requests in its step may be why, and the
//! process can no longer say which those were. So each rank writes the requests of its step down
//! before it executes it, if they are others than before: in a file, a single write of a few
//! kilobytes into the page cache at most. Who reaps the process reads them ([`Records::read`]).

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use troupe_runtime::id::{Coordinate, RequestId, SequenceId};
use uuid::Uuid;

/// Where the ranks of one member write.
#[derive(Clone, Debug)]
pub enum Records {
    /// Nobody reads them.
    Nowhere,
    /// In a folder of this member's own: a file for each rank.
    Folder(PathBuf),
    /// In this process, which outlives the member.
    Memory(Arc<Mutex<BTreeMap<Coordinate, Vec<u8>>>>),
}

/// One rank's.
#[derive(Debug)]
pub struct Recorder {
    to: To,
    state: State,
    /// In the step that was begun last, in its order. An engine gives no sequence's id twice.
    sequences: Vec<SequenceId>,
    /// Theirs.
    requests: Vec<RequestId>,
}

/// What a rank has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// It said that it fails, by its own fault.
    pub failed: bool,
    /// The requests in its step.
    pub requests: Vec<RequestId>,
}

#[derive(Debug)]
enum To {
    Nowhere,
    File(File),
    Memory(Coordinate, Arc<Mutex<BTreeMap<Coordinate, Vec<u8>>>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle = 0,
    Executing = 1,
    Failed = 2,
}

// === impl Records ===

impl Records {
    /// In memory.
    pub fn in_memory() -> Self {
        Self::Memory(Arc::default())
    }

    /// In a folder that is made for it.
    ///
    /// # Errors
    /// The operating system's.
    pub fn in_folder(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        Ok(Self::Folder(folder))
    }

    /// A rank's.
    pub fn recorder(&self, rank: Coordinate) -> Recorder {
        let to = match self {
            Self::Nowhere => To::Nowhere,
            Self::Memory(all) => To::Memory(rank, Arc::clone(all)),
            Self::Folder(folder) => match File::create(folder.join(rank.to_string())) {
                Ok(file) => To::File(file),
                Err(error) => {
                    tracing::warn!(%rank, %error, "what this rank is at is not written down");
                    To::Nowhere
                }
            },
        };
        Recorder { to, state: State::Idle, sequences: Vec::new(), requests: Vec::new() }
    }

    /// What ranks were at last; those that were at nothing are left out.
    pub fn read(&self) -> Vec<Record> {
        let texts: Vec<Vec<u8>> = match self {
            Self::Nowhere => Vec::new(),
            Self::Memory(all) => {
                all.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
            }
            Self::Folder(folder) => {
                let files = fs::read_dir(folder).into_iter().flatten().flatten();
                files.filter_map(|file| fs::read(file.path()).ok()).collect()
            }
        };
        texts.iter().filter_map(|text| Record::parse(text)).collect()
    }

    /// Nobody needs them any more.
    pub fn remove(&self) {
        if let Self::Folder(folder) = self {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

// === impl Recorder ===

impl Recorder {
    /// A step with these sequences is executed next. Most steps have those of the one before: only
    /// if they are others is it looked up whose they are.
    pub fn begin(
        &mut self,
        sequences: impl Iterator<Item = SequenceId> + Clone,
        request_of: impl FnMut(SequenceId) -> Option<RequestId>,
    ) {
        let is_same = sequences.clone().eq(self.sequences.iter().copied());
        if is_same && self.state == State::Executing {
            return;
        }
        self.sequences.clear();
        self.sequences.extend(sequences);
        self.requests.clear();
        self.requests.extend(self.sequences.iter().copied().filter_map(request_of));
        self.write(State::Executing);
    }

    /// The rank fails by its own fault.
    pub fn fail(&mut self) {
        self.write(State::Failed);
    }

    /// The rank ends, and not by its own fault.
    pub fn end(&mut self) {
        self.sequences.clear();
        self.requests.clear();
        self.write(State::Idle);
    }

    fn write(&mut self, state: State) {
        self.state = state;
        let mut text = vec![state as u8];
        text.extend((self.requests.len() as u32).to_le_bytes());
        for request in &self.requests {
            text.extend(request.0.as_bytes());
        }
        match &self.to {
            To::Nowhere => {}
            // A full disk costs what is told of a death, and nothing else.
            To::File(file) => drop(file.write_all_at(&text, 0)),
            To::Memory(rank, all) => {
                all.lock().unwrap_or_else(PoisonError::into_inner).insert(*rank, text);
            }
        }
    }
}

// === impl Record ===

impl Record {
    fn parse(text: &[u8]) -> Option<Self> {
        let (state, rest) = text.split_first()?;
        let (count, ids) = rest.split_first_chunk()?;
        let ids = ids.chunks_exact(size_of::<Uuid>()).take(u32::from_le_bytes(*count) as usize);
        let requests = ids.filter_map(|id| Some(RequestId(Uuid::from_slice(id).ok()?))).collect();
        let failed = *state == State::Failed as u8;
        (failed || *state == State::Executing as u8).then_some(Self { failed, requests })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ranks_were_at_is_read_by_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let in_folder = Records::in_folder(folder.path().join("a/member")).expect("it is made");
        for records in [in_folder, Records::in_memory()] {
            let rank = |tp| Coordinate { dp: 0, stage: 0, tp };
            let [mut one, mut other] = [0, 1].map(|tp| records.recorder(rank(tp)));
            assert_eq!(records.read(), [], "nothing was begun");
            let request = |number| RequestId(Uuid::from_u128(number));
            // A sequence of each request, of the same number.
            let begin = |recorder: &mut Recorder, numbers: &[u64]| {
                let sequences = numbers.iter().map(|number| SequenceId(*number));
                recorder.begin(sequences, |sequence| Some(request(u128::from(sequence.0))));
            };
            begin(&mut one, &[1, 2, 3]);
            begin(&mut other, &[1]);
            begin(&mut one, &[2]);
            let record = |failed, request| Record { failed, requests: vec![request] };
            let read = records.read();
            assert!(read.contains(&record(false, request(2))), "{read:?}");
            assert!(read.contains(&record(false, request(1))), "{read:?}");
            one.fail();
            other.end();
            assert_eq!(records.read(), [record(true, request(2))]);
            records.remove();
        }
        assert!(!folder.path().join("a/member").exists());
    }

    #[test]
    fn whose_sequences_they_are_is_asked_only_when_they_are_others() {
        let mut recorder = Records::Nowhere.recorder(Coordinate { dp: 0, stage: 0, tp: 0 });
        let mut asked = Vec::new();
        let mut begin = |numbers: &[u64]| {
            let sequences = numbers.iter().map(|number| SequenceId(*number));
            recorder.begin(sequences, |sequence| {
                asked.push(sequence.0);
                Some(RequestId(Uuid::from_u128(7)))
            });
        };
        for step in [&[1, 2][..], &[1, 2], &[2], &[2], &[2, 1], &[]] {
            begin(step);
        }
        assert_eq!(asked, [1, 2, 2, 2, 1]);
    }
}
