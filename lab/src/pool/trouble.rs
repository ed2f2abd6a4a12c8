//! What makes a store a bad one: a device that is slow, a file system that takes no writes, and one
//! that has no room.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use super::{Kind, Pool, PoolError};
use crate::run::must;
use crate::scratch::complain;

/// Limits by device, of all that is written there: version 1 of control groups has them at its root.
const LIMITS: &str = "/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device";
/// How much may wait in the page cache for a slow device. The kernel's own share, a fifth of RAM,
/// would hide it from everything smaller.
const CACHED: u64 = 32 << 20;

/// A device that takes so many bytes a second and no more, until this is dropped.
#[derive(Debug)]
pub struct Slow {
    device: String,
}

impl Slow {
    pub(super) fn make(mountpoint: &Path, bytes_per_second: u64) -> Result<Self, PoolError> {
        if !Path::new(LIMITS).exists() {
            return Err(PoolError::NoLimits(LIMITS));
        }
        let (device, writeback) = (device(mountpoint)?, writeback(mountpoint)?);
        fs::write(writeback.join("strict_limit"), "1")?;
        fs::write(writeback.join("max_bytes"), CACHED.to_string())?;
        fs::write(LIMITS, format!("{device} {bytes_per_second}"))?;
        Ok(Self { device })
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        if let Err(error) = lift(&self.device) {
            complain(&format!("the limit of device {}", self.device), &error);
        }
    }
}

/// A file system that takes no writes until this is dropped: whoever writes to it waits in the kernel.
#[derive(Debug)]
pub struct Frozen {
    mountpoint: String,
}

impl Frozen {
    pub(super) fn make(mountpoint: &Path) -> Result<Self, PoolError> {
        let mountpoint = mountpoint.display().to_string();
        must("fsfreeze", &["--freeze", &mountpoint])?;
        Ok(Self { mountpoint })
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = must("fsfreeze", &["--unfreeze", &self.mountpoint]) {
            complain(&format!("the frozen file system {}", self.mountpoint), &error);
        }
    }
}

/// How much less of a ZFS pool is reserved at the next attempt, in bytes, and how often that is tried.
const MISSED: u64 = 4 << 20;
const MISSES: u64 = 8;

/// A pool that has next to no room until this is dropped.
#[derive(Debug)]
pub struct Full(Ballast);

#[derive(Debug)]
enum Ballast {
    File(PathBuf),
    /// Its reservation is room that nobody else has.
    Dataset(String),
}

impl Full {
    pub(super) fn make(pool: &Pool, left_mib: u64) -> Result<Self, PoolError> {
        let left = left_mib << 20;
        if pool.kind() == Kind::Zfs {
            let name = pool.dataset("ballast")?;
            must("zfs", &["create", "-o", "mountpoint=none", &name])?;
            let full = Self(Ballast::Dataset(name.clone()));
            // What is said to be free cannot all be had, and guests go on writing.
            for missed in 0.. {
                let free = must("zfs", &["list", "-H", "-p", "-o", "available", &name])?;
                let free: u64 = free.trim().parse().map_err(io::Error::other)?;
                let room = free.saturating_sub(left + missed * MISSED);
                match must("zfs", &["set", &format!("reservation={room}"), &name]) {
                    Err(error) if missed == MISSES => return Err(error.into()),
                    Err(_) => {}
                    Ok(_) => return Ok(full),
                }
            }
        }
        let path = pool.path().join("ballast");
        let file = File::create_new(&path)?;
        let full = Self(Ballast::File(path));
        let free = statvfs(pool.path()).map_err(io::Error::from)?;
        let mut wanted = (free.f_bavail * free.f_frsize).saturating_sub(left);
        // What is said to be free cannot all be had, and not at once.
        let (mut step, mut size) = (wanted, 0);
        while step >= 1 << 20 {
            match fallocate(&file, FallocateFlags::empty(), size, step) {
                Ok(()) => {
                    size += step;
                    wanted -= step;
                    step = step.min(wanted);
                }
                Err(Errno::NOSPC) => step /= 2,
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(full)
    }

    fn empty(&self) -> Result<(), PoolError> {
        match &self.0 {
            Ballast::File(path) => {
                fs::remove_file(path)?;
                // The room is there again when the removal is on disk.
                let pool = path.parent().unwrap_or(Path::new("/")).display().to_string();
                must("sync", &["--file-system", &pool])?;
            }
            Ballast::Dataset(name) => {
                must("zfs", &["destroy", name])?;
            }
        }
        Ok(())
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        if let Err(error) = self.empty() {
            complain(&format!("what fills a pool, {:?}", self.0), &error);
        }
    }
}

/// Undoes the first two on the pool of a process that was killed.
pub(crate) fn sweep(mountpoint: &Path) {
    // Most pools are not frozen.
    let _ = must("fsfreeze", &["--unfreeze", &mountpoint.display().to_string()]);
    if let Ok(device) = device(mountpoint)
        && let Err(error) = lift(&device)
    {
        complain(&format!("the limit of device {device}"), &error);
    }
}

fn lift(device: &str) -> io::Result<()> {
    let is_limited =
        |limits: String| limits.lines().any(|it| it.starts_with(&format!("{device} ")));
    match fs::read_to_string(LIMITS).is_ok_and(is_limited) {
        true => fs::write(LIMITS, format!("{device} 0")),
        false => Ok(()),
    }
}

/// The numbers of the device under a mount.
fn device(mountpoint: &Path) -> Result<String, PoolError> {
    let place = mountpoint.display().to_string();
    let device = must("findmnt", &["--noheadings", "--output", "SOURCE", "--mountpoint", &place])?;
    let numbers =
        Path::new("/sys/class/block").join(device.trim_start_matches("/dev/")).join("dev");
    Ok(fs::read_to_string(numbers)?.trim().to_owned())
}

/// Where the kernel says how much may wait for a Btrfs.
fn writeback(mountpoint: &Path) -> Result<std::path::PathBuf, PoolError> {
    let place = mountpoint.display().to_string();
    let uuid = must("findmnt", &["--noheadings", "--output", "UUID", "--mountpoint", &place])?;
    Ok(Path::new("/sys/fs/btrfs").join(uuid).join("bdi"))
}
