//! The witness as a guest on its scratch volume, and the way that an engine is taken with it. Plans
//! are the real ones, carried out by the engine with ports of its own: the journal, the homes and the
//! overlays lie on the scratch volume.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use vitrify_core::capture::{self, Consistency, Engine, GuestRequest, Naming};
use vitrify_core::engine::{Observer, Planned, plan_capture, plan_restore, run};
use vitrify_core::name::{Bytes, PointId};
use vitrify_core::operation::{Outcome, Plan};
use vitrify_core::ports::{Answer, Homes as _, World};
use vitrify_core::problem::{Problem, ProblemNote};
use vitrify_core::restore;
use vitrify_core::self_test::{FAR, Ground, continues};

use super::SelfTest;
use super::scratch::Scratch;
use super::serial::Serial;
use crate::clock::SystemClock;
use crate::homes::{Reserve, StallLimits, Store, StoreConfig};
use crate::journal::FileJournal;
use crate::storage::HostStorage;

/// How long the witness may take to boot, and to get on: it takes a second or two, and ten times as
/// long where the host is emulated itself.
const LIMIT: Duration = Duration::from_secs(90);
/// How long a dump or a commit of its 64 MiB and few blocks may take, in seconds.
const LIMIT_S: u64 = 90;

pub(super) struct Bench<'a> {
    test: &'a SelfTest<'a>,
    scratch: &'a Scratch,
    observer: &'a dyn Observer,
    xml: String,
    serial: Serial,
    homes: Store,
    journal: FileJournal,
    overlays: PathBuf,
}

impl<'a> Bench<'a> {
    pub(super) fn set_up(
        test: &'a SelfTest<'a>,
        ground: &Ground,
        scratch: &'a Scratch,
        observer: &'a dyn Observer,
    ) -> Answer<Self> {
        let folder = scratch.path();
        let serial = folder.join("serial");
        // The scratch volume has room, or the disks beside it have none either.
        let store = StoreConfig {
            path: folder.join("memory"),
            reserve: Reserve::Bytes(Bytes(0)),
            on_root: true,
            spool: None,
            stall: StallLimits::default(),
        };
        Ok(Self {
            test,
            scratch,
            observer,
            xml: definition(ground, scratch, &serial),
            serial: Serial::new(&serial),
            homes: Store::new(store, Arc::clone(&test.cancelled)),
            journal: FileJournal::open(folder.join("journal"))?,
            overlays: folder.join("overlays"),
        })
    }

    fn world(&self) -> World<'_> {
        World {
            hypervisor: self.test.hypervisor,
            storage: &HostStorage,
            homes: &self.homes,
            journal: &self.journal,
            clock: &SystemClock,
        }
    }

    /// Boots the witness afresh.
    pub(super) fn boot(&mut self) -> Answer<()> {
        let name = self.scratch.guest();
        self.test.hypervisor.stop_self_test(&self.scratch.id, &name)?;
        self.serial.skip()?;
        self.test.hypervisor.start_transient(&self.xml)?;
        self.serial.status("boot", LIMIT, self.observer, |_| true).map(drop)
    }

    /// Captures the witness by an engine, lets it run on, puts it back, and hears whether that is
    /// where it was captured.
    pub(super) fn prove(&mut self, engine: Engine) -> Answer<()> {
        let before = self.next_status()?;
        let point = self.capture(engine)?;
        let after = self.next_status()?;
        let far = self.serial.status("run on after the capture", LIMIT, self.observer, |it| {
            it.boot != before.boot || it.count >= after.count + FAR
        })?;
        self.restore(&point)?;
        let first = self.serial.status("run on from its memory", LIMIT, self.observer, |it| {
            it.boot != before.boot || it.count < far.count
        })?;
        continues(&before, &after, &first).map_err(Problem::failed)?;
        // A step compares a part of the disk, and half of that distance all of the memory.
        self.serial
            .status("run on after the restore", LIMIT, self.observer, |it| {
                it.boot != before.boot || it.count >= first.count + FAR
            })
            .map(drop)
    }

    fn next_status(&mut self) -> Answer<vitrify_core::self_test::Status> {
        self.serial.skip()?;
        self.serial.status("run", LIMIT, self.observer, |_| true)
    }

    fn capture(&self, engine: Engine) -> Answer<PointId> {
        let point = (self.test.new_id)()?;
        let name = engine.to_string().parse();
        let name = name.map_err(|error| Problem::failed("a point's name").from(error))?;
        let request = capture::Request {
            id: (self.test.new_id)()?,
            name: Naming::Given(name),
            guests: vec![GuestRequest {
                guest: self.scratch.id.clone(),
                point: point.clone(),
                consistency: Some(Consistency::Memory),
                engine: Some(engine),
                failed: Vec::new(),
            }],
            overlay_folder: self.overlays.clone(),
            dump_limit_s: LIMIT_S,
            commit_limit_s: LIMIT_S,
            freeze_limit_s: LIMIT_S,
            pause_limit_ms: LIMIT_S * 1000,
        };
        let world = self.world();
        let Planned { plan, refused } = plan_capture(&world, &request)?;
        if let Some((_, problem)) = refused.into_iter().next() {
            return Err(problem);
        }
        let plan = plan.ok_or_else(|| Problem::failed("there is nothing to capture"))?;
        match run(&world, Plan::Capture(plan), self.observer)? {
            Outcome::Captured { failures, .. } if failures.is_empty() => Ok(point),
            outcome => Err(failure(outcome, "the capture")),
        }
    }

    fn restore(&self, point: &PointId) -> Answer<()> {
        let world = self.world();
        let found = self.homes.points()?.into_iter().find(|it| it.id == *point);
        let found = found.ok_or_else(|| Problem::failed("the point is gone"))?;
        let request = restore::Request {
            id: (self.test.new_id)()?,
            cold: false,
            paused: false,
            force: true,
            keep_definition: false,
        };
        let plan = plan_restore(&world, &request, &self.overlays, &found)?;
        match run(&world, Plan::Restore(plan), self.observer)? {
            Outcome::Restored => Ok(()),
            outcome => Err(failure(outcome, "the restore")),
        }
    }
}

/// Why an operation did not end as it should.
fn failure(outcome: Outcome, what: &str) -> Problem {
    let failures = match outcome {
        Outcome::Captured { failures, .. }
        | Outcome::Unsettled { failures, .. }
        | Outcome::Removed { failures } => failures,
        Outcome::Abandoned { failure } => failure.into_iter().collect(),
        Outcome::Restored => Vec::new(),
    };
    let first: Option<ProblemNote> = failures.into_iter().next().map(|it| it.problem);
    first.map_or_else(|| Problem::failed(format!("{what} was given up")), Into::into)
}

/// The witness as a guest: the host's defaults, and little to emulate.
fn definition(ground: &Ground, scratch: &Scratch, serial: &Path) -> String {
    let (disk, accelerator) = (scratch.disk(), &ground.accelerator);
    let (kind, attribute) = match disk.starts_with("/dev") {
        true => ("block", "dev"),
        false => ("file", "file"),
    };
    let [disk, serial] = [&*disk, serial].map(escape);
    format!(
        "<domain type='{accelerator}'><name>{}</name><uuid>{}</uuid>\
         <memory unit='MiB'>64</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='pc'>hvm</type></os>\
         <features><acpi/><apic/><smm state='off'/></features>\
         <devices><disk type='{kind}' device='disk'><driver name='qemu' type='raw'/>\
         <source {attribute}='{disk}'/><target dev='vda' bus='virtio'/><boot order='1'/></disk>\
         <controller type='usb' model='none'/><memballoon model='none'/>\
         <serial type='file'><source path='{serial}' append='on'/><target port='0'/></serial>\
         </devices></domain>",
        scratch.guest(),
        scratch.id,
    )
}

/// A path as the value of an attribute.
fn escape(path: &Path) -> String {
    let text = path.display().to_string();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;")
}
