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

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub use self::sample::{
    Nobody, capture_request, restore_request, sample_capture, sample_manifest, sample_restore,
};
use crate::inventory::{GuestState, ObjectId, Session, Snapshot};
use crate::manifest::Manifest;
use crate::name::{GuestName, GuestUuid, PointId, Volume};
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
    /// A snapshot job of a process that died.
    job: Option<BTreeMap<String, PathBuf>>,
}

/// A point in its home.
#[derive(Debug, Clone, Default)]
pub struct FakePoint {
    /// Its small files.
    pub files: BTreeMap<String, String>,
    /// The count in its memory image.
    pub memory: Option<u64>,
    /// The manifest, once it is published.
    pub manifest: Option<Manifest>,
}

#[derive(Debug, Clone, Default)]
struct State {
    guests: BTreeMap<GuestUuid, FakeGuest>,
    files: BTreeMap<PathBuf, FakeFile>,
    volumes: BTreeMap<Volume, PathBuf>,
    broken: BTreeSet<Volume>,
    snapshots: Vec<(Snapshot, BTreeMap<PathBuf, u64>)>,
    points: BTreeMap<PointId, (GuestUuid, FakePoint)>,
    entries: Vec<(PointId, String, Vec<String>)>,
    next_number: u64,
    boot: u32,
}

/// The world. It implements every port.
#[derive(Debug, Clone, Default)]
pub struct Fake {
    state: RefCell<State>,
    calls: Cell<usize>,
    faults: RefCell<Vec<Fault>>,
    dead: Cell<bool>,
}

impl Fake {
    /// A guest `w` that runs from one disk on each of `disks` volumes.
    pub fn with_guest(disks: usize) -> Self {
        let fake = Self::default();
        {
            let mut state = fake.state.borrow_mut();
            let mut live = BTreeMap::new();
            for index in 0..disks {
                let root = PathBuf::from(format!("/pool/w{index}"));
                if let Ok(volume) = root.display().to_string().parse() {
                    state.volumes.insert(volume, root.clone());
                }
                let path = root.join("disk.img");
                state.new_file(&path, 100, None);
                live.insert(
                    format!("vd{}", char::from(b'a' + u8::try_from(index).unwrap_or(0))),
                    path,
                );
            }
            let guest = FakeGuest {
                name: sample::guest_name(),
                state: GuestState::Running,
                session: Some(Session { boot: "boot-0".into(), domain_id: 1, started_ticks: 1 }),
                ram: 100,
                inactive: live.clone(),
                live,
                managed_save: None,
                nvram: None,
                job: None,
            };
            state.guests.insert(sample::guest_uuid(), guest);
        }
        fake
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

    /// Changes the guest.
    pub fn change_guest(&self, change: impl FnOnce(&mut FakeGuest)) {
        if let Some(guest) = self.state.borrow_mut().guests.get_mut(&sample::guest_uuid()) {
            change(guest);
        }
    }

    /// Every file.
    pub fn files(&self) -> BTreeMap<PathBuf, FakeFile> {
        self.state.borrow().files.clone()
    }

    /// Writes a file; one that exists stays the object that it is.
    pub fn put_file(&self, path: &Path, content: u64) {
        let mut state = self.state.borrow_mut();
        match state.files.get_mut(path) {
            Some(file) => file.content = content,
            None => drop(state.new_file(path, content, None)),
        }
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

    /// Every snapshot with what it holds.
    pub fn all_snapshots(&self) -> Vec<(Snapshot, BTreeMap<PathBuf, u64>)> {
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
fn save_image(guest: &GuestName) -> PathBuf {
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
            for path in guest.live.values() {
                if let Some(file) = self.files.get_mut(path) {
                    file.content = guest.ram;
                }
            }
        }
    }

    fn reboot(&mut self) {
        self.boot += 1;
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
    fn shut_off(&mut self) {
        self.state = GuestState::ShutOff;
        self.session = None;
        self.live.clear();
        self.ram = 0;
        self.job = None;
    }
}
