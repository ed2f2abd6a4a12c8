//! What a home stands on: how it is made, and how it is snapshotted where it can be.
//!
//! A home is a child dataset where the store is a ZFS dataset's mountpoint, a subvolume where it
//! lies on a Btrfs, else a folder. Starts the programs `zfs` and `btrfs`.

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::ioctl_ficlone;
use vitrify_core::inventory::{FoundSnapshot, Owner};
use vitrify_core::name::{GuestUuid, PointId, SnapshotId, Volume};
use vitrify_core::ports::Answer;
use vitrify_core::problem::Problem;

use crate::btrfs::subvolume;
use crate::files::{at, create, ensure_folder, exists, remove_if_empty, sync_parent, unlink};
use crate::{mounts, zfs};

/// Where a Btrfs store keeps the snapshots of its homes.
const SNAPSHOTS: &str = ".vitrify";

/// What a home stands on.
#[derive(Debug)]
pub(super) enum Ground {
    /// A ZFS dataset of its own.
    Dataset(Volume),
    /// A Btrfs subvolume of its own; its snapshots lie in this folder.
    Subvolume {
        /// The folder.
        snapshots: PathBuf,
    },
    /// Neither: each point keeps what is its own.
    Folder,
}

impl Ground {
    /// What is under a guest's home, and where that is; a home that does not exist stands on a
    /// folder.
    pub(super) fn of(store: &Path, guest: &GuestUuid) -> Answer<Self> {
        let path = store.join(guest);
        if !exists(&path)? {
            return Ok(Self::Folder);
        }
        if subvolume::is_subvolume(&path)? {
            return Ok(Self::Subvolume { snapshots: store.join(SNAPSHOTS).join(guest) });
        }
        match dataset_at(&path)? {
            Some(dataset) => Ok(Self::Dataset(dataset)),
            None => Ok(Self::Folder),
        }
    }

    /// Makes a home that is missing; one that exists is kept as what it is.
    pub(super) fn make(store: &Path, guest: &GuestUuid) -> Answer<()> {
        let path = store.join(guest);
        if exists(&path)? {
            return Ok(());
        }
        let above = if rustix::process::geteuid().is_root() { dataset_at(store)? } else { None };
        if let Some(above) = above {
            zfs::create_home(&above, guest)?;
        } else if subvolume::is_btrfs(store)? {
            subvolume::create(&path)?;
        } else {
            return Ok(());
        }
        fs::set_permissions(&path, Permissions::from_mode(0o700))
            .map_err(at("cannot make private", &path))?;
        sync_parent(&path)
    }

    /// Whether the home as a whole is snapshotted with each point.
    pub(super) fn is_snapshotted(&self) -> bool {
        !matches!(self, Self::Folder)
    }

    /// Where a point's snapshot of the home shows its files, whether or not it is there.
    pub(super) fn snapshot(&self, home: &Path, id: &PointId) -> Option<PathBuf> {
        match self {
            Self::Dataset(_) => Some(home.join(".zfs/snapshot").join(id)),
            Self::Subvolume { snapshots } => Some(snapshots.join(id)),
            Self::Folder => None,
        }
    }

    /// Whether a point's snapshot of the home is there. Every point of a folder has what it needs.
    pub(super) fn has_snapshot(&self, home: &Path, id: &PointId) -> Answer<bool> {
        self.snapshot(home, id).map_or(Ok(true), |place| exists(&place))
    }

    /// Snapshots the home for a point, unless that was done, and says which snapshot that is.
    pub(super) fn take(
        &self,
        home: &Path,
        guest: &GuestUuid,
        id: &PointId,
    ) -> Answer<Option<SnapshotId>> {
        match self {
            Self::Dataset(dataset) => {
                if let Some(found) = zfs::snapshot_of_home(dataset, id)? {
                    return Ok(Some(found.snapshot.id));
                }
                let owner = Owner { guest: Some(guest.clone()), point: id.clone() };
                let name = zfs::name_of_home_snapshot(id)?;
                let taken = zfs::take(std::slice::from_ref(dataset), &name, &[owner])?;
                Ok(taken.into_iter().next().map(|it| it.id))
            }
            Self::Subvolume { snapshots } => {
                let place = snapshots.join(id);
                let kept = match subvolume::find(&place)? {
                    Some(kept) => kept,
                    None => {
                        snapshots.parent().map_or(Ok(()), ensure_folder)?;
                        ensure_folder(snapshots)?;
                        subvolume::snapshot(home, &place)?;
                        subvolume::show(&place)?
                    }
                };
                let id = kept.uuid.parse();
                id.map(Some).map_err(|error| Problem::failed("a home's snapshot").from(error))
            }
            Self::Folder => Ok(None),
        }
    }

    /// Holds a point's snapshot of the home, if there is one and it can be held.
    pub(super) fn hold(&self, id: &PointId) -> Answer<()> {
        match self.holdable(id)? {
            Some(found) => zfs::hold(&[found.snapshot], id),
            None => Ok(()),
        }
    }

    /// Takes that back.
    pub(super) fn release(&self, id: &PointId) -> Answer<()> {
        match self.holdable(id)? {
            Some(found) => release(&found, id),
            None => Ok(()),
        }
    }

    fn holdable(&self, id: &PointId) -> Answer<Option<FoundSnapshot>> {
        match self {
            Self::Dataset(dataset) => zfs::snapshot_of_home(dataset, id),
            Self::Subvolume { .. } | Self::Folder => Ok(None),
        }
    }

    /// Destroys a point's snapshot of the home, if there is one and it is of this home. Where the
    /// point is not held, what still holds it was left by a hold or a release that died.
    pub(super) fn destroy(&self, home: &Path, id: &PointId, is_held: bool) -> Answer<()> {
        match self {
            Self::Dataset(_) => match self.holdable(id)? {
                Some(found) => {
                    if !is_held {
                        release(&found, id)?;
                    }
                    zfs::destroy(&[found.snapshot])
                }
                None => Ok(()),
            },
            Self::Subvolume { snapshots } => {
                let place = snapshots.join(id);
                let Some(found) = subvolume::find(&place)? else { return Ok(()) };
                let home = subvolume::find(home)?.map(|home| home.uuid);
                if home.is_some() && found.parent_uuid != home {
                    let message = format!("{} is not a snapshot of this home", place.display());
                    return Err(Problem::refused(message).hint("who put it there may remove it"));
                }
                subvolume::delete(&place)?;
                remove_if_empty(snapshots)
            }
            Self::Folder => Ok(()),
        }
    }
}

/// Releases a snapshot of a home that is held for its point.
fn release(found: &FoundSnapshot, id: &PointId) -> Answer<()> {
    match found.held_for.as_ref().is_some_and(|points| points.contains(id)) {
        true => zfs::release(std::slice::from_ref(&found.snapshot), id),
        false => Ok(()),
    }
}

/// The dataset that is mounted at this very path.
fn dataset_at(path: &Path) -> Answer<Option<Volume>> {
    let mount = mounts::mount_of(path)?;
    let real = path.canonicalize().map_err(at("cannot look at", path))?;
    if mount.kind != "zfs" || mount.point != real || mount.root != Path::new("/") {
        return Ok(None);
    }
    mount.source.parse().map(Some).map_err(|error| Problem::failed("a dataset").from(error))
}

/// Whether files of this folder can share blocks: tried, because nothing tells.
pub(super) fn shares_blocks(folder: &Path) -> Answer<bool> {
    let (one, other) = (folder.join(".shares-1"), folder.join(".shares-2"));
    unlink(&one)?;
    unlink(&other)?;
    let tried = try_sharing(&one, &other);
    unlink(&one)?;
    unlink(&other)?;
    tried
}

fn try_sharing(one: &Path, other: &Path) -> Answer<bool> {
    let mut source: File = create(one)?;
    source.write_all(&[1; 4096]).map_err(at("cannot write to", one))?;
    Ok(ioctl_ficlone(&create(other)?, &source).is_ok())
}
