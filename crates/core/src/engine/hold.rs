//! Holding a point, and its snapshots with it.
//!
//! A point never says that it is held while its snapshots are not: they are held first, and released
//! last. Whatever dies in between leaves snapshots held for a point that is not, which the same command
//! puts right when it is repeated, a removal passes over, and [`crate::foreign`] names.

use crate::inventory::Snapshot;
use crate::ports::{Answer, FoundPoint, Homes, Storage};

/// Holds a point under this tag, and its snapshots where the storage can. May be repeated.
///
/// # Errors
/// Where a snapshot of it is not there or cannot be held: then all is as it was, as far as it could be
/// undone. `Refused` where nobody can tell which snapshots it has.
pub fn hold(storage: &dyn Storage, homes: &dyn Homes, point: &FoundPoint, tag: &str) -> Answer<()> {
    let snapshots = snapshots(point)?;
    let held = storage
        .hold(snapshots, &point.id)
        .and_then(|()| homes.hold(&point.guest, &point.id, tag, true));
    held.map_err(|problem| match point.holds.iter().any(|it| it == tag) {
        true => problem,
        false => match release(storage, homes, point, tag) {
            Ok(()) => problem,
            Err(left) => problem.and_afterwards(&left),
        },
    })
}

/// Lets a point go that is held under this tag, and its snapshots where nothing else holds it. May be
/// repeated.
///
/// # Errors
/// What the home or the storage says.
pub fn release(
    storage: &dyn Storage,
    homes: &dyn Homes,
    point: &FoundPoint,
    tag: &str,
) -> Answer<()> {
    homes.hold(&point.guest, &point.id, tag, false)?;
    match snapshots(point) {
        Ok(snapshots) if point.holds.iter().all(|it| it == tag) => {
            storage.release(snapshots, &point.id)
        }
        _ => Ok(()),
    }
}

/// Whether a snapshot of a point is held for it, whatever the point says.
///
/// # Errors
/// What the storage says.
pub fn is_held_for(storage: &dyn Storage, point: &FoundPoint) -> Answer<bool> {
    let Ok(snapshots) = snapshots(point) else { return Ok(false) };
    let volumes: Vec<_> = snapshots.iter().map(|it| it.volume.clone()).collect();
    let found = storage.snapshots(&volumes)?.into_iter();
    let mut its = found.filter(|it| snapshots.contains(&it.snapshot));
    Ok(its.any(|it| it.held_for.is_some_and(|points| points.contains(&point.id))))
}

fn snapshots(point: &FoundPoint) -> Answer<&[Snapshot]> {
    match &point.manifest {
        Ok(manifest) => Ok(&manifest.volumes),
        Err(problem) => Err(problem.note().into()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::engine::{plan_capture, run};
    use crate::fake::{Fake, Fault, FaultKind, Nobody, capture_request};
    use crate::operation::{Outcome, Plan};
    use crate::removal::RemovalPlan;

    const TAG: &str = "vitrify:user";

    /// A world with a point of two volumes.
    fn world() -> Fake {
        let fake = Fake::with_guest(2);
        let plan = plan_capture(&fake.world(), &capture_request(1)).unwrap().plan.unwrap();
        run(&fake.world(), Plan::Capture(plan), &Nobody).unwrap();
        fake
    }

    fn point(fake: &Fake) -> FoundPoint {
        Homes::points(fake).unwrap().remove(0)
    }

    /// How many of the point's snapshots are held for it, and whether it says that it is held.
    fn state(fake: &Fake) -> (usize, bool) {
        let point = point(fake);
        let held = fake.all_snapshots().iter().filter(|it| it.held_for.contains(&point.id)).count();
        (held, !point.holds.is_empty())
    }

    #[test]
    fn snapshots_are_held_as_long_as_their_point_is() {
        let fake = world();
        for _ in 0..2 {
            hold(&fake, &fake, &point(&fake), TAG).unwrap();
            assert_eq!(state(&fake), (2, true));
            assert!(is_held_for(&fake, &point(&fake)).unwrap());
        }
        hold(&fake, &fake, &point(&fake), "vitrify:other").unwrap();
        release(&fake, &fake, &point(&fake), TAG).unwrap();
        assert_eq!(state(&fake), (2, true));
        for _ in 0..2 {
            release(&fake, &fake, &point(&fake), "vitrify:other").unwrap();
            assert_eq!(state(&fake), (0, false));
            assert!(!is_held_for(&fake, &point(&fake)).unwrap());
        }
    }

    #[test]
    fn what_a_hold_left_keeps_no_point_for_ever() {
        let fake = world();
        let point = point(&fake);
        let manifest = point.manifest.unwrap();
        Storage::hold(&fake, &manifest.volumes, &point.id).unwrap();
        let id = "00000000-0000-4000-c000-000000000001".parse().unwrap();
        let guest = (manifest.guest.clone(), manifest.guest_uuid.clone());
        let plan =
            RemovalPlan::new(id, guest, &BTreeSet::from([point.id]), Vec::new(), &[&manifest]);
        let outcome = run(&fake.world(), Plan::Removal(plan), &Nobody).unwrap();
        assert!(
            matches!(&outcome, Outcome::Removed { failures } if failures.is_empty()),
            "{outcome:?}"
        );
        assert!(fake.all_snapshots().is_empty());
    }

    /// Each call fails or is the last, in a hold and in a release: the point never says more than its
    /// snapshots hold, and the next try ends well.
    #[test]
    fn whatever_dies_in_between() {
        type Work = fn(&dyn Storage, &dyn Homes, &FoundPoint, &str) -> Answer<()>;
        let works: [(Work, (usize, bool)); 2] = [(hold, (2, true)), (release, (0, false))];
        for (work, done) in works {
            for at in 0..4 {
                for kind in FaultKind::ALL {
                    let fake = world();
                    if !done.1 {
                        hold(&fake, &fake, &point(&fake), TAG).unwrap();
                    }
                    fake.schedule(&[Fault { at: fake.calls() + at, kind }]);
                    let ended = work(&fake, &fake, &point(&fake), TAG);
                    if fake.is_dead() {
                        fake.revive();
                    }
                    let (held, says) = state(&fake);
                    assert!(held == 2 || !says, "{at} {kind:?} {ended:?}");
                    let as_it_was = matches!(kind, FaultKind::FailBefore | FaultKind::FailAfter);
                    if done.1 && as_it_was && ended.is_err() {
                        assert_eq!((held, says), (0, false), "{at} {kind:?}");
                    }
                    fake.schedule(&[]);
                    work(&fake, &fake, &point(&fake), TAG).unwrap();
                    assert_eq!(state(&fake), done, "{at} {kind:?}");
                }
            }
        }
    }
}
