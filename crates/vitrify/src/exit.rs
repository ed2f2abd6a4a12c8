//! The exit statuses.

use std::process::ExitCode;

use vitrify_core::policy::status::Level;
use vitrify_core::problem::ProblemKind;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Status(u8);

/// Everything that was asked for is done.
pub(crate) const DONE: Status = Status(0);
/// Some of the work failed, or a store is full; each failure is on stderr.
pub(crate) const FAILED: Status = Status(1);
/// Wrong usage or configuration, an unknown guest or point, a bad name.
pub(crate) const USAGE: Status = Status(2);
/// Refused, to protect data: an operator has to decide.
pub(crate) const REFUSED: Status = Status(3);
/// The host or the guest lacks something.
pub(crate) const LACKING: Status = Status(4);
/// Another vitrify holds the lock.
pub(crate) const LOCKED: Status = Status(75);

impl Status {
    /// The status that a problem of this kind ends a command with.
    pub(crate) fn of(kind: ProblemKind) -> Self {
        match kind {
            ProblemKind::Failed
            | ProblemKind::TimedOut
            | ProblemKind::NoSpace
            | ProblemKind::Dying => FAILED,
            ProblemKind::NotFound => USAGE,
            ProblemKind::Refused => REFUSED,
            ProblemKind::Lacking => LACKING,
            ProblemKind::Locked => LOCKED,
        }
    }

    /// The status of two pieces of work together: theirs where they agree or one went well, else
    /// [`FAILED`].
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (DONE, it) | (it, DONE) => it,
            (a, b) if a == b => a,
            _ => FAILED,
        }
    }
}

/// Nagios' own, of `status --nagios` only.
impl From<Level> for Status {
    fn from(level: Level) -> Self {
        Self(level as u8)
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_of_several_pieces_of_work() {
        for (a, b, together) in [
            (DONE, DONE, DONE),
            (DONE, REFUSED, REFUSED),
            (LACKING, LACKING, LACKING),
            (LACKING, USAGE, FAILED),
        ] {
            assert_eq!(a.and(b), together);
            assert_eq!(b.and(a), together);
        }
    }
}
