//! Whether a disk that reads a capture's overlay may be brought back to its base, and how.

use std::path::Path;

use crate::capture::{CoveredDisk, Member};
use crate::inventory::{GuestState, ObjectId, Session};
use crate::operation::Settle;

/// What is known of a disk when its overlay is to be settled.
#[derive(Debug, Clone)]
pub struct Found<'a> {
    /// What the guest is doing.
    pub state: GuestState,
    /// Its present life.
    pub session: Option<&'a Session>,
    /// What the disk reads: live where the guest is active, else its definition.
    pub top: Option<&'a Path>,
    /// Which object lies at the base's path.
    pub base: Option<&'a ObjectId>,
    /// Whether the capture's own snapshot of the base's volume exists; `None` if none was taken.
    pub snapshot: Option<bool>,
    /// Whether a commit of any disk of this capture was begun: then the bases no longer are of
    /// the instant of the capture.
    pub commit_begun: bool,
}

/// What is to be done about a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It reads its base: nothing to do.
    OnBase,
    /// Commit under the running guest.
    CommitLive,
    /// Commit the file, then change the definition.
    CommitOffline,
    /// Change the definition only.
    Discard,
    /// Leave everything as it is.
    Refuse(Refusal),
}

/// Why an overlay is left as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The definition has no such disk any more.
    #[error("the guest has no disk of that name any more")]
    NoDisk,
    /// Somebody changed the chain.
    #[error("it reads {0}, which is neither the base nor the overlay of this capture")]
    Foreign(String),
    /// The base is not what was captured.
    #[error("the base image was replaced since the capture")]
    BaseReplaced,
    /// The base of another disk of the guest is not what it was.
    #[error("its disk {0} cannot go back to its base, so none does")]
    OtherBase(String),
    /// The snapshot that proves the base's content is gone.
    #[error("the capture's own snapshot is gone, so nothing proves what the base holds")]
    SnapshotGone,
    /// The capture was interrupted before its snapshot, and the guest has restarted since.
    #[error(
        "the capture was interrupted before its snapshot, so nothing proves what the base holds"
    )]
    NoProof,
    /// Only an operator can decide.
    #[error("the guest is shut off while its disk is on the overlay of an interrupted capture")]
    ShutOff,
    /// Going back is not possible any more.
    #[error("a commit of this capture's overlays was begun, so the bases alone are torn")]
    CommitBegun,
    /// The guest has written to the overlay and still does.
    #[error("the guest runs on the overlay")]
    InUse,
}

impl Refusal {
    /// What the operator can do.
    pub fn hint(&self, member: &Member, disk: &CoveredDisk) -> String {
        let (guest, overlay) = (&member.guest, disk.overlay.display());
        match self {
            Self::ShutOff | Self::NoProof => format!(
                "'vitrify repair {guest} --commit' keeps what the guest wrote since, \
                 'vitrify repair {guest} --discard' goes back to the instant of the capture"
            ),
            Self::InUse => format!("shut {guest} down first, or use --commit"),
            Self::CommitBegun => format!("'vitrify repair {guest} --commit' finishes the commit"),
            Self::NoDisk | Self::Foreign(_) => {
                format!("the overlay {overlay} is kept; see 'virsh domblklist {guest}'")
            }
            Self::BaseReplaced | Self::SnapshotGone | Self::OtherBase(_) => format!(
                "nothing was committed and the overlay {overlay} is kept; \
                 'vitrify repair {guest} --discard' (guest shut off) goes back to the base as it is"
            ),
        }
    }

    /// Whether it keeps the guest's other disks from being committed as well: their bases then would
    /// be of another instant than this one.
    pub fn keeps_others(&self) -> bool {
        matches!(self, Self::BaseReplaced | Self::SnapshotGone)
    }
}

/// Judges one disk. A commit into a base needs that the base is the recorded object, and either
/// the very QEMU process that has kept it open since, or the capture's snapshot as a proof.
pub fn judge(member: &Member, disk: &CoveredDisk, found: &Found<'_>, how: Settle) -> Verdict {
    let Some(top) = found.top else { return Verdict::Refuse(Refusal::NoDisk) };
    if top == disk.path {
        return Verdict::OnBase;
    }
    if top != disk.overlay {
        return Verdict::Refuse(Refusal::Foreign(top.display().to_string()));
    }
    let active = found.state.is_active();
    if how == Settle::Discard {
        return match (active, found.commit_begun) {
            (true, _) => Verdict::Refuse(Refusal::InUse),
            (_, true) => Verdict::Refuse(Refusal::CommitBegun),
            _ => Verdict::Discard,
        };
    }
    if found.base != Some(&disk.object) {
        return Verdict::Refuse(Refusal::BaseReplaced);
    }
    let same_session = found.session.is_some() && found.session == member.session.as_ref();
    match (found.snapshot, how) {
        _ if same_session => Verdict::CommitLive,
        (_, Settle::Commit) if !active => Verdict::Refuse(Refusal::ShutOff),
        // Where no snapshot was ever begun, the operator's word stands for it; ours does not.
        (Some(true), _) | (None, Settle::CommitOffline) => {
            if active {
                Verdict::CommitLive
            } else {
                Verdict::CommitOffline
            }
        }
        (None, _) => Verdict::Refuse(Refusal::NoProof),
        (Some(false), _) => Verdict::Refuse(Refusal::SnapshotGone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::sample_capture;

    /// Columns: active, same session, top, base as recorded, snapshot, how, verdict.
    #[test]
    fn verdicts() {
        use Settle::{Commit, CommitOffline, Discard};
        use Verdict::Refuse;
        let plan = sample_capture();
        let member = &plan.members[0];
        let disk = &member.disks[0];
        let elsewhere = Path::new("/elsewhere");
        let (base, overlay) = (disk.path.as_path(), disk.overlay.as_path());
        let foreign = Refuse(Refusal::Foreign("/elsewhere".into()));
        let replaced = Refuse(Refusal::BaseReplaced);
        let gone = Refuse(Refusal::SnapshotGone);
        let no_proof = Refuse(Refusal::NoProof);
        let off = Refuse(Refusal::ShutOff);
        let table = [
            (true, true, base, true, None, Commit, Verdict::OnBase),
            (false, false, base, false, Some(false), Discard, Verdict::OnBase),
            (true, true, elsewhere, true, Some(true), Commit, foreign),
            (true, true, overlay, true, None, Commit, Verdict::CommitLive),
            (true, true, overlay, false, Some(true), Commit, replaced.clone()),
            (true, false, overlay, true, Some(true), Commit, Verdict::CommitLive),
            (true, false, overlay, true, Some(false), Commit, gone.clone()),
            (true, false, overlay, true, None, Commit, no_proof),
            (true, false, overlay, true, None, CommitOffline, Verdict::CommitLive),
            (false, false, overlay, true, Some(true), Commit, off),
            (false, false, overlay, true, Some(true), CommitOffline, Verdict::CommitOffline),
            (false, false, overlay, true, None, CommitOffline, Verdict::CommitOffline),
            (false, false, overlay, true, Some(false), CommitOffline, gone),
            (false, false, overlay, false, Some(true), CommitOffline, replaced),
            (false, false, overlay, false, Some(false), Discard, Verdict::Discard),
            (true, true, overlay, true, Some(true), Discard, Refuse(Refusal::InUse)),
        ];
        let other = Session { domain_id: 99, ..member.session.clone().unwrap() };
        for (index, (active, same, top, as_recorded, snapshot, how, wanted)) in
            table.into_iter().enumerate()
        {
            let session = if same { member.session.as_ref() } else { Some(&other) };
            let object = ObjectId("another".into());
            let found = Found {
                state: if active { GuestState::Running } else { GuestState::ShutOff },
                session: session.filter(|_| active),
                top: Some(top),
                base: Some(if as_recorded { &disk.object } else { &object }),
                snapshot,
                commit_begun: false,
            };
            assert_eq!(judge(member, disk, &found, how), wanted, "row {index}");
            if wanted == Verdict::Discard {
                let begun = Found { commit_begun: true, ..found };
                assert_eq!(judge(member, disk, &begun, how), Refuse(Refusal::CommitBegun));
            }
        }
    }
}
