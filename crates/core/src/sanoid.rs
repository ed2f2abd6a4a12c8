//! What `vitrify sanoid` decides: the datasets and settings that a `sanoid.conf` means, and what is
//! taken, pruned and reported by them, as sanoid does. Knows nothing of guests.
//!
//! Written from sanoid's documented and observed behaviour; nothing of its source is in here.

pub mod compare;
pub mod datasets;
pub mod decide;
pub mod import;
pub mod ini;
mod keys;
pub mod monitor;
pub mod plan;
pub mod settings;
pub mod transfer;

use std::fmt;

/// Something in the configuration that is passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is passed over, and why.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}
