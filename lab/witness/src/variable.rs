//! A UEFI variable that counts the boots, to tell whether the firmware's variables persist.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use rustix::mount::{MountFlags, mount};

use crate::Fatal;
use crate::console::Console;
use crate::machine::{attempt, load_modules};

const PLACE: &str = "/sys/firmware/efi/efivars";
/// The module is loaded on request only: it fails on a machine without UEFI.
const MODULES: &str = "/modules-uefi";
/// Name and vendor; the vendor is a UUID of our own.
const VARIABLE: &str = "WitnessBoots-5b1a5d5e-3c0f-4a53-9d5c-7d1f6a2c9e41";
/// Non-volatile, for boot services and the running system: UEFI specification 2.10, 8.2.
const ATTRIBUTES: u32 = 7;
const ATTRIBUTES_BYTES: usize = size_of::<u32>();

/// Says how many boots the variable has seen, and adds this one.
pub(crate) fn count_boot(console: &Console) -> Result<(), Fatal> {
    load_modules(MODULES)?;
    let mounted = mount("efivarfs", PLACE, "efivarfs", MountFlags::empty(), None);
    attempt(format!("mount {PLACE}"), mounted)?;
    let path = Path::new(PLACE).join(VARIABLE);
    let found = attempt("read the variable", read(&path))?;
    console.note("boots-found", &found.to_string());
    attempt("write the variable", write(&path, found + 1))?;
    console.note("boots-written", &(found + 1).to_string());
    Ok(())
}

fn read(path: &Path) -> io::Result<u32> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        bytes => bytes?,
    };
    let value = bytes.get(ATTRIBUTES_BYTES..).and_then(|value| value.first_chunk());
    value.map(|value| u32::from_le_bytes(*value)).ok_or(io::ErrorKind::InvalidData.into())
}

/// Attributes and value must come in one write; what exists is protected by a flag.
fn write(path: &Path, count: u32) -> io::Result<()> {
    match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        file => {
            let file = file?;
            let flags = ioctl_getflags(&file)?;
            ioctl_setflags(&file, flags - IFlags::IMMUTABLE)?;
        }
    }
    fs::write(path, [ATTRIBUTES.to_le_bytes(), count.to_le_bytes()].concat())
}
