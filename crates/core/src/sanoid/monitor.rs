//! What the monitors say: one line for Nagios, and its status.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::decide::{Snapshot, period_of};
use super::settings::{Section, Settings};
use crate::name::Volume;
use crate::policy::Period;
use crate::policy::status::Level;

/// An imported pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its state, in the word that ZFS has for it: `ONLINE`, `DEGRADED`, `SUSPENDED`.
    pub state: String,
    /// How much of it is used, in percent, where that is known.
    pub used: Option<u8>,
}

impl Pool {
    /// Whether it answers: it may have lost a part of its devices, but not too many.
    pub fn answers(&self) -> bool {
        matches!(self.state.as_str(), "ONLINE" | "DEGRADED")
    }
}

/// The pool of a dataset.
pub fn pool_of(dataset: &Volume) -> &str {
    dataset.as_str().split('/').next().unwrap_or_default()
}

/// A dataset with what holds for it and what there is.
#[derive(Debug, Clone, Copy)]
pub struct Watched<'a> {
    /// The dataset.
    pub dataset: &'a Volume,
    /// What holds for it.
    pub settings: &'a Settings,
    /// Its snapshots.
    pub snapshots: &'a [Snapshot],
}

/// What is printed, and the exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The worst of all.
    pub status: Level,
    /// One line, which begins with the status; what is critical comes first.
    pub line: String,
}

/// Judges the age of the newest snapshot of each period of which some are kept. What is dated later
/// than now does not make anything young, and where there is none of a period, its age has no limit.
/// The sections whose dataset nobody can look at are critical, each with the reason.
pub fn snapshots(watched: &[Watched<'_>], unseen: &[(&Section, String)], now: Timestamp) -> Report {
    let monitored: Vec<_> = watched.iter().filter(|it| it.settings.monitor).collect();
    let unseen = unseen.iter().filter(|it| it.0.settings.monitor);
    let unseen = unseen.map(|(it, why)| (Level::Critical, format!("{}: {why}", it.dataset)));
    let aged = monitored
        .iter()
        .flat_map(|it| Period::ALL.into_iter().filter_map(|period| judge(it, period, now)));
    let found: Vec<_> = unseen.chain(aged).collect();
    if monitored.is_empty() && found.is_empty() {
        return report(Level::Unknown, "no dataset is monitored");
    }
    let fine = format!("the snapshots are young enough, datasets monitored: {}", monitored.len());
    worst_first(found, &fine)
}

/// Judges the states of pools.
pub fn health(pools: &[Pool]) -> Report {
    if pools.is_empty() {
        return report(Level::Unknown, "no pool is imported");
    }
    let judge = |pool: &Pool| {
        let level = match pool.state.as_str() {
            "ONLINE" => return None,
            "DEGRADED" => Level::Warning,
            _ => Level::Critical,
        };
        let Pool { name, state, .. } = pool;
        Some((level, format!("{name} is {state}, 'zpool status {name}' says why")))
    };
    let found = pools.iter().filter_map(judge).collect();
    worst_first(found, &format!("every pool is ONLINE, pools: {}", pools.len()))
}

/// Judges how full the pools of these sections are, each by the lowest limits of its sections.
pub fn capacity(sections: &[Section], pools: &[Pool]) -> Report {
    let mut limits: BTreeMap<&str, (Option<u8>, Option<u8>)> = BTreeMap::new();
    for section in sections {
        let limit = |percent: u8| Some(percent).filter(|it| *it > 0);
        let (warn, crit) = limits.entry(pool_of(&section.dataset)).or_default();
        let lower = |one: Option<u8>, other| [one, other].into_iter().flatten().min();
        *warn = lower(*warn, limit(section.settings.capacity_warn));
        *crit = lower(*crit, limit(section.settings.capacity_crit));
    }
    if limits.is_empty() {
        return report(Level::Unknown, "no pool is monitored");
    }
    let judge = |(name, (warn, crit)): (&&str, &(Option<u8>, Option<u8>))| {
        let Some(pool) = pools.iter().find(|it| it.name == **name) else {
            return Some((Level::Critical, format!("{name} is not imported")));
        };
        let Some(used) = pool.used else {
            return Some((Level::Unknown, format!("{name} does not say how full it is")));
        };
        let reached = |limit: &Option<u8>| limit.filter(|it| used >= *it);
        let (level, limit) = match (reached(crit), reached(warn)) {
            (Some(limit), _) => (Level::Critical, limit),
            (None, Some(limit)) => (Level::Warning, limit),
            (None, None) => return None,
        };
        Some((level, format!("{used}% of {name} are used, the limit is {limit}%")))
    };
    let found = limits.iter().filter_map(judge).collect();
    worst_first(found, &format!("every pool has room, pools: {}", limits.len()))
}

/// Everything that was found; what is fine where that is nothing.
fn worst_first(mut found: Vec<(Level, String)>, fine: &str) -> Report {
    // A stable sort: the rest stays in its order.
    found.sort_by_key(|it| std::cmp::Reverse(it.0));
    let said: Vec<_> = found.iter().map(|it| it.1.as_str()).collect();
    match found.first() {
        Some((worst, _)) => report(*worst, &said.join("; ")),
        None => report(Level::Ok, fine),
    }
}

fn report(status: Level, said: &str) -> Report {
    Report { status, line: format!("{status}: {said}") }
}

/// What is wrong with a period of a dataset.
fn judge(watched: &Watched<'_>, period: Period, now: Timestamp) -> Option<(Level, String)> {
    let Watched { dataset, settings, snapshots } = watched;
    settings.policy.keep.get(&period).filter(|count| **count > 0)?;
    let ages = settings.ages.get(&period)?;
    let of_it = snapshots.iter().filter(|it| period_of(&it.name) == Some(period));
    let newest = of_it.map(|it| it.time).filter(|it| *it <= now).max();
    let age = newest.map(|it| now.duration_since(it));
    let too_old = |limit: &SignedDuration| age.is_none_or(|age| age > *limit);
    let crit = ages.crit.filter(|_| !settings.monitor_dont_crit).filter(too_old);
    let warn = ages.warn.filter(|_| !settings.monitor_dont_warn).filter(too_old);
    let (status, limit) = match (crit, warn) {
        (Some(limit), _) => (Level::Critical, limit),
        (None, Some(limit)) => (Level::Warning, limit),
        (None, None) => return None,
    };
    let said = match age {
        Some(age) => {
            let age = SignedDuration::from_mins(age.as_mins());
            format!("{dataset}: the newest {period} is {age:#} old, more than {limit:#}")
        }
        None => format!("{dataset}: there is no {period}"),
    };
    Some((status, said))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::point::TIME;
    use crate::sanoid::settings::read;

    fn now() -> Timestamp {
        "2026-11-27T12:00:00Z".parse().unwrap()
    }

    /// Columns: the settings, the snapshots with their ages in minutes, the status, the line.
    #[test]
    fn what_is_said_of_a_dataset() {
        let fine = "OK: the snapshots are young enough, datasets monitored: 1";
        type Row = (&'static str, &'static [(&'static str, i64)], Level, &'static str);
        let rows: [Row; 13] = [
            ("", &[("hourly", 10), ("daily", 10)], Level::Ok, fine),
            ("", &[("hourly", 90), ("daily", 28 * 60)], Level::Ok, fine),
            (
                "",
                &[("hourly", 91), ("hourly", 1000), ("daily", 10)],
                Level::Warning,
                "WARNING: t: the newest hourly is 1h 31m old, more than 1h 30m",
            ),
            (
                "",
                &[("hourly", 361), ("daily", 10)],
                Level::Critical,
                "CRITICAL: t: the newest hourly is 6h 1m old, more than 6h",
            ),
            (
                "",
                &[("hourly", 91), ("daily", 33 * 60)],
                Level::Critical,
                "CRITICAL: t: the newest daily is 33h old, more than 32h; \
                 t: the newest hourly is 1h 31m old, more than 1h 30m",
            ),
            ("", &[("daily", 10)], Level::Critical, "CRITICAL: t: there is no hourly"),
            (
                "",
                &[("hourly", -10), ("daily", 10)],
                Level::Critical,
                "CRITICAL: t: there is no hourly",
            ),
            (
                "monitor_dont_crit = yes",
                &[("daily", 10)],
                Level::Warning,
                "WARNING: t: there is no hourly",
            ),
            ("monitor_dont_warn = yes", &[("hourly", 91), ("daily", 10)], Level::Ok, fine),
            (
                "hourly_crit = 0",
                &[("hourly", 5000), ("daily", 10)],
                Level::Warning,
                "WARNING: t: the newest hourly is 83h 20m old, more than 1h 30m",
            ),
            // Of what is not kept there need not be any, and replicas are taken elsewhere.
            ("hourly = 0", &[("daily", 10)], Level::Ok, fine),
            ("autosnap = no", &[("daily", 10)], Level::Critical, "CRITICAL: t: there is no hourly"),
            ("monitor = no", &[], Level::Unknown, "UNKNOWN: no dataset is monitored"),
        ];
        for (lines, ages, status, line) in rows {
            let text = format!("[t]\nmonthly=0\nweekly=1\n{lines}");
            let section = read("f", &text).unwrap().sections.remove(0);
            let snapshot = |(period, minutes): &(&str, i64)| {
                let time = now() - SignedDuration::from_mins(*minutes);
                let name = format!("autosnap_{}_{period}", time.strftime(TIME)).parse().unwrap();
                let id = "1".parse().unwrap();
                Snapshot { name, id, time, createtxg: 1, needed: None }
            };
            let all: Vec<_> = ages.iter().map(snapshot).collect();
            let watched =
                Watched { dataset: &section.dataset, settings: &section.settings, snapshots: &all };
            let wanted = Report { status, line: line.to_owned() };
            assert_eq!(snapshots(&[watched], &[], now()), wanted, "{lines} {ages:?}");
        }
    }

    #[test]
    fn a_dataset_that_is_gone_is_critical_unless_it_is_not_monitored() {
        for (lines, line) in [
            ("", "CRITICAL: t/x: there is no such dataset"),
            ("monitor = no", "UNKNOWN: no dataset is monitored"),
        ] {
            let read = read("f", &format!("[t/x]\n{lines}")).unwrap();
            let unseen = [(&read.sections[0], "there is no such dataset".to_owned())];
            assert_eq!(snapshots(&[], &unseen, now()).line, line);
        }
    }

    fn pools(rows: &[(&str, &str, Option<u8>)]) -> Vec<Pool> {
        let pool = |&(name, state, used): &(&str, &str, _)| Pool {
            name: name.to_owned(),
            state: state.to_owned(),
            used,
        };
        rows.iter().map(pool).collect()
    }

    /// Columns: the pools' states, the status, the line.
    #[test]
    fn what_is_said_of_the_pools_health() {
        let status = "says why";
        for (states, level, line) in [
            (&["ONLINE", "ONLINE"][..], Level::Ok, "OK: every pool is ONLINE, pools: 2".to_owned()),
            (&[], Level::Unknown, "UNKNOWN: no pool is imported".to_owned()),
            (
                &["ONLINE", "DEGRADED"],
                Level::Warning,
                format!("WARNING: p1 is DEGRADED, 'zpool status p1' {status}"),
            ),
            (
                &["DEGRADED", "SUSPENDED"],
                Level::Critical,
                format!(
                    "CRITICAL: p1 is SUSPENDED, 'zpool status p1' {status}; \
                     p0 is DEGRADED, 'zpool status p0' {status}"
                ),
            ),
            (
                &["FAULTED"],
                Level::Critical,
                format!("CRITICAL: p0 is FAULTED, 'zpool status p0' {status}"),
            ),
            (
                &["UNHEARD-OF"],
                Level::Critical,
                format!("CRITICAL: p0 is UNHEARD-OF, 'zpool status p0' {status}"),
            ),
        ] {
            let names = ["p0", "p1"];
            let rows: Vec<_> = names.iter().zip(states).map(|it| (*it.0, *it.1, None)).collect();
            assert_eq!(health(&pools(&rows)), Report { status: level, line });
        }
    }

    /// Columns: the configuration, how full the pools are, the line.
    #[test]
    fn what_is_said_of_the_pools_capacity() {
        let two = "[t/a]\n[t/b]\ncapacity_warn = 50\ncapacity_crit = 60\n[u]\ncapacity_warn = 0";
        for (text, t, u, line) in [
            ("[t/a]", Some(79), Some(99), "OK: every pool has room, pools: 1"),
            ("[t/a]", Some(80), None, "WARNING: 80% of t are used, the limit is 80%"),
            ("[t/a]", Some(95), None, "CRITICAL: 95% of t are used, the limit is 95%"),
            ("[t/a]", None, None, "UNKNOWN: t does not say how full it is"),
            ("[v/a]", None, None, "CRITICAL: v is not imported"),
            ("", None, None, "UNKNOWN: no pool is monitored"),
            (two, Some(49), Some(94), "OK: every pool has room, pools: 2"),
            (two, Some(50), Some(94), "WARNING: 50% of t are used, the limit is 50%"),
            (
                two,
                Some(50),
                Some(96),
                "CRITICAL: 96% of u are used, the limit is 95%; \
                 50% of t are used, the limit is 50%",
            ),
        ] {
            let sections = read("f", text).unwrap().sections;
            let pools = pools(&[("t", "ONLINE", t), ("u", "ONLINE", u)]);
            let found = capacity(&sections, &pools);
            assert_eq!(found.line, line);
            assert!(line.starts_with(&found.status.to_string()));
        }
    }

    #[test]
    fn statuses_are_nagios() {
        let all = [Level::Ok, Level::Warning, Level::Critical, Level::Unknown];
        assert_eq!(all.map(|it| it as u8), [0, 1, 2, 3]);
    }
}
