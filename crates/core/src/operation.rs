//! An operation: a plan, the effects that carry it out, and the records that its journal keeps.
//!
//! [`next`] is the one decision: from a plan and what has been recorded so far to the next effect,
//! or to the outcome. A first run and a recovery ask the same function.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::capture::{self, CapturePlan};
use crate::inventory::{AnySnapshot, ObjectId, Snapshot};
use crate::manifest::MemoryImage;
use crate::name::{GuestName, GuestUuid, PointId, SnapshotId, Volume};
use crate::ports::{Pause, Published};
use crate::problem::{ProblemKind, ProblemNote};
use crate::removal::{self, RemovalPlan};
use crate::restore::{self, RestorePlan};

/// What is to be done, decided in full.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "kebab-case")]
pub enum Plan {
    /// Take a restore point.
    Capture(CapturePlan),
    /// Put a guest back to a restore point.
    Restore(RestorePlan),
    /// Remove restore points, or their memory images alone.
    Removal(RemovalPlan),
}

impl Plan {
    /// The operation's identity.
    pub fn id(&self) -> &PointId {
        match self {
            Self::Capture(plan) => &plan.id,
            Self::Restore(plan) => &plan.id,
            Self::Removal(plan) => &plan.id,
        }
    }

    /// The guests that it works on.
    pub fn guests(&self) -> Vec<(&GuestName, &GuestUuid)> {
        match self {
            Self::Capture(plan) => {
                plan.members.iter().map(|it| (&it.guest, &it.guest_uuid)).collect()
            }
            Self::Restore(plan) => vec![(&plan.guest, &plan.guest_uuid)],
            Self::Removal(plan) => vec![(&plan.guest, &plan.guest_uuid)],
        }
    }

    /// The volumes that it works on.
    pub fn volumes(&self) -> Vec<Volume> {
        match self {
            Self::Capture(plan) => plan.volumes.clone(),
            Self::Restore(plan) => plan.volumes(),
            Self::Removal(plan) => plan.volumes(),
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
    StagePoint {
        /// The guest.
        guest: GuestName,
    },
    /// Keep a copy of the managed-save image as the point's memory.
    KeepManagedSave {
        /// The guest.
        guest: GuestName,
    },
    /// Write out what is on its way to the volumes, while the guests still run, and see how long that
    /// takes.
    FlushVolumes,
    /// Make the way ready on which RAM will stream out of QEMU while the guest runs on.
    OpenStream {
        /// The guest.
        guest: GuestName,
    },
    /// libvirt's external snapshot: RAM to the store, writes to overlays.
    ExternalSnapshot {
        /// The guest.
        guest: GuestName,
    },
    /// Have the agent freeze the file systems.
    Freeze {
        /// The guest.
        guest: GuestName,
    },
    /// Suspend the guest.
    Suspend {
        /// The guest.
        guest: GuestName,
    },
    /// Put overlays on the disks of the suspended guest, so that it can go on before the volumes are
    /// snapshotted.
    PutOverlays {
        /// The guest.
        guest: GuestName,
    },
    /// Snapshot the volumes.
    SnapshotVolumes,
    /// Have QEMU begin to stream the RAM of the suspended guest, and wait for its first page: from
    /// then on QEMU keeps each page for the stream before the guest changes it.
    SaveMemory {
        /// The guest.
        guest: GuestName,
    },
    /// Let the guest run again.
    Resume {
        /// The guest.
        guest: GuestName,
    },
    /// Have the agent thaw the file systems.
    Thaw {
        /// The guest.
        guest: GuestName,
    },
    /// Wait for the end of the stream, and judge whether it is of the instant of the snapshots.
    ReceiveMemory {
        /// The guest.
        guest: GuestName,
    },
    /// Take back what streaming needed, and cancel the stream if it still runs.
    CloseStream {
        /// The guest.
        guest: GuestName,
    },
    /// Abort our snapshot job, if it still runs.
    AbortSnapshotJob {
        /// The guest.
        guest: GuestName,
    },
    /// Look which snapshots the guest's volumes have before its disks are brought back.
    ListSnapshots {
        /// The guest.
        guest: GuestName,
    },
    /// Bring a disk back from its overlay to its base.
    SettleOverlay {
        /// The guest.
        guest: GuestName,
        /// The disk.
        target: String,
        /// How.
        how: Settle,
    },
    /// Delete an overlay file that no definition names.
    RemoveOverlay {
        /// The guest.
        guest: GuestName,
        /// The disk.
        target: String,
    },
    /// Let the guest go on where it found no room on an overlay: its disks are back.
    Retry {
        /// The guest.
        guest: GuestName,
    },
    /// Write down which snapshots others took meanwhile: what they hold of the disks is of no instant.
    MarkTorn {
        /// The guest.
        guest: GuestName,
    },
    /// Make the memory image whole and durable. Late, because it takes long and by now no overlay is
    /// left to grow meanwhile.
    SealMemory {
        /// The guest.
        guest: GuestName,
    },
    /// Publish the point.
    Publish {
        /// The guest.
        guest: GuestName,
    },
    /// Destroy the snapshots that no point needs, or will need.
    DestroySnapshots,
    /// Remove what was staged of a point that will not be published.
    DiscardPoint {
        /// The guest.
        guest: GuestName,
    },
    /// Copy a file of the point beside the one that it will replace.
    PrepareFile {
        /// The file's label in the plan.
        file: String,
    },
    /// Write the point's memory out as a save image that libvirt can resume.
    PrepareMemory,
    /// End the guest's QEMU.
    Stop,
    /// Have libvirt refuse to start the guest, whoever asks, while some of its files are in place and
    /// others are not.
    Bar,
    /// Let the guest be started again.
    Unbar,
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
    /// Remove that save image.
    DropMemory,
    /// Take a point out of its home, with all that the home has of it.
    RemovePoint {
        /// The point.
        point: PointId,
    },
    /// Remove a point's memory image. The point stays.
    ExpireMemory {
        /// The point.
        point: PointId,
    },
}

impl Effect {
    /// The guest of a capture that it concerns alone.
    pub fn guest(&self) -> Option<&GuestName> {
        match self {
            Self::StagePoint { guest }
            | Self::KeepManagedSave { guest }
            | Self::OpenStream { guest }
            | Self::ExternalSnapshot { guest }
            | Self::Freeze { guest }
            | Self::Suspend { guest }
            | Self::PutOverlays { guest }
            | Self::SaveMemory { guest }
            | Self::Resume { guest }
            | Self::Thaw { guest }
            | Self::ReceiveMemory { guest }
            | Self::CloseStream { guest }
            | Self::AbortSnapshotJob { guest }
            | Self::ListSnapshots { guest }
            | Self::SettleOverlay { guest, .. }
            | Self::RemoveOverlay { guest, .. }
            | Self::Retry { guest }
            | Self::MarkTorn { guest }
            | Self::SealMemory { guest }
            | Self::Publish { guest }
            | Self::DiscardPoint { guest } => Some(guest),
            _ => None,
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StagePoint { guest } => write!(f, "stage the point in the home of {guest}"),
            Self::KeepManagedSave { guest } => {
                write!(f, "keep the managed-save image of {guest}")
            }
            Self::FlushVolumes => f.write_str("write out what is on its way to the volumes"),
            Self::OpenStream { guest } => write!(f, "open a stream for the RAM of {guest}"),
            Self::ExternalSnapshot { guest } => {
                write!(f, "dump the RAM of {guest} and put overlays in place")
            }
            Self::Freeze { guest } => write!(f, "freeze the file systems of {guest}"),
            Self::Suspend { guest } => write!(f, "suspend {guest}"),
            Self::PutOverlays { guest } => write!(f, "put overlays on the disks of {guest}"),
            Self::SnapshotVolumes => f.write_str("snapshot the volumes"),
            Self::SaveMemory { guest } => write!(f, "begin to save the RAM of {guest}"),
            Self::Resume { guest } => write!(f, "resume {guest}"),
            Self::Thaw { guest } => write!(f, "thaw the file systems of {guest}"),
            Self::ReceiveMemory { guest } => write!(f, "receive the RAM of {guest}"),
            Self::CloseStream { guest } => write!(f, "close the stream of {guest}"),
            Self::AbortSnapshotJob { guest } => {
                write!(f, "abort the snapshot job of {guest} if it still runs")
            }
            Self::ListSnapshots { guest } => write!(f, "look which snapshots {guest} has"),
            Self::SettleOverlay { guest, target, how: Settle::Discard } => {
                write!(f, "discard the overlay of {target} of {guest}")
            }
            Self::SettleOverlay { guest, target, .. } => {
                write!(f, "commit the overlay of {target} of {guest}")
            }
            Self::RemoveOverlay { guest, target } => {
                write!(f, "remove the overlay file of {target} of {guest}")
            }
            Self::Retry { guest } => write!(f, "let {guest} go on if it found no room"),
            Self::MarkTorn { guest } => {
                write!(f, "look which snapshots of {guest} others took meanwhile")
            }
            Self::SealMemory { guest } => write!(f, "make the memory image of {guest} durable"),
            Self::Publish { guest } => write!(f, "publish the point of {guest}"),
            Self::DestroySnapshots => f.write_str("destroy the snapshots that no point needs"),
            Self::DiscardPoint { guest } => write!(f, "remove the unpublished point of {guest}"),
            Self::PrepareFile { file } => write!(f, "copy {file} of the point beside its place"),
            Self::PrepareMemory => f.write_str("write out the memory of the point"),
            Self::Stop => f.write_str("stop the guest"),
            Self::Bar => f.write_str("keep others from starting the guest"),
            Self::Unbar => f.write_str("let the guest be started again"),
            Self::SwapFile { file } => write!(f, "put {file} in place"),
            Self::UnswapFile { file } => write!(f, "put the replaced {file} back"),
            Self::Define => f.write_str("put the point's definition in place"),
            Self::Redefine => f.write_str("put the replaced definition back"),
            Self::Start => f.write_str("start the guest"),
            Self::DropManagedSave => f.write_str("remove the outdated managed-save image"),
            Self::DropFile { file } => write!(f, "remove the spare copy of {file}"),
            Self::DropMemory => f.write_str("remove the spare copy of the memory"),
            Self::RemovePoint { point } => write!(f, "remove the point {point}"),
            Self::ExpireMemory { point } => write!(f, "remove the memory image of point {point}"),
        }
    }
}

/// What an effect reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "kebab-case")]
pub enum Fact {
    /// Nothing beyond its being done.
    Done,
    /// What was on its way to the volumes is written out.
    Flushed {
        /// How long that took.
        took: Duration,
    },
    /// The guest was paused for so long.
    Paused(Pause),
    /// The file systems are thawed.
    Thawed {
        /// Whether they were frozen until now.
        was_frozen: bool,
    },
    /// The guest's RAM has arrived.
    Received {
        /// How long the running guest waited for us.
        stalled: Duration,
        /// How long QEMU took to set the stream up, while the guest stood still.
        setup: Duration,
    },
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
    /// The snapshots that there were.
    Listed {
        /// All of them.
        snapshots: BTreeSet<SnapshotId>,
    },
    /// What is torn is written down.
    Torn {
        /// The snapshots of others.
        snapshots: Vec<AnySnapshot>,
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

/// A step that failed, and the guest of a capture that it concerns alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The guest.
    pub guest: Option<GuestName>,
    /// The problem.
    pub problem: ProblemNote,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A capture: these points are published.
    Captured {
        /// What publishing each guest's did.
        published: BTreeMap<GuestName, Published>,
        /// Why the other guests have none.
        failures: Vec<Failure>,
    },
    /// A restore: the guest is as the point says.
    Restored,
    /// A removal: what could be removed is gone, and nothing is half gone.
    Removed {
        /// Why the rest is as it was.
        failures: Vec<Failure>,
    },
    /// Nothing of it remains; the world is as before.
    Abandoned {
        /// Why, `None` where it was only interrupted.
        failure: Option<Failure>,
    },
    /// Something could not be put right; the journal keeps it for repair.
    Unsettled {
        /// Each failure, the first first.
        failures: Vec<Failure>,
        /// The points of a capture that were published all the same.
        published: BTreeMap<GuestName, Published>,
    },
}

/// Decides what follows from a plan and its records. Pure, total, and the only place where an
/// operation's order is decided.
pub fn next(plan: &Plan, records: &[Record]) -> Next {
    match plan {
        Plan::Capture(plan) => capture::next(plan, &History::of(records)),
        Plan::Restore(plan) => restore::next(plan, &History::of(records)),
        Plan::Removal(plan) => removal::next(plan, &History::of(records)),
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

    /// Whether the effect may have changed something: begun by anyone, and not failed in one of the
    /// ways that come before anything is changed.
    pub fn possibly_done(&self, wanted: &Effect, harmless: &[ProblemKind]) -> bool {
        let mut open = false;
        for record in self.records {
            match record {
                Record::Begun { effect } if effect == wanted && open => return true,
                Record::Begun { effect } if effect == wanted => open = true,
                Record::Failed { effect, problem }
                    if effect == wanted && harmless.contains(&problem.kind) =>
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

    /// What came after the last time that such an effect was done; everything where none was.
    pub fn since_done(&self, such: impl Fn(&Effect) -> bool) -> Self {
        let last = self
            .records
            .iter()
            .rposition(|record| matches!(record, Record::Done { effect, .. } if such(effect)));
        let from = last.map_or(0, |index| index + 1);
        Self { records: &self.records[from..], own: self.own.saturating_sub(from) }
    }

    /// Whether the effect was done in the present process's hands.
    pub fn done_now(&self, wanted: &Effect) -> bool {
        Self { records: &self.records[self.own..], own: 0 }.done(wanted).is_some()
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

    /// Each failure that the present process met, in order.
    pub fn failures_now(&self) -> Vec<Failure> {
        self.records[self.own..]
            .iter()
            .filter_map(|record| match record {
                Record::Failed { effect, problem } => {
                    Some(Failure { guest: effect.guest().cloned(), problem: problem.clone() })
                }
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
        let guest: GuestName = "w".parse().unwrap();
        let effect = Effect::SettleOverlay { guest, target: "vda".into(), how: Settle::Commit };
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
            let found = History::of(&records).possibly_done(&effect, &[Refused]);
            assert_eq!(found, possibly, "{records:?}");
        }
    }
}
