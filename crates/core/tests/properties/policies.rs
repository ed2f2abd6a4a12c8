//! What a policy promises: that so many of a period are kept, that what must stay stays, and that
//! clocks do no harm.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use vitrify_core::inventory::Need;
use vitrify_core::name::PointId;
use vitrify_core::point::{Purpose, name_at};
use vitrify_core::policy::due::due;
use vitrify_core::policy::retention::{Kept, PointFacts, Retention, retention};
use vitrify_core::policy::{Period, Policy};

/// Vienna's, without the system's database.
pub(crate) fn vienna() -> TimeZone {
    TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
}

pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn now() -> Timestamp {
    at("2026-11-27T12:00:00Z")
}

fn id(number: usize) -> PointId {
    format!("00000000-0000-4000-8000-{number:012}").parse().unwrap()
}

fn a_point_taken(number: usize, time: Timestamp, purposes: &[Purpose]) -> PointFacts {
    PointFacts {
        id: id(number),
        names: purposes.iter().map(|it| name_at(time, *it).unwrap()).collect(),
        time,
        order: None,
        has_memory: true,
        reached: true,
        drilled: false,
        needed: Vec::new(),
    }
}

fn purposes() -> impl Strategy<Value = Vec<Purpose>> {
    let mut all = vec![Purpose::Manual, Purpose::Safety];
    all.extend(Period::ALL.map(Purpose::Scheduled));
    subsequence(all, 1..3)
}

/// Points of the last days, some of them dated later than now.
fn points() -> impl Strategy<Value = Vec<PointFacts>> {
    let needed = select(vec![vec![], vec![], vec![], vec![Need::InFlight]]);
    let one = (-200..6000_i64, purposes(), any::<(bool, bool, bool)>(), needed);
    vec(one, 0..60).prop_map(|all| {
        let numbered = all.into_iter().enumerate();
        numbered
            .map(|(number, (hours, purposes, (has_memory, reached, drilled), needed))| {
                let time = now() - SignedDuration::from_mins(hours * 20);
                let point = a_point_taken(number, time, &purposes);
                PointFacts { has_memory, reached, drilled, needed, ..point }
            })
            .collect()
    })
}

fn policies() -> impl Strategy<Value = Policy> {
    let counts = || proptest::collection::btree_map(select(Period::ALL.to_vec()), 0..6_u32, 0..6);
    (counts(), counts()).prop_map(|(keep, keep_memory)| Policy {
        keep,
        keep_memory,
        ..Policy::default()
    })
}

/// What is left when that was done.
fn after(points: &[PointFacts], done: &Retention) -> Vec<PointFacts> {
    let mut left = points.to_vec();
    for (id, name, verdict) in &done.names {
        if verdict.is_err() {
            let point = left.iter_mut().find(|it| it.id == *id).unwrap();
            point.names.retain(|it| it != name);
        }
    }
    left.retain(|it| !it.names.is_empty());
    for (id, verdict) in &done.images {
        if verdict.is_err() {
            left.iter_mut().find(|it| it.id == *id).unwrap().has_memory = false;
        }
    }
    left
}

fn of_period(points: &[PointFacts], period: Period) -> Vec<&PointFacts> {
    let is_it = |it: &&PointFacts| {
        it.names.iter().any(|name| Purpose::of(name) == Some(Purpose::Scheduled(period)))
    };
    points.iter().filter(is_it).collect()
}

proptest! {
    #[test]
    fn what_policy_promises_is_kept(policy in policies(), points in points()) {
        let left = after(&points, &retention(&policy, &points, now()));
        for period in Period::ALL {
            let before = of_period(&points, period);
            let kept: BTreeSet<_> = of_period(&left, period).iter().map(|it| &it.id).collect();
            let Some(count) = policy.keep.get(&period) else {
                prop_assert_eq!(before.len(), kept.len(), "{} is not named", period);
                continue;
            };
            let mut past: Vec<_> = before.iter().filter(|it| it.time <= now()).collect();
            past.sort_by_key(|it| std::cmp::Reverse((it.time, &it.id)));
            for newest in past.iter().take(*count as usize) {
                prop_assert!(kept.contains(&newest.id), "{} of {}", newest.time, period);
            }
            let age = policy.length(period) * i32::try_from(*count).unwrap();
            for young in before.iter().filter(|it| now().duration_since(it.time) <= age) {
                prop_assert!(kept.contains(&young.id), "{} of {}", young.time, period);
            }
        }
    }

    #[test]
    fn what_must_stay_stays(policy in policies(), points in points()) {
        let left = after(&points, &retention(&policy, &points, now()));
        let stays = |point: &PointFacts| left.iter().any(|it| it == point);
        for point in &points {
            let names = point.names.iter().map(Purpose::of);
            let by_hand = names.clone().any(|it| it == Some(Purpose::Manual));
            if !point.needed.is_empty() || point.time > now() {
                prop_assert!(stays(point), "{point:?}");
            } else if by_hand {
                prop_assert!(left.iter().any(|it| it.id == point.id), "{point:?}");
            }
        }
        let past = || points.iter().filter(|it| it.time <= now());
        let order = |it: &&PointFacts| (it.time, it.id.clone());
        let regular = |it: &&PointFacts| {
            !it.names.iter().all(|name| Purpose::of(name) == Some(Purpose::Safety))
        };
        for shielded in [
            past().max_by_key(order),
            past().filter(regular).max_by_key(order),
            past().filter(regular).filter(|it| it.reached).max_by_key(order),
            past().filter(|it| it.drilled).max_by_key(order),
        ]
        .into_iter()
        .flatten()
        {
            prop_assert!(stays(shielded), "{shielded:?}");
        }
    }

    #[test]
    fn prune_is_idempotent(policy in policies(), points in points()) {
        let left = after(&points, &retention(&policy, &points, now()));
        prop_assert_eq!(after(&left, &retention(&policy, &left, now())), left);
    }

    /// A clock that went back dates what there is into the future: nothing more goes.
    #[test]
    fn a_clock_that_went_back_prunes_no_more(
        policy in policies(),
        points in points(),
        hours in 0..5000_i64,
    ) {
        let back = now() - SignedDuration::from_hours(hours);
        let gone = |when| {
            let found = retention(&policy, &points, when);
            let gone = found.names.into_iter().filter(|it| it.2.is_err());
            gone.map(|it| (it.0, it.1)).collect::<BTreeSet<_>>()
        };
        let (earlier, later) = (gone(back), gone(now()));
        let shielded_by_now = |it: &PointId| {
            let found = retention(&policy, &points, now());
            found.names.iter().any(|(id, _, verdict)| {
                id == it
                    && matches!(
                        verdict,
                        Ok(Kept::Newest | Kept::NewestDrilled | Kept::NewestThatReached)
                    )
            })
        };
        for (point, name) in earlier.difference(&later) {
            prop_assert!(shielded_by_now(point), "{}", name);
        }
    }

    /// However often it is asked, whatever the clock does in between: of a period nothing is due that
    /// was taken at this very time.
    #[test]
    fn what_was_taken_now_is_not_due(policy in policies(), minutes in 0..600_000_i64) {
        let now = (at("2026-01-01T00:00:00Z") + SignedDuration::from_mins(minutes)).to_zoned_datetime(vienna());
        let first = due(&policy, &[], &now);
        let enabled: Vec<_> =
            policy.keep.iter().filter(|it| *it.1 > 0).map(|it| *it.0).collect();
        prop_assert_eq!(first.iter().map(|it| it.period).collect::<Vec<_>>(), enabled);
        let taken: Vec<_> = first.iter().map(|it| (it.period, now.timestamp())).collect();
        prop_assert_eq!(due(&policy, &taken, &now), vec![]);
    }
}

/// A guest that is captured and pruned by ticks, and nothing else.
struct Simulation {
    policy: Policy,
    prunes: bool,
    points: Vec<PointFacts>,
    /// The newest of each period.
    taken: BTreeMap<Period, Timestamp>,
    number: usize,
}

impl Simulation {
    fn of(keep: &[(Period, u32)], prunes: bool) -> Self {
        let policy = Policy { keep: keep.iter().copied().collect(), ..Policy::default() };
        Self { policy, prunes, points: Vec::new(), taken: BTreeMap::new(), number: 0 }
    }

    fn tick(&mut self, now: Timestamp) {
        let taken: Vec<_> = self.taken.iter().map(|(period, time)| (*period, *time)).collect();
        let due = due(&self.policy, &taken, &now.to_zoned_datetime(vienna()));
        if !due.is_empty() {
            let purposes: Vec<_> = due.iter().map(|it| Purpose::Scheduled(it.period)).collect();
            self.points.push(a_point_taken(self.number, now, &purposes));
            self.taken.extend(due.iter().map(|it| (it.period, now)));
            self.number += 1;
        }
        if self.prunes {
            let done = retention(&self.policy, &self.points, now);
            assert!(!done.is_drastic() || self.points.len() < 8, "at {now}");
            self.points = after(&self.points, &done);
        }
    }

    fn counts(&self) -> BTreeMap<Period, usize> {
        let mut counts = BTreeMap::new();
        for name in self.points.iter().flat_map(|it| &it.names) {
            if let Some(Purpose::Scheduled(period)) = Purpose::of(name) {
                *counts.entry(period).or_default() += 1;
            }
        }
        counts
    }
}

const PRODUCTION: [(Period, u32); 3] =
    [(Period::Hourly, 36), (Period::Daily, 30), (Period::Monthly, 3)];

pub(crate) fn hours(from: &str, to: &str) -> impl Iterator<Item = Timestamp> {
    let hour = SignedDuration::from_hours(1);
    let to = at(to);
    std::iter::successors(Some(at(from)), move |it| Some(*it + hour)).take_while(move |it| *it < to)
}

#[test]
fn a_year_of_hours_without_pruning() {
    let mut guest = Simulation::of(&PRODUCTION, false);
    for now in hours("2025-01-01T00:00:00+01:00", "2026-01-01T00:00:00+01:00") {
        guest.tick(now);
    }
    let wanted = [(Period::Hourly, 8760), (Period::Daily, 365), (Period::Monthly, 12)];
    assert_eq!(guest.counts(), BTreeMap::from(wanted));
}

#[test]
fn ten_years_of_hours() {
    let keep = [
        (Period::Hourly, 36),
        (Period::Daily, 30),
        (Period::Weekly, 8),
        (Period::Monthly, 3),
        (Period::Yearly, 2),
    ];
    let mut guest = Simulation::of(&keep, true);
    for now in hours("2025-01-01T00:00:00+01:00", "2035-01-01T00:00:00+01:00") {
        guest.tick(now);
        for (period, count) in guest.counts() {
            // One more until it is older than so many periods, another where a period was shorter.
            let most = guest.policy.keep[&period] as usize + 2;
            assert!(count <= most, "{count} {period} at {now}");
        }
    }
    for (period, count) in keep {
        assert!(guest.counts()[&period] >= count as usize, "{:?}", guest.counts());
    }
    assert_eq!(guest.number, hours("2025-01-01T00:00:00Z", "2035-01-01T00:00:00Z").count());
}

#[test]
fn the_night_when_an_hour_comes_twice() {
    let quarter = SignedDuration::from_mins(15);
    let mut guest = Simulation::of(&PRODUCTION[..1], false);
    let mut now = at("2026-10-24T12:00:00+02:00");
    while now < at("2026-10-26T12:00:00+01:00") {
        guest.tick(now);
        now += quarter;
    }
    let times: Vec<_> = guest.points.iter().map(|it| it.time).collect();
    let wanted: Vec<_> = hours("2026-10-24T12:00:00+02:00", "2026-10-26T12:00:00+01:00").collect();
    assert_eq!(times, wanted);
    let names: BTreeSet<_> = guest.points.iter().flat_map(|it| &it.names).collect();
    assert_eq!(names.len(), wanted.len());
}

#[test]
fn what_was_missed_is_not_made_up_for() {
    let mut guest = Simulation::of(&PRODUCTION, true);
    for now in hours("2026-01-01T00:00:00Z", "2026-03-01T00:00:00Z") {
        guest.tick(now);
    }
    let before = guest.points.clone();
    // Off for two months.
    guest.tick(at("2026-05-01T10:17:00Z"));
    let new = guest.points.iter().filter(|it| !before.contains(it)).count();
    assert_eq!(new, 1);
    let counts = guest.counts();
    assert!(counts.iter().all(|(period, count)| *count >= guest.policy.keep[period] as usize));
}
