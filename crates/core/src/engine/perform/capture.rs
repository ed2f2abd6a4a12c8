//! What each effect of a capture is in terms of the ports.

use std::time::Duration;

use super::{misplaced, session_of};
use crate::capture::overlay::{Found, Verdict, judge};
use crate::capture::{CapturePlan, CoveredDisk, Engine, MemorySource};
use crate::definition::Definition;
use crate::engine::definition_of;
use crate::inventory::{Guest, GuestState, Snapshot};
use crate::manifest::{Manifest, PointDisk, VERSION};
use crate::operation::{Effect, Fact, History, Settle};
use crate::ports::{Answer, Commit, FileContent, NamedFile, OverlayDisk, World};
use crate::problem::{Problem, ProblemKind};

/// A capture in progress.
pub(super) struct Capture<'a> {
    pub(super) world: &'a World<'a>,
    pub(super) plan: &'a CapturePlan,
    pub(super) history: History<'a>,
}

impl Capture<'_> {
    pub(super) fn perform(&self, effect: &Effect) -> Answer<Fact> {
        let (world, plan) = (self.world, self.plan);
        let done = |()| Fact::Done;
        match effect {
            Effect::StagePoint => self.stage().map(done),
            Effect::KeepManagedSave => self.keep_managed_save().map(done),
            Effect::ExternalSnapshot => self.external_snapshot(),
            Effect::Suspend => {
                let session = session_of(plan.session.as_ref())?;
                world.hypervisor.suspend(&plan.guest_uuid, session).map(done)
            }
            Effect::SnapshotVolumes => self.snapshot_volumes(),
            Effect::Resume => self.resume(),
            Effect::AbortSnapshotJob => self.abort_snapshot_job().map(done),
            Effect::SettleOverlay { target, how } => {
                self.settle_overlay(self.disk(target)?, *how).map(done)
            }
            Effect::RemoveOverlay { target } => self.remove_overlay(self.disk(target)?).map(done),
            Effect::SealMemory => {
                let memory = world.homes.seal_memory(&plan.guest_uuid, &plan.point)?;
                Ok(Fact::Sealed { memory })
            }
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

    fn keep_managed_save(&self) -> Answer<()> {
        let (world, plan) = (self.world, self.plan);
        let MemorySource::ManagedSave { path } = &plan.memory else {
            return Err(misplaced(&Effect::KeepManagedSave));
        };
        world.homes.stage_memory_copy(&plan.guest_uuid, &plan.point, path)
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
        Ok(Fact::Paused(pause))
    }

    fn snapshot_volumes(&self) -> Answer<Fact> {
        let (world, plan) = (self.world, self.plan);
        // Inside the pause where there is one, else as near to the instant as can be.
        if let Some(nvram) = self.nvram("nvram".into()) {
            world.homes.stage(&plan.guest_uuid, &plan.point, &[nvram])?;
        }
        let time = world.clock.now();
        let snapshots = world.storage.snapshot(&plan.volumes, &plan.name)?;
        self.check_stood_still()?;
        Ok(Fact::Snapshots { snapshots, time })
    }

    /// What makes the snapshots one instant must still hold when the last is taken: nobody else
    /// resumed the guest that we suspended, or committed the overlays that we put in place.
    fn check_stood_still(&self) -> Answer<()> {
        let plan = self.plan;
        if !plan.suspend && plan.engine != Engine::Overlay {
            return Ok(());
        }
        let guest = self.inspect()?;
        let stands = match plan.suspend {
            true => guest.state == GuestState::PausedByUser && guest.session == plan.session,
            false => {
                let definition = definition_of(&guest)?;
                let top =
                    |disk: &CoveredDisk| definition.disk(&disk.target)?.source.path().cloned();
                plan.disks.iter().all(|disk| top(disk).as_ref() == Some(&disk.overlay))
            }
        };
        match stands {
            true => Ok(()),
            false => Err(Problem::failed(format!(
                "somebody else changed guest '{}' while its volumes were snapshotted",
                plan.guest
            ))),
        }
    }

    /// The guest, `None` where it is not defined any more.
    fn inspect_if_defined(&self) -> Answer<Option<Guest>> {
        match self.inspect() {
            Err(problem) if problem.kind == ProblemKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// A life that has ended needs no resuming, and another one is not ours.
    fn resume(&self) -> Answer<Fact> {
        let session = session_of(self.plan.session.as_ref())?;
        match self.inspect_if_defined()? {
            Some(guest) if guest.session.as_ref() == Some(session) => {
                let pause = self.world.hypervisor.resume(&guest.uuid, session)?;
                Ok(pause.map_or(Fact::Done, Fact::Paused))
            }
            _ => Ok(Fact::Done),
        }
    }

    fn abort_snapshot_job(&self) -> Answer<()> {
        match self.inspect_if_defined()? {
            Some(guest) if guest.session == self.plan.session => {
                self.world.hypervisor.abort_snapshot_job(&self.plan.guest_uuid)
            }
            _ => Ok(()),
        }
    }

    fn settle_overlay(&self, disk: &CoveredDisk, how: Settle) -> Answer<()> {
        let (world, plan) = (self.world, self.plan);
        let Some(guest) = self.inspect_if_defined()? else {
            return self.settle_without_guest(disk, how);
        };
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

    /// Nothing reads the overlay any more, but what it holds may still be wanted.
    fn settle_without_guest(&self, disk: &CoveredDisk, how: Settle) -> Answer<()> {
        if how == Settle::Discard || self.world.storage.object(&disk.overlay)?.is_none() {
            return Ok(());
        }
        let (guest, overlay) = (&self.plan.guest, disk.overlay.display());
        Err(Problem::refused(format!(
            "guest '{guest}' is not defined any more, and {overlay} is kept"
        ))
        .hint(format!("'vitrify repair {guest} --discard' removes it")))
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
        let guest = self.inspect_if_defined()?;
        let xmls = guest.iter().flat_map(|guest| [&guest.live_xml, &guest.inactive_xml]);
        for xml in xmls.flatten() {
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
        let memory = match self.history.done(&Effect::SealMemory) {
            Some(Fact::Sealed { memory }) => Some(memory),
            _ => None,
        };
        let pause = [Effect::ExternalSnapshot, Effect::Resume].iter().find_map(|effect| match self
            .history
            .done(effect)
        {
            Some(Fact::Paused(pause)) => Some(*pause),
            _ => None,
        });
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
