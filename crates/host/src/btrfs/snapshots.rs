//! Takes, lists and destroys the snapshots of volumes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use vitrify_core::inventory::{AnySnapshot, Snapshot};
use vitrify_core::name::{PointName, SnapshotId, Volume};
use vitrify_core::ports::Answer;
use vitrify_core::problem::Problem;

use super::place::{SnapshotFolder, another, volume_path};
use super::subvolume::{self, Listed, Subvolume};
use crate::files::{exists, names};

/// A snapshot that is about to be taken.
struct Wanted<'a> {
    volume: &'a Volume,
    folder: SnapshotFolder,
    source: Subvolume,
}

/// Takes one snapshot of each volume. What can be looked up is looked up before the first, so that
/// the snapshots are as close in time as they can be.
pub(crate) fn take(volumes: &[Volume], name: &PointName) -> Answer<Vec<Snapshot>> {
    let mut wanted = Vec::new();
    for volume in volumes {
        let folder = SnapshotFolder::of(volume)?;
        let place = folder.place(name);
        if exists(&place)? {
            let message = format!("{} exists already", place.display());
            return Err(Problem::refused(message).hint("choose another name"));
        }
        let source = subvolume::find(volume_path(volume)?)?.ok_or_else(|| {
            Problem::not_found(format!("there is no subvolume {volume}"))
                .hint("is its drive mounted?")
        })?;
        wanted.push(Wanted { volume, folder, source });
    }
    wanted.iter().try_for_each(|it| it.folder.ensure())?;
    take_wanted(&wanted, name).map_err(|problem| undone(&wanted, name, problem))
}

fn take_wanted(wanted: &[Wanted<'_>], name: &PointName) -> Answer<Vec<Snapshot>> {
    for it in wanted {
        subvolume::snapshot(volume_path(it.volume)?, &it.folder.place(name))?;
    }
    let identified = wanted.iter().map(|it| {
        let place = it.folder.place(name);
        let taken = subvolume::show(&place)?;
        if !taken.read_only || taken.parent_uuid.as_ref() != Some(&it.source.uuid) {
            let message = format!("{} is no read-only snapshot of {}", place.display(), it.volume);
            return Err(Problem::failed(message));
        }
        snapshot(it.volume, name, &taken.uuid)
    });
    identified.collect()
}

/// Destroys what was taken of a group that failed: the places were free before, and only snapshots
/// of these very volumes are destroyed.
fn undone(wanted: &[Wanted<'_>], name: &PointName, mut problem: Problem) -> Problem {
    for it in wanted {
        let place = it.folder.place(name);
        let undo = || match subvolume::find(&place)? {
            Some(taken) if taken.parent_uuid.as_ref() == Some(&it.source.uuid) => {
                subvolume::delete(&place)
            }
            _ => Ok(()),
        };
        if let Err(left) = undo().and_then(|()| it.folder.remove_if_empty()) {
            problem = problem.and_afterwards(&left);
        }
    }
    problem
}

/// Every subvolume in the folders of these volumes' snapshots whose name can be one, with its identity,
/// whatever it is a snapshot of: one that was exchanged must be seen to be another. None of a volume
/// where all of them went while we looked, with their drive for example. By two processes for all
/// volumes below one subvolume.
pub(crate) fn list(volumes: &[Volume]) -> Answer<Vec<Snapshot>> {
    let mut identities = Identities::default();
    let mut found = Vec::new();
    for volume in volumes {
        let folder = SnapshotFolder::of(volume)?.path;
        match list_in(&folder, volume, &mut identities) {
            Err(_) if names(&folder)?.is_empty() => {}
            its => found.extend(its?),
        }
    }
    Ok(found)
}

fn list_in(folder: &Path, volume: &Volume, known: &mut Identities) -> Answer<Vec<Snapshot>> {
    let mut found = Vec::new();
    for name in names(folder)? {
        if let Ok(name) = name.parse::<PointName>()
            && subvolume::is_subvolume(&folder.join(&name))?
        {
            found.push(name);
        }
    }
    if found.is_empty() {
        return Ok(Vec::new());
    }
    found.sort();
    let mut snapshots = Vec::new();
    for name in found {
        let place = folder.join(&name);
        let uuid = match known.of(folder, &place)? {
            Some(uuid) => Some(uuid),
            None => subvolume::find(&place)?.map(|it| it.uuid),
        };
        if let Some(uuid) = uuid {
            snapshots.push(snapshot(volume, &name, &uuid)?);
        }
    }
    Ok(snapshots)
}

/// Every snapshot of a subvolume, wherever on its file system it lies.
pub(crate) fn list_all(volume: &Volume) -> Answer<Vec<AnySnapshot>> {
    let path = volume_path(volume)?;
    let Some(source) = subvolume::find(path)? else { return Ok(Vec::new()) };
    let is_of = |it: &Listed| it.parent_uuid.as_ref() == Some(&source.uuid);
    let found = subvolume::list(path)?.into_iter().filter(is_of);
    found
        .map(|it| {
            Ok(AnySnapshot { volume: volume.clone(), name: it.path, id: identity(&it.uuid)? })
        })
        .collect()
}

/// The uuids of subvolumes by their paths, of those below each subvolume that was asked for.
#[derive(Default)]
struct Identities(HashMap<PathBuf, HashMap<PathBuf, String>>);

impl Identities {
    /// The uuid of the subvolume at `place` in a folder, if it was listed.
    fn of(&mut self, folder: &Path, place: &Path) -> Answer<Option<String>> {
        let Some(root) = subvolume::root_of(folder)? else { return Ok(None) };
        if !self.0.contains_key(root) {
            self.0.insert(root.to_owned(), listed_below(root)?);
        }
        Ok(self.0.get(root).and_then(|it| it.get(place)).cloned())
    }
}

/// A listing's paths are relative to the file system's top, whatever part of it is mounted where.
fn listed_below(root: &Path) -> Answer<HashMap<PathBuf, String>> {
    let top = subvolume::show(root)?.path;
    let listed = subvolume::list_below(root)?.into_iter().filter_map(|it| {
        let below = Path::new(&it.path).strip_prefix(&top).ok()?;
        Some((root.join(below), it.uuid))
    });
    Ok(listed.collect())
}

fn snapshot(volume: &Volume, name: &PointName, uuid: &str) -> Answer<Snapshot> {
    Ok(Snapshot { volume: volume.clone(), name: name.clone(), id: identity(uuid)? })
}

fn identity(uuid: &str) -> Answer<SnapshotId> {
    uuid.parse().map_err(|error| Problem::failed("a snapshot's uuid").from(error))
}

/// The command by which an administrator destroys a snapshot.
pub(crate) fn destroy_command(snapshot: &Snapshot) -> String {
    match SnapshotFolder::of(&snapshot.volume) {
        Ok(folder) => {
            format!("btrfs subvolume delete {}", folder.place(&snapshot.name).display())
        }
        Err(problem) => problem.message,
    }
}

/// Destroys a snapshot, looked up by name and identity.
pub(crate) fn destroy(snapshot: &Snapshot) -> Answer<()> {
    let folder = SnapshotFolder::of(&snapshot.volume)?;
    let place = folder.place(&snapshot.name);
    match subvolume::find(&place)? {
        Some(found) if found.uuid != snapshot.id.as_str() => {
            return Err(another(&place, &found.uuid, snapshot));
        }
        Some(_) => subvolume::delete(&place)?,
        None if folder.is_mounted()? => {}
        None => {
            let message = format!("no Btrfs is mounted where {} should be", place.display());
            return Err(Problem::lacking(message).hint("mount the drive, then try again"));
        }
    }
    folder.remove_if_empty()
}
