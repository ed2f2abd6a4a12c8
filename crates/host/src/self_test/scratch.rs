//! The scratch volume of a self-test: a subvolume or dataset beside the guests' own, with the
//! witness's disk on a volume below it and everything else that the self-test writes.
//!
//! Made after its record is durable, destroyed only by its identity: a subvolume by the uuid that was
//! recorded, or while it is still empty; a dataset by the property that it was made with.

use std::fmt;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vitrify_core::name::{GuestName, GuestUuid, PointId, Volume};
use vitrify_core::ports::{Answer, FileContent, NamedFile};
use vitrify_core::problem::Problem;
use vitrify_core::self_test::StorageKind;

use crate::btrfs::subvolume;
use crate::files::{at, exists, is_absence, lay, names, parent, sync_folder, unlink};
use crate::witness::{self, Settings};
use crate::zfs;

/// What the names of our guests and scratch volumes begin with, before the id.
const PREFIX: &str = "vitrify-self-test-";
/// The version of a record.
const VERSION: u32 = 1;
/// The size of the witness's disk, in MiB.
const DISK_MIB: u64 = 16;
/// A walk over memory that lasts about a second, so that a torn image cannot go unnoticed.
const SETTINGS: Settings =
    Settings { fill_mib: 16, dirty_mbps: 20, step: Duration::from_millis(20) };

/// A scratch volume and the record of it.
#[derive(Debug)]
pub(super) struct Scratch {
    /// The self-test's identity, and its guest's UUID.
    pub(super) id: GuestUuid,
    record: PathBuf,
    place: Place,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Place {
    Subvolume { path: PathBuf, uuid: Option<String> },
    Dataset { name: String, mountpoint: PathBuf, is_zvol: bool },
}

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    place: Place,
}

impl Scratch {
    /// Makes a scratch volume beside `beside`, recorded in `folder` before.
    pub(super) fn make(
        folder: &Path,
        id: &PointId,
        kind: StorageKind,
        beside: &Volume,
    ) -> Answer<Self> {
        let id: GuestUuid =
            id.as_str().parse().map_err(|error| Problem::failed("an id").from(error))?;
        let name = format!("{PREFIX}{id}");
        let place = match kind {
            StorageKind::Subvolume => {
                let path = parent(Path::new(beside.as_str()))?.join(format!(".{name}"));
                Place::Subvolume { path, uuid: None }
            }
            StorageKind::Dataset | StorageKind::Zvol => {
                let above = beside.as_str().rsplit_once('/').map_or(beside.as_str(), |it| it.0);
                let mountpoint = folder.join(&id);
                let is_zvol = kind == StorageKind::Zvol;
                Place::Dataset { name: format!("{above}/{name}"), mountpoint, is_zvol }
            }
        };
        let mut scratch = Self { record: folder.join(format!("{id}.json")), id, place };
        scratch.write_down()?;
        match scratch.fill() {
            Ok(()) => Ok(scratch),
            Err(problem) => Err(match scratch.remove() {
                Err(left) => problem.and_afterwards(&left),
                Ok(()) => problem,
            }),
        }
    }

    /// Every scratch volume that is recorded.
    pub(super) fn recorded(folder: &Path) -> Answer<Vec<Self>> {
        let mut found = Vec::new();
        for name in names(folder)? {
            let Some(id) = name.strip_suffix(".json").and_then(|id| id.parse().ok()) else {
                continue;
            };
            let record = folder.join(&name);
            let text = match fs::read_to_string(&record) {
                Err(error) if is_absence(&error) => continue,
                text => text.map_err(at("cannot read", &record))?,
            };
            let unknown = |error: Option<serde_json::Error>| {
                let shown = record.display();
                let problem = Problem::refused(format!("{shown} is no record of a self-test"))
                    .hint("another version of vitrify may have written it");
                match error {
                    Some(error) => problem.from(error),
                    None => problem,
                }
            };
            let read: Record = serde_json::from_str(&text).map_err(|error| unknown(Some(error)))?;
            if read.version != VERSION {
                return Err(unknown(None));
            }
            found.push(Self { id, record, place: read.place });
        }
        Ok(found)
    }

    /// What its guest is called.
    pub(super) fn guest(&self) -> GuestName {
        match format!("{PREFIX}{}", self.id).parse() {
            Ok(name) => name,
            Err(error) => unreachable!("{error}"),
        }
    }

    /// Where it is mounted.
    pub(super) fn path(&self) -> &Path {
        match &self.place {
            Place::Subvolume { path, .. } => path,
            Place::Dataset { mountpoint, .. } => mountpoint,
        }
    }

    /// The witness's disk.
    pub(super) fn disk(&self) -> PathBuf {
        match &self.place {
            Place::Dataset { name, is_zvol: true, .. } => {
                Path::new("/dev/zvol").join(format!("{name}/disk").replace(' ', "+"))
            }
            _ => self.path().join("disk/witness.raw"),
        }
    }

    fn write_down(&self) -> Answer<()> {
        let place = serde_json::to_value(&self.place);
        let place = place.map_err(|error| Problem::failed("a scratch volume").from(error))?;
        let text = serde_json::json!({ "version": VERSION, "place": place }).to_string();
        let folder = parent(&self.record)?;
        let name = format!("{}.json", self.id);
        lay(folder, &NamedFile { name, content: FileContent::Text(text) })?;
        sync_folder(folder)
    }

    fn fill(&mut self) -> Answer<()> {
        match &mut self.place {
            Place::Subvolume { path, uuid } => {
                subvolume::create(path)?;
                *uuid = Some(subvolume::show(path)?.uuid);
                self.write_down()?;
                subvolume::create(&self.path().join("disk"))?;
            }
            Place::Dataset { name, mountpoint, is_zvol } => {
                zfs::create_scratch(name, &self.id, mountpoint)?;
                match is_zvol {
                    true => zfs::create_scratch_zvol(&format!("{name}/disk"), DISK_MIB)?,
                    false => zfs::create_scratch_child(&format!("{name}/disk"))?,
                }
            }
        }
        make_passable(self.path())?;
        for folder in ["disk", "overlays", "memory", "journal"] {
            ensure_passable(&self.path().join(folder))?;
        }
        let disk = self.disk();
        let is_file = !disk.starts_with("/dev");
        let opened = File::options().write(true).create(is_file).truncate(false).open(&disk);
        let failed = |error| at("cannot write", &disk)(error);
        let mut file = opened.map_err(failed)?;
        if is_file {
            file.set_len(DISK_MIB << 20).map_err(failed)?;
        }
        file.write_all(&witness::code(&SETTINGS)).and_then(|()| file.sync_all()).map_err(failed)
    }

    /// Destroys it, if it is there and ours, and then its record.
    pub(super) fn remove(&self) -> Answer<()> {
        match &self.place {
            Place::Subvolume { path, uuid } => remove_subvolume(path, uuid.as_deref())?,
            Place::Dataset { name, mountpoint, .. } => {
                zfs::destroy_scratch(name, &self.id)?;
                match fs::remove_dir(mountpoint) {
                    Err(error) if !is_absence(&error) => {
                        return Err(at("cannot remove", mountpoint)(error));
                    }
                    _ => {}
                }
            }
        }
        unlink(&self.record).map(drop)
    }
}

impl fmt::Display for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guest = self.guest();
        match &self.place {
            Place::Subvolume { path, .. } => {
                write!(f, "guest {guest} and subvolume {}", path.display())
            }
            Place::Dataset { name, .. } => write!(f, "guest {guest} and dataset {name}"),
        }
    }
}

fn remove_subvolume(path: &Path, uuid: Option<&str>) -> Answer<()> {
    if !subvolume::is_btrfs(parent(path)?)? {
        let shown = path.display();
        return Err(Problem::lacking(format!("the file system of {shown} is not mounted")));
    }
    let Some(found) = subvolume::find(path)? else { return Ok(()) };
    let is_ours = match uuid {
        Some(uuid) => found.uuid == uuid,
        // Killed between its making and the record of its uuid: nothing was put into it.
        None => names(path)?.is_empty(),
    };
    match is_ours {
        true => delete_below(path),
        false => {
            let shown = path.display();
            Err(Problem::refused(format!("{shown} is not the subvolume that we made")))
        }
    }
}

/// Deletes a subvolume with those below it.
fn delete_below(path: &Path) -> Answer<()> {
    delete_in(path)?;
    subvolume::delete(path)
}

fn delete_in(folder: &Path) -> Answer<()> {
    for entry in fs::read_dir(folder).map_err(at("cannot list", folder))? {
        let entry = entry.map_err(at("cannot list", folder))?;
        let path = entry.path();
        if !entry.file_type().map_err(at("cannot look at", &path))?.is_dir() {
            continue;
        }
        match subvolume::is_subvolume(&path)? {
            true => delete_below(&path)?,
            false => delete_in(&path)?,
        }
    }
    Ok(())
}

/// Makes a folder through which QEMU's user can pass.
pub(super) fn ensure_passable(path: &Path) -> Answer<()> {
    if !exists(path)? {
        let made = DirBuilder::new().mode(0o711).create(path);
        made.map_err(at("cannot make the folder", path))?;
    }
    make_passable(path)
}

fn make_passable(path: &Path) -> Answer<()> {
    fs::set_permissions(path, Permissions::from_mode(0o711))
        .map_err(at("cannot make passable", path))
}
