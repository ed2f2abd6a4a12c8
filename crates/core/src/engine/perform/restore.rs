//! What each effect of a restore is in terms of the ports.

use std::path::Path;

use super::misplaced;
use crate::inventory::{FoundSnapshot, ObjectId, Owner, Snapshot};
use crate::name::{PointName, Volume};
use crate::operation::{Effect, Fact, History};
use crate::ports::{Answer, FoundPoint, World};
use crate::problem::{Problem, ProblemKind};
use crate::restore::{FileSource, Replacement, RestoreFile, RestorePlan, StartMode, prepared};

/// A restore in progress.
pub(super) struct Restore<'a> {
    pub(super) world: &'a World<'a>,
    pub(super) plan: &'a RestorePlan,
    pub(super) history: History<'a>,
}

impl Restore<'_> {
    pub(super) fn perform(&self, effect: &Effect) -> Answer<Fact> {
        let (world, plan) = (self.world, self.plan);
        let done = |()| Fact::Done;
        match effect {
            Effect::PrepareFile { file } => {
                Ok(Fact::Prepared { object: self.prepare(self.file(file)?)? })
            }
            Effect::PrepareMemory => self.prepare_memory().map(done),
            Effect::Stop => self.stop().map(done),
            Effect::Bar => world.journal.bar(&plan.id, &plan.guest_uuid).map(done),
            Effect::Unbar => world.journal.unbar(&plan.guest_uuid).map(done),
            Effect::SwapFile { file } => self.replace(self.file(file)?, true).map(done),
            Effect::UnswapFile { file } => self.replace(self.file(file)?, false).map(done),
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
            Effect::DropFile { file } => match &self.file(file)?.how {
                Replacement::Exchange { beside, .. } => world.storage.remove_file(beside).map(done),
                Replacement::Overwrite { snapshot } => self.forget(snapshot).map(done),
            },
            Effect::DropMemory => world.storage.remove_file(self.save_image()?).map(done),
            _ => Err(misplaced(effect)),
        }
    }

    fn save_image(&self) -> Answer<&Path> {
        match &self.plan.start {
            StartMode::Resume { image } => Ok(image),
            _ => Err(misplaced(&Effect::PrepareMemory)),
        }
    }

    fn prepare_memory(&self) -> Answer<()> {
        let (homes, plan) = (self.world.homes, self.plan);
        let is_it = |it: &FoundPoint| it.guest == plan.guest_uuid && it.id == plan.point;
        let point = homes.points()?.into_iter().find(is_it);
        let point =
            point.ok_or_else(|| Problem::not_found(format!("point {} is gone", plan.point)))?;
        homes.write_save_image(&point, self.save_image()?, &|_| ())
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

    /// Makes ready what can be made ready while the guest still runs.
    fn prepare(&self, file: &RestoreFile) -> Answer<ObjectId> {
        let storage = self.world.storage;
        match &file.how {
            Replacement::Exchange { source: FileSource::Point { path }, beside } => {
                storage.copy_file(path, beside, &file.place)
            }
            Replacement::Exchange {
                source: FileSource::Snapshot { snapshot, path_in_volume },
                beside,
            } => storage.copy_from_snapshot(snapshot, path_in_volume, beside, &file.place),
            Replacement::Overwrite { snapshot } => {
                let device = storage.expose(snapshot, &self.plan.id)?;
                let object = storage.object(&device)?;
                object.ok_or_else(|| Problem::failed(format!("{} is gone", device.display())))
            }
        }
    }

    /// Puts a file in place, or back out of it.
    fn replace(&self, file: &RestoreFile, forth: bool) -> Answer<()> {
        match (&file.how, forth) {
            (Replacement::Exchange { beside, .. }, _) => self.exchange(file, beside, forth),
            (Replacement::Overwrite { snapshot }, true) => self.overwrite(file, snapshot),
            (Replacement::Overwrite { snapshot }, false) => self.write_back(file, snapshot),
        }
    }

    /// Which of two exchanged files lies in place is known by the prepared one's identity, so that
    /// repeating does no harm.
    fn exchange(&self, file: &RestoreFile, beside: &Path, forth: bool) -> Answer<()> {
        let prepared = prepared(&self.history, &file.label)
            .ok_or_else(|| Problem::failed(format!("{} was never prepared", beside.display())))?;
        let storage = self.world.storage;
        let in_place = storage.object(&file.place)?.as_ref() == Some(prepared);
        if in_place == forth {
            return Ok(());
        }
        self.check_shut_off()?;
        if !forth && storage.object(beside)?.is_none() {
            return storage.exchange(&file.place, beside);
        }
        storage.exchange(beside, &file.place)
    }

    /// Writes the point's blocks, after a snapshot of what the device holds. Repeated, it finds that
    /// snapshot and writes what is missing.
    fn overwrite(&self, file: &RestoreFile, snapshot: &Snapshot) -> Answer<()> {
        self.check_shut_off()?;
        self.check_device(file, snapshot)?;
        let (storage, plan) = (self.world.storage, self.plan);
        if self.kept(&snapshot.volume)?.is_none() {
            let owner = Owner { guest: Some(plan.guest_uuid.clone()), point: plan.id.clone() };
            let volumes = std::slice::from_ref(&snapshot.volume);
            storage.snapshot(volumes, &self.kept_name()?, &[owner])?;
        }
        storage.overwrite(&storage.expose(snapshot, &plan.id)?, &file.place)
    }

    /// Writes back what the device held. Without the snapshot of it nothing was overwritten.
    fn write_back(&self, file: &RestoreFile, snapshot: &Snapshot) -> Answer<()> {
        let Some(kept) = self.kept(&snapshot.volume)? else { return Ok(()) };
        self.check_shut_off()?;
        self.check_device(file, snapshot)?;
        let storage = self.world.storage;
        storage.overwrite(&storage.expose(&kept, &self.plan.id)?, &file.place)
    }

    /// A device's path can be another volume's by now; what is overwritten must be the volume.
    fn check_device(&self, file: &RestoreFile, snapshot: &Snapshot) -> Answer<()> {
        let mut located = self.world.storage.locate(std::slice::from_ref(&file.place));
        let place = file.place.display();
        let located =
            located.pop().ok_or_else(|| Problem::failed(format!("{place} is gone")))??;
        if located.path_in_volume.is_none() && located.volume == snapshot.volume {
            return Ok(());
        }
        Err(Problem::refused(format!("{place} is not {} any more", snapshot.volume))
            .hint("let the guest's definition name the disk as /dev/zvol/POOL/NAME"))
    }

    /// Removes what the restore of a device left.
    fn forget(&self, snapshot: &Snapshot) -> Answer<()> {
        let storage = self.world.storage;
        storage.conceal(snapshot, &self.plan.id)?;
        let Some(kept) = self.kept(&snapshot.volume)? else { return Ok(()) };
        storage.conceal(&kept, &self.plan.id)?;
        storage.destroy(&[kept])
    }

    fn kept_name(&self) -> Answer<PointName> {
        let name = self.plan.kept_name();
        name.map_err(|error| Problem::failed("cannot name a snapshot").from(error))
    }

    /// The snapshot of what a device held, if it was taken.
    fn kept(&self, volume: &Volume) -> Answer<Option<Snapshot>> {
        let name = self.kept_name()?;
        let found = self.world.storage.snapshots(std::slice::from_ref(volume))?;
        let is_it = |it: &FoundSnapshot| it.snapshot.name == name && it.may_be_of(&self.plan.id);
        Ok(found.into_iter().find(is_it).map(|it| it.snapshot))
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
