//! The guest that is captured, its world, and what is measured around each capture.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vitrify_lab::events::Events;
use vitrify_lab::guest::{Format, Guest, Witness};
use vitrify_lab::pool::Pool;
use vitrify_lab::run::must;
use vitrify_lab::world::World;

use crate::Failure;
use crate::options::Options;
use crate::row::Row;
use crate::ways::{How, Subject, recipe_files};

/// Sparse. A live dump that does not converge writes as long as it may.
const POOL_MIB: u64 = 48 << 10;
/// Filling RAM takes most of it.
const BOOT: Duration = Duration::from_secs(300);
/// A step takes 20 ms, and more where the guest is busy with its RAM.
const SOON: Duration = Duration::from_secs(120);
/// Steps after which the rate has settled: the witness says the last second's.
const SETTLED: u64 = 120;
/// The subvolumes of a stage; all others are captures.
const OWN_SUBVOLUMES: [&str; 3] = ["mem", "overlays", "guest"];
/// What `/sys/block` counts in.
const SECTOR_BYTES: u64 = 512;

/// A running witness. Fields go in their order: the guest before its world.
pub(crate) struct Stage {
    events: Events,
    guest: Guest,
    disk: PathBuf,
    asked_mbps: u64,
    limit: Duration,
    world: World,
}

impl Stage {
    /// Boots a witness in a world of its own.
    ///
    /// # Errors
    /// What could not be made.
    pub(crate) fn set(options: &Options, asked_mbps: u64) -> Result<Self, Failure> {
        let world = World::on(Pool::btrfs(POOL_MIB)?)?;
        world.configure(&format!("dump-limit = \"{}s\"\n", options.limit.as_secs()))?;
        let disk = world.pool.subvolume("guest")?.join("a.raw");
        let witness = Witness::new(&world.guest_name("bench"))
            .memory_mib(options.memory_mib)
            .fill_mib(options.fill_mib())
            .dirty_mbps(asked_mbps)
            .disk(&disk, Format::Raw);
        let mut guest = world.start(&witness)?;
        guest.serial.ready(BOOT)?;
        let events = Events::of(guest.name())?;
        Ok(Self { events, guest, disk, asked_mbps, limit: options.limit, world })
    }

    /// Captures the guest once and removes the capture.
    ///
    /// # Errors
    /// What could not be measured, or a guest that is not as before.
    pub(crate) fn capture(&mut self, how: How, round: u64) -> Result<Row, Failure> {
        let reached_mbps = self.guest.serial.steps_on(SETTLED, SOON)?.dirty_mbps;
        self.events.pauses()?;
        let written_before = written(self.world.pool.path())?;
        let volume = self.disk.parent().ok_or("a disk without a folder")?.to_owned();
        let guest = self.guest.name();
        let subject = Subject { guest, volume, world: &self.world, limit: self.limit };
        let begun = Instant::now();
        let result = how.capture(&subject)?;
        let total = begun.elapsed();
        let written_bytes = written(self.world.pool.path())? - written_before;
        let pause = self.events.pauses()?.iter().sum();
        self.tidy()?;
        self.check()?;
        let asked_mbps = self.asked_mbps;
        Ok(Row { how, round, asked_mbps, reached_mbps, total, pause, written_bytes, result })
    }

    /// Removes what a capture made, so that each finds the same room and nothing is cleared up
    /// during the next.
    fn tidy(&self) -> Result<(), Failure> {
        for file in recipe_files(&self.world) {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        let root = self.world.pool.path();
        let pool = root.display().to_string();
        let listed = must("btrfs", &["subvolume", "list", &pool])?;
        let mut captures: Vec<&str> = listed
            .lines()
            .filter_map(|line| line.split_once(" path ").map(|(_, path)| path))
            .filter(|path| !OWN_SUBVOLUMES.contains(path))
            .collect();
        // Those within others go first.
        captures.sort_by_key(|path| std::cmp::Reverse(path.len()));
        for capture in captures {
            must("btrfs", &["subvolume", "delete", &root.join(capture).display().to_string()])?;
        }
        must("btrfs", &["subvolume", "sync", &pool])?;
        must("sync", &["--file-system", &pool])?;
        Ok(())
    }

    /// That the guest is as it was before.
    fn check(&mut self) -> Result<(), Failure> {
        let status = self.guest.serial.steps_on(1, SOON)?;
        if status.mismatches > 0 {
            return Err(format!("the guest found mismatches: {status:?}").into());
        }
        let disks = self.guest.virsh("domblklist", &[])?;
        if disks.contains(&self.disk.display().to_string()) {
            return Ok(());
        }
        Err(format!("the guest is not on its own image any more:\n{disks}").into())
    }
}

/// Bytes that were written to a pool's device so far, with what is still on its way.
fn written(pool: &Path) -> Result<u64, Failure> {
    let pool = pool.display().to_string();
    must("sync", &["--file-system", &pool])?;
    let device = must("findmnt", &["--noheadings", "--output", "SOURCE", &pool])?;
    let name = device.rsplit('/').next().unwrap_or_default();
    let stat = fs::read_to_string(format!("/sys/block/{name}/stat"))?;
    let sectors: u64 = stat.split_whitespace().nth(6).ok_or("no count of sectors")?.parse()?;
    Ok(sectors * SECTOR_BYTES)
}
