//! Runs the hooks of the configuration around captures, snapshots of volumes and removals. No guest stands
//! still meanwhile.

use vitrify_core::capture::{Naming, names};
use vitrify_core::config::CommandLine;
use vitrify_core::hooks::{Captured, Ended, Hook, Work};
use vitrify_core::inventory::{Guest, Snapshot};
use vitrify_core::name::{GuestName, PointName, Volume};
use vitrify_core::ports::Answer;
use vitrify_core::problem::Problem;
use vitrify_host::script;

use crate::command::capture::{Results, Wanted, naming, take_locked};
use crate::command::removal::Removed;
use crate::context::{Context, Host};
use crate::progress::note;

/// Captures guests that share these volumes, which the caller has locked, between the hooks for that.
/// Gives the problems of the hooks as well.
///
/// A pre hook that fails prevents nothing. The post hook runs when every guest is released and
/// everything is in its place, also where we were told to give up.
pub(crate) fn capture(
    context: &Context,
    host: &Host<'_>,
    guests: &[Guest],
    volumes: &[Volume],
    wanted: &Wanted,
) -> (Answer<Results>, Vec<Problem>) {
    let has = |hook| context.config.hooks.contains_key(&hook);
    let hooked = has(Hook::PreSnapshot) || has(Hook::PostSnapshot);
    if !hooked || context.is_cancelled() {
        return (take_locked(context, host, guests, wanted), Vec::new());
    }
    // The time in the name is that of which the pre hook was told.
    let wanted = Wanted { named_at: Some(jiff::Timestamp::now()), ..wanted.clone() };
    let mut work = Work {
        guests: guests.iter().map(|it| it.name.clone()).collect(),
        volumes: volumes.to_vec(),
        names: names_to_be(host, volumes, &wanted),
    };
    let mut failures = Vec::new();
    let pre = run(context, Hook::PreSnapshot, &work, &work.before_capture(), &mut failures);
    let results = take_locked(context, host, guests, &wanted);
    if let Some(names) = results.as_ref().ok().and_then(names_of) {
        work.names = names;
    }
    let points: Vec<_> = work.guests.iter().map(|it| captured(it, &results)).collect();
    let variables = work.after_capture(pre, &points);
    run(context, Hook::PostSnapshot, &work, &variables, &mut failures);
    (results, failures)
}

/// Takes snapshots of volumes without guests between the hooks for that. Adds what went wrong with the
/// hooks.
pub(crate) fn snapshot(
    context: &Context,
    work: &Work,
    problems: &mut Vec<Problem>,
    take: impl FnOnce() -> Answer<Vec<Snapshot>>,
) -> Answer<Vec<Snapshot>> {
    let pre = run(context, Hook::PreSnapshot, work, &work.before_capture(), problems);
    let taken = take();
    let error = taken.as_ref().err().map(Problem::chain);
    run(context, Hook::PostSnapshot, work, &work.after_snapshot(pre, error), problems);
    taken
}

/// Removes points of a guest, or snapshots of a volume, between the hooks for that; nothing (`None`) where the first one fails.
/// Adds what went wrong with the hooks.
pub(crate) fn removal(
    context: &Context,
    work: &Work,
    problems: &mut Vec<Problem>,
    remove: impl FnOnce() -> Answer<Removed>,
) -> Answer<Option<Removed>> {
    let pre = run(context, Hook::PrePrune, work, &work.before_removal(), problems);
    if pre != Ended::Succeeded {
        return Ok(None);
    }
    let removed = remove();
    let error = match &removed {
        Ok(removed) => removed.failures.first().map(|it| it.message.clone()),
        Err(problem) => Some(problem.chain()),
    };
    run(context, Hook::PostPrune, work, &work.after_removal(error), problems);
    removed.map(Some)
}

/// Runs one hook, if there is one.
fn run(
    context: &Context,
    hook: Hook,
    work: &Work,
    variables: &[(&'static str, String)],
    failures: &mut Vec<Problem>,
) -> Ended {
    let Some(command) = context.config.hooks.get(&hook) else { return Ended::Succeeded };
    let (ended, fate) = perform(context, command, &format!("hook {hook}"), variables);
    if let Some(fate) = fate {
        let guests = work.guests.iter().map(GuestName::as_str);
        let volumes = work.volumes.iter().filter(|_| work.guests.is_empty()).map(Volume::as_str);
        let whose: Vec<_> = guests.chain(volumes).collect();
        let skipped = match hook {
            Hook::PrePrune => "; nothing is pruned",
            _ => "",
        };
        let message = format!("{}: hook {hook}: {fate}{skipped}", whose.join(", "));
        failures.push(Problem::failed(message).hint(format!("it stands at {}", command.place)));
    }
    ended
}

/// Runs a command line of the configuration, within the limit. What it says goes to stderr, a line
/// each behind this prefix, but not where nothing is wanted there. How it ended, and where it did not
/// succeed, what became of it.
pub(crate) fn perform(
    context: &Context,
    command: &CommandLine,
    prefix: &str,
    variables: &[(&'static str, String)],
) -> (Ended, Option<String>) {
    let mut ran = script::run(&command.line, variables, Some(context.config.script_limit));
    let fate = (ran.ended != Ended::Succeeded).then(|| ran.said.pop().unwrap_or_default());
    if fate.is_some() || !context.is_quiet() {
        ran.said.iter().for_each(|line| note(&format!("{prefix}: {line}")));
    }
    (ran.ended, fate)
}

/// What the points will be called. Why they cannot be called so, the capture itself says.
fn names_to_be(host: &Host<'_>, volumes: &[Volume], wanted: &Wanted) -> Vec<PointName> {
    let naming = naming(wanted);
    let found = host.world().storage.snapshots(volumes).unwrap_or_default();
    match names(&naming, &found.iter().map(|it| &it.snapshot).collect::<Vec<_>>()) {
        Ok((name, further)) => std::iter::once(name).chain(further).collect(),
        Err(_) => match naming {
            Naming::Given(name) => vec![name],
            Naming::At(..) => Vec::new(),
        },
    }
}

/// What they are called.
fn names_of(results: &Results) -> Option<Vec<PointName>> {
    let taken = results.iter().find_map(|it| it.1.as_ref().ok())?;
    Some(taken.manifest.names.clone())
}

/// What became of a guest, as the post hook is told.
fn captured(guest: &GuestName, results: &Answer<Results>) -> Captured {
    let results = results.as_ref().map_err(Problem::chain)?;
    match results.iter().find(|it| it.0 == *guest) {
        Some((_, Ok(taken))) => Ok((taken.manifest.consistency, taken.manifest.engine)),
        Some((_, Err(problem))) => Err(problem.chain()),
        None => Err("it was given up".to_owned()),
    }
}
