//! `vitrify repair`.

use serde_json::{Value, json};
use vitrify_core::capture::CapturePlan;
use vitrify_core::engine::{look_around, lost_captures, rebuild, reopen, take_over};
use vitrify_core::name::{GuestName, GuestUuid};
use vitrify_core::operation::{
    Effect, Fact, JournalEntry, Next, Outcome, Plan, Record, Settle, next,
};
use vitrify_core::ports::Answer;
use vitrify_core::problem::{Problem, ProblemKind};
use vitrify_host::locks::Locks;

use crate::args::RepairArgs;
use crate::command::capture::{subject, unsettled};
use crate::command::confirm::confirm;
use crate::command::self_test::sweep;
use crate::context::{Context, Host};
use crate::exit::{DONE, Status};
use crate::output;

pub(crate) fn run(context: &Context, args: &RepairArgs) -> Answer<Status> {
    let host = context.host()?;
    let (mut report, told, only) = put_right(context, &host, args)?;
    let spared = context.self_test(&host).guests().unwrap_or_default();
    let folder = &context.overlay_folder;
    let look = look_around(&host.world(), folder, only.as_ref(), &spared, told, &|| {
        context.ledger_file().read()
    })?;
    look.problems.into_iter().for_each(|problem| report.add(None, Err(problem)));
    if context.json {
        let left_alone = json!(look.findings);
        output::json(&json!({ "version": 1, "repairs": report.repairs, "left_alone": left_alone }));
    } else {
        look.findings.iter().for_each(|it| output::result(&format!("left alone: {it}\n")));
    }
    Ok(report.status)
}

/// Puts right what is ours: what came of it, the plans that are told as they would be carried out, and
/// the guest that it was all about, if it was one.
pub(crate) fn put_right<'a>(
    context: &'a Context,
    host: &Host<'_>,
    args: &RepairArgs,
) -> Answer<(Report<'a>, Vec<Plan>, Option<GuestUuid>)> {
    let mut report = Report { context, status: DONE, repairs: Vec::new() };
    let mut entries = host.world().journal.entries()?;
    // A store that is not there keeps nobody from settling what the journal knows.
    let mut lost = lost_captures(&host.world()).unwrap_or_else(|problem| {
        report.add(None, Err(problem));
        Vec::new()
    });
    let mut only = None;
    if let Some(guest) = &args.guest {
        let uuid = uuid_of(&entries, &lost, guest);
        // A name that nobody bears is a mistake; a guest without leftovers is in order.
        let uuid = uuid.map_or_else(|| host.guest(guest).map(|it| it.uuid), Ok)?;
        entries.retain(|entry| entry.plan.guests().iter().any(|it| *it.1 == uuid));
        lost.retain(|plan| plan.members.iter().any(|it| it.guest_uuid == uuid));
        only = Some(uuid);
    }
    let settle = match (args.commit, args.discard) {
        (true, _) => Settle::CommitOffline,
        (_, true) => Settle::Discard,
        _ => Settle::Commit,
    };
    if let (Settle::Discard, Some(guest)) = (settle, &args.guest)
        && !(entries.is_empty() && lost.is_empty())
    {
        let loss = format!("what guest '{guest}' wrote since the interrupted capture will be lost");
        confirm(context, guest, &loss)?;
    }
    let mut plans: Vec<_> = entries.iter().map(|it| it.plan.clone()).collect();
    plans.extend(lost.iter().cloned().map(Plan::Capture));
    for entry in entries {
        let guest = subject(&entry.plan);
        let result = match args.dry_run {
            true => rehearse(host, &entry, settle),
            false => settle_one(context, host, entry, settle),
        };
        report.add(Some(&guest), result);
    }
    for plan in lost {
        let guest = subject(&Plan::Capture(plan.clone()));
        let result = match args.dry_run {
            true => rebuild(&host.world(), plan).and_then(|entry| rehearse(host, &entry, settle)),
            false => settle_lost(context, host, plan, settle),
        };
        report.add(Some(&guest), result);
    }
    for damaged in host.world().journal.damaged()? {
        let answered = plans.iter().any(|plan| *plan.id() == damaged.id);
        let its = damaged.plan.as_ref().map(Plan::guests);
        let concerns = |only: &GuestUuid| its.is_none_or(|its| its.iter().any(|it| it.1 == only));
        if !(args.dry_run && answered) && only.as_ref().is_none_or(concerns) {
            report.add(None, Err(damaged.problem));
        }
    }
    if args.guest.is_none() {
        let left = match args.dry_run {
            true => context.self_test(host).leftovers().map(|left| {
                (!left.is_empty()).then(|| format!("would remove {}", left.join("; ")))
            }),
            false => sweep(context, host),
        };
        report.add(None, left.map(|left| left.map(|done| format!("self-test: {done}"))));
    }
    // What was settled is settled; what a rehearsal left as it is is told already.
    let told = if args.dry_run { plans } else { Vec::new() };
    Ok((report, told, only))
}

/// What is told of each thing that repair puts right.
pub(crate) struct Report<'a> {
    context: &'a Context,
    pub(crate) status: Status,
    pub(crate) repairs: Vec<Value>,
}

impl Report<'_> {
    /// Tells of one; nothing where there was nothing to do.
    fn add(&mut self, subject: Option<&str>, result: Answer<Option<String>>) {
        match result {
            Ok(None) => {}
            Ok(Some(done)) if self.context.json => {
                self.repairs.push(json!({ "guest": subject, "result": done }));
            }
            Ok(Some(done)) => {
                let subject = subject.map(|it| format!("{it}: ")).unwrap_or_default();
                output::result(&format!("{subject}{done}\n"));
            }
            Err(problem) => {
                self.repairs.push(json!({ "guest": subject, "error": problem.chain() }));
                self.status = self.status.and(output::problem(&problem));
            }
        }
    }
}

/// The guest of this name among those that something interrupted was done to.
fn uuid_of(entries: &[JournalEntry], lost: &[CapturePlan], guest: &GuestName) -> Option<GuestUuid> {
    let known = entries.iter().flat_map(|it| it.plan.guests());
    let lost = lost.iter().flat_map(|it| &it.members).map(|it| (&it.guest, &it.guest_uuid));
    known.chain(lost).find(|it| it.0 == guest).map(|it| it.1.clone())
}

/// Settles one entry; `None` if its owner settled it meanwhile.
fn settle_one(
    context: &Context,
    host: &Host<'_>,
    entry: JournalEntry,
    settle: Settle,
) -> Answer<Option<String>> {
    let _locks = lock(context, &entry.plan)?;
    // Only now is it known that nobody works on it.
    let still =
        host.world().journal.entries()?.into_iter().find(|it| it.plan.id() == entry.plan.id());
    still.map(|entry| settle_locked(context, host, entry, settle)).transpose()
}

/// The same of a capture that the journal has lost.
fn settle_lost(
    context: &Context,
    host: &Host<'_>,
    plan: CapturePlan,
    settle: Settle,
) -> Answer<Option<String>> {
    let _locks = lock(context, &Plan::Capture(plan.clone()))?;
    let still = lost_captures(&host.world())?.into_iter().find(|it| it.id == plan.id);
    let Some(plan) = still else { return Ok(None) };
    let entry = rebuild(&host.world(), plan)?;
    reopen(&host.world(), &entry)?;
    settle_locked(context, host, entry, settle).map(Some)
}

fn lock(context: &Context, plan: &Plan) -> Answer<Locks> {
    let uuids: Vec<_> = plan.guests().into_iter().map(|it| it.1).collect();
    context.lock(&uuids, &plan.volumes())
}

fn settle_locked(
    context: &Context,
    host: &Host<'_>,
    entry: JournalEntry,
    settle: Settle,
) -> Answer<String> {
    let is_capture = matches!(entry.plan, Plan::Capture(_));
    let first = entry.plan.guests().into_iter().next().map(|it| it.0.clone());
    let progress = context.progress(subject(&entry.plan)).about(first.as_ref(), None);
    let outcome = take_over(&host.world(), entry, settle, &progress)?;
    drop(progress);
    Ok(match outcome {
        Outcome::Captured { .. } => {
            "the interrupted capture was finished; its point is published".into()
        }
        Outcome::Restored => "the interrupted restore was finished".into(),
        Outcome::Removed { failures } => match failures.into_iter().next() {
            None => "the interrupted removal of points was finished".into(),
            Some(failure) => return Err(failure.problem.into()),
        },
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
    })
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
