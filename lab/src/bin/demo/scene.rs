//! The demo's world and guest, and what can be found out about them beside what vitrify says: from
//! the witness, from libvirt, and from the bytes on the pool.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use vitrify_lab::guest::{Format, Guest, Witness};
use vitrify_lab::leftovers::snapshots_of;
use vitrify_lab::serial::Status;
use vitrify_lab::world::World;
use witness::ring::{Ring, SLOTS};
use witness::slot::{BootId, SLOT_BYTES};

use crate::Failure;
use crate::teller::{check, type_in};

/// A boot takes 5 s under emulation.
pub(crate) const BOOT: Duration = Duration::from_secs(90);
/// A step takes 20 ms.
pub(crate) const SOON: Duration = Duration::from_secs(60);

const MEMORY_MIB: u64 = 512;
const FILL_MIB: u64 = 128;
const DIRTY_MBPS: u64 = 20;

/// The guest, its disks and the world they are in. The guest goes first.
pub(crate) struct Scene {
    pub(crate) guest: Guest,
    /// vda, raw, and vdb, qcow2.
    pub(crate) disks: [PathBuf; 2],
    pub(crate) world: World,
}

/// A restore point, as vitrify and the pool tell of it.
pub(crate) struct Point {
    /// `GUEST@NAME`.
    pub(crate) reference: String,
    /// Between QEMU's STOP and RESUME events.
    pub(crate) pause_ms: f64,
    /// Of the memory image.
    pub(crate) memory_bytes: u64,
    /// The newest count on the first disk, as its snapshot holds it: the count at the capture.
    pub(crate) count: u64,
}

impl Scene {
    /// A fresh world with a witness that has been started.
    pub(crate) fn new() -> Result<Self, Failure> {
        let world = World::new()?;
        let volume = world.pool.subvolume("guest")?;
        let disks = [volume.join("a.raw"), volume.join("b.qcow2")];
        let witness = Witness::new(&world.guest_name("demo"))
            .memory_mib(MEMORY_MIB)
            .fill_mib(FILL_MIB)
            .dirty_mbps(DIRTY_MBPS)
            .disk(&disks[0], Format::Raw)
            .disk(&disks[1], Format::Qcow2);
        let guest = world.start(&witness)?;
        Ok(Self { guest, disks, world })
    }

    /// What must be gone when the scene is.
    pub(crate) fn folders(&self) -> [PathBuf; 2] {
        [self.world.folder().to_owned(), self.world.pool.path().to_owned()]
    }

    /// Finds out about a point: from vitrify, and from the disk in its snapshot.
    pub(crate) fn point(&self, name: &str) -> Result<Point, Failure> {
        let reference = format!("{}@{name}", self.guest.name());
        let shown = self.world.vitrify.run(&["show", &reference, "--json"])?.json()?;
        let consistency = text(&shown["consistency"])?;
        let count = gapless_count(&disk_in_snapshot(&shown)?)?;
        let claim = format!("{name} has memory, and its snapshot holds the disk at count {count}");
        check(&claim, consistency == "memory" && count > 0, &consistency)?;
        Ok(Point {
            reference,
            pause_ms: shown["pause_ms"].as_f64().ok_or("no pause_ms")?,
            memory_bytes: shown["memory_bytes"].as_u64().ok_or("no memory_bytes")?,
            count,
        })
    }

    /// That the guest counts in this boot, and found no difference between RAM and disks.
    pub(crate) fn check_counts_on(&self, status: &Status, boot: BootId) -> Result<(), Failure> {
        let spelt_out = self.guest.serial.mismatches();
        let well = status.boot == boot && status.mismatches == 0 && spelt_out.is_empty();
        let claim = format!("the guest is in boot {boot}, at count {}, no mismatch", status.count);
        check(&claim, well, &format!("{status:?}, {spelt_out:?}"))
    }

    /// That nothing of a capture is left on the guest: it runs on its own images.
    pub(crate) fn check_untouched(&self) -> Result<(), Failure> {
        let state = self.guest.state()?;
        check("the guest runs", state == "running", &state)?;
        let listed = type_in("virsh", &["domblklist", self.guest.name()])?;
        let own = self.disks.iter().all(|disk| listed.contains(&disk.display().to_string()));
        check("it is on its own images", own, &listed)?;
        let snapshots = self.guest.virsh("snapshot-list", &["--name"])?;
        check("libvirt lists no snapshot of it", snapshots.is_empty(), &snapshots)?;
        let left = fs::read_dir(&self.world.overlays)?.count();
        check("no overlay is left", left == 0, &format!("{left} files"))
    }

    /// Overwrites both disks of the stopped guest with noise.
    pub(crate) fn corrupt(&self) -> Result<(), Failure> {
        for disk in &self.disks {
            let to = format!("of={}", disk.display());
            let size = format!("count={}", fs::metadata(disk)?.len());
            let flags = ["iflag=count_bytes", "conv=notrunc", "bs=1M", "status=none"];
            type_in("dd", &[&["if=/dev/urandom", &to, &size], &flags[..]].concat())?;
        }
        let (_, differences) = ring(&self.disks[0])?;
        let found = format!("{differences} slots that are not as they were");
        check("of vda's 2048 counts, none can be read", differences == SLOTS, &found)
    }
}

/// Where the first disk lies in the snapshot of a point.
fn disk_in_snapshot(shown: &Value) -> Result<PathBuf, Failure> {
    let disk = &shown["disks"][0];
    let volumes = shown["volumes"].as_array().ok_or("no volumes")?;
    let of_disk = volumes.iter().find(|it| it["volume"] == disk["volume"]);
    let snapshot = text(&of_disk.ok_or("the disk's volume has no snapshot")?["snapshot"])?;
    let volume = Path::new(text(&disk["volume"])?);
    Ok(snapshots_of(volume).join(snapshot).join(text(&disk["path_in_volume"])?))
}

fn text(value: &Value) -> Result<&str, Failure> {
    value.as_str().ok_or_else(|| format!("not a text: {value}").into())
}

/// The newest count on a disk whose past must be without a gap.
fn gapless_count(disk: &Path) -> Result<u64, Failure> {
    match ring(disk)? {
        (newest, 0) => Ok(newest),
        (_, gaps) => Err(format!("{} has {gaps} counts out of place", disk.display()).into()),
    }
}

/// The newest count on a raw first disk, and how many of its slots are not as that count demands.
fn ring(disk: &Path) -> Result<(u64, usize), Failure> {
    let mut bytes = vec![0; SLOTS * SLOT_BYTES];
    File::open(disk)?.read_exact(&mut bytes)?;
    let (ring, differences) = Ring::learn(0, &bytes);
    Ok((ring.newest(), differences.len()))
}
