//! Removes what lab programs left behind that were killed: they could not clean up, their guests,
//! pools and mounts stay. Only what carries the id of a process that is gone, and that did not want
//! it kept, is touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;

use crate::guest;
use crate::pool::{trouble, zfs};
use crate::run::{must, virsh};
use crate::scratch;
use crate::world;

static ONCE: Once = Once::new();

/// Sweeps, once per process.
pub(crate) fn once() {
    ONCE.call_once(|| {
        for directory in left_behind() {
            trouble::sweep(&directory.join("pool"));
        }
        let names = virsh(&["list", "--all", "--name"]).unwrap_or_default();
        for name in names.lines().filter(|name| world::owner(name).is_some_and(is_abandoned)) {
            guest::remove(name);
        }
        for name in names.lines().filter(|name| is_self_test_of_the_dead(name)) {
            guest::remove(name);
        }
        zfs::sweep(is_abandoned);
        for directory in left_behind() {
            let mountpoint = directory.join("pool").display().to_string();
            // Most have no pool mounted, or none at all.
            let _ = must("umount", &["--recursive", &mountpoint]);
            if let Err(error) = fs::remove_dir_all(&directory) {
                scratch::complain(&directory.display().to_string(), &error);
            }
        }
    });
}

/// Whether a guest is of a `vitrify`'s self-test beside the disks of a process that is gone.
fn is_self_test_of_the_dead(name: &str) -> bool {
    name.starts_with("vitrify-self-test-")
        && virsh(&["domblklist", name]).is_ok_and(|disks| {
            let paths = disks.split_whitespace().map(Path::new);
            let mut folders = paths.flat_map(Path::ancestors);
            folders.any(|it| scratch::owner(it).is_some_and(is_abandoned))
        })
}

fn left_behind() -> Vec<PathBuf> {
    let entries = fs::read_dir(scratch::parent()).into_iter().flatten().flatten();
    let of_the_dead = |path: &PathBuf| scratch::owner(path).is_some_and(is_abandoned);
    entries.map(|entry| entry.path()).filter(of_the_dead).collect()
}

fn is_abandoned(process: u32) -> bool {
    is_gone(process) && !scratch::is_kept(process)
}

/// Whether a process has ended; one whose end its parent did not look at yet has.
fn is_gone(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    matches!(state, None | Some('Z' | 'X'))
}
