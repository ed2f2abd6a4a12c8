//! What may stand behind a key: each kind of value, read from its text or number, with the sentence
//! that the administrator reads where it makes no sense.

use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use jiff::civil::{Date, Time, Weekday};
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::explain::instead;
use super::rule::{Otherwise, Pattern};
use crate::capture::Consistency;
use crate::name::{BadName, Volume};
use crate::policy::weekday_name;

/// Parses a value from its text, the error being the sentence that the administrator reads.
trait FromText: Sized {
    /// What is wanted, for a value that is no text at all.
    const WANTED: &'static str;

    fn from_text(text: &str) -> Result<Self, String>;
}

struct TextVisitor<T>(PhantomData<T>);

impl<T: FromText> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::WANTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).map_err(E::custom)
    }
}

macro_rules! deserialize_from_text {
    ($($name:ty),* $(,)?) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(TextVisitor(PhantomData))
            }
        }
    )*};
}

#[derive(Debug)]
pub(super) struct AbsolutePath(pub(super) PathBuf);
#[derive(Debug)]
pub(super) struct Percent(pub(super) u64);
#[derive(Debug)]
pub(super) struct Limit(pub(super) Duration);
#[derive(Debug)]
pub(super) struct ShortLimit(pub(super) Duration);
/// What a shell is given.
#[derive(Debug)]
pub(super) struct ShellLine(pub(super) String);
#[derive(Debug)]
pub(super) struct ZoneName(pub(super) String);
#[derive(Debug)]
pub(super) struct TimeOfDay(pub(super) Time);
#[derive(Debug)]
pub(super) struct DayOfWeek(pub(super) Weekday);
/// A month, and a day of it.
#[derive(Debug)]
pub(super) struct DayOfYear(pub(super) u8, pub(super) u8);
#[derive(Debug)]
pub(super) struct Demand(pub(super) Consistency);
/// A dataset's name, or a subvolume's path.
#[derive(Debug)]
pub(super) struct VolumeName(pub(super) Volume);
deserialize_from_text!(
    AbsolutePath,
    Percent,
    Limit,
    ShortLimit,
    ShellLine,
    ZoneName,
    TimeOfDay,
    DayOfWeek,
    DayOfYear,
    Demand,
    Otherwise,
    Pattern,
    VolumeName,
);

impl FromText for AbsolutePath {
    const WANTED: &'static str = "a path in quotes";

    fn from_text(text: &str) -> Result<Self, String> {
        match text.starts_with('/') {
            true => Ok(Self(text.into())),
            false => Err(format!("'{text}' is not an absolute path")),
        }
    }
}

impl FromText for Percent {
    const WANTED: &'static str = "a share such as \"10%\"";

    fn from_text(text: &str) -> Result<Self, String> {
        text.strip_suffix('%')
            .and_then(|number| number.trim().parse().ok())
            .filter(|percent| *percent < 100)
            .map(Self)
            .ok_or_else(|| format!("'{text}' is not a share below 100%, such as \"10%\""))
    }
}

impl FromText for Limit {
    const WANTED: &'static str = "a time such as \"90s\"";

    fn from_text(text: &str) -> Result<Self, String> {
        time(text, &[("s", 1000), ("min", 60_000), ("h", 3_600_000)])
            .map(Self)
            .ok_or_else(|| format!("'{text}' is not a time such as \"90s\", \"10min\" or \"1h\""))
    }
}

impl FromText for ShortLimit {
    const WANTED: &'static str = "a time such as \"500ms\"";

    fn from_text(text: &str) -> Result<Self, String> {
        time(text, &[("ms", 1), ("s", 1000)])
            .map(Self)
            .ok_or_else(|| format!("'{text}' is not a time such as \"500ms\" or \"2s\""))
    }
}

impl FromText for ShellLine {
    const WANTED: &'static str = "a command line such as \"/opt/scripts/pre.sh\"";

    fn from_text(text: &str) -> Result<Self, String> {
        if text.contains('\0') {
            return Err("no program can be given the character NUL".to_owned());
        }
        match text.trim().is_empty() {
            false => Ok(Self(text.to_owned())),
            true => Err("an empty command line does nothing; leave it out".to_owned()),
        }
    }
}

/// Only what a name may look like: which there are, the system's database knows.
impl FromText for ZoneName {
    const WANTED: &'static str = "a time zone such as \"Europe/Vienna\"";

    fn from_text(text: &str) -> Result<Self, String> {
        let fine = |c: char| c.is_ascii_alphanumeric() || "_-+".contains(c);
        let part = |it: &str| !it.is_empty() && it.chars().all(fine);
        match text.split('/').all(part) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("'{text}' is not a time zone such as \"Europe/Vienna\"")),
        }
    }
}

impl FromText for TimeOfDay {
    const WANTED: &'static str = "a time of day such as \"23:59\"";

    fn from_text(text: &str) -> Result<Self, String> {
        Time::strptime("%H:%M", text)
            .map(Self)
            .map_err(|_| format!("'{text}' is not a time of day such as \"23:59\""))
    }
}

impl FromText for DayOfWeek {
    const WANTED: &'static str = "a day such as \"monday\"";

    fn from_text(text: &str) -> Result<Self, String> {
        let days = Weekday::Monday.cycle_forward().take(7);
        let days: Vec<_> = days.map(|it| (weekday_name(it), it)).collect();
        word(text, "day of the week", &days).map(Self)
    }
}

impl FromText for DayOfYear {
    const WANTED: &'static str = "a month and a day such as \"12-24\"";

    fn from_text(text: &str) -> Result<Self, String> {
        // Of a leap year, so that the 29th of February is one.
        Date::strptime("%Y-%m-%d", format!("2000-{text}"))
            .ok()
            .and_then(|it| Some(Self(it.month().try_into().ok()?, it.day().try_into().ok()?)))
            .ok_or_else(|| format!("'{text}' is not a month and a day such as \"12-24\""))
    }
}

impl FromText for Demand {
    const WANTED: &'static str = "\"memory\", \"frozen\" or \"crash\"";

    fn from_text(text: &str) -> Result<Self, String> {
        let words = [Consistency::Memory, Consistency::Frozen, Consistency::Crash];
        let words = words.map(|it| (it.as_str(), it));
        word(text, "consistency that can be demanded", &words).map(Self)
    }
}

impl FromText for Otherwise {
    const WANTED: &'static str = "\"next\" or \"fail\"";

    fn from_text(text: &str) -> Result<Self, String> {
        let words = [Self::Next, Self::Fail].map(|it| (it.as_str(), it));
        word(text, "answer to a consistency that is not reached", &words)
    }
}

impl FromText for Pattern {
    const WANTED: &'static str = "a guest's name in quotes";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Self)
            .map_err(|bad: BadName| format!("'{text}' matches no guest: {}", bad.why))
    }
}

/// As the storage itself spells it, so that one volume has one name.
impl FromText for VolumeName {
    const WANTED: &'static str = "a dataset's name or a subvolume's path in quotes";

    fn from_text(text: &str) -> Result<Self, String> {
        let fine = |c: char| c.is_ascii_alphanumeric() || "_-:. ".contains(c);
        let part = |it: &str| !matches!(it, "" | "." | "..") && !it.chars().any(char::is_control);
        let is_fine = match text.strip_prefix('/') {
            Some(path) => path.split('/').all(part),
            None => {
                text.starts_with(|c: char| c.is_ascii_alphabetic())
                    && text.split('/').all(|it| part(it) && it.chars().all(fine))
            }
        };
        match text.parse() {
            Ok(volume) if is_fine => Ok(Self(volume)),
            _ => Err(format!(
                "'{text}' is neither a ZFS dataset such as \"rpool/data\" nor the path of a Btrfs \
                 subvolume such as \"/srv/data\""
            )),
        }
    }
}

/// A number of one of these units, each given with its milliseconds; not nothing.
fn time(text: &str, units: &[(&str, u64)]) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, milliseconds) = units.iter().find(|(name, _)| *name == unit.trim())?;
    let milliseconds = number.parse::<u64>().ok()?.checked_mul(*milliseconds)?;
    (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
}

/// What one of these words stands for.
fn word<T: Copy>(text: &str, what: &str, words: &[(&str, T)]) -> Result<T, String> {
    let found = words.iter().find(|it| it.0 == text).map(|it| it.1);
    found.ok_or_else(|| {
        let known: Vec<_> = words.iter().map(|it| it.0).collect();
        format!("'{text}' is no {what}; {}", instead(text, &known))
    })
}

/// A whole number between these two.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whole<T, const LOW: i64, const HIGH: i64>(pub(super) T);

/// How many points are kept.
pub(super) type Count = Whole<u32, 0, 100_000>;

struct WholeVisitor<T, const LOW: i64, const HIGH: i64>(PhantomData<T>);

impl<T: TryFrom<i64>, const LOW: i64, const HIGH: i64> Visitor<'_> for WholeVisitor<T, LOW, HIGH> {
    type Value = Whole<T, LOW, HIGH>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from {LOW} to {HIGH}")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        let inside = Some(number).filter(|it| (LOW..=HIGH).contains(it));
        let value = inside.and_then(|it| T::try_from(it).ok());
        value.map(Whole).ok_or_else(|| {
            E::custom(format!("{number} is not a whole number from {LOW} to {HIGH}"))
        })
    }
}

impl<'de, T: TryFrom<i64>, const LOW: i64, const HIGH: i64> Deserialize<'de>
    for Whole<T, LOW, HIGH>
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_i64(WholeVisitor(PhantomData))
    }
}

/// One pattern, or several.
#[derive(Debug, Default)]
pub(super) struct Patterns(pub(super) Vec<Pattern>);

struct PatternsVisitor;

impl<'de> Visitor<'de> for PatternsVisitor {
    type Value = Patterns;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a guest's name in quotes, or several in brackets")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Patterns, E> {
        Pattern::from_text(text).map(|it| Patterns(vec![it])).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Patterns, A::Error> {
        let mut patterns = Vec::new();
        while let Some(pattern) = all.next_element()? {
            patterns.push(pattern);
        }
        Ok(Patterns(patterns))
    }
}

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PatternsVisitor)
    }
}
