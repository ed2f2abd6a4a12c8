//! The host's storage: the files on any file system, and volumes on Btrfs and ZFS. A volume whose
//! name begins with `/` is a Btrfs subvolume, any other is a ZFS dataset.

mod header;
mod images;

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with, statvfs};
use rustix::io::Errno;
use vitrify_core::inventory::{
    AnySnapshot, FoundSnapshot, FoundVolume, Location, ObjectId, Owner, Snapshot,
};
use vitrify_core::name::{PointId, PointName, Volume};
use vitrify_core::ports::{Answer, NamedFile, Storage};
use vitrify_core::problem::Problem;

use crate::btrfs::{self, subvolume};
use crate::files::copy::copy;
use crate::files::{at, exists, is_absence, is_of_kind, names, parent, sync_parent, unlink};
use crate::zfs::zvol::{self, Device};
use crate::{blocks, zfs};

/// The host's storage. Holds no state, and starts no program of a storage that it does not meet.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostStorage;

impl Storage for HostStorage {
    fn locate(&self, images: &[PathBuf]) -> Vec<Answer<Location>> {
        images::locate(images)
    }

    fn volumes(&self, top: &Volume, below: bool) -> Answer<Vec<FoundVolume>> {
        match is_btrfs(top) {
            true => btrfs::volumes(top, below),
            false => zfs::volumes(top, below),
        }
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

    fn snapshot(
        &self,
        volumes: &[Volume],
        name: &PointName,
        owners: &[Owner],
    ) -> Answer<Vec<Snapshot>> {
        let mut taken = Vec::new();
        for volumes in groups(volumes) {
            let result = match is_btrfs(&volumes[0]) {
                true => btrfs::take(&volumes, name),
                false => zfs::take(&volumes, name, owners),
            };
            match result {
                Ok(snapshots) => taken.extend(snapshots),
                Err(problem) => return Err(self.undone(&taken, problem)),
            }
        }
        taken.sort_by_key(|it: &Snapshot| volumes.iter().position(|volume| *volume == it.volume));
        Ok(taken)
    }

    fn snapshots(&self, volumes: &[Volume]) -> Answer<Vec<FoundSnapshot>> {
        let (subvolumes, datasets): (Vec<_>, Vec<_>) = volumes.iter().cloned().partition(is_btrfs);
        let mut found = zfs::list(&datasets)?;
        found.extend(btrfs::list(&subvolumes)?.into_iter().map(|snapshot| FoundSnapshot {
            snapshot,
            points: None,
            order: None,
            created: None,
            needed: Vec::new(),
            held_for: None,
        }));
        Ok(found)
    }

    fn all_snapshots(&self, volumes: &[Volume]) -> Answer<Vec<AnySnapshot>> {
        let (subvolumes, datasets): (Vec<_>, Vec<_>) = volumes.iter().cloned().partition(is_btrfs);
        let mut found = zfs::list_all(&datasets)?;
        for volume in &subvolumes {
            found.extend(btrfs::list_all(volume)?);
        }
        Ok(found)
    }

    fn flush(&self, volumes: &[Volume]) -> Answer<Duration> {
        let begun = Instant::now();
        let (of_btrfs, of_zfs): (Vec<_>, Vec<_>) = volumes.iter().partition(|it| is_btrfs(it));
        of_btrfs.into_iter().try_for_each(btrfs::flush)?;
        zfs::flush(&of_zfs)?;
        Ok(begun.elapsed())
    }

    fn check_read_only(&self, snapshot: &Snapshot) -> Answer<()> {
        match is_btrfs(&snapshot.volume) {
            true => btrfs::check_read_only(snapshot),
            false => zfs::check_read_only(snapshot),
        }
    }

    fn hold(&self, snapshots: &[Snapshot], point: &PointId) -> Answer<()> {
        zfs::hold(&on_zfs(snapshots), point)
    }

    fn release(&self, snapshots: &[Snapshot], point: &PointId) -> Answer<()> {
        zfs::release(&on_zfs(snapshots), point)
    }

    fn release_command(&self, snapshot: &Snapshot, point: &PointId) -> String {
        zfs::release_command(snapshot, point)
    }

    fn destroy_command(&self, snapshot: &Snapshot) -> String {
        match is_btrfs(&snapshot.volume) {
            true => btrfs::destroy_command(snapshot),
            false => format!("zfs destroy {}@{}", snapshot.volume, snapshot.name),
        }
    }

    fn backing(&self, image: &Path) -> Answer<Option<PathBuf>> {
        header::backing(image)
    }

    fn list(&self, folder: &Path) -> Answer<Vec<PathBuf>> {
        Ok(names(folder)?.into_iter().map(|name| folder.join(name)).collect())
    }

    fn destroy(&self, snapshots: &[Snapshot]) -> Answer<()> {
        let (of_btrfs, of_zfs): (Vec<_>, Vec<_>) =
            snapshots.iter().cloned().partition(|it| is_btrfs(&it.volume));
        let mut results = vec![zfs::destroy(&of_zfs)];
        results.extend(of_btrfs.iter().map(btrfs::destroy));
        results.into_iter().collect()
    }

    fn annotate(&self, volume: &Volume, files: &[NamedFile]) -> Answer<()> {
        match is_btrfs(volume) {
            true => btrfs::annotate(volume, files),
            false => zfs::annotate(volume, files),
        }
    }

    fn copy_from_snapshot(
        &self,
        snapshot: &Snapshot,
        path_in_volume: &Path,
        beside: &Path,
        like: &Path,
    ) -> Answer<ObjectId> {
        let source = match is_btrfs(&snapshot.volume) {
            true => btrfs::open_in_snapshot(snapshot, path_in_volume)?,
            false => zfs::open_in_snapshot(snapshot, path_in_volume)?,
        };
        copy(&source, beside, like)?;
        object_of(beside)
    }

    fn copy_file(&self, source: &Path, beside: &Path, like: &Path) -> Answer<ObjectId> {
        copy(&File::open(source).map_err(at("cannot read", source))?, beside, like)?;
        object_of(beside)
    }

    fn expose(&self, snapshot: &Snapshot, owner: &PointId) -> Answer<PathBuf> {
        only_zfs(snapshot)?;
        zvol::expose(snapshot, owner)
    }

    fn conceal(&self, snapshot: &Snapshot, owner: &PointId) -> Answer<()> {
        only_zfs(snapshot)?;
        zvol::conceal(snapshot, owner)
    }

    fn overwrite(&self, source: &Path, target: &Path) -> Answer<()> {
        blocks::overwrite(source, target)
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

impl HostStorage {
    /// Destroys what was taken before a part of a group failed.
    fn undone(self, taken: &[Snapshot], problem: Problem) -> Problem {
        match self.destroy(taken) {
            Err(left) => problem.and_afterwards(&left),
            Ok(()) => problem,
        }
    }
}

fn is_btrfs(volume: &Volume) -> bool {
    volume.is_path()
}

/// Those of these snapshots that can be held: a subvolume cannot.
fn on_zfs(snapshots: &[Snapshot]) -> Vec<Snapshot> {
    snapshots.iter().filter(|it| !is_btrfs(&it.volume)).cloned().collect()
}

/// The volumes in parts that one storage takes at one go: all subvolumes, and each pool's datasets.
fn groups(volumes: &[Volume]) -> Vec<Vec<Volume>> {
    let key = |volume: &Volume| match is_btrfs(volume) {
        true => None,
        false => Some(zfs::pool_of(volume.as_str()).to_owned()),
    };
    let mut groups: Vec<Vec<Volume>> = Vec::new();
    for volume in volumes {
        match groups.iter_mut().find(|group| key(&group[0]) == key(volume)) {
            Some(group) => group.push(volume.clone()),
            None => groups.push(vec![volume.clone()]),
        }
    }
    groups
}

fn only_zfs(snapshot: &Snapshot) -> Answer<()> {
    match is_btrfs(&snapshot.volume) {
        true => {
            Err(Problem::lacking(format!("the subvolume {} is no block device", snapshot.volume)))
        }
        false => Ok(()),
    }
}

/// Which object a path without symbolic links is.
///
/// Btrfs never uses an inode number twice in a subvolume. ZFS does within seconds, but each file
/// keeps the time of its making, and the file system's id stays through exports, reboots and
/// renames while a clone has another. Elsewhere an object is known by device and inode, which can be
/// reused, and the device number may change at a boot.
fn object_of(path: &Path) -> Answer<ObjectId> {
    let found = fs::symlink_metadata(path).map_err(at("cannot look at", path))?;
    let numbers = |device| (rustix::fs::major(device), rustix::fs::minor(device));
    if found.file_type().is_block_device() {
        if zvol::device(found.rdev()) == Device::Whole {
            return zvol::object_of(path, found.rdev());
        }
        let (major, minor) = numbers(found.rdev());
        return Ok(ObjectId(format!("block:{major}:{minor}")));
    }
    if is_of_kind(path, zfs::MAGIC)? {
        let system = statvfs(path).map_err(at("cannot look at", path))?.f_fsid;
        let made = found.created().map_err(at("cannot tell the age of", path))?;
        let made = made.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
        return Ok(ObjectId(format!("zfs:{system:x}:{}:{made}", found.ino())));
    }
    if subvolume::is_btrfs(path)?
        && let Some(root) = subvolume::root_of(path)?
    {
        return Ok(ObjectId(format!("btrfs:{}:{}", subvolume::show(root)?.uuid, found.ino())));
    }
    let (major, minor) = numbers(found.dev());
    Ok(ObjectId(format!("dev:{major}:{minor}:{}", found.ino())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_grouped_by_what_takes_them() {
        let volumes = ["tank/a", "/srv/a", "rpool/a", "tank", "/srv/b"];
        let volumes = volumes.map(|text| text.parse().unwrap());
        let grouped = groups(&volumes);
        let names: Vec<Vec<_>> =
            grouped.iter().map(|group| group.iter().map(Volume::as_str).collect()).collect();
        let wanted: [&[&str]; 3] = [&["tank/a", "tank"], &["/srv/a", "/srv/b"], &["rpool/a"]];
        assert_eq!(names, wanted);
    }
}
