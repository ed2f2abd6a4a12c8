//! Btrfs: subvolumes as volumes, read-only snapshots of them, and the image files on them.
//!
//! Snapshots of the subvolume `/srv/vm/web` lie in `/srv/vm/.vitrify/web/<name>`, in a folder that
//! only root can enter. Starts the program `btrfs`.

mod place;
mod snapshots;
pub(crate) mod subvolume;

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, ResolveFlags, openat2, renameat_with};
use rustix::io::Errno;
use vitrify_core::inventory::{Location, ObjectId, Snapshot};
use vitrify_core::name::{PointName, Volume};
use vitrify_core::ports::{Answer, NamedFile, Storage};
use vitrify_core::problem::Problem;

use self::place::{SnapshotFolder, volume_path};
use crate::files::copy::copy;
use crate::files::{
    at, ensure_folder, exists, is_absence, lay, parent, sync_folder, sync_parent, unlink,
};

/// The folder at a volume's root where administrators find definitions.
const ANNOTATIONS: &str = ".vitrify";

/// The host's Btrfs file systems. Holds no state.
#[derive(Debug, Clone, Copy, Default)]
pub struct Btrfs;

impl Storage for Btrfs {
    fn locate(&self, image: &Path) -> Answer<Location> {
        place::locate(image)
    }

    fn resolve(&self, path: &Path) -> Answer<PathBuf> {
        let mut path = path.to_owned();
        // As many links as the kernel follows.
        for _ in 0..40 {
            if fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()) {
                let link = fs::read_link(&path).map_err(at("cannot read the link", &path))?;
                path = parent(&path)?.join(link);
                continue;
            }
            let folder = parent(&path)?;
            let real = fs::canonicalize(folder).map_err(at("cannot find", folder))?;
            return Ok(real.join(path.file_name().unwrap_or_default()));
        }
        Err(Problem::lacking(format!("{} is a loop of links", path.display())))
    }

    fn object(&self, path: &Path) -> Answer<Option<ObjectId>> {
        let real = match fs::canonicalize(path) {
            Err(error) if is_absence(&error) => return Ok(None),
            real => real.map_err(at("cannot look at", path))?,
        };
        object_of(&real).map(Some)
    }

    fn snapshot(&self, volumes: &[Volume], name: &PointName) -> Answer<Vec<Snapshot>> {
        snapshots::take(volumes, name)
    }

    fn snapshots(&self, volume: &Volume) -> Answer<Vec<Snapshot>> {
        snapshots::list(volume)
    }

    fn check_read_only(&self, snapshot: &Snapshot) -> Answer<()> {
        let place = SnapshotFolder::of(&snapshot.volume)?.place(&snapshot.name);
        match subvolume::find(&place)? {
            Some(found) if found.read_only => Ok(()),
            Some(_) => {
                let place = place.display();
                let message = format!("the snapshot {place} was made writable since it was taken");
                Err(Problem::refused(message).hint(format!(
                    "if nothing was written to it: 'btrfs property set -ts {place} ro true'"
                )))
            }
            None => Err(Problem::not_found(format!("there is no snapshot {}", place.display()))),
        }
    }

    fn destroy(&self, snapshot: &Snapshot) -> Answer<()> {
        snapshots::destroy(snapshot)
    }

    fn annotate(&self, volume: &Volume, files: &[NamedFile]) -> Answer<()> {
        let folder = volume_path(volume)?.join(ANNOTATIONS);
        ensure_folder(&folder)?;
        files.iter().try_for_each(|file| lay(&folder, file))?;
        sync_folder(&folder)
    }

    fn copy_from_snapshot(
        &self,
        snapshot: &Snapshot,
        path_in_volume: &Path,
        beside: &Path,
        like: &Path,
    ) -> Answer<ObjectId> {
        let root = SnapshotFolder::of(&snapshot.volume)?.place(&snapshot.name);
        let found = subvolume::find(&root)?.ok_or_else(|| {
            Problem::not_found(format!("there is no snapshot {}", root.display()))
        })?;
        if found.uuid != snapshot.id.as_str() {
            return Err(place::another(&root, &found.uuid, snapshot));
        }
        copy(&open_below(&root, path_in_volume)?, beside, like)?;
        object_of(beside)
    }

    fn copy_file(&self, source: &Path, beside: &Path, like: &Path) -> Answer<ObjectId> {
        copy(&File::open(source).map_err(at("cannot read", source))?, beside, like)?;
        object_of(beside)
    }

    fn exchange(&self, beside: &Path, target: &Path) -> Answer<()> {
        let failed = at("cannot put in place", target);
        match renameat_with(CWD, beside, CWD, target, RenameFlags::EXCHANGE) {
            Err(Errno::NOENT) if !exists(target)? => {
                renameat_with(CWD, beside, CWD, target, RenameFlags::NOREPLACE).map_err(failed)?;
            }
            result => result.map_err(failed)?,
        }
        sync_parent(target)
    }

    fn remove_file(&self, path: &Path) -> Answer<()> {
        if unlink(path)? { sync_parent(path) } else { Ok(()) }
    }
}

/// Which object a path without symbolic links is. Btrfs never uses an inode number twice in a
/// subvolume; elsewhere an object is known by device and inode, which can be reused, and the device
/// number may change at a boot.
fn object_of(path: &Path) -> Answer<ObjectId> {
    let found = fs::symlink_metadata(path).map_err(at("cannot look at", path))?;
    let numbers = |device| (rustix::fs::major(device), rustix::fs::minor(device));
    if found.file_type().is_block_device() {
        let (major, minor) = numbers(found.rdev());
        return Ok(ObjectId(format!("block:{major}:{minor}")));
    }
    if subvolume::is_btrfs(path)?
        && let Some(root) = subvolume::root_of(path)?
    {
        return Ok(ObjectId(format!("btrfs:{}:{}", subvolume::show(root)?.uuid, found.ino())));
    }
    let (major, minor) = numbers(found.dev());
    Ok(ObjectId(format!("dev:{major}:{minor}:{}", found.ino())))
}

/// Opens a file of a snapshot. A symbolic link in it, which the guest's owner may have laid, leads
/// nowhere.
fn open_below(root: &Path, path: &Path) -> Answer<File> {
    let shown = root.join(path);
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(Problem::refused(format!("{} is not a path below a volume", path.display())));
    }
    let folder = File::open(root).map_err(at("cannot open", root))?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file =
        openat2(folder, path, flags, Mode::empty(), resolve).map_err(at("cannot open", &shown))?;
    Ok(File::from(file))
}
