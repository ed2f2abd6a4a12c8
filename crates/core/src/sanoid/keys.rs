//! Every key of a `sanoid.conf`, and what its value may be.

use std::time::Duration;

use jiff::SignedDuration;
use jiff::civil::{Time, Weekday};

use super::settings::{Recursive, Settings};
use crate::policy::Period;

/// Sets one thing from its text, or says what can be written.
pub(super) type Set = fn(&mut Settings, &str) -> Result<(), Wanted>;
pub(super) type Wanted = &'static str;

/// Every key that there is.
pub(super) const KEYS: &[(&str, Set)] = &[
    // What these two say was read before.
    ("path", |_, _| Ok(())),
    ("use_template", |_, _| Ok(())),
    ("recursive", |it, text| put(&mut it.recursive, recursive(text))),
    ("process_children_only", |it, text| put(&mut it.process_children_only, flag(text))),
    ("skip_children", |it, text| put(&mut it.skip_children, flag(text))),
    ("autosnap", |it, text| put(&mut it.autosnap, flag(text))),
    ("autoprune", |it, text| put(&mut it.autoprune, flag(text))),
    ("frequently", |it, text| keep(it, Period::Frequently, text)),
    ("hourly", |it, text| keep(it, Period::Hourly, text)),
    ("daily", |it, text| keep(it, Period::Daily, text)),
    ("weekly", |it, text| keep(it, Period::Weekly, text)),
    ("monthly", |it, text| keep(it, Period::Monthly, text)),
    ("yearly", |it, text| keep(it, Period::Yearly, text)),
    ("frequent_period", |it, text| {
        let minutes = number(text).filter(|it| (1..=60).contains(it));
        put(&mut it.policy.times.frequent_minutes, minutes.ok_or("minutes from 1 to 60"))
    }),
    ("hourly_min", |it, text| {
        let minute = number(text).filter(|it| *it < 60);
        put(&mut it.policy.times.hourly_minute, minute.ok_or(MINUTE))
    }),
    ("daily_hour", |it, text| hour(&mut it.policy.times.daily, text)),
    ("daily_min", |it, text| minute(&mut it.policy.times.daily, text)),
    ("weekly_wday", |it, text| {
        let weekday = number(text).and_then(|it| Weekday::from_sunday_zero_offset(it).ok());
        put(
            &mut it.policy.times.weekly.0,
            weekday.ok_or("a number from 0 (Sunday) to 6 (Saturday)"),
        )
    }),
    ("weekly_hour", |it, text| hour(&mut it.policy.times.weekly.1, text)),
    ("weekly_min", |it, text| minute(&mut it.policy.times.weekly.1, text)),
    ("monthly_mday", |it, text| put(&mut it.policy.times.monthly.0, day_of_month(text))),
    ("monthly_hour", |it, text| hour(&mut it.policy.times.monthly.1, text)),
    ("monthly_min", |it, text| minute(&mut it.policy.times.monthly.1, text)),
    ("yearly_mon", |it, text| {
        let month = number(text).filter(|it| (1..=12).contains(it));
        put(&mut it.policy.times.yearly.0, month.ok_or("a month from 1 to 12"))
    }),
    ("yearly_mday", |it, text| put(&mut it.policy.times.yearly.1, day_of_month(text))),
    ("yearly_hour", |it, text| hour(&mut it.policy.times.yearly.2, text)),
    ("yearly_min", |it, text| minute(&mut it.policy.times.yearly.2, text)),
    ("prune_defer", |it, text| put(&mut it.prune_defer, percent(text))),
    ("pre_snapshot_script", |it, text| put(&mut it.pre_snapshot_script, script(text))),
    ("post_snapshot_script", |it, text| put(&mut it.post_snapshot_script, script(text))),
    ("pre_pruning_script", |it, text| put(&mut it.pre_pruning_script, script(text))),
    ("pruning_script", |it, text| put(&mut it.pruning_script, script(text))),
    ("script_timeout", |it, text| put(&mut it.script_timeout, timeout(text))),
    ("no_inconsistent_snapshot", |it, text| put(&mut it.no_inconsistent_snapshot, flag(text))),
    ("force_post_snapshot_script", |it, text| put(&mut it.force_post_snapshot_script, flag(text))),
    ("monitor", |it, text| put(&mut it.monitor, flag(text))),
    ("monitor_dont_warn", |it, text| put(&mut it.monitor_dont_warn, flag(text))),
    ("monitor_dont_crit", |it, text| put(&mut it.monitor_dont_crit, flag(text))),
    ("frequently_warn", |it, text| warn(it, Period::Frequently, text)),
    ("frequently_crit", |it, text| crit(it, Period::Frequently, text)),
    ("hourly_warn", |it, text| warn(it, Period::Hourly, text)),
    ("hourly_crit", |it, text| crit(it, Period::Hourly, text)),
    ("daily_warn", |it, text| warn(it, Period::Daily, text)),
    ("daily_crit", |it, text| crit(it, Period::Daily, text)),
    ("weekly_warn", |it, text| warn(it, Period::Weekly, text)),
    ("weekly_crit", |it, text| crit(it, Period::Weekly, text)),
    ("monthly_warn", |it, text| warn(it, Period::Monthly, text)),
    ("monthly_crit", |it, text| crit(it, Period::Monthly, text)),
    ("yearly_warn", |it, text| warn(it, Period::Yearly, text)),
    ("yearly_crit", |it, text| crit(it, Period::Yearly, text)),
    ("capacity_warn", |it, text| put(&mut it.capacity_warn, percent(text))),
    ("capacity_crit", |it, text| put(&mut it.capacity_crit, percent(text))),
];

fn put<T>(place: &mut T, value: Result<T, Wanted>) -> Result<(), Wanted> {
    *place = value?;
    Ok(())
}

fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn is_any(text: &str, words: &[&str]) -> bool {
    words.iter().any(|it| text.eq_ignore_ascii_case(it))
}

fn flag(text: &str) -> Result<bool, Wanted> {
    if is_any(text, &["1", "true", "yes", "on"]) {
        Ok(true)
    } else if is_any(text, &["0", "false", "no", "off"]) {
        Ok(false)
    } else {
        Err("yes or no")
    }
}

fn recursive(text: &str) -> Result<Recursive, Wanted> {
    match flag(text) {
        Ok(true) => Ok(Recursive::Yes),
        Ok(false) => Ok(Recursive::No),
        Err(_) if is_any(text, &["zfs"]) => Ok(Recursive::Zfs),
        Err(_) => Err("yes, zfs or no"),
    }
}

fn keep(settings: &mut Settings, period: Period, text: &str) -> Result<(), Wanted> {
    let count = number(text).ok_or("how many are kept, or 0 for none")?;
    settings.policy.keep.insert(period, count);
    Ok(())
}

const MINUTE: Wanted = "a minute from 0 to 59";

fn hour(time: &mut Time, text: &str) -> Result<(), Wanted> {
    let set = number(text).and_then(|hour: i8| time.with().hour(hour).build().ok());
    put(time, set.ok_or("an hour from 0 to 23"))
}

fn minute(time: &mut Time, text: &str) -> Result<(), Wanted> {
    let set = number(text).and_then(|minute: i8| time.with().minute(minute).build().ok());
    put(time, set.ok_or(MINUTE))
}

fn day_of_month(text: &str) -> Result<u8, Wanted> {
    let day = number(text).filter(|it| (1..=31).contains(it));
    day.ok_or("a day from 1 to 31, which is the last one of every month")
}

fn percent(text: &str) -> Result<u8, Wanted> {
    number(text).filter(|it| *it <= 100).ok_or("a share in percent, from 0 to 100")
}

#[expect(clippy::unnecessary_wraps, reason = "every text is a command line")]
fn script(text: &str) -> Result<Option<String>, Wanted> {
    Ok(Some(text.to_owned()).filter(|it| !it.is_empty()))
}

fn timeout(text: &str) -> Result<Option<Duration>, Wanted> {
    let seconds: i64 = number(text).ok_or("seconds, or 0 for no limit")?;
    Ok(u64::try_from(seconds).ok().filter(|it| *it > 0).map(Duration::from_secs))
}

fn warn(settings: &mut Settings, period: Period, text: &str) -> Result<(), Wanted> {
    put(&mut settings.ages.entry(period).or_default().warn, age(period, text))
}

fn crit(settings: &mut Settings, period: Period, text: &str) -> Result<(), Wanted> {
    put(&mut settings.ages.entry(period).or_default().crit, age(period, text))
}

/// An age with its unit; without one, in the unit in which the period's default is given.
fn age(period: Period, text: &str) -> Result<Option<SignedDuration>, Wanted> {
    const WANTED: Wanted = "an age such as 90m, 28h or 8d, or 0 for none";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match (unit.trim(), period) {
        ("s", _) => 1,
        ("m", _) | ("", Period::Frequently | Period::Hourly) => 60,
        ("h", _) | ("", Period::Daily) => 3600,
        ("d", _) | ("", Period::Weekly | Period::Monthly | Period::Yearly) => 86_400,
        ("w", _) => 7 * 86_400,
        ("y", _) => 365 * 86_400,
        _ => return Err(WANTED),
    };
    let number: i64 = number.parse().map_err(|_| WANTED)?;
    let seconds = number.checked_mul(seconds).ok_or(WANTED)?;
    Ok(Some(SignedDuration::from_secs(seconds)).filter(|it| !it.is_zero()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The defaults with these lines over them.
    fn of(lines: &str) -> Settings {
        let mut settings = Settings::default();
        for line in lines.lines() {
            let (key, value) = line.split_once('=').unwrap();
            let (_, set) = KEYS.iter().find(|it| it.0 == key.trim()).unwrap();
            set(&mut settings, value.trim()).unwrap();
        }
        settings
    }

    /// Columns: the lines of the section, what is to be so.
    #[test]
    fn every_key_sets_something() {
        type Check = fn(&Settings) -> bool;
        let rows: [(&str, Check); 36] = [
            ("recursive = yes", |it| it.recursive == Recursive::Yes),
            ("recursive = zfs", |it| it.recursive == Recursive::Zfs),
            ("recursive = no", |it| it.recursive == Recursive::No),
            ("process_children_only = 1", |it| it.process_children_only),
            ("skip_children = on", |it| it.skip_children),
            ("autosnap = off", |it| !it.autosnap),
            ("autosnap = TRUE", |it| it.autosnap),
            ("autoprune = false", |it| !it.autoprune),
            ("frequently = 4", |it| it.policy.keep[&Period::Frequently] == 4),
            ("hourly = 36", |it| it.policy.keep[&Period::Hourly] == 36),
            ("daily = 30", |it| it.policy.keep[&Period::Daily] == 30),
            ("weekly = 5", |it| it.policy.keep[&Period::Weekly] == 5),
            ("monthly = 3", |it| it.policy.keep[&Period::Monthly] == 3),
            ("yearly = 1", |it| it.policy.keep[&Period::Yearly] == 1),
            ("frequent_period = 5", |it| it.policy.times.frequent_minutes == 5),
            ("hourly_min = 07", |it| it.policy.times.hourly_minute == 7),
            ("daily_hour = 8\ndaily_min = 9", |it| it.policy.times.daily == hm(8, 9)),
            ("weekly_wday = 0\nweekly_hour = 1\nweekly_min = 2", |it| {
                it.policy.times.weekly == (Weekday::Sunday, hm(1, 2))
            }),
            ("monthly_mday = 31\nmonthly_hour = 1\nmonthly_min = 2", |it| {
                it.policy.times.monthly == (31, hm(1, 2))
            }),
            ("yearly_mon = 12\nyearly_mday = 3\nyearly_hour = 4\nyearly_min = 5", |it| {
                it.policy.times.yearly == (12, 3, hm(4, 5))
            }),
            ("prune_defer = 60", |it| it.prune_defer == 60),
            ("pre_snapshot_script = /a b", |it| it.pre_snapshot_script.as_deref() == Some("/a b")),
            ("post_snapshot_script = /a", |it| it.post_snapshot_script.is_some()),
            ("pre_pruning_script = /a", |it| it.pre_pruning_script.is_some()),
            ("pruning_script = /a", |it| it.pruning_script.is_some()),
            ("pruning_script =", |it| it.pruning_script.is_none()),
            ("script_timeout = 60", |it| it.script_timeout == Some(Duration::from_secs(60))),
            ("script_timeout = -1", |it| it.script_timeout.is_none()),
            ("no_inconsistent_snapshot = yes", |it| it.no_inconsistent_snapshot),
            ("force_post_snapshot_script = yes", |it| it.force_post_snapshot_script),
            ("monitor = no", |it| !it.monitor),
            ("monitor_dont_warn = yes", |it| it.monitor_dont_warn),
            ("monitor_dont_crit = yes", |it| it.monitor_dont_crit),
            ("hourly_crit = 0", |it| it.ages[&Period::Hourly].crit.is_none()),
            ("capacity_warn = 0", |it| it.capacity_warn == 0),
            ("capacity_crit = 100", |it| it.capacity_crit == 100),
        ];
        let mut set = BTreeSet::from(["path", "use_template"]);
        for (text, check) in rows {
            assert!(check(&of(text)), "{text}");
            set.extend(text.lines().filter_map(|it| it.split(' ').next()));
        }
        let ages = Period::ALL.map(|it| [format!("{it}_warn"), format!("{it}_crit")]);
        set.extend(ages.as_flattened().iter().map(String::as_str));
        assert_eq!(set, KEYS.iter().map(|it| it.0).collect());
    }

    #[test]
    fn ages() {
        let minutes = |it: Option<SignedDuration>| it.map_or(0, |it| it.as_mins());
        // Columns: the period, the age, its minutes.
        for (period, text, wanted) in [
            (Period::Frequently, "30", 30),
            (Period::Hourly, "90", 90),
            (Period::Daily, "28", 28 * 60),
            (Period::Weekly, "8", 8 * 1440),
            (Period::Monthly, "32", 32 * 1440),
            (Period::Yearly, "400", 400 * 1440),
            (Period::Hourly, "120s", 2),
            (Period::Hourly, "3 h", 180),
            (Period::Weekly, "2w", 14 * 1440),
            (Period::Yearly, "1y", 365 * 1440),
        ] {
            let settings = of(&format!("{period}_warn = {text}\n{period}_crit = {text}"));
            let ages = settings.ages[&period];
            assert_eq!([ages.warn, ages.crit].map(minutes), [wanted, wanted], "{period} {text}");
        }
    }

    fn hm(hour: i8, minute: i8) -> Time {
        Time::new(hour, minute, 0, 0).unwrap()
    }
}
