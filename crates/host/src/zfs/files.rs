//! The files on mounted datasets, and those in their snapshots, which ZFS mounts by itself below
//! `.zfs/snapshot` when somebody looks there, and unmounts when nobody does any more.

use std::fs::File;
use std::path::{Path, PathBuf};

use vitrify_core::inventory::Snapshot;
use vitrify_core::name::Volume;
use vitrify_core::ports::{Answer, NamedFile};
use vitrify_core::problem::Problem;

use super::snapshots::{check_read_only, full_name};
use super::{check_pool, dataset, properties};
use crate::files::{self, at};
use crate::mounts;

/// Lays files into a file system's `.vitrify`; does nothing to a zvol.
pub(crate) fn annotate(volume: &Volume, files: &[NamedFile]) -> Answer<()> {
    match mountpoint(volume)? {
        Some(root) => files::annotate(&root, files),
        None => Ok(()),
    }
}

/// Opens a file of a snapshot of that name and identity.
pub(crate) fn open_in_snapshot(snapshot: &Snapshot, path: &Path) -> Answer<File> {
    check_read_only(snapshot)?;
    let root = mountpoint(&snapshot.volume)?.ok_or_else(|| {
        Problem::lacking(format!("the zvol {} has no files to copy", snapshot.volume))
    })?;
    // The dot makes the kernel mount it; the open folder keeps it mounted.
    let root = root.join(".zfs/snapshot").join(&snapshot.name).join(".");
    let _keep = File::open(&root).map_err(at("cannot open the snapshot", &root))?;
    let (wanted, found) = (full_name(&snapshot.volume, &snapshot.name)?, mounts::mount_of(&root)?);
    if found.source != wanted {
        return Err(Problem::failed(format!(
            "{} shows {}, not the snapshot {wanted}",
            root.display(),
            found.source
        )));
    }
    files::open_below(&root, path)
}

/// Where a file system is mounted as a whole; `None` for a zvol.
fn mountpoint(volume: &Volume) -> Answer<Option<PathBuf>> {
    let name = dataset(volume)?;
    check_pool(name)?;
    let table = mounts::table()?;
    // Another mount may lie over it.
    let whole = |it: &&mounts::Mount| {
        let visible = || mounts::mount_among(&table, &it.point).is_ok_and(|top| top == *it);
        it.kind == "zfs" && it.source == name && it.root == Path::new("/") && visible()
    };
    if let Some(mount) = table.iter().find(whole) {
        return Ok(Some(mount.point.clone()));
    }
    let known = properties::of(&[name.to_owned()], "type")?;
    match known.get(name).and_then(|it| it.get("type")) {
        Some("volume") => Ok(None),
        Some(_) => Err(Problem::lacking(format!("the dataset {name} is not mounted"))
            .hint(format!("'zfs mount {name}'"))),
        None => Err(Problem::not_found(format!("there is no dataset {name}"))),
    }
}
