//! What each effect is in terms of the ports.

mod capture;
mod removal;
mod restore;

use self::capture::Capture;
use self::removal::Removal;
use self::restore::Restore;
use crate::inventory::Session;
use crate::operation::{Effect, Fact, History, JournalEntry, Plan};
use crate::ports::{Answer, World};
use crate::problem::Problem;

/// Performs one effect of an entry.
pub(super) fn perform(world: &World<'_>, entry: &JournalEntry, effect: &Effect) -> Answer<Fact> {
    let history = History::of(&entry.records);
    match &entry.plan {
        Plan::Capture(plan) => Capture { world, plan, history }.perform(effect),
        Plan::Restore(plan) => Restore { world, plan, history }.perform(effect),
        Plan::Removal(plan) => Removal { world, plan, history }.perform(effect),
    }
}

fn misplaced(effect: &Effect) -> Problem {
    Problem::failed(format!("the effect '{effect}' does not belong to this operation"))
}

/// The session that a plan relies on.
fn session_of(session: Option<&Session>) -> Answer<&Session> {
    session.ok_or_else(|| Problem::failed("the plan names no running guest"))
}
