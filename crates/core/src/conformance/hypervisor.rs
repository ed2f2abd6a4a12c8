//! Rules for [`Hypervisor`]: looking at guests, their power, the streams of their RAM, their overlays and
//! definitions.

mod definitions;
mod overlays;
mod power;
mod streams;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Verdict, ensure, fails, name, ok, rules, same};
use crate::definition::Definition;
use crate::inventory::{Guest, GuestState, Session};
use crate::name::GuestUuid;
use crate::ports::{Answer, Commit, Hypervisor, OverlayDisk, Pause};
use crate::problem::ProblemKind;

/// What the rules need: a small running guest with two raw disks, `vda` and `vdb`, and a
/// definition that is kept when it is shut off.
pub trait Fixture {
    /// The port.
    fn hypervisor(&self) -> &dyn Hypervisor;

    /// The guest.
    fn guest(&self) -> GuestUuid;

    /// Where a memory image may be written; nothing is there.
    fn memory(&mut self) -> Result<PathBuf, String>;

    /// Where an overlay may be made; nothing is there.
    fn overlay(&mut self) -> Result<PathBuf, String>;

    /// Puts a file where one can lie, so that it is in the way.
    fn obstruct(&mut self, path: &Path) -> Verdict;

    /// Has the guest, which is suspended, write something new to the beginning of a disk, and says
    /// what.
    fn guest_writes(&mut self, target: &str) -> Result<u64, String>;

    /// What lies at the beginning of a disk's raw image.
    fn read(&self, image: &Path) -> Result<u64, String>;

    /// Pauses the running guest in a way that is not a user's request.
    fn pause_otherwise(&mut self) -> Verdict;

    /// Ends the running guest so that a managed-save image of it is left.
    fn managed_save(&mut self) -> Verdict;
}

/// A rule.
pub type Check = fn(&mut dyn Fixture) -> Verdict;

/// The rules for looking.
pub const LOOKING: &[(&str, Check)] = rules![
    a_running_guest_is_seen,
    guests_are_listed_by_name,
    a_guest_that_is_not_there_is_not_found,
];

/// The rules for suspending, resuming, stopping and starting.
pub const POWER: &[(&str, Check)] = power::RULES;

/// The rules for streams of RAM.
pub const STREAMS: &[(&str, Check)] = streams::RULES;

/// The rules for snapshots, overlays and commits.
pub const OVERLAYS: &[(&str, Check)] = overlays::RULES;

/// The rules for definitions and for guests that are shut off.
pub const DEFINITIONS: &[(&str, Check)] = definitions::RULES;

/// All rules.
pub fn rules() -> impl Iterator<Item = (&'static str, Check)> {
    LOOKING.iter().chain(POWER).chain(STREAMS).chain(OVERLAYS).chain(DEFINITIONS).copied()
}

/// More time than any step of a small guest takes.
const LIMIT: Duration = Duration::from_secs(60);
const DISKS: [&str; 2] = ["vda", "vdb"];

type Disks = BTreeMap<String, PathBuf>;

fn look(fixture: &dyn Fixture) -> Result<Guest, String> {
    ok("inspect", fixture.hypervisor().inspect(&fixture.guest()))
}

fn session(fixture: &dyn Fixture) -> Result<Session, String> {
    look(fixture)?.session.ok_or_else(|| "an active guest must have a session".to_owned())
}

/// A life that is not the guest's.
fn another(session: &Session) -> Session {
    Session { domain_id: session.domain_id.wrapping_add(1), ..session.clone() }
}

fn is(fixture: &dyn Fixture, wanted: GuestState) -> Verdict {
    same("the guest's state", look(fixture)?.state, wanted)
}

fn disks(xml: Option<String>) -> Result<Disks, String> {
    let xml = xml.ok_or("the guest must have this definition")?;
    let definition = Definition::parse(&xml).map_err(|error| error.to_string())?;
    let path = |it: crate::inventory::Disk| Some((it.target.clone(), it.source.path()?.clone()));
    Ok(definition.disks.into_iter().filter_map(path).collect())
}

fn live(fixture: &dyn Fixture) -> Result<Disks, String> {
    disks(look(fixture)?.live_xml)
}

fn inactive(fixture: &dyn Fixture) -> Result<Disks, String> {
    disks(look(fixture)?.inactive_xml)
}

fn suspend(fixture: &dyn Fixture) -> Result<Session, String> {
    let session = session(fixture)?;
    ok("suspend", fixture.hypervisor().suspend(&fixture.guest(), &session))?;
    Ok(session)
}

fn stop(fixture: &dyn Fixture) -> Verdict {
    let session = session(fixture)?;
    ok("stop", fixture.hypervisor().stop(&fixture.guest(), &session))?;
    is(fixture, GuestState::ShutOff)
}

/// A snapshot with memory that puts these disks on overlays.
struct Dump {
    memory: PathBuf,
    overlays: Disks,
    bases: Disks,
}

impl Dump {
    fn prepare(fixture: &mut dyn Fixture, targets: &[&str]) -> Result<Self, String> {
        let mut overlays = Disks::new();
        for target in targets {
            overlays.insert((*target).to_owned(), fixture.overlay()?);
        }
        Ok(Self { memory: fixture.memory()?, overlays, bases: live(fixture)? })
    }

    fn take(fixture: &mut dyn Fixture, targets: &[&str]) -> Result<Self, String> {
        let dump = Self::prepare(fixture, targets)?;
        ok("external snapshot", dump.attempt(fixture, LIMIT))?;
        Ok(dump)
    }

    fn attempt(&self, fixture: &dyn Fixture, limit: Duration) -> Answer<Pause> {
        let (hypervisor, guest) = (fixture.hypervisor(), fixture.guest());
        hypervisor.external_snapshot(&guest, &self.memory, &self.disks(), limit)
    }

    /// Puts the overlays in place, without memory.
    fn put(&self, fixture: &dyn Fixture, session: &Session) -> Answer<()> {
        fixture.hypervisor().put_overlays(&fixture.guest(), session, &self.disks())
    }

    fn disks(&self) -> [OverlayDisk<'_>; 2] {
        DISKS.map(|target| OverlayDisk {
            target,
            overlay: self.overlays.get(target).map(PathBuf::as_path),
        })
    }

    /// What each disk is to read now.
    fn tops(&self) -> Disks {
        let mut tops = self.bases.clone();
        tops.extend(self.overlays.clone());
        tops
    }

    fn commit(&self, fixture: &dyn Fixture, target: &str) -> Answer<()> {
        self.commit_of(fixture, target, &self.overlays[target], &self.bases[target])
    }

    fn commit_of(
        &self,
        fixture: &dyn Fixture,
        target: &str,
        overlay: &Path,
        base: &Path,
    ) -> Answer<()> {
        let guest = fixture.guest();
        let commit = Commit { guest: &guest, target, overlay, base, limit: LIMIT };
        fixture.hypervisor().commit_overlay(&commit)
    }

    /// Points the definition of the guest, which is shut off, back to its bases.
    fn point_back(&self, fixture: &dyn Fixture) -> Verdict {
        for (target, base) in &self.bases {
            let (hypervisor, guest) = (fixture.hypervisor(), fixture.guest());
            ok("repoint", hypervisor.repoint_disk(&guest, target, base, "raw"))?;
        }
        same("the definition's disks", inactive(fixture)?, self.bases.clone())
    }
}

fn a_running_guest_is_seen(fixture: &mut dyn Fixture) -> Verdict {
    let guest = look(fixture)?;
    same("its identity", guest.uuid, fixture.guest())?;
    same("its state", guest.state, GuestState::Running)?;
    ensure(guest.session.is_some(), "a running guest must have a session")?;
    ensure(guest.persistent && !guest.managed_save, "it is persistent, without a managed save")?;
    same("its job", guest.job, None)?;
    let disks = disks(guest.live_xml)?;
    same("its disks", disks.keys().map(String::as_str).collect::<Vec<_>>(), DISKS.to_vec())?;
    same("the disks of its next start", inactive(fixture)?, disks)?;
    same("its session a moment later", session(fixture)?, guest.session.ok_or("none")?)?;
    ensure(!ok("version", fixture.hypervisor().version())?.is_empty(), "there is a version")
}

fn guests_are_listed_by_name(fixture: &mut dyn Fixture) -> Verdict {
    let guests = ok("guests", fixture.hypervisor().guests())?;
    let names: Vec<_> = guests.iter().map(|guest| guest.name.as_str()).collect();
    ensure(names.is_sorted(), "guests must be sorted by name")?;
    let listed = guests.into_iter().find(|guest| guest.uuid == fixture.guest());
    same("the guest in the list", listed.map(|it| it.session), Some(look(fixture)?.session))
}

fn a_guest_that_is_not_there_is_not_found(fixture: &mut dyn Fixture) -> Verdict {
    let absent: GuestUuid = name("ffffffff-ffff-4fff-8fff-ffffffffffff")?;
    let (hypervisor, session) = (fixture.hypervisor(), session(fixture)?);
    let gone = ProblemKind::NotFound;
    fails("inspecting", hypervisor.inspect(&absent), gone)?;
    fails("suspending", hypervisor.suspend(&absent, &session), gone)?;
    fails("resuming", hypervisor.resume(&absent, &session), gone)?;
    fails("starting", hypervisor.start(&absent, false), gone)?;
    fails("aborting", hypervisor.abort_snapshot_job(&absent), gone)?;
    fails("repointing", hypervisor.repoint_disk(&absent, "vda", Path::new("/x"), "raw"), gone)?;
    fails("removing its managed save", hypervisor.remove_managed_save(&absent), gone)?;
    // What is not there is stopped.
    ok("stopping", hypervisor.stop(&absent, &session))
}
