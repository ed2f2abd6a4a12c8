//! `vitrify run`: one tick. Repair, take what is due, prune, report.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use vitrify_core::capture::Consistency;
use vitrify_core::config::{GuestRule, Otherwise};
use vitrify_core::inventory::Guest;
use vitrify_core::manifest::Manifest;
use vitrify_core::name::{GuestName, PointName};
use vitrify_core::point::Purpose;
use vitrify_core::policy::Period;
use vitrify_core::policy::due::{Due, due};
use vitrify_core::policy::retention::{facts, taken};
use vitrify_core::ports::{Answer, Clock, FoundPoint, Storage};
use vitrify_core::problem::ProblemKind;
use vitrify_host::clock::SystemClock;
use vitrify_host::storage::HostStorage;
use vitrify_host::tick;

use crate::args::{RepairArgs, RunArgs};
use crate::command::capture::{Taken, Wanted, take};
use crate::command::notify::{self, Findings};
use crate::command::prune::{Pruning, published};
use crate::command::repair;
use crate::command::snapshot::point_json;
use crate::command::status::publish;
use crate::command::volumes::Keeper;
use crate::configuration::time_zone;
use crate::context::{Context, Host};
use crate::exit::{DONE, FAILED, Status};
use crate::output;
use crate::progress::{note, note_of};

pub(crate) fn run(context: &Context, args: &RunArgs) -> Answer<Status> {
    // Before anything is done in its name. What is wrong with the configuration is told here alone.
    let zone = time_zone(&context.config)?;
    let mut found = Findings::default();
    let ended = carry_out(context, args, zone, &mut found);
    match &ended {
        // The tick that is at work tells for itself.
        Err(problem) if problem.kind == ProblemKind::Locked => return ended,
        Err(problem) => found.failures.push(problem.chain()),
        Ok(_) => {}
    }
    if args.dry_run {
        return ended;
    }
    match notify::tell(context, &found) {
        Ok(()) => ended,
        Err(problem) => {
            note(&format!("warning: {}", problem.chain()));
            ended.map(|status| if status == DONE { FAILED } else { status })
        }
    }
}

fn carry_out(
    context: &Context,
    args: &RunArgs,
    zone: TimeZone,
    found: &mut Findings,
) -> Answer<Status> {
    let host = match context.host() {
        // Where no guest has a rule, no volume can be such a guest's.
        Err(problem) if context.config.rules.is_empty() && !context.config.volumes.is_empty() => {
            keep_alone(context, args, found)?;
            return Err(problem);
        }
        host => host?,
    };
    let _tick = context.lock_tick()?;
    let all = RepairArgs { guest: None, dry_run: args.dry_run, commit: false, discard: false };
    let (repaired, ..) = repair::put_right(context, &host, &all)?;
    if repaired.status != DONE {
        found.failures.push("not everything could be repaired; see 'vitrify repair'".to_owned());
    }
    let guests = look(context, &host)?;
    if guests.status != DONE {
        found.failures.push("a guest has two rules; see 'vitrify config check'".to_owned());
    }
    // Volumes first: they need no memory store.
    let world = host.world();
    let (mut keeper, kept) = keep(context, world.storage, world.clock, args, Some(&guests), found);
    let mut tick = Tick {
        context,
        host: &host,
        zone,
        dry_run: args.dry_run,
        status: repaired.status.and(guests.status).and(kept),
        found,
    };
    let (taken, failed) = tick.capture(&guests.covered)?;
    let mut pruned = Vec::new();
    if may_prune(context, world.clock, args)? {
        pruned = tick.prune(&guests, &failed);
        keeper.iter_mut().for_each(Keeper::prune);
    }
    let mut volumes = Vec::new();
    if let Some(keeper) = keeper {
        tick.status = tick.status.and(keeper.status);
        tick.found.failures.extend(keeper.failures);
        pruned.extend(keeper.pruned);
        volumes = keeper.taken;
    }
    let points = context.points()?;
    tick.found.is_still_short = is_short(&points, &guests.covered);
    if context.json {
        output::json(&json!({
            "version": 1,
            "repairs": repaired.repairs,
            "taken": taken,
            "volumes": volumes,
            "pruned": pruned,
        }));
    }
    if !args.dry_run
        && let Err(problem) = publish(context, &host, &guests, &points)
    {
        note(&format!("warning: nobody is told how the guests stand: {}", problem.chain()));
        tick.status = tick.status.and(FAILED);
    }
    Ok(tick.status)
}

/// Takes what is due of volumes without guests, where a rule speaks of any; what prunes them afterwards.
/// What stands against all of them is told, and keeps no guest from its point.
fn keep<'a>(
    context: &'a Context,
    storage: &'a dyn Storage,
    clock: &'a dyn Clock,
    args: &RunArgs,
    guests: Option<&Guests<'_>>,
    found: &mut Findings,
) -> (Option<Keeper<'a>>, Status) {
    if context.config.volumes.is_empty() {
        return (None, DONE);
    }
    match Keeper::new(context, storage, clock, args.dry_run, guests) {
        Ok(mut keeper) => {
            keeper.take();
            (Some(keeper), DONE)
        }
        Err(problem) => {
            found.failures.push(format!("volumes: {}", problem.chain()));
            (None, output::problem(&problem))
        }
    }
}

/// Takes and prunes volumes where libvirt is out of reach.
fn keep_alone(context: &Context, args: &RunArgs, found: &mut Findings) -> Answer<()> {
    let _tick = context.lock_tick()?;
    if let (Some(mut keeper), _) = keep(context, &HostStorage, &SystemClock, args, None, found) {
        if may_prune(context, &SystemClock, args)? {
            keeper.prune();
        }
        found.failures.append(&mut keeper.failures);
        if context.json {
            let (volumes, pruned) = (&keeper.taken, &keeper.pruned);
            output::json(&json!({ "version": 1, "volumes": volumes, "pruned": pruned }));
        }
    }
    Ok(())
}

/// Whether the clock is believed: ages mean nothing where it was set since the last tick. Remembers this
/// tick.
fn may_prune(context: &Context, clock: &dyn Clock, args: &RunArgs) -> Answer<bool> {
    let (now, file) = (tick::now(clock)?, context.tick_file());
    let last = file.read()?;
    if !args.dry_run {
        file.write(&now)?;
    }
    let jump = last.and_then(|last| now.jump_since(&last));
    if let Some(jump) = &jump {
        note(&format!("the clock was set by {jump:#}; nothing is pruned this time"));
    }
    Ok(jump.is_none())
}

/// The guests that there are.
pub(crate) struct Guests<'a> {
    /// Those that a rule covers.
    pub(crate) covered: Vec<(Guest, &'a GuestRule)>,
    /// The others.
    pub(crate) bare: Vec<Guest>,
    /// What follows from rules that contradict each other.
    pub(crate) status: Status,
}

/// Finds each guest's rule. Rules that contradict each other or match nothing are told.
///
/// # Errors
/// Where libvirt does not name the guests.
pub(crate) fn look<'a>(context: &'a Context, host: &Host<'_>) -> Answer<Guests<'a>> {
    let all = host.world().hypervisor.guests()?;
    let names: Vec<_> = all.iter().map(|it| it.name.clone()).collect();
    for (rule, pattern) in context.config.unmatched(&names) {
        note(&format!("warning: {}: no guest matches '{pattern}'", rule.place));
    }
    let mut found = Guests { covered: Vec::new(), bare: Vec::new(), status: DONE };
    for guest in all {
        match context.config.rule_for(&guest.name) {
            Ok(Some(rule)) => found.covered.push((guest, rule)),
            Ok(None) => found.bare.push(guest),
            Err(two) => {
                found.status = found.status.and(output::problem(&two.into()));
                found.bare.push(guest);
            }
        }
    }
    Ok(found)
}

/// Says what is due of a guest, or of a volume that is no guest's, and why.
pub(crate) fn explain_due(
    context: &Context,
    dry_run: bool,
    guest: Option<&str>,
    of: &str,
    due: &[Due],
) {
    for it in due {
        let line = due_line(context, of, it);
        match dry_run && !context.json {
            true => output::result(&format!("would take {line}\n")),
            false if context.is_verbose() => note_of(guest, None, &line),
            false => {}
        }
    }
    if due.is_empty() && context.is_verbose() {
        note_of(guest, None, &format!("{of}: nothing is due"));
    }
}

fn due_line(context: &Context, of: &str, it: &Due) -> String {
    let shown = |time: Timestamp| {
        time.to_zoned_datetime(context.zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
    };
    let newest = match it.newest {
        Some(newest) => format!("the newest is of {}", shown(newest)),
        None => "there is none".to_owned(),
    };
    format!("{of}: {} is due since {}, {newest}", it.period, shown(it.since))
}

/// Whether the newest point of some guest is less than its rule demands.
fn is_short(points: &[FoundPoint], guests: &[(Guest, &GuestRule)]) -> bool {
    let falls_short = |(guest, rule): &(Guest, &GuestRule)| {
        let newest = published(points, guest).find_map(|it| it.manifest.as_ref().ok());
        let reached = newest.map(|it| it.consistency);
        rule.consistency.zip(reached).is_some_and(|(demanded, reached)| !reached.meets(demanded))
    };
    guests.iter().any(falls_short)
}

/// One tick.
struct Tick<'a> {
    context: &'a Context,
    host: &'a Host<'a>,
    /// What the policies' times are in.
    zone: TimeZone,
    dry_run: bool,
    status: Status,
    found: &'a mut Findings,
}

/// Points that are taken alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    periods: Vec<Period>,
    consistency: Option<Consistency>,
    pause_limit: Option<Duration>,
}

impl Tick<'_> {
    /// Takes what is due; the points, and the guests that have none.
    fn capture(&mut self, guests: &[(Guest, &GuestRule)]) -> Answer<(Vec<Value>, Vec<GuestName>)> {
        let points = self.context.points()?;
        let mut kinds: BTreeMap<Kind, Vec<GuestName>> = BTreeMap::new();
        let mut failed = Vec::new();
        for (guest, rule) in guests {
            let due = self.due(guest, rule, &points);
            let name = guest.name.as_str();
            explain_due(self.context, self.dry_run, Some(name), name, &due);
            if !due.is_empty() {
                // One that is shut off has no memory to lose.
                let must = rule.otherwise == Otherwise::Fail && guest.state.is_active();
                let demanded = rule.consistency.filter(|_| must);
                let kind = Kind {
                    periods: due.iter().map(|it| it.period).collect(),
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
                self.found.failures.push("the tick was interrupted".to_owned());
                break;
            }
            // The snapshots are called by the longest period.
            let mut purposes = kind.periods.into_iter().rev().map(Purpose::Scheduled);
            let Some(purpose) = purposes.next() else { continue };
            let wanted = Wanted {
                consistency: kind.consistency,
                pause_limit: kind.pause_limit,
                further_purposes: purposes.collect(),
                ..Wanted::best(purpose)
            };
            let mut hook_failures = Vec::new();
            let results = take(self.context, self.host, &names, &wanted, &mut hook_failures);
            for problem in &hook_failures {
                self.status = self.status.and(output::problem(problem));
                self.found.failures.push(problem.chain());
            }
            for (name, result) in results? {
                let rule = guests.iter().find(|it| it.0.name == name).map(|it| it.1);
                match result {
                    Ok(taken) => values.push(self.tell(&taken, rule)),
                    Err(problem) => {
                        let status = output::problem_of(Some(name.as_str()), &problem);
                        self.status = self.status.and(status);
                        let line = format!("{name}: no point: {}", problem.chain());
                        self.found.failures.push(line);
                        failed.push(name);
                    }
                }
            }
        }
        Ok((values, failed))
    }

    /// Removes what the policies keep no longer, of no guest that failed; what went.
    fn prune(&mut self, guests: &Guests<'_>, failed: &[GuestName]) -> Vec<Value> {
        let mut pruning = match Pruning::new(self.context, self.host, self.dry_run) {
            Ok(pruning) => pruning,
            Err(problem) => {
                self.status = self.status.and(output::problem(&problem));
                self.found.failures.push(format!("nothing is pruned: {}", problem.chain()));
                return Vec::new();
            }
        };
        let has_failed = |guest: &Guest| failed.contains(&guest.name);
        pruning.prune(guests, |guest| !has_failed(guest));
        self.status = self.status.and(pruning.status);
        self.found.failures.append(&mut pruning.failures);
        pruning.pruned
    }

    fn due(&self, guest: &Guest, rule: &GuestRule, points: &[FoundPoint]) -> Vec<Due> {
        // What its snapshots are needed for has no bearing on that.
        let taken = taken(&facts(published(points, guest), &[], rule.consistency));
        let now = self.host.world().clock.now().to_zoned_datetime(self.zone.clone());
        due(&rule.policy.policy, &taken, &now)
    }

    fn tell(&mut self, taken: &Taken, rule: Option<&GuestRule>) -> Value {
        let manifest: &Manifest = &taken.manifest;
        let guest = manifest.guest.as_str();
        let point = manifest.name().map(PointName::as_str);
        for problem in &taken.problems {
            let status = output::problem_of(Some(guest), &problem.clone().into());
            self.status = self.status.and(status);
            self.found.failures.push(format!("{guest}: {}", problem.message));
        }
        let reached = manifest.consistency;
        let demanded = rule.and_then(|it| it.consistency);
        if let Some(demanded) = demanded.filter(|it| !reached.meets(*it)) {
            let line = format!(
                "{guest}: the point is {reached}, and its rule demands {demanded}: {}",
                manifest.reason
            );
            note_of(Some(guest), point, &format!("warning: {line}"));
            self.found.shortfalls.push(line);
        }
        if !self.context.json {
            let names: Vec<_> = manifest.names.iter().map(ToString::to_string).collect();
            let text = format!(
                "took {guest}@{}: {reached}, {:.1} s in all",
                names.join(", "),
                taken.duration.as_secs_f64()
            );
            output::result_of(Some(guest), point, &text);
        }
        let mut value = point_json(manifest);
        value["demanded"] = json!(demanded);
        value
    }
}
