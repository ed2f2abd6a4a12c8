//! A guest's ext4 as its image tells: whether it was frozen, and which count it holds.

use std::fs;
use std::path::Path;

use crate::guest::Guest;
use crate::run::{RunError, must};

/// What an image of an ext4 holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Files {
    /// Whether it is as after an unmount: nothing to recover, and consistent.
    pub clean: bool,
    /// The count in the guest's file; `None` where the file is missing or torn.
    pub count: Option<u64>,
}

impl Files {
    /// Looks at an image that nobody writes, without changing it.
    ///
    /// # Errors
    /// [`RunError`] where it holds no ext4, or cannot be read.
    pub fn of(image: &Path) -> Result<Self, RunError> {
        let image = image.display().to_string();
        let facts = must("dumpe2fs", &["-h", &image])?;
        let recovered = !facts.contains("needs_recovery");
        let clean = recovered && must("e2fsck", &["-f", "-n", &image]).is_ok();
        // debugfs prints text only, so that the file is copied out.
        let copy = format!("{image}.count");
        let dump = format!("dump /{} {copy}", witness::tally::NAME);
        must("debugfs", &["-R", &dump, &image])?;
        let bytes = fs::read(&copy).unwrap_or_default();
        let _ = fs::remove_file(&copy);
        Ok(Self { clean, count: witness::tally::decode(&bytes) })
    }
}

/// Whether the guest's agent says that its file systems are frozen.
///
/// # Errors
/// [`RunError`] where no agent answers within 10 s.
pub fn is_frozen(guest: &Guest) -> Result<bool, RunError> {
    let ask = r#"{"execute":"guest-fsfreeze-status"}"#;
    Ok(guest.virsh("qemu-agent-command", &["--timeout", "10", ask])?.contains("\"frozen\""))
}
