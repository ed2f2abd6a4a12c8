//! A `sanoid.conf` as a configuration of ours: policies, rules for the guests on its datasets and for its
//! other datasets, hooks, and comments that say what is not carried over.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use jiff::civil::{Date, Time};

use super::datasets::targets;
use super::ini;
use super::settings::{Configuration, Recursive, Section, Settings, read};
use crate::config::ConfigError;
use crate::hooks::Hook;
use crate::name::{GuestName, Volume};
use crate::policy::{Period, PreferredTimes, weekday_name};

/// A guest, and the volumes that its disks lie on.
pub type Placed = (GuestName, BTreeSet<Volume>);

/// The most that our configuration keeps of a period.
pub(super) const MOST: u32 = 100_000;

/// Sections that say which dataset they are of, and how.
const ABOUT_DATASETS: [&str; 5] =
    ["path", "use_template", "recursive", "process_children_only", "skip_children"];

/// Writes the configuration that a `sanoid.conf` of this name means for these guests; `None`: nobody
/// knows which there are, so there are no rules.
///
/// # Errors
/// Where sanoid's file is wrong.
pub fn import(file: &str, text: &str, guests: Option<&[Placed]>) -> Result<String, ConfigError> {
    let configuration = read(file, text)?;
    let (written, _) = ini::parse(file, text)?;
    let sections = &configuration.sections;
    let policies = policies(sections, &written);
    let datasets: BTreeSet<_> = guests.unwrap_or_default().iter().flat_map(|it| &it.1).collect();
    let datasets: Vec<_> = datasets.into_iter().cloned().collect();
    let targets = targets(sections, &datasets);
    let section_of: BTreeMap<_, _> =
        targets.targets.iter().map(|it| (it.dataset, it.section)).collect();

    let mut out = Writer::default();
    out.comment(&format!("Imported from {file}."));
    out.comment(
        "sanoid's own snapshots stay until a rule says adopt = true. When 'vitrify run' takes over, \
         take its datasets out of sanoid.conf.",
    );
    left_out(&configuration, &written).iter().for_each(|it| out.comment(it));
    hooks(&mut out, &sections.iter().collect::<Vec<_>>());
    for policy in &policies {
        out.policy(policy);
    }
    match guests {
        Some(guests) => {
            rules(&mut out, guests, &section_of, &policies);
            volumes(&mut out, sections, &datasets, &policies);
        }
        None => without_rules(&mut out, sections, &policies),
    }
    Ok(out.0)
}

/// What there is instead of rules where nobody knows which guests have which datasets.
fn without_rules(out: &mut Writer, sections: &[Section], policies: &[Imported]) {
    out.paragraph(
        "Nobody could ask libvirt which guests there are, so no rule is here: a [[guest]] names guests \
         and the policy that holds for them, a [[volume]] a dataset without guests.",
    );
    if sections.is_empty() {
        return;
    }
    out.paragraph("The datasets, and the policies of what lies on them.");
    for section in sections {
        let policy = policy_of(section, policies);
        let policy = policy.map_or("autosnap is off".to_owned(), |it| format!("policy {it}"));
        out.comment(&format!("  {} (line {}): {policy}", section.dataset, section.line));
    }
}

/// The name of a section's policy; `None` where autosnap is off.
fn policy_of<'a>(section: &Section, policies: &'a [Imported]) -> Option<&'a str> {
    policies.iter().find(|it| it.lines.contains(&section.line)).map(|it| it.name.as_str())
}

/// The rules for datasets that are not all guests', and what is said of the others.
fn volumes(out: &mut Writer, sections: &[Section], of_guests: &[Volume], policies: &[Imported]) {
    let mut notes = Vec::new();
    for section in sections {
        let (above, policy) = (rule_above(section, sections), policy_of(section, policies));
        let is_guests = of_guests.contains(&section.dataset);
        let notes_of_it = volume_notes(section, policy.is_some(), above, is_guests);
        notes.extend(
            notes_of_it.map(|it| format!("{} (line {}): {it}", section.dataset, section.line)),
        );
        let Some(policy) = policy.filter(|_| !is_guests && !section.settings.process_children_only)
        else {
            continue;
        };
        out.blank();
        out.line(&format!("[[volume]] # line {}", section.line));
        out.line(&format!("match = {}", quoted(section.dataset.as_str())));
        if is_recursive(section) {
            out.line("recursive = true # but for what guests with a rule have disks on");
        }
        out.line(&format!("policy = {}", quoted(policy)));
    }
    notes.iter().for_each(|it| out.paragraph(it));
}

fn is_recursive(section: &Section) -> bool {
    section.settings.recursive != Recursive::No && !section.settings.skip_children
}

/// The nearest section above whose rule holds for what has none.
fn rule_above<'a>(section: &Section, sections: &'a [Section]) -> Option<&'a Section> {
    let is_above = |it: &&Section| {
        let rest = section.dataset.as_str().strip_prefix(it.dataset.as_str());
        let settings = &it.settings;
        is_recursive(it)
            && settings.autosnap
            && !settings.process_children_only
            && rest.is_some_and(|rest| rest.starts_with('/'))
    };
    sections.iter().filter(is_above).max_by_key(|it| it.dataset.as_str().len())
}

/// What of a section a rule for a volume cannot say.
fn volume_notes(
    section: &Section,
    has_policy: bool,
    above: Option<&Section>,
    is_guests: bool,
) -> Option<String> {
    let settings = &section.settings;
    match above.map(|it| &it.dataset) {
        None if !has_policy => Some("autosnap is off, so it has no rule.".to_owned()),
        Some(above) if !has_policy => Some(format!(
            "autosnap is off, and the rule for {above} holds for it. Write a rule with an empty policy."
        )),
        _ if settings.process_children_only => Some(
            "process_children_only has no like here. Write a rule for each dataset below.".to_owned(),
        ),
        Some(above) if settings.skip_children => Some(format!(
            "skip_children has no like here: the rule for {above} holds for what lies below. Write \
             rules with an empty policy there."
        )),
        _ if is_guests && is_recursive(section) => Some(
            "a guest has a disk there, and its rule holds. Datasets below without guests have none; \
             write a [[volume]] for each."
                .to_owned(),
        ),
        _ => None,
    }
}

/// A policy, and the lines of the sections that it holds for.
struct Imported {
    name: String,
    body: String,
    lines: Vec<usize>,
}

/// The policies of the sections that take snapshots; those that say the same are one.
fn policies(sections: &[Section], written: &[ini::Section]) -> Vec<Imported> {
    let mut all: Vec<Imported> = Vec::new();
    for section in sections.iter().filter(|it| it.settings.autosnap) {
        let body = body(&section.settings);
        match all.iter_mut().find(|it| it.body == body) {
            Some(same) => same.lines.push(section.line),
            None => {
                let wanted = policy_name(section, written);
                let is_free = |name: &String| !all.iter().any(|it| it.name == *name);
                let numbered = (2..).map(|it| format!("{wanted}-{it}"));
                let name = std::iter::once(wanted.clone()).chain(numbered).find(is_free);
                let name = name.unwrap_or(wanted);
                all.push(Imported { name, body, lines: vec![section.line] });
            }
        }
    }
    all
}

/// The name of the one template that says it all, or else of the section.
fn policy_name(section: &Section, written: &[ini::Section]) -> String {
    let of_policy = |it: &ini::Section| it.entries.iter().any(|it| is_policy_key(&it.key));
    let own = written.iter().find(|it| it.name == section.name);
    let used = own.and_then(|it| it.entries.iter().find(|it| it.key == "use_template"));
    let used = used.map(|it| it.value.split(',').map(str::trim)).into_iter().flatten();
    let used: Vec<_> = used
        .filter(|name| {
            written
                .iter()
                .any(|it| it.name.strip_prefix("template_") == Some(name) && of_policy(it))
        })
        .collect();
    let name = match (&used[..], own.is_some_and(of_policy)) {
        ([one], false) => *one,
        _ => section.name.as_str(),
    };
    let fine = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    name.chars().map(fine).collect()
}

/// Whether a key of sanoid's says what is kept and when it is taken.
fn is_policy_key(key: &str) -> bool {
    let times = ["frequent", "hourly", "daily", "weekly", "monthly", "yearly", "auto"];
    times.iter().any(|it| key.starts_with(it)) && !key.ends_with("_warn") && !key.ends_with("_crit")
}

/// What stands in the table of a policy.
fn body(settings: &Settings) -> String {
    let mut text = String::new();
    if !settings.autoprune {
        text += "# sanoid pruned nothing of these (autoprune is off), and this is the most to be kept\n";
    }
    let kept = settings.policy.keep.iter().filter(|it| *it.1 > 0);
    let kept: Vec<_> = kept.map(|(period, count)| (*period, *count)).collect();
    for (period, count) in &kept {
        let count = if settings.autoprune { (*count).min(MOST) } else { MOST };
        let _ = writeln!(text, "{period} = {count}");
    }
    for (period, _) in kept {
        text += &times(period, &settings.policy.times);
    }
    text
}

/// The preferred time of a period, where it is not the default.
fn times(period: Period, times: &PreferredTimes) -> String {
    let default = PreferredTimes::default();
    let at = |key: &str, time: Time, default: Time| match time == default {
        true => String::new(),
        false => format!("{key}-at = \"{}\"\n", time.strftime("%H:%M")),
    };
    let unless = |is_default: bool, line: String| if is_default { String::new() } else { line };
    match period {
        Period::Frequently => {
            let minutes = times.frequent_minutes;
            unless(minutes == default.frequent_minutes, format!("frequent-period = {minutes}\n"))
        }
        Period::Hourly => {
            let minute = times.hourly_minute;
            unless(minute == default.hourly_minute, format!("hourly-min = {minute}\n"))
        }
        Period::Daily => at("daily", times.daily, default.daily),
        Period::Weekly => {
            let (day, time) = times.weekly;
            let on = format!("weekly-on = \"{}\"\n", weekday_name(day));
            unless(day == default.weekly.0, on) + &at("weekly", time, default.weekly.1)
        }
        Period::Monthly => {
            let (day, time) = times.monthly;
            let on = format!("monthly-on = {day}\n");
            unless(day == default.monthly.0, on) + &at("monthly", time, default.monthly.1)
        }
        Period::Yearly => {
            let (month, day, time) = times.yearly;
            let is_default = (month, day) == (default.yearly.0, default.yearly.1);
            let on = format!("yearly-on = \"{month:02}-{:02}\"\n", day_of_year(month, day));
            unless(is_default, on) + &at("yearly", time, default.yearly.2)
        }
    }
}

/// The day of a month as our configuration has it: one that there is in a leap year at least.
pub(super) fn day_of_year(month: u8, day: u8) -> u8 {
    let last = i8::try_from(month).ok().and_then(|it| Date::new(2000, it, 1).ok());
    day.min(last.and_then(|it| u8::try_from(it.days_in_month()).ok()).unwrap_or(day))
}

/// The rules for the guests that sections cover, and what is said of the others.
fn rules(
    out: &mut Writer,
    guests: &[Placed],
    section_of: &BTreeMap<&Volume, &Section>,
    policies: &[Imported],
) {
    let mut covered: BTreeMap<&str, Vec<&GuestName>> = BTreeMap::new();
    let (mut notes, mut bare) = (Vec::new(), Vec::new());
    for (guest, volumes) in guests {
        let held: Vec<_> =
            volumes.iter().filter_map(|it| Some((it, *section_of.get(it)?))).collect();
        let theirs: BTreeSet<_> = held.iter().map(|it| policy_of(it.1, policies)).collect();
        let mut theirs = theirs.into_iter();
        match (theirs.next(), theirs.next()) {
            (None, _) => bare.push(guest.as_str()),
            (Some(None), None) => notes.push(format!(
                "Guest {guest}: nothing is taken of it, because autosnap is off in [{}] (line {}).",
                held[0].1.name, held[0].1.line
            )),
            (Some(Some(policy)), None) => {
                covered.entry(policy).or_default().push(guest);
                let outside = volumes.iter().filter(|it| !section_of.contains_key(it));
                notes.extend(outside.map(|it| {
                    format!(
                        "Guest {guest}: its volume {it} is in no section; it is captured as well."
                    )
                }));
            }
            _ => {
                let of = |it: &(&Volume, &Section)| {
                    let policy = policy_of(it.1, policies).unwrap_or("none, autosnap is off");
                    format!("{} (line {}): {policy}", it.0, it.1.line)
                };
                let list: Vec<_> = held.iter().map(of).collect();
                notes.push(format!(
                    "Guest {guest} has no rule, because its volumes have several policies, and a \
                     guest has one: {}. Write a rule for it.",
                    list.join("; ")
                ));
            }
        }
    }
    for (policy, guests) in covered {
        let names: Vec<_> = guests.iter().map(|it| quoted(it.as_str())).collect();
        out.blank();
        out.line("[[guest]]");
        out.line(&format!("match = [{}]", names.join(", ")));
        out.line(&format!("policy = {}", quoted(policy)));
        out.comment(
            "adopt = true # prunes sanoid's own snapshots of their datasets by this policy",
        );
    }
    if !bare.is_empty() {
        notes.push(format!("Guests on which no section has any bearing: {}.", bare.join(", ")));
    }
    notes.iter().for_each(|it| out.paragraph(it));
}

/// A script's key, what it is set to, and whether it ever runs.
type Script = (&'static str, fn(&Settings) -> &Option<String>, fn(&Settings) -> bool);

/// sanoid's scripts, in the order of [`Hook::ALL`].
pub(super) const SCRIPTS: [Script; 4] = [
    ("pre_snapshot_script", |it| &it.pre_snapshot_script, |it| it.autosnap),
    ("post_snapshot_script", |it| &it.post_snapshot_script, |it| it.autosnap),
    ("pre_pruning_script", |it| &it.pre_pruning_script, |it| it.autoprune),
    ("pruning_script", |it| &it.pruning_script, |it| it.autoprune),
];

/// The hooks, as far as all of these sections have the same.
fn hooks(out: &mut Writer, sections: &[&Section]) {
    let (mut lines, mut differing, mut limits) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (hook, (key, of, runs)) in Hook::ALL.into_iter().zip(SCRIPTS) {
        let those: Vec<_> = sections.iter().filter(|it| runs(&it.settings)).collect();
        let distinct: BTreeSet<_> = those.iter().map(|it| of(&it.settings)).collect();
        let with = those.iter().filter(|it| of(&it.settings).is_some());
        limits.extend(with.map(|it| it.settings.script_timeout));
        match (distinct.len(), distinct.first()) {
            (1, Some(Some(script))) if !script.contains('\0') => {
                lines.push(format!("{hook} = {}", quoted(script)));
            }
            (0, _) | (1, Some(None)) => {}
            _ => {
                let said = those.iter().map(|it| {
                    let script = of(&it.settings).as_deref().unwrap_or("none");
                    format!("{} (line {}): {script}", it.dataset, it.line)
                });
                let said: Vec<_> = said.collect();
                differing.push(format!(
                    "{key} is not the same everywhere, and {hook} holds for all: {}",
                    said.join("; ")
                ));
            }
        }
    }
    if !lines.is_empty() {
        out.paragraph(
            "vitrify itself freezes guests, saves their memory and puts disks on overlays: a script \
             that does any of that has served, take it out.",
        );
        out.line("[hooks]");
        lines.iter().for_each(|it| out.line(it));
        match (limits.len(), limits.first()) {
            (1, Some(Some(limit))) => out.line(&format!("timeout = \"{}s\"", limit.as_secs())),
            _ => out.comment(
                "script_timeout is not one number of seconds everywhere; timeout is \"30s\" unless \
                 you say",
            ),
        }
    }
    differing.iter().for_each(|it| out.paragraph(it));
}

/// What of a `sanoid.conf` is passed over or not carried over, each with its line and the reason.
///
/// # Errors
/// Where sanoid's file is wrong.
pub fn not_imported(file: &str, text: &str) -> Result<Vec<String>, ConfigError> {
    Ok(left_out(&read(file, text)?, &ini::parse(file, text)?.0))
}

fn left_out(configuration: &Configuration, written: &[ini::Section]) -> Vec<String> {
    let warnings =
        configuration.warnings.iter().map(|it| format!("line {}: {}", it.line, it.message));
    let mut left: Vec<_> = warnings.chain(not_carried_over(written)).collect();
    left.sort_by_key(|it| line_of(it));
    left
}

/// What was written and means nothing to us, by its line.
fn not_carried_over(written: &[ini::Section]) -> impl Iterator<Item = String> {
    let entries = written.iter().flat_map(|it| &it.entries);
    entries.filter_map(|it| {
        let why = why_not(&it.key, &it.value)?;
        Some(format!("line {}: {} = {}: {why}", it.line, it.key, it.value))
    })
}

/// Why a setting is not carried over; `None` where it is, or where it says what holds anyway.
fn why_not(key: &str, value: &str) -> Option<&'static str> {
    let on = ["1", "true", "yes", "on"].iter().any(|it| value.eq_ignore_ascii_case(it));
    let is_monitor = key.starts_with("monitor")
        || key.starts_with("capacity_")
        || key.ends_with("_warn")
        || key.ends_with("_crit");
    match key {
        "prune_defer" if value != "0" => Some("what has served goes however full the pool is"),
        "no_inconsistent_snapshot" if on => Some(
            "a point is taken also where the hook before it fails, and the exit status says so",
        ),
        "autosnap" if !on => Some("nothing is taken there, so it has no rule"),
        _ if is_monitor => Some("'vitrify status --nagios' judges by the policies"),
        _ if ABOUT_DATASETS.contains(&key) || is_policy_key(key) => {
            let count = value.parse::<u32>().is_ok_and(|it| it > MOST);
            count.then_some("100000 is the most to be kept")
        }
        _ => None,
    }
}

/// Which line a note begins with.
fn line_of(note: &str) -> Option<usize> {
    note.strip_prefix("line ")?.split_once(':')?.0.parse().ok()
}

/// As TOML has it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// The text to be.
#[derive(Default)]
struct Writer(String);

impl Writer {
    fn line(&mut self, text: &str) {
        self.0 += text;
        self.0.push('\n');
    }

    fn blank(&mut self) {
        self.0.push('\n');
    }

    /// Behind `#`, no longer than a terminal is wide; what a comment must not hold becomes `?`.
    fn comment(&mut self, text: &str) {
        const WIDTH: usize = 100;
        let text: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let indent = &text[..text.len() - text.trim_start().len()];
        let mut line = format!("# {indent}");
        let mut is_empty = true;
        for word in text.split_whitespace() {
            if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
                self.line(&line);
                line = format!("# {indent}  ");
                is_empty = true;
            }
            if !is_empty {
                line.push(' ');
            }
            line += word;
            is_empty = false;
        }
        self.line(&line);
    }

    /// A comment by itself.
    fn paragraph(&mut self, text: &str) {
        self.blank();
        self.comment(text);
    }

    fn policy(&mut self, policy: &Imported) {
        let lines: Vec<_> = policy.lines.iter().map(ToString::to_string).collect();
        let word = if lines.len() == 1 { "line" } else { "lines" };
        self.blank();
        self.line(&format!("[policy.{}] # {word} {}", policy.name, lines.join(", ")));
        self.0 += &policy.body;
    }
}

#[cfg(test)]
mod tests;
