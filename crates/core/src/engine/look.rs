//! Looks around for [`crate::foreign`]: gathers through the ports what no operation may answer for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::definition::Definition;
use crate::engine::{definition_of, volumes_of};
use crate::foreign::{Facts, Finding, GuestFacts, Layered, SnapshotFacts, findings};
use crate::inventory::{Activity, AnySnapshot, FoundSnapshot, Guest};
use crate::name::{GuestUuid, PointId};
use crate::operation::Plan;
use crate::ports::{Answer, World};
use crate::problem::{Problem, ProblemKind};
use crate::volumes::ledger::Ledger;

/// What was seen.
#[derive(Debug, Default)]
pub struct Look {
    /// What nobody answers for.
    pub findings: Vec<Finding>,
    /// Where nothing could be seen, and why.
    pub problems: Vec<Problem>,
}

impl Look {
    /// What a look at one thing gave; one that fails does not keep the others.
    fn keep<T: Default>(&mut self, answer: Answer<T>) -> T {
        answer.unwrap_or_else(|problem| {
            self.problems.push(problem);
            T::default()
        })
    }
}

/// Looks at every guest but those that are `spared`, or at `only` one, and at what lies around them.
/// What `plans` answer for, what the journal holds by then, or the `ledger` of volumes without guests, is
/// left out. Changes nothing.
///
/// # Errors
/// Only where the guests or the journal cannot be read at all.
pub fn look_around(
    world: &World<'_>,
    overlay_folder: &Path,
    only: Option<&GuestUuid>,
    spared: &[GuestUuid],
    mut plans: Vec<Plan>,
    ledger: &dyn Fn() -> Answer<Ledger>,
) -> Answer<Look> {
    let mut look = Look::default();
    plans.extend(world.journal.entries()?.into_iter().map(|it| it.plan));
    let mut guests = world.hypervisor.guests()?;
    // One whose definition cannot be read is for doctor to name.
    guests.retain(|it| {
        only.is_none_or(|only| *only == it.uuid)
            && !spared.contains(&it.uuid)
            && definition_of(it).is_ok()
    });
    let in_flight = |plans: &[Plan], guest: &Guest| {
        plans.iter().flat_map(Plan::guests).any(|(_, uuid)| *uuid == guest.uuid)
    };
    let mut seen = Vec::new();
    for guest in guests {
        let activity = match in_flight(&plans, &guest) {
            true => Activity::default(),
            false => look.keep(activity(world, &guest)),
        };
        let disks = look.keep(disks(world, &guest));
        seen.push(GuestFacts { guest, activity, disks });
    }
    // What was begun meanwhile explains what was seen.
    plans.extend(world.journal.entries()?.into_iter().map(|it| it.plan));

    let mut unfinished = look.keep(world.homes.unfinished());
    unfinished.retain(|it| only.is_none_or(|only| *only == it.guest));
    let files = look.keep(files(world, overlay_folder, &seen));
    let torn = look.keep(torn(world));
    // A drive that is not mounted is no empty store.
    let points = world.homes.store().and_then(|_| world.homes.points());
    // Without the points every snapshot would seem to be nobody's.
    let mut snapshots = match points.is_ok() {
        true => look.keep(snapshots(world, &seen)),
        false => Vec::new(),
    };
    // After them, so that it knows what was just taken; without it, as without the points.
    let ledger = ledger();
    if ledger.is_err() {
        snapshots.clear();
    }
    let ledger = look.keep(ledger);
    let points = look.keep(points);
    plans.extend(world.journal.entries()?.into_iter().map(|it| it.plan));
    look.findings = findings(&Facts {
        guests: &seen,
        plans: &plans,
        overlay_folder,
        files: &files,
        snapshots: &snapshots,
        points: &points,
        unfinished: &unfinished,
        ledger: &ledger,
        torn: &torn,
    });
    Ok(look)
}

/// A guest that has just gone does nothing.
fn activity(world: &World<'_>, guest: &Guest) -> Answer<Activity> {
    match world.hypervisor.activity(&guest.uuid) {
        Err(problem) if problem.kind == ProblemKind::NotFound => Ok(Activity::default()),
        other => other,
    }
}

/// libvirt lists what lies below an image of a guest that runs; else its header tells.
fn disks(world: &World<'_>, guest: &Guest) -> Answer<Vec<Layered>> {
    let mut found: BTreeMap<(String, PathBuf), Vec<PathBuf>> = BTreeMap::new();
    for xml in [&guest.live_xml, &guest.inactive_xml].into_iter().flatten() {
        let Ok(definition) = Definition::parse(xml) else { continue };
        for disk in definition.disks {
            let Some(top) = disk.source.path().cloned() else { continue };
            let mut below = disk.backing;
            if below.is_empty() && disk.format == "qcow2" {
                below.extend(world.storage.backing(&top)?);
            }
            found.entry((disk.target, top)).or_insert(below);
        }
    }
    let layered = |((target, top), below)| Layered { target, top, below };
    Ok(found.into_iter().map(layered).collect())
}

fn files(world: &World<'_>, overlay_folder: &Path, guests: &[GuestFacts]) -> Answer<Vec<PathBuf>> {
    let disks = guests.iter().flat_map(|it| &it.disks);
    let beside = disks.filter_map(|it| it.top.parent());
    let folders: BTreeSet<_> = beside.chain([overlay_folder]).collect();
    let listed = folders.into_iter().map(|it| world.storage.list(it));
    Ok(listed.collect::<Answer<Vec<_>>>()?.concat())
}

/// The torn snapshots that are still there.
fn torn(world: &World<'_>) -> Answer<Vec<(GuestUuid, AnySnapshot)>> {
    let mut noted = world.homes.torn()?;
    let volumes: BTreeSet<_> = noted.iter().map(|(_, it)| it.volume.clone()).collect();
    let there = world.storage.all_snapshots(&volumes.into_iter().collect::<Vec<_>>())?;
    noted.retain(|(_, it)| there.iter().any(|there| there.id == it.id));
    Ok(noted)
}

fn snapshots(world: &World<'_>, guests: &[GuestFacts]) -> Answer<Vec<SnapshotFacts>> {
    let guests: Vec<_> = guests.iter().map(|it| it.guest.clone()).collect();
    let volumes: BTreeSet<_> = volumes_of(world.storage, &guests)?.into_iter().flatten().collect();
    let found = world.storage.snapshots(&volumes.into_iter().collect::<Vec<_>>())?;
    let facts = |found: FoundSnapshot| {
        let destroy = world.storage.destroy_command(&found.snapshot);
        let points = found.held_for.iter().flatten();
        let release = |it: &PointId| world.storage.release_command(&found.snapshot, it);
        let releases = points.map(|it| (it.clone(), release(it))).collect();
        SnapshotFacts { found, destroy, releases }
    };
    Ok(found.into_iter().map(facts).collect())
}
