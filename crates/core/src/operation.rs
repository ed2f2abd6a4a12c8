//! An operation: a plan, the effects that carry it out, and the records that its journal keeps.
//!
//! [`next`] is the one decision: from a plan and what has been recorded so far to the next effect,
//! or to the outcome. A first run and a recovery ask the same function.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::capture::{self, CapturePlan};
use crate::inventory::{ObjectId, Snapshot};
use crate::manifest::MemoryImage;
use crate::name::{GuestName, GuestUuid, PointId};
use crate::ports::{Pause, Published};
use crate::problem::{ProblemKind, ProblemNote};
use crate::restore::{self, RestorePlan};

/// What is to be done, decided in full.
#[expect(clippy::large_enum_variant, reason = "there are a few plans in a process, not many")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "kebab-case")]
pub enum Plan {
    /// Take a restore point.
    Capture(CapturePlan),
    /// Put a guest back to a restore point.
    Restore(RestorePlan),
}

impl Plan {
    /// The operation's identity: the new point's id, or the restore's own.
    pub fn id(&self) -> &PointId {
        match self {
            Self::Capture(plan) => &plan.point,
            Self::Restore(plan) => &plan.id,
        }
    }

    /// The guest that it works on.
    pub fn guest(&self) -> (&GuestName, &GuestUuid) {
        match self {
            Self::Capture(plan) => (&plan.guest, &plan.guest_uuid),
            Self::Restore(plan) => (&plan.guest, &plan.guest_uuid),
        }
    }
}

/// How an overlay is got rid of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Settle {
    /// Commit it while the guest runs; refuse where that is not safe.
    Commit,
    /// The operator's word: commit it even though the guest is shut off.
    CommitOffline,
    /// The operator's word: throw away what the guest wrote since the capture.
    Discard,
}

/// One step of an operation. Each may be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "effect", rename_all = "kebab-case")]
pub enum Effect {
    /// Make the home and the staging folder, with definition and firmware variables.
    StagePoint,
    /// Keep a copy of the managed-save image as the point's memory.
    KeepManagedSave,
    /// libvirt's external snapshot: RAM to the store, writes to overlays.
    ExternalSnapshot,
    /// Suspend the guest.
    Suspend,
    /// Snapshot the volumes.
    SnapshotVolumes,
    /// Let the guest run again.
    Resume,
    /// Abort our snapshot job, if it still runs.
    AbortSnapshotJob,
    /// Bring a disk back from its overlay to its base.
    SettleOverlay {
        /// The disk.
        target: String,
        /// How.
        how: Settle,
    },
    /// Delete an overlay file that no definition names.
    RemoveOverlay {
        /// The disk.
        target: String,
    },
    /// Make the memory image durable and hash it. Late, because it takes long and by now no overlay
    /// is left to grow meanwhile.
    SealMemory,
    /// Publish the point.
    Publish,
    /// Destroy the snapshots of a point that will not be published.
    DestroySnapshots,
    /// Remove what was staged of a point that will not be published.
    DiscardPoint,
    /// Copy a file of the point beside the one that it will replace.
    PrepareFile {
        /// The file's label in the plan.
        file: String,
    },
    /// End the guest's QEMU.
    Stop,
    /// Put a prepared file in place.
    SwapFile {
        /// The file's label in the plan.
        file: String,
    },
    /// Put the replaced file back.
    UnswapFile {
        /// The file's label in the plan.
        file: String,
    },
    /// Put the point's definition in place.
    Define,
    /// Put the replaced definition back.
    Redefine,
    /// Start the guest.
    Start,
    /// Remove the managed-save image that belongs to the replaced disks.
    DropManagedSave,
    /// Remove a prepared or replaced file.
    DropFile {
        /// The file's label in the plan.
        file: String,
    },
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StagePoint => f.write_str("stage the point in the guest's home"),
            Self::KeepManagedSave => f.write_str("keep the managed-save image"),
            Self::ExternalSnapshot => f.write_str("dump RAM and put overlays in place"),
            Self::Suspend => f.write_str("suspend the guest"),
            Self::SnapshotVolumes => f.write_str("snapshot the volumes"),
            Self::Resume => f.write_str("resume the guest"),
            Self::AbortSnapshotJob => f.write_str("abort the snapshot job if it still runs"),
            Self::SettleOverlay { target, how: Settle::Discard } => {
                write!(f, "discard the overlay of {target}")
            }
            Self::SettleOverlay { target, .. } => write!(f, "commit the overlay of {target}"),
            Self::RemoveOverlay { target } => write!(f, "remove the overlay file of {target}"),
            Self::SealMemory => f.write_str("make the memory image durable"),
            Self::Publish => f.write_str("publish the point"),
            Self::DestroySnapshots => f.write_str("destroy the unpublished snapshots"),
            Self::DiscardPoint => f.write_str("remove the unpublished point"),
            Self::PrepareFile { file } => write!(f, "copy {file} of the point beside its place"),
            Self::Stop => f.write_str("stop the guest"),
            Self::SwapFile { file } => write!(f, "put {file} in place"),
            Self::UnswapFile { file } => write!(f, "put the replaced {file} back"),
            Self::Define => f.write_str("put the point's definition in place"),
            Self::Redefine => f.write_str("put the replaced definition back"),
            Self::Start => f.write_str("start the guest"),
            Self::DropManagedSave => f.write_str("remove the outdated managed-save image"),
            Self::DropFile { file } => write!(f, "remove the spare copy of {file}"),
        }
    }
}

/// What an effect reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "kebab-case")]
pub enum Fact {
    /// Nothing beyond its being done.
    Done,
    /// The guest was paused for so long.
    Paused(Pause),
    /// The memory image is durable.
    Sealed {
        /// The image.
        memory: MemoryImage,
    },
    /// The snapshots are there.
    Snapshots {
        /// One for each volume of the plan.
        snapshots: Vec<Snapshot>,
        /// When they were taken.
        time: jiff::Timestamp,
    },
    /// The point is published.
    Published(Published),
    /// A file is prepared, and is this object.
    Prepared {
        /// The object.
        object: ObjectId,
    },
}

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record {
    /// An effect is about to be performed. Alone, it means "possibly done".
    Begun {
        /// The effect.
        effect: Effect,
    },
    /// It was performed.
    Done {
        /// The effect.
        effect: Effect,
        /// What it reported.
        fact: Fact,
    },
    /// It failed; it may still have been done in part.
    Failed {
        /// The effect.
        effect: Effect,
        /// How.
        problem: ProblemNote,
    },
    /// Another process took the operation over.
    TakenOver {
        /// The boot that it runs in.
        boot: String,
        /// How an operator wants leftover overlays to be settled.
        settle: Settle,
    },
}

/// An operation in flight, as the journal has it.
#[derive(Debug, Clone, PartialEq)]
pub struct JournalEntry {
    /// The plan.
    pub plan: Plan,
    /// What was recorded, oldest first.
    pub records: Vec<Record>,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// This effect.
    Perform(Effect),
    /// Nothing: it is over.
    Finished(Outcome),
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A capture: the point is published.
    Published(Published),
    /// A restore: the guest is as the point says.
    Restored,
    /// Nothing of it remains; the world is as before.
    Abandoned {
        /// Why, `None` where it was only interrupted.
        problem: Option<ProblemNote>,
    },
    /// Something could not be put right; the journal keeps it for repair.
    Unsettled {
        /// Each thing, its first problem first.
        problems: Vec<ProblemNote>,
        /// Whether a capture's point was published all the same.
        published: Option<Published>,
    },
}

/// Decides what follows from a plan and its records. Pure, total, and the only place where an
/// operation's order is decided.
pub fn next(plan: &Plan, records: &[Record]) -> Next {
    match plan {
        Plan::Capture(plan) => capture::next(plan, &History::of(records)),
        Plan::Restore(plan) => restore::next(plan, &History::of(records)),
    }
}

/// The records, as questions.
#[derive(Debug)]
pub struct History<'a> {
    records: &'a [Record],
    /// Where the present process's own records begin.
    own: usize,
}

impl<'a> History<'a> {
    /// A history of these records.
    pub fn of(records: &'a [Record]) -> Self {
        let own = records
            .iter()
            .rposition(|record| matches!(record, Record::TakenOver { .. }))
            .map_or(0, |index| index + 1);
        Self { records, own }
    }

    /// Whether the effect was begun by anyone, whatever became of it.
    pub fn begun(&self, wanted: &Effect) -> bool {
        self.records
            .iter()
            .any(|record| matches!(record, Record::Begun { effect } if effect == wanted))
    }

    /// Whether the effect may have changed something: begun by anyone, and not refused outright.
    pub fn possibly_done(&self, wanted: &Effect) -> bool {
        let mut open = false;
        for record in self.records {
            match record {
                Record::Begun { effect } if effect == wanted && open => return true,
                Record::Begun { effect } if effect == wanted => open = true,
                Record::Failed { effect, problem }
                    if effect == wanted && problem.kind == ProblemKind::Refused =>
                {
                    open = false;
                }
                _ => {}
            }
        }
        open
    }

    /// What the effect reported, if it was done.
    pub fn done(&self, wanted: &Effect) -> Option<&'a Fact> {
        self.records.iter().rev().find_map(|record| match record {
            Record::Done { effect, fact } if effect == wanted => Some(fact),
            _ => None,
        })
    }

    /// How the effect failed, in anyone's hands.
    pub fn ever_failed(&self, wanted: &Effect) -> Option<&'a ProblemNote> {
        failure(self.records, wanted)
    }

    /// How the effect failed in the present process's hands.
    pub fn failed_now(&self, wanted: &Effect) -> Option<&'a ProblemNote> {
        failure(&self.records[self.own..], wanted)
    }

    /// The boot of the process that took over, and the operator's word, where one did.
    pub fn taken_over(&self) -> Option<(&'a str, Settle)> {
        match self.own.checked_sub(1).map(|index| &self.records[index]) {
            Some(Record::TakenOver { boot, settle }) => Some((boot, *settle)),
            _ => None,
        }
    }

    /// Each problem that the present process met, in order.
    pub fn problems_now(&self) -> Vec<ProblemNote> {
        self.records[self.own..]
            .iter()
            .filter_map(|record| match record {
                Record::Failed { problem, .. } => Some(problem.clone()),
                _ => None,
            })
            .collect()
    }
}

fn failure<'a>(records: &'a [Record], wanted: &Effect) -> Option<&'a ProblemNote> {
    records.iter().find_map(|record| match record {
        Record::Failed { effect, problem } if effect == wanted => Some(problem),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_was_not_done() {
        let effect = Effect::SettleOverlay { target: "vda".into(), how: Settle::Commit };
        let begun = || Record::Begun { effect: effect.clone() };
        let failed = |kind| Record::Failed {
            effect: effect.clone(),
            problem: ProblemNote { kind, message: "no".into(), hint: None },
        };
        let done = || Record::Done { effect: effect.clone(), fact: Fact::Done };
        use ProblemKind::{Failed, Refused};
        for (records, possibly) in [
            (vec![], false),
            (vec![begun()], true),
            (vec![begun(), done()], true),
            (vec![begun(), failed(Failed)], true),
            (vec![begun(), failed(Refused)], false),
            (vec![begun(), failed(Refused), begun()], true),
            (vec![begun(), begun(), failed(Refused)], true),
        ] {
            assert_eq!(History::of(&records).possibly_done(&effect), possibly, "{records:?}");
        }
    }
}
