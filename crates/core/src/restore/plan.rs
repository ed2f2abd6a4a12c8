//! From a point and what is there to a restore's plan, or to the reason why there is none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::capture::Consistency;
use crate::definition::Definition;
use crate::inventory::{Guest, Snapshot};
use crate::manifest::Manifest;
use crate::name::{GuestName, PointId, Volume};
use crate::problem::{Problem, ProblemKind};
use crate::restore::{
    DefinitionChange, FileSource, Replacement, RestoreFile, RestorePlan, StartMode,
};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// This restore's id.
    pub id: PointId,
    /// Whether to leave the memory image aside and boot.
    pub cold: bool,
    /// Whether the guest comes up suspended.
    pub paused: bool,
    /// Whether a running guest may be stopped.
    pub force: bool,
    /// Whether the present definition stays.
    pub keep_definition: bool,
}

/// What is known when it is asked for.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The point.
    pub manifest: &'a Manifest,
    /// Where its files lie.
    pub folder: &'a Path,
    /// Where its memory would be written out, if it has any.
    pub save_image: Option<PathBuf>,
    /// Its inactive definition, or the live one where it had no other.
    pub definition_xml: &'a str,
    /// Whether it had no other: libvirt forgets such a guest when it ends.
    pub transient: bool,
    /// The guest as it is now; `None` where it is not defined.
    pub guest: Option<&'a Guest>,
    /// The snapshots that the point's volumes have now.
    pub snapshots: &'a [Snapshot],
    /// Where overlay files go.
    pub overlay_folder: &'a Path,
    /// Each image of the point and each other file that is put back, by its path, and where that
    /// path leads.
    pub real_paths: BTreeMap<PathBuf, PathBuf>,
    /// This boot.
    pub boot: String,
}

impl Facts<'_> {
    /// A definition may name an image through a link: the link stays, what it leads to is replaced.
    fn real_path(&self, path: &Path) -> PathBuf {
        self.real_paths.get(path).map_or_else(|| path.to_owned(), Clone::clone)
    }
}

/// Why nothing is restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The guest runs.
    #[error("guest '{0}' is active")]
    Active(GuestName),
    /// There is nothing to resume from.
    #[error("the point has no memory image (it is '{0}'), so the guest would boot from its disks")]
    NoMemory(Consistency),
    /// Its memory image was removed.
    #[error("the point's memory image is gone, so the guest would boot from its disks")]
    MemoryGone,
    /// The point has lost a disk.
    #[error("snapshot '{name}' of volume {volume}, which the point binds to its memory, {what}")]
    Mismatch {
        /// The snapshot's name.
        name: String,
        /// Its volume.
        volume: Volume,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The guest has its disk elsewhere now.
    #[error("disk {target} of guest '{guest}' is {} now, and the point holds {}", now.display(), then.display())]
    Moved {
        /// The guest.
        guest: GuestName,
        /// The disk.
        target: String,
        /// Where it is.
        now: PathBuf,
        /// Where it was.
        then: PathBuf,
    },
    /// A capture was interrupted and not yet repaired.
    #[error("disk {target} of guest '{guest}' is on the overlay of an unfinished capture")]
    OnOverlay {
        /// The guest.
        guest: GuestName,
        /// The disk.
        target: String,
    },
    /// The guest bears another name.
    #[error("guest '{then}' of the point is named '{now}' now")]
    Renamed {
        /// Its name now.
        now: GuestName,
        /// Its name in the point.
        then: GuestName,
    },
    /// Another guest bears the name.
    #[error("another guest is named '{0}' now")]
    NameTaken(GuestName),
}

impl From<RestoreError> for Problem {
    fn from(error: RestoreError) -> Self {
        use RestoreError as E;
        let hint = match &error {
            E::Active(_) => "--force stops it first; what it is doing now goes into a safety point",
            E::NoMemory(_) | E::MemoryGone => "--cold says that this is what you want",
            E::Mismatch { .. } => "the point cannot be restored as it was taken",
            E::Moved { .. } => "without --keep-definition the point's definition is put back too",
            E::OnOverlay { .. } => "'vitrify repair' brings it back first",
            E::Renamed { .. } => "rename it back, or keep its name with --keep-definition",
            E::NameTaken(_) => "rename that guest first ('virsh domrename')",
        };
        Problem::new(ProblemKind::Refused, error.to_string()).hint(hint)
    }
}

/// Makes the plan.
pub fn plan(request: &Request, facts: &Facts<'_>) -> Result<RestorePlan, RestoreError> {
    let manifest = facts.manifest;
    let name = manifest.guest.clone();
    if let Some(guest) = facts.guest {
        if guest.uuid != manifest.guest_uuid {
            return Err(RestoreError::NameTaken(name));
        }
        if guest.name != name && !request.keep_definition {
            return Err(RestoreError::Renamed { now: guest.name.clone(), then: name });
        }
        if guest.state.is_active() && !request.force {
            return Err(RestoreError::Active(guest.name.clone()));
        }
        check_disks(request, facts, guest)?;
    }
    let start = match (&facts.save_image, request.cold) {
        (Some(image), false) => StartMode::Resume { image: image.clone() },
        (None, false) if manifest.memory.is_some() => return Err(RestoreError::MemoryGone),
        (None, false) => return Err(RestoreError::NoMemory(manifest.consistency)),
        (_, true) if manifest.consistency == Consistency::Off => StartMode::StayOff,
        (_, true) => StartMode::Boot,
    };
    Ok(RestorePlan {
        id: request.id.clone(),
        point: manifest.id.clone(),
        guest: name,
        guest_uuid: manifest.guest_uuid.clone(),
        boot: facts.boot.clone(),
        session: facts.guest.and_then(|guest| guest.session.clone()),
        files: files(request, facts)?,
        definition: definition(request, facts),
        start,
        managed_save: facts.guest.is_some_and(|guest| guest.managed_save),
        paused: request.paused,
    })
}

fn definition(request: &Request, facts: &Facts<'_>) -> Option<DefinitionChange> {
    let old = facts.guest.and_then(|guest| guest.inactive_xml.clone());
    // A resumed guest that was transient comes from its image alone, and stays transient.
    let keep = request.keep_definition && old.is_some()
        || facts.transient && facts.save_image.is_some() && !request.cold;
    let same = old.as_deref() == Some(facts.definition_xml);
    (!keep && !same).then(|| DefinitionChange { new: facts.definition_xml.to_owned(), old })
}

fn files(request: &Request, facts: &Facts<'_>) -> Result<Vec<RestoreFile>, RestoreError> {
    let mut files = Vec::new();
    for disk in &facts.manifest.disks {
        let bound = facts.manifest.snapshot_of(disk);
        let mismatch = |what| RestoreError::Mismatch {
            name: bound.map_or_else(String::new, |snapshot| snapshot.name.to_string()),
            volume: disk.volume.clone(),
            what,
        };
        let bound = bound.ok_or_else(|| mismatch("is not in its manifest"))?;
        let found = facts
            .snapshots
            .iter()
            .find(|found| found.volume == bound.volume && found.name == bound.name)
            .ok_or_else(|| mismatch("is gone"))?;
        if found.id != bound.id {
            return Err(mismatch("is another one than was taken then"));
        }
        let snapshot = bound.clone();
        let (place, how) = match disk.path_in_volume.clone() {
            Some(path_in_volume) => {
                let place = facts.real_path(&disk.path);
                let source = FileSource::Snapshot { snapshot, path_in_volume };
                let beside = beside(&place, &request.id);
                (place, Replacement::Exchange { source, beside })
            }
            // Where its link leads changes from boot to boot.
            None => (disk.path.clone(), Replacement::Overwrite { snapshot }),
        };
        files.push(RestoreFile { label: disk.target.clone(), place, how });
    }
    for file in &facts.manifest.machine_files {
        let (label, place) = (file.name.clone(), facts.real_path(&file.path));
        let source = FileSource::Point { path: facts.folder.join(&file.name) };
        let beside = beside(&place, &request.id);
        files.push(RestoreFile { label, place, how: Replacement::Exchange { source, beside } });
    }
    Ok(files)
}

fn beside(place: &Path, id: &PointId) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(place.file_name().unwrap_or_default());
    name.push(format!(".vitrify-{id}"));
    place.with_file_name(name)
}

fn check_disks(request: &Request, facts: &Facts<'_>, guest: &Guest) -> Result<(), RestoreError> {
    let xml = guest.live_xml.as_ref().or(guest.inactive_xml.as_ref());
    let Some(now) = xml.and_then(|xml| Definition::parse(xml).ok()) else { return Ok(()) };
    for disk in &facts.manifest.disks {
        let path = now.disk(&disk.target).and_then(|disk| disk.source.path().cloned());
        let Some(path) = path else { continue };
        let (guest, target) = (guest.name.clone(), disk.target.clone());
        if path.starts_with(facts.overlay_folder) {
            return Err(RestoreError::OnOverlay { guest, target });
        }
        if request.keep_definition && path != disk.path {
            let then = disk.path.clone();
            return Err(RestoreError::Moved { guest, target, now: path, then });
        }
    }
    Ok(())
}
