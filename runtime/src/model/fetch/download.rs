//! One file from its origin to its place: in ranges that come at once, each asked for again where
//! it was cut, remembered over restarts, and the whole checked before it has its name.
//!
//! Beside `FILE.incomplete`, which has its full size from the beginning, `FILE.parts` says which
//! ranges are in it, one number a line. A process that starts again goes on with the rest.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::Write,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    failure::Failure,
    origin::{Origin, RemoteFile},
};

/// Bytes that have come, of all files of a model.
#[derive(Debug, Default)]
pub(crate) struct Came(AtomicU64);

impl Came {
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    fn take_back(&self, bytes: u64) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Brings a file to `place`, whose folder exists.
pub(crate) async fn download(
    origin: &dyn Origin,
    file: &RemoteFile,
    place: &Path,
    came: &Came,
) -> Result<(), Failure> {
    let mut again = true;
    loop {
        let partial = Partial::open(place, file.size)?;
        came.add(partial.bytes());
        partial.complete(origin, file, came).await?;
        match partial.check(file).await {
            Ok(()) => return partial.finish(place),
            // A proxy's mistake, or a file that changed in between: once more from the beginning,
            // and then it is the source that is wrong.
            Err(error @ Failure::Checksum { .. }) => {
                partial.discard();
                came.take_back(file.size);
                if !std::mem::take(&mut again) {
                    return Err(error);
                }
                tracing::warn!(file = file.path, "{error}; fetching it again");
            }
            Err(error) => return Err(error),
        }
    }
}

/// A file of which parts are there.
struct Partial {
    file: Arc<File>,
    path: PathBuf,
    parts: PathBuf,
    size: u64,
    there: BTreeSet<u64>,
}

impl Partial {
    fn open(place: &Path, size: u64) -> Result<Self, Failure> {
        let beside = |end: &str| {
            let mut name = place.as_os_str().to_owned();
            name.push(end);
            PathBuf::from(name)
        };
        let (path, parts) = (beside(".incomplete"), beside(".parts"));
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(Failure::disk(&path))?;
        let is_known = file.metadata().map_err(Failure::disk(&path))?.len() == size;
        let there = match is_known.then(|| fs::read_to_string(&parts)) {
            Some(Ok(text)) => numbers(&text, size),
            // Another tool's beginning of the same file, or none.
            _ => {
                let _ = fs::remove_file(&parts);
                file.set_len(0).map_err(Failure::disk(&path))?;
                BTreeSet::new()
            }
        };
        file.set_len(size).map_err(Failure::disk(&path))?;
        Ok(Self { file: Arc::new(file), path, parts, size, there })
    }

    /// How much of it is there.
    fn bytes(&self) -> u64 {
        self.there.iter().map(|part| length(&range(*part, self.size))).sum()
    }

    async fn complete(
        &self,
        origin: &dyn Origin,
        file: &RemoteFile,
        came: &Came,
    ) -> Result<(), Failure> {
        let missing = (0..self.size.div_ceil(PART)).filter(|part| !self.there.contains(part));
        let coming = missing.map(|part| self.part(origin, file, part, came));
        stream::iter(coming).buffer_unordered(AT_ONCE).try_collect::<()>().await
    }

    async fn part(
        &self,
        origin: &dyn Origin,
        file: &RemoteFile,
        part: u64,
        came: &Came,
    ) -> Result<(), Failure> {
        let mut range = range(part, self.size);
        let mut tries = 0;
        while !range.is_empty() {
            let before = range.start;
            match self.read(origin, file, &mut range, came).await {
                Ok(()) => {}
                Err(error) => {
                    // What moves on is not given up: a large file outlives many cuts.
                    tries = if range.start > before { 0 } else { tries + 1 };
                    let Some(least) = error.retry().filter(|_| tries < TRIES) else {
                        return Err(error);
                    };
                    let wait = (PAUSE * 2_u32.pow(tries)).max(least.min(LONGEST_PAUSE));
                    tracing::warn!(file = file.path, "{error}; asking again in {wait:?}");
                    tokio::time::sleep(wait).await;
                }
            }
        }
        self.note(part).await
    }

    /// Writes what comes of `range`, whose start moves along.
    async fn read(
        &self,
        origin: &dyn Origin,
        file: &RemoteFile,
        range: &mut Range<u64>,
        came: &Came,
    ) -> Result<(), Failure> {
        let mut body = origin.read(file, range.clone()).await?;
        while let Some(bytes) = body.try_next().await? {
            let bytes = &bytes[..bytes.len().min(length(range) as usize)];
            self.file.write_all_at(bytes, range.start).map_err(Failure::disk(&self.path))?;
            range.start += bytes.len() as u64;
            came.add(bytes.len() as u64);
            if range.is_empty() {
                return Ok(());
            }
        }
        let (got, wanted) = (range.start, range.end);
        Err(Failure::Short { url: file.path.clone(), got, wanted })
    }

    /// Remembers that a part is there, once it is on the disk: what has no checksum is believed.
    async fn note(&self, part: u64) -> Result<(), Failure> {
        let file = Arc::clone(&self.file);
        let synced = tokio::task::spawn_blocking(move || file.sync_data()).await;
        synced.unwrap_or_else(|error| Err(error.into())).map_err(Failure::disk(&self.path))?;
        let mut options = OpenOptions::new();
        let notes = options.create(true).append(true).open(&self.parts);
        let noted = notes.and_then(|mut notes| notes.write_all(format!("{part}\n").as_bytes()));
        noted.map_err(Failure::disk(&self.parts))
    }

    async fn check(&self, file: &RemoteFile) -> Result<(), Failure> {
        let Some(checksum) = file.checksum.clone() else { return Ok(()) };
        let (path, name) = (self.path.clone(), file.path.clone());
        let checking = tokio::task::spawn_blocking(move || checksum.check(&path, &name));
        checking.await.unwrap_or_else(|error| Err(Failure::Setting(error.to_string())))
    }

    fn finish(self, place: &Path) -> Result<(), Failure> {
        self.file.sync_all().map_err(Failure::disk(&self.path))?;
        fs::rename(&self.path, place).map_err(Failure::disk(place))?;
        let _ = fs::remove_file(&self.parts);
        Ok(())
    }

    fn discard(self) {
        let _ = fs::remove_file(&self.parts);
        let _ = fs::remove_file(&self.path);
    }
}

fn range(part: u64, size: u64) -> Range<u64> {
    part * PART..size.min((part + 1) * PART)
}

fn length(range: &Range<u64>) -> u64 {
    range.end - range.start
}

/// Whole lines only: the last one may have been cut by a crash.
fn numbers(text: &str, size: u64) -> BTreeSet<u64> {
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let parts = whole.lines().filter_map(|line| line.parse().ok());
    parts.filter(|part| *part < size.div_ceil(PART)).collect()
}

/// Large enough that asking costs nothing, small enough that a restart loses little.
const PART: u64 = 16 << 20;
/// Of one file. A single connection rarely fills a fast line.
const AT_ONCE: usize = 8;
/// Without a byte in between.
const TRIES: u32 = 6;
/// Before the second try; each further one waits twice as long.
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 250 });
/// However long a server wants to be left alone.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
