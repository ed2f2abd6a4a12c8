//! All that a repair could change, so that one that has nothing to do can be shown to do nothing.

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
    let mut text = found.join("\n");
    for entry in entries(&state.join("journal"))? {
        text += &fs::read_to_string(entry)?;
    }
    text += &guest.state()?;
    text += &guest.xml()?;
    text += &guest.virsh("dumpxml", &["--inactive"])?;
    text += &guest.virsh("snapshot-list", &["--name"])?;
    if world.pool.kind() == Kind::Zfs {
        let whole = world.pool.dataset("")?;
        text += &must("zfs", &["list", "-H", "-r", "-t", "all", "-o", "name,guid", &whole])?;
    }
    Ok(text)
}
