//! A memory store in a folder, and one on a small Btrfs.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vitrify_core::conformance::Verdict;
use vitrify_core::conformance::homes::Fixture;
use vitrify_core::fake::sample_save_image;
use vitrify_core::name::{GuestUuid, PointId};
use vitrify_core::ports::{self, FoundPoint};
use vitrify_host::homes::{Reserve, StallLimits, Store, StoreConfig};
use vitrify_lab::pool::Pool;
use vitrify_lab::run::must;
use vitrify_lab::scratch::Scratch;

/// Size of the file system, in MiB; sparse.
const POOL_MIB: u64 = 256;

pub(super) struct Homes {
    store: Store,
    outside: Scratch,
    /// The file system that the store lies on, where that is its own.
    pool: Option<Pool>,
}

impl Homes {
    pub(super) fn in_folder() -> Result<Self, Box<dyn Error>> {
        let outside = Scratch::new()?;
        let store = outside.path().join("store");
        fs::create_dir(&store)?;
        Ok(Self { store: at(&store), outside, pool: None })
    }

    pub(super) fn on_btrfs() -> Result<Self, Box<dyn Error>> {
        let pool = Pool::btrfs(POOL_MIB)?;
        let store = pool.subvolume("store")?;
        Ok(Self { store: at(&store), outside: Scratch::new()?, pool: Some(pool) })
    }

    fn lay(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, String> {
        let path = self.outside.path().join(name);
        fs::write(&path, bytes).map_err(said)?;
        Ok(path)
    }
}

fn at(path: &Path) -> Store {
    let (path, reserve) = (path.to_owned(), Reserve::default());
    Store::new(
        StoreConfig { path, reserve, on_root: true, spool: None, stall: StallLimits::default() },
        Arc::default(),
    )
}

fn said(error: impl Error) -> String {
    error.to_string()
}

impl Fixture for Homes {
    fn homes(&self) -> &dyn ports::Homes {
        &self.store
    }

    fn write_memory(&mut self, guest: &GuestUuid, point: &PointId, content: u8) -> Verdict {
        let place = self.homes().staged_memory(guest, point);
        fs::write(place, sample_save_image(content)).map_err(said)
    }

    fn damage_memory(&mut self, point: &FoundPoint) -> Verdict {
        let path = point.memory.as_ref().ok_or("the point has no memory image")?;
        if self.pool.is_some() {
            // It lies in the home's snapshot, which cannot be written.
            let snapshot = path.parent().unwrap_or(path).display().to_string();
            must("btrfs", &["property", "set", "-f", "-ts", &snapshot, "ro", "false"])
                .map_err(said)?;
        }
        let file = if path.is_dir() { path.join("memory.img") } else { path.clone() };
        let mut bytes = fs::read(&file).map_err(said)?;
        let at = if path.is_dir() { 100 } else { bytes.len() / 2 };
        bytes[at] ^= 1;
        fs::write(file, bytes).map_err(said)
    }

    fn save_image(&mut self, content: u8) -> Result<PathBuf, String> {
        self.lay("guest.save", &sample_save_image(content))
    }

    fn file(&mut self, number: u8) -> Result<PathBuf, String> {
        self.lay("file", number.to_string().as_bytes())
    }
}
