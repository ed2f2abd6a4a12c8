//! What a settled world holds no trace of: overlays, journal entries, staged points, snapshots
//! without a point, points without a snapshot, spare copies of disks.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::guest::Guest;
use crate::pool::{Kind, Pool};
use crate::run::{RunError, must};
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
        litter("save image", entries(&home.join("outgoing"))?);
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
    let mut snapshots = Vec::new();
    for point in &points {
        if point["published"] != Value::Bool(true) {
            found.push(format!("unpublished point {}", point["point"]));
        }
        for volume in point["volumes"].as_array().into_iter().flatten() {
            let [volume, name] = ["volume", "snapshot"].map(|key| volume[key].as_str());
            snapshots.push((volume.unwrap_or_default(), name.unwrap_or_default()));
        }
    }
    let ids: BTreeSet<_> = points.iter().filter_map(|point| point["id"].as_str()).collect();
    if world.pool.kind() == Kind::Zfs {
        // A guest may have disks on another pool as well.
        let pool = format!("{}/", world.pool.dataset("")?);
        let mut wanted = zfs_names(world, &snapshots, &ids)?;
        wanted.retain(|name| name.starts_with(&pool));
        found.extend(on_zfs(&world.pool, &wanted)?);
        return Ok(found);
    }
    let path = |&(volume, name): &(&str, &str)| snapshots_of(Path::new(volume)).join(name);
    let wanted: BTreeSet<_> = snapshots.iter().map(path).collect();
    let there = grandchildren(&world.pool.path().join(".vitrify"))?;
    let show = |what: &str, path: &PathBuf| format!("{what} {}", path.display());
    found.extend(there.difference(&wanted).map(|it| show("snapshot without a point", it)));
    found.extend(wanted.difference(&there).map(|it| show("point without its snapshot", it)));
    for snapshot in grandchildren(&world.store.join(".vitrify"))? {
        let id = snapshot.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !ids.contains(id.as_str()) {
            found.push(show("snapshot of a home without a point", &snapshot));
        }
    }
    Ok(found)
}

/// What ZFS calls the snapshots of points, and those of their homes, each of which bears the id of
/// its point. A volume is named by its dataset or by where that is mounted.
fn zfs_names(
    world: &World,
    snapshots: &[(&str, &str)],
    ids: &BTreeSet<&str>,
) -> Result<Vec<String>, Box<dyn Error>> {
    let mut wanted = Vec::new();
    for (volume, name) in snapshots {
        let dataset = match volume.starts_with('/') {
            true => must("zfs", &["list", "-H", "-o", "name", volume])?,
            false => (*volume).to_owned(),
        };
        wanted.push(format!("{dataset}@{name}"));
    }
    for home in homes(world)? {
        let dataset = must("zfs", &["list", "-H", "-o", "name", &home.display().to_string()])?;
        let there = must("zfs", &["list", "-H", "-o", "name", "-t", "snapshot", &dataset])?;
        let of_a_point =
            |name: &&str| name.rsplit_once('@').is_some_and(|(_, id)| ids.contains(id));
        wanted.extend(there.lines().filter(of_a_point).map(str::to_owned));
    }
    Ok(wanted)
}

/// What of a ZFS pool should not be there when its points have these snapshots (`dataset@name`):
/// other snapshots, clones, and holds.
///
/// # Errors
/// What ZFS says.
pub fn on_zfs(pool: &Pool, wanted: &[String]) -> Result<Vec<String>, Box<dyn Error>> {
    let name = pool.dataset("")?;
    let list = |kind: &str, columns: &str| -> Result<Vec<String>, RunError> {
        let listed = must("zfs", &["list", "-H", "-r", "-t", kind, "-o", columns, &name])?;
        Ok(listed.lines().map(str::to_owned).collect())
    };
    let there: BTreeSet<_> = list("snapshot", "name")?.into_iter().collect();
    let wanted: BTreeSet<_> = wanted.iter().cloned().collect();
    let mut found = Vec::new();
    found.extend(there.difference(&wanted).map(|it| format!("snapshot without a point {it}")));
    found.extend(wanted.difference(&there).map(|it| format!("point without its snapshot {it}")));
    for dataset in list("filesystem,volume", "name,origin")? {
        if let Some((name, origin)) = dataset.split_once('\t')
            && origin != "-"
        {
            found.push(format!("clone {name}"));
        }
    }
    for snapshot in there {
        let holds = must("zfs", &["holds", "-H", &snapshot])?;
        let tags = holds.lines().filter_map(|line| line.split('\t').nth(1));
        found.extend(tags.map(|tag| format!("hold {tag} on {snapshot}")));
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
