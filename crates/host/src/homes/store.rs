//! The store under the homes: whether it is there, and what it may hold.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statvfs};
use vitrify_core::name::Bytes;
use vitrify_core::ports::{Answer, StoreFacts};
use vitrify_core::problem::Problem;

use crate::btrfs::subvolume;
use crate::files::{at, is_of_kind};
use crate::memory::StallLimits;
use crate::mounts::same_file_system;

/// The least that a percentage keeps free.
const LEAST_RESERVE: u64 = 10 << 30;
/// A store below this size keeps the percentage alone: the least would be a quarter of it and more.
const SMALL_STORE: u64 = 40 << 30;

/// How much of the store stays free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserve {
    /// This part of the store in percent, and at least 10 GiB where the store has 40 GiB or more.
    Percent(u8),
    /// So much.
    Bytes(Bytes),
}

impl Default for Reserve {
    fn default() -> Self {
        Self::Percent(10)
    }
}

impl Reserve {
    /// What stays free of a store of this size.
    pub fn of(self, size: Bytes) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => {
                let part = size.0 / 100 * u64::from(percent);
                Bytes(if size.0 < SMALL_STORE { part } else { part.max(LEAST_RESERVE) })
            }
        }
    }
}

/// What the configuration says about the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// An existing folder.
    pub path: PathBuf,
    /// How much of it stays free.
    pub reserve: Reserve,
    /// Whether memory images may lie on the root file system.
    pub on_root: bool,
    /// A folder on a fast drive, where pages may wait that the store is too slow for.
    pub spool: Option<PathBuf>,
    /// When a store is too slow.
    pub stall: StallLimits,
}

/// Whether the store is a folder that can be written.
pub(super) fn check(path: &Path) -> Answer<()> {
    let shown = path.display();
    if !path.is_dir() {
        let message = format!("the memory store {shown} is missing");
        return Err(Problem::lacking(message).hint("create it, or mount the drive"));
    }
    access(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).map_err(|error| {
        Problem::lacking(format!("the memory store {shown} cannot be written"))
            .from(std::io::Error::from(error))
            .hint("is its file system mounted read-only?")
    })
}

/// What the store can take.
pub(super) fn facts(config: &StoreConfig) -> Answer<StoreFacts> {
    let path = &config.path;
    check(path)?;
    let kind = if subvolume::is_btrfs(path)? {
        "btrfs"
    } else if is_of_kind(path, crate::zfs::MAGIC)? {
        "zfs"
    } else {
        "folder"
    };
    let room = statvfs(path).map_err(at("cannot look at", path))?;
    let no_memory = (!config.on_root && same_file_system(path, Path::new("/"))?)
        .then(|| format!("the memory store {} lies on the root file system", path.display()));
    Ok(StoreFacts {
        path: path.clone(),
        kind,
        no_memory,
        free: Bytes(room.f_bavail * room.f_frsize),
        reserve: config.reserve.of(Bytes(room.f_blocks * room.f_frsize)),
    })
}

#[cfg(test)]
mod tests {
    use vitrify_core::problem::ProblemKind;

    use super::*;

    #[test]
    fn reserves() {
        const GIB: u64 = 1 << 30;
        for (reserve, size, wanted) in [
            (Reserve::default(), 1000 * GIB, 100 * GIB),
            (Reserve::default(), 50 * GIB, 10 * GIB),
            (Reserve::default(), 40 * GIB, 10 * GIB),
            (Reserve::Percent(50), 40 * GIB, 20 * GIB),
            (Reserve::Percent(0), 40 * GIB, 10 * GIB),
            (Reserve::Percent(10), 1000, 100),
            (Reserve::Percent(0), 1000, 0),
            (Reserve::Bytes(Bytes(5)), 1000 * GIB, 5),
        ] {
            let found = reserve.of(Bytes(size)).0;
            assert!(found.abs_diff(wanted) < 100, "{reserve:?} of {size}: {found}, not {wanted}");
        }
    }

    #[test]
    fn a_missing_store_is_lacking() {
        let problem = check(Path::new("/no/such/store")).unwrap_err();
        assert_eq!(problem.kind, ProblemKind::Lacking);
        assert_eq!(problem.message, "the memory store /no/such/store is missing");
    }
}
