//! A world of its own for one test: a pool, a memory store, a place for overlays, and a `vitrify`
//! that knows them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::guest::{Guest, GuestError, Witness};
use crate::pool::{Kind, Pool, PoolError};
use crate::proof;
use crate::scratch::{self, Scratch};
use crate::sweep;
use crate::vitrify::Vitrify;

/// Size of a world's pool, in MiB; sparse.
const POOL_MIB: u64 = 4096;

const NAME_PREFIX: &str = "lab";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A world. Drop its guests first: fields and variables go in the reverse order of their
/// declaration.
#[derive(Debug)]
pub struct World {
    /// The real binary, configured for this world.
    pub vitrify: Vitrify,
    /// Where the guests' disks lie.
    pub pool: Pool,
    /// The memory store: subvolume `mem` of the pool.
    pub store: PathBuf,
    /// Where overlays go: subvolume `overlays` of the pool.
    pub overlays: PathBuf,
    number: u32,
    scratch: Scratch,
}

/// Why there is no world.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// The pool could not be made.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// A file of the world could not be made.
    #[error("cannot prepare the world")]
    Io(#[from] io::Error),
}

impl World {
    /// A world on Btrfs.
    ///
    /// # Errors
    /// [`WorldError`].
    pub fn new() -> Result<Self, WorldError> {
        Self::on(Pool::btrfs(POOL_MIB)?)
    }

    /// A world on a pool of one's own.
    ///
    /// # Errors
    /// [`WorldError`].
    pub fn on(pool: Pool) -> Result<Self, WorldError> {
        sweep::once();
        let scratch = Scratch::new()?;
        let store = pool.subvolume("mem")?;
        let overlays = pool.subvolume("overlays")?;
        let (config, state) = (scratch.path().join("vitrify.toml"), scratch.path().join("state"));
        fs::create_dir(&state)?;
        proof::seed(&state)?;
        fs::write(&config, configuration(&store, &overlays))?;
        let vitrify = Vitrify::new(&config, &state);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Self { vitrify, pool, store, overlays, number, scratch })
    }

    /// Leaves it to a later process, [`Self::left`], with all that runs in it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn leave(self, note: &Path) -> io::Result<()> {
        let words = [self.folder(), self.pool.folder()].map(|it| it.display().to_string());
        fs::write(note, words.join("\n"))?;
        std::mem::forget(self);
        Ok(())
    }

    /// Keeps it and its guests for a person to look at. The answer is a file: once that is removed,
    /// the next program of the lab clears all of it away.
    ///
    /// # Errors
    /// What the file system says.
    pub fn keep(self) -> io::Result<PathBuf> {
        let mark = scratch::keep();
        std::mem::forget(self);
        mark
    }

    /// A world on ZFS that an earlier process left. It cannot have new guests.
    ///
    /// # Errors
    /// [`WorldError`].
    pub fn left(note: &Path) -> Result<Self, WorldError> {
        let words = fs::read_to_string(note)?;
        let (folder, pool) = words.split_once('\n').unwrap_or_default();
        let scratch = Scratch::left(folder.into());
        let pool = Pool::left_zfs(Scratch::left(pool.into()));
        let [store, overlays] = ["mem", "overlays"].map(|it| pool.path().join(it));
        let (config, state) = (scratch.path().join("vitrify.toml"), scratch.path().join("state"));
        let vitrify = Vitrify::new(&config, &state);
        Ok(Self { vitrify, pool, store, overlays, number: 0, scratch })
    }

    /// A guest of a world that an earlier process left.
    ///
    /// # Errors
    /// [`GuestError::Serial`].
    pub fn guest(&self, name: &str) -> Result<Guest, GuestError> {
        Ok(Guest::left(name.to_owned(), self.folder())?)
    }

    /// Puts the memory store elsewhere, and says so in the configuration.
    ///
    /// # Errors
    /// What the file system says.
    pub fn store_in(&mut self, store: &Path) -> io::Result<()> {
        store.clone_into(&mut self.store);
        self.configure("")
    }

    /// Writes the configuration anew, with more lines at its end; there the table is `[overlay]`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn configure(&self, more: &str) -> io::Result<()> {
        let text = configuration(&self.store, &self.overlays);
        fs::write(self.vitrify.config(), text + more)
    }

    /// A name for a guest that no other world uses.
    #[must_use]
    pub fn guest_name(&self, name: &str) -> String {
        format!("{NAME_PREFIX}{}-{}-{name}", std::process::id(), self.number)
    }

    /// A witness of that name, of the kind that suits the machine: where the pool is ZFS,
    /// boot-sector code with a step each 50 ms, because such a machine is emulated itself.
    #[must_use]
    pub fn witness(&self, name: &str) -> Witness {
        let witness = Witness::new(&self.guest_name(name));
        match self.pool.kind() {
            Kind::Zfs => witness.boot_sector().step(Duration::from_millis(50)),
            Kind::Btrfs | Kind::Ext4 | Kind::Xfs => witness,
        }
    }

    /// A folder for logs and definitions, outside the pool.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Starts a witness with its files in this world, where the engines have proved themselves.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn start(&self, witness: &Witness) -> Result<Guest, GuestError> {
        witness.start(self.folder())
    }
}

/// The process whose world a guest belongs to, if its name is one that a world gives.
pub(crate) fn owner(guest: &str) -> Option<u32> {
    guest.strip_prefix(NAME_PREFIX)?.split_once('-')?.0.parse().ok()
}

fn configuration(store: &Path, overlays: &Path) -> String {
    let (store, overlays) = (store.display(), overlays.display());
    format!("[memory]\nstore = \"{store}\"\n\n[overlay]\npath = \"{overlays}\"\n")
}
