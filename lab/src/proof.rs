//! Spares each world the engines' self-test, which has tests of its own: lays verdicts into its state
//! as if both engines had passed on every kind of storage.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde_json::Value;
use vitrify_core::ports::{Clock as _, Hypervisor as _};
use vitrify_core::self_test::{Ground, StorageKind, Verdict, Verdicts};
use vitrify_host::clock::SystemClock;
use vitrify_host::libvirt::Libvirt;

const URI: &str = "qemu:///system";
/// What the witness's CPU runs on.
const ACCELERATOR: &str = "qemu";

/// Lays them into a new world's state.
pub(crate) fn seed(state: &Path) -> io::Result<()> {
    let verdicts = passed().map_err(|error| io::Error::other(error.to_string()))?;
    fs::write(file(state), serde_json::to_string(&verdicts)?)
}

/// As if `instant` had passed nowhere.
pub(crate) fn distrust_instant(state: &Path) -> io::Result<()> {
    let mut read: Value = serde_json::from_str(&fs::read_to_string(file(state))?)?;
    for verdict in read["verdicts"].as_array_mut().into_iter().flatten() {
        verdict["instant"] = "the test says so".into();
    }
    fs::write(file(state), read.to_string())
}

/// Where `vitrify` keeps them.
fn file(state: &Path) -> PathBuf {
    state.join("self-test.json")
}

fn passed() -> Result<Verdicts, Box<dyn Error>> {
    static LIBVIRT: OnceLock<Libvirt> = OnceLock::new();
    let libvirt = match LIBVIRT.get() {
        Some(libvirt) => libvirt,
        None => {
            let connected = Libvirt::connect(URI, Arc::default())?;
            LIBVIRT.get_or_init(|| connected)
        }
    };
    let mut verdicts = Verdicts::default();
    for storage in [StorageKind::Subvolume, StorageKind::Dataset, StorageKind::Zvol] {
        let ground = Ground {
            hypervisor: libvirt.version()?,
            kernel: SystemClock.kernel()?,
            security: libvirt.confinement()?,
            accelerator: ACCELERATOR.to_owned(),
            storage,
        };
        verdicts.put(Verdict { ground, instant: None, overlay: None });
    }
    Ok(verdicts)
}
