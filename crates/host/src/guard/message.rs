//! What is said to the guard: a line of JSON each.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use vitrify_core::inventory::Session;
use vitrify_core::name::GuestUuid;

/// The guard's answer to everything, and its first word.
pub(super) const READY: &str = "ready";

/// How a guest is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Hold {
    /// Its CPUs stand still.
    Suspended,
    /// Its agent has frozen its file systems.
    Frozen,
    /// libvirt dumps its RAM, and puts its disks on overlays at the end.
    Dumped,
    /// QEMU streams its RAM, or is ready to.
    Streamed,
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Message {
    /// Let this guest go when the socket ends, or when the limit has passed.
    Arm {
        /// The guest.
        guest: GuestUuid,
        /// Its life.
        session: Session,
        /// What to undo.
        hold: Hold,
        /// From now on; `None`: only at the end of the socket.
        limit: Option<Duration>,
    },
    /// It was let go.
    Disarm {
        /// The guest.
        guest: GuestUuid,
        /// What was undone.
        hold: Hold,
    },
}

impl Message {
    /// The line, with its end.
    pub(super) fn to_line(&self) -> String {
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }

    /// Reads a line; `None` where it is none.
    pub(super) fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }
}
