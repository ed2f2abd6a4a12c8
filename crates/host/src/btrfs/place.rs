//! Where things lie: the volume under an image, and the folder of a volume's snapshots.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use vitrify_core::inventory::{FoundVolume, Location, ObjectId, Snapshot};
use vitrify_core::name::{PointName, Volume};
use vitrify_core::ports::Answer;
use vitrify_core::problem::Problem;

use super::subvolume;
use crate::files::{at, ensure_folder, parent, remove_if_empty};
use crate::mounts::same_file_system;

/// The folder, beside a subvolume, that holds all snapshots of its neighbours.
const SNAPSHOTS: &str = ".vitrify";

/// Finds the volume that holds an image, or any other path, on a Btrfs; `real` is that path without
/// symbolic links.
pub(crate) fn locate(image: &Path, real: &Path) -> Answer<Location> {
    let shown = image.display();
    let Some(root) = subvolume::root_of(real)? else {
        let message = format!("{shown} is reached through a bind mount that hides its subvolume");
        return Err(Problem::lacking(message)
            .hint("let the guest's definition name the path below the subvolume's own mount"));
    };
    check_place(root, &shown.to_string())?;
    let found = subvolume::show(root)?;
    let inode = fs::metadata(real).map_err(at("cannot look at", real))?.ino();
    let path_in_volume = Some(real.strip_prefix(root).unwrap_or(real).to_owned());
    let not_text = || Problem::lacking(format!("the path {} is not UTF-8", root.display()));
    let volume: Volume = root.to_str().and_then(|root| root.parse().ok()).ok_or_else(not_text)?;
    Ok(Location {
        group: volume.to_string(),
        volume,
        path_in_volume,
        object: ObjectId(format!("btrfs:{}:{inode}", found.uuid)),
        warnings: Vec::new(),
    })
}

/// A subvolume's snapshots lie beside it, so it needs a place beside it on its own file system.
fn check_place(root: &Path, image: &str) -> Answer<()> {
    if has_room(root)? {
        return Ok(());
    }
    let root = root.display();
    Err(Problem::lacking(format!(
        "{image} lies directly in the mounted subvolume {root}, and beside that is no room for \
         snapshots on the same file system"
    ))
    .hint(format!(
        "make a subvolume below it for the guest's disks ('btrfs subvolume create {root}/GUEST'), \
         move them there and change the guest's definition"
    )))
}

fn has_room(root: &Path) -> Answer<bool> {
    root.parent().map_or(Ok(false), |parent| same_file_system(root, parent))
}

/// A subvolume and, with `below`, those under it that its path leads to. Left out are snapshots, ours
/// and others', and what a self-test made.
pub(crate) fn volumes(top: &Volume, below: bool) -> Answer<Vec<FoundVolume>> {
    let path = volume_path(top)?;
    let real = fs::canonicalize(path).map_err(at("cannot find", path))?;
    if real != path {
        let message = format!("{top} leads to {}", real.display());
        return Err(Problem::lacking(message).hint("name the subvolume by that path"));
    }
    let Some(found) = subvolume::find(path)? else {
        return Err(Problem::lacking(format!("{top} is no Btrfs subvolume"))
            .hint("is its drive mounted? 'btrfs subvolume list' shows those of a file system"));
    };
    if !has_room(path)? {
        let message = format!(
            "beside the mounted subvolume {top} is no room for snapshots on the same file system"
        );
        return Err(Problem::lacking(message)
            .hint(format!("make a subvolume below it ('btrfs subvolume create {top}/data')")));
    }
    let mut all = vec![FoundVolume { volume: top.clone(), object: object_of(&found.uuid) }];
    if !below {
        return Ok(all);
    }
    let frozen = subvolume::list_read_only(path)?.into_iter().map(|it| it.uuid);
    let frozen: HashSet<_> = frozen.collect();
    for it in subvolume::list(path)? {
        // What lies below is listed as seen from here, everything else from the file system's top; and
        // something else may be mounted on the way. So the identity tells.
        let below = path.join(&it.path);
        if frozen.contains(&it.uuid) || is_ours(Path::new(&it.path)) {
            continue;
        }
        let is_it = subvolume::find(&below)?.is_some_and(|found| found.uuid == it.uuid);
        let volume = below.to_str().and_then(|it| it.parse().ok());
        if let (true, Some(volume)) = (is_it, volume) {
            all.push(FoundVolume { volume, object: object_of(&it.uuid) });
        }
    }
    Ok(all)
}

fn object_of(uuid: &str) -> ObjectId {
    ObjectId(format!("btrfs:{uuid}"))
}

/// Whether a subvolume is one of our snapshots, a home's or a self-test's.
fn is_ours(path: &Path) -> bool {
    path.components().any(|it| match it {
        Component::Normal(name) => {
            let name = name.to_string_lossy();
            name == SNAPSHOTS || name.starts_with(".vitrify-self-test-")
        }
        _ => false,
    })
}

/// The path of a volume, which is its name.
pub(super) fn volume_path(volume: &Volume) -> Answer<&Path> {
    let path = Path::new(volume.as_str());
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(Problem::lacking(format!("'{volume}' is not the path of a Btrfs subvolume")))
    }
}

/// A snapshot's place is held by another one.
pub(super) fn another(place: &Path, found: &str, wanted: &Snapshot) -> Problem {
    Problem::refused(format!(
        "the snapshot {} is {found}, not {}: it is another one than was taken then",
        place.display(),
        wanted.id
    ))
}

/// The folder of one volume's snapshots.
#[derive(Debug)]
pub(super) struct SnapshotFolder {
    all: PathBuf,
    /// Its path.
    pub(super) path: PathBuf,
}

impl SnapshotFolder {
    /// The folder for a volume, which need not exist, nor the volume.
    pub(super) fn of(volume: &Volume) -> Answer<Self> {
        let root = volume_path(volume)?;
        let all = parent(root)?.join(SNAPSHOTS);
        let name = root
            .file_name()
            .ok_or_else(|| Problem::lacking(format!("'{volume}' has no name of its own")))?;
        Ok(Self { path: all.join(name), all })
    }

    /// Where a snapshot of that name lies.
    pub(super) fn place(&self, name: &PointName) -> PathBuf {
        self.path.join(name)
    }

    /// Makes the folder where it is missing.
    pub(super) fn ensure(&self) -> Answer<()> {
        ensure_folder(&self.all)?;
        ensure_folder(&self.path)
    }

    /// Removes the folder where nothing is in it.
    pub(super) fn remove_if_empty(&self) -> Answer<()> {
        remove_if_empty(&self.path)?;
        remove_if_empty(&self.all)
    }

    /// Whether the folder's file system is there at all: an absent snapshot on an unmounted drive
    /// is not known to be gone.
    pub(super) fn is_mounted(&self) -> Answer<bool> {
        for folder in self.all.ancestors() {
            if folder.is_dir() {
                return subvolume::is_btrfs(folder);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_lie_beside_their_volume() {
        let name = "p1".parse().unwrap();
        for (volume, wanted) in [
            ("/srv/vm/web", "/srv/vm/.vitrify/web/p1"),
            ("/srv", "/.vitrify/srv/p1"),
            ("/srv/a b/c", "/srv/a b/.vitrify/c/p1"),
        ] {
            let folder = SnapshotFolder::of(&volume.parse().unwrap()).unwrap();
            assert_eq!(folder.place(&name), Path::new(wanted));
        }
        for volume in ["/", "tank/vm", "/srv/.."] {
            assert!(SnapshotFolder::of(&volume.parse().unwrap()).is_err(), "{volume}");
        }
    }
}
