//! Removing a guest's points: what its plan holds, and what follows from what was done so far.
//!
//! A point is taken out of its home before its snapshots are destroyed: whatever dies in between, no
//! published point lacks a part. What an interrupted removal has not begun stays, for it was decided
//! by what was known then.
//!
//! Which snapshots a point has whose manifest cannot be read is not known. It stands in the way of
//! removals that may concern it, until somebody deletes it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::inventory::{FoundSnapshot, Snapshot};
use crate::manifest::Manifest;
use crate::name::{GuestName, GuestUuid, PointId, Volume};
use crate::operation::{Effect, History, Next, Outcome};
use crate::ports::FoundPoint;
use crate::problem::ProblemKind;

/// A point that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoomedPoint {
    /// The point.
    pub point: PointId,
    /// Its snapshots, as far as no other point needs them.
    pub snapshots: Vec<Snapshot>,
}

/// A removal, decided in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovalPlan {
    /// This removal.
    pub id: PointId,
    /// The guest's name.
    pub guest: GuestName,
    /// The guest.
    pub guest_uuid: GuestUuid,
    /// The points that go.
    pub points: Vec<DoomedPoint>,
    /// The points that stay without their memory image.
    pub images: Vec<PointId>,
}

impl RemovalPlan {
    /// A removal of these `doomed` points of one guest, and of the memory `images` of others, given
    /// every point of every guest that can be read: a snapshot that serves another one stays. Whether one
    /// that cannot be read stands in its way, [`RemovalPlan::obstacle`] says.
    pub fn new(
        id: PointId,
        (guest, guest_uuid): (GuestName, GuestUuid),
        doomed: &BTreeSet<PointId>,
        images: Vec<PointId>,
        all: &[&Manifest],
    ) -> Self {
        let goes = |it: &&&Manifest| it.guest_uuid == guest_uuid && doomed.contains(&it.id);
        let stay = all.iter().filter(|it| !goes(it)).flat_map(|it| &it.volumes);
        let needed: BTreeSet<_> = stay.map(|it| (&it.volume, &it.id)).collect();
        let doomed = all.iter().filter(goes).map(|it| {
            let free = |it: &&Snapshot| !needed.contains(&(&it.volume, &it.id));
            let snapshots = it.volumes.iter().filter(free).cloned().collect();
            DoomedPoint { point: it.id.clone(), snapshots }
        });
        Self { id, points: doomed.collect(), images, guest, guest_uuid }
    }

    /// A removal of a point whose manifest cannot be read: what its home has of it goes. Which snapshots
    /// are its own is not known, so they stay.
    pub fn of_unreadable(
        id: PointId,
        (guest, guest_uuid): (GuestName, GuestUuid),
        point: PointId,
    ) -> Self {
        let points = vec![DoomedPoint { point, snapshots: Vec::new() }];
        Self { id, points, images: Vec::new(), guest, guest_uuid }
    }

    /// The first of these points that cannot be read and that this removal may concern: one of the same
    /// guest, or one that may need a snapshot that would go. It does not need one of which the storage
    /// says, in these `snapshots`, that it was taken for the point that goes and not for this one: a
    /// snapshot bears all points that it was taken for from its beginning.
    pub fn obstacle<'a>(
        &self,
        points: &'a [FoundPoint],
        snapshots: &[FoundSnapshot],
    ) -> Option<&'a FoundPoint> {
        let is_not_of = |it: &FoundPoint, doomed: &DoomedPoint, snapshot: &Snapshot| {
            let found = snapshots.iter().find(|found| found.snapshot == *snapshot);
            let taken_for = found.and_then(|found| found.points.as_ref());
            taken_for.is_some_and(|its| its.contains(&doomed.point) && !its.contains(&it.id))
        };
        let may_need = |it: &FoundPoint| {
            let mut going = self
                .points
                .iter()
                .flat_map(|doomed| doomed.snapshots.iter().map(move |snapshot| (doomed, snapshot)));
            going.any(|(doomed, snapshot)| !is_not_of(it, doomed, snapshot))
        };
        let mut unreadable = points.iter().filter(|it| it.manifest.is_err());
        unreadable.find(|it| it.guest == self.guest_uuid || may_need(it))
    }

    /// The volumes that its points lie on.
    pub fn volumes(&self) -> Vec<Volume> {
        let snapshots = self.points.iter().flat_map(|it| &it.snapshots);
        let volumes: BTreeSet<_> = snapshots.map(|it| it.volume.clone()).collect();
        volumes.into_iter().collect()
    }

    /// The snapshots of the points that are gone.
    pub fn free_snapshots(&self, history: &History<'_>) -> Vec<Snapshot> {
        let gone = |it: &&DoomedPoint| history.done(&it.removal()).is_some();
        self.points.iter().filter(gone).flat_map(|it| it.snapshots.clone()).collect()
    }

    fn removals(&self) -> impl Iterator<Item = Effect> {
        let images = self.images.iter().cloned().map(|point| Effect::ExpireMemory { point });
        images.chain(self.points.iter().map(DoomedPoint::removal))
    }
}

impl DoomedPoint {
    fn removal(&self) -> Effect {
        Effect::RemovePoint { point: self.point.clone() }
    }
}

/// What follows in a removal.
pub fn next(plan: &RemovalPlan, history: &History<'_>) -> Next {
    let is_free = history.taken_over().is_none();
    let mut half_done = false;
    for step in plan.removals() {
        if history.done(&step).is_some() {
            continue;
        }
        if history.failed_now(&step).is_some() {
            half_done |= history.begun(&step);
        } else if is_free || history.begun(&step) {
            return Next::Perform(step);
        }
    }
    let destroy = Effect::DestroySnapshots;
    // A point that went only now has freed more than was destroyed before.
    let since = history.since_done(|effect| matches!(effect, Effect::RemovePoint { .. }));
    match since.failed_now(&destroy) {
        None if since.done(&destroy).is_some() || plan.free_snapshots(history).is_empty() => {}
        None => return Next::Perform(destroy),
        // Held, cloned, or another one under its name: for an administrator, and no part of a point
        // any more.
        Some(problem) => half_done |= problem.kind != ProblemKind::Refused,
    }
    let failures = history.failures_now();
    Next::Finished(match half_done {
        true => Outcome::Unsettled { failures, published: Default::default() },
        false => Outcome::Removed { failures },
    })
}
