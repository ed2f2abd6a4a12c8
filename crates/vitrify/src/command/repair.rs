//! `vitrify repair`.

use serde_json::json;
use vitrify_core::engine::{find_foreign, take_over};
use vitrify_core::foreign::Foreign;
use vitrify_core::name::GuestName;
use vitrify_core::operation::{
    Effect, Fact, JournalEntry, Next, Outcome, Plan, Record, Settle, next,
};
use vitrify_core::ports::Answer;
use vitrify_core::problem::{Problem, ProblemKind};
use vitrify_host::self_test;

use crate::args::RepairArgs;
use crate::command::capture::{subject, unsettled};
use crate::command::confirm::confirm;
use crate::command::self_test::sweep;
use crate::context::{Context, Host};
use crate::exit::{DONE, Status};
use crate::output;

pub(crate) fn run(context: &Context, args: &RepairArgs) -> Answer<Status> {
    let host = context.host()?;
    let mut entries = host.world().journal.entries()?;
    if let Some(guest) = &args.guest {
        entries.retain(|entry| entry.plan.guests().iter().any(|it| it.0 == guest));
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
        let guest = subject(&entry.plan);
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
    if args.guest.is_none() {
        let left = match args.dry_run {
            true => context.self_test(&host).leftovers().map(|left| {
                (!left.is_empty()).then(|| format!("would remove {}", left.join("; ")))
            }),
            false => sweep(context, &host),
        };
        match left {
            Ok(None) => {}
            Ok(Some(done)) if context.json => {
                reports.push(json!({ "guest": null, "result": format!("self-test: {done}") }));
            }
            Ok(Some(done)) => output::result(&format!("self-test: {done}\n")),
            Err(problem) => {
                reports.push(json!({ "guest": null, "error": problem.chain() }));
                status = status.and(output::problem(&problem));
            }
        }
    }
    let foreign = foreign(&host, args.guest.as_ref())?;
    if context.json {
        let foreign: Vec<_> = foreign
            .iter()
            .map(|it| json!({ "subject": it.subject, "what": it.what, "remedy": it.remedy }))
            .collect();
        output::json(&json!({ "version": 1, "repairs": reports, "foreign": foreign }));
    } else {
        for it in foreign {
            output::result(&format!("left alone: {}: {}; {}\n", it.subject, it.what, it.remedy));
        }
    }
    Ok(status)
}

/// What is not ours by recorded identity. Where there is no store, nothing tells what is.
fn foreign(host: &Host<'_>, guest: Option<&GuestName>) -> Answer<Vec<Foreign>> {
    let guest = match guest.map(|it| host.guest(it)) {
        // It was settled by what the journal says of it.
        Some(Err(problem)) if problem.kind == ProblemKind::NotFound => return Ok(Vec::new()),
        found => found.transpose()?,
    };
    let mut found = find_foreign(&host.world(), guest.as_ref().map(|it| &it.uuid))?;
    found.retain(|it| !it.subject.contains(self_test::PREFIX));
    Ok(found)
}

/// Settles one entry; `None` if its owner settled it meanwhile.
fn settle_one(
    context: &Context,
    host: &Host<'_>,
    entry: JournalEntry,
    settle: Settle,
) -> Answer<Option<String>> {
    let uuids: Vec<_> = entry.plan.guests().into_iter().map(|it| it.1).collect();
    let _locks = context.lock(&uuids, &entry.plan.volumes())?;
    let name = subject(&entry.plan);
    // Only now is it known that nobody works on it.
    let still =
        host.world().journal.entries()?.into_iter().find(|it| it.plan.id() == entry.plan.id());
    let Some(entry) = still else { return Ok(None) };
    let is_capture = matches!(entry.plan, Plan::Capture(_));
    let first = entry.plan.guests().into_iter().next().map(|it| it.0.clone());
    let progress = context.progress(name);
    let outcome = take_over(&host.world(), entry, settle, &progress)?;
    drop(progress);
    Ok(Some(match outcome {
        Outcome::Captured { .. } => {
            "the interrupted capture was finished; its point is published".into()
        }
        Outcome::Restored => "the interrupted restore was finished".into(),
        Outcome::Abandoned { .. } if is_capture => {
            "the interrupted capture was undone; it left no point".into()
        }
        Outcome::Abandoned { failure: None } => {
            "the interrupted restore was undone; the guest is as it was".into()
        }
        Outcome::Abandoned { failure: Some(failure) } => format!(
            "the interrupted restore was undone ({}); disks and definition are as they were",
            failure.problem.message
        ),
        Outcome::Unsettled { failures, .. } => {
            let last = failures.into_iter().next_back();
            let guest = last.as_ref().and_then(|it| it.guest.clone()).or(first);
            let problems = last.into_iter().map(|it| it.problem).collect();
            return Err(match guest {
                Some(guest) => unsettled(&guest, problems),
                None => Problem::failed("an operation on no guest is not settled"),
            });
        }
    }))
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
