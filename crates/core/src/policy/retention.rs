//! Which names of a guest's points, and which of their memory images, have served.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::{SignedDuration, Timestamp};

use super::{Period, Policy};
use crate::capture::Consistency;
use crate::inventory::{FoundSnapshot, Need};
use crate::manifest::Manifest;
use crate::name::{PointId, PointName};
use crate::point::Purpose;
use crate::ports::FoundPoint;

/// For so long a point is kept that was taken before a restore.
const SAFETY: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What is known of a published point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointFacts {
    /// The point.
    pub id: PointId,
    /// Its names.
    pub names: Vec<PointName>,
    /// The instant.
    pub time: Timestamp,
    /// Where its storage numbers what happens (ZFS's `createtxg`): when, by that.
    pub order: Option<u64>,
    /// Whether it has a memory image.
    pub has_memory: bool,
    /// Whether it reached the consistency that is demanded of the guest's points.
    pub reached: bool,
    /// Whether it passed a drill.
    pub drilled: bool,
    /// What it is needed for.
    pub needed: Vec<Need>,
}

impl PointFacts {
    /// The facts of a point, given the snapshots that its volumes have and the consistency that is
    /// demanded of its guest.
    pub fn of(
        point: &FoundPoint,
        manifest: &Manifest,
        snapshots: &[FoundSnapshot],
        demanded: Option<Consistency>,
    ) -> Self {
        let its: Vec<_> =
            snapshots.iter().filter(|it| manifest.volumes.contains(&it.snapshot)).collect();
        let held = point.holds.iter().cloned().map(Need::Held);
        let order = match its[..] {
            // Pools do not number together.
            [one] => one.order,
            _ => None,
        };
        Self {
            id: point.id.clone(),
            names: manifest.names.clone(),
            time: manifest.time,
            order,
            has_memory: manifest.memory.is_some() && !point.expired,
            reached: demanded.is_none_or(|it| point.promises(manifest).meets(it)),
            drilled: false,
            needed: held.chain(its.iter().flat_map(|it| it.needed.clone())).collect(),
        }
    }

    /// For which periods it was taken.
    pub fn periods(&self) -> impl Iterator<Item = Period> {
        periods(&self.names)
    }
}

/// For which periods a point of these names was taken.
pub fn periods(names: &[PointName]) -> impl Iterator<Item = Period> {
    names.iter().filter_map(Purpose::of).filter_map(|it| match it {
        Purpose::Scheduled(period) => Some(period),
        Purpose::Manual | Purpose::Safety => None,
    })
}

/// The facts of those of these points whose manifests can be read.
pub fn facts<'a>(
    points: impl IntoIterator<Item = &'a FoundPoint>,
    snapshots: &[FoundSnapshot],
    demanded: Option<Consistency>,
) -> Vec<PointFacts> {
    let read = points.into_iter().filter_map(|it| Some((it, it.manifest.as_ref().ok()?)));
    read.map(|(point, manifest)| PointFacts::of(point, manifest, snapshots, demanded)).collect()
}

/// What was taken for which period, and when.
pub fn taken(points: &[PointFacts]) -> Vec<(Period, Timestamp)> {
    points.iter().flat_map(|it| it.periods().map(|period| (period, it.time))).collect()
}

/// Why a name or a memory image is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// No policy speaks of it: it was given by hand, or its period is not named.
    NotPruned,
    /// It is dated later than now.
    Future,
    /// It is among so many newest of its period.
    AmongNewest(u32, Period),
    /// It is not older than this.
    Young(SignedDuration),
    /// It is needed.
    Needed(Need),
    /// Its point is the newest.
    Newest,
    /// Its point is the newest that reached what is demanded.
    NewestThatReached,
    /// Its point is the newest that passed a drill.
    NewestDrilled,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPruned => f.write_str("no policy prunes it"),
            Self::Future => f.write_str("it is dated later than now"),
            Self::AmongNewest(count, period) => {
                write!(f, "it is one of the {count} newest {period}")
            }
            Self::Young(age) => write!(f, "it is not older than {age:#}"),
            Self::Needed(need) => need.fmt(f),
            Self::Newest => f.write_str("it is the newest point"),
            Self::NewestThatReached => {
                f.write_str("it is the newest point with the consistency that is demanded")
            }
            Self::NewestDrilled => f.write_str("it is the newest point that passed a drill"),
        }
    }
}

/// Why a name or a memory image has served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Served {
    /// There are so many newer ones of its period, and it is older than as many periods.
    Surplus(u32, Period),
    /// It was taken before a restore, long ago.
    Safety,
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Surplus(0, period) => write!(f, "no {period} is kept"),
            Self::Surplus(count, period) => {
                write!(f, "{count} newer {period} exist, and it is older than {count} periods")
            }
            Self::Safety => write!(f, "it was taken before a restore, more than {SAFETY:#} ago"),
        }
    }
}

/// What becomes of the names and the memory images of a guest's points.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Every name. A point goes with its last one.
    pub names: Vec<(PointId, PointName, Result<Kept, Served>)>,
    /// Every memory image of a point that stays.
    pub images: Vec<(PointId, Result<Kept, Served>)>,
}

impl Retention {
    /// The points that lose their last name.
    pub fn doomed(&self) -> BTreeSet<&PointId> {
        let kept: BTreeSet<_> =
            self.names.iter().filter(|it| it.2.is_ok()).map(|it| &it.0).collect();
        self.names.iter().map(|it| &it.0).filter(|id| !kept.contains(id)).collect()
    }

    /// Whether more than half of the points would go: nobody's policy means that.
    pub fn is_drastic(&self) -> bool {
        let all: BTreeSet<_> = self.names.iter().map(|it| &it.0).collect();
        self.doomed().len() * 2 > all.len()
    }
}

/// Decides for all points of a guest. A name has served when as many newer ones of its period exist as
/// are to be kept, and it is older than as many periods: a host that was off for a month keeps what it
/// has. What is dated later than now neither goes nor counts.
pub fn retention(policy: &Policy, points: &[PointFacts], now: Timestamp) -> Retention {
    let past = newest_first(points.iter().filter(|it| it.time <= now).collect());
    let ranks = Ranks::of(policy, &policy.keep, &past, now);
    let pictured: Vec<_> = past.iter().copied().filter(|it| it.has_memory).collect();
    let image_ranks = Ranks::of(policy, &policy.keep_memory, &pictured, now);
    let shields = shields(&past);
    let shielded = |point: &PointFacts, verdict: Result<Kept, Served>| {
        if point.time > now {
            return Ok(Kept::Future);
        }
        verdict.or_else(|served| {
            let need = point.needed.first().cloned().map(Kept::Needed);
            need.or_else(|| shields.get(&point.id).cloned()).ok_or(served)
        })
    };
    let mut found = Retention::default();
    for point in points {
        let judge_name = |name: &PointName| {
            let verdict = match Purpose::of(name) {
                Some(Purpose::Scheduled(period)) => ranks.judge(period, point),
                Some(Purpose::Safety) if now.duration_since(point.time) > SAFETY => {
                    Err(Served::Safety)
                }
                Some(Purpose::Safety) => Ok(Kept::Young(SAFETY)),
                Some(Purpose::Manual) | None => Ok(Kept::NotPruned),
            };
            (point.id.clone(), name.clone(), shielded(point, verdict))
        };
        let names: Vec<_> = point.names.iter().map(judge_name).collect();
        // One name that stays and keeps the image is enough.
        let kept =
            names.iter().filter(|it| it.2.is_ok()).map(|(_, name, _)| match Purpose::of(name) {
                Some(Purpose::Scheduled(period)) => image_ranks.judge(period, point),
                _ => Ok(Kept::NotPruned),
            });
        if let Some(verdict) = kept.reduce(Result::or).filter(|_| point.has_memory) {
            found.images.push((point.id.clone(), shielded(point, verdict)));
        }
        found.names.extend(names);
    }
    found
}

/// How many points of the same period are newer.
struct Ranks<'a> {
    policy: &'a Policy,
    keep: &'a BTreeMap<Period, u32>,
    now: Timestamp,
    newer: BTreeMap<(Period, &'a PointId), u32>,
}

impl<'a> Ranks<'a> {
    fn of(
        policy: &'a Policy,
        keep: &'a BTreeMap<Period, u32>,
        newest_first: &[&'a PointFacts],
        now: Timestamp,
    ) -> Self {
        let (mut newer, mut counts) = (BTreeMap::new(), BTreeMap::new());
        for point in newest_first {
            for period in point.periods().collect::<BTreeSet<_>>() {
                let count: &mut u32 = counts.entry(period).or_default();
                newer.insert((period, &point.id), *count);
                *count += 1;
            }
        }
        Self { policy, keep, now, newer }
    }

    fn judge(&self, period: Period, point: &PointFacts) -> Result<Kept, Served> {
        let Some(&count) = self.keep.get(&period) else { return Ok(Kept::NotPruned) };
        let newer = self.newer.get(&(period, &point.id)).copied().unwrap_or_default();
        verdict(self.policy, period, count, newer, self.now.duration_since(point.time))
    }
}

/// What becomes of one this old of a period of which `count` are kept, where so many are newer.
pub(crate) fn verdict(
    policy: &Policy,
    period: Period,
    count: u32,
    newer: u32,
    age: SignedDuration,
) -> Result<Kept, Served> {
    if newer < count {
        return Ok(Kept::AmongNewest(count, period));
    }
    let periods = i32::try_from(count).unwrap_or(i32::MAX);
    let limit = policy.length(period).saturating_mul(periods);
    match age <= limit {
        true => Ok(Kept::Young(limit)),
        false => Err(Served::Surplus(count, period)),
    }
}

/// By the storage's own numbers where all have one: a clock can be set.
fn newest_first(mut points: Vec<&PointFacts>) -> Vec<&PointFacts> {
    let numbered = points.iter().all(|it| it.order.is_some());
    points.sort_by_key(|it| Reverse((it.order.filter(|_| numbered), it.time, &it.id)));
    points
}

/// The points that stay however old they are.
fn shields(newest_first: &[&PointFacts]) -> BTreeMap<PointId, Kept> {
    let is_safety =
        |it: &PointFacts| it.names.iter().all(|name| Purpose::of(name) == Some(Purpose::Safety));
    let newest = |wanted: &dyn Fn(&PointFacts) -> bool, why: Kept| {
        let found = newest_first.iter().find(|it| wanted(it));
        found.map(|it| (it.id.clone(), why))
    };
    // Where one is several of them, the last is said.
    [
        newest(&|it| it.drilled, Kept::NewestDrilled),
        newest(&|it| it.reached && !is_safety(it), Kept::NewestThatReached),
        newest(&|_| true, Kept::Newest),
        newest(&|it| !is_safety(it), Kept::Newest),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::point::name_at;

    fn now() -> Timestamp {
        "2026-11-27T12:00:00Z".parse().unwrap()
    }

    fn id(number: u32) -> PointId {
        format!("00000000-0000-4000-8000-{number:012}").parse().unwrap()
    }

    /// A point so many hours old, for these purposes.
    fn point(number: u32, hours: i64, purposes: &[&str]) -> PointFacts {
        let time = now() - SignedDuration::from_hours(hours);
        let purpose = |it: &str| match it {
            "manual" => Purpose::Manual,
            "safety" => Purpose::Safety,
            period => Purpose::Scheduled(Period::of(period).unwrap()),
        };
        let name = |it: &&str| name_at(time, purpose(it)).unwrap();
        PointFacts {
            id: id(number),
            names: purposes.iter().map(name).collect(),
            time,
            order: None,
            has_memory: true,
            reached: false,
            drilled: false,
            needed: Vec::new(),
        }
    }

    fn policy(keep: &[(Period, u32)], keep_memory: &[(Period, u32)]) -> Policy {
        Policy {
            keep: keep.iter().copied().collect(),
            keep_memory: keep_memory.iter().copied().collect(),
            ..Policy::default()
        }
    }

    type Change = fn(&mut PointFacts);

    /// The second of three old hourly points, two of which are to be kept, and what keeps it. Columns:
    /// what is so about it, the verdict's words.
    #[test]
    fn what_is_needed_stays() {
        let rows: [(Change, &str); 9] = [
            (|_| {}, "ERR 2 newer hourly exist, and it is older than 2 periods"),
            (|it| it.needed = vec![Need::Held("vitrify:user".into())], "it is held (vitrify:user)"),
            (|it| it.needed = vec![Need::Cloned("tank/c".into())], "tank/c is a clone of it"),
            (|it| it.needed = vec![Need::InFlight], "an operation in flight uses it"),
            (
                |it| it.needed = vec![Need::CommonBase("offsite".into())],
                "it is the last that offsite has as well",
            ),
            (
                |it| it.reached = true,
                "it is the newest point with the consistency that is demanded",
            ),
            (|it| it.drilled = true, "it is the newest point that passed a drill"),
            (|it| it.names = vec!["before-update".parse().unwrap()], "no policy prunes it"),
            (|it| it.time = now() + SignedDuration::from_hours(1), "it is dated later than now"),
        ];
        for (change, wanted) in rows {
            let mut points = [10, 20, 30, 40].map(|hours| point(hours, hours.into(), &["hourly"]));
            change(&mut points[2]);
            let found = retention(&policy(&[(Period::Hourly, 2)], &[]), &points, now());
            let said = match &found.names[2].2 {
                Ok(kept) => kept.to_string(),
                Err(served) => format!("ERR {served}"),
            };
            assert_eq!(said, wanted);
        }
    }

    /// Columns: what the policy keeps, the points' ages in hours with what they were taken for, the
    /// ages of those that go.
    #[test]
    fn what_has_served_goes() {
        type Row =
            (&'static [(Period, u32)], &'static [(i64, &'static [&'static str])], &'static [i64]);
        let rows: [Row; 8] = [
            (&[(Period::Hourly, 2)], &[(1, &["hourly"]), (2, &["hourly"]), (3, &["hourly"])], &[3]),
            // Not older than two hours.
            (&[(Period::Hourly, 2)], &[(0, &["hourly"]), (1, &["hourly"]), (2, &["hourly"])], &[]),
            // Not more than two.
            (&[(Period::Hourly, 2)], &[(500, &["hourly"]), (600, &["hourly"])], &[]),
            // The newest point of all stays, of however few periods.
            (&[(Period::Hourly, 0)], &[(1, &["hourly"]), (2, &["hourly"])], &[2]),
            (
                &[(Period::Hourly, 1)],
                &[(1, &["hourly"]), (2, &["hourly", "daily"]), (3, &["hourly"])],
                &[3],
            ),
            (&[(Period::Hourly, 1)], &[(1, &["hourly"]), (9, &["daily"]), (9, &["manual"])], &[]),
            // Safety points neither count nor stay for ever.
            (
                &[(Period::Hourly, 1)],
                &[(1, &["safety"]), (2, &["hourly"]), (200, &["safety"])],
                &[200],
            ),
            (&[], &[(1, &["safety"]), (2, &["hourly"]), (3000, &["hourly"])], &[]),
        ];
        for (keep, ages, wanted) in rows {
            let numbered = (1..).zip(ages);
            let points: Vec<_> =
                numbered.map(|(number, (hours, names))| point(number, *hours, names)).collect();
            let found = retention(&policy(keep, &[]), &points, now());
            let doomed = found.doomed();
            let gone = points.iter().zip(ages).filter(|(it, _)| doomed.contains(&it.id));
            let gone: Vec<_> = gone.map(|(_, (hours, _))| *hours).collect();
            assert_eq!(gone, wanted, "{keep:?} {ages:?}");
        }
    }

    #[test]
    fn images_go_before_their_points() {
        let keep = [(Period::Hourly, 4), (Period::Daily, 9)];
        let hours = [1, 2, 3, 4, 50, 60];
        let mut points: Vec<_> = (1..)
            .zip(hours)
            .map(|(number, hours)| match hours {
                60 => point(number, hours, &["daily"]),
                3 => point(number, hours, &["hourly", "daily"]),
                _ => point(number, hours, &["hourly"]),
            })
            .collect();
        points[1].has_memory = false;
        let found = retention(&policy(&keep, &[(Period::Hourly, 1)]), &points, now());
        // The fifth goes as a whole.
        assert_eq!(found.doomed(), BTreeSet::from([&id(5)]));
        let gone: Vec<_> =
            found.images.iter().filter(|it| it.1.is_err()).map(|it| it.0.clone()).collect();
        assert_eq!(gone, [id(4)]);
        assert_eq!(found.images.len(), 4);
    }

    #[test]
    fn more_than_half_is_drastic() {
        for (hourly, drastic) in [(3, false), (2, false), (1, true)] {
            let points = [10, 20, 30, 40].map(|hours| point(hours, hours.into(), &["hourly"]));
            let found = retention(&policy(&[(Period::Hourly, hourly)], &[]), &points, now());
            assert_eq!(found.is_drastic(), drastic, "{hourly}");
        }
    }

    #[test]
    fn the_storages_own_order_counts() {
        let mut points = [10, 20, 30].map(|hours| point(hours, hours.into(), &["hourly"]));
        for (point, order) in points.iter_mut().zip([1, 2, 3]) {
            point.order = Some(order);
        }
        let found = retention(&policy(&[(Period::Hourly, 1)], &[]), &points, now());
        assert_eq!(found.doomed(), BTreeSet::from([&id(10), &id(20)]));
    }
}
