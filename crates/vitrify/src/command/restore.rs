//! `vitrify restore`.

use serde_json::json;
use similar::TextDiff;
use vitrify_core::engine::{Observer, plan_restore, run as run_operation};
use vitrify_core::inventory::Guest;
use vitrify_core::manifest::Manifest;
use vitrify_core::name::Bytes;
use vitrify_core::operation::{Outcome, Plan};
use vitrify_core::point::Purpose;
use vitrify_core::ports::{Answer, FoundPoint, Homes};
use vitrify_core::problem::{Problem, ProblemKind, ProblemNote};
use vitrify_core::restore::{Request, RestorePlan, StartMode};

use crate::args::RestoreArgs;
use crate::command::capture::{Wanted, take_locked, unsettled};
use crate::command::confirm::confirm;
use crate::context::{Context, Host, new_id};
use crate::exit::{DONE, Status};
use crate::output;
use crate::progress::note;

pub(crate) fn run(context: &Context, args: &RestoreArgs) -> Answer<Status> {
    let point = context.point(&args.point)?;
    let manifest = match &point.manifest {
        Ok(manifest) => manifest,
        Err(problem) => return Err(problem.note().into()),
    };
    let host = context.host()?;
    let request = Request {
        id: new_id()?,
        cold: args.cold,
        paused: args.paused,
        force: args.force,
        keep_definition: args.keep_definition,
    };
    let plan = || plan_restore(&host.world(), &request, &context.overlay_folder, &point);
    let volumes: Vec<_> = manifest.volumes.iter().map(|it| it.volume.clone()).collect();
    // Before the first look: while another vitrify works on the guest, it is not what it seems.
    let _locks = context.lock(&[&manifest.guest_uuid], &volumes)?;
    host.check_settled(&manifest.guest, &manifest.guest_uuid)?;
    // What is refused is refused before anything is asked or read.
    plan()?;
    if args.no_safety_point {
        let loss = format!("what guest '{}' is now will be lost", manifest.guest);
        confirm(context, &manifest.guest, &loss)?;
    }
    let safety = match args.no_safety_point {
        true => None,
        false => {
            // The restore itself compares every byte, too, but a point that is refused then would
            // leave a safety point behind.
            if !args.cold {
                check_memory(context, &point, manifest)?;
            }
            safety_point(context, &host, manifest)?
        }
    };
    let plan = plan()?;
    if let Some(change) = &plan.definition {
        tell_changes(context, change.old.as_deref().unwrap_or(""), &change.new);
    }
    let progress =
        context.progress(manifest.guest.as_str()).about(Some(&manifest.guest), manifest.name());
    let start = plan.start.clone();
    let result = run_operation(&host.world(), Plan::Restore(plan.clone()), &progress);
    drop(progress);
    finish(context, &plan, &start, manifest, safety.as_ref(), result?)
}

fn finish(
    context: &Context,
    plan: &RestorePlan,
    start: &StartMode,
    manifest: &Manifest,
    safety: Option<&Manifest>,
    outcome: Outcome,
) -> Answer<Status> {
    match outcome {
        Outcome::Restored => {}
        Outcome::Unsettled { failures, .. } => {
            let problems = failures.into_iter().map(|it| it.problem).collect();
            return Err(unsettled(&plan.guest, problems));
        }
        Outcome::Abandoned { failure: Some(failure) } => {
            return Err(gone_back(plan, failure.problem, safety));
        }
        Outcome::Abandoned { failure: None }
        | Outcome::Captured { .. }
        | Outcome::Removed { .. } => {
            return Err(Problem::failed("the restore ended without a result"));
        }
    }
    let name = |it: &Manifest| it.name().map_or_else(String::new, ToString::to_string);
    let state = match (start, plan.paused) {
        (StartMode::StayOff, _) => "shut off, as it was",
        (StartMode::Boot, false) => "booting from its disks",
        (StartMode::Resume { .. }, false) => "running on from its memory",
        (_, true) => "suspended",
    };
    if context.json {
        output::json(&json!({
            "version": 1,
            "guest": manifest.guest,
            "point": name(manifest),
            "id": manifest.id,
            "with_memory": matches!(start, StartMode::Resume { .. }),
            "state": state,
            "safety_point": safety.map(name),
        }));
        return Ok(DONE);
    }
    let mut text = format!("{}: restored to {}, {state}\n", manifest.guest, name(manifest));
    if let Some(safety) = safety {
        text += &format!("{}: what it was before is {0}@{}\n", manifest.guest, name(safety));
    }
    output::result(&text);
    Ok(DONE)
}

/// What to tell of a restore that put everything back.
fn gone_back(plan: &RestorePlan, problem: ProblemNote, safety: Option<&Manifest>) -> Problem {
    let hint = problem.hint.clone();
    let problem: Problem = problem.into();
    if hint.is_some() || plan.session.is_none() {
        return problem;
    }
    let name = safety.and_then(Manifest::name);
    match name {
        Some(name) => problem.hint(format!(
            "disks and definition are as before; if the guest was stopped, \
             'vitrify restore {}@{name}' brings it back as it was",
            plan.guest
        )),
        None => problem.hint("disks and definition are as before; the guest may have been stopped"),
    }
}

fn check_memory(context: &Context, point: &FoundPoint, manifest: &Manifest) -> Answer<()> {
    let Some(image) = &manifest.memory else { return Ok(()) };
    let progress =
        context.progress(manifest.guest.as_str()).about(Some(&manifest.guest), manifest.name());
    progress.say("check the memory image");
    context.homes.check_memory(point, &|Bytes(read)| {
        progress.show(&format!("check the memory image ({} of {})", Bytes(read), image.bytes));
    })?;
    match progress.cancelled() {
        true => Err(Problem::failed("cancelled")),
        false => Ok(()),
    }
}

/// Keeps what the guest is now. A guest that is not defined has nothing to keep.
fn safety_point(
    context: &Context,
    host: &Host<'_>,
    manifest: &Manifest,
) -> Answer<Option<Manifest>> {
    let guest: Guest = match host.world().hypervisor.inspect(&manifest.guest_uuid) {
        Err(problem) if problem.kind == ProblemKind::NotFound => return Ok(None),
        other => other?,
    };
    let wanted = Wanted::best(Purpose::Safety);
    let mut results = take_locked(context, host, std::slice::from_ref(&guest), &wanted)?;
    let result = results.pop().map(|it| it.1);
    match result.unwrap_or_else(|| Err(Problem::failed("the capture came to nothing"))) {
        Ok(taken) if taken.problems.is_empty() => Ok(Some(taken.manifest)),
        Ok(taken) => Err(unsettled(&guest.name, taken.problems)),
        Err(problem) => {
            let (kind, hint) = (problem.kind, problem.hint.clone());
            let told =
                Problem::new(kind, "no safety point could be taken, so nothing was restored")
                    .from(problem.chain());
            Err(told.hint(match hint {
                Some(hint) => format!("{hint}; or restore without one: --no-safety-point"),
                None => "--no-safety-point restores without one".to_owned(),
            }))
        }
    }
}

fn tell_changes(context: &Context, old: &str, new: &str) {
    if context.is_quiet() || old == new {
        return;
    }
    let diff = TextDiff::from_lines(old, new);
    note("the definition changes (--keep-definition keeps the present one):");
    note(diff.unified_diff().context_radius(1).to_string().trim_end());
}
