//! What `--monitor-snapshots` says: one line for Nagios, and its status.

use jiff::{SignedDuration, Timestamp};

use super::decide::{Snapshot, period_of};
use super::settings::Settings;
use crate::name::Volume;
use crate::policy::Period;
use crate::policy::status::Level;

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
pub fn snapshots(watched: &[Watched<'_>], now: Timestamp) -> Report {
    let monitored: Vec<_> = watched.iter().filter(|it| it.settings.monitor).collect();
    if monitored.is_empty() {
        return report(Level::Unknown, "no dataset is monitored");
    }
    let mut found: Vec<_> = monitored
        .iter()
        .flat_map(|it| Period::ALL.into_iter().filter_map(|period| judge(it, period, now)))
        .collect();
    // A stable sort: the datasets stay in their order.
    found.sort_by_key(|it| std::cmp::Reverse(it.0));
    match found.first() {
        Some((worst, _)) => {
            let said: Vec<_> = found.iter().map(|it| it.1.as_str()).collect();
            report(*worst, &said.join("; "))
        }
        None => report(
            Level::Ok,
            &format!("the snapshots are young enough, datasets monitored: {}", monitored.len()),
        ),
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
                Snapshot { name, time, createtxg: 1 }
            };
            let all: Vec<_> = ages.iter().map(snapshot).collect();
            let watched =
                Watched { dataset: &section.dataset, settings: &section.settings, snapshots: &all };
            let wanted = Report { status, line: line.to_owned() };
            assert_eq!(snapshots(&[watched], now()), wanted, "{lines} {ages:?}");
        }
    }

    #[test]
    fn statuses_are_nagios() {
        let all = [Level::Ok, Level::Warning, Level::Critical, Level::Unknown];
        assert_eq!(all.map(|it| it as u8), [0, 1, 2, 3]);
    }
}
