//! What the scripts of a `sanoid.conf` are told, and what follows from how they ended.

use super::settings::Settings;
use crate::name::{PointName, Volume};
use crate::policy::Period;

/// A script, at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// `pre_snapshot_script`.
    PreSnapshot,
    /// `post_snapshot_script`.
    PostSnapshot {
        /// How the pre script ended.
        pre: Ended,
        /// Whether the snapshots were taken.
        taken: bool,
    },
    /// `pre_pruning_script`.
    PrePruning,
    /// `pruning_script`.
    Pruning,
}

/// How a script ended. Where there is none, it succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With status 0.
    Succeeded,
    /// With another, or it could not be started.
    Failed,
    /// It was killed after `script_timeout`.
    TimedOut,
}

/// The variables that a script gets: the first of the datasets and of the snapshots by itself, and all
/// of them with commas between. `SANOID_PRE_FAILURE` and `VITRIFY_SNAPSHOT_TAKEN`, which sanoid has
/// not, are 0 or 1.
pub fn environment(
    script: Script,
    targets: &[&Volume],
    snapshots: &[(Period, &PointName)],
) -> Vec<(&'static str, String)> {
    let targets: Vec<_> = targets.iter().map(|it| it.as_str()).collect();
    let names: Vec<_> = snapshots.iter().map(|it| it.1.as_str()).collect();
    let types: Vec<_> = snapshots.iter().map(|it| it.0.as_str()).collect();
    let first = |all: &[&str]| all.first().copied().unwrap_or_default().to_owned();
    let name = match script {
        Script::PreSnapshot => "pre",
        Script::PostSnapshot { .. } => "post",
        Script::PrePruning | Script::Pruning => "prune",
    };
    let mut variables = vec![
        ("SANOID_SCRIPT", name.to_owned()),
        ("SANOID_TARGET", first(&targets)),
        ("SANOID_TARGETS", targets.join(",")),
        ("SANOID_SNAPNAME", first(&names)),
        ("SANOID_SNAPNAMES", names.join(",")),
        ("SANOID_TYPES", types.join(",")),
    ];
    if let Script::PostSnapshot { pre, taken } = script {
        let bit = |it| u8::from(it).to_string();
        variables.push(("SANOID_PRE_FAILURE", bit(pre != Ended::Succeeded)));
        variables.push(("VITRIFY_SNAPSHOT_TAKEN", bit(taken)));
    }
    variables
}

/// Whether the snapshot is taken after a pre script that ended so.
pub fn is_taken_after(settings: &Settings, pre: Ended) -> bool {
    pre == Ended::Succeeded || !settings.no_inconsistent_snapshot
}

/// Whether the post script runs after a pre script that ended so. After one that was killed in the
/// middle of its work it does in any case.
pub fn is_post_run_after(settings: &Settings, pre: Ended) -> bool {
    is_taken_after(settings, pre) || settings.force_post_snapshot_script || pre == Ended::TimedOut
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns: the script, what it is told.
    #[test]
    fn what_scripts_are_told() {
        let post = |pre, taken| Script::PostSnapshot { pre, taken };
        let same = "SANOID_TARGET=t/vm SANOID_TARGETS=t/vm,t/vm/a \
                    SANOID_SNAPNAME=autosnap_2026-11-23_12:00:00_hourly \
                    SANOID_SNAPNAMES=autosnap_2026-11-23_12:00:00_hourly,\
                    autosnap_2026-11-23_12:00:00_daily SANOID_TYPES=hourly,daily";
        for (script, name, more) in [
            (Script::PreSnapshot, "pre", ""),
            (
                post(Ended::Succeeded, true),
                "post",
                " SANOID_PRE_FAILURE=0 VITRIFY_SNAPSHOT_TAKEN=1",
            ),
            (post(Ended::Failed, false), "post", " SANOID_PRE_FAILURE=1 VITRIFY_SNAPSHOT_TAKEN=0"),
            (post(Ended::TimedOut, true), "post", " SANOID_PRE_FAILURE=1 VITRIFY_SNAPSHOT_TAKEN=1"),
            (Script::PrePruning, "prune", ""),
            (Script::Pruning, "prune", ""),
        ] {
            let targets = ["t/vm", "t/vm/a"].map(|it| it.parse().unwrap());
            let names = ["hourly", "daily"]
                .map(|it| format!("autosnap_2026-11-23_12:00:00_{it}").parse().unwrap());
            let snapshots = [(Period::Hourly, &names[0]), (Period::Daily, &names[1])];
            let found = environment(script, &targets.each_ref(), &snapshots);
            let found: Vec<_> = found.iter().map(|(key, value)| format!("{key}={value}")).collect();
            assert_eq!(found.join(" "), format!("SANOID_SCRIPT={name} {same}{more}"));
        }
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
            let found = (is_taken_after(&settings, pre), is_post_run_after(&settings, pre));
            assert_eq!(found, (taken, post), "{pre:?} {only_consistent} {force}");
        }
    }
}
