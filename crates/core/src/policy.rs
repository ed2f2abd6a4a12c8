//! Policy: how often points are taken, and for how long they are kept.
//!
//! [`due`] says what is to be taken now, [`retention`] what has served. Both answer with reasons, and
//! neither knows what a snapshot is.

pub mod adoption;
pub mod due;
pub mod metrics;
pub mod retention;
pub mod status;

use std::collections::BTreeMap;
use std::fmt;

use jiff::civil::{Time, Weekday};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// How often a point is taken. The words are sanoid's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Period {
    /// Every [`PreferredTimes::frequent_minutes`].
    Frequently,
    /// Every hour.
    Hourly,
    /// Every day.
    Daily,
    /// Every week.
    Weekly,
    /// Every month.
    Monthly,
    /// Every year.
    Yearly,
}

impl Period {
    /// All of them, the shortest first.
    pub const ALL: [Self; 6] =
        [Self::Frequently, Self::Hourly, Self::Daily, Self::Weekly, Self::Monthly, Self::Yearly];

    /// The last part of a point's name, and the key in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Frequently => "frequently",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        }
    }

    /// The period of this name.
    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == text)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// When in its period a point should be taken, by the wall clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreferredTimes {
    /// How many minutes lie between two of `frequently`, from 1 to 60, counted from the full hour.
    pub frequent_minutes: u8,
    /// The minute of the hour.
    pub hourly_minute: u8,
    /// The time of the day.
    pub daily: Time,
    /// The day of the week, and the time.
    pub weekly: (Weekday, Time),
    /// The day of the month, and the time; in a shorter month its last day.
    pub monthly: (u8, Time),
    /// The month, the day and the time; in a shorter month its last day.
    pub yearly: (u8, u8, Time),
}

/// sanoid's.
impl Default for PreferredTimes {
    fn default() -> Self {
        Self {
            frequent_minutes: 15,
            hourly_minute: 0,
            daily: Time::constant(23, 59, 0, 0),
            weekly: (Weekday::Monday, Time::constant(23, 30, 0, 0)),
            monthly: (1, Time::midnight()),
            yearly: (1, 1, Time::midnight()),
        }
    }
}

impl PreferredTimes {
    /// When a period is due, in words.
    pub fn when(&self, period: Period) -> String {
        match period {
            Period::Frequently => format!("every {} minutes", self.frequent_minutes),
            Period::Hourly => format!("at minute {}", self.hourly_minute),
            Period::Daily => format!("at {}", self.daily.strftime("%H:%M")),
            Period::Weekly => {
                let (day, time) = self.weekly;
                format!("on {} at {}", weekday_name(day), time.strftime("%H:%M"))
            }
            Period::Monthly => {
                let (day, time) = self.monthly;
                format!("on day {day} at {}", time.strftime("%H:%M"))
            }
            Period::Yearly => {
                let (month, day, time) = self.yearly;
                format!("on {month:02}-{day:02} at {}", time.strftime("%H:%M"))
            }
        }
    }
}

/// The word for a day, here and in the configuration.
pub const fn weekday_name(day: Weekday) -> &'static str {
    match day {
        Weekday::Monday => "monday",
        Weekday::Tuesday => "tuesday",
        Weekday::Wednesday => "wednesday",
        Weekday::Thursday => "thursday",
        Weekday::Friday => "friday",
        Weekday::Saturday => "saturday",
        Weekday::Sunday => "sunday",
    }
}

/// What holds for a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// How many of a period are kept. One that is not named is neither taken nor pruned; one of 0 is
    /// not taken, and pruned.
    pub keep: BTreeMap<Period, u32>,
    /// For how many of a period the memory image is kept. The images of a period that is not named
    /// are kept as long as their points.
    pub keep_memory: BTreeMap<Period, u32>,
    /// When points are taken.
    pub times: PreferredTimes,
}

impl Policy {
    /// How long a period is when ages are counted: a month has 31 days and a year 365.25, as sanoid has
    /// it.
    pub fn length(&self, period: Period) -> SignedDuration {
        let hours = |hours| SignedDuration::from_hours(hours);
        match period {
            Period::Frequently => SignedDuration::from_mins(self.times.frequent_minutes.into()),
            Period::Hourly => hours(1),
            Period::Daily => hours(24),
            Period::Weekly => hours(7 * 24),
            Period::Monthly => hours(31 * 24),
            Period::Yearly => hours(365 * 24 + 6),
        }
    }
}

/// When a tick was, by both clocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tick {
    /// The boot.
    pub boot: String,
    /// By the wall clock.
    pub time: Timestamp,
    /// Since that boot, sleep included.
    pub since_boot: SignedDuration,
}

/// A wall clock that is off by more than this is not believed.
const JUMP: SignedDuration = SignedDuration::from_hours(1);

impl Tick {
    /// How far the wall clock was set meanwhile, where that is more than an hour: nothing is pruned
    /// then. Across a boot only a step back can be told.
    pub fn jump_since(&self, last: &Self) -> Option<SignedDuration> {
        let by_wall = self.time.duration_since(last.time);
        let jump = match self.boot == last.boot {
            true => by_wall - (self.since_boot - last.since_boot),
            false => by_wall.min(SignedDuration::ZERO),
        };
        (jump.abs() > JUMP).then_some(jump)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_is_noticed() {
        let tick = |boot: &str, hour: i64, since_boot: i64| Tick {
            boot: boot.to_owned(),
            time: Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hour),
            since_boot: SignedDuration::from_hours(since_boot),
        };
        for (last, now, jump) in [
            (tick("a", 100, 1), tick("a", 101, 2), None),
            (tick("a", 100, 1), tick("a", 900, 801), None),
            (tick("a", 100, 1), tick("a", 102, 2), None),
            (tick("a", 100, 1), tick("a", 103, 2), Some(2)),
            (tick("a", 100, 1), tick("a", 99, 2), Some(-2)),
            (tick("a", 100, 1), tick("b", 900, 1), None),
            (tick("a", 100, 1), tick("b", 99, 1), None),
            (tick("a", 100, 1), tick("b", 90, 1), Some(-10)),
        ] {
            let jump = jump.map(SignedDuration::from_hours);
            assert_eq!(now.jump_since(&last), jump, "{last:?} {now:?}");
        }
    }
}
