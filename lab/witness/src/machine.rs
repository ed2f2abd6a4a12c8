//! The guest as a machine: its basic file systems, kernel modules, command line, and the switch.

use std::fs;
use std::io;
use std::path::Path;

use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, finit_module, reboot};

use crate::Fatal;

/// Where the image holds the kernel modules, named so that their sorted order is the order to load
/// them in.
pub(crate) const MODULES: &str = "/modules";
/// `MODULE_INIT_COMPRESSED_FILE` of finit_module(2): the kernel unpacks the module.
const COMPRESSED: i32 = 4;

/// Names what was attempted in a failure.
pub(crate) fn attempt<T, E: Into<io::Error>>(
    what: impl Into<String>,
    result: Result<T, E>,
) -> Result<T, Fatal> {
    result.map_err(|error| Fatal::Machine { what: what.into(), source: error.into() })
}

/// Mounts `/dev`, `/proc` and `/sys`.
pub(crate) fn mount_basics() -> Result<(), Fatal> {
    for (kind, place) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        attempt(format!("make {place}"), fs::create_dir_all(place))?;
        let mounted = mount(kind, place, kind, MountFlags::empty(), None);
        attempt(format!("mount {place}"), mounted)?;
    }
    Ok(())
}

/// Loads every kernel module of a folder. One that is there already is fine.
pub(crate) fn load_modules(folder: &str) -> Result<(), Fatal> {
    let entries = attempt(format!("list {folder}"), fs::read_dir(folder))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let file = attempt(format!("open {}", path.display()), fs::File::open(&path))?;
        let flags = if path.extension().is_some_and(|end| end == "ko") { 0 } else { COMPRESSED };
        match finit_module(file, c"", flags) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => attempt(format!("load {}", path.display()), Err(error))?,
        }
    }
    Ok(())
}

/// The kernel's command line.
pub(crate) fn command_line() -> Result<String, Fatal> {
    attempt("read /proc/cmdline", fs::read_to_string("/proc/cmdline"))
}

/// MiB of RAM that can be had without killing someone.
pub(crate) fn available_mib() -> Result<u64, Fatal> {
    let text = attempt("read /proc/meminfo", fs::read_to_string("/proc/meminfo"))?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = kib.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.unwrap_or(0) >> 10)
}

/// Names of the writable virtio disks, sorted.
pub(crate) fn writable_disks() -> Result<Vec<String>, Fatal> {
    let entries = attempt("list /sys/block", fs::read_dir("/sys/block"))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut disks: Vec<String> = names.filter(|name| name.starts_with("vd")).collect();
    disks.retain(|name| {
        let read_only = Path::new("/sys/block").join(name).join("ro");
        fs::read_to_string(read_only).is_ok_and(|text| text.trim() == "0")
    });
    disks.sort_by_key(|name| (name.len(), name.clone()));
    Ok(disks)
}

/// Switches the guest off; if that is refused, stops here for ever.
pub(crate) fn power_off() {
    let _ = reboot(RebootCommand::PowerOff);
    loop {
        std::thread::park();
    }
}
