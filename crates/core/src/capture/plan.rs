//! From what is there to a capture's plan: which disks of which guests, under which name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use super::choose::{Room, choose, overlay_obstacle};
use super::error::CaptureError;
use crate::capture::{
    CapturePlan, Consistency, CoveredDisk, Engine, MachineFile, Member, MemorySource,
};
use crate::definition::Definition;
use crate::inventory::{Disk, DiskDevice, DiskSource, Guest, GuestState, Location, Snapshot};
use crate::manifest::UncoveredDisk;
use crate::name::{GuestName, GuestUuid, PointId, PointName, Volume};
use crate::point::{Purpose, name_at};
use crate::ports::StoreFacts;
use crate::problem::ProblemNote;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The id of the capture to be.
    pub id: PointId,
    /// What its points are called.
    pub name: Naming,
    /// The guests.
    pub guests: Vec<GuestRequest>,
    /// Where overlay files go.
    pub overlay_folder: PathBuf,
    /// How long the dump of RAM may take, in seconds.
    pub dump_limit_s: u64,
    /// How long a disk's commit may take, in seconds.
    pub commit_limit_s: u64,
    /// How long a guest's agent may take for an answer, in seconds.
    pub freeze_limit_s: u64,
    /// How long a guest should stand still at most, in milliseconds.
    pub pause_limit_ms: u64,
}

/// How a capture's points get their name.
#[derive(Debug, Clone)]
pub enum Naming {
    /// They are called so.
    Given(PointName),
    /// By the first second from this time on that no snapshot of their volumes is called by, and by
    /// what they are taken for: the first, which names their snapshots as well, and the others.
    At(Timestamp, Purpose, Vec<Purpose>),
}

/// What is asked for of one guest.
#[derive(Debug, Clone)]
pub struct GuestRequest {
    /// The guest.
    pub guest: GuestUuid,
    /// The id of the point to be.
    pub point: PointId,
    /// What it must reach; `None`: the best that can be had.
    pub consistency: Option<Consistency>,
    /// How it must be done; `None`: as fits.
    pub engine: Option<Engine>,
    /// The engines that failed just before or in the self-test, and how.
    pub failed: Vec<(Engine, String)>,
}

/// What is known when it is asked for.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The guests, in the order of the request.
    pub guests: Vec<GuestFacts<'a>>,
    /// The snapshots that their volumes have.
    pub snapshots: Vec<Snapshot>,
    /// The volume that the overlay folder lies on, if that could be snapshotted at all.
    pub overlay_volume: Option<Volume>,
    /// What the store can take.
    pub store: StoreFacts,
    /// This boot.
    pub boot: String,
    /// This kernel.
    pub kernel: String,
    /// libvirt's and QEMU's versions.
    pub hypervisor: String,
}

/// What is known of one guest.
#[derive(Debug)]
pub struct GuestFacts<'a> {
    /// The guest.
    pub guest: &'a Guest,
    /// Its live definition, or the inactive one where it is shut off.
    pub definition: &'a Definition,
    /// Where each disk with a local path lies.
    pub locations: BTreeMap<String, Result<Location, ProblemNote>>,
    /// The small files that it has beside its disks.
    pub machine_files: Vec<MachineFile>,
    /// The managed-save image, where there is one that can be read.
    pub managed_save_image: Option<PathBuf>,
}

/// A plan for those guests that can be captured, and why the others cannot.
#[derive(Debug)]
pub struct Planned {
    /// The plan; `None` where it would have no guest.
    pub plan: Option<CapturePlan>,
    /// Why a guest is not in it.
    pub refused: Vec<(GuestUuid, CaptureError)>,
}

/// Makes the plan. Every reason that a user may question is in it.
///
/// # Errors
/// What stands against the capture of any of the guests: its name.
pub fn plan(request: &Request, facts: &Facts<'_>) -> Result<Planned, CaptureError> {
    let (mut members, mut refused) = (Vec::new(), Vec::new());
    let mut room = Room::of(&facts.store);
    for (wanted, guest) in request.guests.iter().zip(&facts.guests) {
        match member(request, wanted, facts, guest, &mut room) {
            Ok(member) => members.push(member),
            Err(error) => refused.push((wanted.guest.clone(), error)),
        }
    }
    if members.is_empty() {
        return Ok(Planned { plan: None, refused });
    }
    let volumes: BTreeSet<_> = members.iter().flat_map(Member::volumes).cloned().collect();
    let on_them: Vec<_> =
        facts.snapshots.iter().filter(|it| volumes.contains(&it.volume)).collect();
    let (name, further_names) = names(&request.name, &on_them)?;
    let plan = CapturePlan {
        id: request.id.clone(),
        name,
        further_names,
        boot: facts.boot.clone(),
        known_snapshots: on_them.iter().map(|found| found.id.clone()).collect(),
        volumes: volumes.into_iter().collect(),
        members,
        hypervisor: facts.hypervisor.clone(),
        kernel: facts.kernel.clone(),
        dump_limit_s: request.dump_limit_s,
        commit_limit_s: request.commit_limit_s,
        freeze_limit_s: request.freeze_limit_s,
        pause_limit_ms: request.pause_limit_ms,
    };
    Ok(Planned { plan: Some(plan), refused })
}

/// What the points are called whose volumes have these snapshots, and what else. Several guests of one
/// volume can be captured one after the other in one second.
///
/// # Errors
/// Where a name that was given is taken.
pub fn names(
    naming: &Naming,
    snapshots: &[&Snapshot],
) -> Result<(PointName, Vec<PointName>), CaptureError> {
    match naming {
        Naming::Given(name) => match snapshots.iter().find(|found| found.name == *name) {
            Some(taken) => Err(CaptureError::NameTaken((*taken).clone())),
            None => Ok((name.clone(), Vec::new())),
        },
        Naming::At(time, first, others) => {
            let mut time = *time;
            loop {
                let name = name_at(time, *first)?;
                if !snapshots.iter().any(|found| found.name == name) {
                    let others = others.iter().map(|it| name_at(time, *it));
                    return Ok((name, others.collect::<Result<_, _>>()?));
                }
                time = time.saturating_add(SignedDuration::from_secs(1)).unwrap_or(Timestamp::MAX);
            }
        }
    }
}

fn member(
    request: &Request,
    wanted: &GuestRequest,
    facts: &Facts<'_>,
    guest_facts: &GuestFacts<'_>,
    room: &mut Room<'_>,
) -> Result<Member, CaptureError> {
    let guest = guest_facts.guest;
    check_idle(guest, guest_facts.definition)?;
    let cover = cover(&request.overlay_folder, &wanted.point, guest_facts)?;
    let chosen = choose(wanted, guest_facts, &cover.disks, &cover.uncovered, room)?;
    let captured = |it: &&Volume| cover.disks.iter().any(|disk| disk.volume == **it);
    let misplaced = facts.overlay_volume.as_ref().filter(captured).map(|volume| {
        let (folder, volume) = (request.overlay_folder.clone(), volume.clone());
        CaptureError::OverlayFolder { folder, volume }
    });
    let no_overlays = match (chosen.engine, misplaced) {
        (Engine::Overlay, Some(error)) => return Err(error),
        (Engine::Instant, Some(error)) => Some(error.to_string()),
        (Engine::Instant, None) => overlay_obstacle(guest_facts.definition, &cover.disks),
        _ => None,
    };
    if chosen.memory != MemorySource::None {
        room.promise(guest_facts.definition);
    }
    let runs = guest.state == GuestState::Running;
    Ok(Member {
        point: wanted.point.clone(),
        guest: guest.name.clone(),
        guest_uuid: guest.uuid.clone(),
        state: guest.state,
        session: guest.session.clone(),
        // Two instants of a guest that runs on are not even a pulled power cord.
        suspend: match chosen.engine {
            Engine::Instant => true,
            // What is on no file system is written on while those are frozen.
            Engine::Freeze | Engine::Plain => runs && cover.groups.len() > 1,
            Engine::Overlay => false,
        },
        no_overlays,
        engine: chosen.engine,
        reason: chosen.reason,
        consistency: chosen.consistency,
        memory: chosen.memory,
        disks: cover.disks,
        uncovered: cover.uncovered,
        warnings: cover.warnings.into_iter().collect(),
        live_xml: guest.live_xml.clone(),
        inactive_xml: guest.inactive_xml.clone(),
        machine_files: guest_facts.machine_files.clone(),
        machine: guest_facts.definition.machine.clone(),
    })
}

fn check_idle(guest: &Guest, definition: &Definition) -> Result<(), CaptureError> {
    let busy = |doing: String| CaptureError::Busy { guest: guest.name.clone(), doing };
    match guest.state {
        GuestState::PausedOnError => {
            return Err(busy(
                "is paused, because it could not write to a disk: make room, then 'virsh resume' it"
                    .into(),
            ));
        }
        GuestState::PausedOtherwise => {
            return Err(busy(
                "is paused, and not by its user: after a migration, a crash, or a restore with \
                 --paused ('virsh domstate --reason' tells)"
                    .into(),
            ));
        }
        GuestState::Running | GuestState::PausedByUser | GuestState::ShutOff => {}
    }
    if let Some(job) = &guest.job {
        return Err(busy(format!("is in the middle of a job of libvirt ({job})")));
    }
    match definition.disks.iter().find(|disk| disk.mirror) {
        Some(disk) => Err(busy(format!("has a block job on its disk {}", disk.target))),
        None => Ok(()),
    }
}

/// What a point of a guest would hold.
struct Cover {
    disks: Vec<CoveredDisk>,
    uncovered: Vec<UncoveredDisk>,
    /// The groups of volumes that are snapshotted at one instant each.
    groups: BTreeSet<String>,
    warnings: BTreeSet<String>,
}

fn cover(folder: &Path, point: &PointId, facts: &GuestFacts<'_>) -> Result<Cover, CaptureError> {
    let guest = &facts.guest.name;
    let (mut disks, mut uncovered) = (Vec::new(), Vec::new());
    let (mut groups, mut warnings) = (BTreeSet::new(), BTreeSet::new());
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
        if path.starts_with(folder) {
            return Err(CaptureError::OnOverlay { guest: guest.clone(), target });
        }
        let location = location.clone().map_err(|problem| CaptureError::Disk {
            guest: guest.clone(),
            target: target.clone(),
            problem,
        })?;
        groups.insert(location.group);
        warnings.extend(location.warnings);
        disks.push(CoveredDisk {
            overlay: overlay_file(folder, guest, &target, point),
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
    Ok(Cover { disks, uncovered, groups, warnings })
}

/// Fresh for every capture, and recognisable by the point's id.
fn overlay_file(folder: &Path, guest: &GuestName, target: &str, point: &PointId) -> PathBuf {
    folder.join(format!("{guest}.{target}.{point}.qcow2"))
}

pub(super) fn is_written(disk: &Disk) -> bool {
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
