//! What went wrong, in the terms that decide what follows: whether to fall back, whether repair
//! can help, and which exit status the command ends with.

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What follows from a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// The work failed and may succeed when it is tried again.
    Failed,
    /// A limit passed before it was done.
    TimedOut,
    /// There is no room for it.
    NoSpace,
    /// No such guest, point or file.
    NotFound,
    /// It was not done, to protect data. An operator has to decide.
    Refused,
    /// The host or the guest lacks what it needs.
    Lacking,
    /// Another vitrify is at work on the same thing.
    Locked,
    /// This process is being ended: nothing more may be done, and repair finishes the work.
    Dying,
}

/// A port's error: what was attempted on which object, and what to do about it.
///
/// `Display` gives the sentence without its source; [`Problem::chain`] adds the sources.
#[derive(Debug)]
pub struct Problem {
    /// What follows from it.
    pub kind: ProblemKind,
    /// A lower-case sentence fragment that names the object.
    pub message: String,
    /// What the operator can do.
    pub hint: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Problem {
    /// A problem of some kind.
    pub fn new(kind: ProblemKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, source: None }
    }

    /// Work that failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ProblemKind::Failed, message)
    }

    /// Work that was refused to protect data.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(ProblemKind::Refused, message)
    }

    /// Something that the host or the guest lacks.
    pub fn lacking(message: impl Into<String>) -> Self {
        Self::new(ProblemKind::Lacking, message)
    }

    /// Something that is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ProblemKind::NotFound, message)
    }

    /// An I/O error on a named object, its kind taken from the error.
    pub fn io(message: impl Into<String>, source: std::io::Error) -> Self {
        use std::io::ErrorKind;
        let kind = match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ProblemKind::NoSpace,
            ErrorKind::NotFound => ProblemKind::NotFound,
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => ProblemKind::Lacking,
            ErrorKind::TimedOut => ProblemKind::TimedOut,
            _ => ProblemKind::Failed,
        };
        Self::new(kind, message).from(source)
    }

    /// The same with what caused it.
    #[must_use]
    pub fn from(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with what went wrong when it was to be undone.
    #[must_use]
    pub fn and_afterwards(mut self, left: &Self) -> Self {
        self.message.push_str("; and afterwards: ");
        self.message.push_str(&left.chain());
        self
    }

    /// The sentence and its sources, joined by `: `.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            let shown = error.to_string();
            if !text.ends_with(&shown) {
                text.push_str(": ");
                text.push_str(&shown);
            }
            cause = error.source();
        }
        text
    }

    /// What the journal keeps of it.
    pub fn note(&self) -> ProblemNote {
        ProblemNote { kind: self.kind, message: self.chain(), hint: self.hint.clone() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Problem {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

/// A problem as it is recorded: its causes are part of the message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemNote {
    /// What follows from it.
    pub kind: ProblemKind,
    /// The whole chain.
    pub message: String,
    /// What the operator can do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl From<ProblemNote> for Problem {
    fn from(note: ProblemNote) -> Self {
        Self { kind: note.kind, message: note.message, hint: note.hint, source: None }
    }
}
