//! Which snapshots of a dataset are taken now, and which have served.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use jiff::civil::DateTime;
use jiff::{Timestamp, ZonedDateTime};

use super::settings::Settings;
use crate::inventory::Need;
use crate::name::{BadName, PointName, SnapshotId};
use crate::point::TIME;
use crate::policy::Period;
use crate::policy::due::{Due, due};
use crate::policy::retention::{Kept, Served, verdict};

/// A snapshot of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What stands behind the `@`.
    pub name: PointName,
    /// Its guid.
    pub id: SnapshotId,
    /// When it was taken, by the clock of then.
    pub time: Timestamp,
    /// ZFS's number for when it was taken, or received.
    pub createtxg: u64,
    /// Why it cannot be destroyed.
    pub needed: Option<Need>,
}

/// What a snapshot is to be taken for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Take {
    /// Its name.
    pub name: PointName,
    /// Why.
    pub due: Due,
}

impl fmt::Display for Take {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.due)
    }
}

/// The period of a snapshot that sanoid, or we in its place, took for one.
pub fn period_of(name: &PointName) -> Option<Period> {
    let (time, period) = name.as_str().strip_prefix("autosnap_")?.rsplit_once('_')?;
    DateTime::strptime(TIME, time.strip_suffix("dst").unwrap_or(time)).ok()?;
    Period::of(period)
}

/// What is to be taken of a dataset with these snapshots: one name for each period that is due, in
/// local time. Where that name exists, because the hour comes twice, `dst` tells the second.
///
/// With `recursive = zfs` the snapshots are those of the top.
pub fn take(
    settings: &Settings,
    snapshots: &[Snapshot],
    now: &ZonedDateTime,
) -> Result<Vec<Take>, BadName> {
    if !settings.autosnap {
        return Ok(Vec::new());
    }
    let taken: Vec<_> =
        snapshots.iter().filter_map(|it| Some((period_of(&it.name)?, it.time))).collect();
    let named = |due: Due| {
        let named = |repeated: &str| {
            let name = format!("autosnap_{}{repeated}_{}", now.strftime(TIME), due.period);
            name.parse::<PointName>()
        };
        let name = named("")?;
        let name = match snapshots.iter().any(|it| it.name == name) {
            true => named("dst")?,
            false => name,
        };
        Ok(Take { name, due })
    };
    due(&settings.policy, &taken, now).into_iter().map(named).collect()
}

/// Why nothing of a dataset is pruned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unpruned {
    /// `autoprune = no`.
    Off,
    /// The pool is not full enough for `prune_defer`.
    Deferred {
        /// How much of the pool is used, in percent; `None`: that is not known.
        used: Option<u8>,
        /// More than this must be.
        defer: u8,
    },
}

impl fmt::Display for Unpruned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("autoprune is off"),
            Self::Deferred { used: Some(used), defer } => {
                write!(f, "{used}% of the pool are used, and prune_defer is {defer}%")
            }
            Self::Deferred { used: None, defer } => {
                write!(f, "how much of the pool is used is not known, and prune_defer is {defer}%")
            }
        }
    }
}

/// A snapshot, and what becomes of it.
pub type Verdict<'a> = (&'a Snapshot, Result<Kept, Served>);

/// What becomes of each snapshot of a dataset, the oldest first, where `used` percent of the pool are
/// used. One has served when it is older than as many periods as are kept, and as many newer ones of
/// its period exist. What is needed does not go, what is dated later than now neither goes nor counts.
pub fn prune<'a>(
    settings: &Settings,
    snapshots: &'a [Snapshot],
    used: Option<u8>,
    now: Timestamp,
) -> Result<Vec<Verdict<'a>>, Unpruned> {
    if !settings.autoprune {
        return Err(Unpruned::Off);
    }
    let defer = settings.prune_defer;
    if defer > 0 && used.is_none_or(|used| used <= defer) {
        return Err(Unpruned::Deferred { used, defer });
    }
    let mut newest_first: Vec<_> = snapshots.iter().collect();
    newest_first.sort_by_key(|it| Reverse((it.createtxg, it.time, &it.name)));
    let mut newer: BTreeMap<Period, u32> = BTreeMap::new();
    let mut judge = |snapshot: &Snapshot| {
        let Some(period) = period_of(&snapshot.name) else { return Ok(Kept::NotPruned) };
        let Some(&count) = settings.policy.keep.get(&period) else { return Ok(Kept::NotPruned) };
        if snapshot.time > now {
            return Ok(Kept::Future);
        }
        let newer = newer.entry(period).or_default();
        let age = now.duration_since(snapshot.time);
        let judged = verdict(&settings.policy, period, count, *newer, age);
        *newer += 1;
        judged.or_else(|served| snapshot.needed.clone().map(Kept::Needed).ok_or(served))
    };
    let mut judged: Vec<_> = newest_first.into_iter().map(|it| (it, judge(it))).collect();
    judged.reverse();
    Ok(judged)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use jiff::tz::TimeZone;

    use super::*;
    use crate::sanoid::settings::read;

    fn settings(lines: &str) -> Settings {
        read("f", &format!("[tank]\n{lines}")).unwrap().sections.remove(0).settings
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn snapshot(name: &str, time: Timestamp, createtxg: u64) -> Snapshot {
        let id = createtxg.to_string().parse().unwrap();
        Snapshot { name: name.parse().unwrap(), id, time, createtxg, needed: None }
    }

    #[test]
    fn names_tell_their_period() {
        for (name, wanted) in [
            ("autosnap_2026-11-23_12:00:00_hourly", Some(Period::Hourly)),
            ("autosnap_2026-10-25_02:00:00dst_hourly", Some(Period::Hourly)),
            ("autosnap_2026-11-23_12:00:07_yearly", Some(Period::Yearly)),
            ("autosnap_2026-11-23_12:00:00_Hourly", None),
            ("autosnap_2026-11-23_12:00:00_hourly-keep", None),
            ("autosnap_2026-11-23_hourly", None),
            ("autosnap_before_hourly", None),
            ("my-autosnap_2026-11-23_12:00:00_hourly", None),
            ("vitrify_2026-11-23_12:00:00_hourly", None),
            ("hourly", None),
        ] {
            assert_eq!(period_of(&name.parse().unwrap()), wanted, "{name}");
        }
    }

    /// At a quarter past two of the hour that comes again. Columns: the settings, the snapshots with
    /// their times, what is taken.
    #[test]
    fn what_is_taken() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let now = at("2026-10-25T02:15:00+01:00").to_zoned_datetime(zone);
        type Row = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);
        let rows: [Row; 9] = [
            (
                "",
                &[],
                &[
                    "autosnap_2026-10-25_02:15:00_hourly: there is no hourly yet",
                    "autosnap_2026-10-25_02:15:00_daily: there is no daily yet",
                    "autosnap_2026-10-25_02:15:00_monthly: there is no monthly yet",
                ],
            ),
            ("autosnap = no", &[], &[]),
            ("hourly=0\ndaily=0\nmonthly=0", &[], &[]),
            (
                "hourly=1\ndaily=0\nmonthly=0",
                &[("autosnap_2026-10-25_02:00:00dst_hourly", "2026-10-25T02:00:00+01:00")],
                &[],
            ),
            (
                "hourly=1\ndaily=0\nmonthly=0",
                &[("autosnap_2026-10-25_02:00:00_hourly", "2026-10-25T02:00:00+02:00")],
                &["autosnap_2026-10-25_02:15:00_hourly: the newest hourly is of \
                   2026-10-25T00:00:00Z, and one is due since 2026-10-25T01:00:00Z"],
            ),
            // Of the same time by the wall clock.
            (
                "hourly=1\ndaily=0\nmonthly=0",
                &[("autosnap_2026-10-25_02:15:00_hourly", "2026-10-25T02:15:00+02:00")],
                &["autosnap_2026-10-25_02:15:00dst_hourly: the newest hourly is of \
                   2026-10-25T00:15:00Z, and one is due since 2026-10-25T01:00:00Z"],
            ),
            (
                "frequently=1\nhourly=0\ndaily=0\nmonthly=0",
                &[("autosnap_2026-10-25_02:15:00_frequently", "2026-10-25T02:15:00+02:00")],
                &["autosnap_2026-10-25_02:15:00dst_frequently: the newest frequently is of \
                   2026-10-25T00:15:00Z, and one is due since 2026-10-25T01:15:00Z"],
            ),
            // Dated later than now, or not sanoid's.
            (
                "hourly=1\ndaily=0\nmonthly=0",
                &[
                    ("autosnap_2027-01-01_00:00:00_hourly", "2027-01-01T00:00:00+01:00"),
                    ("vitrify_2026-10-25_01:10:00_hourly", "2026-10-25T02:10:00+01:00"),
                ],
                &["autosnap_2026-10-25_02:15:00_hourly: there is no hourly yet"],
            ),
            // The date of this year is still ahead.
            (
                "hourly=0\ndaily=0\nmonthly=0\nyearly=1\nyearly_mon=12",
                &[("autosnap_2025-11-30_00:00:00_yearly", "2025-11-30T00:00:00+01:00")],
                &["autosnap_2026-10-25_02:15:00_yearly: the newest yearly is of \
                   2025-11-29T23:00:00Z, and one is due since 2025-11-30T23:00:00Z"],
            ),
        ];
        for (lines, snapshots, wanted) in rows {
            let snapshots: Vec<_> =
                snapshots.iter().map(|(name, time)| snapshot(name, at(time), 1)).collect();
            let found = take(&settings(lines), &snapshots, &now).unwrap();
            let found: Vec<_> = found.iter().map(ToString::to_string).collect();
            assert_eq!(found, wanted, "{lines}");
        }
    }

    /// Columns: the settings, the ages of `tank`'s hourly snapshots in hours, newest first, the ages of
    /// those that go, oldest first.
    #[test]
    fn what_has_served_goes() {
        type Row = (&'static str, &'static [i64], &'static [i64]);
        let rows: [Row; 8] = [
            ("hourly = 2", &[1, 2, 3, 4], &[4, 3]),
            // Not older than two hours.
            ("hourly = 2", &[0, 1, 2], &[]),
            // Not more than two.
            ("hourly = 2", &[500, 600], &[]),
            ("hourly = 2", &[500, 600, 700], &[700]),
            // All of them, the newest too.
            ("hourly = 0", &[1, 2], &[2, 1]),
            // What is dated later than now neither goes nor counts.
            ("hourly = 1", &[-5, -4, 3, 4], &[4]),
            ("hourly = 0", &[-5, 0], &[]),
            ("hourly = 2\nprune_defer = 80", &[1, 2, 3, 4], &[4, 3]),
        ];
        let now = at("2026-11-27T12:00:00Z");
        for (lines, hours, wanted) in rows {
            let taken = |(number, hours): (u64, &i64)| {
                let time = now - SignedDuration::from_hours(*hours);
                snapshot(&format!("autosnap_{}_hourly", time.strftime(TIME)), time, 100 - number)
            };
            let snapshots: Vec<_> = (1..).zip(hours).map(taken).collect();
            let judged = prune(&settings(lines), &snapshots, Some(81), now).unwrap();
            let gone = judged.iter().filter(|it| it.1.is_err());
            let gone: Vec<_> = gone.map(|(it, _)| now.duration_since(it.time).as_hours()).collect();
            assert_eq!(gone, wanted, "{lines} {hours:?}");
        }
    }

    /// Columns: the names, newest first, when they were taken, what is said of them.
    #[test]
    fn every_verdict_has_its_reason() {
        let now = at("2026-11-27T12:00:00Z");
        let lines = "frequently=1\nhourly=1\ndaily=0\nmonthly=1\nyearly=1";
        let days = |days: i64| now - SignedDuration::from_hours(24 * days);
        let rows = [
            ("autosnap_2026-11-27_11:00:00_hourly", days(0), "it is one of the 1 newest hourly"),
            ("autosnap_2026-11-26_12:00:00_daily", days(1), "no daily is kept"),
            (
                "autosnap_2026-11-25_12:00:00_hourly",
                days(2),
                "1 newer hourly exist, and it is older than 1 periods",
            ),
            ("before-update", days(3), "no policy prunes it"),
            ("vitrify_2026-11-23_12:00:00_hourly", days(4), "no policy prunes it"),
            ("autosnap_2026-10-28_12:00:00_monthly", days(30), "it is one of the 1 newest monthly"),
            ("autosnap_2026-10-27_12:00:00_monthly", days(31), "it is not older than 744h"),
            (
                "autosnap_2026-10-26_12:00:00_monthly",
                days(32),
                "1 newer monthly exist, and it is older than 1 periods",
            ),
            ("autosnap_2025-11-28_12:00:00_yearly", days(364), "it is one of the 1 newest yearly"),
            ("autosnap_2025-11-27_12:00:00_yearly", days(365), "it is not older than 8766h"),
            (
                "autosnap_2025-11-26_12:00:00_yearly",
                days(366),
                "1 newer yearly exist, and it is older than 1 periods",
            ),
            // Received long ago, or taken while the clock was wrong.
            ("autosnap_2027-11-26_12:00:00_hourly", days(-364), "it is dated later than now"),
        ];
        let numbered = (1..).zip(&rows);
        let snapshots: Vec<_> =
            numbered.map(|(number, (name, time, _))| snapshot(name, *time, 100 - number)).collect();
        let judged = prune(&settings(lines), &snapshots, None, now).unwrap();
        for ((name, _, wanted), (found, verdict)) in rows.iter().rev().zip(judged) {
            let said = match verdict {
                Ok(kept) => kept.to_string(),
                Err(served) => served.to_string(),
            };
            assert_eq!((found.name.as_str(), said.as_str()), (*name, *wanted));
        }
    }

    #[test]
    fn what_is_needed_stays_and_counts() {
        let now = at("2026-11-27T12:00:00Z");
        let taken = |hours: u64| {
            let time = now - SignedDuration::from_hours(hours.try_into().unwrap());
            let name = format!("autosnap_{}_hourly", time.strftime(TIME));
            snapshot(&name, time, 100 - hours)
        };
        let mut snapshots = [2, 3, 4].map(taken);
        snapshots[1].needed = Some(Need::Held(String::new()));
        let judged = prune(&settings("hourly = 1"), &snapshots, None, now).unwrap();
        let said: Vec<_> = judged
            .into_iter()
            .map(|(_, verdict)| match verdict {
                Ok(kept) => kept.to_string(),
                Err(served) => served.to_string(),
            })
            .collect();
        assert_eq!(
            said,
            [
                "1 newer hourly exist, and it is older than 1 periods",
                "it is held",
                "it is one of the 1 newest hourly",
            ]
        );
    }

    #[test]
    fn what_is_not_pruned() {
        for (lines, used, wanted) in [
            ("autoprune = no", Some(99), "autoprune is off"),
            ("prune_defer = 80", Some(80), "80% of the pool are used, and prune_defer is 80%"),
            (
                "prune_defer = 80",
                None,
                "how much of the pool is used is not known, and prune_defer is 80%",
            ),
        ] {
            let found = prune(&settings(lines), &[], used, at("2026-11-27T12:00:00Z"));
            assert_eq!(found.unwrap_err().to_string(), wanted, "{lines}");
        }
    }
}
