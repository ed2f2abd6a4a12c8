//! The scripts of an administrator that run around snapshots and removals: what they are told, and how
//! they end. Those of a `sanoid.conf` are told what sanoid tells them, those of our own configuration
//! the same and more.

use std::fmt;

use crate::capture::{Consistency, Engine};
use crate::name::{GuestName, PointName, Volume};
use crate::point::Purpose;
use crate::policy::Period;
use crate::sanoid::decide::period_of;

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
    let snapshots: Vec<_> = snapshots.iter().map(|it| (it.0.as_str(), it.1)).collect();
    variables(script, targets, &snapshots)
}

fn variables(
    script: Script,
    targets: &[&Volume],
    snapshots: &[(&str, &PointName)],
) -> Vec<(&'static str, String)> {
    let targets: Vec<_> = targets.iter().map(|it| it.as_str()).collect();
    let names: Vec<_> = snapshots.iter().map(|it| it.1.as_str()).collect();
    let types: Vec<_> = snapshots.iter().map(|it| it.0).collect();
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

/// A script of our own configuration, at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Before guests are captured together, or volumes without guests snapshotted.
    PreSnapshot,
    /// When that is over, however it ended.
    PostSnapshot,
    /// Before a guest's points, or their memory images, or a volume's snapshots are removed.
    PrePrune,
    /// When that is over, however it ended.
    PostPrune,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::PreSnapshot, Self::PostSnapshot, Self::PrePrune, Self::PostPrune];

    /// The key in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PreSnapshot => "pre-snapshot",
            Self::PostSnapshot => "post-snapshot",
            Self::PrePrune => "pre-prune",
            Self::PostPrune => "post-prune",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a capture or a removal is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Work {
    /// Whose points.
    pub guests: Vec<GuestName>,
    /// Their volumes.
    pub volumes: Vec<Volume>,
    /// The names of the points that are taken, or that go.
    pub names: Vec<PointName>,
}

/// A guest's point as it was taken, or why there is none.
pub type Captured = Result<(Consistency, Engine), String>;

impl Work {
    /// What [`Hook::PreSnapshot`] is told.
    pub fn before_capture(&self) -> Vec<(&'static str, String)> {
        self.variables(Hook::PreSnapshot, Script::PreSnapshot)
    }

    /// What [`Hook::PostSnapshot`] is told: what became of each guest, in their order. The
    /// consistencies and engines have commas between, and nothing for a guest without a point.
    pub fn after_capture(&self, pre: Ended, points: &[Captured]) -> Vec<(&'static str, String)> {
        let list = |word: fn(&(Consistency, Engine)) -> String| {
            let words = points.iter().map(|it| it.as_ref().map_or(String::new(), word));
            words.collect::<Vec<_>>().join(",")
        };
        let error = points.iter().find_map(|it| it.as_ref().err());
        let script = Script::PostSnapshot { pre, taken: points.iter().any(Result::is_ok) };
        let mut variables = self.variables(Hook::PostSnapshot, script);
        variables.extend([
            ("VITRIFY_RESULT", if error.is_none() { "taken" } else { "failed" }.to_owned()),
            ("VITRIFY_CONSISTENCY", list(|it| it.0.to_string())),
            ("VITRIFY_ENGINE", list(|it| it.1.to_string())),
            ("VITRIFY_ERROR", error.cloned().unwrap_or_default()),
        ]);
        variables
    }

    /// The same of volumes without guests.
    pub fn after_snapshot(&self, pre: Ended, error: Option<String>) -> Vec<(&'static str, String)> {
        let script = Script::PostSnapshot { pre, taken: error.is_none() };
        let mut variables = self.variables(Hook::PostSnapshot, script);
        variables.extend([
            ("VITRIFY_RESULT", if error.is_none() { "taken" } else { "failed" }.to_owned()),
            ("VITRIFY_CONSISTENCY", String::new()),
            ("VITRIFY_ENGINE", String::new()),
            ("VITRIFY_ERROR", error.unwrap_or_default()),
        ]);
        variables
    }

    /// What [`Hook::PrePrune`] is told.
    pub fn before_removal(&self) -> Vec<(&'static str, String)> {
        self.variables(Hook::PrePrune, Script::PrePruning)
    }

    /// What [`Hook::PostPrune`] is told.
    pub fn after_removal(&self, error: Option<String>) -> Vec<(&'static str, String)> {
        let mut variables = self.variables(Hook::PostPrune, Script::Pruning);
        variables.extend([
            ("VITRIFY_RESULT", if error.is_none() { "pruned" } else { "failed" }.to_owned()),
            ("VITRIFY_ERROR", error.unwrap_or_default()),
        ]);
        variables
    }

    fn variables(&self, hook: Hook, script: Script) -> Vec<(&'static str, String)> {
        // A name that somebody gave is one by hand.
        let sanoids = |name| period_of(name).map(Purpose::Scheduled);
        let purpose =
            |name| Purpose::of(name).or_else(|| sanoids(name)).unwrap_or(Purpose::Manual).as_str();
        let names: Vec<_> = self.names.iter().map(|it| (purpose(it), it)).collect();
        let guests: Vec<_> = self.guests.iter().map(GuestName::as_str).collect();
        let mut variables = variables(script, &self.volumes.iter().collect::<Vec<_>>(), &names);
        variables
            .extend([("VITRIFY_HOOK", hook.to_string()), ("VITRIFY_GUESTS", guests.join(","))]);
        variables
    }
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
    /// All of them, a line each, but those that sanoid has.
    fn ours(variables: &[(&str, String)]) -> String {
        let ours = variables.iter().filter(|it| it.0.starts_with("VITRIFY_"));
        let lines = ours.map(|(key, value)| format!("{}={value}", &key["VITRIFY_".len()..]));
        lines.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_hooks_are_told() {
        let parsed = |text: &str| text.parse().unwrap();
        let work = Work {
            guests: ["web", "db"].map(|it| it.parse().unwrap()).to_vec(),
            volumes: ["t/vm", "t/db"].map(|it| it.parse().unwrap()).to_vec(),
            names: vec![parsed("vitrify_2026-11-23_12:00:00_daily"), parsed("by-hand")],
        };
        let before = work.before_capture();
        assert_eq!(ours(&before), "HOOK=pre-snapshot GUESTS=web,db");
        let found = |key: &str| before.iter().find(|it| it.0 == key).unwrap().1.as_str();
        assert_eq!(found("SANOID_TARGETS"), "t/vm,t/db");
        assert_eq!(found("SANOID_SNAPNAME"), "vitrify_2026-11-23_12:00:00_daily");
        assert_eq!(found("SANOID_TYPES"), "daily,manual");

        let memory = || Ok((Consistency::Memory, Engine::Instant));
        let crash = || Ok((Consistency::Crash, Engine::Plain));
        let none = |why: &str| Err(why.to_owned());
        // Columns: how the pre hook ended, what became of the guests, what the post hook is told.
        for (pre, points, wanted) in [
            (
                Ended::Succeeded,
                [memory(), crash()],
                "RESULT=taken CONSISTENCY=memory,crash ENGINE=instant,plain ERROR=",
            ),
            (
                Ended::TimedOut,
                [none("no room"), memory()],
                "RESULT=failed CONSISTENCY=,memory ENGINE=,instant ERROR=no room",
            ),
            (
                Ended::Failed,
                [none("it is locked"), none("no room")],
                "RESULT=failed CONSISTENCY=, ENGINE=, ERROR=it is locked",
            ),
        ] {
            let taken = u8::from(points.iter().any(Result::is_ok));
            let after = work.after_capture(pre, &points);
            let head = format!("SNAPSHOT_TAKEN={taken} HOOK=post-snapshot GUESTS=web,db");
            assert_eq!(ours(&after), format!("{head} {wanted}"));
            let failure = after.iter().find(|it| it.0 == "SANOID_PRE_FAILURE").unwrap();
            assert_eq!(failure.1, u8::from(pre != Ended::Succeeded).to_string());
        }
        assert_eq!(ours(&work.before_removal()), "HOOK=pre-prune GUESTS=web,db");
        for (error, wanted) in
            [(None, "RESULT=pruned ERROR="), (Some("no"), "RESULT=failed ERROR=no")]
        {
            let found = work.after_removal(error.map(str::to_owned));
            assert_eq!(ours(&found), format!("HOOK=post-prune GUESTS=web,db {wanted}"));
        }
    }
}
