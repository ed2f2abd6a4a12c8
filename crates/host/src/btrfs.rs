//! Btrfs: subvolumes as volumes, and read-only snapshots of them.
//!
//! Snapshots of the subvolume `/srv/vm/web` lie in `/srv/vm/.vitrify/web/<name>`, in a folder that
//! only root can enter. Starts the program `btrfs`.

mod place;
mod snapshots;
pub(crate) mod subvolume;

use std::fs::File;
use std::path::Path;

use vitrify_core::inventory::Snapshot;
use vitrify_core::name::Volume;
use vitrify_core::ports::{Answer, NamedFile};
use vitrify_core::problem::Problem;

use self::place::{SnapshotFolder, volume_path};
pub(crate) use self::place::{locate, volumes};
pub(crate) use self::snapshots::{destroy, destroy_command, list, list_all, take};
use crate::files;

/// Has the file system write out what is on its way.
pub(crate) fn flush(volume: &Volume) -> Answer<()> {
    let path = volume_path(volume)?;
    let folder = std::fs::File::open(path).map_err(files::at("cannot open", path))?;
    rustix::fs::syncfs(folder).map_err(files::at("cannot write out", path))
}

/// `Refused` where the snapshot was made writable.
pub(crate) fn check_read_only(snapshot: &Snapshot) -> Answer<()> {
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

/// Lays files into a volume's `.vitrify`.
pub(crate) fn annotate(volume: &Volume, files: &[NamedFile]) -> Answer<()> {
    files::annotate(volume_path(volume)?, files)
}

/// Opens a file of a snapshot of that name and identity.
pub(crate) fn open_in_snapshot(snapshot: &Snapshot, path: &Path) -> Answer<File> {
    let root = SnapshotFolder::of(&snapshot.volume)?.place(&snapshot.name);
    let found = subvolume::find(&root)?
        .ok_or_else(|| Problem::not_found(format!("there is no snapshot {}", root.display())))?;
    if found.uuid != snapshot.id.as_str() {
        return Err(place::another(&root, &found.uuid, snapshot));
    }
    files::open_below(&root, path)
}
