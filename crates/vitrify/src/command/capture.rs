//! Taking one restore point: what `snapshot` and `restore` (before it begins) have in common.

use std::time::{Duration, Instant};

use vitrify_core::capture::{Consistency, Engine, Request};
use vitrify_core::engine::{Observer, plan_capture, run};
use vitrify_core::inventory::Guest;
use vitrify_core::manifest::Manifest;
use vitrify_core::name::{GuestName, PointName};
use vitrify_core::operation::{Outcome, Plan};
use vitrify_core::point::{Purpose, name_at};
use vitrify_core::ports::{Answer, FoundPoint, Published};
use vitrify_core::problem::{Problem, ProblemNote};

use crate::context::{Context, Host, new_id};

/// What is wanted of the point.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) consistency: Option<Consistency>,
    pub(crate) engine: Option<Engine>,
    pub(crate) name: Option<PointName>,
    pub(crate) purpose: Purpose,
}

impl Wanted {
    /// The best that the guest allows, under a name of ours.
    pub(crate) fn best(purpose: Purpose) -> Self {
        Self { consistency: None, engine: None, name: None, purpose }
    }
}

/// A point that was taken.
pub(crate) struct Taken {
    pub(crate) manifest: Manifest,
    pub(crate) published: Published,
    /// From the first attempt to the end of the last.
    pub(crate) duration: Duration,
    /// What could not be put right afterwards; the journal keeps it for repair.
    pub(crate) problems: Vec<ProblemNote>,
}

/// Takes a point of a guest, its volumes locked meanwhile. Where the overlay engine fails and was
/// not demanded, the disks alone are captured and the reason is recorded.
pub(crate) fn take(
    context: &Context,
    host: &Host<'_>,
    guest: &GuestName,
    wanted: &Wanted,
) -> Answer<Taken> {
    let guest = host.guest(guest)?;
    // Before the first look: while another vitrify works on the guest, it is not what it seems.
    let _guest = context.lock(&guest.uuid, &[])?;
    let request = request(context, wanted, None)?;
    let preview = plan_capture(&host.world(), &named(host, &guest, wanted, request)?, &guest.uuid)?;
    let _volumes = context.lock_volumes(&preview.volumes)?;
    take_locked(context, host, &guest, wanted)
}

/// The same for a caller that holds the locks.
pub(crate) fn take_locked(
    context: &Context,
    host: &Host<'_>,
    guest: &Guest,
    wanted: &Wanted,
) -> Answer<Taken> {
    host.check_settled(&guest.name, &guest.uuid)?;
    let began = Instant::now();
    let first = attempt(context, host, guest, wanted, None, began);
    let free = wanted.consistency.is_none() && wanted.engine.is_none();
    match first {
        Err(Failure { problem, engine: Some(Engine::Overlay), .. })
            if free && !context.progress(guest.name.as_str()).cancelled() =>
        {
            let reason = format!("no memory image: {}", problem.chain());
            attempt(context, host, guest, wanted, Some(reason), began)
                .map_err(|failure| failure.problem)
        }
        other => other.map_err(|failure| failure.problem),
    }
}

/// A capture that was given up, and the engine that was tried, if its world is as before.
struct Failure {
    problem: Problem,
    engine: Option<Engine>,
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self { problem, engine: None }
    }
}

fn attempt(
    context: &Context,
    host: &Host<'_>,
    guest: &Guest,
    wanted: &Wanted,
    plain_because: Option<String>,
    began: Instant,
) -> Result<Taken, Failure> {
    let world = host.world();
    let request = named(host, guest, wanted, request(context, wanted, plain_because)?)?;
    let plan = plan_capture(&world, &request, &guest.uuid)?;
    let (id, engine) = (plan.point.clone(), plan.engine);
    let progress = context.progress(guest.name.as_str());
    let (published, problems) = match run(&world, Plan::Capture(plan), &progress)? {
        Outcome::Published(published) => (published, Vec::new()),
        Outcome::Unsettled { published: Some(published), problems } => (published, problems),
        Outcome::Unsettled { published: None, problems } => {
            return Err(unsettled(&guest.name, problems).into());
        }
        Outcome::Abandoned { problem: Some(problem) } => {
            return Err(Failure { problem: problem.into(), engine: Some(engine) });
        }
        Outcome::Abandoned { problem: None } | Outcome::Restored => {
            return Err(Problem::failed("the capture ended without a point").into());
        }
    };
    drop(progress);
    let is_it = |point: &FoundPoint| point.id == id;
    let found = context.points()?.into_iter().find(is_it);
    let manifest = found
        .and_then(|point| point.manifest.ok())
        .ok_or_else(|| Problem::failed(format!("the published point {id} cannot be read back")))?;
    Ok(Taken { manifest, published, duration: began.elapsed(), problems })
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

/// A request for the planner, under a new id.
pub(crate) fn request(
    context: &Context,
    wanted: &Wanted,
    plain_because: Option<String>,
) -> Answer<Request> {
    let name = match &wanted.name {
        Some(name) => name.clone(),
        None => name_at(jiff::Timestamp::now(), wanted.purpose)
            .map_err(|error| Problem::failed("cannot name the point").from(error))?,
    };
    Ok(Request {
        point: new_id()?,
        name,
        consistency: wanted.consistency,
        engine: wanted.engine,
        plain_because,
        overlay_folder: context.overlay_folder.clone(),
        dump_limit_s: context.config.dump_limit.as_secs(),
        commit_limit_s: context.config.commit_limit.as_secs(),
    })
}

/// Gives a point that was not named by the user the first name from now on, second by second, that
/// its volumes do not have yet: several guests of one volume can be captured in one second.
fn named(host: &Host<'_>, guest: &Guest, wanted: &Wanted, mut request: Request) -> Answer<Request> {
    use vitrify_core::engine::snapshot_names;
    if wanted.name.is_some() {
        return Ok(request);
    }
    let taken = snapshot_names(&host.world(), guest)?;
    let mut time = jiff::Timestamp::now();
    while taken.contains(&request.name) {
        time = time.saturating_add(jiff::SignedDuration::from_secs(1)).unwrap_or(time);
        request.name = name_at(time, wanted.purpose)
            .map_err(|error| Problem::failed("cannot name the point").from(error))?;
    }
    Ok(request)
}
