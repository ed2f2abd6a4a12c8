//! In which order, by which commands and between which scripts what is due is taken.

use std::collections::BTreeMap;

use jiff::ZonedDateTime;

use super::datasets::Target;
use super::decide::{Snapshot, Take, take};
use super::monitor::pool_of;
use super::settings::Settings;
use crate::name::{BadName, PointName, Volume};
use crate::policy::Period;

/// Datasets that are snapshotted together or not at all: one, or with `recursive = zfs` all of a top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group<'a> {
    /// The dataset that decides for all of them, and then the others.
    pub datasets: Vec<&'a Volume>,
    /// What holds for them.
    pub settings: &'a Settings,
    /// What is due; there may be nothing.
    pub takes: Vec<Take>,
}

impl<'a> Group<'a> {
    /// The dataset that decides.
    pub fn top(&self) -> Option<&'a Volume> {
        self.datasets.first().copied()
    }

    /// What is due: the periods and the names.
    pub fn names(&self) -> Vec<(Period, &PointName)> {
        self.takes.iter().map(|it| (it.due.period, &it.name)).collect()
    }

    fn has_scripts(&self) -> bool {
        let Settings { pre_snapshot_script, post_snapshot_script, .. } = self.settings;
        pre_snapshot_script.is_some() || post_snapshot_script.is_some()
    }
}

/// What is due of each group, by the name of the dataset that decides.
pub fn groups<'a>(
    targets: &[Target<'a>],
    snapshots: &BTreeMap<Volume, Vec<Snapshot>>,
    now: &ZonedDateTime,
) -> Result<Vec<Group<'a>>, BadName> {
    let mut found: BTreeMap<&Volume, Group<'a>> = BTreeMap::new();
    for target in targets {
        let top = target.top.unwrap_or(target.dataset);
        let settings = &target.section.settings;
        let group = found.entry(top).or_insert_with(|| Group {
            datasets: vec![top],
            settings,
            takes: Vec::new(),
        });
        if target.dataset != top {
            group.datasets.push(target.dataset);
        }
    }
    for (top, group) in &mut found {
        let its = snapshots.get(*top).map(Vec::as_slice).unwrap_or_default();
        group.takes = take(group.settings, its, now)?;
    }
    Ok(found.into_values().collect())
}

/// Groups that are taken in one go.
#[derive(Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// The groups, all of one pool.
    pub groups: Vec<Group<'a>>,
    /// Whether scripts run around it; then it is of one group.
    pub has_scripts: bool,
}

/// A snapshot of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// The datasets, all or none of which get it.
    pub datasets: &'a [&'a Volume],
    /// Its name.
    pub name: &'a PointName,
}

impl Step<'_> {
    /// What each command takes, the shortest period first: ZFS takes one snapshot of a dataset at a
    /// time, and of any number of datasets of a pool.
    pub fn commands(&self) -> Vec<Vec<Wanted<'_>>> {
        let mut commands: BTreeMap<Period, Vec<Wanted<'_>>> = BTreeMap::new();
        for group in &self.groups {
            for (period, name) in group.names() {
                let wanted = Wanted { datasets: &group.datasets, name };
                commands.entry(period).or_default().push(wanted);
            }
        }
        commands.into_values().collect()
    }
}

/// What is to be done, in order: first the datasets without scripts, those of a pool together, then
/// the others one after another, each with its scripts right around it. What is not due is left out.
pub fn steps<'a>(groups: Vec<Group<'a>>) -> Vec<Step<'a>> {
    let (mut plain, mut scripted) = (BTreeMap::<&str, Vec<Group<'a>>>::new(), Vec::new());
    for group in groups.into_iter().filter(|it| !it.takes.is_empty()) {
        match (group.has_scripts(), group.top()) {
            (false, Some(top)) => plain.entry(pool_of(top)).or_default().push(group),
            _ => scripted.push(Step { groups: vec![group], has_scripts: true }),
        }
    }
    let plain = plain.into_values().map(|groups| Step { groups, has_scripts: false });
    plain.chain(scripted).collect()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use jiff::tz::TimeZone;

    use super::*;
    use crate::sanoid::datasets::targets;
    use crate::sanoid::settings::read;

    const HOST: [&str; 6] = ["t", "t/a", "t/a/b", "t/c", "u", "u/v"];

    /// Every command, with `script:` before those that scripts run around; a name is shown by the
    /// first letter of its period, and `+` stands between what is taken together or not at all.
    fn shown(steps: &[Step<'_>]) -> String {
        let wanted = |it: &Wanted<'_>| {
            let period = it.name.as_str().rsplit('_').next().unwrap();
            let names = it.datasets.iter().map(|name| format!("{name}@{}", &period[..1]));
            names.collect::<Vec<_>>().join("+")
        };
        let command =
            |command: &Vec<Wanted<'_>>| command.iter().map(wanted).collect::<Vec<_>>().join(" ");
        let step = |step: &Step<'_>| {
            let scripts = if step.has_scripts { "script: " } else { "" };
            let commands = step.commands();
            format!("{scripts}{}", commands.iter().map(command).collect::<Vec<_>>().join(", "))
        };
        steps.iter().map(step).collect::<Vec<_>>().join("; ")
    }

    /// Columns: the configuration below `hourly` and `daily`, what has an hourly of now, what is done.
    #[test]
    fn what_is_done_in_which_order() {
        for (text, taken, wanted) in [
            ("[t]\nrecursive = yes", &[][..], "t@h t/a@h t/a/b@h t/c@h, t@d t/a@d t/a/b@d t/c@d"),
            ("[t/a]\n[u/v]\n[t/c]", &[], "t/a@h t/c@h, t/a@d t/c@d; u/v@h, u/v@d"),
            ("[t/a]\n[t/c]", &["t/c"], "t/a@h, t/a@d t/c@d"),
            ("[t/a]\ndaily = 0\n[t/c]\ndaily = 0", &["t/a", "t/c"], ""),
            ("[t/a]\nautosnap = no", &[], ""),
            (
                "[t/a]\n[t/a/b]\npost_snapshot_script = x\n[t]\npre_snapshot_script = x\n[t/c]",
                &[],
                "t/a@h t/c@h, t/a@d t/c@d; script: t@h, t@d; script: t/a/b@h, t/a/b@d",
            ),
            // The scripts around removals have no part in it.
            ("[t/a]\npruning_script = x\n[t/c]", &[], "t/a@h t/c@h, t/a@d t/c@d"),
            ("[t/a]\nrecursive = zfs\n[t/c]", &[], "t/a@h+t/a/b@h t/c@h, t/a@d+t/a/b@d t/c@d"),
            // The top decides for the rest.
            ("[t/a]\nrecursive = zfs", &["t/a"], "t/a@d+t/a/b@d"),
            ("[t/a]\nrecursive = zfs", &["t/a/b"], "t/a@h+t/a/b@h, t/a@d+t/a/b@d"),
            (
                "[t]\nrecursive = zfs\nprocess_children_only = yes\npre_snapshot_script = x",
                &[],
                "script: t/a@h+t/a/b@h, t/a@d+t/a/b@d; script: t/c@h, t/c@d",
            ),
        ] {
            let text = format!("[template_default]\nhourly = 1\ndaily = 1\nmonthly = 0\n{text}");
            let sections = read("f", &text).unwrap().sections;
            let host = HOST.map(|it| it.parse::<Volume>().unwrap());
            let time: Timestamp = "2026-11-27T12:30:00Z".parse().unwrap();
            let snapshot = Snapshot {
                name: "autosnap_2026-11-27_12:30:00_hourly".parse().unwrap(),
                id: "1".parse().unwrap(),
                time,
                createtxg: 1,
                needed: None,
            };
            let snapshots: BTreeMap<_, _> =
                taken.iter().map(|it| (it.parse().unwrap(), vec![snapshot.clone()])).collect();
            let now = time.to_zoned_datetime(TimeZone::UTC);
            let found = groups(&targets(&sections, &host).targets, &snapshots, &now).unwrap();
            assert_eq!(shown(&steps(found)), wanted, "{text}");
        }
    }
}
