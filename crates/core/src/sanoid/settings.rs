//! What a `sanoid.conf` says of its datasets: defaults, templates and sections, merged and typed.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::SignedDuration;

use super::keys::KEYS;
use super::{Warning, ini};
use crate::config::{ConfigError, nearest};
use crate::hooks::Ended;
use crate::name::Volume;
use crate::policy::{Period, Policy};

/// A whole `sanoid.conf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// Its sections but the templates, in the file's order; no dataset is there twice.
    pub sections: Vec<Section>,
    /// What is passed over, by line.
    pub warnings: Vec<Warning>,
}

/// A section of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// What stands in the brackets.
    pub name: String,
    /// The line of its header, from 1.
    pub line: usize,
    /// The dataset: `path`, or else the section's name.
    pub dataset: Volume,
    /// What holds for it.
    pub settings: Settings,
}

/// What holds for a dataset. The default is sanoid's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How many of each period are kept (every period is named), and when they are taken.
    pub policy: Policy,
    /// Whether snapshots are taken.
    pub autosnap: bool,
    /// Whether snapshots are pruned.
    pub autoprune: bool,
    /// What the section says of the datasets below.
    pub recursive: Recursive,
    /// Whether the section leaves its dataset itself out.
    pub process_children_only: bool,
    /// Whether the datasets below are left out, also by the sections further up.
    pub skip_children: bool,
    /// Snapshots are pruned only while more than this share of the pool is used, in percent; 0: always.
    pub prune_defer: u8,
    /// What is run before a snapshot: a command line, as all of the scripts.
    pub pre_snapshot_script: Option<String>,
    /// What is run after it.
    pub post_snapshot_script: Option<String>,
    /// What is run before one is destroyed.
    pub pre_pruning_script: Option<String>,
    /// What is run after one was destroyed.
    pub pruning_script: Option<String>,
    /// How long a script may take; `None`: as long as it likes.
    pub script_timeout: Option<Duration>,
    /// Whether a failing [`pre_snapshot_script`](Self::pre_snapshot_script) prevents the snapshot.
    pub no_inconsistent_snapshot: bool,
    /// Whether the post script runs also where that prevented the snapshot.
    pub force_post_snapshot_script: bool,
    /// Whether the ages of the snapshots are monitored.
    pub monitor: bool,
    /// Whether no warning is given of them.
    pub monitor_dont_warn: bool,
    /// Whether nothing critical is said of them.
    pub monitor_dont_crit: bool,
    /// How old the newest of a period may be. A period that is not named is not monitored.
    pub ages: BTreeMap<Period, Ages>,
    /// From this share of the pool on its use is worth a warning, in percent; 0: never.
    pub capacity_warn: u8,
    /// From this share of the pool on its use is critical, in percent; 0: never.
    pub capacity_crit: u8,
}

impl Settings {
    /// Whether the snapshot is taken after a pre script that ended so.
    pub fn is_taken_after(&self, pre: Ended) -> bool {
        pre == Ended::Succeeded || !self.no_inconsistent_snapshot
    }

    /// Whether the post script runs after a pre script that ended so. After one that was killed in the
    /// middle of its work it does in any case.
    pub fn is_post_run_after(&self, pre: Ended) -> bool {
        self.is_taken_after(pre) || self.force_post_snapshot_script || pre == Ended::TimedOut
    }
}

/// What a section says of the datasets below its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recursive {
    /// Nothing.
    No,
    /// It holds for each of them on its own.
    Yes,
    /// They are snapshotted with it, in one atomic operation.
    Zfs,
}

/// How old the newest snapshot of a period may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ages {
    /// What is older is worth a warning; `None`: nothing is.
    pub warn: Option<SignedDuration>,
    /// What is older is critical; `None`: nothing is.
    pub crit: Option<SignedDuration>,
}

impl Default for Settings {
    fn default() -> Self {
        let keep = [
            (Period::Frequently, 0),
            (Period::Hourly, 48),
            (Period::Daily, 90),
            (Period::Weekly, 0),
            (Period::Monthly, 6),
            (Period::Yearly, 0),
        ];
        let ages = |warn, crit| Ages { warn: Some(warn), crit: Some(crit) };
        let mins = SignedDuration::from_mins;
        let hours = SignedDuration::from_hours;
        Self {
            policy: Policy { keep: keep.into(), ..Policy::default() },
            autosnap: true,
            autoprune: true,
            recursive: Recursive::No,
            process_children_only: false,
            skip_children: false,
            prune_defer: 0,
            pre_snapshot_script: None,
            post_snapshot_script: None,
            pre_pruning_script: None,
            pruning_script: None,
            script_timeout: Some(Duration::from_secs(5)),
            no_inconsistent_snapshot: false,
            force_post_snapshot_script: false,
            monitor: true,
            monitor_dont_warn: false,
            monitor_dont_crit: false,
            ages: BTreeMap::from([
                (Period::Hourly, ages(mins(90), mins(360))),
                (Period::Daily, ages(hours(28), hours(32))),
                (Period::Monthly, ages(hours(32 * 24), hours(40 * 24))),
            ]),
            capacity_warn: 80,
            capacity_crit: 95,
        }
    }
}

const TEMPLATE: &str = "template_";

/// These say which dataset a section is of, and mean nothing in a template.
const SECTION_ONLY: [&str; 3] = ["path", "use_template", "recursive"];

/// Reads a `sanoid.conf` of this name. For each section the defaults hold, over them
/// `[template_default]`, over that each of `use_template` in order, and over all the section. Every
/// value is checked, also in templates that nobody uses.
pub fn read(file: &str, text: &str) -> Result<Configuration, ConfigError> {
    let (all, mut warnings) = ini::parse(file, text)?;
    for section in &all {
        apply(file, section, &mut Settings::default())?;
        let ignored = |it: &&ini::Entry| SECTION_ONLY.contains(&it.key.as_str());
        if section.name.starts_with(TEMPLATE) {
            warnings.extend(section.entries.iter().filter(ignored).map(|entry| Warning {
                file: file.to_owned(),
                line: entry.line,
                message: format!(
                    "'{}' is ignored in a template: write it into the sections that use [{}]",
                    entry.key, section.name
                ),
            }));
        }
    }
    warnings.sort_by_key(|it| it.line);
    let mut sections: Vec<Section> = Vec::new();
    for section in all.iter().filter(|it| !it.name.starts_with(TEMPLATE)) {
        let merged = merge(file, &all, section)?;
        if let Some(first) = sections.iter().find(|it| it.dataset == merged.dataset) {
            let message = format!(
                "[{}] is of dataset '{}', and so is [{}] in line {}: put them together",
                merged.name, merged.dataset, first.name, first.line
            );
            return Err(ConfigError { file: file.to_owned(), line: merged.line, message });
        }
        sections.push(merged);
    }
    Ok(Configuration { sections, warnings })
}

fn merge(file: &str, all: &[ini::Section], section: &ini::Section) -> Result<Section, ConfigError> {
    let template = |name: &str| {
        all.iter().find(|it| it.name.strip_prefix(TEMPLATE).is_some_and(|it| it == name))
    };
    let mut settings = Settings::default();
    if let Some(default) = template("default") {
        apply(file, default, &mut settings)?;
    }
    if let Some(entry) = value(section, "use_template") {
        let names = entry.value.split(',').map(str::trim).filter(|it| !it.is_empty());
        for name in names {
            match template(name) {
                Some(template) => apply(file, template, &mut settings)?,
                // The built-in defaults are one.
                None if name == "default" => {}
                None => {
                    let message = undefined_template(name, all);
                    return Err(ConfigError { file: file.to_owned(), line: entry.line, message });
                }
            }
        }
    }
    apply(file, section, &mut settings)?;
    let (path, line) = match value(section, "path") {
        Some(entry) => (&entry.value, entry.line),
        None => (&section.name, section.line),
    };
    let dataset = path.parse().map_err(|error: crate::name::BadName| ConfigError {
        file: file.to_owned(),
        line,
        message: error.to_string(),
    })?;
    Ok(Section { name: section.name.clone(), line: section.line, dataset, settings })
}

/// What a section sets this key to; nothing where the value is empty.
fn value<'a>(section: &'a ini::Section, key: &str) -> Option<&'a ini::Entry> {
    section.entries.iter().find(|it| it.key == key && !it.value.is_empty())
}

fn undefined_template(name: &str, all: &[ini::Section]) -> String {
    let defined = all.iter().filter_map(|it| it.name.strip_prefix(TEMPLATE));
    match nearest(name.strip_prefix(TEMPLATE).unwrap_or(name), defined) {
        Some(near) => format!("template '{name}' is not defined; did you mean '{near}'?"),
        None => format!("template '{name}' is not defined: write a section [{TEMPLATE}{name}]"),
    }
}

/// Sets everything that a section or a template says.
fn apply(file: &str, section: &ini::Section, settings: &mut Settings) -> Result<(), ConfigError> {
    let is_template = section.name.starts_with(TEMPLATE);
    for entry in &section.entries {
        let key = entry.key.as_str();
        let failed = |message| ConfigError { file: file.to_owned(), line: entry.line, message };
        let Some((_, set)) = KEYS.iter().find(|it| it.0 == key) else {
            return Err(failed(match nearest(key, KEYS.iter().map(|it| it.0)) {
                Some(near) => format!("unknown key '{key}'; did you mean '{near}'?"),
                None => format!("unknown key '{key}': sanoid has none like it, take it out"),
            }));
        };
        if is_template && SECTION_ONLY.contains(&key) {
            continue;
        }
        set(settings, &entry.value).map_err(|wanted| {
            let comment = match entry.value.contains(['#', ';']) {
                true => ", and a comment on a line of its own",
                false => "",
            };
            failed(format!("'{}' is no value of '{key}': write {wanted}{comment}", entry.value))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(text: &str) -> Section {
        let mut read = read("f", text).unwrap();
        assert_eq!(read.sections.len(), 1, "{text}");
        read.sections.remove(0)
    }

    /// Columns: the text, how many hourly, daily and weekly of `tank` are kept.
    #[test]
    fn what_is_merged() {
        for (text, wanted) in [
            ("[tank]", [48, 90, 0]),
            ("[tank]\nuse_template =", [48, 90, 0]),
            ("[tank]\nuse_template = default", [48, 90, 0]),
            ("[template_default]\nhourly=1\n[tank]", [1, 90, 0]),
            ("[tank]\nhourly=2\n[template_default]\nhourly=1\ndaily=1", [2, 1, 0]),
            ("[template_a]\nhourly=1\n[tank]", [48, 90, 0]),
            ("[template_a]\nhourly=1\n[tank]\nuse_template=a", [1, 90, 0]),
            (
                "[tank]\nuse_template = a , b\nweekly=4\n\
                 [template_b]\nhourly=2\n[template_a]\nhourly=1\ndaily=1\nweekly=1",
                [2, 1, 4],
            ),
            // Templates do not use templates.
            (
                "[tank]\nuse_template=a\n[template_a]\nuse_template=b\n[template_b]\nhourly=2",
                [48, 90, 0],
            ),
        ] {
            let keep = only(text).settings.policy.keep;
            let found = [Period::Hourly, Period::Daily, Period::Weekly].map(|it| keep[&it]);
            assert_eq!(found, wanted, "{text}");
        }
    }

    #[test]
    fn a_path_is_the_dataset() {
        for (text, wanted) in [
            ("[tank/vm]", "tank/vm"),
            ("[tank/vm]\npath =", "tank/vm"),
            ("[vm]\npath = tank/vm", "tank/vm"),
        ] {
            assert_eq!(only(text).dataset.as_str(), wanted, "{text}");
        }
    }

    #[test]
    fn errors_say_where_and_what_instead() {
        for (text, wanted) in [
            ("[tank]\nhuorly = 3", "f:2: unknown key 'huorly'; did you mean 'hourly'?"),
            ("[tank]\nzstd = 3", "f:2: unknown key 'zstd': sanoid has none like it, take it out"),
            ("[template_a]\nDaily = 3", "f:2: unknown key 'Daily'; did you mean 'daily'?"),
            (
                "[tank]\nhourly = many",
                "f:2: 'many' is no value of 'hourly': write how many are kept, or 0 for none",
            ),
            (
                "[tank]\n\nhourly = 36 # a day and a half",
                "f:3: '36 # a day and a half' is no value of 'hourly': write how many are kept, \
                 or 0 for none, and a comment on a line of its own",
            ),
            ("[tank]\nautosnap =", "f:2: '' is no value of 'autosnap': write yes or no"),
            (
                "[tank]\nrecursive = ja",
                "f:2: 'ja' is no value of 'recursive': write yes, zfs or no",
            ),
            (
                "[tank]\ndaily_hour = 24",
                "f:2: '24' is no value of 'daily_hour': write an hour from 0 to 23",
            ),
            (
                "[tank]\ndaily_min = 60",
                "f:2: '60' is no value of 'daily_min': write a minute from 0 to 59",
            ),
            (
                "[tank]\nhourly_min = 60",
                "f:2: '60' is no value of 'hourly_min': write a minute from 0 to 59",
            ),
            (
                "[tank]\nweekly_wday = 7",
                "f:2: '7' is no value of 'weekly_wday': write a number from 0 (Sunday) to 6 \
                 (Saturday)",
            ),
            (
                "[tank]\nmonthly_mday = 0",
                "f:2: '0' is no value of 'monthly_mday': write a day from 1 to 31, which is the \
                 last one of every month",
            ),
            (
                "[tank]\nyearly_mon = 13",
                "f:2: '13' is no value of 'yearly_mon': write a month from 1 to 12",
            ),
            (
                "[tank]\nfrequent_period = 0",
                "f:2: '0' is no value of 'frequent_period': write minutes from 1 to 60",
            ),
            (
                "[tank]\nprune_defer = 101",
                "f:2: '101' is no value of 'prune_defer': write a share in percent, from 0 to 100",
            ),
            (
                "[tank]\nscript_timeout = 5s",
                "f:2: '5s' is no value of 'script_timeout': write seconds, or 0 for no limit",
            ),
            (
                "[tank]\ndaily_warn = soon",
                "f:2: 'soon' is no value of 'daily_warn': write an age such as 90m, 28h or 8d, or \
                 0 for none",
            ),
            (
                "[tank]\nuse_template = prodction\n[template_production]",
                "f:2: template 'prodction' is not defined; did you mean 'production'?",
            ),
            (
                "[tank]\nuse_template = template_a\n[template_a]",
                "f:2: template 'template_a' is not defined; did you mean 'a'?",
            ),
            (
                "[tank]\nuse_template = backup\n[template_production]",
                "f:2: template 'backup' is not defined: write a section [template_backup]",
            ),
            (
                "[tank/vm]\n[vm]\npath = tank/vm",
                "f:2: [vm] is of dataset 'tank/vm', and so is [tank/vm] in line 1: put them \
                 together",
            ),
        ] {
            assert_eq!(read("f", text).unwrap_err().to_string(), wanted);
        }
    }

    #[test]
    fn what_templates_cannot_say_is_warned_of() {
        let text = "[template_a]\nrecursive = perhaps\nuse_template = b\npath = tank\n\
                    hourly = 1\nhourly = 2\n[tank]\nuse_template = a";
        let read = read("f", text).unwrap();
        assert_eq!(read.sections[0].settings.recursive, Recursive::No);
        let warnings: Vec<_> = read.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            warnings,
            [
                "f:2: 'recursive' is ignored in a template: write it into the sections that use \
                 [template_a]",
                "f:3: 'use_template' is ignored in a template: write it into the sections that \
                 use [template_a]",
                "f:4: 'path' is ignored in a template: write it into the sections that use \
                 [template_a]",
                "f:6: 'hourly' is set in line 5 already, and that counts",
            ]
        );
    }

    /// Columns: how the pre script ended, `no_inconsistent_snapshot`, `force_post_snapshot_script`,
    /// whether the snapshot is taken, whether the post script runs.
    #[test]
    fn what_follows_from_the_pre_script() {
        for (pre, only_consistent, force, taken, post) in [
            (Ended::Succeeded, false, false, true, true),
            (Ended::Succeeded, true, false, true, true),
            (Ended::Failed, false, false, true, true),
            (Ended::Failed, true, false, false, false),
            (Ended::Failed, true, true, false, true),
            (Ended::TimedOut, false, false, true, true),
            (Ended::TimedOut, true, false, false, true),
        ] {
            let settings = Settings {
                no_inconsistent_snapshot: only_consistent,
                force_post_snapshot_script: force,
                ..Settings::default()
            };
            let found = (settings.is_taken_after(pre), settings.is_post_run_after(pre));
            assert_eq!(found, (taken, post), "{pre:?} {only_consistent} {force}");
        }
    }
}
