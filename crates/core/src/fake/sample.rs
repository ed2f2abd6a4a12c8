//! Names and plans that tests agree on.

use std::path::Path;

use crate::capture::{self, CapturePlan, Consistency, Engine};
use crate::engine::{Observer, plan_capture, plan_restore, run};
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

/// A request for the best point that can be had, the `number`th.
pub fn capture_request(number: u32) -> capture::Request {
    capture::Request {
        point: literal!(format!("00000000-0000-4000-9000-{number:012}")),
        name: literal!(format!("point-{number}")),
        consistency: None,
        engine: None,
        plain_because: None,
        overlay_folder: "/overlays".into(),
        dump_limit_s: 60,
        commit_limit_s: 60,
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
    match plan_capture(&fake.world(), &capture_request(1), &fake.guest_uuid()) {
        Ok(plan) => plan,
        Err(problem) => unreachable!("{problem}"),
    }
}

/// The plan of a restore with memory of that guest, which runs again since.
pub fn sample_restore() -> RestorePlan {
    let fake = Fake::with_guest(1);
    let world = fake.world();
    let plan = || {
        let plan = plan_capture(&world, &capture_request(1), &fake.guest_uuid())?;
        run(&world, Plan::Capture(plan), &Nobody)?;
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
    Manifest {
        version: VERSION,
        id: plan.point,
        names: vec![literal!(name)],
        guest: plan.guest,
        guest_uuid: plan.guest_uuid,
        time: literal!(time),
        state: plan.state,
        consistency: Consistency::Crash,
        engine: Engine::Plain,
        reason: plan.reason,
        pause_us: None,
        stalled_us: 0,
        volumes: vec![Snapshot {
            volume: plan.volumes[0].clone(),
            name: literal!(name),
            id: snapshot_id(1),
        }],
        disks: vec![PointDisk {
            target: plan.disks[0].target.clone(),
            path: plan.disks[0].path.clone(),
            format: plan.disks[0].format.clone(),
            volume: plan.disks[0].volume.clone(),
            path_in_volume: plan.disks[0].path_in_volume.clone(),
        }],
        uncovered: Vec::new(),
        memory: None,
        nvram: None,
        machine: plan.machine,
        hypervisor: plan.hypervisor,
        kernel: plan.kernel,
    }
}
