//! What each effect of a capture is in terms of the ports.

use std::time::Duration;

use super::{misplaced, session_of};
use crate::capture::overlay::{Found, Refusal, Verdict, judge};
use crate::capture::{
    CapturePlan, CoveredDisk, Engine, MachineFile, Member, MemorySource, NVRAM, doomed_volumes,
    is_commit_begun,
};
use crate::definition::Definition;
use crate::engine::definition_of;
use crate::inventory::{AnySnapshot, Disk, Guest, GuestState, Owner, Session, Snapshot};
use crate::manifest::{Manifest, PointDisk, VERSION};
use crate::operation::{Effect, Fact, History, Settle};
use crate::ports::{Answer, Commit, FileContent, NamedFile, OverlayDisk, STAGED_PLAN, World};
use crate::problem::{Problem, ProblemKind};

/// A capture in progress.
pub(super) struct Capture<'a> {
    pub(super) world: &'a World<'a>,
    pub(super) plan: &'a CapturePlan,
    pub(super) history: History<'a>,
}

impl Capture<'_> {
    pub(super) fn perform(&self, effect: &Effect) -> Answer<Fact> {
        match effect.guest() {
            Some(guest) => {
                let member = self.plan.member(guest);
                let member =
                    member.ok_or_else(|| Problem::failed(format!("no {guest} in the plan")))?;
                MemberCapture { set: self, member }.perform(effect)
            }
            None => match effect {
                Effect::FlushVolumes => {
                    Ok(Fact::Flushed { took: self.world.storage.flush(&self.plan.volumes)? })
                }
                Effect::SnapshotVolumes => self.snapshot_volumes(),
                Effect::DestroySnapshots => self.destroy_snapshots().map(|()| Fact::Done),
                _ => Err(misplaced(effect)),
            },
        }
    }

    fn members(&self) -> impl Iterator<Item = MemberCapture<'_>> {
        self.plan.members.iter().map(|member| MemberCapture { set: self, member })
    }

    fn snapshot_volumes(&self) -> Answer<Fact> {
        let (world, plan) = (self.world, self.plan);
        // Inside the pause where there is one, else as near to the instant as can be.
        for it in self.members().filter(|it| !it.takes_overlays()) {
            it.stage_machine_files()?;
        }
        let owner =
            |it: &Member| Owner { guest: Some(it.guest_uuid.clone()), point: it.point.clone() };
        let owners: Vec<_> = plan.members.iter().map(owner).collect();
        let time = world.clock.now();
        let snapshots = world.storage.snapshot(&plan.volumes, &plan.name, &owners)?;
        self.members().try_for_each(|it| it.check_stood_still())?;
        Ok(Fact::Snapshots { snapshots, time })
    }

    /// The snapshots that this capture took without living to record it.
    fn unrecorded_snapshots(&self) -> Answer<Vec<Snapshot>> {
        let found = self.world.storage.snapshots(&self.plan.volumes)?;
        Ok(self.plan.own_snapshots(found))
    }

    fn destroy_snapshots(&self) -> Answer<()> {
        let mut own = match self.history.done(&Effect::SnapshotVolumes) {
            Some(Fact::Snapshots { snapshots, .. }) => snapshots.clone(),
            _ => self.unrecorded_snapshots()?,
        };
        let doomed = doomed_volumes(self.plan, &self.history);
        own.retain(|snapshot| doomed.contains(&snapshot.volume));
        self.world.storage.destroy(&own)
    }
}

/// One guest's part in it.
struct MemberCapture<'a> {
    set: &'a Capture<'a>,
    member: &'a Member,
}

impl MemberCapture<'_> {
    fn perform(&self, effect: &Effect) -> Answer<Fact> {
        let (world, member) = (self.set.world, self.member);
        let (uuid, point) = (&member.guest_uuid, &member.point);
        let done = |()| Fact::Done;
        match effect {
            Effect::StagePoint { .. } => self.stage().map(done),
            Effect::KeepManagedSave { .. } => self.keep_managed_save().map(done),
            Effect::OpenStream { .. } => self.open_stream().map(done),
            Effect::ExternalSnapshot { .. } => self.external_snapshot(),
            Effect::Freeze { .. } => {
                let session = session_of(member.session.as_ref())?;
                world.hypervisor.freeze(uuid, session, self.freeze_limit()).map(done)
            }
            Effect::Suspend { .. } => {
                let session = session_of(member.session.as_ref())?;
                world.hypervisor.suspend(uuid, session).map(done)
            }
            Effect::PutOverlays { .. } => self.put_overlays().map(done),
            Effect::SaveMemory { .. } => self.save_memory().map(done),
            Effect::Resume { .. } => self.resume(),
            Effect::Thaw { .. } => Ok(Fact::Thawed { was_frozen: self.thaw()? }),
            Effect::ReceiveMemory { .. } => self.receive_memory(),
            Effect::CloseStream { .. } => self.close_stream().map(done),
            Effect::AbortSnapshotJob { .. } => self.abort_snapshot_job().map(done),
            Effect::ListSnapshots { .. } => Ok(Fact::Listed {
                snapshots: self.all_snapshots()?.into_iter().map(|it| it.id).collect(),
            }),
            Effect::SettleOverlay { target, how, .. } => {
                self.settle_overlay(self.disk(target)?, *how).map(done)
            }
            Effect::RemoveOverlay { target, .. } => {
                self.remove_overlay(self.disk(target)?).map(done)
            }
            Effect::Retry { .. } => match &member.session {
                Some(session) => world.hypervisor.retry(uuid, session).map(done),
                None => Ok(Fact::Done),
            },
            Effect::MarkTorn { .. } => self.mark_torn(),
            Effect::SealMemory { .. } => {
                Ok(Fact::Sealed { memory: world.homes.seal_memory(uuid, point)? })
            }
            Effect::Publish { .. } => {
                self.check_was_frozen()?;
                Ok(Fact::Published(world.homes.publish(&self.manifest()?)?))
            }
            Effect::DiscardPoint { .. } => world.homes.discard(uuid, point).map(done),
            _ => Err(misplaced(effect)),
        }
    }

    fn disk(&self, target: &str) -> Answer<&CoveredDisk> {
        self.member
            .disk(target)
            .ok_or_else(|| Problem::failed(format!("no disk {target} in the plan")))
    }

    fn takes_overlays(&self) -> bool {
        self.set.plan.takes_overlays(self.member, &self.set.history)
    }

    fn inspect(&self) -> Answer<Guest> {
        self.set.world.hypervisor.inspect(&self.member.guest_uuid)
    }

    fn freeze_limit(&self) -> Duration {
        Duration::from_secs(self.set.plan.freeze_limit_s)
    }

    fn stage(&self) -> Answer<()> {
        let (world, member) = (self.set.world, self.member);
        let plan = serde_json::to_string(self.set.plan)
            .map_err(|error| Problem::failed("cannot write the plan down").from(error))?;
        let text = |name: &str, xml: &Option<String>| {
            let content = FileContent::Text(xml.clone()?);
            Some(NamedFile { name: name.to_owned(), content })
        };
        let files: Vec<_> = text("domain.xml", &member.live_xml)
            .into_iter()
            .chain(text("domain.inactive.xml", &member.inactive_xml))
            .chain([NamedFile { name: STAGED_PLAN.into(), content: FileContent::Text(plan) }])
            .collect();
        world.homes.stage(&member.guest_uuid, &member.point, &files)?;

        // For administrators, who look for the definition beside the disks.
        let xml =
            if member.inactive_xml.is_some() { &member.inactive_xml } else { &member.live_xml };
        let mut beside: Vec<_> = text(&format!("{}.xml", member.guest), xml).into_iter().collect();
        let nvram = self.machine_files().into_iter().filter(|file| file.name == NVRAM);
        beside
            .extend(nvram.map(|it| NamedFile { name: format!("{}.{NVRAM}", member.guest), ..it }));
        let mut volumes = member.volumes().into_iter();
        volumes.try_for_each(|volume| world.storage.annotate(volume, &beside))
    }

    fn machine_files(&self) -> Vec<NamedFile> {
        let file = |it: &MachineFile| NamedFile {
            name: it.name.clone(),
            content: FileContent::CopyOf(it.path.clone()),
        };
        self.member.machine_files.iter().map(file).collect()
    }

    fn stage_machine_files(&self) -> Answer<()> {
        let files = self.machine_files();
        match files.is_empty() {
            true => Ok(()),
            false => {
                self.set.world.homes.stage(&self.member.guest_uuid, &self.member.point, &files)
            }
        }
    }

    /// libvirt ends the pause of its snapshot itself. Files that are the same before it and after
    /// it were so during it.
    fn check_machine_files(&self) -> Answer<()> {
        let (member, files) = (self.member, self.machine_files());
        if self.set.world.homes.is_staged(&member.guest_uuid, &member.point, &files)? {
            return Ok(());
        }
        let message =
            format!("guest '{}' wrote to its firmware variables or TPM meanwhile", member.guest);
        Err(Problem::failed(message).hint("try again; it does that rarely"))
    }

    fn keep_managed_save(&self) -> Answer<()> {
        let (world, member) = (self.set.world, self.member);
        let MemorySource::ManagedSave { path } = &member.memory else {
            let guest = member.guest.clone();
            return Err(misplaced(&Effect::KeepManagedSave { guest }));
        };
        world.homes.stage_memory_copy(&member.guest_uuid, &member.point, path)
    }

    fn open_stream(&self) -> Answer<()> {
        let (world, member) = (self.set.world, self.member);
        let session = session_of(member.session.as_ref())?;
        let definition = member.live_xml.as_ref();
        let definition =
            definition.ok_or_else(|| Problem::failed("the plan has no live definition"))?;
        let stream = world.hypervisor.open_stream(&member.guest_uuid, session)?;
        let (uuid, point) = (&member.guest_uuid, &member.point);
        let received = world.homes.receive_memory(uuid, point, definition, stream);
        received.map_err(|problem| self.closed_after(session, problem))
    }

    /// A stream that comes to nothing is closed at once.
    fn closed_after(&self, session: &Session, problem: Problem) -> Problem {
        if problem.kind == ProblemKind::Dying {
            return problem;
        }
        match self.set.world.hypervisor.close_stream(&self.member.guest_uuid, session) {
            Ok(()) => problem,
            // No longer a problem that has left nothing behind.
            Err(left) => {
                let mut problem = problem.and_afterwards(&left);
                problem.kind = ProblemKind::Failed;
                problem
            }
        }
    }

    /// While a stream is being set up, QEMU would stop the guest again that is resumed next.
    fn save_memory(&self) -> Answer<()> {
        let (world, uuid) = (self.set.world, &self.member.guest_uuid);
        let session = session_of(self.member.session.as_ref())?;
        let begun = world.hypervisor.begin_stream(uuid, session).and_then(|()| {
            let arrived = world.homes.await_first_page(uuid, &self.member.point);
            // QEMU knows better why it gave up.
            arrived
                .map_err(|late| world.hypervisor.check_stream(uuid, session).err().unwrap_or(late))
        });
        begun.map_err(|problem| self.closed_after(session, problem))
    }

    fn receive_memory(&self) -> Answer<Fact> {
        let (world, uuid) = (self.set.world, &self.member.guest_uuid);
        let session = session_of(self.member.session.as_ref())?;
        let stalled = world.homes.await_memory(uuid, &self.member.point)?;
        let setup = world.hypervisor.check_stream(uuid, session)?;
        Ok(Fact::Received { stalled, setup })
    }

    fn close_stream(&self) -> Answer<()> {
        let session = session_of(self.member.session.as_ref())?;
        match self.inspect_if_defined()? {
            Some(guest) if guest.session.as_ref() == Some(session) => {
                self.set.world.hypervisor.close_stream(&guest.uuid, session)
            }
            _ => Ok(()),
        }
    }

    fn external_snapshot(&self) -> Answer<Fact> {
        let (world, member) = (self.set.world, self.member);
        let guest = self.inspect()?;
        if guest.session != member.session {
            return Err(Problem::failed(format!(
                "guest '{}' was restarted meanwhile",
                member.guest
            )));
        }
        let definition = definition_of(&guest)?;
        let disks = self.overlay_disks(&definition);
        self.stage_machine_files()?;
        let memory = world.homes.staged_memory(&member.guest_uuid, &member.point);
        let limit = Duration::from_secs(self.set.plan.dump_limit_s);
        let pause =
            world.hypervisor.external_snapshot(&member.guest_uuid, &memory, &disks, limit)?;

        let after = self.inspect()?;
        let now = definition_of(&after)?;
        for disk in &member.disks {
            let top = now.disk(&disk.target).and_then(|disk| disk.source.path());
            if after.session != member.session || top != Some(&disk.overlay) {
                return Err(Problem::failed(format!(
                    "disk {} of guest '{}' is not on its overlay after the snapshot",
                    disk.target, member.guest
                )));
            }
        }
        self.check_machine_files()?;
        Ok(Fact::Paused(pause))
    }

    /// The guest is suspended, so its small files stand still as well. That it is on these overlays is
    /// looked at after the snapshots, because it costs no pause then.
    fn put_overlays(&self) -> Answer<()> {
        let (world, member) = (self.set.world, self.member);
        let session = session_of(member.session.as_ref())?;
        let definition = definition_of(&self.inspect()?)?;
        self.stage_machine_files()?;
        let disks = self.overlay_disks(&definition);
        world.hypervisor.put_overlays(&member.guest_uuid, session, &disks)
    }

    fn overlay_disks<'a>(&'a self, definition: &'a Definition) -> Vec<OverlayDisk<'a>> {
        let disk = |disk: &'a Disk| OverlayDisk {
            target: &disk.target,
            overlay: self.member.disk(&disk.target).map(|covered| covered.overlay.as_path()),
        };
        definition.disks.iter().map(disk).collect()
    }

    /// What makes the snapshots one instant must still hold when the last is taken: nobody else
    /// resumed the guest that we suspended, or committed the overlays that we put in place.
    fn check_stood_still(&self) -> Answer<()> {
        let member = self.member;
        let guest = match (member.engine, member.suspend) {
            (Engine::Plain, false) => return Ok(()),
            // Its stream does not begin where it runs, and is judged by QEMU's events at the end: what
            // is asked of libvirt now lengthens the pause.
            (Engine::Instant, _) if !self.takes_overlays() => return Ok(()),
            // The agent of a suspended guest does not answer. It is asked at the thaw.
            (Engine::Freeze, false) => return self.check_frozen(),
            _ => self.inspect()?,
        };
        let stands = match member.suspend && !self.takes_overlays() {
            true => guest.state == GuestState::PausedByUser && guest.session == member.session,
            false => {
                let definition = definition_of(&guest)?;
                let top =
                    |disk: &CoveredDisk| definition.disk(&disk.target)?.source.path().cloned();
                member.disks.iter().all(|disk| top(disk).as_ref() == Some(&disk.overlay))
            }
        };
        match stands {
            true => Ok(()),
            false => Err(Problem::failed(format!(
                "somebody else changed guest '{}' while its volumes were snapshotted",
                member.guest
            ))),
        }
    }

    /// Windows thaws by itself after 10 s, and anybody may have asked the agent to.
    fn check_frozen(&self) -> Answer<()> {
        let member = self.member;
        let session = session_of(member.session.as_ref())?;
        let (uuid, limit) = (&member.guest_uuid, self.freeze_limit());
        match self.set.world.hypervisor.is_frozen(uuid, session, limit)? {
            true => Ok(()),
            false => Err(Problem::failed(format!(
                "the file systems of guest '{}' were thawed while its volumes were snapshotted",
                member.guest
            ))),
        }
    }

    /// What was frozen during the snapshots was so until we thawed it. After a thaw by the guard, or by
    /// a process that died, nobody knows.
    fn check_was_frozen(&self) -> Answer<()> {
        let guest = self.member.guest.clone();
        let thawed = self.set.history.done(&Effect::Thaw { guest });
        match (self.member.engine, thawed) {
            (Engine::Freeze, Some(Fact::Thawed { was_frozen: true })) => Ok(()),
            (Engine::Freeze, _) => Err(Problem::failed(format!(
                "the file systems of guest '{}' were thawed by somebody else: whether that was after \
                 the snapshots is not known",
                self.member.guest
            ))),
            _ => Ok(()),
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
        let session = session_of(self.member.session.as_ref())?;
        match self.set.world.hypervisor.resume(&self.member.guest_uuid, session) {
            Ok(pause) => Ok(pause.map_or(Fact::Done, Fact::Paused)),
            Err(problem) if problem.kind == ProblemKind::Dying => Err(problem),
            Err(problem) => match self.inspect_if_defined()? {
                // It ran since we suspended it.
                Some(guest) if guest.state == GuestState::PausedOnError => Ok(Fact::Done),
                Some(guest) if guest.session.as_ref() == Some(session) => Err(problem),
                _ => Ok(Fact::Done),
            },
        }
    }

    fn thaw(&self) -> Answer<bool> {
        let session = session_of(self.member.session.as_ref())?;
        match self.inspect_if_defined()? {
            Some(guest) if guest.session.as_ref() == Some(session) => {
                self.set.world.hypervisor.thaw(&guest.uuid, session, self.freeze_limit())
            }
            _ => Ok(false),
        }
    }

    fn abort_snapshot_job(&self) -> Answer<()> {
        match self.inspect_if_defined()? {
            Some(guest) if guest.session == self.member.session => {
                self.set.world.hypervisor.abort_snapshot_job(&self.member.guest_uuid)
            }
            _ => Ok(()),
        }
    }

    fn settle_overlay(&self, disk: &CoveredDisk, how: Settle) -> Answer<()> {
        let (world, member) = (self.set.world, self.member);
        let Some(guest) = self.inspect_if_defined()? else {
            return self.settle_without_guest(disk, how);
        };
        match self.verdict(&guest, disk, how)? {
            Verdict::OnBase => {}
            Verdict::CommitLive => world.hypervisor.commit_overlay(&Commit {
                guest: &member.guest_uuid,
                target: &disk.target,
                overlay: &disk.overlay,
                base: &disk.path,
                limit: Duration::from_secs(self.set.plan.commit_limit_s),
            })?,
            Verdict::CommitOffline => {
                world.hypervisor.commit_offline(&disk.overlay, &disk.path)?;
            }
            Verdict::Discard => {}
            Verdict::Refuse(refusal) => {
                let message = format!("disk {} of guest '{}'", disk.target, member.guest);
                let hint = refusal.hint(member, disk);
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
            world.hypervisor.repoint_disk(&member.guest_uuid, target, path, format)?;
        }
        Ok(())
    }

    /// What is to be done about a disk. When another process's work is taken up, no disk is committed
    /// while the base of another is not what it was.
    fn verdict(&self, guest: &Guest, disk: &CoveredDisk, how: Settle) -> Answer<Verdict> {
        let verdict = self.judge(guest, disk, how)?;
        let commits = matches!(verdict, Verdict::CommitLive | Verdict::CommitOffline);
        if !commits || self.set.history.taken_over().is_none() {
            return Ok(verdict);
        }
        for other in self.member.disks.iter().filter(|it| it.target != disk.target) {
            if let Verdict::Refuse(refusal) = self.judge(guest, other, how)?
                && refusal.keeps_others()
            {
                return Ok(Verdict::Refuse(Refusal::OtherBase(other.target.clone())));
            }
        }
        Ok(verdict)
    }

    fn judge(&self, guest: &Guest, disk: &CoveredDisk, how: Settle) -> Answer<Verdict> {
        let definition = definition_of(guest)?;
        let base = self.set.world.storage.object(&disk.path)?;
        let found = Found {
            state: guest.state,
            session: guest.session.as_ref(),
            top: definition.disk(&disk.target).and_then(|it| it.source.path()).map(|it| &**it),
            base: base.as_ref(),
            snapshot: self.own_snapshot(disk)?,
            commit_begun: is_commit_begun(self.member, &self.set.history),
        };
        Ok(judge(self.member, disk, &found, how))
    }

    /// Nothing reads the overlay any more, but what it holds may still be wanted.
    fn settle_without_guest(&self, disk: &CoveredDisk, how: Settle) -> Answer<()> {
        if how == Settle::Discard || self.set.world.storage.object(&disk.overlay)?.is_none() {
            return Ok(());
        }
        let (guest, overlay) = (&self.member.guest, disk.overlay.display());
        Err(Problem::refused(format!(
            "guest '{guest}' is not defined any more, and {overlay} is kept"
        ))
        .hint(format!("'vitrify repair {guest} --discard' removes it")))
    }

    /// Whether the capture's snapshot of a disk's volume exists; `None` if none was ever begun.
    fn own_snapshot(&self, disk: &CoveredDisk) -> Answer<Option<bool>> {
        if !self.set.history.begun(&Effect::SnapshotVolumes) {
            return Ok(None);
        }
        let Some(Fact::Snapshots { snapshots, .. }) =
            self.set.history.done(&Effect::SnapshotVolumes)
        else {
            return Ok(self
                .set
                .unrecorded_snapshots()?
                .iter()
                .any(|it| it.volume == disk.volume)
                .then_some(true));
        };
        let there = self.set.world.storage.snapshots(std::slice::from_ref(&disk.volume))?;
        let own = snapshots.iter().find(|own| own.volume == disk.volume);
        Ok(Some(own.is_some_and(|own| there.iter().any(|it| it.snapshot == *own))))
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
                    self.member.guest
                )));
            }
        }
        self.set.world.storage.remove_file(&disk.overlay)
    }

    fn all_snapshots(&self) -> Answer<Vec<AnySnapshot>> {
        let volumes: Vec<_> = self.member.volumes().into_iter().cloned().collect();
        self.set.world.storage.all_snapshots(&volumes)
    }

    fn mark_torn(&self) -> Answer<Fact> {
        let list = Effect::ListSnapshots { guest: self.member.guest.clone() };
        let Some(Fact::Listed { snapshots: listed }) = self.set.history.done(&list) else {
            return Err(misplaced(&list));
        };
        let mut torn = self.all_snapshots()?;
        torn.retain(|it| !listed.contains(&it.id));
        if !torn.is_empty() {
            self.set.world.homes.note_torn(&self.member.guest_uuid, &torn)?;
        }
        Ok(Fact::Torn { snapshots: torn })
    }

    fn manifest(&self) -> Answer<Manifest> {
        let member = self.member;
        let Some(Fact::Snapshots { snapshots, time }) =
            self.set.history.done(&Effect::SnapshotVolumes)
        else {
            return Err(misplaced(&Effect::SnapshotVolumes));
        };
        let guest = || member.guest.clone();
        let memory = match self.set.history.done(&Effect::SealMemory { guest: guest() }) {
            Some(Fact::Sealed { memory }) => Some(memory),
            _ => None,
        };
        let paused =
            [Effect::ExternalSnapshot { guest: guest() }, Effect::Resume { guest: guest() }];
        let pause = paused.iter().find_map(|effect| match self.set.history.done(effect) {
            Some(Fact::Paused(pause)) => Some(*pause),
            _ => None,
        });
        let receive = Effect::ReceiveMemory { guest: guest() };
        let stalled = match self.set.history.done(&receive) {
            Some(Fact::Received { stalled, .. }) => *stalled,
            _ => Duration::ZERO,
        };
        let own = member.volumes();
        let volumes = snapshots.iter().filter(|it| own.contains(&it.volume)).cloned();
        let disks = member.disks.iter().map(|disk| PointDisk {
            target: disk.target.clone(),
            path: disk.path.clone(),
            format: disk.format.clone(),
            volume: disk.volume.clone(),
            path_in_volume: disk.path_in_volume.clone(),
        });
        Ok(Manifest {
            version: VERSION,
            id: member.point.clone(),
            names: self.set.plan.names(),
            guest: member.guest.clone(),
            guest_uuid: member.guest_uuid.clone(),
            time: *time,
            state: member.state,
            consistency: member.consistency,
            engine: member.engine,
            reason: self.set.plan.reason(member, &self.set.history),
            pause_us: pause.map(|it| micros(it.pause)),
            stalled_us: micros(stalled),
            volumes: volumes.collect(),
            disks: disks.collect(),
            uncovered: member.uncovered.clone(),
            memory: memory.cloned(),
            machine_files: member.machine_files.clone(),
            machine: member.machine.clone(),
            hypervisor: self.set.plan.hypervisor.clone(),
            kernel: self.set.plan.kernel.clone(),
        })
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
