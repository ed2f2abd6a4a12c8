//! An ext4 with one file that holds a rising count, replaced and synced again and again, so that a
//! snapshot of the disk tells whether the file system was frozen and how recent it is.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, mount};
use witness::tally;

use crate::Fatal;
use crate::console::Console;
use crate::machine::attempt;

const PLACE: &str = "/files";
/// The time from one count to the next.
const STEP: Duration = Duration::from_millis(20);
/// Least time between two notes.
const NOTE_EVERY: Duration = Duration::from_millis(100);
/// A write that takes longer is stuck, and an agent that froze has long said so.
const STUCK: Duration = Duration::from_secs(3);

/// How far the thread is that writes the files.
#[derive(Clone, Default)]
pub(crate) struct Files {
    written: Arc<AtomicU64>,
    /// When the write that is under way began.
    begun: Arc<Mutex<Option<Instant>>>,
}

impl Files {
    /// Whether a write hangs: the file system is frozen.
    pub(crate) fn is_stuck(&self) -> bool {
        let begun = *self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.is_some_and(|begun| begun.elapsed() > STUCK)
    }

    fn set_begun(&self, begun: Option<Instant>) {
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = begun;
    }
}

/// Mounts the ext4 on this disk, says which count it held, and goes on counting.
pub(crate) fn start(console: &Console, disk: &str) -> Result<Files, Fatal> {
    attempt(format!("make {PLACE}"), fs::create_dir_all(PLACE))?;
    let mounted = mount(format!("/dev/{disk}"), PLACE, "ext4", MountFlags::empty(), None);
    attempt(format!("mount {disk}"), mounted)?;
    let path = Path::new(PLACE).join(tally::NAME);
    let found = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(0),
        bytes => tally::decode(&attempt(format!("read {}", path.display()), bytes)?),
    };
    let found = attempt(
        format!("understand {}", path.display()),
        found.ok_or(io::Error::from(io::ErrorKind::InvalidData)),
    )?;
    console.note("files-found", &found.to_string());
    let files = Files::default();
    files.written.store(found, Ordering::Relaxed);
    let (console, thread_files) = (console.clone(), files.clone());
    let count = move || {
        if let Err(error) = count(&console, &thread_files, &path) {
            console.note("files", &error.to_string());
        }
    };
    attempt("start a thread", thread::Builder::new().spawn(count))?;
    Ok(files)
}

fn count(console: &Console, files: &Files, path: &Path) -> io::Result<()> {
    let mut next_note = Instant::now();
    loop {
        let count = files.written.load(Ordering::Relaxed) + 1;
        files.set_begun(Some(Instant::now()));
        replace(path, count)?;
        files.set_begun(None);
        files.written.store(count, Ordering::Relaxed);
        if Instant::now() >= next_note {
            console.note("files", &count.to_string());
            next_note = Instant::now() + NOTE_EVERY;
        }
        thread::sleep(STEP);
    }
}

fn replace(path: &Path, count: u64) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let mut file = File::create(&draft)?;
    file.write_all(&tally::encode(count))?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    File::open(PLACE)?.sync_all()
}
