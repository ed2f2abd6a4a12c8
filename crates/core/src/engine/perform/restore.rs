//! What each effect of a restore is in terms of the ports.

use super::misplaced;
use crate::operation::{Effect, Fact, History};
use crate::ports::{Answer, World};
use crate::problem::{Problem, ProblemKind};
use crate::restore::{FileSource, RestoreFile, RestorePlan, StartMode, prepared};

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
