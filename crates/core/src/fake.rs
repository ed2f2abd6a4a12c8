//! A world in memory with a schedule of faults, for tests of what the machines decide.
//!
//! A disk's content is a number. A running guest counts in RAM and writes the count to each disk
//! between any two port calls, so that memory and disks of different instants differ. Every port
//! call that changes something can be made to fail or to be the last that the process lives to
//! see, before it takes effect, after it, or half-way.

mod homes;
mod hypervisor;
mod journal;
mod sample;
mod storage;
mod stream;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::sample::{
    Nobody, capture_request, guest_request, restore_request, sample_capture, sample_manifest,
    sample_restore,
};
pub use self::stream::{SAMPLE_BLOCKS, SamplePage, sample_save_image, sample_stream};
use crate::inventory::{Activity, AnySnapshot, GuestState, ObjectId, Session, Snapshot};
use crate::manifest::Manifest;
use crate::name::{GuestName, GuestUuid, PointId, Volume};
use crate::operation::Plan;
use crate::ports::{Answer, World};
use crate::problem::{Problem, ProblemKind};

/// What goes wrong at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// It fails and does nothing.
    FailBefore,
    /// It fails although it was done.
    FailAfter,
    /// The process dies before it takes effect.
    DieBefore,
    /// The process dies half-way: what libvirt does for us goes on without us.
    DieDuring,
    /// The process dies after it took effect.
    DieAfter,
    /// The host dies after it took effect.
    PowerLoss,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::FailBefore,
        Self::FailAfter,
        Self::DieBefore,
        Self::DieDuring,
        Self::DieAfter,
        Self::PowerLoss,
    ];
}

/// A fault at the call of this index, counted from the world's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The call's index.
    pub at: usize,
    /// What goes wrong.
    pub kind: FaultKind,
}

/// A file: a number, and what lies below it where it is an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeFile {
    /// Which object it is.
    pub object: u64,
    /// What it holds.
    pub content: u64,
    /// What it overlays.
    pub backing: Option<PathBuf>,
}

/// A guest.
#[derive(Debug, Clone)]
pub struct FakeGuest {
    /// Its name.
    pub name: GuestName,
    /// What it does.
    pub state: GuestState,
    /// Its life.
    pub session: Option<Session>,
    /// The count in RAM; 0 where it is shut off.
    pub ram: u64,
    /// What each disk reads now.
    pub live: BTreeMap<String, PathBuf>,
    /// What each disk reads at the next start.
    pub inactive: BTreeMap<String, PathBuf>,
    /// The count in its managed-save image.
    pub managed_save: Option<u64>,
    /// The firmware variables' file.
    pub nvram: Option<PathBuf>,
    /// Whether an agent runs in it.
    pub agent: bool,
    /// Whether its file systems are frozen: it counts on, and writes nothing.
    pub frozen: bool,
    /// The stream that QEMU made ready for its RAM.
    pub stream: Option<FakeStream>,
    /// How often it was resumed.
    pub resumes: u32,
    /// What others are doing with it.
    pub activity: Activity,
    /// A snapshot job of a process that died.
    job: Option<FakeJob>,
}

/// What libvirt is at.
#[derive(Debug, Clone)]
enum FakeJob {
    /// Dumping RAM: it can be aborted.
    Dump,
    /// Putting these overlays in place: it comes to its end.
    Overlays(BTreeMap<String, PathBuf>),
}

/// A stream of a guest's RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FakeStream {
    /// It was opened when the guest had been resumed so often.
    Open {
        /// So often.
        resumes: u32,
    },
    /// It has begun.
    Begun {
        /// The count in RAM.
        ram: u64,
        /// Whether the guest stood still until then.
        whole: bool,
    },
}

/// A snapshot.
#[derive(Debug, Clone)]
pub struct FakeSnapshot {
    /// Which.
    pub snapshot: Snapshot,
    /// The points that it was taken for.
    pub points: Vec<PointId>,
    /// The points that it is held for.
    pub held_for: BTreeSet<PointId>,
    /// What the volume's files held, by their path in it; empty for the volume itself.
    pub files: BTreeMap<PathBuf, u64>,
}

/// A point in its home.
#[derive(Debug, Clone, Default)]
pub struct FakePoint {
    /// Its small files.
    pub files: BTreeMap<String, String>,
    /// The count in its memory image.
    pub memory: Option<u64>,
    /// Whether that image is durable.
    sealed: bool,
    /// Whether that image was removed by a policy.
    pub expired: bool,
    /// The tags under which it is held.
    pub holds: BTreeSet<String>,
    /// The manifest, once it is published.
    pub manifest: Option<Manifest>,
}

#[derive(Debug, Clone, Default)]
struct State {
    guests: BTreeMap<GuestUuid, FakeGuest>,
    files: BTreeMap<PathBuf, FakeFile>,
    volumes: BTreeMap<Volume, PathBuf>,
    broken: BTreeSet<Volume>,
    /// The volumes that cannot be looked at.
    lost: BTreeSet<Volume>,
    /// How long it takes to write out what is on its way to the volumes.
    flush_takes: Duration,
    snapshots: Vec<FakeSnapshot>,
    points: BTreeMap<PointId, (GuestUuid, FakePoint)>,
    /// The points whose manifests cannot be read, also those that are gone.
    unreadable: BTreeSet<PointId>,
    /// What was noted as torn.
    torn: Vec<(GuestUuid, AnySnapshot)>,
    /// What save images hold for libvirt.
    save_images: BTreeMap<PathBuf, u64>,
    entries: Vec<(Plan, Vec<String>)>,
    /// The entries that cannot be believed.
    damaged: BTreeSet<PointId>,
    /// The guests that must not be started while an operation's entry is there.
    barred: BTreeMap<GuestUuid, PointId>,
    next_number: u64,
    boot: u32,
}

/// The world. It implements every port.
#[derive(Debug, Clone, Default)]
pub struct Fake {
    state: RefCell<State>,
    calls: Cell<usize>,
    /// How often snapshots were listed.
    listings: Cell<usize>,
    faults: RefCell<Vec<Fault>>,
    /// The points whose memory this process receives.
    receiving: RefCell<BTreeSet<PointId>>,
    dead: Cell<bool>,
}

impl Fake {
    /// A guest `w` that runs from one disk on each of `disks` volumes.
    pub fn with_guest(disks: usize) -> Self {
        Self::with_disks(disks, 0)
    }

    /// The same, with more disks that are volumes themselves.
    pub fn with_disks(files: usize, devices: usize) -> Self {
        let fake = Self::default();
        let disks = (0..files + devices).map(|index| {
            let root = PathBuf::from(format!("/pool/w{index}"));
            if index < files { root.join("disk.img") } else { root }
        });
        fake.add_guest(sample::guest_uuid(), sample::guest_name(), disks.collect());
        fake
    }

    /// A second guest, `v`, that runs from a disk on the first one's first volume and from one on a
    /// volume of its own.
    pub fn add_neighbour(&self) -> GuestUuid {
        let disks = ["/pool/w0/other.img", "/pool/v/disk.img"].map(PathBuf::from);
        self.add_guest(sample::neighbour_uuid(), sample::neighbour_name(), disks.into());
        sample::neighbour_uuid()
    }

    fn add_guest(&self, uuid: GuestUuid, name: GuestName, disks: Vec<PathBuf>) {
        let mut state = self.state.borrow_mut();
        let mut live = BTreeMap::new();
        for (letter, path) in ('a'..).zip(disks) {
            let is_file = path.extension().is_some();
            let root = path.parent().filter(|_| is_file).unwrap_or(&path).to_owned();
            if let Ok(volume) = root.display().to_string().parse() {
                state.volumes.insert(volume, root);
            }
            state.new_file(&path, 100, None);
            live.insert(format!("vd{letter}"), path);
        }
        let guest = FakeGuest {
            name,
            state: GuestState::Running,
            session: Some(Session { boot: "boot-0".into(), domain_id: 1, started_ticks: 1 }),
            ram: 100,
            inactive: live.clone(),
            live,
            managed_save: None,
            nvram: None,
            agent: false,
            frozen: false,
            stream: None,
            resumes: 0,
            activity: Activity::default(),
            job: None,
        };
        state.guests.insert(uuid, guest);
    }

    /// The ports.
    pub fn world(&self) -> World<'_> {
        World { hypervisor: self, storage: self, homes: self, journal: self, clock: self }
    }

    /// The guest's identity.
    pub fn guest_uuid(&self) -> GuestUuid {
        sample::guest_uuid()
    }

    /// The guest as it is.
    pub fn guest(&self) -> FakeGuest {
        self.state.borrow().guests[&sample::guest_uuid()].clone()
    }

    /// Every guest as it is.
    pub fn all_guests(&self) -> Vec<FakeGuest> {
        self.state.borrow().guests.values().cloned().collect()
    }

    /// Changes the guest.
    pub fn change_guest(&self, change: impl FnOnce(&mut FakeGuest)) {
        if let Some(guest) = self.state.borrow_mut().guests.get_mut(&sample::guest_uuid()) {
            change(guest);
        }
    }

    /// Damages a point: its manifest cannot be read any more.
    pub fn damage_point(&self, point: &PointId) {
        self.state.borrow_mut().unreadable.insert(point.clone());
    }

    /// Every point that was damaged.
    pub fn unreadable(&self) -> BTreeSet<PointId> {
        self.state.borrow().unreadable.clone()
    }

    /// Every file.
    pub fn files(&self) -> BTreeMap<PathBuf, FakeFile> {
        self.state.borrow().files.clone()
    }

    /// Every save image that was written out.
    pub fn save_images(&self) -> BTreeMap<PathBuf, u64> {
        self.state.borrow().save_images.clone()
    }

    /// Writes a file; one that exists stays the object that it is.
    pub fn put_file(&self, path: &Path, content: u64) {
        let mut state = self.state.borrow_mut();
        match state.files.get_mut(path) {
            Some(file) => file.content = content,
            None => drop(state.new_file(path, content, None)),
        }
    }

    /// Puts another file in the place of one.
    pub fn replace_file(&self, path: &Path, content: u64) {
        self.state.borrow_mut().new_file(path, content, None);
    }

    /// Writes a memory image into a point, as libvirt does.
    pub fn put_memory(&self, point: &PointId, count: u64) {
        if let Some((_, point)) = self.state.borrow_mut().points.get_mut(point) {
            point.memory = Some(count);
        }
    }

    /// From now on, no snapshot of this volume can be taken.
    pub fn break_volume(&self, volume: &Volume) {
        self.state.borrow_mut().broken.insert(volume.clone());
    }

    /// From now on, nothing can be found out of this volume's snapshots.
    pub fn lose_volume(&self, volume: &Volume) {
        self.state.borrow_mut().lost.insert(volume.clone());
    }

    /// From now on, writing out what is on its way to the volumes takes so long.
    pub fn slow_down(&self, flush_takes: Duration) {
        self.state.borrow_mut().flush_takes = flush_takes;
    }

    /// Loses the journal, as if its folder had been removed.
    pub fn lose_journal(&self) {
        self.state.borrow_mut().entries.clear();
    }

    /// Damages every entry of the journal: what it holds cannot be believed any more.
    pub fn damage_journal(&self) {
        let mut state = self.state.borrow_mut();
        let ids = state.entries.iter().map(|it| it.0.id().clone()).collect();
        state.damaged = ids;
    }

    /// Every snapshot with what it holds.
    pub fn all_snapshots(&self) -> Vec<FakeSnapshot> {
        self.state.borrow().snapshots.clone()
    }

    /// Every point, published or not.
    pub fn all_points(&self) -> Vec<FakePoint> {
        self.state.borrow().points.values().map(|(_, point)| point.clone()).collect()
    }

    /// How many calls there were that change something.
    pub fn calls(&self) -> usize {
        self.calls.get()
    }

    /// How often snapshots of volumes were listed.
    pub fn listings(&self) -> usize {
        self.listings.get()
    }

    /// Sets what will go wrong.
    pub fn schedule(&self, faults: &[Fault]) {
        self.faults.replace(faults.to_vec());
    }

    /// Whether a new process must take over.
    pub fn is_dead(&self) -> bool {
        self.dead.get()
    }

    /// A new process.
    pub fn revive(&self) {
        self.receiving.borrow_mut().clear();
        self.dead.set(false);
    }

    /// Performs a change as the schedule has it, `half` being what remains of it where the process
    /// dies in the middle.
    fn change<T>(
        &self,
        what: &str,
        half: impl FnOnce(&mut State),
        whole: impl FnOnce(&mut State) -> Answer<T>,
    ) -> Answer<T> {
        self.alive()?;
        let at = self.calls.replace(self.calls.get() + 1);
        let fault = self.faults.borrow().iter().find(|fault| fault.at == at).map(|it| it.kind);
        let mut state = self.state.borrow_mut();
        state.tick();
        let dying = || {
            self.dead.set(true);
            Problem::new(ProblemKind::Dying, format!("died at {what}"))
        };
        match fault {
            None => whole(&mut state),
            Some(FaultKind::FailBefore) => Err(Problem::failed(format!("{what} fails"))),
            Some(FaultKind::FailAfter) => {
                whole(&mut state)?;
                Err(Problem::failed(format!("{what} fails after the fact")))
            }
            Some(FaultKind::DieBefore) => Err(dying()),
            Some(FaultKind::DieDuring) => {
                half(&mut state);
                Err(dying())
            }
            Some(FaultKind::DieAfter) => {
                whole(&mut state)?;
                Err(dying())
            }
            Some(FaultKind::PowerLoss) => {
                whole(&mut state)?;
                state.reboot();
                Err(dying())
            }
        }
    }

    fn look<T>(&self, look: impl FnOnce(&mut State) -> Answer<T>) -> Answer<T> {
        self.alive()?;
        let mut state = self.state.borrow_mut();
        state.tick();
        look(&mut state)
    }

    fn alive(&self) -> Answer<()> {
        match self.dead.get() {
            true => Err(Problem::new(ProblemKind::Dying, "the process is dead")),
            false => Ok(()),
        }
    }
}

/// Where libvirt keeps a guest's managed-save image.
fn managed_save_image(guest: &GuestName) -> PathBuf {
    PathBuf::from(format!("/save/{guest}.save"))
}

impl State {
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn new_file(&mut self, path: &Path, content: u64, backing: Option<PathBuf>) -> ObjectId {
        let object = self.number();
        self.files.insert(path.to_owned(), FakeFile { object, content, backing });
        ObjectId(format!("object-{object}"))
    }

    fn guest(&mut self, uuid: &GuestUuid) -> Answer<&mut FakeGuest> {
        self.guests.get_mut(uuid).ok_or_else(|| Problem::not_found(format!("no guest {uuid}")))
    }

    /// Every running guest counts and writes.
    fn tick(&mut self) {
        for guest in self.guests.values_mut().filter(|it| it.state == GuestState::Running) {
            guest.ram += 1;
            if guest.frozen {
                continue;
            }
            for path in guest.live.values() {
                if let Some(file) = self.files.get_mut(path) {
                    file.content = guest.ram;
                }
            }
        }
    }

    fn reboot(&mut self) {
        self.boot += 1;
        // What was received and not sealed was never synced.
        for (_, point) in self.points.values_mut().filter(|(_, it)| !it.sealed) {
            point.memory = None;
        }
        for guest in self.guests.values_mut() {
            guest.shut_off();
        }
    }

    /// The volume that holds a path.
    fn volume_of(&self, path: &Path) -> Option<(Volume, PathBuf)> {
        self.volumes.iter().find_map(|(volume, root)| {
            path.strip_prefix(root).ok().map(|rest| (volume.clone(), rest.to_owned()))
        })
    }
}

impl FakeGuest {
    /// Somebody suspends or resumes it, if it is active.
    pub fn set_state(&mut self, state: GuestState) {
        if self.state.is_active() {
            self.resumes += u32::from(state == GuestState::Running && state != self.state);
            self.state = state;
        }
    }

    /// Somebody ends its QEMU.
    pub fn shut_off(&mut self) {
        self.state = GuestState::ShutOff;
        self.session = None;
        self.live.clear();
        self.ram = 0;
        self.frozen = false;
        self.stream = None;
        self.job = None;
    }
}
