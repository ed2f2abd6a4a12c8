//! What the machines need of the world. Each trait is implemented by `host` on a real machine and
//! by `fake` in memory, and both must pass `conformance`.
//!
//! Every verb is an *ensure*: it may be repeated after a crash, and finds its work done. Every
//! wait is bounded by the limit that the caller gives or by the implementation's own.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::capture::Consistency;
use crate::inventory::{
    Activity, AnySnapshot, FoundSnapshot, FoundVolume, Guest, Location, ObjectId, Owner, Session,
    Snapshot,
};
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
    /// When the CPUs stopped, as the time since 1970.
    pub stopped: Duration,
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

/// The end that a guest's memory is read from. A read that would block for longer than a moment
/// fails as [`std::io::ErrorKind::WouldBlock`], so that whoever reads can look up. Dropping it ends
/// the stream, and lets a guest go that waits for its reader.
pub struct MemoryStream(pub Box<dyn Read + Send>);

impl fmt::Debug for MemoryStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryStream")
    }
}

/// libvirt and QEMU.
pub trait Hypervisor {
    /// Every guest, sorted by name.
    fn guests(&self) -> Answer<Vec<Guest>>;

    /// One guest. `NotFound` where there is none.
    fn inspect(&self, guest: &GuestUuid) -> Answer<Guest>;

    /// What is going on with a guest that nobody streams the RAM of: its QEMU is asked, and would not
    /// answer while a stream has no reader. Changes nothing.
    fn activity(&self, guest: &GuestUuid) -> Answer<Activity>;

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

    /// Puts an overlay on each disk that names one, of a guest of this session that is suspended by a
    /// user's (our) request and stays so; no libvirt metadata. When it returns `Ok`, what lies below
    /// the overlays stands still until they are committed. `Refused` where an overlay file exists.
    fn put_overlays(
        &self,
        guest: &GuestUuid,
        session: &Session,
        disks: &[OverlayDisk<'_>],
    ) -> Answer<()>;

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

    /// Has QEMU make ready to stream the RAM of a running guest of this session while it runs on
    /// (its capability `background-snapshot`), and answers with the end to read from. Nothing comes
    /// before [`Hypervisor::begin_stream`]. `Lacking` where QEMU, the kernel or the security driver
    /// do not allow it: then nothing is changed.
    fn open_stream(&self, guest: &GuestUuid, session: &Session) -> Answer<MemoryStream>;

    /// Begins the stream that was opened, of a guest that stays suspended for its sake. The instant
    /// of the RAM is that of the suspension; whether that held is known at the end.
    fn begin_stream(&self, guest: &GuestUuid, session: &Session) -> Answer<()>;

    /// Judges a stream whose end was read: `Ok` only where QEMU completed it, and where the guest
    /// stood still from its one suspension until the stream began. Everything else is an error that
    /// says what happened. Answers how long QEMU took to set the stream up.
    fn check_stream(&self, guest: &GuestUuid, session: &Session) -> Answer<Duration>;

    /// Cancels a stream that still runs, and takes back what opening it changed. Fine where there
    /// is none, and where the session has ended.
    fn close_stream(&self, guest: &GuestUuid, session: &Session) -> Answer<()>;

    /// Suspends a running guest of this session; when it returns, QEMU has drained and flushed.
    fn suspend(&self, guest: &GuestUuid, session: &Session) -> Answer<()>;

    /// Resumes a guest of this session that is suspended by a user's (our) request; any other
    /// pause is left alone and is an error. Answers with the pause, as far as this process saw
    /// its STOP event.
    fn resume(&self, guest: &GuestUuid, session: &Session) -> Answer<Option<Pause>>;

    /// Lets a guest of this session go on that QEMU suspended because it could not write to a disk: it
    /// tries that again. A guest in another state or session is left as it is.
    fn retry(&self, guest: &GuestUuid, session: &Session) -> Answer<()>;

    /// Has the agent in a running guest of this session freeze the guest's file systems. Frozen
    /// already is fine. `Lacking` where no agent is there or it gives no sign of life, `Refused` in
    /// another session: then nothing was asked of it. After any other error it may freeze them all
    /// the same, later.
    fn freeze(&self, guest: &GuestUuid, session: &Session, limit: Duration) -> Answer<()>;

    /// Whether the agent says that the guest's file systems are frozen.
    fn is_frozen(&self, guest: &GuestUuid, session: &Session, limit: Duration) -> Answer<bool>;

    /// Has the agent thaw the file systems of a guest of this session, and answers whether they were
    /// frozen until now: if not, somebody else thawed them (Windows does after 10 s, and says "frozen"
    /// until it is told to thaw). Thawed already is fine, and so is a session that has ended: its
    /// frozen file systems ended with it.
    fn thaw(&self, guest: &GuestUuid, session: &Session, limit: Duration) -> Answer<bool>;

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
    /// Where each image lies, in their order, by as few looks at the storage as can be. `NotFound`
    /// for one that does not exist; `Lacking`, naming the file system, if nothing under it can be
    /// snapshotted, or if the volume that should hold it is not mounted.
    fn locate(&self, images: &[PathBuf]) -> Vec<Answer<Location>>;

    /// This volume, and with `below` those under it, itself first. Those under a subvolume are seen as
    /// far as its path leads there and they can be written to: snapshots are left out, and what a
    /// self-test or a restore made. `NotFound` or `Lacking` where the volume is not there, or where
    /// there is no place for its snapshots.
    fn volumes(&self, top: &Volume, below: bool) -> Answer<Vec<FoundVolume>>;

    /// Where a path leads when every link in it is followed; the last part need not exist.
    fn resolve(&self, path: &Path) -> Answer<PathBuf>;

    /// Which object a path is, on any file system; `None` if there is none.
    fn object(&self, path: &Path) -> Answer<Option<ObjectId>>;

    /// Writes out what is on its way to these volumes, so that snapshots that follow soon take
    /// little time, and says how long that took.
    fn flush(&self, volumes: &[Volume]) -> Answer<Duration>;

    /// Read-only snapshots of all the volumes under one name, in the order of the volumes, durable
    /// when it returns; those of one [`Location::group`] are of one instant. A snapshot of that
    /// name which exists is `Refused`, and nothing is taken. If one fails, those taken before are
    /// destroyed again. The owners are written on them where the storage can.
    fn snapshot(
        &self,
        volumes: &[Volume],
        name: &PointName,
        owners: &[Owner],
    ) -> Answer<Vec<Snapshot>>;

    /// The snapshots that these volumes have and whose names a point could have, foreign ones
    /// included where they lie among ours; by as few looks at the storage as can be. A volume that
    /// is not there has none.
    fn snapshots(&self, volumes: &[Volume]) -> Answer<Vec<FoundSnapshot>>;

    /// Every snapshot of these volumes, whoever took it, whatever its name, wherever it lies.
    fn all_snapshots(&self, volumes: &[Volume]) -> Answer<Vec<AnySnapshot>>;

    /// Makes sure that a snapshot can still not be written to: `Refused`, naming it, if somebody
    /// made it writable, because then nothing tells what it holds.
    fn check_read_only(&self, snapshot: &Snapshot) -> Answer<()>;

    /// Keeps these snapshots, taken for the point, from being destroyed by anybody, under a tag that
    /// names the point, where the storage can; elsewhere it does nothing. May be repeated. `NotFound` or
    /// `Refused` where one of them is not there any more: then some of the others may be held.
    fn hold(&self, snapshots: &[Snapshot], point: &PointId) -> Answer<()>;

    /// Takes back what [`Storage::hold`] did for this very point, and no other hold. What is not held,
    /// or is not there, is fine.
    fn release(&self, snapshots: &[Snapshot], point: &PointId) -> Answer<()>;

    /// The command by which an administrator does the same of one snapshot.
    fn release_command(&self, snapshot: &Snapshot, point: &PointId) -> String;

    /// The command by which an administrator destroys a snapshot.
    fn destroy_command(&self, snapshot: &Snapshot) -> String;

    /// The image that a qcow2 image lies on, as its header says; `None` where it lies on none, is
    /// no such image, or is not there.
    fn backing(&self, image: &Path) -> Answer<Option<PathBuf>>;

    /// The paths in a folder, in no order; none where there is no such folder.
    fn list(&self, folder: &Path) -> Answer<Vec<PathBuf>>;

    /// Destroys these snapshots, each if one of that name *and* that identity exists; one of
    /// another identity, or that is held or cloned, is `Refused`. One that fails does not keep the
    /// others: the answer is the first problem.
    fn destroy(&self, snapshots: &[Snapshot]) -> Answer<()>;

    /// Lays these files, readable by their owner only, into the folder `.vitrify` at the root of
    /// a volume, so that its snapshots carry them; one that is no file system is left as it is.
    fn annotate(&self, volume: &Volume, files: &[NamedFile]) -> Answer<()>;

    /// Copies a file out of a snapshot of a file system to `beside` (which is replaced if it exists), sharing its
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

    /// Makes a snapshot of a volume that is an image itself readable as a block device, and says
    /// where. Kept under the name of `owner`, an operation, until [`Storage::conceal`].
    /// `Refused` where the volume has another size by now.
    fn expose(&self, snapshot: &Snapshot, owner: &PointId) -> Answer<PathBuf>;

    /// Takes back what [`Storage::expose`] made, if it is there.
    fn conceal(&self, snapshot: &Snapshot, owner: &PointId) -> Answer<()>;

    /// Writes the blocks of one block device that differ into another of the same size; durable.
    fn overwrite(&self, source: &Path, target: &Path) -> Answer<()>;

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
    /// `btrfs`, `zfs`, `folder`.
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
    /// Whether its memory image was removed, because it was to be kept for less long.
    pub expired: bool,
    /// The tags under which it is held.
    pub holds: Vec<String>,
}

impl FoundPoint {
    /// What a point with this manifest promises now: its disks alone are of a pulled power cord.
    pub fn promises(&self, manifest: &Manifest) -> Consistency {
        match self.expired {
            true => Consistency::Crash,
            false => manifest.consistency,
        }
    }
}

/// What publishing a point did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// What the point added to the store.
    pub stored: Bytes,
    /// The home's own snapshot, where the store can take one.
    pub home_snapshot: Option<SnapshotId>,
}

/// Something that was begun in a home: a point that is staged, or a save image for libvirt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// The guest's home that it lies in.
    pub guest: GuestUuid,
    /// The point, or the operation.
    pub id: PointId,
    /// Where it lies.
    pub path: PathBuf,
    /// The capture's plan ([`STAGED_PLAN`]), where it is staged with the point.
    pub plan: Option<String>,
}

/// The name of a capture's plan among the files that are staged for a point. It is not published.
pub const STAGED_PLAN: &str = "capture.json";

/// The homes: every guest's points and memory images, in the memory store.
pub trait Homes {
    /// What the store can take. `Lacking` where it is missing or cannot be written.
    fn store(&self) -> Answer<StoreFacts>;

    /// Makes the guest's home where it is missing and a staging folder for the point, with these
    /// files in it.
    fn stage(&self, guest: &GuestUuid, point: &PointId, files: &[NamedFile]) -> Answer<()>;

    /// Whether each of these files, which were staged for the point, still has the content that was
    /// staged.
    fn is_staged(&self, guest: &GuestUuid, point: &PointId, files: &[NamedFile]) -> Answer<bool>;

    /// Where the memory image of a staged point is to be written.
    fn staged_memory(&self, guest: &GuestUuid, point: &PointId) -> PathBuf;

    /// Makes ready for the memory of a staged point, to go with this definition, and receives it
    /// from now on, beside everything else. A store that hangs or is too slow does not hold up the
    /// guest for longer than the limits: then the stream is dropped.
    fn receive_memory(
        &self,
        guest: &GuestUuid,
        point: &PointId,
        definition: &str,
        stream: MemoryStream,
    ) -> Answer<()>;

    /// Waits for the first page of RAM. An error where the stream ended before, or none came in
    /// time.
    fn await_first_page(&self, guest: &GuestUuid, point: &PointId) -> Answer<()>;

    /// Waits for the end of the stream and says how long the guest had to wait for its reader.
    /// `TimedOut` where it was dropped because of that. What arrived need not lie in the store yet.
    fn await_memory(&self, guest: &GuestUuid, point: &PointId) -> Answer<Duration>;

    /// Makes a memory image whole and durable, in whatever way it was staged, and says how long it
    /// is and what it hashes to. An error where a process that died had not received all of it.
    fn seal_memory(&self, guest: &GuestUuid, point: &PointId) -> Answer<MemoryImage>;

    /// Copies a save image into the staged point as its memory image.
    fn stage_memory_copy(&self, guest: &GuestUuid, point: &PointId, image: &Path) -> Answer<()>;

    /// Publishes a staged point: the manifest is written, all is made durable, renamed into place,
    /// and then, as the last act, the home is snapshotted under the point's id.
    fn publish(&self, manifest: &Manifest) -> Answer<Published>;

    /// Removes whatever there is of a point. It stops being published with the first step.
    fn discard(&self, guest: &GuestUuid, point: &PointId) -> Answer<()>;

    /// Removes the memory image of a published point, which stays and says so. Fine where it has none
    /// any more.
    fn expire_memory(&self, guest: &GuestUuid, point: &PointId) -> Answer<()>;

    /// Holds a published point under this tag, or lets it go; as long as it is held, so is the home's
    /// own snapshot, where the store can do that. Either may be repeated.
    fn hold(&self, guest: &GuestUuid, point: &PointId, tag: &str, held: bool) -> Answer<()>;

    /// Every point of every home, published or not, in no order.
    fn points(&self) -> Answer<Vec<FoundPoint>>;

    /// What was begun in every home, in no order.
    fn unfinished(&self) -> Answer<Vec<Unfinished>>;

    /// Writes down, in the guest's home, which is there, that these snapshots were taken while one of
    /// its disks was being committed. What is written down stays so.
    fn note_torn(&self, guest: &GuestUuid, snapshots: &[AnySnapshot]) -> Answer<()>;

    /// All that were written down, in no order.
    fn torn(&self) -> Answer<Vec<(GuestUuid, AnySnapshot)>>;

    /// A small text file of a point, by its name in the point's folder; `None` if it has none.
    fn read_text(&self, point: &FoundPoint, name: &str) -> Answer<Option<String>>;

    /// Where an operation may put a save image of the guest for libvirt to read.
    fn save_image(&self, guest: &GuestUuid, operation: &PointId) -> PathBuf;

    /// Writes a point's memory out as a save image for libvirt; what lies there is replaced.
    /// `Refused`, naming the file, where a single bit is not as the manifest says: then nothing is
    /// left there.
    fn write_save_image(
        &self,
        point: &FoundPoint,
        target: &Path,
        progress: &dyn Fn(Bytes),
    ) -> Answer<()>;

    /// Reads a point's memory image and compares it with its manifest. `Refused`, naming the file,
    /// where they differ.
    fn check_memory(&self, point: &FoundPoint, progress: &dyn Fn(Bytes)) -> Answer<()>;
}

/// A journal entry that cannot be believed.
#[derive(Debug)]
pub struct DamagedEntry {
    /// The operation, by the entry's name.
    pub id: PointId,
    /// Its plan, where at least that can be read.
    pub plan: Option<Plan>,
    /// What is wrong.
    pub problem: Problem,
}

/// What is in flight. A record is durable when `append` returns.
pub trait Journal {
    /// Opens an entry for an operation, with these records; its id is the operation's. When it returns
    /// they are durable; after a crash all of them are there, or there is no entry.
    fn open(&self, plan: &Plan, records: &[Record]) -> Answer<()>;

    /// Adds records to an open entry, in their order. When it returns they are durable.
    fn append(&self, plan: &Plan, records: &[Record]) -> Answer<()>;

    /// Removes an entry: the operation is settled.
    fn close(&self, plan: &Plan) -> Answer<()>;

    /// Every open entry, oldest first. A torn last record is left out, and so is an entry that cannot
    /// be believed.
    fn entries(&self) -> Answer<Vec<JournalEntry>>;

    /// The entries that cannot be believed.
    fn damaged(&self) -> Answer<Vec<DamagedEntry>>;

    /// Lays down for libvirt's hook that this guest must not be started while this operation's entry is
    /// open. Durable when it returns. Where the hook is not installed, nobody reads it.
    fn bar(&self, operation: &PointId, guest: &GuestUuid) -> Answer<()>;

    /// Takes that back. Fine where nothing was laid down.
    fn unbar(&self, guest: &GuestUuid) -> Answer<()>;

    /// Keeps a damaged entry under another name, so that the operation can be entered anew.
    fn set_aside(&self, entry: &DamagedEntry) -> Answer<()>;
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
