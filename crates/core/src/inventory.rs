//! What is there: guests, their disks, volumes and snapshots, as plain values that the ports
//! report and that plans are made from.

use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::name::{GuestName, GuestUuid, PointId, PointName, SnapshotId, Volume};

/// What a guest is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestState {
    /// Its CPUs run.
    Running,
    /// Suspended by somebody's `virsh suspend`.
    PausedByUser,
    /// Suspended by QEMU, because it could not write to a disk, or read from it.
    PausedOnError,
    /// Suspended for another reason: a migration, a dump, a crash.
    PausedOtherwise,
    /// No process.
    ShutOff,
}

impl GuestState {
    /// Whether there is a QEMU process.
    pub fn is_active(self) -> bool {
        self != Self::ShutOff
    }
}

/// One life of a guest: from a start of QEMU to its end. A journal record that carries another
/// session never justifies a resume or a stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The kernel's boot id.
    pub boot: String,
    /// libvirt's domain id, which counts up with each start.
    pub domain_id: u32,
    /// QEMU's start time in clock ticks since boot, from `/proc/PID/stat`; 0 where unknown.
    pub started_ticks: u64,
}

/// A guest as libvirt knows it at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Its present name.
    pub name: GuestName,
    /// Its identity.
    pub uuid: GuestUuid,
    /// What it is doing.
    pub state: GuestState,
    /// Its present life; `None` exactly when it is shut off.
    pub session: Option<Session>,
    /// Whether libvirt keeps its definition when it is shut off.
    pub persistent: bool,
    /// Whether `virsh managedsave` left an image that the next start would resume.
    pub managed_save: bool,
    /// What libvirt is doing with it as a whole: a migration, a save, a dump.
    pub job: Option<String>,
    /// The definition of the running guest, secrets included; `None` when it is shut off.
    pub live_xml: Option<String>,
    /// The definition that the next start uses; `None` for a transient guest.
    pub inactive_xml: Option<String>,
    /// Why its QEMU cannot stream its RAM while it runs on, and the remedy, where that is known
    /// before it is tried.
    pub no_stream: Option<String>,
    /// Why its RAM is streamed only where that is asked for, where it can be.
    pub frail_stream: Option<String>,
}

/// What is going on with a guest that its definitions do not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Activity {
    /// The block jobs, each by its disk and what it is.
    pub block_jobs: Vec<(String, String)>,
    /// Whether QEMU's migration capability `background-snapshot` is on.
    pub background_snapshot: bool,
    /// The names of the external snapshots that libvirt keeps of it.
    pub external_snapshots: Vec<String>,
}

/// What a `<disk>` is to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskDevice {
    /// A disk.
    Disk,
    /// An optical drive.
    Cdrom,
    /// A floppy drive.
    Floppy,
    /// A SCSI device passed through.
    Lun,
}

/// Where a disk's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskSource {
    /// An image file.
    File(PathBuf),
    /// A block device.
    Block(PathBuf),
    /// Something that no local storage can snapshot: network, volume, nvme, vhost-user.
    Elsewhere(String),
    /// An empty drive.
    Empty,
}

impl DiskSource {
    /// The local path, where there is one.
    pub fn path(&self) -> Option<&PathBuf> {
        match self {
            Self::File(path) | Self::Block(path) => Some(path),
            Self::Elsewhere(_) | Self::Empty => None,
        }
    }
}

/// A `<disk>` of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The guest's name for it: `vda`, `sdb`.
    pub target: String,
    /// What it is to the guest.
    pub device: DiskDevice,
    /// Where its bytes come from.
    pub source: DiskSource,
    /// The driver's image format: `raw`, `qcow2`.
    pub format: String,
    /// `<driver cache=…>`, where it is set.
    pub cache: Option<String>,
    /// Whether the guest cannot write to it.
    pub read_only: bool,
    /// Whether several guests may write to it.
    pub shareable: bool,
    /// The local files behind it, nearest first, where libvirt lists its backing chain.
    pub backing: Vec<PathBuf>,
    /// Whether a block job is mirroring it elsewhere at this moment.
    pub mirror: bool,
}

/// Which file or device an image is, whatever its name: on Btrfs the subvolume's uuid and the
/// inode, because the device number of a subvolume changes from mount to mount.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ObjectId(pub String);

/// Where an image lies on storage that can snapshot it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The volume that holds it, or that it is.
    pub volume: Volume,
    /// Its path below the volume's root, without a leading `/`; `None` where the volume itself is
    /// the image: a zvol.
    pub path_in_volume: Option<PathBuf>,
    /// Which object it is.
    pub object: ObjectId,
    /// Volumes of one group are snapshotted at one instant: a ZFS pool, a single Btrfs subvolume.
    pub group: String,
    /// What an administrator should know of this place, a sentence fragment each.
    pub warnings: Vec<String>,
}

/// Whom a snapshot is taken for; written on it where the storage can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The guest; `None` for a snapshot of a volume by itself.
    pub guest: Option<GuestUuid>,
    /// The point, or the operation, that needs the snapshot.
    pub point: PointId,
}

/// A snapshot that a volume has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSnapshot {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// The points that are written on it; `None` where the storage cannot write on a snapshot.
    /// Nothing is written on a foreign one.
    pub points: Option<Vec<PointId>>,
    /// Where its storage numbers what happens (ZFS's `createtxg`): when it was taken, by that.
    pub order: Option<u64>,
    /// When it was taken, by the clock of then, where the storage remembers.
    pub created: Option<Timestamp>,
    /// What the storage knows that it is needed for, our own holds left out.
    pub needed: Vec<Need>,
    /// The points that it is held for, of those that it was taken for; `None` where the storage cannot
    /// hold a snapshot.
    pub held_for: Option<Vec<PointId>>,
}

/// Why a point, or a snapshot, must not be destroyed, whatever a policy says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// It is held, under this tag; an empty one was not asked for.
    Held(String),
    /// A clone of it exists.
    Cloned(String),
    /// An operation in flight uses it.
    InFlight,
    /// It is the last that a replica has as well.
    CommonBase(String),
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(tag) if tag.is_empty() => f.write_str("it is held"),
            Self::Held(tag) => write!(f, "it is held ({tag})"),
            Self::Cloned(clone) => write!(f, "{clone} is a clone of it"),
            Self::InFlight => f.write_str("an operation in flight uses it"),
            Self::CommonBase(replica) => write!(f, "it is the last that {replica} has as well"),
        }
    }
}

impl FoundSnapshot {
    /// Whether it may have been taken for this point: it was, or nothing can tell.
    pub fn may_be_of(&self, point: &PointId) -> bool {
        self.points.as_ref().is_none_or(|points| points.contains(point))
    }
}

/// A snapshot that a volume has, whoever took it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnySnapshot {
    /// The volume.
    pub volume: Volume,
    /// What its storage calls it: `tank/vm@name`, or a path below the top of its Btrfs.
    pub name: String,
    /// Its identity.
    pub id: SnapshotId,
}

/// A volume that there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundVolume {
    /// The volume.
    pub volume: Volume,
    /// Which object it is, whatever path leads to it.
    pub object: ObjectId,
}

/// A volume's snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The volume that it was taken of.
    pub volume: Volume,
    /// Its name on that volume.
    #[serde(rename = "snapshot")]
    pub name: PointName,
    /// Its identity.
    #[serde(rename = "guid")]
    pub id: SnapshotId,
}
