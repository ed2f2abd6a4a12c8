//! `vitrify sanoid`: sanoid's work by sanoid's configuration. No guests, no libvirt, no files but the
//! configuration and the locks.

mod monitor;
mod prune;
mod take;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vitrify_core::hooks::{Ended, Script, environment};
use vitrify_core::name::{PointName, Volume};
use vitrify_core::policy::Period;
use vitrify_core::ports::Answer;
use vitrify_core::problem::{Problem, ProblemKind};
use vitrify_core::sanoid::datasets::{Targets, targets};
use vitrify_core::sanoid::monitor::pool_of;
use vitrify_core::sanoid::settings::{Configuration, Section, Settings, read};
use vitrify_host::locks::Locks;
use vitrify_host::script;
use vitrify_host::zfs::sanoid::{Found, look};

use crate::args::{Global, SanoidArgs};
use crate::configuration::unreadable;
use crate::context::listen_for_signals;
use crate::exit::{DONE, FAILED, LOCKED, Status};
use crate::output;
use crate::progress::note;

/// What both kinds of work lock, each for itself: a long removal does not keep snapshots from being taken.
const TAKE: &str = "take-snapshots";
const PRUNE: &str = "prune-snapshots";

pub(crate) fn run(global: &Global, args: &SanoidArgs) -> Answer<Status> {
    if args.monitor_snapshots || args.monitor_health || args.monitor_capacity {
        return Ok(monitor::run(args));
    }
    let configuration = configuration(&args.configdir)?;
    if !global.quiet {
        configuration.warnings.iter().for_each(|it| note(&format!("warning: {it}")));
    }
    let tick = Tick::new(global, args)?;
    let sections = configuration.sections;
    let mut seen = None;
    if (args.cron || args.take_snapshots)
        && let Some(_lock) = tick.lock(TAKE)?
    {
        let now = tick.look(&sections)?;
        let changed = tick.take(&now)?;
        seen = Some(now).filter(|_| !changed);
    }
    if (args.cron || args.prune_snapshots)
        && !tick.is_over()
        && let Some(_lock) = tick.lock(PRUNE)?
    {
        let seen = seen.map_or_else(|| tick.look(&sections), Ok)?;
        tick.prune(&seen);
    }
    if tick.is_over() {
        tick.fail(&Problem::failed("a signal ended this run; the next one does what is left"));
    }
    Ok(tick.status.get())
}

fn configuration(folder: &Path) -> Answer<Configuration> {
    let file = folder.join("sanoid.conf");
    let bytes = fs::read(&file).map_err(|error| {
        unreadable(&file, error).hint("say where sanoid.conf lies with --configdir DIR")
    })?;
    // Comments may be in any encoding.
    let text = String::from_utf8_lossy(&bytes);
    Ok(read(&file.display().to_string(), &text)?)
}

/// What there is, of the sections whose pools answer.
struct Seen {
    sections: Vec<Section>,
    found: Found,
}

impl Seen {
    /// Looks at the pools of these sections, and at nothing else.
    fn of(sections: &[Section]) -> Answer<Self> {
        let pools: BTreeSet<_> =
            sections.iter().map(|it| pool_of(&it.dataset).to_owned()).collect();
        let found = match pools.is_empty() {
            true => Found::default(),
            false => look(&pools)?,
        };
        let answers =
            |it: &&Section| found.pools.iter().any(|pool| pool.name == pool_of(&it.dataset));
        let sections = sections.iter().filter(answers).cloned().collect();
        Ok(Self { sections, found })
    }

    fn targets(&self) -> Targets<'_> {
        targets(&self.sections, &self.found.datasets)
    }
}

/// One run.
struct Tick<'a> {
    args: &'a SanoidArgs,
    verbose: bool,
    quiet: bool,
    /// Whether what is wrong with the sections was said.
    told: Cell<bool>,
    status: Cell<Status>,
    cancelled: Arc<AtomicBool>,
}

impl<'a> Tick<'a> {
    /// From here on Ctrl-C and SIGTERM keep anything more from being begun.
    fn new(global: &Global, args: &'a SanoidArgs) -> Answer<Self> {
        let cancelled = Arc::new(AtomicBool::new(false));
        listen_for_signals(&cancelled)?;
        let verbose = global.verbose || args.debug;
        let (told, status) = (Cell::new(false), Cell::new(DONE));
        Ok(Self { args, verbose, quiet: global.quiet, told, status, cancelled })
    }

    fn is_over(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Locks this kind of work; `None` where somebody else does it. Who only looks locks nothing.
    fn lock(&self, work: &str) -> Answer<Option<Option<Locks>>> {
        if self.args.readonly {
            return Ok(Some(None));
        }
        match Locks::acquire(&self.args.run_dir, &[work.to_owned()]) {
            Ok(locks) => Ok(Some(Some(locks))),
            Err(problem) if problem.kind == ProblemKind::Locked => {
                output::problem(&problem);
                self.status.set(self.status.get().and(LOCKED));
                Ok(None)
            }
            Err(problem) => {
                Err(problem.hint("run it as root, or say where the locks lie with --run-dir DIR"))
            }
        }
    }

    /// Looks around and says, the first time, which sections nothing can be done for.
    fn look(&self, sections: &[Section]) -> Answer<Seen> {
        let seen = Seen::of(sections)?;
        if !self.told.replace(true) {
            seen.found.unfit.iter().for_each(|it| self.fail(&it.1));
            for section in seen.targets().unmatched {
                let Section { name, line, dataset, .. } = section;
                let place = self.args.configdir.join("sanoid.conf");
                self.failed(&format!(
                    "{}:{line}: there is no dataset '{dataset}': nothing is taken or pruned for \
                     [{name}]",
                    place.display()
                ));
            }
        }
        Ok(seen)
    }

    /// Says what went wrong. The rest goes on.
    fn fail(&self, problem: &Problem) {
        output::problem(problem);
        self.status.set(self.status.get().and(FAILED));
    }

    fn failed(&self, text: &str) {
        self.fail(&Problem::failed(text));
    }

    /// Says a decision to do something.
    fn explain(&self, text: &str) {
        if self.verbose {
            note(text);
        }
    }

    /// Says a decision to do nothing. There are as many as snapshots.
    fn explain_rest(&self, text: &str) {
        if self.args.debug {
            note(text);
        }
    }

    /// Says what was done, or would be.
    fn say(&self, text: &str) {
        if self.verbose || self.args.readonly {
            output::result(&format!("{text}\n"));
        }
    }

    /// Runs a script, if there is one, and passes on what it says.
    fn script(
        &self,
        (key, line): (&str, Option<&String>),
        script: Script,
        settings: &Settings,
        target: &Volume,
        snapshots: &[(Period, &PointName)],
    ) -> Ended {
        let Some(line) = line else { return Ended::Succeeded };
        self.explain(&format!("{target}: runs {key}: {line}"));
        let variables = environment(script, &[target], snapshots);
        let ran = script::run(line, &variables, settings.script_timeout);
        let failed = ran.ended != Ended::Succeeded;
        if failed || !self.quiet {
            ran.said.iter().for_each(|said| note(&format!("{target}: {key}: {said}")));
        }
        if failed {
            self.status.set(self.status.get().and(FAILED));
        }
        ran.ended
    }
}
