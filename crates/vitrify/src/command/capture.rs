//! Taking restore points: what `snapshot` and `restore` (before it begins) have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use vitrify_core::capture::{
    CapturePlan, Consistency, Engine, GuestRequest, Member, Naming, Request, sets,
};
use vitrify_core::engine::{Observer, plan_capture, run, volumes_of};
use vitrify_core::inventory::Guest;
use vitrify_core::manifest::Manifest;
use vitrify_core::name::{GuestName, GuestUuid, PointName};
use vitrify_core::operation::{Failure, Outcome, Plan};
use vitrify_core::point::Purpose;
use vitrify_core::ports::{Answer, Published};
use vitrify_core::problem::{Problem, ProblemNote};

use crate::command::hooks;
use crate::command::self_test::distrusted;
use crate::context::{Context, Host, new_id};
use crate::pause::Parts;
use crate::progress::Progress;

/// How long a guest's agent may take for an answer. Windows thaws by itself after 10 s.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);

/// What is wanted of the point.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) consistency: Option<Consistency>,
    pub(crate) engine: Option<Engine>,
    pub(crate) name: Option<PointName>,
    pub(crate) purpose: Purpose,
    /// What else it is taken for.
    pub(crate) further_purposes: Vec<Purpose>,
    /// How long the guest should stand still at most, where that is not as for all.
    pub(crate) pause_limit: Option<Duration>,
    /// The time in a name of ours; `None`: that of the attempt.
    pub(crate) named_at: Option<Timestamp>,
}

impl Wanted {
    /// The best that the guest allows, under a name of ours.
    pub(crate) fn best(purpose: Purpose) -> Self {
        Self {
            consistency: None,
            engine: None,
            name: None,
            purpose,
            further_purposes: Vec::new(),
            pause_limit: None,
            named_at: None,
        }
    }
}

/// A point that was taken.
pub(crate) struct Taken {
    pub(crate) manifest: Manifest,
    pub(crate) published: Published,
    /// What the pause was spent on, if it was we who suspended the guest.
    pub(crate) pause: Option<Parts>,
    /// From the first attempt to the end of the last.
    pub(crate) duration: Duration,
    /// What could not be put right afterwards; the journal keeps it for repair.
    pub(crate) problems: Vec<ProblemNote>,
}

/// What became of each guest that a point was wanted of.
pub(crate) type Results = Vec<(GuestName, Answer<Taken>)>;

/// Takes points of guests, their volumes locked meanwhile. Those that share volumes are captured
/// together, so that one snapshot serves them all, and between the configuration's hooks; one that cannot
/// be captured does not keep the others. In the order of the sets. What went wrong with the hooks is
/// added to `hook_failures`, and is nobody's failure to have a point.
pub(crate) fn take(
    context: &Context,
    host: &Host<'_>,
    names: &[GuestName],
    wanted: &Wanted,
    hook_failures: &mut Vec<Problem>,
) -> Answer<Results> {
    let (mut results, mut guests, mut locks) = (Vec::new(), Vec::<Guest>::new(), Vec::new());
    for name in names {
        // Before the first look: while another vitrify works on the guest, it is not what it seems.
        let locked = host.guest(name).and_then(|it| Ok((context.lock(&[&it.uuid], &[])?, it)));
        match locked {
            Ok((_, guest)) if guests.iter().any(|it| it.uuid == guest.uuid) => {}
            Ok((lock, guest)) => {
                locks.push(lock);
                guests.push(guest);
            }
            Err(problem) => results.push((name.clone(), Err(problem))),
        }
    }
    let volumes = volumes_of(host.world().storage, &guests)?;
    let on: Vec<_> = guests.into_iter().zip(volumes).collect();
    for set in sets(&on) {
        let held = on.iter().filter(|(guest, _)| set.contains(guest));
        let volumes: BTreeSet<_> = held.flat_map(|(_, volumes)| volumes.clone()).collect();
        let volumes: Vec<_> = volumes.into_iter().collect();
        match context.lock(&[], &volumes) {
            Ok(_locks) => {
                let (taken, failed) = hooks::capture(context, host, &set, &volumes, wanted);
                hook_failures.extend(failed);
                results.extend(taken?);
            }
            Err(problem) => {
                let failed = |it: &Guest| (it.name.clone(), Err(problem.note().into()));
                results.extend(set.iter().map(failed));
            }
        }
    }
    Ok(results)
}

/// The same for guests that share volumes, and a caller that holds the locks.
///
/// Engines that are not demanded must have passed the self-test, which is carried out where there is no
/// verdict yet. An engine that fails and was not demanded is passed over for the next lower, and the reason is
/// recorded. A guest that fails otherwise is left out, and the others are captured without it.
pub(crate) fn take_locked(
    context: &Context,
    host: &Host<'_>,
    guests: &[Guest],
    wanted: &Wanted,
) -> Answer<Results> {
    let began = Instant::now();
    let (mut results, mut requests) = (Vec::new(), Vec::new());
    for guest in guests {
        match host.check_settled(&guest.name, &guest.uuid) {
            Ok(()) => requests.push(guest_request(&guest.uuid, wanted)?),
            Err(problem) => results.push((guest.name.clone(), Err(problem))),
        }
    }
    let mut trusted = wanted.engine.is_some();
    let name_of =
        |uuid: &GuestUuid| guests.iter().find(|it| it.uuid == *uuid).map(|it| it.name.clone());
    while !requests.is_empty() {
        let planned = plan_capture(&host.world(), &request(context, wanted, requests.clone())?)?;
        for (guest, problem) in planned.refused {
            requests.retain(|it| it.guest != guest);
            results.extend(name_of(&guest).map(|name| (name, Err(problem))));
        }
        let Some(plan) = planned.plan else { break };
        if !trusted {
            trusted = true;
            if let Some(distrusted) = distrusted(context, host, &plan)? {
                for (guest, engine, how) in distrusted {
                    let its = requests.iter_mut().filter(|it| it.guest == guest);
                    its.for_each(|it| it.failed.push((engine, how.clone())));
                }
                // The self-test took its time, and what was planned before it may be stale.
                continue;
            }
        }
        let operation = Plan::Capture(plan.clone());
        let only = match &plan.members[..] {
            [member] => Some(&member.guest),
            _ => None,
        };
        let progress = context.progress(subject(&operation)).about(only, Some(&plan.name));
        let outcome = run(&host.world(), operation, &progress)?;
        let blamed = blamed(&plan, &outcome).filter(|_| !progress.cancelled());
        let Some((member, problem)) = blamed else {
            results.extend(ended(context, &plan, outcome, &progress, began)?);
            break;
        };
        drop(progress);
        let free = wanted.consistency.is_none() && wanted.engine.is_none();
        let is_its = |it: &GuestRequest| it.guest == member.guest_uuid;
        if free && member.engine != Engine::Plain {
            let failed = (member.engine, problem.message);
            requests
                .iter_mut()
                .filter(|it| is_its(it))
                .for_each(|it| it.failed.push(failed.clone()));
        } else {
            requests.retain(|it| !is_its(it));
            results.push((member.guest.clone(), Err(problem.into())));
        }
        // Each attempt makes points of its own.
        for request in &mut requests {
            request.point = new_id()?;
        }
    }
    Ok(results)
}

/// The guests that an operation works on, for people.
pub(crate) fn subject(plan: &Plan) -> String {
    let names: Vec<_> = plan.guests().into_iter().map(|it| it.0.as_str()).collect();
    names.join(", ")
}

/// The guest for whose sake a capture was given up, if it was one guest's.
fn blamed<'a>(plan: &'a CapturePlan, outcome: &Outcome) -> Option<(&'a Member, ProblemNote)> {
    let Outcome::Abandoned { failure: Some(Failure { guest: Some(guest), problem }) } = outcome
    else {
        return None;
    };
    Some((plan.member(guest)?, problem.clone()))
}

/// What a capture that was carried out came to.
fn ended(
    context: &Context,
    plan: &CapturePlan,
    outcome: Outcome,
    progress: &Progress,
    began: Instant,
) -> Answer<Results> {
    let (published, failures, settled) = match outcome {
        Outcome::Captured { published, failures } => (published, failures, true),
        Outcome::Unsettled { published, failures } => (published, failures, false),
        Outcome::Abandoned { failure } => (BTreeMap::new(), failure.into_iter().collect(), true),
        Outcome::Restored | Outcome::Removed { .. } => {
            return Err(Problem::failed("the capture ended as something else"));
        }
    };
    let mut found = context.points()?;
    let mut results = Vec::new();
    for member in &plan.members {
        let concerns = |it: &&Failure| it.guest.as_ref().is_none_or(|guest| *guest == member.guest);
        let own = failures.iter().filter(concerns).map(|it| it.problem.clone());
        let problems: Vec<ProblemNote> = own.collect();
        let result = match published.get(&member.guest) {
            Some(published) => {
                let place = found.iter().position(|point| point.id == member.point);
                let manifest = place.and_then(|place| found.swap_remove(place).manifest.ok());
                let manifest = manifest.ok_or_else(|| {
                    let point = &member.point;
                    Problem::failed(format!("the published point {point} cannot be read back"))
                });
                let (published, duration) = (published.clone(), began.elapsed());
                let pause = progress.pause(&member.guest);
                pause.iter().for_each(|it| progress.say(&format!("paused: {it}")));
                manifest.map(|manifest| Taken { manifest, published, pause, duration, problems })
            }
            None if settled => Err(problems.into_iter().next().map_or_else(
                || Problem::failed(format!("the capture of '{}' was given up", member.guest)),
                Into::into,
            )),
            None => Err(unsettled(&member.guest, problems)),
        };
        results.push((member.guest.clone(), result));
    }
    Ok(results)
}

/// What to tell of an operation that could not be put right.
pub(crate) fn unsettled(guest: &GuestName, problems: Vec<ProblemNote>) -> Problem {
    match problems.into_iter().next_back() {
        Some(last) => {
            let hint = last.hint.clone();
            let problem: Problem = last.into();
            problem.hint(hint.unwrap_or_else(|| format!("'vitrify repair {guest}' tries again")))
        }
        None => Problem::failed(format!("an operation on guest '{guest}' is not settled")),
    }
}

/// What the points are to be called.
pub(crate) fn naming(wanted: &Wanted) -> Naming {
    match &wanted.name {
        Some(name) => Naming::Given(name.clone()),
        None => {
            let time = wanted.named_at.unwrap_or_else(Timestamp::now);
            Naming::At(time, wanted.purpose, wanted.further_purposes.clone())
        }
    }
}

/// A request for the planner, under a new id.
pub(crate) fn request(
    context: &Context,
    wanted: &Wanted,
    guests: Vec<GuestRequest>,
) -> Answer<Request> {
    let pause_limit = wanted.pause_limit.unwrap_or(context.config.pause_limit);
    Ok(Request {
        id: new_id()?,
        name: naming(wanted),
        guests,
        overlay_folder: context.overlay_folder.clone(),
        dump_limit_s: context.config.dump_limit.as_secs(),
        commit_limit_s: context.config.commit_limit.as_secs(),
        freeze_limit_s: FREEZE_LIMIT.as_secs(),
        pause_limit_ms: u64::try_from(pause_limit.as_millis()).unwrap_or(u64::MAX),
    })
}

/// What is wanted of one guest, as a point under a new id.
pub(crate) fn guest_request(guest: &GuestUuid, wanted: &Wanted) -> Answer<GuestRequest> {
    Ok(GuestRequest {
        guest: guest.clone(),
        point: new_id()?,
        consistency: wanted.consistency,
        engine: wanted.engine,
        failed: Vec::new(),
    })
}
