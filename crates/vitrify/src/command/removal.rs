//! Removing points: what `delete` and `prune` have in common.

use std::collections::BTreeSet;

use vitrify_core::engine::run;
use vitrify_core::inventory::{Need, Snapshot};
use vitrify_core::manifest::Manifest;
use vitrify_core::name::{GuestName, GuestUuid, PointId, Volume};
use vitrify_core::operation::{Outcome, Plan};
use vitrify_core::policy::retention::facts;
use vitrify_core::ports::{Answer, FoundPoint};
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
/// `Refused` where one of them is needed for something, or may be: then nothing was removed.
pub(crate) fn remove(
    context: &Context,
    host: &Host<'_>,
    guest: Guest<'_>,
    wanted: &Wanted,
) -> Answer<Removed> {
    let _lock = context.lock(&[guest.uuid], &[])?;
    host.check_settled(guest.name, guest.uuid)?;
    let volumes = plan(guest, wanted, &context.points()?)?.volumes();
    let _volumes = context.lock(&[], &volumes)?;
    // Another guest's point may have come to need, or to spare, a snapshot that both have.
    let points = context.points()?;
    let plan = plan(guest, wanted, &points)?;
    let its: Vec<_> = points.iter().filter(|it| wanted.points.contains(&it.id)).collect();
    let its_volumes: Vec<_> = volumes_of_points(its.iter().copied()).into_iter().collect();
    let snapshots = host.world().storage.snapshots(&its_volumes)?;
    if let Some(obstacle) = plan.obstacle(&points, &snapshots) {
        return Err(stands_in_the_way(guest, obstacle));
    }
    let facts = facts(its.iter().copied(), &snapshots, None);
    let needed = facts.iter().find_map(|it| Some((&it.id, it.needed.first()?)));
    if let Some((point, need)) = needed {
        return Err(needed_for(guest, point, need));
    }
    carry_out(context, host, guest, plan)
}

/// Removes what a home has of a point whose manifest cannot be read; its snapshots stay.
///
/// # Errors
/// `Refused` where it is held, or can be read after all.
pub(crate) fn remove_unreadable(
    context: &Context,
    host: &Host<'_>,
    guest: Guest<'_>,
    point: &PointId,
) -> Answer<Removed> {
    let _lock = context.lock(&[guest.uuid], &[])?;
    host.check_settled(guest.name, guest.uuid)?;
    let points = context.points()?;
    let found = points.iter().find(|it| it.guest == *guest.uuid && it.id == *point);
    let found = found.ok_or_else(|| Problem::not_found(format!("the point {point} vanished")))?;
    if found.manifest.is_ok() {
        return Err(Problem::refused(format!("the manifest of the point {point} can be read now")));
    }
    if let Some(tag) = found.holds.first() {
        return Err(needed_for(guest, point, &Need::Held(tag.clone())));
    }
    let of = (guest.name.clone(), guest.uuid.clone());
    carry_out(context, host, guest, RemovalPlan::of_unreadable(new_id()?, of, point.clone()))
}

fn needed_for(guest: Guest<'_>, point: &PointId, need: &Need) -> Problem {
    Problem::refused(format!("the point {point} of '{}' is not removed: {need}", guest.name))
}

/// What a point that cannot be read keeps from being removed.
fn stands_in_the_way(guest: Guest<'_>, obstacle: &FoundPoint) -> Problem {
    let why = obstacle.manifest.as_ref().err().map(Problem::chain).unwrap_or_default();
    // Where it is another guest's, only its home is known for sure.
    let of = match obstacle.guest == *guest.uuid {
        true => guest.name.as_str(),
        false => obstacle.guest.as_str(),
    };
    let message =
        format!("no point of '{}' is removed: {why}, and it may need what would go", guest.name);
    Problem::refused(message).hint(format!(
        "bring the manifest back from a backup, or give the point up: 'vitrify delete {of}@{}'",
        obstacle.id
    ))
}

fn carry_out(
    context: &Context,
    host: &Host<'_>,
    guest: Guest<'_>,
    plan: RemovalPlan,
) -> Answer<Removed> {
    let progress = context.progress(guest.name.as_str()).about(Some(guest.name), None);
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

fn plan(guest: Guest<'_>, wanted: &Wanted, points: &[FoundPoint]) -> Answer<RemovalPlan> {
    let all: Vec<&Manifest> = points.iter().filter_map(|it| it.manifest.as_ref().ok()).collect();
    let of = (guest.name.clone(), guest.uuid.clone());
    Ok(RemovalPlan::new(new_id()?, of, &wanted.points, wanted.images.clone(), &all))
}

/// The volumes that points have snapshots on.
pub(crate) fn volumes_of_points<'a>(
    points: impl IntoIterator<Item = &'a FoundPoint>,
) -> BTreeSet<Volume> {
    let manifests = points.into_iter().filter_map(|it| it.manifest.as_ref().ok());
    manifests.flat_map(|it| &it.volumes).map(|it| it.volume.clone()).collect()
}
