//! Takes what is due.

use jiff::tz::TimeZone;
use vitrify_core::hooks::{Ended, Script};
use vitrify_core::ports::{Answer, Clock as _};
use vitrify_core::problem::Problem;
use vitrify_core::sanoid::plan::{Group, Step, groups, steps};
use vitrify_host::clock::SystemClock;
use vitrify_host::zfs::sanoid::take;

use super::{Seen, Tick};

const PRE: &str = "pre_snapshot_script";
const POST: &str = "post_snapshot_script";

impl Tick<'_> {
    /// Takes what is due; whether anything was tried.
    pub(super) fn take(&self, seen: &Seen) -> Answer<bool> {
        let now = SystemClock.now().to_zoned_datetime(TimeZone::system());
        let targets = seen.targets().targets;
        let groups = groups(&targets, &seen.found.snapshots, &now)
            .map_err(|error| Problem::failed("cannot name a snapshot").from(error))?;
        groups.iter().for_each(|it| self.tell(it));
        if self.args.readonly {
            return Ok(false);
        }
        let mut tried = false;
        for step in steps(groups) {
            if self.is_over() {
                break;
            }
            self.perform(&step);
            tried = true;
        }
        Ok(tried)
    }

    /// Says what is due of a group, and why.
    fn tell(&self, group: &Group<'_>) {
        let Some(top) = group.top() else { return };
        let why_not = match group.settings.autosnap {
            true => "nothing is due",
            false => "autosnap is off",
        };
        if group.takes.is_empty() {
            return self.explain_rest(&format!("{top}: {why_not}"));
        }
        let below = match group.datasets.len() {
            0 | 1 => String::new(),
            count => format!(" and of {} below it", count - 1),
        };
        let script = |line: &Option<String>| {
            if let (true, Some(line)) = (self.args.readonly, line) {
                self.say(&format!("would run {line} for {top}"));
            }
        };
        script(&group.settings.pre_snapshot_script);
        for it in &group.takes {
            match self.args.readonly {
                true => self.say(&format!("would take {top}@{}{below}: {}", it.name, it.due)),
                false => self.explain(&format!("takes {top}@{}{below}: {}", it.name, it.due)),
            }
        }
        script(&group.settings.post_snapshot_script);
    }

    fn perform(&self, step: &Step<'_>) {
        let scripted = step.groups.first().filter(|_| step.has_scripts);
        let Some((group, top)) = scripted.and_then(|it| Some((it, it.top()?))) else {
            self.take_all(step);
            return;
        };
        let (settings, names) = (group.settings, group.names());
        let run = |key, line, script| self.script((key, line), script, settings, top, &names);
        let pre = run(PRE, settings.pre_snapshot_script.as_ref(), Script::PreSnapshot);
        let taken = if settings.is_taken_after(pre) {
            self.take_all(step)
        } else {
            self.failed(&format!("{top}: no snapshot was taken, because {PRE} did not succeed"));
            false
        };
        if settings.is_post_run_after(pre) {
            let script = Script::PostSnapshot { pre, taken };
            let _: Ended = run(POST, settings.post_snapshot_script.as_ref(), script);
        }
    }

    /// Takes the snapshots of a step; whether there are all of them.
    fn take_all(&self, step: &Step<'_>) -> bool {
        let mut all = true;
        for command in step.commands() {
            for (wanted, result) in command.iter().zip(take(&command)) {
                match result {
                    Ok(()) => wanted
                        .datasets
                        .iter()
                        .for_each(|it| self.say(&format!("took {it}@{}", wanted.name))),
                    Err(problem) => {
                        self.fail(&problem);
                        all = false;
                    }
                }
            }
        }
        all
    }
}
