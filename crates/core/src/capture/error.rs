//! Why no capture is planned, and what an operator can do about it.

use std::path::PathBuf;

use crate::inventory::Snapshot;
use crate::name::{BadName, GuestName, Volume};
use crate::problem::{Problem, ProblemKind, ProblemNote};

/// Why no capture is planned.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// libvirt or an administrator has the guest in hand.
    #[error("guest '{guest}' {doing}")]
    Busy {
        /// The guest.
        guest: GuestName,
        /// What is going on.
        doing: String,
    },
    /// A disk reads the overlay of an earlier capture.
    #[error("disk {target} of guest '{guest}' is on the overlay of an unfinished capture")]
    OnOverlay {
        /// The guest.
        guest: GuestName,
        /// The disk.
        target: String,
    },
    /// A disk lies where nothing can be snapshotted, or is not there.
    #[error("disk {target} of guest '{guest}' cannot be captured: {}", problem.message)]
    Disk {
        /// The guest.
        guest: GuestName,
        /// The disk.
        target: String,
        /// Why not.
        problem: ProblemNote,
    },
    /// Nothing to capture.
    #[error("guest '{0}' has no writable disk on local storage")]
    NoDisk(GuestName),
    /// The overlay folder would be captured itself.
    #[error("the overlay folder {} lies on volume {volume}, which would be captured", folder.display())]
    OverlayFolder {
        /// The folder.
        folder: PathBuf,
        /// The volume.
        volume: Volume,
    },
    /// What was demanded cannot be had.
    #[error("guest '{guest}' cannot be captured with {wanted}: {reason}")]
    CannotReach {
        /// The guest.
        guest: GuestName,
        /// The consistency or engine that was demanded.
        wanted: String,
        /// Why not.
        reason: String,
        /// What follows from that.
        kind: ProblemKind,
    },
    /// The snapshot's name is taken.
    #[error("volume {} has a snapshot named '{}' already", .0.volume, .0.name)]
    NameTaken(Snapshot),
    /// No name could be made of the time.
    #[error("cannot name the point")]
    Name(#[from] BadName),
}

impl From<CaptureError> for Problem {
    fn from(error: CaptureError) -> Self {
        use CaptureError as E;
        let (kind, hint) = match &error {
            E::Busy { .. } => (ProblemKind::Refused, "try again when that is over".to_owned()),
            E::OnOverlay { guest, .. } => {
                (ProblemKind::Refused, format!("'vitrify repair {guest}' brings it back"))
            }
            E::Disk { problem, .. } => (
                ProblemKind::Lacking,
                problem.hint.clone().unwrap_or_else(|| "see 'vitrify doctor'".into()),
            ),
            E::NoDisk(guest) => (ProblemKind::Lacking, format!("see 'virsh domblklist {guest}'")),
            E::OverlayFolder { .. } => (
                ProblemKind::Lacking,
                "set [overlay] path to a folder on another volume".to_owned(),
            ),
            E::CannotReach { kind, .. } => (
                *kind,
                "without --consistency and --engine, the next lower is taken and recorded".into(),
            ),
            E::NameTaken(_) | E::Name(_) => {
                (ProblemKind::Refused, "choose another --name".to_owned())
            }
        };
        Problem::new(kind, error.to_string()).hint(hint)
    }
}
