//! `vitrify prune`: what policies do not keep any longer.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use vitrify_core::config::GuestRule;
use vitrify_core::inventory::Guest;
use vitrify_core::name::PointId;
use vitrify_core::policy::retention::{Kept, PointFacts, Retention, Served, retention};
use vitrify_core::ports::{Answer, FoundPoint};

use crate::args::PruneArgs;
use crate::command::confirm::confirm_drastic;
use crate::command::removal::{self, Wanted, facts, remove};
use crate::command::run::protected;
use crate::context::{Context, Host};
use crate::exit::{DONE, Status};
use crate::output;
use crate::progress::note;

pub(crate) fn run(context: &Context, args: &PruneArgs) -> Answer<Status> {
    let host = context.host()?;
    let _tick = context.lock_tick()?;
    let mut report = Report::new(context);
    for (guest, rule) in protected(context, &host, &mut report.status)? {
        if args.guests.is_empty() || args.guests.contains(&guest.name) {
            prune(context, &host, &guest, rule, args.dry_run, &mut report);
        }
    }
    if context.json {
        output::json(&json!({ "version": 1, "pruned": report.pruned }));
    }
    Ok(report.status)
}

/// What is told of pruning.
pub(crate) struct Report<'a> {
    context: &'a Context,
    pub(crate) status: Status,
    /// What went, or would go.
    pub(crate) pruned: Vec<Value>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(context: &'a Context) -> Self {
        Self { context, status: DONE, pruned: Vec::new() }
    }

    fn add(&mut self, verb: &str, what: &str, why: &str) {
        self.pruned.push(json!({ "what": what, "why": why }));
        if !self.context.json {
            output::result(&format!("{verb} {what}: {why}\n"));
        }
    }
}

/// Removes what has served of a guest, or says what would go.
pub(crate) fn prune(
    context: &Context,
    host: &Host<'_>,
    guest: &Guest,
    rule: &GuestRule,
    dry_run: bool,
    report: &mut Report<'_>,
) {
    if let Err(problem) = prune_one(context, host, guest, rule, dry_run, report) {
        report.status = report.status.and(output::problem(&problem));
    }
}

fn prune_one(
    context: &Context,
    host: &Host<'_>,
    guest: &Guest,
    rule: &GuestRule,
    dry_run: bool,
    report: &mut Report<'_>,
) -> Answer<()> {
    let points = context.points()?;
    let facts = facts_of(host, guest, rule, &points)?;
    let decided = retention(&rule.policy.policy, &facts, host.world().clock.now());
    explain(context, guest, &decided);
    let wanted = wanted(&decided);
    if wanted.points.is_empty() && wanted.images.is_empty() {
        return Ok(());
    }
    if decided.is_drastic() && !dry_run {
        let (doomed, all) = (wanted.points.len(), facts.len());
        let loss = format!("{doomed} of {all} points of guest '{}' would go", guest.name);
        confirm_drastic(context, &guest.name, &loss)?;
    }
    if !dry_run {
        let whose = removal::Guest { name: &guest.name, uuid: &guest.uuid };
        let removed = remove(context, host, whose, &wanted)?;
        for failure in removed.failures {
            report.status = report.status.and(output::problem(&failure.into()));
        }
    }
    let verb = if dry_run { "would prune" } else { "pruned" };
    let left = if dry_run { Vec::new() } else { context.points()? };
    let is_gone = |id: &PointId| !left.iter().any(|it| it.id == *id);
    let is_expired = |id: &PointId| left.iter().all(|it| it.id != *id || it.expired);
    for (id, name, verdict) in &decided.names {
        if let (true, Err(served)) = (wanted.points.contains(id) && is_gone(id), verdict) {
            report.add(verb, &format!("{}@{name}", guest.name), &served.to_string());
        }
    }
    for (id, verdict) in &decided.images {
        if let (true, Err(served)) = (wanted.images.contains(id) && is_expired(id), verdict) {
            let name = decided.names.iter().find(|it| it.0 == *id).map(|it| it.1.as_str());
            let what = format!("the memory image of {}@{}", guest.name, name.unwrap_or_default());
            report.add(verb, &what, &served.to_string());
        }
    }
    Ok(())
}

/// What a policy has to know of a guest's published points.
pub(crate) fn facts_of(
    host: &Host<'_>,
    guest: &Guest,
    rule: &GuestRule,
    points: &[FoundPoint],
) -> Answer<Vec<PointFacts>> {
    facts(host, points.iter().filter(|it| it.guest == guest.uuid && it.published), rule.consistency)
}

fn wanted(decided: &Retention) -> Wanted {
    let images = decided.images.iter().filter(|it| it.1.is_err()).map(|it| it.0.clone());
    let points: BTreeSet<_> = decided.doomed().into_iter().cloned().collect();
    let images = images.filter(|it| !points.contains(it)).collect();
    Wanted { points, images }
}

/// Every decision and its reason, for who asks for it.
fn explain(context: &Context, guest: &Guest, decided: &Retention) {
    if !context.is_verbose() {
        return;
    }
    let say = |what: &str, verdict: &Result<Kept, Served>| {
        note(&match verdict {
            Ok(kept) => format!("{}: keeps {what}: {kept}", guest.name),
            Err(served) => format!("{}: does not keep {what}: {served}", guest.name),
        });
    };
    decided.names.iter().for_each(|(_, name, verdict)| say(name.as_str(), verdict));
    for (id, verdict) in &decided.images {
        say(&format!("the memory image of {id}"), verdict);
    }
}
