//! The consistent capture: what its plan holds, and what follows from what was done so far.
//!
//! [`plan`] decides the engine, [`next`] the order, [`overlay`] whether a leftover overlay may be
//! committed.

pub mod overlay;
mod plan;

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use self::plan::{CaptureError, Facts, Request, plan};
use crate::inventory::{GuestState, ObjectId, Session};
use crate::manifest::UncoveredDisk;
use crate::name::{GuestName, GuestUuid, PointId, PointName, SnapshotId, Volume};
use crate::operation::{Effect, Fact, History, Next, Outcome, Settle};

/// What a restore point can promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// A pulled power cord.
    Crash,
    /// The guest was shut off.
    Off,
    /// RAM, devices and disks of one instant.
    Memory,
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crash => "crash",
            Self::Off => "off",
            Self::Memory => "memory",
        })
    }
}

/// How a capture is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// libvirt's external snapshot, the volumes' snapshots, and a commit back at once.
    Overlay,
    /// The volumes' snapshots alone.
    Plain,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Overlay => "overlay",
            Self::Plain => "plain",
        })
    }
}

/// Where the point's memory image comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum MemorySource {
    /// The point has none.
    None,
    /// The running guest.
    Dump,
    /// The image that `virsh managedsave` left.
    ManagedSave {
        /// Its path.
        path: PathBuf,
    },
}

/// A disk that the point holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoveredDisk {
    /// The guest's name for it.
    pub target: String,
    /// The image.
    pub path: PathBuf,
    /// Which object that is.
    pub object: ObjectId,
    /// Its format.
    pub format: String,
    /// The volume that it lies on.
    pub volume: Volume,
    /// Its path below the volume's root.
    pub path_in_volume: PathBuf,
    /// The overlay file that the engine uses for it.
    pub overlay: PathBuf,
}

/// A capture, decided in full. What it holds is as secret as the guest's definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturePlan {
    /// The point to be.
    pub point: PointId,
    /// Its name, and its snapshots' name.
    pub name: PointName,
    /// The guest's name now.
    pub guest: GuestName,
    /// The guest.
    pub guest_uuid: GuestUuid,
    /// The boot in which this was planned.
    pub boot: String,
    /// What the guest was doing.
    pub state: GuestState,
    /// The guest's life, if it had one.
    pub session: Option<Session>,
    /// How.
    pub engine: Engine,
    /// Why so.
    pub reason: String,
    /// What the point will promise.
    pub consistency: Consistency,
    /// Where the memory image comes from.
    pub memory: MemorySource,
    /// Whether the guest is suspended while the volumes are snapshotted.
    pub suspend: bool,
    /// The disks that the point will hold.
    pub disks: Vec<CoveredDisk>,
    /// The disks that it will not hold.
    pub uncovered: Vec<UncoveredDisk>,
    /// The volumes to snapshot, sorted.
    pub volumes: Vec<Volume>,
    /// The snapshots of that name or any other that these volumes had before: not ours to destroy.
    pub known_snapshots: Vec<SnapshotId>,
    /// The running guest's definition.
    pub live_xml: Option<String>,
    /// The definition of the next start.
    pub inactive_xml: Option<String>,
    /// The file with UEFI variables.
    pub nvram: Option<PathBuf>,
    /// The machine type.
    pub machine: String,
    /// libvirt's and QEMU's versions.
    pub hypervisor: String,
    /// The kernel's release.
    pub kernel: String,
    /// How long the dump of RAM may take, in seconds.
    pub dump_limit_s: u64,
    /// How long a disk's commit may take, in seconds.
    pub commit_limit_s: u64,
}

impl CapturePlan {
    /// The effects of an undisturbed run, in order.
    pub fn steps(&self) -> Vec<Effect> {
        let mut steps = vec![Effect::StagePoint];
        if matches!(self.memory, MemorySource::ManagedSave { .. }) {
            steps.push(Effect::KeepManagedSave);
        }
        if self.engine == Engine::Overlay {
            steps.push(Effect::ExternalSnapshot);
        }
        if self.suspend {
            steps.push(Effect::Suspend);
        }
        steps.push(Effect::SnapshotVolumes);
        if self.suspend {
            steps.push(Effect::Resume);
        }
        steps.extend(self.overlay_steps(Settle::Commit));
        if self.memory != MemorySource::None {
            steps.push(Effect::SealMemory);
        }
        steps.push(Effect::Publish);
        steps
    }

    /// The disk that the guest knows as `target`.
    pub fn disk(&self, target: &str) -> Option<&CoveredDisk> {
        self.disks.iter().find(|disk| disk.target == target)
    }

    fn overlay_steps(&self, how: Settle) -> Vec<Effect> {
        if self.engine != Engine::Overlay {
            return Vec::new();
        }
        let step = |disk: &CoveredDisk| {
            let target = disk.target.clone();
            [
                Effect::SettleOverlay { target: target.clone(), how },
                Effect::RemoveOverlay { target },
            ]
        };
        self.disks.iter().flat_map(step).collect()
    }
}

/// What follows in a capture.
///
/// Until the snapshots are there, any failure or interruption abandons the point. From then on the
/// point is worth finishing, and a failure to release the guest is kept for repair beside it. After
/// another boot a point that was not being published is abandoned: what its files hold is not
/// known to have reached the disk.
pub fn next(plan: &CapturePlan, history: &History<'_>) -> Next {
    let abandon = is_abandoned(plan, history);
    let how = history.taken_over().map_or(Settle::Commit, |(_, settle)| settle);
    let mut steps = Vec::new();
    if abandon {
        if plan.suspend && history.begun(&Effect::Suspend) {
            steps.push(Effect::Resume);
        }
        let dumped = history.begun(&Effect::ExternalSnapshot);
        if dumped {
            steps.push(Effect::AbortSnapshotJob);
            steps.extend(plan.overlay_steps(how));
        }
        if history.begun(&Effect::SnapshotVolumes) {
            steps.push(Effect::DestroySnapshots);
        }
        if history.begun(&Effect::StagePoint) {
            steps.push(Effect::DiscardPoint);
        }
    } else {
        steps = plan.steps();
        for step in &mut steps {
            if let Effect::SettleOverlay { how: chosen, .. } = step {
                *chosen = how;
            }
        }
    }

    let mut stuck = false;
    for step in steps {
        if is_settled(&step, history) {
            continue;
        }
        if history.failed_now(&step).is_some() {
            stuck = true;
            continue;
        }
        if is_blocked(&step, stuck, history) {
            continue;
        }
        return Next::Perform(step);
    }
    Next::Finished(outcome(abandon, stuck, history))
}

/// Whether a step is over. An overlay counts as settled in whatever way that was.
fn is_settled(step: &Effect, history: &History<'_>) -> bool {
    match step {
        Effect::SettleOverlay { target, .. } => {
            [Settle::Commit, Settle::CommitOffline, Settle::Discard].into_iter().any(|how| {
                history.done(&Effect::SettleOverlay { target: target.clone(), how }).is_some()
            })
        }
        step => history.done(step).is_some(),
    }
}

/// What must not happen while an earlier step is stuck: an overlay in use keeps its file, and the
/// snapshots stay as the proof of what its base holds, and what was staged with them.
fn is_blocked(step: &Effect, stuck: bool, history: &History<'_>) -> bool {
    match step {
        Effect::RemoveOverlay { target } => {
            let (target, how) = (target.clone(), Settle::Commit);
            !is_settled(&Effect::SettleOverlay { target, how }, history)
        }
        Effect::DestroySnapshots | Effect::DiscardPoint => stuck,
        _ => false,
    }
}

fn is_abandoned(plan: &CapturePlan, history: &History<'_>) -> bool {
    // Whatever else the journal says: a published point is never taken apart.
    if history.done(&Effect::Publish).is_some() {
        return false;
    }
    let steps = plan.steps();
    let vital = |step: &&Effect| !is_release(step);
    if steps.iter().filter(vital).any(|step| history.ever_failed(step).is_some()) {
        return true;
    }
    let Some((boot, _)) = history.taken_over() else { return false };
    if history.begun(&Effect::Publish) {
        return false;
    }
    boot != plan.boot || history.done(&Effect::SnapshotVolumes).is_none()
}

fn is_release(step: &Effect) -> bool {
    matches!(step, Effect::Resume | Effect::SettleOverlay { .. } | Effect::RemoveOverlay { .. })
}

fn outcome(abandon: bool, stuck: bool, history: &History<'_>) -> Outcome {
    let published = match history.done(&Effect::Publish) {
        Some(Fact::Published(published)) => Some(published.clone()),
        _ => None,
    };
    match published {
        _ if stuck => Outcome::Unsettled { problems: history.problems_now(), published },
        Some(published) if !abandon => Outcome::Published(published),
        _ => Outcome::Abandoned { problem: history.problems_now().into_iter().next() },
    }
}
