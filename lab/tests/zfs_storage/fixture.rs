//! Pools on sparse files, and datasets of their own for each test.

use std::error::Error;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vitrify_core::conformance::Verdict;
use vitrify_core::conformance::storage::{DeviceFixture, Fixture};
use vitrify_core::inventory::{Location, Owner, Snapshot};
use vitrify_core::name::Volume;
use vitrify_core::ports::{Answer, Storage};
use vitrify_core::problem::Problem;
use vitrify_host::storage::HostStorage;
use vitrify_lab::pool::Pool;
use vitrify_lab::run::must;
use vitrify_lab::scratch::Scratch;

/// A failure of a test's own tools.
pub(crate) type Fault = Box<dyn Error>;

/// Size of a pool, in MiB; sparse.
const POOL_MIB: u64 = 1024;
/// Size of a file, so that it has blocks of its own.
const FILE_BYTES: usize = 64 << 10;
/// How long something may take that nobody tells the end of.
const LIMIT: Duration = Duration::from_secs(20);
static NEXT: AtomicU32 = AtomicU32::new(0);
static SHARED: Mutex<Option<Pool>> = Mutex::new(None);

/// Runs `zfs`.
pub(crate) fn zfs(arguments: &[&str]) -> Result<String, Fault> {
    Ok(must("zfs", arguments)?)
}

/// The problem of a call that must fail.
pub(crate) fn failed<T: Debug>(answer: Answer<T>) -> Result<Problem, Fault> {
    match answer {
        Err(problem) => Ok(problem),
        Ok(value) => Err(format!("must fail, and gave {value:?}").into()),
    }
}

/// Looks again and again, until it holds or the limit is over.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) -> Result<(), Fault> {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        if Instant::now() >= deadline {
            return Err(format!("waited in vain: {what}").into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A pool on which what is written takes the room that it has.
pub(crate) fn pool(mib: u64) -> Result<Pool, Fault> {
    let pool = Pool::zfs(mib)?;
    zfs(&["set", "compression=off", &pool.dataset("")?])?;
    Ok(pool)
}

/// The pool that tests share which do not harm it.
pub(crate) struct Shared;

impl Shared {
    fn name() -> Result<(String, PathBuf), Fault> {
        let mut shared = SHARED.lock().map_err(|_| "a test panicked")?;
        if shared.is_none() {
            *shared = Some(pool(POOL_MIB)?);
        }
        let pool = shared.as_ref().ok_or("no pool")?;
        Ok((pool.dataset("")?, pool.path().to_owned()))
    }

    pub(crate) fn remove() {
        if let Ok(mut shared) = SHARED.lock() {
            drop(shared.take());
        }
    }
}

/// Two file systems and a zvol in the shared pool.
pub(crate) struct OnZfs {
    pub(crate) base: String,
    pub(crate) root: PathBuf,
    elsewhere: Scratch,
}

impl OnZfs {
    pub(crate) fn new() -> Result<Self, Fault> {
        let (pool, mountpoint) = Shared::name()?;
        let test = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let base = format!("{pool}/{test}");
        zfs(&["create", &base])?;
        zfs(&["create", &format!("{base}/one")])?;
        zfs(&["create", &format!("{base}/other")])?;
        let made = Self { root: mountpoint.join(test), base, elsewhere: Scratch::new()? };
        made.zvol("disk", "8M")?;
        Ok(made)
    }

    /// Makes a zvol and waits for its link.
    pub(crate) fn zvol(&self, name: &str, size: &str) -> Result<PathBuf, Fault> {
        let name = format!("{}/{name}", self.base);
        zfs(&["create", "-V", size, &name])?;
        let link = Path::new("/dev/zvol").join(name);
        wait_until("udev links the zvol", || link.exists())?;
        Ok(link)
    }

    /// A dataset of this test.
    pub(crate) fn volume(&self, name: &str) -> Result<Volume, Fault> {
        Ok(format!("{}/{name}", self.base).parse()?)
    }

    /// Writes a file of 64 KiB.
    pub(crate) fn put(&mut self, path: &Path, content: u8) -> Result<(), Fault> {
        Ok(self.write(path, content)?)
    }

    /// A snapshot of one dataset.
    pub(crate) fn take(&self, volume: &str, name: &str) -> Result<Snapshot, Fault> {
        let taken = HostStorage.snapshot(&[self.volume(volume)?], &name.parse()?, &owners()?);
        taken.map_err(|problem| problem.chain())?.pop().ok_or_else(|| "no snapshot".into())
    }
}

/// Somebody to take snapshots for.
pub(crate) fn owners() -> Result<[Owner; 1], Fault> {
    Ok([Owner {
        guest: Some("00000000-0000-4000-8000-000000000001".parse()?),
        point: "00000000-0000-4000-9000-000000000001".parse()?,
    }])
}

/// Where one image lies.
pub(crate) fn locate(path: &Path) -> Answer<Location> {
    let mut located = HostStorage.locate(&[path.to_owned()]);
    located.pop().unwrap_or_else(|| unreachable!("one image has one answer"))
}

impl Drop for OnZfs {
    fn drop(&mut self) {
        let mut last = String::new();
        let gone = wait_until("the datasets are destroyed", || {
            let destroyed = must("zfs", &["destroy", "-R", &self.base]);
            last = destroyed.as_ref().err().map(ToString::to_string).unwrap_or_default();
            destroyed.is_ok()
        });
        if gone.is_err() {
            complain(&format!("the dataset {} stays: {last}", self.base));
        }
    }
}

impl Fixture for OnZfs {
    fn storage(&self) -> &dyn Storage {
        &HostStorage
    }

    fn volumes(&self) -> [Volume; 2] {
        ["one", "other"].map(|name| match self.volume(name) {
            Ok(volume) => volume,
            Err(error) => unreachable!("{error}"),
        })
    }

    fn root(&self, volume: &Volume) -> PathBuf {
        self.root.join(volume.as_str().rsplit('/').next().unwrap_or_default())
    }

    fn elsewhere(&self) -> PathBuf {
        self.elsewhere.path().to_owned()
    }

    fn write(&mut self, path: &Path, content: u8) -> Verdict {
        let bytes = vec![content; FILE_BYTES];
        let is_device = fs::metadata(path).is_ok_and(|it| it.file_type().is_block_device());
        let written = match is_device {
            false => fs::write(path, bytes),
            true => OpenOptions::new()
                .write(true)
                .open(path)
                .and_then(|mut device| device.write_all(&bytes).and_then(|()| device.sync_all())),
        };
        written.map_err(|error| error.to_string())
    }

    fn read(&self, path: &Path) -> Result<Option<u8>, String> {
        let mut bytes = vec![0; FILE_BYTES];
        match File::open(path).and_then(|mut file| file.read_exact(&mut bytes)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
            Ok(()) if bytes == vec![bytes[0]; FILE_BYTES] => Ok(Some(bytes[0])),
            Ok(()) => Err(format!("{} is torn", path.display())),
        }
    }

    /// A snapshot would have to keep what the reservation covers now, and there is no room for that.
    fn obstruct(&mut self, volume: &Volume) -> Verdict {
        let file = self.root(volume).join("filler");
        let prepare = || -> Result<(), Fault> {
            fs::write(&file, vec![7; 4 << 20])?;
            File::open(&file)?.sync_all()?;
            zfs(&["set", "refreservation=8M", volume.as_str()])?;
            let used = zfs(&["get", "-H", "-p", "-o", "value", "used", &self.base])?;
            let quota = used.trim().parse::<u64>()? + (1 << 20);
            zfs(&["set", &format!("quota={quota}"), &self.base]).map(drop)
        };
        prepare().map_err(|error| error.to_string())
    }

    fn is_one_group(&self) -> bool {
        true
    }
}

impl DeviceFixture for OnZfs {
    fn device(&self) -> (Volume, PathBuf) {
        match self.volume("disk") {
            Ok(volume) => (volume.clone(), Path::new("/dev/zvol").join(volume.as_str())),
            Err(error) => unreachable!("{error}"),
        }
    }
}

#[expect(clippy::print_stderr, reason = "drop has no other way to tell")]
fn complain(text: &str) {
    eprintln!("lab: {text}");
}
