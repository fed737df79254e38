//! One model: what is here already is used, what is missing is fetched, and two processes that want
//! the same do it once.

use std::{
    fs::{self, File},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use rustix::fs::{FlockOperation, flock};

use super::{
    access::{ModelAccess, Network},
    bucket::Bucket,
    copies::{Store, point},
    download::{Came, download},
    failure::Failure,
    hub::Hub,
    origin::{Listing, Origin, RemoteFile},
    select::{ADAPTER_FILES, is_wanted},
    web::Web,
};
use crate::{
    error::chain,
    id::Digest,
    model::{
        error::ModelError,
        source::{ModelDigest, ModelFiles, ModelSource, Place, WeightParts, weight_names},
    },
};

/// How much of a model is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Config, tokenizer, templates: what a gateway reads.
    Text,
    /// The weights too.
    All,
    /// The two files of a LoRA adapter, and nothing else.
    Adapter,
}

/// How far a download is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are here.
    pub done: u64,
    /// Bytes that will be.
    pub total: u64,
}

/// Brings a model to this machine, if it is not here. Blocks for as long as that takes; `watch` is
/// told twice a second how far it is.
///
/// # Errors
/// [`ModelError::Source`], saying what was asked of whom, what came of it, and what to do.
pub fn fetch(
    model: &str,
    access: &ModelAccess,
    part: Part,
    watch: &(dyn Fn(Progress) + Sync),
) -> Result<ModelSource, ModelError> {
    let place = Place::of(model)?;
    // A name on the hub that is here whole is not asked for again: it starts as fast as a folder,
    // and with the network away. Who wants another state of it names its revision.
    let here = ModelSource::resolve(model, access);
    let asks = matches!(place, Place::Bucket { .. } | Place::Web { .. });
    let network = match (&access.network, &here) {
        (_, Ok(source)) if !asks && is_whole(source, part) => return here,
        (None, _) => return here,
        (Some(network), _) => network.clone(),
    };
    if let Place::Folder(_) = place {
        return here;
    }
    let failed = |why: String| ModelError::Source(format!("{model}: {why}"));
    let fetched = wait(|| async {
        let store = Store::new(&place, access);
        match bring(&place, &store, &network, part, watch).await {
            Ok(folder) => Ok(ModelSource { name: model.to_owned(), folder }),
            // What came once is used while its source is away.
            Err(error) if error.retry().is_some() => match here {
                Ok(source) if is_whole(&source, part) => {
                    tracing::warn!(model, "{error}; the copy on this machine is used");
                    Ok(source)
                }
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    });
    let fetched = fetched.map_err(|error| failed(error.to_string()))?;
    fetched.map_err(|error| failed(chain(&error)))
}

/// Brings a LoRA adapter to this machine, if it is not here, as [`fetch`] brings a model; gives its
/// folder. A web server lists nothing, so that an adapter cannot be there.
///
/// # Errors
/// As [`fetch`]. What a folder on this machine holds is not looked at.
pub fn fetch_adapter(path: &str, access: &ModelAccess) -> Result<PathBuf, ModelError> {
    let local = path.strip_prefix("file://").unwrap_or(path);
    let is_folder = local.starts_with(['/', '.']) || Path::new(local).exists();
    if is_folder {
        return Ok(PathBuf::from(local));
    }
    if let Place::Web { .. } = Place::of(path)? {
        let why = "adapters are read from folders, hf://, s3:// and gs://";
        return Err(ModelError::Source(format!("{path}: {why}")));
    }
    Ok(fetch(path, access, Part::Adapter, &|_| {})?.folder)
}

/// A model's digest, as [`ModelFiles::model_digest`] says; of weights that are not on this machine
/// yet, the bytes that it takes are read where they are. `source` is a copy of the text side.
///
/// # Errors
/// As [`fetch`], and [`ModelError::Missing`] if a folder has no weights.
pub fn model_digest(source: &ModelSource, access: &ModelAccess) -> Result<Digest, ModelError> {
    let missing = match ModelFiles::find(&source.folder) {
        Ok(files) => return files.model_digest(),
        Err(missing) => missing,
    };
    let place = Place::of(&source.name)?;
    let (Some(network), false) = (&access.network, matches!(place, Place::Folder(_))) else {
        return Err(missing);
    };
    let files = ModelFiles::find_text(&source.folder)?;
    let failed = |error| ModelError::Source(format!("{}: {}", source.name, chain(&error)));
    let digest = wait(|| async {
        let origin = origin(&place, network).map_err(failed)?;
        let listing = patiently(|| origin.list()).await.map_err(failed)?;
        let names = weight_names(&source.folder, listing.files.iter().map(|file| &*file.path))?;
        let file = |name: &String| listing.files.iter().find(|file| file.path == *name);
        let found: Option<Vec<_>> = names.iter().map(file).collect();
        let found = found.filter(|found| !found.is_empty()).ok_or(missing)?;
        let sampling = found.iter().map(|file| samples(&*origin, file));
        let sampled = stream::iter(sampling).buffered(AT_ONCE).try_collect::<Vec<_>>().await;
        let mut digest = ModelDigest::begin(&files)?;
        for (file, parts) in found.iter().zip(sampled.map_err(failed)?) {
            digest.absorb(file.path.as_bytes(), file.size, &parts);
        }
        Ok(digest.finish())
    });
    digest.map_err(|error| ModelError::Source(format!("{}: {error}", source.name)))?
}

/// The parts of a weight file that its model's digest takes.
async fn samples(origin: &dyn Origin, file: &RemoteFile) -> Result<Vec<Vec<u8>>, Failure> {
    let read = |range: Range<u64>| async move {
        let mut bytes = Vec::new();
        if range.is_empty() {
            return Ok(bytes);
        }
        let wanted = range.end - range.start;
        let mut body = origin.read(file, range).await?;
        while let Some(part) = body.try_next().await? {
            bytes.extend_from_slice(&part);
            if bytes.len() as u64 >= wanted {
                bytes.truncate(wanted as usize);
                return Ok(bytes);
            }
        }
        let got = bytes.len() as u64;
        Err(Failure::Short { url: file.path.clone(), got, wanted })
    };
    let prefix = patiently(|| read(WeightParts::prefix(file.size))).await?;
    let header = WeightParts::header(file.size, &prefix);
    let mut parts = vec![patiently(|| read(header.clone())).await?];
    for sample in WeightParts::samples(file.size, &header) {
        parts.push(patiently(|| read(sample.clone())).await?);
    }
    Ok(parts)
}

/// Waits for what is fetched, on a thread of its own: whoever asks may be inside a reactor, which
/// must not be entered twice.
fn wait<T: Send, F: Future<Output = T>>(fetching: impl FnOnce() -> F + Send) -> io::Result<T> {
    let run = || -> io::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(fetching()))
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("fetch".to_owned());
        let thread = thread.spawn_scoped(scope, run)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Whether all files of a part are in a folder.
fn is_whole(source: &ModelSource, part: Part) -> bool {
    match part {
        Part::Text => ModelFiles::find_text(&source.folder).is_ok(),
        Part::All => ModelFiles::find(&source.folder).is_ok(),
        Part::Adapter => ADAPTER_FILES.iter().all(|name| source.folder.join(name).is_file()),
    }
}

/// Whom to ask.
fn origin(place: &Place, network: &Network) -> Result<Arc<dyn Origin>, Failure> {
    Ok(match place {
        Place::Hub { name, revision } => Arc::new(Hub::new(network, name, revision)?),
        Place::Bucket { scheme, rest } => Arc::new(Bucket::new(network, scheme, rest)?),
        Place::Web { url } => Arc::new(Web::new(network, url)?),
        Place::Folder(folder) => {
            let folder = folder.display();
            return Err(Failure::Setting(format!("{folder} is fetched from nowhere")));
        }
    })
}

async fn bring(
    place: &Place,
    store: &Store,
    network: &Network,
    part: Part,
    watch: &(dyn Fn(Progress) + Sync),
) -> Result<PathBuf, Failure> {
    let origin = origin(place, network)?;
    let listing = patiently(|| origin.list()).await?;
    let wanted: Vec<_> = listing.files.iter().filter(|file| is_wanted(part, file)).collect();
    let total = wanted.iter().map(|file| file.size).sum();
    let came = Came::default();
    store.prepare(&listing)?;
    let coming = wanted.iter().map(|file| one(&*origin, store, &listing, file, &came));
    let coming = stream::iter(coming).buffer_unordered(FILES_AT_ONCE).try_collect::<()>();
    let mut coming = std::pin::pin!(coming);
    let tell = || watch(Progress { done: came.bytes().min(total), total });
    loop {
        tokio::select! {
            all = &mut coming => { all?; break; }
            () = tokio::time::sleep(TELL) => tell(),
        }
    }
    tell();
    store.name(&listing)
}

/// One file, unless it is here; whoever else fetches it is waited for.
async fn one(
    origin: &dyn Origin,
    store: &Store,
    listing: &Listing,
    file: &RemoteFile,
    came: &Came,
) -> Result<(), Failure> {
    let (blob, link) = store.places(listing, file);
    let is_here = || fs::metadata(&blob).is_ok_and(|it| it.len() == file.size);
    if !is_here() {
        let _lock = lock(&store.lock(file)).await?;
        // Another process may have brought it in the meantime.
        if is_here() {
            came.add(file.size);
        } else {
            store.room(file)?;
            if let Some(folder) = blob.parent() {
                fs::create_dir_all(folder).map_err(Failure::disk(folder))?;
            }
            download(origin, file, &blob, came).await?;
        }
    } else {
        came.add(file.size);
    }
    match link {
        Some(link) => point(&link, &blob),
        None => Ok(()),
    }
}

/// Asks for something small until it is there, or asking makes no sense.
async fn patiently<T, F: Future<Output = Result<T, Failure>>>(
    ask: impl Fn() -> F,
) -> Result<T, Failure> {
    let mut tries = 0;
    loop {
        let error = match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let Some(least) = error.retry().filter(|_| tries < TRIES) else { return Err(error) };
        let wait = (PAUSE * 2_u32.pow(tries)).max(least.min(LONGEST_PAUSE));
        tracing::warn!("{error}; asking again in {wait:?}");
        tokio::time::sleep(wait).await;
        tries += 1;
    }
}

/// Held until it is dropped, by the operating system also if this process dies.
async fn lock(path: &Path) -> Result<File, Failure> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Failure::disk(folder))?;
    }
    let file = File::create(path).map_err(Failure::disk(path))?;
    let mut told = false;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(error) => return Err(Failure::disk(path)(error.into())),
        }
        if !std::mem::replace(&mut told, true) {
            tracing::info!(lock = %path.display(), "another process fetches this file");
        }
        tokio::time::sleep(LOOK).await;
    }
}

const FILES_AT_ONCE: usize = 4;
const AT_ONCE: usize = 8;
const TELL: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(200);
const TRIES: u32 = 5;
/// Before the second try; each further one waits twice as long.
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 250 });
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
