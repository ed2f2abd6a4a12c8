//! The loop that performs what [`crate::operation::next`] decides. Generic over the ports; it does
//! no I/O of its own.

mod hold;
mod listing;
mod look;
mod lost;
mod perform;
mod survey;

pub use self::hold::{hold, is_held_for, release};
pub use self::listing::Listing;
pub use self::look::{Look, look_around};
pub use self::lost::{lost_captures, rebuild, reopen};
pub use self::survey::{Planned, plan_capture, plan_restore, volumes_of};
use crate::capture;
use crate::definition::Definition;
use crate::inventory::Guest;
use crate::operation::{Effect, Fact, JournalEntry, Next, Outcome, Plan, Record, Settle, next};
use crate::ports::{Answer, World};
use crate::problem::{Problem, ProblemKind, ProblemNote};

/// Who watches an operation, and may ask it to stop.
pub trait Observer {
    /// An effect is about to be performed.
    fn begins(&self, effect: &Effect);
    /// It was performed, or failed.
    fn ended(&self, effect: &Effect, result: &Result<Fact, Problem>);
    /// Whether someone wants the operation to be given up. What releases the guest is done anyway.
    fn cancelled(&self) -> bool;
}

/// Performs a plan from its beginning.
///
/// # Errors
/// Only where the journal cannot be opened or closed, or this process is being ended: then the
/// entry stays open for [`take_over`]. What fails otherwise is part of the outcome.
pub fn run(world: &World<'_>, plan: Plan, observer: &dyn Observer) -> Answer<Outcome> {
    world.journal.open(&plan, &[])?;
    drive(world, JournalEntry { plan, records: Vec::new() }, observer)
}

/// Settles an operation that another process left behind.
///
/// # Errors
/// As for [`run`].
pub fn take_over(
    world: &World<'_>,
    mut entry: JournalEntry,
    settle: Settle,
    observer: &dyn Observer,
) -> Answer<Outcome> {
    let record = Record::TakenOver { boot: world.clock.boot()?, settle };
    world.journal.append(&entry.plan, std::slice::from_ref(&record))?;
    entry.records.push(record);
    drive(world, entry, observer)
}

fn drive(world: &World<'_>, mut entry: JournalEntry, observer: &dyn Observer) -> Answer<Outcome> {
    let mut journal = Recorder { world, broken: None, unwritten: Vec::new() };
    loop {
        let effect = match next(&entry.plan, &entry.records) {
            Next::Perform(effect) => effect,
            Next::Finished(outcome) => {
                match outcome {
                    Outcome::Unsettled { .. } => journal.write(&entry.plan).map(drop)?,
                    _ => world.journal.close(&entry.plan)?,
                }
                return Ok(outcome);
            }
        };
        observer.begins(&effect);
        let result = attempt(&mut journal, &mut entry, &effect, observer);
        observer.ended(&effect, &result);
        let record = match result {
            Ok(fact) => Record::Done { effect, fact },
            Err(problem) if problem.kind == ProblemKind::Dying => return Err(problem),
            Err(problem) => Record::Failed { effect, problem: problem.note() },
        };
        // Durable with the next effect's beginning: until then nothing follows from it that a later
        // repair would not find out, and the guest may be standing still.
        journal.unwritten.push(record.clone());
        entry.records.push(record);
    }
}

fn attempt(
    journal: &mut Recorder<'_>,
    entry: &mut JournalEntry,
    effect: &Effect,
    observer: &dyn Observer,
) -> Answer<Fact> {
    if is_cancellable(effect) && observer.cancelled() {
        return Err(Problem::failed("cancelled"));
    }
    let begun = Record::Begun { effect: effect.clone() };
    journal.unwritten.push(begun.clone());
    // A guest that stands still does not wait for the journal's disk.
    if !lets_go_on(effect)
        && let Some(problem) = journal.write(&entry.plan)?
        && !releases(effect)
    {
        return Err(problem.into());
    }
    entry.records.push(begun);
    perform::perform(journal.world, entry, effect)
}

/// Writes records until the journal fails once. From then on only the guest is released, and the
/// rest is left to repair: a full disk must not leave a guest paused.
struct Recorder<'a> {
    world: &'a World<'a>,
    broken: Option<ProblemNote>,
    /// What happened since it was written last.
    unwritten: Vec<Record>,
}

impl Recorder<'_> {
    /// Makes durable what happened. What is known in memory counts also where that cannot be done.
    /// The problem of a broken journal; an error only where this process is being ended.
    fn write(&mut self, plan: &Plan) -> Answer<Option<ProblemNote>> {
        if self.broken.is_none() {
            match self.world.journal.append(plan, &self.unwritten) {
                Err(problem) if problem.kind == ProblemKind::Dying => return Err(problem),
                Err(problem) => self.broken = Some(problem.note()),
                Ok(()) => self.unwritten.clear(),
            }
        }
        Ok(self.broken.clone())
    }
}

/// Steps that may be left out when someone wants to stop.
fn is_cancellable(effect: &Effect) -> bool {
    capture::is_held_together(effect)
        || matches!(
            effect,
            Effect::PrepareFile { .. }
                | Effect::PrepareMemory
                | Effect::Stop
                | Effect::RemovePoint { .. }
                | Effect::ExpireMemory { .. }
        )
}

/// Steps that end a pause or a freeze, and that repair takes again whether it knows of them or not.
fn lets_go_on(effect: &Effect) -> bool {
    matches!(effect, Effect::Resume { .. } | Effect::Thaw { .. })
}

/// Steps that let the guest go. They can be repeated whatever the journal says of them; clearing
/// away cannot: what was destroyed unrecorded, a later repair would believe to be there.
fn releases(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::Resume { .. }
            | Effect::Thaw { .. }
            | Effect::CloseStream { .. }
            | Effect::AbortSnapshotJob { .. }
            | Effect::ListSnapshots { .. }
            | Effect::SettleOverlay { .. }
            | Effect::RemoveOverlay { .. }
            | Effect::Retry { .. }
            | Effect::MarkTorn { .. }
    )
}

/// A guest's definition: the live one, or the inactive one where it is shut off.
fn definition_of(guest: &Guest) -> Answer<Definition> {
    let xml = guest.live_xml.as_ref().or(guest.inactive_xml.as_ref());
    let xml =
        xml.ok_or_else(|| Problem::failed(format!("guest '{}' has no definition", guest.name)))?;
    Definition::parse(xml)
        .map_err(|error| Problem::failed(format!("guest '{}'", guest.name)).from(error))
}
