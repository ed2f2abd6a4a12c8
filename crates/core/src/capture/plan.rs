//! From what is there to a capture's plan: which disks, which engine, and why.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::capture::{CapturePlan, Consistency, CoveredDisk, Engine, MemorySource};
use crate::definition::Definition;
use crate::inventory::{Disk, DiskDevice, DiskSource, Guest, GuestState, Location, Snapshot};
use crate::manifest::UncoveredDisk;
use crate::name::{Bytes, GuestName, PointId, PointName, Volume};
use crate::ports::StoreFacts;
use crate::problem::{Problem, ProblemKind, ProblemNote};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The id of the point to be.
    pub point: PointId,
    /// Its name.
    pub name: PointName,
    /// What it must reach; `None`: the best that can be had.
    pub consistency: Option<Consistency>,
    /// How it must be done; `None`: as fits.
    pub engine: Option<Engine>,
    /// Why only the disks are to be captured although nothing was demanded: what a better engine
    /// failed of just before.
    pub plain_because: Option<String>,
    /// Where overlay files go.
    pub overlay_folder: PathBuf,
    /// How long the dump of RAM may take, in seconds.
    pub dump_limit_s: u64,
    /// How long a disk's commit may take, in seconds.
    pub commit_limit_s: u64,
}

/// What is known when it is asked for.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The guest.
    pub guest: &'a Guest,
    /// Its live definition, or the inactive one where it is shut off.
    pub definition: &'a Definition,
    /// Where each disk with a local path lies.
    pub locations: BTreeMap<String, Result<Location, ProblemNote>>,
    /// The snapshots that those volumes have.
    pub snapshots: Vec<Snapshot>,
    /// The volume that the overlay folder lies on, if that could be snapshotted at all.
    pub overlay_volume: Option<Volume>,
    /// What the store can take.
    pub store: StoreFacts,
    /// The managed-save image, where there is one that can be read.
    pub managed_save_image: Option<PathBuf>,
    /// This boot.
    pub boot: String,
    /// This kernel.
    pub kernel: String,
    /// libvirt's and QEMU's versions.
    pub hypervisor: String,
}

/// Why no capture is planned.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// libvirt or an administrator has the guest in hand.
    #[error("guest '{guest}' {doing}")]
    Busy {
        /// The guest.
        guest: GuestName,
        /// What is going on.
        doing: String,
    },
    /// A disk reads the overlay of an earlier capture.
    #[error("disk {target} of guest '{guest}' is on the overlay of an unfinished capture")]
    OnOverlay {
        /// The guest.
        guest: GuestName,
        /// The disk.
        target: String,
    },
    /// A disk lies where nothing can be snapshotted, or is not there.
    #[error("disk {target} of guest '{guest}' cannot be captured: {}", problem.message)]
    Disk {
        /// The guest.
        guest: GuestName,
        /// The disk.
        target: String,
        /// Why not.
        problem: ProblemNote,
    },
    /// Nothing to capture.
    #[error("guest '{0}' has no writable disk on local storage")]
    NoDisk(GuestName),
    /// The overlay folder would be captured itself.
    #[error("the overlay folder {} lies on volume {volume}, which would be captured", folder.display())]
    OverlayFolder {
        /// The folder.
        folder: PathBuf,
        /// The volume.
        volume: Volume,
    },
    /// What was demanded cannot be had.
    #[error("guest '{guest}' cannot be captured with {wanted}: {reason}")]
    CannotReach {
        /// The guest.
        guest: GuestName,
        /// The consistency or engine that was demanded.
        wanted: String,
        /// Why not.
        reason: String,
        /// What follows from that.
        kind: ProblemKind,
    },
    /// The snapshot's name is taken.
    #[error("volume {} has a snapshot named '{}' already", .0.volume, .0.name)]
    NameTaken(Snapshot),
}

impl From<CaptureError> for Problem {
    fn from(error: CaptureError) -> Self {
        use CaptureError as E;
        let (kind, hint) = match &error {
            E::Busy { .. } => (ProblemKind::Refused, "try again when that is over".to_owned()),
            E::OnOverlay { guest, .. } => {
                (ProblemKind::Refused, format!("'vitrify repair {guest}' brings it back"))
            }
            E::Disk { problem, .. } => (
                ProblemKind::Lacking,
                problem.hint.clone().unwrap_or_else(|| "see 'vitrify doctor'".into()),
            ),
            E::NoDisk(guest) => (ProblemKind::Lacking, format!("see 'virsh domblklist {guest}'")),
            E::OverlayFolder { .. } => (
                ProblemKind::Lacking,
                "set [overlay] path to a folder on another volume".to_owned(),
            ),
            E::CannotReach { kind, .. } => (
                *kind,
                "without --consistency and --engine, the next lower is taken and recorded".into(),
            ),
            E::NameTaken(_) => (ProblemKind::Refused, "choose another --name".to_owned()),
        };
        Problem::new(kind, error.to_string()).hint(hint)
    }
}

/// Makes the plan. Every reason that a user may question is in it.
pub fn plan(request: &Request, facts: &Facts<'_>) -> Result<CapturePlan, CaptureError> {
    let guest = facts.guest;
    check_idle(guest, facts.definition)?;
    let (disks, uncovered) = cover(request, facts)?;
    let mut volumes: Vec<Volume> = disks.iter().map(|disk| disk.volume.clone()).collect();
    volumes.sort();
    volumes.dedup();
    if let Some(taken) = facts.snapshots.iter().find(|found| found.name == request.name) {
        return Err(CaptureError::NameTaken(taken.clone()));
    }

    let chosen = choose(request, facts, &uncovered)?;
    if chosen.engine == Engine::Overlay
        && let Some(volume) = facts.overlay_volume.as_ref().filter(|it| volumes.contains(it))
    {
        let (folder, volume) = (request.overlay_folder.clone(), volume.clone());
        return Err(CaptureError::OverlayFolder { folder, volume });
    }
    let suspend =
        chosen.engine == Engine::Plain && guest.state == GuestState::Running && volumes.len() > 1;
    Ok(CapturePlan {
        point: request.point.clone(),
        name: request.name.clone(),
        guest: guest.name.clone(),
        guest_uuid: guest.uuid.clone(),
        boot: facts.boot.clone(),
        state: guest.state,
        session: guest.session.clone(),
        engine: chosen.engine,
        reason: chosen.reason,
        consistency: chosen.consistency,
        memory: chosen.memory,
        suspend,
        disks,
        uncovered,
        volumes,
        known_snapshots: facts.snapshots.iter().map(|found| found.id.clone()).collect(),
        live_xml: guest.live_xml.clone(),
        inactive_xml: guest.inactive_xml.clone(),
        nvram: facts.definition.nvram.clone(),
        machine: facts.definition.machine.clone(),
        hypervisor: facts.hypervisor.clone(),
        kernel: facts.kernel.clone(),
        dump_limit_s: request.dump_limit_s,
        commit_limit_s: request.commit_limit_s,
    })
}

fn check_idle(guest: &Guest, definition: &Definition) -> Result<(), CaptureError> {
    let busy = |doing: String| CaptureError::Busy { guest: guest.name.clone(), doing };
    if guest.state == GuestState::PausedOtherwise {
        return Err(busy(
            "is paused, and not by its user: after an I/O error, a migration, a crash, or a restore \
             with --paused ('virsh domstate --reason' tells)"
                .into(),
        ));
    }
    if let Some(job) = &guest.job {
        return Err(busy(format!("is in the middle of a job of libvirt ({job})")));
    }
    match definition.disks.iter().find(|disk| disk.mirror) {
        Some(disk) => Err(busy(format!("has a block job on its disk {}", disk.target))),
        None => Ok(()),
    }
}

type Cover = (Vec<CoveredDisk>, Vec<UncoveredDisk>);

fn cover(request: &Request, facts: &Facts<'_>) -> Result<Cover, CaptureError> {
    let guest = &facts.guest.name;
    let mut disks = Vec::new();
    let mut uncovered = Vec::new();
    for disk in facts.definition.disks.iter().filter(|disk| is_written(disk)) {
        let target = disk.target.clone();
        if let Some(reason) = why_uncovered(disk) {
            uncovered.push(UncoveredDisk { target, reason });
            continue;
        }
        let (Some(path), Some(location)) = (disk.source.path(), facts.locations.get(&target))
        else {
            continue;
        };
        if path.starts_with(&request.overlay_folder) {
            return Err(CaptureError::OnOverlay { guest: guest.clone(), target });
        }
        let location = location.clone().map_err(|problem| CaptureError::Disk {
            guest: guest.clone(),
            target: target.clone(),
            problem,
        })?;
        disks.push(CoveredDisk {
            overlay: overlay_file(&request.overlay_folder, guest, &target, &request.point),
            target,
            path: path.clone(),
            object: location.object,
            format: disk.format.clone(),
            volume: location.volume,
            path_in_volume: location.path_in_volume,
        });
    }
    if disks.is_empty() {
        return Err(CaptureError::NoDisk(guest.clone()));
    }
    Ok((disks, uncovered))
}

/// Fresh for every capture, and recognisable by the point's id.
fn overlay_file(folder: &Path, guest: &GuestName, target: &str, point: &PointId) -> PathBuf {
    folder.join(format!("{guest}.{target}.{point}.qcow2"))
}

fn is_written(disk: &Disk) -> bool {
    let drive = matches!(disk.device, DiskDevice::Disk | DiskDevice::Lun);
    drive && !disk.read_only && disk.source != DiskSource::Empty
}

fn why_uncovered(disk: &Disk) -> Option<String> {
    match &disk.source {
        DiskSource::Elsewhere(kind) => Some(format!("its source is of type '{kind}', not local")),
        _ if disk.device == DiskDevice::Lun => Some("it is a passed-through SCSI device".into()),
        _ if disk.shareable => Some("it is shareable: others write to it too".into()),
        _ => None,
    }
}

struct Chosen {
    engine: Engine,
    consistency: Consistency,
    memory: MemorySource,
    reason: String,
}

fn choose(
    request: &Request,
    facts: &Facts<'_>,
    uncovered: &[UncoveredDisk],
) -> Result<Chosen, CaptureError> {
    let guest = facts.guest;
    let obstacle = memory_obstacle(facts, uncovered);
    let full = obstacle.as_ref().is_some_and(|it| it.kind == ProblemKind::NoSpace);
    let cannot = |wanted: String, reason: &str| CaptureError::CannotReach {
        guest: guest.name.clone(),
        wanted,
        reason: reason.to_owned(),
        kind: if full { ProblemKind::NoSpace } else { ProblemKind::Lacking },
    };
    let obstacle = obstacle.map(|it| it.text);
    let lower = request.plain_because.is_some()
        || request.engine == Some(Engine::Plain)
        || request.consistency.is_some_and(|wanted| wanted != Consistency::Memory);
    if let (Some(Engine::Overlay), true) = (request.engine, lower) {
        return Err(cannot("engine overlay".into(), "it always captures memory"));
    }
    let chosen = match (guest.state, obstacle) {
        (GuestState::ShutOff, obstacle) => shut_off(facts, obstacle.filter(|_| !lower), lower),
        (_, Some(obstacle)) if !lower => {
            plain(Consistency::Crash, format!("no memory image: {obstacle}"))
        }
        (_, _) if lower => {
            let asked_for = || "as asked for".to_owned();
            plain(Consistency::Crash, request.plain_because.clone().unwrap_or_else(asked_for))
        }
        _ => Chosen {
            engine: Engine::Overlay,
            consistency: Consistency::Memory,
            memory: MemorySource::Dump,
            reason: "the guest runs and its memory can be kept".into(),
        },
    };
    match request.consistency {
        Some(Consistency::Memory) if chosen.consistency != Consistency::Memory => {
            return Err(cannot("consistency memory".into(), &chosen.reason));
        }
        Some(Consistency::Off) if chosen.consistency != Consistency::Off => {
            return Err(cannot("consistency off".into(), "it is not shut off"));
        }
        _ => {}
    }
    if request.engine == Some(Engine::Overlay) && chosen.engine != Engine::Overlay {
        return Err(cannot("engine overlay".into(), &chosen.reason));
    }
    Ok(chosen)
}

fn plain(consistency: Consistency, reason: String) -> Chosen {
    Chosen { engine: Engine::Plain, consistency, memory: MemorySource::None, reason }
}

fn shut_off(facts: &Facts<'_>, obstacle: Option<String>, lower: bool) -> Chosen {
    if !facts.guest.managed_save {
        return plain(Consistency::Off, "the guest is shut off".into());
    }
    let without = |why: &str| {
        plain(Consistency::Crash, format!("the guest is saved by libvirt, and its image {why}"))
    };
    match (&facts.managed_save_image, obstacle) {
        _ if lower => without("was not asked for"),
        (None, _) => without("could not be read"),
        (_, Some(obstacle)) => without(&format!("is not kept: {obstacle}")),
        (Some(path), None) => Chosen {
            engine: Engine::Plain,
            consistency: Consistency::Memory,
            memory: MemorySource::ManagedSave { path: path.clone() },
            reason: "the guest is saved by libvirt, and the point keeps its image".into(),
        },
    }
}

/// Why the point cannot have a memory image.
struct Obstacle {
    kind: ProblemKind,
    text: String,
}

fn memory_obstacle(facts: &Facts<'_>, uncovered: &[UncoveredDisk]) -> Option<Obstacle> {
    let lacking = |text: String| Some(Obstacle { kind: ProblemKind::Lacking, text });
    if facts.guest.state == GuestState::PausedByUser {
        return lacking("the guest is suspended, and stays so".into());
    }
    if let Some(disk) = uncovered.first() {
        return lacking(format!("disk {} is not captured ({})", disk.target, disk.reason));
    }
    let unsafe_disk = facts
        .definition
        .disks
        .iter()
        .find(|disk| is_written(disk) && disk.cache.as_deref() == Some("unsafe"));
    if let Some(disk) = unsafe_disk {
        return lacking(format!("disk {} has cache='unsafe', which ignores flushes", disk.target));
    }
    if let Some(reason) = &facts.store.no_memory {
        return lacking(reason.clone());
    }
    let needed = Bytes(facts.definition.memory_kib * 1024);
    let usable = Bytes(facts.store.free.0.saturating_sub(facts.store.reserve.0));
    (usable < needed).then(|| Obstacle {
        kind: ProblemKind::NoSpace,
        text: format!(
            "the store {} has {usable} to give above its reserve of {}, and RAM may need {needed}",
            facts.store.path.display(),
            facts.store.reserve,
        ),
    })
}
