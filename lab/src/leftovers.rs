//! What a settled world holds no trace of: overlays, journal entries, staged points, snapshots
//! without a point, points without a snapshot, spare copies of disks.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::guest::Guest;
use crate::world::World;

/// Everything in a world that should not be there, in words. `disks` are the guest's own images.
///
/// # Errors
/// What libvirt, the file system or `vitrify list` say.
pub fn leftovers(
    world: &World,
    guest: &Guest,
    disks: &[PathBuf],
) -> Result<Vec<String>, Box<dyn Error>> {
    let mut found = of_guest(guest, disks)?;
    let mut litter = |what: &str, paths: Vec<PathBuf>| {
        found.extend(paths.iter().map(|path| format!("{what} {}", path.display())));
    };
    litter("journal entry", entries(&world.vitrify.state().join("journal"))?);
    litter("overlay", entries(&world.overlays)?);
    for home in homes(world)? {
        litter("staged point", entries(&home.join("incoming"))?);
        litter("memory image in passing", entries(&home.join("memory"))?);
    }
    for disk in disks {
        let beside = entries(disk.parent().unwrap_or(Path::new("/")))?;
        let spare = |path: &PathBuf| path.to_string_lossy().contains(".vitrify-");
        litter("spare copy", beside.into_iter().filter(spare).collect());
    }
    found.extend(of_points(world)?);
    Ok(found)
}

fn of_guest(guest: &Guest, disks: &[PathBuf]) -> Result<Vec<String>, Box<dyn Error>> {
    let mut found = Vec::new();
    for which in [&[][..], &["--inactive"]] {
        for line in guest.virsh("domblklist", which)?.lines() {
            let source = line.split_whitespace().nth(1).unwrap_or_default();
            if !disks.iter().any(|disk| disk == Path::new(source)) {
                found.push(format!("disk {source} {}", which.concat()));
            }
        }
    }
    let snapshots = guest.virsh("snapshot-list", &["--name"])?;
    found.extend(snapshots.lines().map(|name| format!("snapshot of libvirt {name}")));
    if guest.xml()?.contains("<mirror") {
        found.push("block job".to_owned());
    }
    Ok(found)
}

/// Points and snapshots, both ways: of each disk's volume, and of the homes.
fn of_points(world: &World) -> Result<Vec<String>, Box<dyn Error>> {
    let listed = world.vitrify.run(&["list", "--json"])?.json()?;
    let points = listed["points"].as_array().cloned().unwrap_or_default();
    let mut found = Vec::new();
    let mut wanted = BTreeSet::new();
    for point in &points {
        if point["published"] != Value::Bool(true) {
            found.push(format!("unpublished point {}", point["point"]));
        }
        for volume in point["volumes"].as_array().into_iter().flatten() {
            let path = Path::new(volume["volume"].as_str().unwrap_or_default());
            let name = volume["snapshot"].as_str().unwrap_or_default();
            wanted.insert(snapshots_of(path).join(name));
        }
    }
    let there = grandchildren(&world.pool.path().join(".vitrify"))?;
    let show = |what: &str, path: &PathBuf| format!("{what} {}", path.display());
    found.extend(there.difference(&wanted).map(|it| show("snapshot without a point", it)));
    found.extend(wanted.difference(&there).map(|it| show("point without its snapshot", it)));
    let ids: BTreeSet<_> = points.iter().filter_map(|point| point["id"].as_str()).collect();
    for snapshot in grandchildren(&world.store.join(".vitrify"))? {
        let id = snapshot.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !ids.contains(id.as_str()) {
            found.push(show("snapshot of a home without a point", &snapshot));
        }
    }
    Ok(found)
}

/// The folder of a volume's snapshots.
#[must_use]
pub fn snapshots_of(volume: &Path) -> PathBuf {
    let parent = volume.parent().unwrap_or(Path::new("/"));
    parent.join(".vitrify").join(volume.file_name().unwrap_or_default())
}

fn homes(world: &World) -> io::Result<Vec<PathBuf>> {
    let is_home = |path: &PathBuf| path.is_dir() && !path.ends_with(".vitrify");
    Ok(entries(&world.store)?.into_iter().filter(is_home).collect())
}

fn grandchildren(folder: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for child in entries(folder)? {
        found.extend(entries(&child)?);
    }
    Ok(found)
}

/// What lies in a folder, sorted; nothing if there is none.
///
/// # Errors
/// What the file system says.
pub fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let found = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        found => found?,
    };
    let mut paths = found.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}
