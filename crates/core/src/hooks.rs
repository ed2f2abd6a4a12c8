//! The scripts of an administrator that run around snapshots and removals: what they are told, and how
//! they end.

use crate::name::{PointName, Volume};
use crate::policy::Period;

/// A script, at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// Before a snapshot.
    PreSnapshot,
    /// After it.
    PostSnapshot {
        /// How the script before it ended.
        pre: Ended,
        /// Whether the snapshots were taken.
        taken: bool,
    },
    /// Before a snapshot is destroyed.
    PrePruning,
    /// After it was.
    Pruning,
}

/// How a script ended. Where there is none, it succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With status 0.
    Succeeded,
    /// With another, or it could not be started.
    Failed,
    /// It was killed at its limit.
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
}
