//! Volumes without guests: what `run`, `prune` and `status` have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::slice::from_ref;

use jiff::tz::TimeZone;
use serde_json::{Value, json};
use vitrify_core::capture::{Naming, names};
use vitrify_core::engine::volumes_of;
use vitrify_core::hooks::Work;
use vitrify_core::inventory::{FoundSnapshot, Guest, Owner, Snapshot};
use vitrify_core::name::{PointId, PointName, Volume};
use vitrify_core::point::Purpose;
use vitrify_core::policy::Period;
use vitrify_core::policy::due::due;
use vitrify_core::policy::metrics::VolumeMetrics;
use vitrify_core::policy::retention::{Retention, retention, taken};
use vitrify_core::policy::status::{Level, Standing, standing};
use vitrify_core::ports::{Answer, Clock, Storage};
use vitrify_core::problem::{Problem, ProblemKind};
use vitrify_core::volumes::ledger::{Begun, Ledger};
use vitrify_core::volumes::{Assigned, Claim, Claimant, Covered, Seen, assign};
use vitrify_host::ledger::LedgerFile;
use vitrify_host::rival;

use crate::command::confirm::confirm_drastic;
use crate::command::hooks;
use crate::command::prune::{explain_one, tell_pruned};
use crate::command::removal::Removed;
use crate::command::run::{Guests, explain_due};
use crate::configuration::time_zone;
use crate::context::{Context, new_id};
use crate::exit::{DONE, Status};
use crate::output;
use crate::progress::note;

/// The volumes that rules hold for, and what stands against others.
#[derive(Debug, Default)]
pub(crate) struct Volumes<'a> {
    /// Those that are ours to keep.
    pub(crate) covered: Vec<Covered<'a>>,
    /// Those that sanoid takes care of as well, and what starts it.
    pub(crate) rivals: Vec<(Volume, &'static str)>,
    /// Those of a rule that are not there, or that something contradicts.
    pub(crate) unfit: Vec<(Volume, Problem)>,
    /// Those below a rule's that are left alone, and why.
    pub(crate) left: Vec<(Volume, String)>,
}

/// Finds them. Where nobody asked libvirt (`None`), no guest has any.
///
/// # Errors
/// Where the guests' definitions, or sanoid's, cannot be read.
pub(crate) fn look<'a>(
    context: &'a Context,
    storage: &dyn Storage,
    guests: Option<&Guests<'_>>,
) -> Answer<Volumes<'a>> {
    let mut found = Volumes::default();
    let mut seen = Vec::new();
    for rule in &context.config.volumes {
        match storage.volumes(&rule.volume, rule.recursive) {
            Ok(volumes) => seen.push(Seen { rule, volumes }),
            Err(problem) => {
                let hint = problem.hint.clone();
                let message = format!("{}: {}", rule.place, problem.chain());
                let problem = Problem::new(problem.kind, message);
                let problem = hint.into_iter().fold(problem, Problem::hint);
                found.unfit.push((rule.volume.clone(), problem));
            }
        }
    }
    if seen.is_empty() {
        return Ok(found);
    }
    let mut claims = guests.map_or(Ok(Vec::new()), |guests| of_guests(storage, guests))?;
    claims.extend(of_store(context, storage, &seen));
    let Assigned { covered, refused, left } = assign(&seen, &claims);
    found.unfit.extend(refused.into_iter().map(|(volume, error)| (volume, error.into())));
    found.left = left;
    let datasets = covered.iter().map(|it| &it.volume).filter(|it| !it.is_path()).cloned();
    if let Some(rival) = rival::sanoid(&datasets.collect::<Vec<_>>())? {
        found.rivals = rival.volumes.into_iter().map(|it| (it, rival.starter)).collect();
    }
    found.covered = covered;
    found.covered.retain(|it| !found.rivals.iter().any(|rival| rival.0 == it.volume));
    Ok(found)
}

/// What guests with a rule have.
fn of_guests(storage: &dyn Storage, guests: &Guests<'_>) -> Answer<Vec<Claim>> {
    let all: Vec<Guest> = guests.covered.iter().map(|it| it.0.clone()).collect();
    let mut claims = Vec::new();
    for ((guest, rule), volumes) in guests.covered.iter().zip(volumes_of(storage, &all)?) {
        for volume in volumes {
            // A subvolume may be mounted at several places.
            let object = match volume.is_path() {
                true => storage.volumes(&volume, false)?.first().map(|it| it.object.clone()),
                false => None,
            };
            let by = Claimant::Guest(guest.name.clone(), rule.place.clone());
            claims.push(Claim { by, volume, object });
        }
    }
    Ok(claims)
}

/// What the memory store is, where it is a volume of its own, and the homes in it.
fn of_store(context: &Context, storage: &dyn Storage, seen: &[Seen<'_>]) -> Vec<Claim> {
    let path = context.homes.path();
    let location = storage.locate(&[path.to_owned()]).pop().and_then(Result::ok);
    let is_home = |volume: &Volume| match &location {
        _ if volume.is_path() => volume.as_ref().starts_with(path),
        Some(it) if it.volume == *volume => {
            it.path_in_volume.as_ref().is_some_and(|it| it.as_os_str().is_empty())
        }
        Some(it) => {
            let below = volume.as_str().strip_prefix(it.volume.as_str());
            let name = below.and_then(|it| it.strip_prefix('/')?.split('/').next());
            name.is_some_and(|it| it.parse::<PointId>().is_ok())
        }
        None => false,
    };
    let all = seen.iter().flat_map(|it| &it.volumes);
    let homes = all.filter(|it| is_home(&it.volume)).map(|it| Claim {
        by: Claimant::Store,
        volume: it.volume.clone(),
        object: Some(it.object.clone()),
    });
    homes.collect()
}

/// Takes and prunes the snapshots of volumes, or says what it would do.
pub(crate) struct Keeper<'a> {
    context: &'a Context,
    storage: &'a dyn Storage,
    clock: &'a dyn Clock,
    zone: TimeZone,
    dry_run: bool,
    volumes: Volumes<'a>,
    /// Those of which taking failed.
    failed: BTreeSet<Volume>,
    file: LedgerFile,
    ledger: Ledger,
    pub(crate) status: Status,
    /// What went wrong, a line each.
    pub(crate) failures: Vec<String>,
    /// The snapshots that were taken.
    pub(crate) taken: Vec<Value>,
    /// What went, or would go.
    pub(crate) pruned: Vec<Value>,
}

impl<'a> Keeper<'a> {
    /// Finds the volumes, and settles what a crash left. Which volumes there are that nothing is done
    /// about is told.
    ///
    /// # Errors
    /// Where nobody can say which volumes are meant or what was taken of them.
    pub(crate) fn new(
        context: &'a Context,
        storage: &'a dyn Storage,
        clock: &'a dyn Clock,
        dry_run: bool,
        guests: Option<&Guests<'_>>,
    ) -> Answer<Self> {
        let file = context.ledger_file();
        let mut ledger = file.read()?;
        if settle(storage, &mut ledger)? && !dry_run {
            file.write(&ledger)?;
        }
        let mut keeper = Self {
            context,
            storage,
            clock,
            zone: time_zone(&context.config)?,
            dry_run,
            volumes: look(context, storage, guests)?,
            failed: BTreeSet::new(),
            file,
            ledger,
            status: DONE,
            failures: Vec::new(),
            taken: Vec::new(),
            pruned: Vec::new(),
        };
        keeper.tell_unfit();
        Ok(keeper)
    }

    fn fail(&mut self, what: &str, problem: &Problem) {
        self.status = self.status.and(output::problem(problem));
        self.failures.push(format!("{what}: {}", problem.chain()));
    }

    fn write(&self) -> Answer<()> {
        self.file.write(&self.ledger)
    }

    fn tell_unfit(&mut self) {
        for (volume, problem) in std::mem::take(&mut self.volumes.unfit) {
            self.fail(&format!("{volume}: not taken and not pruned"), &problem);
        }
        for (volume, starter) in &self.volumes.rivals {
            note(&format!(
                "warning: {volume}: nothing is taken or pruned: {starter} is active and takes care \
                 of it"
            ));
        }
        if self.context.is_verbose() {
            let left = self.volumes.left.iter();
            left.for_each(|(volume, why)| note(&format!("{volume}: left alone: {why}")));
        }
    }

    /// Takes what is due. Volumes of one rule for which the same is due are taken together.
    pub(crate) fn take(&mut self) {
        let covered = self.volumes.covered.clone();
        let all: Vec<_> = covered.iter().map(|it| it.volume.clone()).collect();
        let found = match self.storage.snapshots(&all) {
            Ok(found) => found,
            Err(problem) => {
                self.fail("volumes: nothing is taken", &problem);
                self.failed.extend(all);
                return;
            }
        };
        let now = self.clock.now().to_zoned_datetime(self.zone.clone());
        let mut sets: BTreeMap<(usize, Vec<Period>), Vec<Volume>> = BTreeMap::new();
        for Covered { volume, rule } in &covered {
            let taken = taken(&self.ledger.facts(volume, &found));
            let due = due(&rule.policy.policy, &taken, &now);
            explain_due(self.context, self.dry_run, None, volume.as_str(), &due);
            let place = self.context.config.volumes.iter().position(|it| std::ptr::eq(it, *rule));
            if !due.is_empty() {
                let periods = due.iter().map(|it| it.period).collect();
                let set = sets.entry((place.unwrap_or_default(), periods)).or_default();
                set.push(volume.clone());
            }
        }
        if self.dry_run {
            return;
        }
        for ((_, periods), volumes) in sets {
            if self.context.is_cancelled() {
                let told = Problem::new(ProblemKind::Dying, "the tick was interrupted");
                self.fail("volumes: not all was taken", &told);
                break;
            }
            if let Err(problem) = self.take_set(&volumes, &periods, &found) {
                let what: Vec<_> = volumes.iter().map(Volume::as_str).collect();
                self.fail(&format!("{}: no snapshot", what.join(", ")), &problem);
                self.failed.extend(volumes);
            }
        }
    }

    /// Takes one snapshot of each of these volumes, under one name, between the hooks for that.
    fn take_set(
        &mut self,
        volumes: &[Volume],
        periods: &[Period],
        found: &[FoundSnapshot],
    ) -> Answer<()> {
        let _lock = self.context.lock(&[], volumes)?;
        let time = self.clock.now();
        // They are called by the longest period.
        let mut purposes = periods.iter().rev().copied().map(Purpose::Scheduled);
        let Some(first) = purposes.next() else { return Ok(()) };
        let its = found.iter().map(|it| &it.snapshot).filter(|it| volumes.contains(&it.volume));
        let naming = Naming::At(time, first, purposes.collect());
        let (name, further) = names(&naming, &its.collect::<Vec<_>>())
            .map_err(|error| Problem::failed("the snapshot cannot be named").from(error))?;
        let begun = Begun {
            id: new_id()?,
            names: std::iter::once(name).chain(further).collect(),
            time,
            volumes: volumes.to_vec(),
        };
        let work =
            Work { guests: Vec::new(), volumes: volumes.to_vec(), names: begun.names.clone() };
        let context = self.context;
        let mut problems = Vec::new();
        let result = hooks::snapshot(context, &work, &mut problems, || self.perform(begun));
        for problem in &problems {
            self.fail("volumes", problem);
        }
        result.map(|taken| self.tell_taken(&taken, &work.names))
    }

    /// The snapshots of what is begun now; it is written down before.
    fn perform(&mut self, begun: Begun) -> Answer<Vec<Snapshot>> {
        let (id, volumes) = (begun.id.clone(), begun.volumes.clone());
        let name = begun.names.first().cloned();
        let name = name.ok_or_else(|| Problem::failed("a snapshot without a name"))?;
        self.ledger.begin(begun);
        self.write()?;
        let owner = Owner { guest: None, point: id.clone() };
        let taken = self.storage.snapshot(&volumes, &name, from_ref(&owner));
        match taken {
            Ok(snapshots) => {
                self.ledger.finish(&id, snapshots.clone());
                self.write()?;
                Ok(snapshots)
            }
            Err(problem) => {
                if problem.kind == ProblemKind::Refused {
                    // What is called so is somebody else's. After another problem the next tick looks.
                    self.ledger.finish(&id, Vec::new());
                    self.write()?;
                }
                Err(problem)
            }
        }
    }

    fn tell_taken(&mut self, taken: &[Snapshot], names: &[PointName]) {
        for it in taken {
            self.taken.push(json!({
                "volume": it.volume, "snapshot": it.name, "guid": it.id, "names": names,
            }));
            if !self.context.json {
                let names: Vec<_> = names.iter().map(ToString::to_string).collect();
                output::result(&format!("took {}@{}\n", it.volume, names.join(", ")));
            }
        }
    }

    /// Removes what the policies keep no longer, of no volume that failed.
    pub(crate) fn prune(&mut self) {
        let mut covered = self.volumes.covered.clone();
        covered.retain(|it| !self.failed.contains(&it.volume));
        let all: Vec<_> = covered.iter().map(|it| it.volume.clone()).collect();
        let found = match self.storage.snapshots(&all) {
            Ok(found) => found,
            Err(problem) => return self.fail("volumes: nothing is pruned", &problem),
        };
        for it in &covered {
            if self.context.is_cancelled() {
                break;
            }
            if let Err(problem) = self.prune_one(it, &found) {
                self.fail(&format!("{}: not pruned", it.volume), &problem);
            }
        }
    }

    fn prune_one(&mut self, of: &Covered<'_>, found: &[FoundSnapshot]) -> Answer<()> {
        let Covered { volume, rule } = of;
        let facts = self.ledger.facts(volume, found);
        let decided = retention(&rule.policy.policy, &facts, self.clock.now());
        for (_, name, verdict) in &decided.names {
            explain_one(self.context, volume.as_str(), name.as_str(), verdict);
        }
        let doomed: Vec<_> = decided.doomed().into_iter().cloned().collect();
        if !doomed.is_empty() && decided.is_drastic() {
            let (count, all) = (doomed.len(), facts.len());
            let loss = format!("{count} of {all} snapshots of volume '{volume}' would go");
            let whose = ("volume", volume.as_str());
            confirm_drastic(self.context, self.dry_run, whose, &loss)?;
        }
        let left = match self.dry_run {
            true => Vec::new(),
            false => {
                let Some(left) = self.remove(volume, &doomed, found)? else { return Ok(()) };
                left
            }
        };
        self.tell_pruned(volume, &decided, &doomed, &left);
        if !self.dry_run && self.ledger.misses(volume, &left) {
            // What a drive has that is away is not known to be gone.
            self.storage.volumes(volume, false)?;
            self.ledger.forget(volume, &left);
            self.write()?;
        }
        Ok(())
    }

    /// Removes the snapshots of these ids between the hooks for that; those that the volume has then.
    /// `None` where a hook forbids it.
    fn remove(
        &mut self,
        volume: &Volume,
        doomed: &[PointId],
        found: &[FoundSnapshot],
    ) -> Answer<Option<Vec<FoundSnapshot>>> {
        if doomed.is_empty() {
            let its = found.iter().filter(|it| it.snapshot.volume == *volume).cloned();
            return Ok(Some(its.collect()));
        }
        let _lock = self.context.lock(&[], from_ref(volume))?;
        let those = doomed.iter().filter_map(|id| self.ledger.snapshot(volume, id));
        let those: Vec<_> = those.map(|it| it.snapshot.clone()).collect();
        let work = Work {
            guests: Vec::new(),
            volumes: vec![volume.clone()],
            names: those.iter().map(|it| it.name.clone()).collect(),
        };
        let mut problems = Vec::new();
        let removed = hooks::removal(self.context, &work, &mut problems, || {
            self.storage.destroy(&those)?;
            Ok(Removed { destroyed: Vec::new(), failures: Vec::new() })
        });
        let is_forbidden = matches!(removed, Ok(None));
        problems.extend(removed.err());
        for problem in &problems {
            self.fail(&format!("{volume}: not pruned"), problem);
        }
        match is_forbidden {
            true => Ok(None),
            false => self.storage.snapshots(from_ref(volume)).map(Some),
        }
    }

    fn tell_pruned(
        &mut self,
        volume: &Volume,
        decided: &Retention,
        doomed: &[PointId],
        left: &[FoundSnapshot],
    ) {
        for id in doomed {
            let Some(it) = self.ledger.snapshot(volume, id) else { continue };
            if left.iter().any(|left| left.snapshot == it.snapshot) {
                continue;
            }
            let verdicts = decided.names.iter().filter(|it| it.0 == *id);
            let Some(served) = verdicts.filter_map(|it| it.2.as_ref().err()).next() else {
                continue;
            };
            let what = format!("{volume}@{}", it.snapshot.name);
            let told = tell_pruned(self.context, self.dry_run, (None, None), &what, served);
            self.pruned.push(told);
        }
    }
}

/// Finds out what became of what was begun and never came to its end, where its volume is there; whether
/// there was any.
fn settle(storage: &dyn Storage, ledger: &mut Ledger) -> Answer<bool> {
    let is_there = |it: &&Volume| storage.volumes(it, false).is_ok();
    let there: Vec<Volume> = ledger.unsettled().into_iter().filter(is_there).cloned().collect();
    if there.is_empty() {
        return Ok(false);
    }
    let found = storage.snapshots(&there)?;
    ledger.settle(&there, &found);
    Ok(true)
}

/// A volume with a rule, and how it stands.
#[derive(Debug, Clone)]
pub(crate) struct SeenVolume {
    pub(crate) volume: Volume,
    /// The newest snapshot.
    pub(crate) newest: Option<Value>,
    pub(crate) standing: Standing,
    pub(crate) metrics: VolumeMetrics,
}

/// How the volumes stand against their policies.
///
/// # Errors
/// Where nobody can say what was taken.
pub(crate) fn judge(
    context: &Context,
    storage: &dyn Storage,
    clock: &dyn Clock,
    volumes: &Volumes<'_>,
) -> Answer<Vec<SeenVolume>> {
    if context.config.volumes.is_empty() {
        return Ok(Vec::new());
    }
    let now = clock.now().to_zoned_datetime(time_zone(&context.config)?);
    let mut ledger = context.ledger_file().read()?;
    settle(storage, &mut ledger)?;
    let all: Vec<_> = volumes.covered.iter().map(|it| it.volume.clone()).collect();
    let found = storage.snapshots(&all)?;
    let covered = volumes.covered.iter().map(|it| {
        let facts = ledger.facts(&it.volume, &found);
        let standing = standing(&it.rule.policy.policy, &facts, &now);
        let newest = facts.iter().max_by_key(|it| it.time);
        let newest = newest.map(|it| json!({ "snapshot": it.names.first(), "time": it.time }));
        let metrics = VolumeMetrics::of(&it.volume, standing.level, &facts);
        SeenVolume { volume: it.volume.clone(), newest, standing, metrics }
    });
    let bad = |volume: &Volume, level: Level, reason: String| SeenVolume {
        volume: volume.clone(),
        newest: None,
        standing: Standing { level, reasons: vec![reason], next: None },
        metrics: VolumeMetrics::of(volume, level, &[]),
    };
    let rivals = volumes.rivals.iter().map(|(volume, starter)| {
        let reason = format!("nothing is taken: {starter} is active and takes care of it");
        bad(volume, Level::Warning, reason)
    });
    let unfit =
        volumes.unfit.iter().map(|(volume, problem)| bad(volume, Level::Critical, problem.chain()));
    let mut seen: Vec<_> = covered.chain(rivals).chain(unfit).collect();
    seen.sort_by(|a, b| a.volume.cmp(&b.volume));
    Ok(seen)
}
