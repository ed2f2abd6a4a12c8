//! The consistent capture: what its plan holds, and what follows from what was done so far.
//!
//! One capture is of a set of guests that share volumes, mostly of one guest. [`sets`] puts guests
//! together, [`plan`] decides each one's engine, [`next`] the order, [`overlay`] whether a leftover
//! overlay may be committed.

mod choose;
mod error;
pub mod overlay;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::error::CaptureError;
pub use self::plan::{Facts, GuestFacts, GuestRequest, Naming, Planned, Request, names, plan};
use crate::inventory::{FoundSnapshot, GuestState, ObjectId, Session, Snapshot};
use crate::manifest::UncoveredDisk;
use crate::name::{Bytes, GuestName, GuestUuid, PointId, PointName, SnapshotId, Volume};
use crate::operation::{Effect, Fact, Failure, History, Next, Outcome, Record, Settle};
use crate::ports::Published;
use crate::problem::{Problem, ProblemKind};

/// What a restore point can promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// A pulled power cord.
    Crash,
    /// The guest's file systems were flushed and frozen by its agent.
    Frozen,
    /// The guest was shut off.
    Off,
    /// RAM, devices and disks of one instant.
    Memory,
}

impl Consistency {
    /// Whether this is what is demanded, or more. A guest that was shut off had no memory to lose.
    pub fn meets(self, demanded: Self) -> bool {
        self >= demanded || self == Self::Off
    }

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Frozen => "frozen",
            Self::Off => "off",
            Self::Memory => "memory",
        }
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a capture is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// The volumes' snapshots while the guest is suspended, and its RAM of that instant, which QEMU
    /// streams out while the guest runs on.
    Instant,
    /// libvirt's external snapshot, the volumes' snapshots, and a commit back at once.
    Overlay,
    /// The guest's agent freezes its file systems during the volumes' snapshots.
    Freeze,
    /// The volumes' snapshots alone.
    Plain,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Instant => "instant",
            Self::Overlay => "overlay",
            Self::Freeze => "freeze",
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
    /// The running guest: what libvirt dumps.
    Dump,
    /// The running guest: what QEMU streams.
    Stream,
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
    /// Its path below the volume's root; `None` where the volume is the image.
    pub path_in_volume: Option<PathBuf>,
    /// The overlay file that the engine uses for it.
    pub overlay: PathBuf,
}

/// A small file that belongs to the machine and not to its disks: firmware variables, the state of
/// an emulated TPM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineFile {
    /// Its name in the point: [`NVRAM`], or the name of a TPM's state.
    pub name: String,
    /// Where the guest has it.
    pub path: PathBuf,
}

/// The name of the UEFI variables in a point.
pub const NVRAM: &str = "nvram";

/// One guest of a capture. What it holds is as secret as the guest's definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The point to be.
    pub point: PointId,
    /// The guest's name now, and its label in this plan.
    pub guest: GuestName,
    /// The guest.
    pub guest_uuid: GuestUuid,
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
    /// Whether the guest is suspended for the snapshots of the volumes: while they are taken, or until
    /// its disks are on overlays.
    pub suspend: bool,
    /// Why a guest that is suspended for `instant` cannot be put on overlays, where that is so.
    pub no_overlays: Option<String>,
    /// The disks that the point will hold.
    pub disks: Vec<CoveredDisk>,
    /// The disks that it will not hold.
    pub uncovered: Vec<UncoveredDisk>,
    /// What an administrator should know of where the disks lie.
    pub warnings: Vec<String>,
    /// The running guest's definition.
    pub live_xml: Option<String>,
    /// The definition of the next start.
    pub inactive_xml: Option<String>,
    /// The files that the point holds beside the disks.
    pub machine_files: Vec<MachineFile>,
    /// The machine type.
    pub machine: String,
}

impl Member {
    /// The disk that the guest knows as `target`.
    pub fn disk(&self, target: &str) -> Option<&CoveredDisk> {
        self.disks.iter().find(|disk| disk.target == target)
    }

    /// The volumes that its disks lie on.
    pub fn volumes(&self) -> BTreeSet<&Volume> {
        self.disks.iter().map(|disk| &disk.volume).collect()
    }
}

/// A capture, decided in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturePlan {
    /// This capture.
    pub id: PointId,
    /// The name of its points and of their snapshots.
    pub name: PointName,
    /// What its points are called as well, for the other periods that they were taken for.
    #[serde(default)]
    pub further_names: Vec<PointName>,
    /// The boot in which this was planned.
    pub boot: String,
    /// The guests.
    pub members: Vec<Member>,
    /// The volumes to snapshot, sorted.
    pub volumes: Vec<Volume>,
    /// The snapshots of that name or any other that these volumes had before: not ours to destroy.
    pub known_snapshots: Vec<SnapshotId>,
    /// libvirt's and QEMU's versions.
    pub hypervisor: String,
    /// The kernel's release.
    pub kernel: String,
    /// How long the dump of RAM may take, in seconds.
    pub dump_limit_s: u64,
    /// How long a disk's commit may take, in seconds.
    pub commit_limit_s: u64,
    /// How long a guest's agent may take for an answer, in seconds.
    pub freeze_limit_s: u64,
    /// How long a guest should stand still at most, in milliseconds.
    pub pause_limit_ms: u64,
}

impl CapturePlan {
    /// All that its points are called.
    pub fn names(&self) -> Vec<PointName> {
        [std::slice::from_ref(&self.name), &self.further_names].concat()
    }

    /// The effects that carry it out undisturbed, in order, as far as that follows from what was
    /// found out so far.
    pub fn steps(&self, history: &History<'_>) -> Vec<Effect> {
        let streamed = |it: &Member| it.engine == Engine::Instant;
        let (apart, held): (Vec<&Member>, Vec<&Member>) = self
            .members
            .iter()
            .filter(|it| it.suspend)
            .partition(|it| self.takes_overlays(it, history));
        let dumped = |it: &Member| it.engine == Engine::Overlay;
        let frozen = |it: &Member| it.engine == Engine::Freeze;
        let saved = |it: &Member| matches!(it.memory, MemorySource::ManagedSave { .. });
        let mut steps = self.each(|_| true, |guest| Effect::StagePoint { guest });
        steps.extend(self.each(saved, |guest| Effect::KeepManagedSave { guest }));
        steps.extend(self.members.iter().any(streamed).then_some(Effect::FlushVolumes));
        steps.extend(self.each(streamed, |guest| Effect::OpenStream { guest }));
        steps.extend(self.each(dumped, |guest| Effect::ExternalSnapshot { guest }));
        // Each guest runs again before the next one's RAM is begun with.
        let resume = |it: &Member| {
            let save = streamed(it).then(|| Effect::SaveMemory { guest: it.guest.clone() });
            save.into_iter().chain([Effect::Resume { guest: it.guest.clone() }])
        };
        let suspend = |it: &&Member| Effect::Suspend { guest: it.guest.clone() };
        for member in &apart {
            steps.extend([suspend(member), Effect::PutOverlays { guest: member.guest.clone() }]);
            steps.extend(resume(member));
        }
        steps.extend(self.each(frozen, |guest| Effect::Freeze { guest }));
        steps.extend(held.iter().map(suspend));
        steps.push(Effect::SnapshotVolumes);
        steps.extend(held.into_iter().flat_map(resume));
        steps.extend(self.each(frozen, |guest| Effect::Thaw { guest }));
        let overlaid = self.members.iter().filter(|it| self.takes_overlays(it, history));
        steps.extend(overlaid.flat_map(|it| overlay_steps(it, Settle::Commit)));
        for member in self.members.iter().filter(|it| streamed(it)) {
            let guest = || member.guest.clone();
            steps.push(Effect::ReceiveMemory { guest: guest() });
            steps.push(Effect::CloseStream { guest: guest() });
        }
        let remembers = |it: &Member| it.memory != MemorySource::None;
        steps.extend(self.each(remembers, |guest| Effect::SealMemory { guest }));
        steps.extend(self.each(|_| true, |guest| Effect::Publish { guest }));
        steps
    }

    /// Whether the volumes are snapshotted while the guest runs on overlays.
    pub fn takes_overlays(&self, member: &Member, history: &History<'_>) -> bool {
        match member.engine {
            Engine::Overlay => true,
            Engine::Instant => {
                history.begun(&Effect::PutOverlays { guest: member.guest.clone() })
                    || member.no_overlays.is_none() && self.slow_flush(history).is_some()
            }
            Engine::Freeze | Engine::Plain => false,
        }
    }

    /// How long the storage took to write out what was on its way, if that leaves too little of the
    /// pause limit for snapshots.
    fn slow_flush(&self, history: &History<'_>) -> Option<Duration> {
        match history.done(&Effect::FlushVolumes) {
            Some(Fact::Flushed { took }) => {
                let limit = Duration::from_millis(self.pause_limit_ms);
                Some(*took).filter(|it| it.saturating_mul(2) > limit)
            }
            _ => None,
        }
    }

    /// Why a member's point was taken as it was.
    pub fn reason(&self, member: &Member, history: &History<'_>) -> String {
        let slow = self.slow_flush(history).filter(|_| member.engine == Engine::Instant);
        let Some(took) = slow else { return member.reason.clone() };
        let so = match &member.no_overlays {
            None => "overlays during the snapshots".to_owned(),
            Some(why) => format!("suspended during the snapshots all the same: {why}"),
        };
        format!(
            "{}; the storage took {} ms to write out, more than half of the pause limit of {} ms: {so}",
            member.reason,
            took.as_millis(),
            self.pause_limit_ms,
        )
    }

    /// Those of its volumes' snapshots that it took: of its name, not there when it was planned, and
    /// for none but its points.
    pub fn own_snapshots(&self, found: Vec<FoundSnapshot>) -> Vec<Snapshot> {
        let is_own = |it: &FoundSnapshot| {
            it.snapshot.name == self.name
                && !self.known_snapshots.contains(&it.snapshot.id)
                && self.members.iter().any(|member| it.may_be_of(&member.point))
        };
        found.into_iter().filter(is_own).map(|it| it.snapshot).collect()
    }

    /// The guest of this name.
    pub fn member(&self, guest: &GuestName) -> Option<&Member> {
        self.members.iter().find(|it| it.guest == *guest)
    }

    fn each(
        &self,
        concerns: impl Fn(&Member) -> bool,
        effect: impl Fn(GuestName) -> Effect,
    ) -> Vec<Effect> {
        let members = self.members.iter().filter(|it| concerns(it));
        members.map(|it| effect(it.guest.clone())).collect()
    }
}

fn overlay_steps(member: &Member, how: Settle) -> Vec<Effect> {
    let step = |disk: &CoveredDisk| {
        let (guest, target) = (member.guest.clone(), disk.target.clone());
        [
            Effect::SettleOverlay { guest: guest.clone(), target: target.clone(), how },
            Effect::RemoveOverlay { guest, target },
        ]
    };
    let guest = || member.guest.clone();
    let mut steps = vec![Effect::ListSnapshots { guest: guest() }];
    steps.extend(member.disks.iter().flat_map(step));
    steps.extend([Effect::Retry { guest: guest() }, Effect::MarkTorn { guest: guest() }]);
    steps
}

/// Puts guests that share volumes together, through others if need be: each set is captured as one,
/// so that one snapshot serves them all. In the order of the guests.
pub fn sets<G: Clone>(guests: &[(G, BTreeSet<Volume>)]) -> Vec<Vec<G>> {
    let mut sets: Vec<(Vec<usize>, BTreeSet<&Volume>)> = Vec::new();
    for (index, (_, volumes)) in guests.iter().enumerate() {
        let mut joined = (vec![index], volumes.iter().collect::<BTreeSet<_>>());
        let (touching, apart): (Vec<_>, Vec<_>) =
            sets.into_iter().partition(|(_, held)| !held.is_disjoint(&joined.1));
        for (members, held) in touching {
            joined.0.extend(members);
            joined.1.extend(held);
        }
        sets = apart;
        joined.0.sort_unstable();
        sets.push(joined);
    }
    sets.sort_by(|a, b| a.0.cmp(&b.0));
    let names = |members: Vec<usize>| members.into_iter().map(|it| guests[it].0.clone()).collect();
    sets.into_iter().map(|(members, _)| names(members)).collect()
}

/// What follows in a capture.
///
/// Until the snapshots are there, any failure or interruption abandons every point. From then on
/// the points are worth finishing, each for itself, and a failure to release a guest is kept for
/// repair beside them. After another boot a point that was not being published is abandoned: what
/// its files hold is not known to have reached the disk.
pub fn next(plan: &CapturePlan, history: &History<'_>) -> Next {
    let abandoned = abandoned(plan, history);
    let how = history.taken_over().map_or(Settle::Commit, |(_, settle)| settle);
    let mut steps = if abandoned.len() < plan.members.len() {
        let mut steps = plan.steps(history);
        steps.retain(|step| {
            !is_finish(step) || !step.guest().is_some_and(|it| abandoned.contains(it))
        });
        for step in &mut steps {
            if let Effect::SettleOverlay { how: chosen, .. } = step {
                *chosen = how;
            }
        }
        steps
    } else {
        releases(plan, history, how)
    };
    if history.begun(&Effect::SnapshotVolumes) && !doomed_volumes(plan, history).is_empty() {
        steps.push(Effect::DestroySnapshots);
    }
    let is_litter = |it: &Member| {
        abandoned.contains(&it.guest)
            && history.begun(&Effect::StagePoint { guest: it.guest.clone() })
    };
    steps.extend(plan.each(is_litter, |guest| Effect::DiscardPoint { guest }));

    let mut stuck = false;
    for step in steps {
        if is_settled(plan, &step, history) {
            continue;
        }
        if history.failed_now(&step).is_some() {
            stuck = true;
            continue;
        }
        if stuck && clears(&step) {
            continue;
        }
        return Next::Perform(step);
    }
    Next::Finished(outcome(plan, &abandoned, stuck, history))
}

/// What lets go of every guest that was begun to be held.
fn releases(plan: &CapturePlan, history: &History<'_>, how: Settle) -> Vec<Effect> {
    let begun = |effect: fn(GuestName) -> Effect| {
        move |it: &Member| history.begun(&effect(it.guest.clone()))
    };
    let suspended = begun(|guest| Effect::Suspend { guest });
    // What was refused was not done, and what is there is somebody else's.
    let possibly_done = |effect: fn(GuestName) -> Effect| {
        let harmless = &[ProblemKind::Refused, ProblemKind::Lacking];
        move |it: &Member| history.possibly_done(&effect(it.guest.clone()), harmless)
    };
    let frozen = possibly_done(|guest| Effect::Freeze { guest });
    let dumped = begun(|guest| Effect::ExternalSnapshot { guest });
    let overlaid = begun(|guest| Effect::PutOverlays { guest });
    let streamed = possibly_done(|guest| Effect::OpenStream { guest });
    // A stream that has just begun would stop the guest again.
    let mut steps = plan.each(streamed, |guest| Effect::CloseStream { guest });
    steps.extend(plan.each(suspended, |guest| Effect::Resume { guest }));
    steps.extend(plan.each(frozen, |guest| Effect::Thaw { guest }));
    for member in plan.members.iter().filter(|it| dumped(it) || overlaid(it)) {
        steps.push(Effect::AbortSnapshotJob { guest: member.guest.clone() });
        steps.extend(overlay_steps(member, how));
    }
    steps
}

/// Records that say no more than that every step may have been begun: what is left to believe of a
/// capture whose journal is lost. What follows from them is that it is undone, but for the points
/// that are published: then everything was done that had to come before them all, with `snapshots`.
pub fn doubted(
    plan: &CapturePlan,
    published: &BTreeSet<&PointId>,
    snapshots: &Fact,
) -> Vec<Record> {
    let begun = |effect| Record::Begun { effect };
    let may_borrow = |it: &Member| it.engine == Engine::Instant && it.no_overlays.is_none();
    let put = plan.each(may_borrow, |guest| Effect::PutOverlays { guest });
    let mut records: Vec<_> = put.into_iter().map(begun).collect();
    let steps = plan.steps(&History::of(&records));
    records.extend(steps.iter().filter(|it| !is_finish(it)).cloned().map(begun));
    let is_published =
        |guest: &GuestName| plan.member(guest).is_some_and(|it| published.contains(&it.point));
    if !plan.members.iter().any(|it| is_published(&it.guest)) {
        return records;
    }
    for effect in steps {
        match (&effect, effect.guest()) {
            (Effect::SnapshotVolumes, _) => {
                records.push(Record::Done { effect, fact: snapshots.clone() });
            }
            (Effect::Publish { .. }, Some(guest)) if is_published(guest) => {
                let fact = Fact::Published(Published { stored: Bytes(0), home_snapshot: None });
                records.push(Record::Done { effect, fact });
            }
            (Effect::Publish { .. }, _) => {
                let problem = Problem::failed("the journal of the capture was lost").note();
                records.push(Record::Failed { effect, problem });
            }
            (_, guest)
                if is_held_together(&effect)
                    || is_finish(&effect) && guest.is_some_and(is_published) =>
            {
                records.push(Record::Done { effect, fact: Fact::Done });
            }
            _ => {}
        }
    }
    records
}

/// The volumes whose snapshots no point will need.
pub fn doomed_volumes<'a>(plan: &'a CapturePlan, history: &History<'_>) -> BTreeSet<&'a Volume> {
    let abandoned = abandoned(plan, history);
    let (gone, kept): (Vec<_>, Vec<_>) =
        plan.members.iter().partition(|it| abandoned.contains(&it.guest));
    let kept: BTreeSet<_> = kept.into_iter().flat_map(Member::volumes).collect();
    gone.into_iter().flat_map(Member::volumes).filter(|it| !kept.contains(it)).collect()
}

/// Whether a step is over. An overlay counts as settled in whatever way that was.
fn is_settled(plan: &CapturePlan, step: &Effect, history: &History<'_>) -> bool {
    match step {
        Effect::SettleOverlay { guest, target, .. } => {
            [Settle::Commit, Settle::CommitOffline, Settle::Discard].into_iter().any(|how| {
                let (guest, target) = (guest.clone(), target.clone());
                history.done(&Effect::SettleOverlay { guest, target, how }).is_some()
            })
        }
        // Until a commit is begun the bases stand still, and what others snapshot is whole.
        Effect::ListSnapshots { guest } => {
            history.done_now(step)
                || history.done(step).is_some()
                    && plan.member(guest).is_some_and(|it| is_commit_begun(it, history))
        }
        step => history.done(step).is_some(),
    }
}

/// Whether the base of one of a guest's disks may have been written to.
pub(crate) fn is_commit_begun(member: &Member, history: &History<'_>) -> bool {
    member.disks.iter().any(|disk| {
        [Settle::Commit, Settle::CommitOffline].into_iter().any(|how| {
            let (guest, target) = (member.guest.clone(), disk.target.clone());
            let settle = Effect::SettleOverlay { guest, target, how };
            history.possibly_done(&settle, &[ProblemKind::Refused])
        })
    })
}

/// What must not happen while an earlier step is stuck: the guest is released first, an overlay in use
/// keeps its file and may yet be committed, and the snapshots stay as the proof of what its base holds,
/// and what was staged with them.
fn clears(step: &Effect) -> bool {
    matches!(
        step,
        Effect::RemoveOverlay { .. }
            | Effect::Retry { .. }
            | Effect::MarkTorn { .. }
            | Effect::DestroySnapshots
            | Effect::DiscardPoint { .. }
    )
}

/// The guests whose points are given up.
fn abandoned<'a>(plan: &'a CapturePlan, history: &History<'_>) -> BTreeSet<&'a GuestName> {
    let steps = plan.steps(history);
    let failed = |step: &&Effect| history.ever_failed(step).is_some();
    let together = steps.iter().any(|step| is_held_together(step) && failed(&step));
    let interrupted = history.taken_over().is_some_and(|(boot, _)| {
        boot != plan.boot || history.done(&Effect::SnapshotVolumes).is_none()
    });
    let is_abandoned = |member: &&Member| {
        let publish = Effect::Publish { guest: member.guest.clone() };
        let own = |step: &&Effect| is_finish(step) && step.guest() == Some(&member.guest);
        // What the dead process had not received to the end is lost with it.
        let receive = Effect::ReceiveMemory { guest: member.guest.clone() };
        let lost = member.engine == Engine::Instant
            && history.taken_over().is_some()
            && history.done(&receive).is_none();
        // Whatever else the journal says: a published point is never taken apart.
        history.done(&publish).is_none()
            && (together
                || (interrupted || lost) && !history.begun(&publish)
                || steps.iter().filter(own).any(|step| failed(&step)))
    };
    plan.members.iter().filter(is_abandoned).map(|it| &it.guest).collect()
}

/// Steps without which no point of the set is of one instant: where one is left out or fails, all are
/// abandoned.
pub(crate) fn is_held_together(step: &Effect) -> bool {
    matches!(
        step,
        Effect::StagePoint { .. }
            | Effect::KeepManagedSave { .. }
            | Effect::FlushVolumes
            | Effect::OpenStream { .. }
            | Effect::ExternalSnapshot { .. }
            | Effect::Freeze { .. }
            | Effect::Suspend { .. }
            | Effect::PutOverlays { .. }
            | Effect::SnapshotVolumes
    )
}

/// Steps that concern one guest's point alone.
fn is_finish(step: &Effect) -> bool {
    matches!(
        step,
        Effect::SaveMemory { .. }
            | Effect::ReceiveMemory { .. }
            | Effect::SealMemory { .. }
            | Effect::Publish { .. }
    )
}

fn outcome(
    plan: &CapturePlan,
    abandoned: &BTreeSet<&GuestName>,
    stuck: bool,
    history: &History<'_>,
) -> Outcome {
    let mut published = BTreeMap::new();
    for guest in plan.members.iter().map(|it| &it.guest) {
        if let Some(Fact::Published(it)) = history.done(&Effect::Publish { guest: guest.clone() }) {
            published.insert(guest.clone(), it.clone());
        }
    }
    let failures = history.failures_now();
    if stuck {
        Outcome::Unsettled { failures, published }
    } else if published.is_empty() {
        Outcome::Abandoned { failure: failures.into_iter().next() }
    } else {
        let of_abandoned =
            |it: &Failure| it.guest.as_ref().is_some_and(|guest| abandoned.contains(guest));
        let failures = failures.into_iter().filter(of_abandoned).collect();
        Outcome::Captured { published, failures }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::sample_capture;

    /// Columns: how long the flush took, whether overlays can be had, the steps that matter in their
    /// order, and the end of the reason.
    #[test]
    fn slow_storage_is_snapshotted_when_the_guest_runs_again() {
        let within = "suspend snapshot save resume";
        let after = "suspend put save resume snapshot commit";
        for (took_ms, no_overlays, order, reason) in [
            (500, None, within, "can be kept"),
            (
                501,
                None,
                after,
                "took 501 ms to write out, more than half of the pause limit of 1000 ms: overlays \
                 during the snapshots",
            ),
            (900, Some("no"), within, "suspended during the snapshots all the same: no"),
        ] {
            let mut plan = sample_capture();
            plan.members[0].no_overlays = no_overlays.map(str::to_owned);
            let fact = Fact::Flushed { took: Duration::from_millis(took_ms) };
            let records = [Record::Done { effect: Effect::FlushVolumes, fact }];
            let history = History::of(&records);
            let word = |step: Effect| match step {
                Effect::Suspend { .. } => Some("suspend"),
                Effect::PutOverlays { .. } => Some("put"),
                Effect::SnapshotVolumes => Some("snapshot"),
                Effect::SaveMemory { .. } => Some("save"),
                Effect::Resume { .. } => Some("resume"),
                Effect::SettleOverlay { .. } => Some("commit"),
                _ => None,
            };
            let found: Vec<_> = plan.steps(&history).into_iter().filter_map(word).collect();
            assert_eq!(found.join(" "), order, "{took_ms}");
            let found = plan.reason(&plan.members[0], &history);
            assert!(found.ends_with(reason), "{took_ms}: {found}");
        }
    }

    #[test]
    fn guests_that_share_volumes_are_put_together() {
        for (guests, wanted) in [
            ("", ""),
            ("a:1 b:2", "a|b"),
            ("a:1 b:1", "a b"),
            ("a:1 b:2 c:1", "a c|b"),
            ("a:1 b:2 c:1,2", "a b c"),
            ("a:1 b:2 c:3 d:2,3", "a|b c d"),
            ("a: b:", "a|b"),
        ] {
            let guests: Vec<(&str, BTreeSet<Volume>)> = guests
                .split_whitespace()
                .filter_map(|guest| guest.split_once(':'))
                .map(|(guest, on)| {
                    (guest, on.split(',').filter_map(|it| it.parse().ok()).collect())
                })
                .collect();
            let found: Vec<_> = sets(&guests).iter().map(|set| set.join(" ")).collect();
            assert_eq!(found.join("|"), wanted, "{guests:?}");
        }
    }
}
