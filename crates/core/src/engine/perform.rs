//! What each effect is in terms of the ports.

use std::time::Duration;

use crate::capture::overlay::{Found, Verdict, judge};
use crate::capture::{CapturePlan, CoveredDisk, MemorySource};
use crate::definition::Definition;
use crate::engine::definition_of;
use crate::inventory::{Guest, Session, Snapshot};
use crate::manifest::{Manifest, PointDisk, VERSION};
use crate::operation::{Effect, Fact, History, JournalEntry, Plan, Settle};
use crate::ports::{Answer, Commit, FileContent, NamedFile, OverlayDisk, World};
use crate::problem::{Problem, ProblemKind};
use crate::restore::{FileSource, RestoreFile, RestorePlan, StartMode, prepared};

/// Performs one effect of an entry.
pub(super) fn perform(world: &World<'_>, entry: &JournalEntry, effect: &Effect) -> Answer<Fact> {
    let history = History::of(&entry.records);
    match &entry.plan {
        Plan::Capture(plan) => Capture { world, plan, history }.perform(effect),
        Plan::Restore(plan) => Restore { world, plan, history }.perform(effect),
    }
}

fn misplaced(effect: &Effect) -> Problem {
    Problem::failed(format!("the effect '{effect}' does not belong to this operation"))
}

fn session_of(session: Option<&Session>) -> Answer<&Session> {
    session.ok_or_else(|| Problem::failed("the plan names no running guest"))
}

struct Capture<'a> {
    world: &'a World<'a>,
    plan: &'a CapturePlan,
    history: History<'a>,
}

impl Capture<'_> {
    fn perform(&self, effect: &Effect) -> Answer<Fact> {
        let (world, plan) = (self.world, self.plan);
        let done = |()| Fact::Done;
        match effect {
            Effect::StagePoint => self.stage().map(done),
            Effect::KeepManagedSave => self.keep_managed_save(),
            Effect::ExternalSnapshot => self.external_snapshot(),
            Effect::Suspend => {
                let session = session_of(plan.session.as_ref())?;
                world.hypervisor.suspend(&plan.guest_uuid, session).map(done)
            }
            Effect::SnapshotVolumes => self.snapshot_volumes(),
            Effect::Resume => {
                let session = session_of(plan.session.as_ref())?;
                let pause = world.hypervisor.resume(&plan.guest_uuid, session)?;
                Ok(pause.map_or(Fact::Done, Fact::Paused))
            }
            Effect::AbortSnapshotJob => self.abort_snapshot_job().map(done),
            Effect::SettleOverlay { target, how } => {
                self.settle_overlay(self.disk(target)?, *how).map(done)
            }
            Effect::RemoveOverlay { target } => self.remove_overlay(self.disk(target)?).map(done),
            Effect::Publish => Ok(Fact::Published(world.homes.publish(&self.manifest()?)?)),
            Effect::DestroySnapshots => self.destroy_snapshots().map(done),
            Effect::DiscardPoint => world.homes.discard(&plan.guest_uuid, &plan.point).map(done),
            _ => Err(misplaced(effect)),
        }
    }

    fn disk(&self, target: &str) -> Answer<&CoveredDisk> {
        self.plan
            .disk(target)
            .ok_or_else(|| Problem::failed(format!("no disk {target} in the plan")))
    }

    fn inspect(&self) -> Answer<Guest> {
        self.world.hypervisor.inspect(&self.plan.guest_uuid)
    }

    fn stage(&self) -> Answer<()> {
        let plan = self.plan;
        let mut files = Vec::new();
        for (name, xml) in
            [("domain.xml", &plan.live_xml), ("domain.inactive.xml", &plan.inactive_xml)]
        {
            if let Some(text) = xml {
                files.push(NamedFile {
                    name: name.into(),
                    content: FileContent::Text(text.clone()),
                });
            }
        }
        self.world.homes.stage(&plan.guest_uuid, &plan.point, &files)?;

        // For administrators, who look for the definition beside the disks.
        let mut beside = Vec::new();
        if let Some(xml) = plan.inactive_xml.as_ref().or(plan.live_xml.as_ref()) {
            let content = FileContent::Text(xml.clone());
            beside.push(NamedFile { name: format!("{}.xml", plan.guest), content });
        }
        beside.extend(self.nvram(format!("{}.nvram", plan.guest)));
        plan.volumes.iter().try_for_each(|volume| self.world.storage.annotate(volume, &beside))
    }

    fn nvram(&self, name: String) -> Option<NamedFile> {
        let path = self.plan.nvram.clone()?;
        Some(NamedFile { name, content: FileContent::CopyOf(path) })
    }

    fn keep_managed_save(&self) -> Answer<Fact> {
        let (world, plan) = (self.world, self.plan);
        let MemorySource::ManagedSave { path } = &plan.memory else {
            return Err(misplaced(&Effect::KeepManagedSave));
        };
        world.homes.stage_memory_copy(&plan.guest_uuid, &plan.point, path)?;
        let memory = world.homes.seal_memory(&plan.guest_uuid, &plan.point)?;
        Ok(Fact::Kept { memory })
    }

    fn external_snapshot(&self) -> Answer<Fact> {
        let (world, plan) = (self.world, self.plan);
        let guest = self.inspect()?;
        if guest.session != plan.session {
            return Err(Problem::failed(format!("guest '{}' was restarted meanwhile", plan.guest)));
        }
        let definition = definition_of(&guest)?;
        let disks: Vec<_> = definition
            .disks
            .iter()
            .map(|disk| OverlayDisk {
                target: &disk.target,
                overlay: plan.disk(&disk.target).map(|covered| covered.overlay.as_path()),
            })
            .collect();
        let memory = world.homes.staged_memory(&plan.guest_uuid, &plan.point);
        let limit = Duration::from_secs(plan.dump_limit_s);
        let pause = world.hypervisor.external_snapshot(&plan.guest_uuid, &memory, &disks, limit)?;

        let after = self.inspect()?;
        let now = definition_of(&after)?;
        for disk in &plan.disks {
            let top = now.disk(&disk.target).and_then(|disk| disk.source.path());
            if after.session != plan.session || top != Some(&disk.overlay) {
                return Err(Problem::failed(format!(
                    "disk {} of guest '{}' is not on its overlay after the snapshot",
                    disk.target, plan.guest
                )));
            }
        }
        let memory = world.homes.seal_memory(&plan.guest_uuid, &plan.point)?;
        Ok(Fact::Dumped { pause, memory })
    }

    fn snapshot_volumes(&self) -> Answer<Fact> {
        let (world, plan) = (self.world, self.plan);
        // Inside the pause where there is one, else as near to the instant as can be.
        if let Some(nvram) = self.nvram("nvram".into()) {
            world.homes.stage(&plan.guest_uuid, &plan.point, &[nvram])?;
        }
        let time = world.clock.now();
        let snapshots = world.storage.snapshot(&plan.volumes, &plan.name)?;
        Ok(Fact::Snapshots { snapshots, time })
    }

    fn abort_snapshot_job(&self) -> Answer<()> {
        let guest = self.inspect()?;
        if guest.session != self.plan.session {
            return Ok(());
        }
        self.world.hypervisor.abort_snapshot_job(&self.plan.guest_uuid)
    }

    fn settle_overlay(&self, disk: &CoveredDisk, how: Settle) -> Answer<()> {
        let (world, plan) = (self.world, self.plan);
        let guest = self.inspect()?;
        let definition = definition_of(&guest)?;
        let base = world.storage.object(&disk.path)?;
        let found = Found {
            state: guest.state,
            session: guest.session.as_ref(),
            top: definition.disk(&disk.target).and_then(|it| it.source.path()).map(|it| &**it),
            base: base.as_ref(),
            snapshot: self.own_snapshot(disk)?,
            commit_begun: self.commit_begun(),
        };
        match judge(plan, disk, &found, how) {
            Verdict::OnBase => {}
            Verdict::CommitLive => world.hypervisor.commit_overlay(&Commit {
                guest: &plan.guest_uuid,
                target: &disk.target,
                overlay: &disk.overlay,
                base: &disk.path,
                limit: Duration::from_secs(plan.commit_limit_s),
            })?,
            Verdict::CommitOffline => {
                world.hypervisor.commit_offline(&disk.overlay, &disk.path)?;
            }
            Verdict::Discard => {}
            Verdict::Refuse(refusal) => {
                let message = format!("disk {} of guest '{}'", disk.target, plan.guest);
                let hint = refusal.hint(plan, disk);
                return Err(Problem::refused(message).from(refusal).hint(hint));
            }
        }
        let inactive = self.inspect()?.inactive_xml;
        let names_overlay = inactive
            .and_then(|xml| Definition::parse(&xml).ok())
            .and_then(|it| it.disk(&disk.target).and_then(|it| it.source.path().cloned()))
            .is_some_and(|path| path == disk.overlay);
        if names_overlay {
            let (target, path, format) = (&disk.target, &disk.path, &disk.format);
            world.hypervisor.repoint_disk(&plan.guest_uuid, target, path, format)?;
        }
        Ok(())
    }

    fn commit_begun(&self) -> bool {
        let begun = |target: &str, how| {
            self.history.possibly_done(&Effect::SettleOverlay { target: target.to_owned(), how })
        };
        self.plan.disks.iter().any(|disk| {
            begun(&disk.target, Settle::Commit) || begun(&disk.target, Settle::CommitOffline)
        })
    }

    /// Whether the capture's snapshot of a disk's volume exists; `None` if none was ever begun.
    fn own_snapshot(&self, disk: &CoveredDisk) -> Answer<Option<bool>> {
        if !self.history.begun(&Effect::SnapshotVolumes) {
            return Ok(None);
        }
        let Some(Fact::Snapshots { snapshots, .. }) = self.history.done(&Effect::SnapshotVolumes)
        else {
            return Ok(self
                .unrecorded_snapshots()?
                .iter()
                .any(|it| it.volume == disk.volume)
                .then_some(true));
        };
        let there = self.world.storage.snapshots(&disk.volume)?;
        Ok(Some(snapshots.iter().any(|own| own.volume == disk.volume && there.contains(own))))
    }

    fn remove_overlay(&self, disk: &CoveredDisk) -> Answer<()> {
        let guest = self.inspect()?;
        for xml in [&guest.live_xml, &guest.inactive_xml].into_iter().flatten() {
            let definition = Definition::parse(xml)
                .map_err(|error| Problem::failed("the guest's definition").from(error))?;
            let named = definition.disks.iter().any(|it| {
                it.source.path() == Some(&disk.overlay) || it.backing.contains(&disk.overlay)
            });
            if named {
                return Err(Problem::refused(format!(
                    "overlay {} is still named by guest '{}'",
                    disk.overlay.display(),
                    self.plan.guest
                )));
            }
        }
        self.world.storage.remove_file(&disk.overlay)
    }

    /// The snapshots that this capture took without living to record it: of its name, and not
    /// there when it was planned.
    fn unrecorded_snapshots(&self) -> Answer<Vec<Snapshot>> {
        let mut own = Vec::new();
        for volume in &self.plan.volumes {
            own.extend(self.world.storage.snapshots(volume)?.into_iter().filter(|found| {
                found.name == self.plan.name && !self.plan.known_snapshots.contains(&found.id)
            }));
        }
        Ok(own)
    }

    fn destroy_snapshots(&self) -> Answer<()> {
        let own = match self.history.done(&Effect::SnapshotVolumes) {
            Some(Fact::Snapshots { snapshots, .. }) => snapshots.clone(),
            _ => self.unrecorded_snapshots()?,
        };
        own.iter().try_for_each(|snapshot| self.world.storage.destroy(snapshot))
    }

    fn manifest(&self) -> Answer<Manifest> {
        let plan = self.plan;
        let Some(Fact::Snapshots { snapshots, time }) = self.history.done(&Effect::SnapshotVolumes)
        else {
            return Err(misplaced(&Effect::Publish));
        };
        let (memory, mut pause) = match (
            self.history.done(&Effect::ExternalSnapshot),
            self.history.done(&Effect::KeepManagedSave),
        ) {
            (Some(Fact::Dumped { pause, memory }), _) => (Some(memory), Some(*pause)),
            (_, Some(Fact::Kept { memory })) => (Some(memory), None),
            _ => (None, None),
        };
        if let Some(Fact::Paused(paused)) = self.history.done(&Effect::Resume) {
            pause = Some(*paused);
        }
        let disks = plan.disks.iter().map(|disk| PointDisk {
            target: disk.target.clone(),
            path: disk.path.clone(),
            format: disk.format.clone(),
            volume: disk.volume.clone(),
            path_in_volume: disk.path_in_volume.clone(),
        });
        Ok(Manifest {
            version: VERSION,
            id: plan.point.clone(),
            names: vec![plan.name.clone()],
            guest: plan.guest.clone(),
            guest_uuid: plan.guest_uuid.clone(),
            time: *time,
            state: plan.state,
            consistency: plan.consistency,
            engine: plan.engine,
            reason: plan.reason.clone(),
            pause_us: pause.map(|it| u64::try_from(it.pause.as_micros()).unwrap_or(u64::MAX)),
            stalled_us: 0,
            volumes: snapshots.clone(),
            disks: disks.collect(),
            uncovered: plan.uncovered.clone(),
            memory: memory.cloned(),
            nvram: plan.nvram.clone(),
            machine: plan.machine.clone(),
            hypervisor: plan.hypervisor.clone(),
            kernel: plan.kernel.clone(),
        })
    }
}

struct Restore<'a> {
    world: &'a World<'a>,
    plan: &'a RestorePlan,
    history: History<'a>,
}

impl Restore<'_> {
    fn perform(&self, effect: &Effect) -> Answer<Fact> {
        let (world, plan) = (self.world, self.plan);
        let done = |()| Fact::Done;
        match effect {
            Effect::PrepareFile { file } => {
                let file = self.file(file)?;
                let object = match &file.source {
                    FileSource::Snapshot { snapshot, path_in_volume } => world
                        .storage
                        .copy_from_snapshot(snapshot, path_in_volume, &file.beside, &file.place)?,
                    FileSource::Point { path } => {
                        world.storage.copy_file(path, &file.beside, &file.place)?
                    }
                };
                Ok(Fact::Prepared { object })
            }
            Effect::Stop => self.stop().map(done),
            Effect::SwapFile { file } => self.swap(file, true).map(done),
            Effect::UnswapFile { file } => self.swap(file, false).map(done),
            Effect::Define => match &plan.definition {
                Some(change) => world.hypervisor.define(&change.new).map(done),
                None => Err(misplaced(effect)),
            },
            Effect::Redefine => match plan.definition.as_ref().and_then(|it| it.old.as_ref()) {
                Some(old) => world.hypervisor.define(old).map(done),
                None => Ok(Fact::Done),
            },
            Effect::Start => self.start().map(done),
            Effect::DropManagedSave => {
                world.hypervisor.remove_managed_save(&plan.guest_uuid).map(done)
            }
            Effect::DropFile { file } => {
                world.storage.remove_file(&self.file(file)?.beside).map(done)
            }
            _ => Err(misplaced(effect)),
        }
    }

    fn file(&self, label: &str) -> Answer<&RestoreFile> {
        self.plan.file(label).ok_or_else(|| Problem::failed(format!("no file {label} in the plan")))
    }

    /// Nobody may have started the guest since the plan, or since it was stopped.
    fn check_shut_off(&self) -> Answer<()> {
        let guest = match self.world.hypervisor.inspect(&self.plan.guest_uuid) {
            Err(problem) if problem.kind == ProblemKind::NotFound => return Ok(()),
            other => other?,
        };
        if guest.state.is_active() {
            let name = &self.plan.guest;
            return Err(Problem::refused(format!(
                "guest '{name}' was started in the middle of its restore"
            ))
            .hint(format!("shut it down and run 'vitrify repair {name}'")));
        }
        Ok(())
    }

    /// Puts the prepared file in place, or back out of it. Which of the two lies there is known by
    /// the prepared file's identity, so that repeating does no harm.
    fn swap(&self, label: &str, forth: bool) -> Answer<()> {
        let file = self.file(label)?;
        let prepared = prepared(&self.history, label).ok_or_else(|| {
            Problem::failed(format!("{} was never prepared", file.beside.display()))
        })?;
        let storage = self.world.storage;
        let in_place = storage.object(&file.place)?.as_ref() == Some(prepared);
        if in_place == forth {
            return Ok(());
        }
        self.check_shut_off()?;
        if !forth && storage.object(&file.beside)?.is_none() {
            return storage.exchange(&file.place, &file.beside);
        }
        storage.exchange(&file.beside, &file.place)
    }

    /// What counts is whether the guest is down, not whether libvirt said so.
    fn stop(&self) -> Answer<()> {
        let stopped = match &self.plan.session {
            Some(session) => self.world.hypervisor.stop(&self.plan.guest_uuid, session),
            None => Ok(()),
        };
        match stopped {
            Err(problem) if problem.kind == ProblemKind::Dying => Err(problem),
            Err(problem) => self.check_shut_off().map_err(|_| problem),
            Ok(()) => self.check_shut_off(),
        }
    }

    /// What counts is whether the guest is up: then going back would pull its disks away.
    fn start(&self) -> Answer<()> {
        let (hypervisor, plan) = (self.world.hypervisor, self.plan);
        let guest = &plan.guest_uuid;
        let started = match &plan.start {
            StartMode::Resume { image } => hypervisor.start_from_image(guest, image, plan.paused),
            StartMode::Boot => hypervisor.start(guest, plan.paused),
            StartMode::StayOff => Ok(()),
        };
        match started {
            Err(problem) if problem.kind != ProblemKind::Dying => {
                let active = hypervisor.inspect(guest)?.state.is_active();
                if active { Ok(()) } else { Err(problem) }
            }
            other => other,
        }
    }
}
