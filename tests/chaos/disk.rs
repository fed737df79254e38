//! Small disks that are mounted for a test, and somebody who fills one and keeps it full: whatever
//! is deleted there makes no room for anybody else.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// A small disk of its own in the place of a folder.
pub(crate) struct Disk(PathBuf);

/// Writes a file without an end, until it is dropped and the file is gone.
pub(crate) struct Filler {
    path: String,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Disk {
    pub(crate) fn mount(at: PathBuf) -> Self {
        fs::create_dir_all(&at).expect("a folder");
        let mount = ["-t", "tmpfs", "-o", "size=16m", "none"];
        let done = Command::new("mount").args(mount).arg(&at).status();
        assert!(done.is_ok_and(|status| status.success()), "root may mount a small disk");
        Self(at)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whatever still has files there open keeps them to itself.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

impl Filler {
    /// Returns once there is no room.
    pub(crate) fn start(path: String) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("{path}: {error}");
        let mut file = fs::File::create(&path).map_err(failed)?;
        fill(&mut file);
        let end = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&end);
        let filling = move || {
            while !until.load(Ordering::Relaxed) {
                fill(&mut file);
                pause();
            }
        };
        let thread = std::thread::Builder::new().name("filler".into()).spawn(filling);
        let thread = Some(thread.map_err(failed)?);
        Ok(Self { path, end, thread })
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = fs::remove_file(&self.path);
    }
}

/// Ever smaller pieces, so that not a page is left.
fn fill(file: &mut fs::File) {
    for piece in [&[0; 1 << 16][..], &[0; 1 << 10]] {
        while file.write_all(piece).is_ok() {}
    }
}

#[expect(clippy::disallowed_methods, reason = "somebody else's disk is looked at now and then")]
fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}
