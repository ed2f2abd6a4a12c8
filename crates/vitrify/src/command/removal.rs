//! Removing points: what `delete` and `prune` have in common.

use std::collections::{BTreeMap, BTreeSet};

use vitrify_core::engine::run;
use vitrify_core::inventory::{Need, Snapshot};
use vitrify_core::manifest::Manifest;
use vitrify_core::name::{GuestName, GuestUuid, PointId, Volume};
use vitrify_core::operation::{Outcome, Plan};
use vitrify_core::ports::{Answer, Storage};
use vitrify_core::problem::{Problem, ProblemNote};
use vitrify_core::removal::RemovalPlan;

use crate::command::capture::unsettled;
use crate::context::{Context, Host, new_id};

/// Whose points go. It need not be defined any more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guest<'a> {
    pub(crate) name: &'a GuestName,
    pub(crate) uuid: &'a GuestUuid,
}

/// What is to go.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) points: BTreeSet<PointId>,
    /// The points that lose their memory image only.
    pub(crate) images: Vec<PointId>,
}

/// What became of it.
pub(crate) struct Removed {
    pub(crate) destroyed: Vec<Snapshot>,
    pub(crate) failures: Vec<ProblemNote>,
}

/// Removes points of a guest, its volumes locked meanwhile.
///
/// # Errors
/// `Refused` where one of them is needed for something: then nothing was removed.
pub(crate) fn remove(
    context: &Context,
    host: &Host<'_>,
    guest: Guest<'_>,
    wanted: &Wanted,
) -> Answer<Removed> {
    let _lock = context.lock(&[guest.uuid], &[])?;
    host.check_settled(guest.name, guest.uuid)?;
    let volumes = plan(context, guest, wanted)?.volumes();
    let _volumes = context.lock(&[], &volumes)?;
    // Another guest's point may have come to need, or to spare, a snapshot that both have.
    let plan = plan(context, guest, wanted)?;
    let needs =
        needs(host.world().storage, plan.points.iter().map(|it| (&it.point, &*it.snapshots)))?;
    if let Some((point, need)) =
        needs.into_iter().find_map(|it| Some((it.0, it.1.into_iter().next()?)))
    {
        let message = format!("the point {point} of '{}' is not removed: {need}", guest.name);
        return Err(Problem::refused(message));
    }
    let progress = context.progress(guest.name.as_str());
    let outcome = run(&host.world(), Plan::Removal(plan.clone()), &progress)?;
    drop(progress);
    match outcome {
        Outcome::Removed { failures } => {
            let destroyed = plan.points.into_iter().flat_map(|it| it.snapshots).collect();
            Ok(Removed { destroyed, failures: failures.into_iter().map(|it| it.problem).collect() })
        }
        Outcome::Unsettled { failures, .. } => {
            let problems = failures.into_iter().map(|it| it.problem).collect();
            Err(unsettled(guest.name, problems))
        }
        _ => Err(Problem::failed("the removal ended as something else")),
    }
}

fn plan(context: &Context, guest: Guest<'_>, wanted: &Wanted) -> Answer<RemovalPlan> {
    let points = context.points()?;
    // Where one cannot be read, nobody knows which snapshots it needs.
    let all = points.iter().map(|it| it.manifest.as_ref().map_err(|it| it.note().into()));
    let all: Vec<&Manifest> = all.collect::<Answer<_>>()?;
    let of = (guest.name.clone(), guest.uuid.clone());
    Ok(RemovalPlan::new(new_id()?, of, &wanted.points, wanted.images.clone(), &all))
}

/// What the storage knows that the snapshots of points are needed for.
pub(crate) fn needs<'a>(
    storage: &dyn Storage,
    points: impl IntoIterator<Item = (&'a PointId, &'a [Snapshot])>,
) -> Answer<BTreeMap<&'a PointId, Vec<Need>>> {
    let points: Vec<_> = points.into_iter().collect();
    let snapshots = points.iter().flat_map(|it| it.1);
    let volumes: BTreeSet<Volume> = snapshots.map(|it| it.volume.clone()).collect();
    let found = storage.snapshots(&volumes.into_iter().collect::<Vec<_>>())?;
    let mut needs = BTreeMap::new();
    for (point, snapshots) in points {
        let its = found.iter().filter(|it| snapshots.contains(&it.snapshot));
        needs.insert(point, its.flat_map(|it| it.needed.clone()).collect());
    }
    Ok(needs)
}
