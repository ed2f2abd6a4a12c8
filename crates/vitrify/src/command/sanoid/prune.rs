//! Destroys what has served.

use jiff::Timestamp;
use vitrify_core::hooks::{Ended, Script};
use vitrify_core::inventory::Need;
use vitrify_core::name::Volume;
use vitrify_core::policy::retention::Kept;
use vitrify_core::ports::Clock as _;
use vitrify_core::problem::ProblemKind;
use vitrify_core::sanoid::datasets::Target;
use vitrify_core::sanoid::decide::{Snapshot, period_of, prune};
use vitrify_core::sanoid::monitor::pool_of;
use vitrify_core::sanoid::settings::Settings;
use vitrify_host::clock::SystemClock;
use vitrify_host::zfs::sanoid::{destroy, in_transfer};

use super::{Seen, Tick};
use crate::progress::note;

const PRE: &str = "pre_pruning_script";
const POST: &str = "pruning_script";

/// A snapshot that has served.
#[derive(Clone, Copy)]
struct Doomed<'a> {
    dataset: &'a Volume,
    settings: &'a Settings,
    snapshot: &'a Snapshot,
}

impl Doomed<'_> {
    fn has_scripts(&self) -> bool {
        self.settings.pre_pruning_script.is_some() || self.settings.pruning_script.is_some()
    }

    fn name(&self) -> String {
        format!("{}@{}", self.dataset, self.snapshot.name)
    }
}

impl Tick<'_> {
    pub(super) fn prune(&self, seen: &Seen) {
        let (now, targets) = (SystemClock.now(), seen.targets().targets);
        // A 'zfs receive' needs what both sides have, and a 'zfs send' goes on from one to another.
        let busy = match self.args.force_prune {
            true => Vec::new(),
            false => in_transfer(&targets.iter().map(|it| it.dataset).collect::<Vec<_>>()),
        };
        let judge = |it| self.judge(seen, it, busy.contains(&it.dataset), now);
        let (scripted, plain): (Vec<_>, Vec<_>) =
            targets.iter().flat_map(judge).partition(Doomed::has_scripts);
        if self.args.readonly {
            return;
        }
        self.destroy(&plain);
        for it in scripted {
            if self.is_over() {
                break;
            }
            self.destroy_between_scripts(it);
        }
    }

    /// What has served and goes of a dataset, nothing where it is busy. Says what becomes of each of
    /// its snapshots, and why.
    fn judge<'s>(
        &self,
        seen: &'s Seen,
        target: &Target<'s>,
        is_busy: bool,
        now: Timestamp,
    ) -> Vec<Doomed<'s>> {
        let (dataset, settings) = (target.dataset, &target.section.settings);
        let its = seen.found.snapshots.get(dataset).map(Vec::as_slice).unwrap_or_default();
        let pool = seen.found.pools.iter().find(|it| it.name == pool_of(dataset));
        let verdicts = match prune(settings, its, pool.and_then(|it| it.used), now) {
            Ok(verdicts) => verdicts,
            Err(why) => {
                self.explain_rest(&format!("{dataset}: nothing is pruned: {why}"));
                return Vec::new();
            }
        };
        let mut doomed = Vec::new();
        for (snapshot, verdict) in verdicts {
            let it = Doomed { dataset, settings, snapshot };
            match verdict {
                Ok(Kept::Needed(need)) => self.tell_needed(&it, &need),
                Ok(kept) => self.explain_rest(&format!("{} stays: {kept}", it.name())),
                Err(_) if is_busy => {
                    let why = "a 'zfs send' or 'zfs receive' runs there";
                    let text = format!("{} has served and stays: {why}", it.name());
                    match self.args.readonly {
                        true => self.say(&text),
                        false => self.explain(&text),
                    }
                }
                Err(served) => {
                    match self.args.readonly {
                        true => self.say(&format!("would destroy {}: {served}", it.name())),
                        false => self.explain(&format!("{} goes: {served}", it.name())),
                    }
                    doomed.push(it);
                }
            }
        }
        doomed
    }

    /// What is held or cloned is kept on purpose: that is no failure.
    fn tell_needed(&self, it: &Doomed<'_>, need: &Need) {
        let name = it.name();
        let hint = match need {
            Need::Held(_) => format!("; 'zfs holds {name}' shows who wants to keep it"),
            _ => String::new(),
        };
        if !self.quiet {
            note(&format!("{name} has served and stays: {need}{hint}"));
        }
    }

    fn destroy(&self, doomed: &[Doomed<'_>]) {
        let snapshots: Vec<_> = doomed.iter().map(|it| (it.dataset, it.snapshot)).collect();
        match destroy(&snapshots, &|| self.is_over()) {
            Ok(results) => {
                for (it, result) in doomed.iter().zip(results) {
                    match result {
                        Ok(()) => self.say(&format!("destroyed {}", it.name())),
                        // The end of the run is said once.
                        Err(problem) if problem.kind == ProblemKind::Dying => {}
                        Err(problem) => self.fail(&problem),
                    }
                }
            }
            Err(problem) => self.fail(&problem),
        }
    }

    fn destroy_between_scripts(&self, it: Doomed<'_>) {
        let Doomed { dataset, settings, snapshot } = it;
        let period = period_of(&snapshot.name).map(|period| (period, &snapshot.name));
        let names: Vec<_> = period.into_iter().collect();
        let run = |key, line, script| self.script((key, line), script, settings, dataset, &names);
        let pre = run(PRE, settings.pre_pruning_script.as_ref(), Script::PrePruning);
        if pre != Ended::Succeeded {
            let name = it.name();
            return self
                .failed(&format!("{name} was not destroyed, because {PRE} did not succeed"));
        }
        match destroy(&[(dataset, snapshot)], &|| false).and_then(|it| it.into_iter().collect()) {
            Ok(()) => {
                self.say(&format!("destroyed {}", it.name()));
                run(POST, settings.pruning_script.as_ref(), Script::Pruning);
            }
            Err(problem) => self.fail(&problem),
        }
    }
}
