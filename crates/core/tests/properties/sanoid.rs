//! The drop-in for sanoid, from the text of its configuration to what there is after a year.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use vitrify_core::name::Volume;
use vitrify_core::policy::Period;
use vitrify_core::sanoid::datasets::targets;
use vitrify_core::sanoid::decide::{Snapshot, period_of, prune, take};
use vitrify_core::sanoid::settings::{Recursive, Settings, read};

use crate::policies::{at, hours, vienna};

/// The one that administrators show each other.
const WELL_KNOWN: &str = "\
[rpool/VM]
use_template = production,scripts
recursive = yes
process_children_only = yes

[template_production]
hourly = 36
daily = 30
monthly = 3
yearly = 0
autosnap = yes
autoprune = yes

[template_scripts]
pre_snapshot_script = /opt/scripts/pre.sh
post_snapshot_script = /opt/scripts/post.sh
";

#[test]
fn the_well_known_configuration() {
    let read = read("/etc/sanoid/sanoid.conf", WELL_KNOWN).unwrap();
    assert_eq!(read.warnings, []);
    let keep = [
        (Period::Frequently, 0),
        (Period::Hourly, 36),
        (Period::Daily, 30),
        (Period::Weekly, 0),
        (Period::Monthly, 3),
        (Period::Yearly, 0),
    ];
    let mut wanted = Settings {
        recursive: Recursive::Yes,
        process_children_only: true,
        pre_snapshot_script: Some("/opt/scripts/pre.sh".to_owned()),
        post_snapshot_script: Some("/opt/scripts/post.sh".to_owned()),
        ..Settings::default()
    };
    wanted.policy.keep = keep.into();
    assert_eq!(read.sections[0].settings, wanted);
    let host: Vec<Volume> =
        ["rpool", "rpool/VM", "rpool/VM/web", "rpool/VM/web/data", "rpool/ROOT"]
            .iter()
            .map(|it| it.parse().unwrap())
            .collect();
    let found = targets(&read.sections, &host);
    assert_eq!(found.unmatched, Vec::<&_>::new());
    let found: Vec<_> = found.targets.iter().map(|it| (it.dataset.as_str(), it.top)).collect();
    assert_eq!(found, [("rpool/VM/web", None), ("rpool/VM/web/data", None)]);
}

/// One of its datasets, run by run.
struct Dataset {
    settings: Settings,
    snapshots: Vec<Snapshot>,
    runs: u64,
}

impl Dataset {
    fn of(changes: &str) -> Self {
        let read = read("f", &format!("{WELL_KNOWN}[tank]\nuse_template=production\n{changes}"));
        let settings = read.unwrap().sections.remove(1).settings;
        Self { settings, snapshots: Vec::new(), runs: 0 }
    }

    fn run(&mut self, now: Timestamp) {
        // What is due depends on the newest of each period: the last month has one.
        let recent = &self.snapshots[self.snapshots.len().saturating_sub(800)..];
        let due = take(&self.settings, recent, &now.to_zoned_datetime(vienna())).unwrap();
        self.runs += 1;
        let createtxg = self.runs;
        self.snapshots.extend(due.into_iter().map(|it| Snapshot {
            name: it.name,
            id: "1".parse().unwrap(),
            time: now,
            createtxg,
            needed: None,
        }));
        if let Ok(judged) = prune(&self.settings, &self.snapshots, None, now) {
            let kept = judged.into_iter().filter(|it| it.1.is_ok());
            self.snapshots = kept.map(|it| it.0.clone()).collect();
        }
    }

    fn counts(&self) -> BTreeMap<Period, usize> {
        let mut counts = BTreeMap::new();
        for period in self.snapshots.iter().filter_map(|it| period_of(&it.name)) {
            *counts.entry(period).or_default() += 1;
        }
        counts
    }
}

const YEAR: [&str; 2] = ["2025-01-01T00:00:00+01:00", "2026-01-01T00:00:00+01:00"];

#[test]
fn a_year_of_hours_without_pruning() {
    let mut dataset = Dataset::of("autoprune = no");
    for now in hours(YEAR[0], YEAR[1]) {
        dataset.run(now);
    }
    let wanted = [(Period::Hourly, 8760), (Period::Daily, 365), (Period::Monthly, 12)];
    assert_eq!(dataset.counts(), BTreeMap::from(wanted));
    let mut names: Vec<_> = dataset.snapshots.iter().map(|it| &it.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), dataset.snapshots.len(), "a name came twice");
}

#[test]
fn a_year_of_hours_with_pruning() {
    let mut dataset = Dataset::of("");
    for now in hours(YEAR[0], YEAR[1]) {
        dataset.run(now);
        for (period, count) in dataset.counts() {
            // One more, which is not yet older than so many periods, and another where they are shorter.
            let most = dataset.settings.policy.keep[&period] as usize + 2;
            assert!(count <= most, "{count} {period} at {now}");
        }
    }
    for period in [Period::Hourly, Period::Daily, Period::Monthly] {
        let least = dataset.settings.policy.keep[&period] as usize;
        assert!(dataset.counts()[&period] >= least, "{:?}", dataset.counts());
    }
}

#[test]
fn the_night_when_an_hour_comes_twice() {
    let mut dataset = Dataset::of("autoprune = no\ndaily = 0\nmonthly = 0");
    let (mut now, end) = (at("2026-10-24T23:00:00+02:00"), at("2026-10-26T01:00:00+01:00"));
    while now < end {
        dataset.run(now);
        now += SignedDuration::from_mins(15);
    }
    let names: Vec<_> = dataset.snapshots.iter().map(|it| it.name.as_str()).collect();
    let hour = |day: u8, hour: u8, dst: &str| {
        format!("autosnap_2026-10-{day}_{hour:02}:00:00{dst}_hourly")
    };
    let mut wanted = vec![hour(24, 23, "")];
    wanted.extend((0..=2).map(|it| hour(25, it, "")));
    wanted.push(hour(25, 2, "dst"));
    wanted.extend((3..=23).map(|it| hour(25, it, "")));
    wanted.push(hour(26, 0, ""));
    assert_eq!(names, wanted);
}
