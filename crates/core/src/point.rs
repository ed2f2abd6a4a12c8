//! Finding a point: the grammar of `GUEST@POINT`, and of the names that points are given.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

use crate::manifest::Manifest;
use crate::name::{BadName, GuestName, PointName};
use crate::policy::Period;

/// What a point was taken for; the last part of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// By hand.
    Manual,
    /// Before a restore.
    Safety,
    /// As a policy has it.
    Scheduled(Period),
}

/// The time in a name, to the second.
pub(crate) const TIME: &str = "%Y-%m-%d_%H:%M:%S";

impl Purpose {
    /// What a name says that its point was taken for; `None` for a name that somebody gave.
    pub fn of(name: &PointName) -> Option<Self> {
        let (time, suffix) = name.as_str().strip_prefix("vitrify_")?.rsplit_once('_')?;
        DateTime::strptime(TIME, time).ok()?;
        match suffix {
            "manual" => Some(Self::Manual),
            "safety" => Some(Self::Safety),
            period => Period::of(period).map(Self::Scheduled),
        }
    }

    /// The word for it, the last part of a name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Safety => "safety",
            Self::Scheduled(period) => period.as_str(),
        }
    }
}

/// The name of a point taken at `time`: `vitrify_2026-11-23_12:00:00_manual`, in UTC.
pub fn name_at(time: Timestamp, purpose: Purpose) -> Result<PointName, BadName> {
    format!("vitrify_{}_{}", time.strftime(TIME), purpose.as_str()).parse()
}

/// Whether a point was taken before a restore.
pub fn is_safety(manifest: &Manifest) -> bool {
    manifest.names.iter().any(|name| name.as_str().ends_with("_safety"))
}

/// What an administrator wrote behind the `@`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The newest but `N`.
    Latest(usize),
    /// A name or an id.
    Named(String),
    /// The newest at or before this time.
    At(Timestamp),
}

/// `GUEST@POINT`, split at the last `@`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointRef {
    /// The guest.
    pub guest: GuestName,
    /// The point, as it was written.
    pub point: String,
}

/// Why a text is not `GUEST@POINT`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPointRef {
    /// No `@`, or nothing behind it.
    #[error("'{0}' names no point: write GUEST@POINT, for example {0}@latest")]
    NoPoint(String),
    /// What stands before the `@` is no guest.
    #[error(transparent)]
    Guest(#[from] BadName),
}

impl std::str::FromStr for PointRef {
    type Err = BadPointRef;
    fn from_str(text: &str) -> Result<Self, BadPointRef> {
        let missing = || BadPointRef::NoPoint(text.trim_end_matches('@').to_owned());
        let (guest, point) = text.rsplit_once('@').ok_or_else(missing)?;
        if point.is_empty() {
            return Err(missing());
        }
        Ok(Self { guest: guest.parse()?, point: point.to_owned() })
    }
}

/// Why no point was found.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// There is none at all.
    #[error("guest '{0}' has no restore points")]
    NoPoints(GuestName),
    /// None that fits.
    #[error("guest '{guest}' has no restore point '{point}'")]
    NoSuchPoint {
        /// The guest.
        guest: GuestName,
        /// What was asked for.
        point: String,
    },
}

/// Reads a selector: `latest`, `latest-N`, a time in `zone`, or else a name or an id.
pub fn selector(text: &str, zone: &TimeZone) -> Selector {
    if text == "latest" {
        return Selector::Latest(0);
    }
    if let Some(back) = text.strip_prefix("latest-").and_then(|number| number.parse().ok()) {
        return Selector::Latest(back);
    }
    match time(text, zone) {
        Some(time) => Selector::At(time),
        None => Selector::Named(text.to_owned()),
    }
}

/// A time to the second, or a day, which means its end.
fn time(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    let civil = match text.parse::<Date>() {
        Ok(date) if text.len() == 10 => date.at(23, 59, 59, 999_999_999),
        _ => text.parse::<DateTime>().ok()?,
    };
    zone.to_timestamp(civil).ok()
}

/// Chooses among a guest's published points. A point of that very name or id wins over every
/// other reading; `latest` and times leave safety points out.
pub fn select<'a>(
    points: &[&'a Manifest],
    wanted: &PointRef,
    zone: &TimeZone,
) -> Result<&'a Manifest, NotFound> {
    let text = wanted.point.as_str();
    let mut newest_first: Vec<_> = points.to_vec();
    newest_first.sort_by_key(|point| std::cmp::Reverse(point.time));
    let named = newest_first.iter().find(|point| {
        point.id.as_str() == text || point.names.iter().any(|name| name.as_str() == text)
    });
    if let Some(point) = named {
        return Ok(point);
    }
    let mut regular = newest_first.into_iter().filter(|point| !is_safety(point));
    let found = match selector(text, zone) {
        Selector::Latest(back) => regular.nth(back),
        Selector::At(time) => regular.find(|point| point.time <= time),
        Selector::Named(_) => None,
    };
    found.ok_or_else(|| match points.is_empty() {
        true => NotFound::NoPoints(wanted.guest.clone()),
        false => NotFound::NoSuchPoint { guest: wanted.guest.clone(), point: wanted.point.clone() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::sample_manifest;

    #[test]
    fn splits_at_the_last_at() {
        let parsed: PointRef = "a@b@latest".parse().unwrap();
        assert_eq!((parsed.guest.as_str(), parsed.point.as_str()), ("a@b", "latest"));
        for bad in ["w", "w@", "@x", ""] {
            assert!(bad.parse::<PointRef>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_say_when_and_what_for() {
        let time: Timestamp = "2026-11-23T12:00:00.9Z".parse().unwrap();
        let name = name_at(time, Purpose::Manual).unwrap();
        assert_eq!(name.as_str(), "vitrify_2026-11-23_12:00:00_manual");
        let scheduled = Period::ALL.map(Purpose::Scheduled);
        for purpose in [Purpose::Manual, Purpose::Safety].into_iter().chain(scheduled) {
            assert_eq!(Purpose::of(&name_at(time, purpose).unwrap()), Some(purpose));
        }
        for other in [
            "hourly",
            "before_hourly",
            "vitrify_hourly",
            "vitrify_2026-11-23_12:00_hourly",
            "vitrify_2026-11-23_12:00:00_Hourly",
            "vitrify_2026-11-23_25:00:00_hourly",
            "autosnap_2026-11-23_12:00:00_hourly",
        ] {
            assert_eq!(Purpose::of(&other.parse().unwrap()), None, "{other}");
        }
    }

    #[test]
    fn selects() {
        let points: Vec<_> = [
            ("2026-11-20T10:00:00Z", "one"),
            ("2026-11-21T10:00:00Z", "two"),
            ("2026-11-22T10:00:00Z", "latest-0"),
            ("2026-11-23T10:00:00Z", "x_safety"),
        ]
        .into_iter()
        .map(|(time, name)| sample_manifest(time, name))
        .collect();
        let points: Vec<_> = points.iter().collect();
        for (text, wanted) in [
            ("latest", Some("latest-0")),
            ("latest-0", Some("latest-0")),
            ("latest-1", Some("two")),
            ("latest-2", Some("one")),
            ("latest-3", None),
            ("two", Some("two")),
            ("x_safety", Some("x_safety")),
            ("2026-11-21T10:00:00Z", Some("two")),
            ("2026-11-21T09:59:59Z", Some("one")),
            ("2026-11-21 12:00:00", Some("two")),
            ("2026-11-20", Some("one")),
            ("2026-11-19", None),
            ("2026-12-31", Some("latest-0")),
            ("three", None),
        ] {
            let wanted_ref = PointRef { guest: "w".parse().unwrap(), point: text.to_owned() };
            let found = select(&points, &wanted_ref, &TimeZone::UTC);
            let found = found.ok().and_then(|point| point.name()).map(PointName::as_str);
            assert_eq!(found, wanted, "{text}");
        }
    }
}
