//! The restore: what its plan holds, and what follows from what was done so far.
//!
//! Every file is copied beside its place while the guest still runs; then the guest is stopped and
//! the files change places. Before the stop an interrupted restore is undone, after it it is
//! carried on; one that fails goes back, with the replaced files still there. A disk that is a
//! volume itself (a zvol) cannot change places: a snapshot keeps what it held, and the blocks that
//! differ are written.

mod plan;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use self::plan::{Facts, Request, RestoreError, plan};
use crate::inventory::{Session, Snapshot};
use crate::name::{BadName, GuestName, GuestUuid, PointId, PointName, Volume};
use crate::operation::{Effect, Fact, History, Next, Outcome};

/// A file that a restore puts in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreFile {
    /// What it is to the guest: a disk's target, or a machine file's name.
    pub label: String,
    /// Where it goes.
    pub place: PathBuf,
    /// How it gets there.
    pub how: Replacement,
}

/// How a file gets to its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum Replacement {
    /// It is prepared and then changes places with what lies there.
    Exchange {
        /// Where it comes from.
        source: FileSource,
        /// Where it is prepared: beside its place, under a name of this operation.
        beside: PathBuf,
    },
    /// The place is a block device, a volume itself: the blocks that differ are written. What it
    /// held is kept in a snapshot of this operation until the end.
    Overwrite {
        /// The snapshot of that volume.
        snapshot: Snapshot,
    },
}

/// Where a restored file comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum FileSource {
    /// A volume's snapshot.
    Snapshot {
        /// The snapshot.
        snapshot: Snapshot,
        /// The path below the volume's root.
        path_in_volume: PathBuf,
    },
    /// The point's folder.
    Point {
        /// The file.
        path: PathBuf,
    },
}

/// How the guest comes up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "kebab-case")]
pub enum StartMode {
    /// From the point's memory.
    Resume {
        /// The save image that it is written out to.
        image: PathBuf,
    },
    /// By booting.
    Boot,
    /// Not at all: it was shut off at the capture.
    StayOff,
}

/// A change of the inactive definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefinitionChange {
    /// The point's.
    pub new: String,
    /// What it replaces; `None` where the guest is not defined.
    pub old: Option<String>,
}

/// A restore, decided in full. What it holds is as secret as the guest's definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePlan {
    /// This restore.
    pub id: PointId,
    /// The point that is restored.
    pub point: PointId,
    /// The guest's name in that point.
    pub guest: GuestName,
    /// The guest.
    pub guest_uuid: GuestUuid,
    /// The boot in which this was planned.
    pub boot: String,
    /// The guest's life that is ended, if it had one.
    pub session: Option<Session>,
    /// The files.
    pub files: Vec<RestoreFile>,
    /// The definition, unless it is kept.
    pub definition: Option<DefinitionChange>,
    /// How the guest comes up.
    pub start: StartMode,
    /// Whether it has a managed-save image, which belongs to the disks that are replaced.
    pub managed_save: bool,
    /// Whether it comes up suspended.
    pub paused: bool,
}

impl RestorePlan {
    /// The effects of an undisturbed run, in order.
    pub fn steps(&self) -> Vec<Effect> {
        let each = |step: fn(String) -> Effect| {
            self.files.iter().map(move |file| step(file.label.clone()))
        };
        let resumes = matches!(self.start, StartMode::Resume { .. });
        let mut steps: Vec<_> = each(|file| Effect::PrepareFile { file }).collect();
        steps.extend(resumes.then_some(Effect::PrepareMemory));
        steps.extend([Effect::Stop, Effect::Bar]);
        steps.extend(each(|file| Effect::SwapFile { file }));
        if self.definition.is_some() {
            steps.push(Effect::Define);
        }
        steps.extend([Effect::Unbar, Effect::Start]);
        if self.managed_save {
            steps.push(Effect::DropManagedSave);
        }
        steps.extend(each(|file| Effect::DropFile { file }));
        steps.extend(resumes.then_some(Effect::DropMemory));
        steps
    }

    /// The file of this label.
    pub fn file(&self, label: &str) -> Option<&RestoreFile> {
        self.files.iter().find(|file| file.label == label)
    }

    /// The volumes that its files come from.
    pub fn volumes(&self) -> Vec<Volume> {
        let volume = |file: &RestoreFile| match &file.how {
            Replacement::Exchange { source: FileSource::Snapshot { snapshot, .. }, .. }
            | Replacement::Overwrite { snapshot } => Some(snapshot.volume.clone()),
            Replacement::Exchange { source: FileSource::Point { .. }, .. } => None,
        };
        self.files.iter().filter_map(volume).collect()
    }

    /// The name of the snapshots that keep what was overwritten.
    pub fn kept_name(&self) -> Result<PointName, BadName> {
        format!("vitrify-restore-{}", self.id).parse()
    }

    fn steps_back(&self, history: &History<'_>) -> Vec<Effect> {
        let mut steps = Vec::new();
        for file in self.files.iter().rev().map(|file| file.label.clone()) {
            if history.begun(&Effect::SwapFile { file: file.clone() }) {
                steps.push(Effect::UnswapFile { file });
            }
        }
        if history.begun(&Effect::Define) {
            steps.push(Effect::Redefine);
        }
        steps.extend(history.begun(&Effect::Bar).then_some(Effect::Unbar));
        for file in self.files.iter().map(|file| file.label.clone()) {
            if history.begun(&Effect::PrepareFile { file: file.clone() }) {
                steps.push(Effect::DropFile { file });
            }
        }
        steps.extend(history.begun(&Effect::PrepareMemory).then_some(Effect::DropMemory));
        steps
    }
}

/// What follows in a restore.
pub fn next(plan: &RestorePlan, history: &History<'_>) -> Next {
    let back = is_going_back(plan, history);
    let steps = if back { plan.steps_back(history) } else { plan.steps() };
    for step in steps {
        if history.done(&step).is_some() {
            continue;
        }
        if history.failed_now(&step).is_some() {
            // A file that could not be put back must keep its spare; a spare that could not be
            // removed harms nothing, but is not forgotten.
            if is_drop(&step) {
                continue;
            }
            break;
        }
        return Next::Perform(step);
    }
    let failures = history.failures_now();
    Next::Finished(match (back, is_over(plan, history, back)) {
        (_, false) => Outcome::Unsettled { failures, published: BTreeMap::new() },
        (true, true) => Outcome::Abandoned { failure: failures.into_iter().next() },
        (false, true) => Outcome::Restored,
    })
}

fn is_over(plan: &RestorePlan, history: &History<'_>, back: bool) -> bool {
    let steps = if back { plan.steps_back(history) } else { plan.steps() };
    steps.iter().all(|step| history.done(step).is_some())
}

fn is_going_back(plan: &RestorePlan, history: &History<'_>) -> bool {
    let steps = plan.steps();
    if steps.iter().any(|step| !is_drop(step) && history.ever_failed(step).is_some()) {
        return true;
    }
    history.taken_over().is_some() && !history.begun(&Effect::Stop)
}

fn is_drop(step: &Effect) -> bool {
    matches!(step, Effect::DropManagedSave | Effect::DropFile { .. } | Effect::DropMemory)
}

/// The object that a file was prepared as, from the history.
pub fn prepared<'a>(history: &History<'a>, file: &str) -> Option<&'a crate::inventory::ObjectId> {
    match history.done(&Effect::PrepareFile { file: file.to_owned() }) {
        Some(Fact::Prepared { object }) => Some(object),
        _ => None,
    }
}
