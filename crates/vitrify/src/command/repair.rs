//! `vitrify repair`.

use serde_json::json;
use vitrify_core::engine::take_over;
use vitrify_core::name::Volume;
use vitrify_core::operation::{
    Effect, Fact, JournalEntry, Next, Outcome, Plan, Record, Settle, next,
};
use vitrify_core::ports::Answer;
use vitrify_core::problem::{Problem, ProblemKind};

use crate::args::RepairArgs;
use crate::command::capture::unsettled;
use crate::command::confirm::confirm;
use crate::context::{Context, Host};
use crate::exit::{DONE, Status};
use crate::output;

pub(crate) fn run(context: &Context, args: &RepairArgs) -> Answer<Status> {
    let host = context.host()?;
    let mut entries = host.world().journal.entries()?;
    if let Some(guest) = &args.guest {
        entries.retain(|entry| entry.plan.guest().0 == guest);
        if entries.is_empty() {
            // A name that nobody bears is a mistake; a guest without leftovers is in order.
            host.guest(guest)?;
        }
    }
    let settle = match (args.commit, args.discard) {
        (true, _) => Settle::CommitOffline,
        (_, true) => Settle::Discard,
        _ => Settle::Commit,
    };
    if let (Settle::Discard, Some(guest), false) = (settle, &args.guest, entries.is_empty()) {
        let loss = format!("what guest '{guest}' wrote since the interrupted capture will be lost");
        confirm(context, guest, &loss)?;
    }
    let mut status = DONE;
    let mut reports = Vec::new();
    for entry in entries {
        let guest = entry.plan.guest().0.clone();
        let result = match args.dry_run {
            true => rehearse(&host, &entry, settle),
            false => settle_one(context, &host, entry, settle),
        };
        match result {
            Ok(None) => {}
            Ok(Some(done)) if context.json => {
                reports.push(json!({ "guest": guest, "result": done }));
            }
            Ok(Some(done)) => output::result(&format!("{guest}: {done}\n")),
            Err(problem) => {
                reports.push(json!({ "guest": guest, "error": problem.chain() }));
                status = status.and(output::problem(&problem));
            }
        }
    }
    if context.json {
        output::json(&json!({ "version": 1, "repairs": reports }));
    }
    Ok(status)
}

/// Settles one entry; `None` if its owner settled it meanwhile.
fn settle_one(
    context: &Context,
    host: &Host<'_>,
    entry: JournalEntry,
    settle: Settle,
) -> Answer<Option<String>> {
    let (name, uuid) = entry.plan.guest();
    let (name, volumes) = (name.clone(), volumes(&entry.plan));
    let _locks = context.lock(uuid, &volumes)?;
    // Only now is it known that nobody works on it.
    let still =
        host.world().journal.entries()?.into_iter().find(|it| it.plan.id() == entry.plan.id());
    let Some(entry) = still else { return Ok(None) };
    let is_capture = matches!(entry.plan, Plan::Capture(_));
    let progress = context.progress(name.as_str());
    let outcome = take_over(&host.world(), entry, settle, &progress)?;
    drop(progress);
    Ok(Some(match outcome {
        Outcome::Published(_) => {
            "the interrupted capture was finished; its point is published".into()
        }
        Outcome::Restored => "the interrupted restore was finished".into(),
        Outcome::Abandoned { .. } if is_capture => {
            "the interrupted capture was undone; it left no point".into()
        }
        Outcome::Abandoned { problem: None } => {
            "the interrupted restore was undone; the guest is as it was".into()
        }
        Outcome::Abandoned { problem: Some(problem) } => format!(
            "the interrupted restore was undone ({}); disks and definition are as they were",
            problem.message
        ),
        Outcome::Unsettled { problems, .. } => return Err(unsettled(&name, problems)),
    }))
}

fn volumes(plan: &Plan) -> Vec<Volume> {
    match plan {
        Plan::Capture(plan) => plan.volumes.clone(),
        Plan::Restore(plan) => plan.volumes(),
    }
}

/// What would be done, if every step went well.
fn rehearse(host: &Host<'_>, entry: &JournalEntry, settle: Settle) -> Answer<Option<String>> {
    let boot = host.world().clock.boot()?;
    let mut records = entry.records.clone();
    records.push(Record::TakenOver { boot, settle });
    let mut steps: Vec<String> = Vec::new();
    while let Next::Perform(effect) = next(&entry.plan, &records) {
        if steps.len() > 10_000 {
            return Err(Problem::new(ProblemKind::Failed, "the repair does not come to an end"));
        }
        steps.push(effect.to_string());
        records.push(Record::Begun { effect: effect.clone() });
        records.push(done(effect));
    }
    Ok(Some(format!("would {}", steps.join(", then "))))
}

fn done(effect: Effect) -> Record {
    Record::Done { effect, fact: Fact::Done }
}
