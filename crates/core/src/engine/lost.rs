//! Captures whose journal is lost, or cannot be believed. Their plans are staged with their points, so
//! that they can be entered anew, as if every step had been begun.

use std::collections::BTreeSet;

use crate::capture::{CapturePlan, doubted};
use crate::foreign::bound;
use crate::operation::{Fact, JournalEntry, Plan};
use crate::ports::{Answer, World};

/// The captures that were begun and that no entry can be believed of.
///
/// # Errors
/// Where homes or journal cannot be read.
pub fn lost_captures(world: &World<'_>) -> Answer<Vec<CapturePlan>> {
    // Before the entries: an entry is there before anything is staged, and after.
    let staged = world.homes.unfinished()?;
    let known = world.journal.entries()?;
    let plans = staged.iter().filter_map(|it| serde_json::from_str(it.plan.as_ref()?).ok());
    let damaged = world.journal.damaged()?.into_iter().filter_map(|it| match it.plan {
        Some(Plan::Capture(plan)) => Some(plan),
        _ => None,
    });
    let mut lost: Vec<CapturePlan> = Vec::new();
    for plan in damaged.chain(plans) {
        if !lost.iter().any(|it| it.id == plan.id)
            && !known.iter().any(|it| *it.plan.id() == plan.id)
        {
            lost.push(plan);
        }
    }
    Ok(lost)
}

/// An entry for such a capture. What a published point has is not taken from it.
///
/// # Errors
/// `Refused` where a point's manifest does not tell what the point has.
pub fn rebuild(world: &World<'_>, mut plan: CapturePlan) -> Answer<JournalEntry> {
    let points = world.homes.points()?;
    let (mut published, mut time) = (BTreeSet::new(), world.clock.now());
    for point in points.iter().filter(|it| plan.members.iter().any(|its| its.point == it.id)) {
        match &point.manifest {
            Ok(manifest) => time = manifest.time,
            Err(problem) => return Err(problem.note().into()),
        }
        published.insert(&point.id);
    }
    let snapshots = plan.own_snapshots(world.storage.snapshots(&plan.volumes)?);
    let snapshots = Fact::Snapshots { snapshots, time };
    let records = doubted(&plan, &published, &snapshots);
    if published.is_empty() {
        plan.known_snapshots.extend(bound(&points).into_iter().cloned());
    }
    Ok(JournalEntry { plan: Plan::Capture(plan), records })
}

/// Writes a rebuilt entry down, in the place of one that cannot be believed.
///
/// # Errors
/// Where the journal cannot be written.
pub fn reopen(world: &World<'_>, entry: &JournalEntry) -> Answer<()> {
    let damaged = world.journal.damaged()?;
    for its in damaged.iter().filter(|it| it.id == *entry.plan.id()) {
        world.journal.set_aside(its)?;
    }
    world.journal.open(&entry.plan, &entry.records)
}
