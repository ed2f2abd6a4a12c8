//! Which periods are due.

use std::fmt;

use jiff::civil::{Date, DateTime, Time};
use jiff::{SignedDuration, Timestamp, ToSpan as _, ZonedDateTime};

use super::{Period, Policy, PreferredTimes};

/// A period that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The period.
    pub period: Period,
    /// Since when.
    pub since: Timestamp,
    /// The newest of it, older than that.
    pub newest: Option<Timestamp>,
}

impl fmt::Display for Due {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { period, since, newest } = self;
        match newest {
            Some(newest) => {
                write!(f, "the newest {period} is of {newest}, and one is due since {since}")
            }
            None => write!(f, "there is no {period} yet"),
        }
    }
}

/// The periods that are due at `now`, given what was `taken` when. One is due where there is none of
/// it, or the newest is from before the last preferred time. What is dated later than now counts for
/// nothing, and what was missed is not made up for.
pub fn due(policy: &Policy, taken: &[(Period, Timestamp)], now: &ZonedDateTime) -> Vec<Due> {
    let kept = policy.keep.iter().filter(|(_, count)| **count > 0);
    kept.filter_map(|(period, _)| {
        let period = *period;
        let since = last_preferred(period, &policy.times, now)?;
        let of_it = taken.iter().filter(|it| it.0 == period).map(|it| it.1);
        let newest = of_it.filter(|time| *time <= now.timestamp()).max();
        newest.is_none_or(|newest| newest < since).then_some(Due { period, since, newest })
    })
    .collect()
}

/// The last time at or before `now` at which a period is to be taken.
pub fn last_preferred(
    period: Period,
    times: &PreferredTimes,
    now: &ZonedDateTime,
) -> Option<Timestamp> {
    match period {
        Period::Frequently => {
            let minutes = i8::try_from(times.frequent_minutes.max(1)).ok()?;
            at_minute(now, now.minute() - now.minute() % minutes)
        }
        Period::Hourly => {
            let this_hour = at_minute(now, i8::try_from(times.hourly_minute).ok()?)?;
            match this_hour <= now.timestamp() {
                true => Some(this_hour),
                false => this_hour.checked_sub(SignedDuration::from_hours(1)).ok(),
            }
        }
        Period::Daily => latest(now, times.daily, [Some(now.date()), now.date().yesterday().ok()]),
        Period::Weekly => {
            let (weekday, time) = times.weekly;
            let days = now.date().weekday().since(weekday);
            let this = now.date().checked_sub(i32::from(days).days()).ok();
            latest(now, time, [this, this.and_then(|it| it.checked_sub(1.week()).ok())])
        }
        Period::Monthly => {
            let (day, time) = times.monthly;
            let this = now.date().first_of_month();
            let last = this.checked_sub(1.month()).ok();
            latest(now, time, [Some(this), last].map(|it| day_of(it?, day)))
        }
        Period::Yearly => {
            let (month, day, time) = times.yearly;
            let of_year = |year| Date::new(year, i8::try_from(month).ok()?, 1).ok();
            let years = [Some(now.year()), now.year().checked_sub(1)];
            latest(now, time, years.map(|it| day_of(of_year(it?)?, day)))
        }
    }
}

/// This minute of the hour that it is: of the repeated one, where an hour comes twice.
fn at_minute(now: &ZonedDateTime, minute: i8) -> Option<Timestamp> {
    let rounded = now.with().minute(minute).second(0).subsec_nanosecond(0).build();
    rounded.ok().map(|it| it.timestamp())
}

/// A day of this month, its last one where it has not as many.
fn day_of(month: Date, day: u8) -> Option<Date> {
    let day = i8::try_from(day).ok()?.clamp(1, month.days_in_month());
    month.with().day(day).build().ok()
}

/// The first of these days whose time has come. A time that a change of clocks leaves out is later by
/// as much, one that comes twice is the first.
fn latest(now: &ZonedDateTime, time: Time, days: [Option<Date>; 2]) -> Option<Timestamp> {
    let instant = |day: Date| {
        let civil = DateTime::from_parts(day, time);
        now.time_zone().to_ambiguous_timestamp(civil).compatible().ok()
    };
    days.into_iter().flatten().filter_map(instant).find(|it| *it <= now.timestamp())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::civil::Weekday;
    use jiff::tz::TimeZone;

    use super::*;

    /// Vienna's, without the system's database.
    fn vienna() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// Columns: the period, now, the last preferred time.
    #[test]
    fn the_last_preferred_time() {
        let times = PreferredTimes {
            frequent_minutes: 20,
            hourly_minute: 7,
            daily: Time::constant(2, 30, 0, 0),
            weekly: (Weekday::Wednesday, Time::constant(12, 0, 0, 0)),
            monthly: (31, Time::constant(0, 0, 0, 0)),
            yearly: (2, 29, Time::constant(6, 0, 0, 0)),
        };
        for (period, now, wanted) in [
            (Period::Frequently, "2026-06-01T10:39:59+02:00", "2026-06-01T10:20:00+02:00"),
            (Period::Frequently, "2026-06-01T10:40:00+02:00", "2026-06-01T10:40:00+02:00"),
            (Period::Hourly, "2026-06-01T10:07:00+02:00", "2026-06-01T10:07:00+02:00"),
            (Period::Hourly, "2026-06-01T10:06:59+02:00", "2026-06-01T09:07:00+02:00"),
            (Period::Hourly, "2026-06-01T00:06:59+02:00", "2026-05-31T23:07:00+02:00"),
            // The hour from 2 to 3 comes twice.
            (Period::Hourly, "2026-10-25T02:10:00+02:00", "2026-10-25T02:07:00+02:00"),
            (Period::Hourly, "2026-10-25T02:05:00+01:00", "2026-10-25T02:07:00+02:00"),
            (Period::Hourly, "2026-10-25T02:10:00+01:00", "2026-10-25T02:07:00+01:00"),
            (Period::Daily, "2026-10-25T02:29:00+02:00", "2026-10-24T02:30:00+02:00"),
            (Period::Daily, "2026-10-25T02:31:00+01:00", "2026-10-25T02:30:00+02:00"),
            // The one from 2 to 3 does not come.
            (Period::Hourly, "2026-03-29T03:05:00+02:00", "2026-03-29T01:07:00+01:00"),
            (Period::Daily, "2026-03-29T03:29:00+02:00", "2026-03-28T02:30:00+01:00"),
            (Period::Daily, "2026-03-29T03:30:00+02:00", "2026-03-29T03:30:00+02:00"),
            (Period::Weekly, "2026-11-25T12:00:00+01:00", "2026-11-25T12:00:00+01:00"),
            (Period::Weekly, "2026-11-25T11:59:00+01:00", "2026-11-18T12:00:00+01:00"),
            (Period::Weekly, "2026-11-24T23:00:00+01:00", "2026-11-18T12:00:00+01:00"),
            (Period::Monthly, "2026-03-30T10:00:00+02:00", "2026-02-28T00:00:00+01:00"),
            (Period::Monthly, "2026-03-31T00:00:00+02:00", "2026-03-31T00:00:00+02:00"),
            (Period::Monthly, "2026-01-15T00:00:00+01:00", "2025-12-31T00:00:00+01:00"),
            (Period::Yearly, "2026-02-28T05:59:00+01:00", "2025-02-28T06:00:00+01:00"),
            (Period::Yearly, "2028-02-29T06:00:00+01:00", "2028-02-29T06:00:00+01:00"),
            (Period::Yearly, "2026-12-31T06:00:00+01:00", "2026-02-28T06:00:00+01:00"),
        ] {
            let found = last_preferred(period, &times, &at(now).to_zoned_datetime(vienna()));
            assert_eq!(found, Some(at(wanted)), "{period} at {now}");
        }
    }

    /// Columns: what there is, what is due at noon.
    #[test]
    fn what_is_due() {
        let keep = [(Period::Hourly, 36), (Period::Daily, 30), (Period::Weekly, 0)];
        let policy = Policy { keep: BTreeMap::from(keep), ..Policy::default() };
        let now = at("2026-11-27T12:00:30+01:00").to_zoned_datetime(vienna());
        let both = &[Period::Hourly, Period::Daily][..];
        for (taken, wanted) in [
            (&[][..], both),
            (&[(Period::Hourly, "2026-11-27T12:00:00+01:00")], &[Period::Daily]),
            (&[(Period::Hourly, "2026-11-27T11:59:59+01:00")], both),
            (&[(Period::Hourly, "2027-11-27T12:00:00+01:00")], both),
            (&[(Period::Daily, "2026-11-26T23:59:00+01:00")], &[Period::Hourly]),
            (&[(Period::Daily, "2026-11-26T23:58:59+01:00")], both),
            (&[(Period::Monthly, "2026-11-27T12:00:00+01:00")], both),
        ] {
            let taken: Vec<_> = taken.iter().map(|(period, time)| (*period, at(time))).collect();
            let found: Vec<_> = due(&policy, &taken, &now).iter().map(|it| it.period).collect();
            assert_eq!(found, wanted, "{taken:?}");
        }
    }
}
