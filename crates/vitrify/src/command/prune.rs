//! `vitrify prune`: what policies do not keep any longer.

use serde_json::{Value, json};
use vitrify_core::config::GuestRule;
use vitrify_core::inventory::Guest;
use vitrify_core::name::PointId;
use vitrify_core::policy::retention::{Kept, Retention, Served, facts, retention};
use vitrify_core::ports::{Answer, FoundPoint};

use crate::args::PruneArgs;
use crate::command::confirm::confirm_drastic;
use crate::command::removal::{self, Wanted, remove, snapshots_of};
use crate::command::run::look;
use crate::context::{Context, Host};
use crate::exit::{DONE, Status};
use crate::output;
use crate::progress::note;

pub(crate) fn run(context: &Context, args: &PruneArgs) -> Answer<Status> {
    let host = context.host()?;
    let _tick = context.lock_tick()?;
    let guests = look(context, &host)?;
    let mut pruning = Pruning::new(context, &host, args.dry_run)?;
    for (guest, rule) in &guests.covered {
        if args.guests.is_empty() || args.guests.contains(&guest.name) {
            pruning.prune(guest, rule);
        }
    }
    if context.json {
        output::json(&json!({ "version": 1, "pruned": pruning.pruned }));
    }
    Ok(guests.status.and(pruning.status))
}

/// Removes what has served, or says what would go.
pub(crate) struct Pruning<'a> {
    context: &'a Context,
    host: &'a Host<'a>,
    dry_run: bool,
    points: Vec<FoundPoint>,
    pub(crate) status: Status,
    /// What went, or would go.
    pub(crate) pruned: Vec<Value>,
}

impl<'a> Pruning<'a> {
    /// Of the points that there are now.
    pub(crate) fn new(context: &'a Context, host: &'a Host<'a>, dry_run: bool) -> Answer<Self> {
        let points = context.points()?;
        Ok(Self { context, host, dry_run, points, status: DONE, pruned: Vec::new() })
    }

    /// Prunes one guest's points; what stands against it is told.
    pub(crate) fn prune(&mut self, guest: &Guest, rule: &GuestRule) {
        if let Err(problem) = self.try_prune(guest, rule) {
            self.status = self.status.and(output::problem(&problem));
        }
    }

    fn try_prune(&mut self, guest: &Guest, rule: &GuestRule) -> Answer<()> {
        let its: Vec<_> = published(&self.points, guest).collect();
        let facts = facts(its.iter().copied(), &snapshots_of(self.host, &its)?, rule.consistency);
        let decided = retention(&rule.policy.policy, &facts, self.host.world().clock.now());
        explain(self.context, guest, &decided);
        let wanted = wanted(&decided);
        if wanted.points.is_empty() && wanted.images.is_empty() {
            return Ok(());
        }
        let left = match self.dry_run {
            true => Vec::new(),
            false => {
                if decided.is_drastic() {
                    let (doomed, all) = (wanted.points.len(), facts.len());
                    let loss =
                        format!("{doomed} of {all} points of guest '{}' would go", guest.name);
                    confirm_drastic(self.context, &guest.name, &loss)?;
                }
                let whose = removal::Guest { name: &guest.name, uuid: &guest.uuid };
                for failure in remove(self.context, self.host, whose, &wanted)?.failures {
                    self.status = self.status.and(output::problem(&failure.into()));
                }
                self.context.points()?
            }
        };
        self.tell(guest, &decided, &left);
        Ok(())
    }

    /// What has served and is not among the points that are left.
    fn tell(&mut self, guest: &Guest, decided: &Retention, left: &[FoundPoint]) {
        let is_gone = |id: &PointId| !left.iter().any(|it| it.id == *id);
        let is_expired = |id: &PointId| left.iter().all(|it| it.id != *id || it.expired);
        let doomed = decided.doomed();
        for (id, name, verdict) in &decided.names {
            if let (true, Err(served)) = (doomed.contains(id) && is_gone(id), verdict) {
                self.add(&format!("{}@{name}", guest.name), served);
            }
        }
        for (id, verdict) in &decided.images {
            if let (true, Err(served)) = (is_expired(id), verdict) {
                let name = decided.names.iter().find(|it| it.0 == *id).map(|it| it.1.as_str());
                let name = name.unwrap_or_default();
                self.add(&format!("the memory image of {}@{name}", guest.name), served);
            }
        }
    }

    fn add(&mut self, what: &str, why: &Served) {
        self.pruned.push(json!({ "what": what, "why": why.to_string() }));
        if !self.context.json {
            let verb = if self.dry_run { "would prune" } else { "pruned" };
            output::result(&format!("{verb} {what}: {why}\n"));
        }
    }
}

/// A guest's published points.
pub(crate) fn published<'a>(
    points: &'a [FoundPoint],
    guest: &'a Guest,
) -> impl Iterator<Item = &'a FoundPoint> {
    points.iter().filter(|it| it.guest == guest.uuid && it.published)
}

fn wanted(decided: &Retention) -> Wanted {
    let images = decided.images.iter().filter(|it| it.1.is_err()).map(|it| it.0.clone());
    Wanted { points: decided.doomed().into_iter().cloned().collect(), images: images.collect() }
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
