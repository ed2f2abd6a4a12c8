//! How a guest stands against its policy.

use std::fmt;

use jiff::{Timestamp, ZonedDateTime};
use serde::Serialize;

use super::due::{due, last_preferred};
use super::retention::{PointFacts, taken};
use super::{Period, Policy};

/// How bad it is, in the terms of Nagios. The number is its exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// All is well.
    Ok = 0,
    /// Somebody should look.
    Warning = 1,
    /// Somebody should look now.
    Critical = 2,
    /// That cannot be told.
    Unknown = 3,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        })
    }
}

/// How a guest stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The worst of all.
    pub level: Level,
    /// What is not as the policy has it, each in a few words.
    pub reasons: Vec<String>,
    /// When the next point is due; already, where that is not later than now.
    pub next: Option<Timestamp>,
}

/// The newest point of a period is late when it is older than so many periods, and very late when it is
/// older than so many. One tick that was missed is a warning; nobody is woken for it.
const LATE: f64 = 1.5;
const VERY_LATE: f64 = 3.0;

/// Judges a guest by its published points.
pub fn standing(policy: &Policy, points: &[PointFacts], now: &ZonedDateTime) -> Standing {
    let mut found = Standing { level: Level::Ok, reasons: Vec::new(), next: None };
    let mut add = |level: Level, reason: String| {
        found.level = found.level.max(level);
        found.reasons.push(reason);
    };
    let due = due(policy, &taken(points), now);
    for it in &due {
        let Some(newest) = it.newest else {
            add(Level::Critical, format!("there is no {} point", it.period));
            continue;
        };
        let age = now.timestamp().duration_since(newest);
        let reason = format!("the newest {} point is of {newest}", it.period);
        match age.div_duration_f64(policy.length(it.period)) {
            periods if periods > VERY_LATE => add(Level::Critical, reason),
            periods if periods > LATE => add(Level::Warning, reason),
            _ => {}
        }
    }
    let scheduled = points.iter().filter(|it| it.periods().next().is_some());
    if let Some(newest) = scheduled.max_by_key(|it| it.time)
        && !newest.reached
    {
        let name = newest.names.first().map_or("", |it| it.as_str());
        add(Level::Warning, format!("the newest point, {name}, promises less than is demanded"));
    }
    found.next = next(policy, !due.is_empty(), now);
    found
}

fn next(policy: &Policy, is_due: bool, now: &ZonedDateTime) -> Option<Timestamp> {
    if is_due {
        return Some(now.timestamp());
    }
    let kept = policy.keep.iter().filter(|(_, count)| **count > 0);
    let next = |period: Period| {
        let later = now.checked_add(policy.length(period)).ok()?;
        last_preferred(period, &policy.times, &later)
    };
    kept.filter_map(|(period, _)| next(*period)).filter(|it| *it > now.timestamp()).min()
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::point::{Purpose, name_at};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn point(period: Period, time: &str, reached: bool) -> PointFacts {
        PointFacts {
            id: "00000000-0000-4000-8000-000000000001".parse().unwrap(),
            names: vec![name_at(at(time), Purpose::Scheduled(period)).unwrap()],
            time: at(time),
            order: None,
            has_memory: reached,
            reached,
            drilled: false,
            needed: Vec::new(),
        }
    }

    /// At 12:20, 36 hourly and 30 daily. Columns: when the newest hourly was taken, and the newest daily,
    /// whether the hourly reached what is demanded; the level, how many reasons, when the next is due.
    #[test]
    fn guests_stand_so() {
        use Level::{Critical, Ok, Warning};
        let (hour, day) = ("2026-11-27T12:00:05Z", "2026-11-26T23:59:05Z");
        for (hourly, daily, reached, level, reasons, next) in [
            (Some(hour), Some(day), true, Ok, 0, "13:00:00"),
            // Due for 20 minutes.
            (Some("2026-11-27T11:00:05Z"), Some(day), true, Ok, 0, "12:20:00"),
            (Some("2026-11-27T10:00:05Z"), Some(day), true, Warning, 1, "12:20:00"),
            (Some("2026-11-27T09:00:05Z"), Some(day), true, Critical, 1, "12:20:00"),
            (Some(hour), Some(day), false, Warning, 1, "13:00:00"),
            (Some(hour), Some("2026-11-25T23:59:05Z"), true, Warning, 1, "12:20:00"),
            (Some(hour), Some("2026-11-20T23:59:05Z"), true, Critical, 1, "12:20:00"),
            (Some(hour), None, true, Critical, 1, "12:20:00"),
            (None, None, true, Critical, 2, "12:20:00"),
        ] {
            let policy = Policy {
                keep: [(Period::Hourly, 36), (Period::Daily, 30)].into(),
                ..Policy::default()
            };
            let hourly = hourly.map(|time| point(Period::Hourly, time, reached));
            let daily = daily.map(|time| point(Period::Daily, time, true));
            let points: Vec<_> = hourly.into_iter().chain(daily).collect();
            let now = at("2026-11-27T12:20:00Z").to_zoned_datetime(TimeZone::UTC);
            let found = standing(&policy, &points, &now);
            let said = (found.level, found.reasons.len());
            assert_eq!(said, (level, reasons), "{points:?}: {:?}", found.reasons);
            let shown = found.next.map(|it| it.strftime("%H:%M:%S").to_string());
            assert_eq!(shown.as_deref(), Some(next), "{points:?}");
        }
    }
}
