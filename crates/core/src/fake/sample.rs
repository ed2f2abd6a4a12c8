//! Names and plans that tests agree on.

use std::path::Path;

use crate::capture::{self, CapturePlan, Consistency, Engine, GuestRequest, Naming};
use crate::engine::{Observer, Planned, plan_capture, plan_restore, run};
use crate::inventory::Snapshot;
use crate::manifest::{Manifest, PointDisk, VERSION};
use crate::name::{GuestName, GuestUuid, SnapshotId};
use crate::operation::{Effect, Fact, Plan};
use crate::problem::Problem;
use crate::restore::{self, RestorePlan};

use super::Fake;

macro_rules! literal {
    ($text:expr) => {
        match $text.parse() {
            Ok(name) => name,
            Err(error) => unreachable!("{error}"),
        }
    };
}

pub(super) fn guest_name() -> GuestName {
    literal!("w")
}

pub(super) fn guest_uuid() -> GuestUuid {
    literal!("00000000-0000-4000-8000-000000000001")
}

pub(super) fn snapshot_id(number: u64) -> SnapshotId {
    literal!(format!("snapshot-{number}"))
}

pub(super) fn neighbour_name() -> GuestName {
    literal!("v")
}

pub(super) fn neighbour_uuid() -> GuestUuid {
    literal!("00000000-0000-4000-8000-000000000002")
}

/// A request for the best point of the guest `w` that can be had, the `number`th.
pub fn capture_request(number: u32) -> capture::Request {
    capture::Request {
        id: literal!(format!("00000000-0000-4000-b000-{number:012}")),
        name: Naming::Given(literal!(format!("point-{number}"))),
        guests: vec![guest_request(guest_uuid(), number)],
        overlay_folder: "/overlays".into(),
        dump_limit_s: 60,
        commit_limit_s: 60,
        freeze_limit_s: 10,
        pause_limit_ms: 1000,
    }
}

/// A request for the best point of a guest that can be had, the `number`th.
pub fn guest_request(guest: GuestUuid, number: u32) -> GuestRequest {
    GuestRequest {
        guest,
        point: literal!(format!("00000000-0000-4000-9000-{number:012}")),
        consistency: None,
        engine: None,
        failed: Vec::new(),
    }
}

/// A request for a restore with memory of a guest that may be running.
pub fn restore_request() -> restore::Request {
    restore::Request {
        id: literal!("00000000-0000-4000-a000-000000000001"),
        cold: false,
        paused: false,
        force: true,
        keep_definition: false,
    }
}

/// The plan of a capture with memory of a running guest with one disk.
pub fn sample_capture() -> CapturePlan {
    let fake = Fake::with_guest(1);
    match plan_capture(&fake.world(), &capture_request(1)) {
        Ok(Planned { plan: Some(plan), .. }) => plan,
        other => unreachable!("{other:?}"),
    }
}

/// The plan of a restore with memory of that guest, which runs again since.
pub fn sample_restore() -> RestorePlan {
    let fake = Fake::with_guest(1);
    let world = fake.world();
    let plan = || {
        if let Some(plan) = plan_capture(&world, &capture_request(1))?.plan {
            run(&world, Plan::Capture(plan), &Nobody)?;
        }
        let points = world.homes.points()?;
        plan_restore(&world, &restore_request(), Path::new("/overlays"), &points[0])
    };
    match plan() {
        Ok(plan) => plan,
        Err(problem) => unreachable!("{problem}"),
    }
}

/// Watches nothing and stops nothing.
#[derive(Debug, Clone, Copy)]
pub struct Nobody;

impl Observer for Nobody {
    fn begins(&self, _: &Effect) {}
    fn ended(&self, _: &Effect, _: &Result<Fact, Problem>) {}
    fn cancelled(&self) -> bool {
        false
    }
}

/// A point without memory of the guest `w`, taken at `time` (RFC 3339) under this name.
pub fn sample_manifest(time: &str, name: &str) -> Manifest {
    let plan = sample_capture();
    let member = &plan.members[0];
    Manifest {
        version: VERSION,
        id: member.point.clone(),
        names: vec![literal!(name)],
        guest: member.guest.clone(),
        guest_uuid: member.guest_uuid.clone(),
        time: literal!(time),
        state: member.state,
        consistency: Consistency::Crash,
        engine: Engine::Plain,
        reason: member.reason.clone(),
        pause_us: None,
        stalled_us: 0,
        volumes: vec![Snapshot {
            volume: plan.volumes[0].clone(),
            name: literal!(name),
            id: snapshot_id(1),
        }],
        disks: vec![PointDisk {
            target: member.disks[0].target.clone(),
            path: member.disks[0].path.clone(),
            format: member.disks[0].format.clone(),
            volume: member.disks[0].volume.clone(),
            path_in_volume: member.disks[0].path_in_volume.clone(),
        }],
        uncovered: Vec::new(),
        memory: None,
        machine_files: Vec::new(),
        machine: member.machine.clone(),
        hypervisor: plan.hypervisor,
        kernel: plan.kernel,
    }
}
