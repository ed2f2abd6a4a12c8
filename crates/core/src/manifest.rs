//! The manifest: what binds a restore point's parts together, and the grammar of its file.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::capture::{Consistency, Engine, MachineFile};
use crate::inventory::{GuestState, Snapshot};
use crate::name::{Bytes, GuestName, GuestUuid, PointId, PointName, Volume};

/// The version that is written, and the only one that is read.
pub const VERSION: u32 = 1;

/// A manifest that cannot be believed.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or a field is missing or of the wrong kind.
    #[error("it is not a manifest")]
    Malformed(#[from] serde_json::Error),
    /// Written by a later Vitrify.
    #[error("its version is {0}, and this vitrify reads version {VERSION}")]
    Version(u32),
    /// Its checksum is of another text.
    #[error("its checksum does not match: it was changed after the capture")]
    Checksum,
}

/// A guest's RAM and device state at the capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryImage {
    /// The image's length.
    pub bytes: Bytes,
    /// BLAKE3 of the whole image, in hexadecimal.
    pub blake3: String,
}

/// A disk that the point holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointDisk {
    /// The guest's name for it.
    pub target: String,
    /// Where the image lay.
    pub path: PathBuf,
    /// Its format.
    pub format: String,
    /// The volume whose snapshot, among [`Manifest::volumes`], holds it.
    pub volume: Volume,
    /// Its path below the volume's root; absent where the volume is the image.
    pub path_in_volume: Option<PathBuf>,
}

/// A disk that the point does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UncoveredDisk {
    /// The guest's name for it.
    pub target: String,
    /// Why not.
    pub reason: String,
}

/// A restore point, described by itself. Times are UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`VERSION`].
    pub version: u32,
    /// The point.
    pub id: PointId,
    /// Its names.
    pub names: Vec<PointName>,
    /// The guest's name at the capture.
    pub guest: GuestName,
    /// The guest.
    pub guest_uuid: GuestUuid,
    /// The instant, to the microsecond: when the disks were snapshotted.
    pub time: Timestamp,
    /// What the guest was doing.
    pub state: GuestState,
    /// What the point promises.
    pub consistency: Consistency,
    /// How it was taken.
    pub engine: Engine,
    /// Why so.
    pub reason: String,
    /// How long the guest's CPUs stood still, in microseconds; absent where they never did.
    pub pause_us: Option<u64>,
    /// How long a running guest waited for our reader, in microseconds.
    pub stalled_us: u64,
    /// The snapshots.
    pub volumes: Vec<Snapshot>,
    /// The disks on them.
    pub disks: Vec<PointDisk>,
    /// The disks left out.
    pub uncovered: Vec<UncoveredDisk>,
    /// The memory image, bound to these snapshots and no others.
    pub memory: Option<MemoryImage>,
    /// The small files that the point holds under their names: UEFI variables, a TPM's state.
    pub machine_files: Vec<MachineFile>,
    /// The machine type.
    pub machine: String,
    /// libvirt's and QEMU's versions.
    pub hypervisor: String,
    /// The kernel's release.
    pub kernel: String,
}

#[derive(Serialize, Deserialize)]
struct Sealed<T> {
    manifest: T,
    blake3: String,
}

impl Manifest {
    /// The file's text: the manifest and a BLAKE3 checksum over its fields in their declared order,
    /// so that its parts cannot be re-bound unnoticed.
    pub fn to_text(&self) -> String {
        let sealed = Sealed { manifest: self, blake3: self.checksum() };
        let mut text = serde_json::to_string_pretty(&sealed).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Reads such a text.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let raw: Sealed<serde_json::Value> = serde_json::from_str(text)?;
        let version = raw.manifest.get("version").and_then(serde_json::Value::as_u64);
        match version.and_then(|version| u32::try_from(version).ok()) {
            Some(VERSION) => {}
            other => return Err(ManifestError::Version(other.unwrap_or(0))),
        }
        let manifest: Self = serde_json::from_value(raw.manifest)?;
        match manifest.checksum() == raw.blake3 {
            true => Ok(manifest),
            false => Err(ManifestError::Checksum),
        }
    }

    fn checksum(&self) -> String {
        let text = serde_json::to_string(self).unwrap_or_default();
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }

    /// The snapshot that holds a disk.
    pub fn snapshot_of(&self, disk: &PointDisk) -> Option<&Snapshot> {
        self.volumes.iter().find(|snapshot| snapshot.volume == disk.volume)
    }

    /// The name that the snapshots carry.
    pub fn name(&self) -> Option<&PointName> {
        self.names.first()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::sample_manifest;

    #[test]
    fn reads_what_it_wrote_and_nothing_that_was_changed() {
        let manifest = sample_manifest("2026-11-23T10:00:00Z", "one");
        let text = manifest.to_text();
        assert_eq!(Manifest::parse(&text).unwrap(), manifest);
        let rebound = text.replace("snapshot-1", "snapshot-2");
        assert!(matches!(Manifest::parse(&rebound), Err(ManifestError::Checksum)));
        let later = text.replace("\"version\": 1", "\"version\": 2");
        assert!(matches!(Manifest::parse(&later), Err(ManifestError::Version(2))));
        for cut in 0..text.len() - 1 {
            assert!(Manifest::parse(&text[..cut]).is_err(), "cut at {cut}");
        }
    }
}
