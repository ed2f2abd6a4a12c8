//! `vitrify prune`: what policies do not keep any longer.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use vitrify_core::config::GuestRule;
use vitrify_core::engine::{Listing, volumes_of};
use vitrify_core::hooks::Work;
use vitrify_core::inventory::{FoundSnapshot, Guest};
use vitrify_core::manifest::Manifest;
use vitrify_core::name::{PointId, SnapshotId, Volume};
use vitrify_core::policy::Period;
use vitrify_core::policy::adoption;
use vitrify_core::policy::retention::{Kept, Retention, Served, facts, periods, retention};
use vitrify_core::ports::{Answer, FoundPoint};
use vitrify_core::problem::Problem;
use vitrify_host::rival;

use crate::args::PruneArgs;
use crate::command::confirm::confirm_drastic;
use crate::command::hooks;
use crate::command::removal::{self, Removed, Wanted, remove, volumes_of_points};
use crate::command::run::{Guests, look};
use crate::command::volumes::Keeper;
use crate::context::{Context, Host};
use crate::exit::{DONE, Status};
use crate::output;
use crate::progress::note;

pub(crate) fn run(context: &Context, args: &PruneArgs) -> Answer<Status> {
    let host = context.host()?;
    let _tick = context.lock_tick()?;
    let guests = look(context, &host)?;
    let is_meant = |guest: &Guest| args.guests.is_empty() || args.guests.contains(&guest.name);
    let mut pruning = Pruning::new(context, &host, args.dry_run)?;
    pruning.prune(&guests, is_meant);
    let mut status = guests.status.and(pruning.status);
    // They have no guest that could be named.
    if args.guests.is_empty() && !context.config.volumes.is_empty() {
        let world = host.world();
        let mut keeper =
            Keeper::new(context, world.storage, world.clock, args.dry_run, Some(&guests))?;
        keeper.prune();
        status = status.and(keeper.status);
        pruning.pruned.append(&mut keeper.pruned);
    }
    if context.json {
        output::json(&json!({ "version": 1, "pruned": pruning.pruned }));
    }
    Ok(status)
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
    /// What went wrong, a line each.
    pub(crate) failures: Vec<String>,
}

/// A volume whose snapshots of sanoid's are to be pruned, and the guests that have disks on it.
type Adopted<'g> = (Volume, Vec<(&'g Guest, Option<&'g GuestRule>)>);

impl<'a> Pruning<'a> {
    /// Of the points that there are now.
    pub(crate) fn new(context: &'a Context, host: &'a Host<'a>, dry_run: bool) -> Answer<Self> {
        let points = context.points()?;
        Ok(Self {
            context,
            host,
            dry_run,
            points,
            status: DONE,
            pruned: Vec::new(),
            failures: Vec::new(),
        })
    }

    /// Prunes the points of those guests that are `meant`, and what sanoid took of the volumes of those
    /// whose rules adopt it. All is judged by one look at the storage; what goes is looked at again. What
    /// stands against one guest is told, and does not keep the others.
    pub(crate) fn prune(&mut self, guests: &Guests<'_>, is_meant: impl Fn(&Guest) -> bool) {
        let adopted = self.adopted(guests, &is_meant).unwrap_or_else(|problem| {
            self.fail_sanoids("sanoid's snapshots", &problem);
            Vec::new()
        });
        let meant: Vec<_> = guests.covered.iter().filter(|it| is_meant(&it.0)).collect();
        let its = meant.iter().flat_map(|(guest, _)| published(&self.points, guest));
        let mut volumes = volumes_of_points(its);
        volumes.extend(adopted.iter().map(|it| it.0.clone()));
        let listing = Listing::of(self.host.world().storage, volumes);
        for (guest, rule) in meant {
            if self.is_interrupted() {
                return;
            }
            if let Err(problem) = self.try_prune(guest, rule, &listing) {
                self.fail(guest, &problem);
            }
        }
        let losing = self.that_would_lose(adopted, &listing);
        for (volume, there) in self.without_those_of_sanoid(losing) {
            if self.is_interrupted() {
                return;
            }
            if let Err(problem) = self.prune_sanoids(&volume, &there) {
                self.fail_sanoids(volume.as_str(), &problem);
            }
        }
    }

    /// Whether somebody wants it to be given up, which is told.
    fn is_interrupted(&mut self) -> bool {
        let is_interrupted = self.context.is_cancelled();
        if is_interrupted {
            let problem = Problem::failed("pruning was interrupted");
            self.status = self.status.and(output::problem(&problem));
            self.failures.push(problem.message);
        }
        is_interrupted
    }

    fn fail(&mut self, guest: &Guest, problem: &Problem) {
        let guest = guest.name.as_str();
        self.note(guest, problem, output::problem_of(Some(guest), problem));
    }

    /// The same of what sanoid took.
    fn fail_sanoids(&mut self, of: &str, problem: &Problem) {
        self.note(of, problem, output::problem(problem));
    }

    fn note(&mut self, of: &str, problem: &Problem, status: Status) {
        self.status = self.status.and(status);
        self.failures.push(format!("{of}: not pruned: {}", problem.chain()));
    }

    fn try_prune(&mut self, guest: &Guest, rule: &GuestRule, listing: &Listing<'_>) -> Answer<()> {
        let its: Vec<_> = published(&self.points, guest).collect();
        let snapshots = listing.snapshots(&volumes_of_points(its.iter().copied()))?;
        let facts = facts(its.iter().copied(), &snapshots, rule.consistency);
        let decided = retention(&rule.policy.policy, &facts, self.host.world().clock.now());
        explain(self.context, guest, &decided);
        let wanted = wanted(&decided);
        if wanted.points.is_empty() && wanted.images.is_empty() {
            return Ok(());
        }
        if decided.is_drastic() {
            let (doomed, all) = (wanted.points.len(), facts.len());
            let loss = format!("{doomed} of {all} points of guest '{}' would go", guest.name);
            self.confirm(guest, &loss)?;
        }
        let left = match self.dry_run {
            true => Vec::new(),
            false => {
                let whose = removal::Guest { name: &guest.name, uuid: &guest.uuid };
                let mut problems = Vec::new();
                let removed = hooks::removal(
                    self.context,
                    &work(guest, &its, &wanted),
                    &mut problems,
                    || remove(self.context, self.host, whose, &wanted),
                );
                problems.iter().for_each(|it| self.fail(guest, it));
                let Some(removed) = removed? else { return Ok(()) };
                for failure in removed.failures {
                    self.fail(guest, &failure.into());
                }
                self.context.points()?
            }
        };
        self.tell(guest, &decided, &left);
        Ok(())
    }

    /// The volumes of those guests that are `meant` and whose rules adopt what sanoid took.
    fn adopted<'g>(
        &self,
        guests: &'g Guests<'_>,
        is_meant: impl Fn(&Guest) -> bool,
    ) -> Answer<Vec<Adopted<'g>>> {
        if !guests.covered.iter().any(|(guest, rule)| rule.adopt && is_meant(guest)) {
            return Ok(Vec::new());
        }
        let covered = guests.covered.iter().map(|(guest, rule)| (guest, Some(*rule)));
        let all: Vec<_> = covered.chain(guests.bare.iter().map(|guest| (guest, None))).collect();
        let of_each = volumes_of(
            self.host.world().storage,
            &all.iter().map(|(guest, _)| (*guest).clone()).collect::<Vec<_>>(),
        )?;
        let mut by_volume: BTreeMap<Volume, Vec<(&Guest, Option<&GuestRule>)>> = BTreeMap::new();
        for (volumes, whose) in of_each.into_iter().zip(all) {
            volumes.into_iter().for_each(|it| by_volume.entry(it).or_default().push(whose));
        }
        let adopts = |it: &(&Guest, Option<&GuestRule>)| it.1.is_some_and(|rule| rule.adopt);
        by_volume.retain(|_, there| there.iter().any(|it| adopts(it) && is_meant(it.0)));
        by_volume.retain(|volume, there| {
            match there.iter().find(|it| !adopts(it) || !is_meant(it.0)) {
                Some((guest, _)) => {
                    note(&format!(
                        "{volume}: sanoid's snapshots stay: they are those of '{}', too",
                        guest.name
                    ));
                    false
                }
                None => true,
            }
        });
        Ok(by_volume.into_iter().collect())
    }

    /// Those of these volumes on which something would go; each decision is explained.
    fn that_would_lose<'g>(
        &mut self,
        adopted: Vec<Adopted<'g>>,
        listing: &Listing<'_>,
    ) -> Vec<Adopted<'g>> {
        let mut losing = Vec::new();
        for (volume, there) in adopted {
            let snapshots = match listing.snapshots(&BTreeSet::from([volume.clone()])) {
                Ok(snapshots) => snapshots,
                Err(problem) => {
                    self.fail_sanoids(volume.as_str(), &problem);
                    continue;
                }
            };
            let judged = self.judge_sanoids(&there, &snapshots);
            for (it, verdict) in &judged {
                explain_one(self.context, volume.as_str(), it.snapshot.name.as_str(), verdict);
            }
            if judged.iter().any(|it| it.1.is_err()) {
                losing.push((volume, there));
            }
        }
        losing
    }

    /// Those of these volumes that sanoid itself does not take care of.
    fn without_those_of_sanoid<'g>(&mut self, mut losing: Vec<Adopted<'g>>) -> Vec<Adopted<'g>> {
        if losing.is_empty() {
            return losing;
        }
        let volumes: Vec<_> = losing.iter().map(|it| it.0.clone()).collect();
        match rival::sanoid(&volumes) {
            Ok(None) => {}
            Ok(Some(rival)) => {
                for volume in rival.volumes {
                    losing.retain(|it| it.0 != volume);
                    note(&format!(
                        "warning: {volume}: sanoid's snapshots stay: {} is active and takes care of \
                         them",
                        rival.starter
                    ));
                }
            }
            Err(problem) => {
                self.fail_sanoids("sanoid's snapshots", &problem);
                losing.clear();
            }
        }
        losing
    }

    /// Prunes what sanoid took of one volume, on which these guests have disks.
    fn prune_sanoids(
        &mut self,
        volume: &Volume,
        there: &[(&Guest, Option<&GuestRule>)],
    ) -> Answer<()> {
        // A rehearsal changes nothing, and keeps nobody from what it looks at.
        let _lock = match self.dry_run {
            true => None,
            false => Some(self.context.lock(&[], std::slice::from_ref(volume))?),
        };
        let storage = self.host.world().storage;
        let snapshots = storage.snapshots(std::slice::from_ref(volume))?;
        let judged = self.judge_sanoids(there, &snapshots);
        let doomed =
            judged.iter().filter_map(|(it, verdict)| Some((&it.snapshot, verdict.as_ref().err()?)));
        let doomed: Vec<_> = doomed.collect();
        if doomed.len() * 2 > judged.len() {
            let (count, all) = (doomed.len(), judged.len());
            self.confirm(
                there[0].0,
                &format!("{count} of sanoid's {all} snapshots of {volume} would go"),
            )?;
        }
        let mut left = Vec::new();
        if !self.dry_run && !doomed.is_empty() {
            let those: Vec<_> = doomed.iter().map(|it| it.0.clone()).collect();
            let work = Work {
                guests: there.iter().map(|it| it.0.name.clone()).collect(),
                volumes: vec![volume.clone()],
                names: those.iter().map(|it| it.name.clone()).collect(),
            };
            let mut problems = Vec::new();
            let removed = hooks::removal(self.context, &work, &mut problems, || {
                storage.destroy(&those)?;
                Ok(Removed { destroyed: Vec::new(), failures: Vec::new() })
            });
            problems.extend(removed.err());
            problems.iter().for_each(|it| self.fail_sanoids(volume.as_str(), it));
            left = storage.snapshots(std::slice::from_ref(volume))?;
        }
        for (snapshot, served) in doomed {
            if !left.iter().any(|it| it.snapshot == *snapshot) {
                self.add(None, None, &format!("{volume}@{}", snapshot.name), served);
            }
        }
        Ok(())
    }

    /// What becomes of each snapshot of sanoid's, by the policies of the guests that are there.
    fn judge_sanoids<'s>(
        &self,
        there: &[(&Guest, Option<&GuestRule>)],
        snapshots: &'s [FoundSnapshot],
    ) -> Vec<adoption::Adopted<'s>> {
        let policies: Vec<_> =
            there.iter().filter_map(|it| it.1).map(|it| &it.policy.policy).collect();
        let taken = periods_of(&self.points);
        adoption::adopted(&policies, snapshots, &taken, self.host.world().clock.now())
    }

    /// Goes on with more than half gone only if somebody wants that.
    fn confirm(&self, guest: &Guest, loss: &str) -> Answer<()> {
        confirm_drastic(self.context, self.dry_run, ("guest", guest.name.as_str()), loss)
    }

    /// What has served and is not among the points that are left.
    fn tell(&mut self, guest: &Guest, decided: &Retention, left: &[FoundPoint]) {
        let is_gone = |id: &PointId| !left.iter().any(|it| it.id == *id);
        let is_expired = |id: &PointId| left.iter().all(|it| it.id != *id || it.expired);
        let doomed = decided.doomed();
        for (id, name, verdict) in &decided.names {
            if let (true, Err(served)) = (doomed.contains(id) && is_gone(id), verdict) {
                let what = format!("{}@{name}", guest.name);
                self.add(Some(guest), Some(name.as_str()), &what, served);
            }
        }
        for (id, verdict) in &decided.images {
            if let (true, Err(served)) = (is_expired(id), verdict) {
                let name = decided.names.iter().find(|it| it.0 == *id).map(|it| it.1.as_str());
                let name = name.unwrap_or_default();
                let what = format!("the memory image of {}@{name}", guest.name);
                self.add(Some(guest), Some(name), &what, served);
            }
        }
    }

    fn add(&mut self, guest: Option<&Guest>, point: Option<&str>, what: &str, why: &Served) {
        let about = (guest.map(|it| it.name.as_str()), point);
        self.pruned.push(tell_pruned(self.context, self.dry_run, about, what, why));
    }
}

/// Says what went, or would go, of a guest and its point where it is theirs; the same for programs.
pub(crate) fn tell_pruned(
    context: &Context,
    dry_run: bool,
    (guest, point): (Option<&str>, Option<&str>),
    what: &str,
    why: &Served,
) -> Value {
    if !context.json {
        let verb = if dry_run { "would prune" } else { "pruned" };
        output::result_of(guest, point, &format!("{verb} {what}: {why}"));
    }
    json!({ "what": what, "why": why.to_string() })
}

/// A guest's published points.
pub(crate) fn published<'a>(
    points: &'a [FoundPoint],
    guest: &'a Guest,
) -> impl Iterator<Item = &'a FoundPoint> + Clone {
    points.iter().filter(|it| it.guest == guest.uuid && it.published)
}

/// What the hooks around a removal are told of.
fn work(guest: &Guest, its: &[&FoundPoint], wanted: &Wanted) -> Work {
    let of = |ids: &dyn Fn(&PointId) -> bool| -> Vec<&Manifest> {
        its.iter().filter(|it| ids(&it.id)).filter_map(|it| it.manifest.as_ref().ok()).collect()
    };
    let going = of(&|id| wanted.points.contains(id));
    let changed = of(&|id| wanted.points.contains(id) || wanted.images.contains(id));
    let volumes: BTreeSet<_> =
        changed.iter().flat_map(|it| &it.volumes).map(|it| &it.volume).collect();
    Work {
        guests: vec![guest.name.clone()],
        volumes: volumes.into_iter().cloned().collect(),
        names: going.iter().flat_map(|it| &it.names).cloned().collect(),
    }
}

fn wanted(decided: &Retention) -> Wanted {
    let images = decided.images.iter().filter(|it| it.1.is_err()).map(|it| it.0.clone());
    Wanted { points: decided.doomed().into_iter().cloned().collect(), images: images.collect() }
}

/// For which periods each snapshot of a point was taken.
pub(crate) fn periods_of(points: &[FoundPoint]) -> BTreeMap<&SnapshotId, BTreeSet<Period>> {
    let mut found: BTreeMap<&SnapshotId, BTreeSet<Period>> = BTreeMap::new();
    for manifest in points.iter().filter_map(|it| it.manifest.as_ref().ok()) {
        let periods: Vec<_> = periods(&manifest.names).collect();
        for snapshot in &manifest.volumes {
            found.entry(&snapshot.id).or_default().extend(&periods);
        }
    }
    found
}

/// Every decision and its reason, for who asks for it.
fn explain(context: &Context, guest: &Guest, decided: &Retention) {
    let say = |what: &str, verdict: &_| explain_one(context, guest.name.as_str(), what, verdict);
    decided.names.iter().for_each(|(_, name, verdict)| say(name.as_str(), verdict));
    for (id, verdict) in &decided.images {
        say(&format!("the memory image of {id}"), verdict);
    }
}

pub(crate) fn explain_one(context: &Context, of: &str, what: &str, verdict: &Result<Kept, Served>) {
    if context.is_verbose() {
        note(&match verdict {
            Ok(kept) => format!("{of}: keeps {what}: {kept}"),
            Err(served) => format!("{of}: does not keep {what}: {served}"),
        });
    }
}
