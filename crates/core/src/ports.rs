//! What the machines need of the world. Each trait is implemented by `host` on a real machine and
//! by `fake` in memory, and both must pass `conformance`.
//!
//! Every verb is an *ensure*: it may be repeated after a crash, and finds its work done. Every
//! wait is bounded by the limit that the caller gives or by the implementation's own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::inventory::{Guest, Location, ObjectId, Session, Snapshot};
use crate::manifest::{Manifest, MemoryImage};
use crate::name::{Bytes, GuestName, GuestUuid, PointId, PointName, SnapshotId, Volume};
use crate::operation::{JournalEntry, Plan, Record};
use crate::problem::Problem;

/// A port's answer.
pub type Answer<T> = Result<T, Problem>;

/// All ports together: the world that an operation works on.
pub struct World<'a> {
    /// libvirt.
    pub hypervisor: &'a dyn Hypervisor,
    /// Volumes, snapshots and the files on them.
    pub storage: &'a dyn Storage,
    /// The homes.
    pub homes: &'a dyn Homes,
    /// What is in flight.
    pub journal: &'a dyn Journal,
    /// The time, the boot.
    pub clock: &'a dyn Clock,
}

/// How long the guest's CPUs stood still, from QEMU's STOP and RESUME events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// The time between the two events.
    pub pause: Duration,
}

/// One disk of an external snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayDisk<'a> {
    /// The guest's name for the disk.
    pub target: &'a str,
    /// The overlay file to make, `None` for a disk that the snapshot must leave alone.
    pub overlay: Option<&'a Path>,
}

/// What commits an overlay that is active in a running guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit<'a> {
    /// The guest.
    pub guest: &'a GuestUuid,
    /// The disk.
    pub target: &'a str,
    /// The overlay that is the disk's present top.
    pub overlay: &'a Path,
    /// The image directly below it, which becomes the top again.
    pub base: &'a Path,
    /// How long the commit may take until it is ready to pivot.
    pub limit: Duration,
}

/// libvirt and QEMU.
pub trait Hypervisor {
    /// Every guest, sorted by name.
    fn guests(&self) -> Answer<Vec<Guest>>;

    /// One guest. `NotFound` where there is none.
    fn inspect(&self, guest: &GuestUuid) -> Answer<Guest>;

    /// libvirt's and QEMU's versions, as `libvirt 11.3.0, QEMU 10.0.2`.
    fn version(&self) -> Answer<String>;

    /// Takes libvirt's external snapshot of a running guest: RAM live into `memory`, and an
    /// overlay on each disk that names one, all of one instant; no libvirt metadata. When it
    /// returns `Ok`, the guest runs on its overlays, and `memory` is complete.
    ///
    /// `memory` must not exist before (libvirt would overwrite it). After `limit` the job is
    /// aborted, its end is awaited, and the answer is `TimedOut`.
    fn external_snapshot(
        &self,
        guest: &GuestUuid,
        memory: &Path,
        disks: &[OverlayDisk<'_>],
        limit: Duration,
    ) -> Answer<Pause>;

    /// Aborts libvirt's snapshot job of the guest, if there is one, and awaits its end: afterwards
    /// no such job runs and the disk chains stand still. Another kind of job is left alone and is
    /// an error.
    fn abort_snapshot_job(&self, guest: &GuestUuid) -> Answer<()>;

    /// Commits an active overlay into its base and pivots back to the base. No effect where the
    /// disk's top is the base already. Takes over a commit of the same disk that is under way.
    fn commit_overlay(&self, commit: &Commit<'_>) -> Answer<()>;

    /// Changes the definition of a guest that is shut off: the disk reads `path` as `format`.
    fn repoint_disk(
        &self,
        guest: &GuestUuid,
        target: &str,
        path: &Path,
        format: &str,
    ) -> Answer<()>;

    /// Commits an overlay file of a guest that is shut off into its base.
    fn commit_offline(&self, overlay: &Path, base: &Path) -> Answer<()>;

    /// Suspends a running guest of this session; when it returns, QEMU has drained and flushed.
    fn suspend(&self, guest: &GuestUuid, session: &Session) -> Answer<()>;

    /// Resumes a guest of this session that is suspended by a user's (our) request; any other
    /// pause is left alone and is an error. Answers with the pause, as far as this process saw
    /// its STOP event.
    fn resume(&self, guest: &GuestUuid, session: &Session) -> Answer<Option<Pause>>;

    /// Ends QEMU at once (`virsh destroy`) if this session still lives; a guest in another
    /// session is `Refused`; one that is shut off is fine.
    fn stop(&self, guest: &GuestUuid, session: &Session) -> Answer<()>;

    /// Sets the inactive definition.
    fn define(&self, xml: &str) -> Answer<()>;

    /// Starts a guest from its definition; a guest that is active is left as it is. A managed-save
    /// image is discarded.
    fn start(&self, guest: &GuestUuid, paused: bool) -> Answer<()>;

    /// Starts a guest from a save image of its RAM; a guest that is active is left as it is. One
    /// that comes up suspended is `PausedOtherwise` until somebody resumes it: libvirt says that it
    /// is still migrating, and QEMU keeps its disks closed.
    fn start_from_image(&self, guest: &GuestUuid, image: &Path, paused: bool) -> Answer<()>;

    /// Where libvirt keeps the guest's managed-save image, if it has one and it can be read.
    fn managed_save_image(&self, guest: &GuestName) -> Answer<Option<PathBuf>>;

    /// Removes the managed-save image, if there is one.
    fn remove_managed_save(&self, guest: &GuestUuid) -> Answer<()>;
}

/// Volumes, their snapshots, and the image files on them.
pub trait Storage {
    /// Where an image lies. `NotFound` if it does not exist; `Lacking`, naming the file system,
    /// if nothing under it can be snapshotted.
    fn locate(&self, image: &Path) -> Answer<Location>;

    /// Where a path leads when every link in it is followed; the last part need not exist.
    fn resolve(&self, path: &Path) -> Answer<PathBuf>;

    /// Which object a path is, on any file system; `None` if there is none.
    fn object(&self, path: &Path) -> Answer<Option<ObjectId>>;

    /// Read-only snapshots of all the volumes under one name, in the order of the volumes, durable
    /// when it returns. A snapshot of that name which exists is `Refused`, and nothing is taken.
    /// If one fails, those taken before are destroyed again.
    fn snapshot(&self, volumes: &[Volume], name: &PointName) -> Answer<Vec<Snapshot>>;

    /// The snapshots of a volume that are of our making.
    fn snapshots(&self, volume: &Volume) -> Answer<Vec<Snapshot>>;

    /// Makes sure that a snapshot can still not be written to: `Refused`, naming it, if somebody
    /// made it writable, because then nothing tells what it holds.
    fn check_read_only(&self, snapshot: &Snapshot) -> Answer<()>;

    /// Destroys a snapshot if one of that name *and* that identity exists; one of another identity
    /// is `Refused`.
    fn destroy(&self, snapshot: &Snapshot) -> Answer<()>;

    /// Lays these files, readable by their owner only, into the folder `.vitrify` at the root of
    /// a volume that is a file system, so that its snapshots carry them.
    fn annotate(&self, volume: &Volume, files: &[NamedFile]) -> Answer<()>;

    /// Copies a file out of a snapshot to `beside` (which is replaced if it exists), sharing its
    /// blocks where the storage can; durable, with the snapshot's mode and the owner of `like`
    /// where that exists.
    fn copy_from_snapshot(
        &self,
        snapshot: &Snapshot,
        path_in_volume: &Path,
        beside: &Path,
        like: &Path,
    ) -> Answer<ObjectId>;

    /// The same from any file.
    fn copy_file(&self, source: &Path, beside: &Path, like: &Path) -> Answer<ObjectId>;

    /// Exchanges two files of one directory, or renames `beside` to `target` where `target` does
    /// not exist. Durable when it returns.
    fn exchange(&self, beside: &Path, target: &Path) -> Answer<()>;

    /// Removes a file, if it exists.
    fn remove_file(&self, path: &Path) -> Answer<()>;
}

/// A small file to be laid down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// Its name, without a folder.
    pub name: String,
    /// Its bytes.
    pub content: FileContent,
}

/// Where a small file's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileContent {
    /// Given here.
    Text(String),
    /// To be copied from this file.
    CopyOf(PathBuf),
}

/// What a home and the store under it can take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFacts {
    /// Where the store is.
    pub path: PathBuf,
    /// `folder`, `btrfs`.
    pub kind: &'static str,
    /// Why it may not hold memory images, where it may not.
    pub no_memory: Option<String>,
    /// Free bytes.
    pub free: Bytes,
    /// Bytes that must stay free.
    pub reserve: Bytes,
}

/// A point as it was found in a home.
#[derive(Debug)]
pub struct FoundPoint {
    /// The guest's home that it lies in.
    pub guest: GuestUuid,
    /// Its id, from the folder's name.
    pub id: PointId,
    /// Its manifest, or why that cannot be believed.
    pub manifest: Result<Manifest, Problem>,
    /// Whether its publishing was completed.
    pub published: bool,
    /// Where its files lie.
    pub folder: PathBuf,
    /// Where its memory image lies, if it has one.
    pub memory: Option<PathBuf>,
}

/// What publishing a point did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// What the point added to the store.
    pub stored: Bytes,
    /// The home's own snapshot, where the store can take one.
    pub home_snapshot: Option<SnapshotId>,
}

/// The homes: every guest's points and memory images, in the memory store.
pub trait Homes {
    /// What the store can take. `Lacking` where it is missing or cannot be written.
    fn store(&self) -> Answer<StoreFacts>;

    /// Makes the guest's home where it is missing and a staging folder for the point, with these
    /// files in it.
    fn stage(&self, guest: &GuestUuid, point: &PointId, files: &[NamedFile]) -> Answer<()>;

    /// Where the memory image of a staged point is to be written.
    fn staged_memory(&self, guest: &GuestUuid, point: &PointId) -> PathBuf;

    /// Makes a staged memory image durable and says how long it is and what it hashes to.
    fn seal_memory(&self, guest: &GuestUuid, point: &PointId) -> Answer<MemoryImage>;

    /// Copies a save image into the staged point as its memory image.
    fn stage_memory_copy(&self, guest: &GuestUuid, point: &PointId, image: &Path) -> Answer<()>;

    /// Publishes a staged point: the manifest is written, all is made durable, renamed into place,
    /// and then, as the last act, the home is snapshotted under the point's id.
    fn publish(&self, manifest: &Manifest) -> Answer<Published>;

    /// Removes what is left of a point that was never published.
    fn discard(&self, guest: &GuestUuid, point: &PointId) -> Answer<()>;

    /// Every point of every home, published or not, in no order.
    fn points(&self) -> Answer<Vec<FoundPoint>>;

    /// A small text file of a point, by its name in the point's folder; `None` if it has none.
    fn read_text(&self, point: &FoundPoint, name: &str) -> Answer<Option<String>>;

    /// Reads a point's memory image and compares it with its manifest. `Refused`, naming the file,
    /// where they differ.
    fn check_memory(&self, point: &FoundPoint, progress: &dyn Fn(Bytes)) -> Answer<()>;
}

/// What is in flight. A record is durable when `append` returns.
pub trait Journal {
    /// Opens an entry for an operation; its id is the operation's.
    fn open(&self, plan: &Plan) -> Answer<()>;

    /// Adds a record to an open entry.
    fn append(&self, plan: &Plan, record: &Record) -> Answer<()>;

    /// Removes an entry: the operation is settled.
    fn close(&self, plan: &Plan) -> Answer<()>;

    /// Every open entry, oldest first. A torn last record is left out.
    fn entries(&self) -> Answer<Vec<JournalEntry>>;
}

/// The time, and which boot of which kernel this is.
pub trait Clock {
    /// Now.
    fn now(&self) -> Timestamp;
    /// The kernel's boot id, new at each boot.
    fn boot(&self) -> Answer<String>;
    /// The kernel's release, as `uname -r` says.
    fn kernel(&self) -> Answer<String>;
}
