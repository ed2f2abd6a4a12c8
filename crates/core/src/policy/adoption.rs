//! Which of the snapshots that sanoid took of a guest's volume a policy that adopts them keeps no longer.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::retention::{Kept, Served, verdict};
use super::{Period, Policy};
use crate::inventory::FoundSnapshot;
use crate::name::SnapshotId;
use crate::sanoid::decide::period_of;

/// A snapshot of sanoid's, and what becomes of it.
pub type Adopted<'a> = (&'a FoundSnapshot, Result<Kept, Served>);

/// Decides for all snapshots of one volume that sanoid took and no point has, newest first: one goes
/// only where the policy of every guest that lies there lets it go. The `points`' snapshots count as
/// newer ones: what follows on sanoid's history takes its place.
pub fn adopted<'a>(
    policies: &[&Policy],
    snapshots: &'a [FoundSnapshot],
    points: &BTreeMap<&SnapshotId, BTreeSet<Period>>,
    now: Timestamp,
) -> Vec<Adopted<'a>> {
    let mut newest_first: Vec<_> = snapshots.iter().collect();
    newest_first.sort_by_key(|it| Reverse((it.order, it.created)));
    let mut newer: BTreeMap<Period, u32> = BTreeMap::new();
    let mut judged = Vec::new();
    for found in newest_first {
        let Some(created) = found.created else { continue };
        let is_past = created <= now;
        let its = points.get(&found.snapshot.id);
        let sanoids = period_of(&found.snapshot.name).filter(|_| is_nobodys(found, its.is_some()));
        if let Some(period) = sanoids {
            let newer = newer.get(&period).copied().unwrap_or_default();
            let judge = |policy: &&Policy| match policy.keep.get(&period) {
                None => Ok(Kept::NotPruned),
                Some(&count) => verdict(policy, period, count, newer, now.duration_since(created)),
            };
            let verdict = match is_past {
                false => Ok(Kept::Future),
                true => {
                    policies.iter().map(judge).reduce(Result::or).unwrap_or(Ok(Kept::NotPruned))
                }
            };
            let needed = || found.needed.first().cloned().map(Kept::Needed);
            judged.push((found, verdict.or_else(|served| needed().ok_or(served))));
        }
        let periods = its.into_iter().flatten().copied().chain(sanoids);
        periods.filter(|_| is_past).for_each(|it| *newer.entry(it).or_default() += 1);
    }
    judged
}

/// Whether a snapshot is no point's: by the homes, and by what is written on it.
fn is_nobodys(found: &FoundSnapshot, has_point: bool) -> bool {
    !has_point && found.points.as_ref().is_some_and(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::inventory::{Need, Snapshot};
    use crate::point::TIME;

    fn now() -> Timestamp {
        "2026-11-27T12:00:00Z".parse().unwrap()
    }

    /// A snapshot so many hours old; its identity is its age.
    fn snapshot(hours: i64, prefix: &str, period: &str) -> FoundSnapshot {
        let created = now() - SignedDuration::from_hours(hours);
        let name = format!("{prefix}_{}_{period}", created.strftime(TIME));
        FoundSnapshot {
            snapshot: Snapshot {
                volume: "tank/vm".parse().unwrap(),
                name: name.parse().unwrap(),
                id: hours.unsigned_abs().to_string().parse().unwrap(),
            },
            points: Some(Vec::new()),
            order: u64::try_from(100_000 - hours).ok(),
            created: Some(created),
            needed: Vec::new(),
            held_for: Some(Vec::new()),
        }
    }

    fn policy(keep: &[(Period, u32)]) -> Policy {
        Policy { keep: keep.iter().copied().collect(), ..Policy::default() }
    }

    /// Columns: what is kept by each policy, the ages in hours of sanoid's hourlies and of our points,
    /// the ages of those that go, newest first.
    #[test]
    fn what_has_served_goes() {
        type Row = (&'static [u32], &'static [i64], &'static [i64], &'static [i64]);
        let rows: [Row; 8] = [
            (&[2], &[1, 2, 3, 4], &[], &[3, 4]),
            // Ours follow on them.
            (&[2], &[3, 4, 5], &[1], &[4, 5]),
            (&[2], &[3, 4, 5], &[1, 2], &[3, 4, 5]),
            // Not older than two hours.
            (&[2], &[0, 1, 2], &[], &[]),
            (&[2], &[500, 600, 700], &[], &[700]),
            // What is dated later than now neither goes nor counts.
            (&[1], &[-5, 3, 4], &[], &[4]),
            // Two guests: the policy that keeps more.
            (&[1, 3], &[1, 2, 3, 4, 5], &[], &[4, 5]),
            // No guest, no policy.
            (&[], &[500, 600, 700], &[], &[]),
        ];
        for (keep, theirs, ours, wanted) in rows {
            let mut snapshots: Vec<_> =
                theirs.iter().map(|it| snapshot(*it, "autosnap", "hourly")).collect();
            snapshots.extend(ours.iter().map(|it| snapshot(*it, "vitrify", "hourly")));
            let ids: Vec<_> = ours.iter().map(|it| it.to_string().parse().unwrap()).collect();
            let points = ids.iter().map(|it| (it, BTreeSet::from([Period::Hourly]))).collect();
            let policies: Vec<_> = keep.iter().map(|it| policy(&[(Period::Hourly, *it)])).collect();
            let policies: Vec<_> = policies.iter().collect();
            let judged = adopted(&policies, &snapshots, &points, now());
            assert_eq!(judged.len(), theirs.len(), "{keep:?}");
            let gone = judged.iter().filter(|it| it.1.is_err());
            let gone: Vec<i64> =
                gone.map(|it| it.0.snapshot.id.as_str().parse().unwrap()).collect();
            assert_eq!(gone, wanted, "{keep:?} {theirs:?} {ours:?}");
        }
    }

    #[test]
    fn what_stays_whatever_the_policy_says() {
        let held = FoundSnapshot {
            needed: vec![Need::Held("keep".into())],
            ..snapshot(500, "autosnap", "hourly")
        };
        let of_a_point = FoundSnapshot {
            points: Some(vec!["00000000-0000-4000-8000-000000000001".parse().unwrap()]),
            ..snapshot(501, "autosnap", "hourly")
        };
        let unknown = FoundSnapshot { points: None, ..snapshot(502, "autosnap", "hourly") };
        let undated = FoundSnapshot { created: None, ..snapshot(503, "autosnap", "hourly") };
        let all = [
            held,
            of_a_point,
            unknown,
            undated,
            snapshot(504, "autosnap", "weekly"),
            snapshot(505, "before", "hourly"),
            snapshot(506, "vitrify", "hourly"),
            snapshot(507, "autosnap", "hourly"),
        ];
        let id = "507".parse().unwrap();
        let points = BTreeMap::from([(&id, BTreeSet::new())]);
        let policy = policy(&[(Period::Hourly, 0)]);
        let judged = adopted(&[&policy], &all, &points, now());
        let said = |verdict: &Result<Kept, Served>| match verdict {
            Ok(kept) => kept.to_string(),
            Err(served) => served.to_string(),
        };
        let said: Vec<_> =
            judged.iter().map(|it| (it.0.snapshot.id.as_str(), said(&it.1))).collect();
        let need = Need::Held("keep".into()).to_string();
        assert_eq!(said, [("500", need), ("504", "no policy prunes it".to_owned())]);
    }
}
