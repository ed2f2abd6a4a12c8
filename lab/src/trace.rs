//! All that a repair could change, so that one that has nothing to do can be shown to do nothing.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;

use crate::guest::Guest;
use crate::leftovers::entries;
use crate::pool::Kind;
use crate::run::must;
use crate::world::World;

/// Every path with its inode, the journal word for word, the guest as libvirt has it, and what a ZFS
/// pool has. Contents of disks change by themselves, and locks are taken by whoever looks.
///
/// # Errors
/// What libvirt, ZFS or the file system say.
pub fn everything(world: &World, guest: &Guest) -> Result<String, Box<dyn Error>> {
    let state = world.vitrify.state();
    let locks = state.join("locks").display().to_string();
    let places = [world.pool.path(), &world.store, &world.overlays, state];
    let places = places.map(|place| place.display().to_string());
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    let found = must("find", &[&places[..], &["-printf", "%i %p\n"]].concat())?;
    let mut found: Vec<_> = found.lines().filter(|line| !line.contains(&locks)).collect();
    found.sort_unstable();
    let mut found: Vec<String> = found.into_iter().map(str::to_owned).collect();
    for entry in entries(&state.join("journal"))? {
        found.push(fs::read_to_string(entry)?);
    }
    found.extend([guest.state()?, guest.xml()?]);
    found.push(guest.virsh("dumpxml", &["--inactive"])?);
    found.push(guest.virsh("snapshot-list", &["--name"])?);
    if world.pool.kind() == Kind::Zfs {
        let whole = world.pool.dataset("")?;
        found.push(must("zfs", &["list", "-H", "-r", "-t", "all", "-o", "name,guid", &whole])?);
    }
    Ok(found.join("\n"))
}

/// The lines that only one of two such texts has; empty where they are the same.
#[must_use]
pub fn difference(before: &str, after: &str) -> String {
    let only = |sign: &str, these: &str, those: &str| {
        let those: BTreeSet<&str> = those.lines().collect();
        let lines = these.lines().filter(|line| !those.contains(line));
        lines.map(|line| format!("{sign} {line}\n")).collect::<String>()
    };
    only("-", before, after) + &only("+", after, before)
}
