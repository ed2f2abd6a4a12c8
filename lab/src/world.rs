//! A world of its own for one test: a pool, a memory store, a place for overlays, and a `vitrify`
//! that knows them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::guest::{Guest, GuestError, Witness};
use crate::image::{Image, ImageError};
use crate::pool::{Pool, PoolError};
use crate::scratch::Scratch;
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
    /// The witness's kernel and initramfs, for this world's guests.
    pub image: Image,
    number: u32,
    scratch: Scratch,
}

/// Why there is no world.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// The witness's image could not be had.
    #[error(transparent)]
    Image(#[from] ImageError),
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
        let image = Image::cached()?.copied_to(scratch.path())?;
        let store = pool.subvolume("mem")?;
        let overlays = pool.subvolume("overlays")?;
        let (config, state) = (scratch.path().join("vitrify.toml"), scratch.path().join("state"));
        fs::create_dir(&state)?;
        fs::write(&config, configuration(&store, &overlays))?;
        let vitrify = Vitrify::new(&config, &state);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Self { vitrify, pool, store, overlays, image, number, scratch })
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

    /// A folder for logs and definitions, outside the pool.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Starts a witness with its files in this world.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn start(&self, witness: &Witness) -> Result<Guest, GuestError> {
        witness.start(&self.image, self.folder())
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
