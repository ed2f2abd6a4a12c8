//! ZFS pools on sparse files. Each bears the name of its scratch directory, which names the process
//! that made it; no other is touched.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::{PoolError, when_idle};
use crate::run::must;
use crate::scratch::{self, Scratch, complain};

/// How long udev may take to link a new volume's device.
const DEVICE_LIMIT: Duration = Duration::from_secs(30);

/// A pool that this process made.
#[derive(Debug)]
pub(super) struct Zpool {
    name: String,
}

impl Zpool {
    /// Makes a pool and mounts it. Its file lies in `scratch`, and no cache file makes the next boot
    /// look for it.
    pub(super) fn create(
        scratch: &Scratch,
        mountpoint: &Path,
        size_mib: u64,
    ) -> Result<Self, PoolError> {
        let zpool = Self::left(scratch);
        let image = scratch.path().join("image");
        File::create_new(&image)?.set_len(size_mib << 20)?;
        let [image, place] = [&image, mountpoint].map(|path| path.display().to_string());
        let place = format!("mountpoint={place}");
        must("zpool", &["create", "-o", "cachefile=none", "-O", &place, &zpool.name, &image])?;
        Ok(zpool)
    }

    /// The pool that an earlier process made there.
    pub(super) fn left(scratch: &Scratch) -> Self {
        let name = scratch.path().file_name().unwrap_or_default();
        Self { name: name.to_string_lossy().into_owned() }
    }

    /// What ZFS calls a dataset of this pool.
    pub(super) fn dataset(&self, name: &str) -> String {
        if name.is_empty() { self.name.clone() } else { format!("{}/{name}", self.name) }
    }

    /// Makes a sparse volume and waits for its device.
    pub(super) fn volume(&self, name: &str, size_mib: u64) -> Result<PathBuf, PoolError> {
        let dataset = self.dataset(name);
        must("zfs", &["create", "-s", "-V", &format!("{size_mib}M"), &dataset])?;
        let path = Path::new("/dev/zvol").join(dataset);
        let deadline = Instant::now() + DEVICE_LIMIT;
        while !path.exists() {
            if Instant::now() > deadline {
                return Err(PoolError::NoDevice { path, limit: DEVICE_LIMIT });
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(path)
    }

    /// Destroys it with all that it holds; what could not be is said on stderr.
    pub(super) fn destroy(&self) {
        if let Err(error) = when_idle("zpool", &["destroy", &self.name]) {
            complain(&format!("the pool {}", self.name), &error);
        }
    }
}

/// Destroys the pools whose makers satisfy `is_gone`.
pub(crate) fn sweep(is_gone: impl Fn(u32) -> bool) {
    // Where there is no ZFS there is nothing to sweep.
    let names = must("zpool", &["list", "-H", "-o", "name"]).unwrap_or_default();
    for name in names.lines().filter(|name| scratch::owner(Path::new(name)).is_some_and(&is_gone)) {
        if let Err(error) = must("zpool", &["destroy", "-f", name]) {
            complain(&format!("the pool {name}"), &error);
        }
    }
}
