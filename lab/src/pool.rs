//! File systems of our own in sparse files, mounted on loop devices, and ZFS pools. Needs root.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::run::{RunError, must};
use crate::scratch::{Scratch, complain};

pub(crate) mod trouble;
pub(crate) mod zfs;

pub use trouble::{Frozen, Full, Slow};
use zfs::Zpool;

/// How long a busy pool may take to become idle before it is only detached.
const BUSY_LIMIT: Duration = Duration::from_secs(10);

/// What a pool is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Snapshots and reflinks.
    Btrfs,
    /// Neither.
    Ext4,
    /// Reflinks.
    Xfs,
    /// Snapshots and block devices.
    Zfs,
}

/// A mounted file system or a ZFS pool, unmounted and removed on drop. Guests on it must be gone by
/// then.
#[derive(Debug)]
pub struct Pool {
    kind: Kind,
    mountpoint: PathBuf,
    zpool: Option<Zpool>,
    scratch: Scratch,
}

/// Why there is no pool or no subvolume.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// A file or directory of the pool could not be made.
    #[error("cannot prepare the pool")]
    Io(#[from] io::Error),
    /// What only a ZFS pool has was asked of another.
    #[error("{} is no ZFS pool", .0.display())]
    NotZfs(PathBuf),
    /// The kernel has no limit for a device, or only one for some of those who write to it.
    #[error("this machine cannot slow a device down: no {0}")]
    NoLimits(&'static str),
    /// udev made no link to a volume.
    #[error("{} did not appear within {limit:?}; does udev run?", path.display())]
    NoDevice {
        /// The link.
        path: PathBuf,
        /// How long was waited.
        limit: Duration,
    },
    /// A tool failed.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl Pool {
    /// A Btrfs of `size_mib` MiB (at least 109, or mkfs refuses).
    ///
    /// # Errors
    /// [`PoolError`], as for the other kinds.
    pub fn btrfs(size_mib: u64) -> Result<Self, PoolError> {
        Self::new(Kind::Btrfs, size_mib, &["mkfs.btrfs", "-q"])
    }

    /// An ext4 of `size_mib` MiB.
    ///
    /// # Errors
    /// [`PoolError`].
    pub fn ext4(size_mib: u64) -> Result<Self, PoolError> {
        Self::new(Kind::Ext4, size_mib, &["mkfs.ext4", "-q"])
    }

    /// An XFS of `size_mib` MiB (at least 300, or mkfs refuses).
    ///
    /// # Errors
    /// [`PoolError`].
    pub fn xfs(size_mib: u64) -> Result<Self, PoolError> {
        Self::new(Kind::Xfs, size_mib, &["mkfs.xfs", "-q"])
    }

    fn new(kind: Kind, size_mib: u64, mkfs: &[&str]) -> Result<Self, PoolError> {
        let scratch = Scratch::new()?;
        let (image, mountpoint) = (scratch.path().join("image"), scratch.path().join("pool"));
        File::create_new(&image)?.set_len(size_mib << 20)?;
        fs::create_dir(&mountpoint)?;
        let [image, place] = [&image, &mountpoint].map(|path| path.display().to_string());
        must(mkfs[0], &[&mkfs[1..], &[image.as_str()]].concat())?;
        must("mount", &["-o", "loop", &image, &place])?;
        let pool = Self { kind, mountpoint, zpool: None, scratch };
        fs::set_permissions(&pool.mountpoint, Permissions::from_mode(0o755))?;
        Ok(pool)
    }

    /// A ZFS pool of `size_mib` MiB (at least 64, or zpool refuses). Its name in ZFS is
    /// [`Self::dataset`] of nothing.
    ///
    /// # Errors
    /// [`PoolError`], also where there is no ZFS.
    pub fn zfs(size_mib: u64) -> Result<Self, PoolError> {
        let scratch = Scratch::new()?;
        let mountpoint = scratch.path().join("pool");
        let zpool = Zpool::create(&scratch, &mountpoint, size_mib)?;
        let pool = Self { kind: Kind::Zfs, mountpoint, zpool: Some(zpool), scratch };
        fs::set_permissions(&pool.mountpoint, Permissions::from_mode(0o755))?;
        Ok(pool)
    }

    /// A ZFS pool that an earlier process left.
    pub(crate) fn left_zfs(scratch: Scratch) -> Self {
        let mountpoint = scratch.path().join("pool");
        let zpool = Some(Zpool::left(&scratch));
        Self { kind: Kind::Zfs, mountpoint, zpool, scratch }
    }

    /// The folder of its files.
    pub(crate) fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// What it is made of.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mountpoint
    }

    /// Makes a subvolume or dataset, or a directory where the pool knows neither.
    ///
    /// # Errors
    /// [`PoolError`], also if the name is taken.
    pub fn subvolume(&self, name: &str) -> Result<PathBuf, PoolError> {
        let path = self.mountpoint.join(name);
        match self.kind {
            Kind::Btrfs => {
                must("btrfs", &["subvolume", "create", &path.display().to_string()])?;
            }
            Kind::Zfs => {
                must("zfs", &["create", &self.dataset(name)?])?;
            }
            Kind::Ext4 | Kind::Xfs => fs::create_dir(&path)?,
        }
        Ok(path)
    }

    /// Makes a sparse volume of `size_mib` MiB and answers with its block device. Its dataset has
    /// the same name.
    ///
    /// # Errors
    /// [`PoolError::NotZfs`], [`PoolError::NoDevice`], and what ZFS says.
    pub fn zvol(&self, name: &str, size_mib: u64) -> Result<PathBuf, PoolError> {
        self.zpool()?.volume(name, size_mib)
    }

    /// What ZFS calls a dataset or volume of this pool; the pool itself for an empty name.
    ///
    /// # Errors
    /// [`PoolError::NotZfs`].
    pub fn dataset(&self, name: &str) -> Result<String, PoolError> {
        Ok(self.zpool()?.dataset(name))
    }

    /// Lets a Btrfs take so many bytes a second and no more, and but 32 MiB wait in the page cache.
    ///
    /// # Errors
    /// [`PoolError::NoLimits`], and what the system says.
    pub fn slow_down(&self, bytes_per_second: u64) -> Result<Slow, PoolError> {
        Slow::make(&self.mountpoint, bytes_per_second)
    }

    /// Lets whoever writes to it wait.
    ///
    /// # Errors
    /// What `fsfreeze` says.
    pub fn freeze(&self) -> Result<Frozen, PoolError> {
        Frozen::make(&self.mountpoint)
    }

    /// Leaves no more room than so many MiB on a Btrfs or a ZFS pool.
    ///
    /// # Errors
    /// What the system or ZFS says.
    pub fn fill(&self, left_mib: u64) -> Result<Full, PoolError> {
        Full::make(self, left_mib)
    }

    fn zpool(&self) -> Result<&Zpool, PoolError> {
        self.zpool.as_ref().ok_or_else(|| PoolError::NotZfs(self.mountpoint.clone()))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(zpool) = &self.zpool {
            return zpool.destroy();
        }
        let place = self.mountpoint.display().to_string();
        if let Err(error) = when_idle("umount", &["--recursive", &place]) {
            complain(&format!("the mount below {}", self.scratch.path().display()), &error);
            // Detached, the rest goes when its last user does, and the files below can be removed.
            let _ = must("umount", &["--lazy", &place]);
        }
    }
}

/// Runs what must succeed, again while something that is going away still holds the pool.
fn when_idle(program: &str, arguments: &[&str]) -> Result<(), RunError> {
    let deadline = Instant::now() + BUSY_LIMIT;
    loop {
        match must(program, arguments) {
            Err(RunError::Failed { .. }) if Instant::now() < deadline => {
                // The kernel tells nobody when a mount becomes idle.
                thread::sleep(Duration::from_millis(50));
            }
            result => return result.map(drop),
        }
    }
}
