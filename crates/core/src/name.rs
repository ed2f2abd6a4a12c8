//! Names and quantities, parsed once at the border: whoever holds one of these holds a valid one.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not a name of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a valid {what}: {why}")]
pub struct BadName {
    /// The kind of name that was wanted.
    pub what: &'static str,
    /// The text as it was given.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                let check: fn(&str) -> Result<(), &'static str> = $check;
                match check(text) {
                    Ok(()) => Ok(Self(text.to_owned())),
                    Err(why) => Err(BadName { what: $what, text: text.to_owned(), why }),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<Path> for $name {
            fn as_ref(&self) -> &Path {
                Path::new(&self.0)
            }
        }
    };
}

text_name!(
    /// A libvirt domain's name. libvirt forbids `/`; we also forbid what cannot be shown on a line.
    GuestName, "guest name", |text| {
        if text.is_empty() {
            Err("it is empty")
        } else if text.contains('/') || text.chars().any(char::is_control) {
            Err("it holds a '/' or a control character")
        } else {
            Ok(())
        }
    }
);

text_name!(
    /// A libvirt domain's UUID, in the lower-case form with dashes that libvirt prints.
    GuestUuid, "guest UUID", is_uuid
);

text_name!(
    /// A restore point's identity: a UUID that no other point has.
    PointId, "point id", is_uuid
);

text_name!(
    /// A restore point's name, which is also its snapshots' name on its volumes.
    /// Letters, digits, `_ - : .`, at most 128 of them, as ZFS and every file system take them.
    PointName, "point name", |text| {
        let fine = |c: char| c.is_ascii_alphanumeric() || "_-:.".contains(c);
        if text.is_empty() || text.len() > 128 {
            Err("it must have 1 to 128 characters")
        } else if !text.chars().all(fine) {
            Err("it may hold only letters, digits and the characters _ - : .")
        } else if text.starts_with(['-', '.']) {
            Err("it must not start with '-' or '.'")
        } else {
            Ok(())
        }
    }
);

text_name!(
    /// What the storage can snapshot, by the storage's own name for it: a Btrfs subvolume's
    /// absolute path (or a ZFS dataset's name, which never starts with `/`).
    Volume, "volume", |text| if text.is_empty() { Err("it is empty") } else { Ok(()) }
);

text_name!(
    /// A snapshot's identity as its storage records it: a Btrfs uuid (or a ZFS guid).
    SnapshotId, "snapshot id", |text| if text.is_empty() { Err("it is empty") } else { Ok(()) }
);

impl Volume {
    /// Whether it is known by its path: a Btrfs subvolume.
    pub fn is_path(&self) -> bool {
        self.0.starts_with('/')
    }
}

fn is_uuid(text: &str) -> Result<(), &'static str> {
    match uuid::Uuid::try_parse(text) {
        Ok(parsed) if parsed.hyphenated().to_string() == text => Ok(()),
        _ => Err("a UUID looks like 0b6c9c52-7d4e-4c0e-9b3c-0d1f5f0e2a11"),
    }
}

/// A number of bytes.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
        let mut value = self.0 as f64;
        let mut unit = "B";
        for next in UNITS {
            if value < 1024.0 {
                break;
            }
            value /= 1024.0;
            unit = next;
        }
        write!(f, "{value:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn point_names() {
        for (text, valid) in [
            ("vitrify_2026-11-23_12:00:00_hourly", true),
            ("before-upgrade", true),
            ("", false),
            ("-r", false),
            ("..", false),
            ("a/b", false),
            ("a@b", false),
            ("a b", false),
        ] {
            assert_eq!(text.parse::<PointName>().is_ok(), valid, "{text:?}");
        }
    }

    #[test]
    fn uuids_are_canonical() {
        let canonical = "0b6c9c52-7d4e-4c0e-9b3c-0d1f5f0e2a11";
        assert!(canonical.parse::<GuestUuid>().is_ok());
        assert!(canonical.to_uppercase().parse::<GuestUuid>().is_err());
        assert!(canonical.replace('-', "").parse::<PointId>().is_err());
    }

    #[test]
    fn bytes_are_shown_with_a_unit() {
        for (bytes, shown) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536 << 20, "1.5 GiB")]
        {
            assert_eq!(Bytes(bytes).to_string(), shown);
        }
    }
}
