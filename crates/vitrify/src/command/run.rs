//! `vitrify run`: one tick. Repair, take what is due, prune, report.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use vitrify_core::capture::Consistency;
use vitrify_core::config::{GuestRule, Otherwise};
use vitrify_core::inventory::Guest;
use vitrify_core::manifest::Manifest;
use vitrify_core::name::GuestName;
use vitrify_core::point::Purpose;
use vitrify_core::policy::due::{Due, due};
use vitrify_core::ports::{Answer, FoundPoint};
use vitrify_core::problem::{Problem, ProblemKind};

use vitrify_host::tick;

use crate::args::{RepairArgs, RunArgs};
use crate::command::capture::{Taken, Wanted, take};
use crate::command::prune::{self, facts_of, prune};
use crate::command::repair;
use crate::command::snapshot::point_json;
use crate::configuration::time_zone;
use crate::context::{Context, Host};
use crate::exit::{FAILED, Status};
use crate::output;
use crate::progress::note;

pub(crate) fn run(context: &Context, args: &RunArgs) -> Answer<Status> {
    let host = context.host()?;
    let _tick = context.lock_tick()?;
    let all = RepairArgs { guest: None, dry_run: args.dry_run, commit: false, discard: false };
    let (repaired, ..) = repair::put_right(context, &host, &all)?;
    let mut tick = Tick { context, host: &host, dry_run: args.dry_run, status: repaired.status };
    let guests = protected(context, &host, &mut tick.status)?;
    let (taken, failed) = tick.capture(&guests)?;
    let mut report = prune::Report::new(context);
    match tick.clock_jump()? {
        // Ages mean nothing until the clock is believed again.
        Some(jump) => note(&format!("the clock was set by {jump:#}; nothing is pruned this time")),
        None => {
            for (guest, rule) in guests.iter().filter(|it| !failed.contains(&it.0.name)) {
                if context.is_cancelled() {
                    break;
                }
                prune(context, &host, guest, rule, args.dry_run, &mut report);
            }
        }
    }
    if context.json {
        output::json(&json!({
            "version": 1,
            "repairs": repaired.repairs,
            "taken": taken,
            "pruned": report.pruned,
        }));
    }
    Ok(tick.status.and(report.status))
}

/// The guests that a rule covers. Rules that contradict each other or match nothing are told.
///
/// # Errors
/// Where the configuration cannot be followed.
pub(crate) fn protected<'a>(
    context: &'a Context,
    host: &Host<'_>,
    status: &mut Status,
) -> Answer<Vec<(Guest, &'a GuestRule)>> {
    let all = host.world().hypervisor.guests()?;
    let names: Vec<_> = all.iter().map(|it| it.name.clone()).collect();
    for (rule, pattern) in context.config.unmatched(&names) {
        note(&format!("warning: {}: no guest matches '{pattern}'", rule.place));
    }
    let mut found = Vec::new();
    for guest in all {
        match context.config.rule_for(&guest.name) {
            Ok(Some(rule)) => found.push((guest, rule)),
            Ok(None) => {}
            Err(two) => {
                let problem = Problem::new(ProblemKind::NotFound, two.to_string());
                *status = status.and(output::problem(&problem));
            }
        }
    }
    Ok(found)
}

/// One tick.
struct Tick<'a> {
    context: &'a Context,
    host: &'a Host<'a>,
    dry_run: bool,
    status: Status,
}

/// Points that are taken alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    purposes: Vec<vitrify_core::policy::Period>,
    consistency: Option<Consistency>,
    pause_limit: Option<std::time::Duration>,
}

impl Tick<'_> {
    /// Takes what is due; the points, and the guests that have none.
    fn capture(&mut self, guests: &[(Guest, &GuestRule)]) -> Answer<(Vec<Value>, Vec<GuestName>)> {
        let points = self.context.points()?;
        let mut kinds: BTreeMap<Kind, Vec<GuestName>> = BTreeMap::new();
        let mut failed = Vec::new();
        for (guest, rule) in guests {
            let due = match self.due(guest, rule, &points) {
                Ok(due) => due,
                Err(problem) => {
                    self.status = self.status.and(output::problem(&problem));
                    failed.push(guest.name.clone());
                    continue;
                }
            };
            self.explain(guest, &due);
            if !due.is_empty() {
                // One that is shut off has no memory to lose.
                let must = rule.otherwise == Otherwise::Fail && guest.state.is_active();
                let demanded = rule.consistency.filter(|_| must);
                let kind = Kind {
                    purposes: due.iter().map(|it| it.period).collect(),
                    consistency: demanded,
                    pause_limit: rule.pause_limit,
                };
                kinds.entry(kind).or_default().push(guest.name.clone());
            }
        }
        let mut values = Vec::new();
        if self.dry_run {
            return Ok((values, failed));
        }
        for (kind, names) in kinds {
            if self.context.is_cancelled() {
                self.status = self.status.and(FAILED);
                break;
            }
            // The snapshots are called by the longest period.
            let mut purposes = kind.purposes.into_iter().rev().map(Purpose::Scheduled);
            let Some(purpose) = purposes.next() else { continue };
            let wanted = Wanted {
                consistency: kind.consistency,
                pause_limit: kind.pause_limit,
                further_purposes: purposes.collect(),
                ..Wanted::best(purpose)
            };
            for (name, result) in take(self.context, self.host, &names, &wanted)? {
                let rule = guests.iter().find(|it| it.0.name == name).map(|it| it.1);
                match result {
                    Ok(taken) => values.push(self.tell(&taken, rule)),
                    Err(problem) => {
                        failed.push(name);
                        self.status = self.status.and(output::problem(&problem));
                    }
                }
            }
        }
        Ok((values, failed))
    }

    fn due(&self, guest: &Guest, rule: &GuestRule, points: &[FoundPoint]) -> Answer<Vec<Due>> {
        let facts = facts_of(self.host, guest, rule, points)?;
        let taken: Vec<_> =
            facts.iter().flat_map(|it| it.periods().map(|period| (period, it.time))).collect();
        let zone = time_zone(&self.context.config)
            .map_err(|error| Problem::new(ProblemKind::NotFound, error.to_string()))?;
        let now = self.host.world().clock.now().to_zoned_datetime(zone);
        Ok(due(&rule.policy.policy, &taken, &now))
    }

    fn explain(&self, guest: &Guest, due: &[Due]) {
        let zone = &self.context.zone;
        let shown = |time: jiff::Timestamp| {
            time.to_zoned_datetime(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
        };
        for it in due {
            let newest = match it.newest {
                Some(newest) => format!("the newest is of {}", shown(newest)),
                None => "there is none".to_owned(),
            };
            let line =
                format!("{}: {} is due since {}, {newest}", guest.name, it.period, shown(it.since));
            match self.dry_run && !self.context.json {
                true => output::result(&format!("would take {line}\n")),
                false if self.context.is_verbose() => note(&line),
                false => {}
            }
        }
        if due.is_empty() && self.context.is_verbose() {
            note(&format!("{}: nothing is due", guest.name));
        }
    }

    fn tell(&mut self, taken: &Taken, rule: Option<&GuestRule>) -> Value {
        for problem in &taken.problems {
            self.status = self.status.and(output::problem(&problem.clone().into()));
        }
        let manifest: &Manifest = &taken.manifest;
        let reached = manifest.consistency;
        let demanded = rule.and_then(|it| it.consistency);
        let less = demanded.filter(|it| reached < *it && reached != Consistency::Off);
        if let Some(demanded) = less {
            note(&format!(
                "warning: {}: the point is {reached}, and its rule demands {demanded}: {}",
                manifest.guest, manifest.reason
            ));
        }
        if !self.context.json {
            let names: Vec<_> = manifest.names.iter().map(ToString::to_string).collect();
            output::result(&format!(
                "took {}@{}: {reached}, {:.1} s in all\n",
                manifest.guest,
                names.join(", "),
                taken.duration.as_secs_f64()
            ));
        }
        let mut value = point_json(manifest);
        value["demanded"] = json!(demanded);
        value
    }

    /// How far the clock was set since the last tick, if it was. Remembers this tick.
    fn clock_jump(&self) -> Answer<Option<jiff::SignedDuration>> {
        let now = tick::now(self.host.world().clock)?;
        let last = self.context.last_tick()?;
        if !self.dry_run {
            self.context.remember_tick(&now)?;
        }
        Ok(last.and_then(|last| now.jump_since(&last)))
    }
}
