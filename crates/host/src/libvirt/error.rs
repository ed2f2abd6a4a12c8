//! What libvirt's errors mean to us.
//!
//! Codes: <https://libvirt.org/html/libvirt-virterror.html#virErrorNumber>.

use virt::enumutil::Enum;
use virt::error::{Error, ErrorNumber};
use vitrify_core::problem::{Problem, ProblemKind};

/// libvirt's own words, as the source of a problem.
#[derive(Debug, thiserror::Error)]
#[error("libvirt: {0}")]
pub(super) struct Said(String);

impl From<&Error> for Said {
    fn from(error: &Error) -> Self {
        Self(error.message().trim().to_owned())
    }
}

/// A problem with what was attempted, on which guest, and libvirt's error as its source.
pub(super) fn problem(attempted: impl Into<String>, error: &Error) -> Problem {
    let code = match error.code() {
        Enum::Known(code) => Some(code),
        Enum::Unknown(_) => None,
    };
    let kind = kind(code, error.message());
    let problem = Problem::new(kind, attempted).from(Said::from(error));
    match hint(code, kind) {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

/// Whether the error is a full file system's.
pub(super) fn is_no_space(error: &Error) -> bool {
    kind(None, error.message()) == ProblemKind::NoSpace
}

/// Whether the error says that there is no such guest.
pub(super) fn is_no_domain(error: &Error) -> bool {
    error.code().is(ErrorNumber::NoDomain)
}

/// Whether the error says that this connection may not do that.
pub(super) fn is_denied(error: &Error) -> bool {
    use ErrorNumber as E;
    error.code().is_any(vec![E::OperationDenied, E::AccessDenied, E::AuthFailed])
}

fn kind(code: Option<ErrorNumber>, message: &str) -> ProblemKind {
    use ErrorNumber as E;
    // libvirt has no code for a full disk: the text of ENOSPC or EDQUOT is all there is. The
    // daemon's language is that of its service file, which is none.
    let full = ["No space left on device", "Disk quota exceeded"];
    if full.iter().any(|text| message.contains(text)) {
        return ProblemKind::NoSpace;
    }
    match code {
        Some(E::NoDomain) => ProblemKind::NotFound,
        Some(
            E::NoConnect
            | E::AuthFailed
            | E::AuthCancelled
            | E::AuthUnavailable
            | E::OperationDenied
            | E::AccessDenied
            | E::NoSupport
            | E::OperationUnsupported
            | E::ArgumentUnsupported
            | E::ConfigUnsupported
            | E::CpuIncompatible,
        ) => ProblemKind::Lacking,
        Some(E::OperationTimeout | E::AgentCommandTimeout) => ProblemKind::TimedOut,
        _ => ProblemKind::Failed,
    }
}

fn hint(code: Option<ErrorNumber>, kind: ProblemKind) -> Option<&'static str> {
    use ErrorNumber as E;
    match code {
        Some(E::OperationTimeout) => {
            Some("another job holds the guest; see 'virsh domjobinfo', and try again")
        }
        Some(E::OperationDenied | E::AccessDenied | E::AuthFailed | E::AuthUnavailable) => {
            Some("run as root, or as a member of the group that may manage libvirt")
        }
        Some(E::Rpc | E::InvalidConn | E::NoConnect) => {
            Some("see whether libvirtd (or virtqemud) runs, and then run 'vitrify repair'")
        }
        _ if kind == ProblemKind::NoSpace => Some("make room, or let go of old restore points"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_decide_what_follows() {
        use ErrorNumber as E;
        for (code, message, wanted) in [
            (Some(E::NoDomain), "Domain not found", ProblemKind::NotFound),
            (Some(E::NoConnect), "no connection driver", ProblemKind::Lacking),
            (Some(E::AuthFailed), "authentication failed", ProblemKind::Lacking),
            (Some(E::OperationDenied), "read only access", ProblemKind::Lacking),
            (Some(E::OperationTimeout), "cannot acquire state lock", ProblemKind::TimedOut),
            (Some(E::OperationInvalid), "domain is not running", ProblemKind::Failed),
            (Some(E::OperationFailed), "x: No space left on device", ProblemKind::NoSpace),
            (Some(E::SystemError), "x: Disk quota exceeded", ProblemKind::NoSpace),
            (Some(E::OperationAborted), "aborted by client", ProblemKind::Failed),
            (None, "something newer than this program", ProblemKind::Failed),
        ] {
            assert_eq!(kind(code, message), wanted, "{code:?} {message}");
        }
    }

    #[test]
    fn a_full_disk_comes_with_advice() {
        assert!(hint(Some(ErrorNumber::OperationFailed), ProblemKind::NoSpace).is_some());
        assert_eq!(hint(Some(ErrorNumber::OperationFailed), ProblemKind::Failed), None);
    }
}
