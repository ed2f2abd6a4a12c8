//! The engines' self-test: carried out before an engine is first chosen by itself, and by `doctor`.

use vitrify_core::capture::{CapturePlan, Engine};
use vitrify_core::name::{GuestUuid, Volume};
use vitrify_core::ports::Answer;
use vitrify_core::problem::Problem;
use vitrify_core::self_test::{Ground, Verdict, grounds, untried};

use crate::context::{Context, Host};
use crate::progress::note;

/// Engines that a guest is not to be captured by, and why.
pub(crate) type Distrusted = Vec<(GuestUuid, Engine, String)>;

/// What stands against the engines that a plan has chosen by itself, by verdicts that are known or are
/// found now; `None` where nothing does and nothing took time.
///
/// # Errors
/// Only where somebody wants the work to be given up, or libvirt is gone. A self-test that cannot be
/// carried out stands against the engines.
pub(crate) fn distrusted(
    context: &Context,
    host: &Host<'_>,
    plan: &CapturePlan,
) -> Answer<Option<Distrusted>> {
    let (mut took_time, mut untriable) = (false, Vec::new());
    for (ground, volume) in all_grounds(plan, &host.security()?) {
        if context.self_test(host).verdicts().of(&ground).is_some() {
            continue;
        }
        took_time = true;
        if !context.is_quiet() {
            note(&format!(
                "first capture on these versions with {ground}: trying the engines on a guest of \
                 64 MiB; some seconds"
            ));
        }
        match carry_out(context, host, &ground, &volume, false) {
            Ok(_) => {}
            Err(problem) if context.is_cancelled() => return Err(problem),
            Err(problem) => untriable.push((ground, problem.chain())),
        }
    }
    let mut found = known_obstacles(context, host, plan)?;
    for member in &plan.members {
        for (ground, _) in grounds(plan, member, &host.security()?) {
            let why = untriable.iter().find(|(it, _)| *it == ground);
            let obstacles = why.map(|(ground, why)| untried(ground, why)).unwrap_or_default();
            let of_it = |(engine, how)| (member.guest_uuid.clone(), engine, how);
            found.extend(obstacles.into_iter().map(of_it));
        }
    }
    Ok((took_time || !found.is_empty()).then_some(found))
}

/// What stands against the engines of a plan by verdicts that are known.
pub(crate) fn known_obstacles(
    context: &Context,
    host: &Host<'_>,
    plan: &CapturePlan,
) -> Answer<Distrusted> {
    let (security, verdicts) = (host.security()?, context.self_test(host).verdicts());
    let mut found = Vec::new();
    for member in &plan.members {
        let grounds = grounds(plan, member, &security);
        let obstacles =
            grounds.iter().filter_map(|(it, _)| verdicts.of(it)).flat_map(Verdict::obstacles);
        found.extend(obstacles.map(|(engine, how)| (member.guest_uuid.clone(), engine, how)));
    }
    Ok(found)
}

/// Finds a verdict, with progress shown.
pub(crate) fn carry_out(
    context: &Context,
    host: &Host<'_>,
    ground: &Ground,
    volume: &Volume,
    again: bool,
) -> Answer<Verdict> {
    let progress = context.progress("self-test");
    context.self_test(host).judge(ground, volume, again, &progress)
}

/// The grounds that a plan's guests stand on, each once.
pub(crate) fn all_grounds(plan: &CapturePlan, security: &str) -> Vec<(Ground, Volume)> {
    let mut found: Vec<(Ground, Volume)> = Vec::new();
    for (ground, volume) in plan.members.iter().flat_map(|it| grounds(plan, it, security)) {
        if found.iter().all(|(known, _)| *known != ground) {
            found.push((ground, volume));
        }
    }
    found
}

/// What was removed of self-tests that were killed, in words; nothing where there was nothing.
pub(crate) fn sweep(context: &Context, host: &Host<'_>) -> Answer<Option<String>> {
    let swept = context.self_test(host).sweep();
    let removed = swept.map_err(|problem: Problem| {
        let hint = problem.hint.clone();
        let told = Problem::new(problem.kind, "cannot remove what a killed self-test left behind");
        let told = told.from(problem.chain());
        match hint {
            Some(hint) => told.hint(hint),
            None => told,
        }
    })?;
    Ok((!removed.is_empty())
        .then(|| format!("removed what a killed self-test left behind: {}", removed.join("; "))))
}
