//! What most tests begin with: a world, and in it one witness that runs and is captured, restored
//! and asked whether it is well.

use std::error::Error;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use witness::line::Line;

use crate::guest::{DISK_MIB, Format, Guest, Witness};
use crate::harness::Outcome as Tried;
use crate::leftovers::leftovers;
use crate::proof;
use crate::serial::Status;
use crate::vitrify::Outcome;
use crate::world::World;

/// How long a boot may take; 3 to 4 s as a rule, of boot-sector code less than that.
pub const BOOT: Duration = Duration::from_secs(90);
/// How long a few steps may take.
pub const SOON: Duration = Duration::from_secs(30);
/// A status is said each 50 ms: by so many steps of 5 ms and more may one be late, generously.
const LATE: u64 = 30;

/// A guest in a world. The guest goes first.
#[derive(Debug)]
pub struct Scene {
    /// The witness.
    pub guest: Guest,
    /// Its images.
    pub disks: Vec<PathBuf>,
    /// Where it runs.
    pub world: World,
}

/// A restore point, and what the witness had counted when it was taken.
#[derive(Clone, Debug)]
pub struct Point {
    /// Its name.
    pub name: String,
    /// What `snapshot --json` said.
    pub json: Value,
    /// The last status before the capture.
    pub before: Status,
    /// The counts between which the capture lies.
    pub counts: RangeInclusive<u64>,
}

impl Scene {
    /// A witness with one raw disk.
    ///
    /// # Errors
    /// Whatever stands against it, as for all that follow.
    pub fn new() -> Result<Self, Box<dyn Error>> {
        Self::of(World::new()?, &["guest/a.raw"], |witness| witness)
    }

    /// A witness with these disks, each named by its subvolume and its file; `NAME.zvol` is a
    /// volume of a ZFS pool instead.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub fn of(
        world: World,
        disks: &[&str],
        describe: impl FnOnce(Witness) -> Witness,
    ) -> Result<Self, Box<dyn Error>> {
        let mut witness = describe(world.witness("w"));
        let mut paths = Vec::new();
        for disk in disks {
            let (path, format) = place(&world, disk)?;
            witness = witness.disk(&path, format);
            paths.push(path);
        }
        let mut guest = world.start(&witness)?;
        guest.serial.ready(BOOT)?;
        guest.serial.steps_on(1, SOON)?;
        Ok(Self { guest, disks: paths, world })
    }

    /// The same, as if `instant` had not passed its self-test: only libvirt's dump saves RAM.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub fn without_instant(self) -> Result<Self, Box<dyn Error>> {
        proof::distrust_instant(self.world.vitrify.state())?;
        Ok(self)
    }

    /// Runs a command that must end with this exit status.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub fn vitrify(&self, code: i32, arguments: &[&str]) -> Result<Outcome, Box<dyn Error>> {
        let outcome = self.world.vitrify.run(arguments)?;
        match outcome.code == Some(code) {
            true => Ok(outcome),
            false => Err(format!("{arguments:?} should end with {code}: {outcome:?}").into()),
        }
    }

    /// `GUEST@POINT`.
    #[must_use]
    pub fn at(&self, point: &str) -> String {
        format!("{}@{point}", self.guest.name())
    }

    /// Captures the running guest, which must go well.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub fn snapshot(&mut self, more: &[&str]) -> Result<Point, Box<dyn Error>> {
        self.guest.serial.skip_to_end()?;
        let before = self.guest.serial.latest().ok_or("the witness never spoke")?;
        let arguments = [&["snapshot", "--json", self.guest.name()], more].concat();
        let json = self.vitrify(0, &arguments)?.json()?;
        let after = self.guest.serial.steps_on(1, SOON)?;
        let name = json["point"].as_str().ok_or("no point in the answer")?.to_owned();
        Ok(Point { name, json, before, counts: before.count..=after.count })
    }

    /// Puts the running guest back to a point that lies well behind it, and answers with the first
    /// that it says from then on.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub fn restore(&mut self, point: &Point, more: &[&str]) -> Result<Status, Box<dyn Error>> {
        let name = point.name.clone();
        self.restore_as(point, &name, more)
    }

    /// The same for a point that is called something else, such as `latest`.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub fn restore_as(
        &mut self,
        point: &Point,
        name: &str,
        more: &[&str],
    ) -> Result<Status, Box<dyn Error>> {
        // So far on that the counter cannot be where it was by chance.
        let far = point.counts.end() + 2 * LATE;
        self.guest.serial.skip_to_end()?;
        let reached = self.guest.serial.count_reaches(far, BOOT)?;
        let point_ref = self.at(name);
        let arguments = [&["restore", "--force", &point_ref], more].concat();
        self.vitrify(0, &arguments)?;
        let first = self.first_below(reached.count)?;
        self.continues(point, first)?;
        Ok(first)
    }

    /// The first status with a smaller count than what had been reached.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub fn first_below(&mut self, reached: u64) -> Result<Status, Box<dyn Error>> {
        let mut found = None;
        let what = format!("count below {reached}");
        self.guest.serial.wait_for(&what, SOON, |line| match *line {
            Line::Status { boot, count, mismatches, dirty_mbps, dirty_pages }
                if count < reached =>
            {
                found = Some(Status { boot, count, mismatches, dirty_mbps, dirty_pages });
                true
            }
            _ => false,
        })?;
        Ok(found.ok_or("no status")?)
    }

    /// That `first`, the first status after a restore, continues a point: the same boot, from the
    /// instant of its capture.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub fn continues(&self, point: &Point, first: Status) -> Tried {
        let counts = *point.counts.start()..=point.counts.end() + LATE;
        if first.boot != point.before.boot || !counts.contains(&first.count) {
            let said = self.guest.serial.tail();
            return Err(format!("{first:?} does not continue {point:?}; it said:\n{said}").into());
        }
        Ok(())
    }

    /// That the guest runs on, that its memory and disks agree, and that nothing is left behind.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub fn is_well(&mut self) -> Tried {
        let state = self.guest.state()?;
        if state != "running" {
            return Err(format!("the guest is {state}").into());
        }
        self.guest.serial.steps_on(10, SOON)?;
        self.is_settled()
    }

    /// The same of a guest that need not run.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub fn is_settled(&mut self) -> Tried {
        self.guest.serial.skip_to_end()?;
        let mismatches = self.guest.serial.mismatches();
        if !mismatches.is_empty() {
            return Err(mismatches.join("\n").into());
        }
        let found = leftovers(&self.world, &self.guest, &self.disks)?;
        if found.is_empty() { Ok(()) } else { Err(found.join("\n").into()) }
    }

    /// That nothing of ours is in the way of an ordinary save and its restore.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub fn can_be_saved(&mut self) -> Tried {
        let file = self.world.folder().join("plain.save");
        self.guest.save(&file)?;
        self.guest.restore(&file)?;
        self.guest.serial.skip_to_end()?;
        self.guest.serial.steps_on(10, SOON)?;
        Ok(())
    }

    /// Which life of the guest this is: the number that libvirt gives to each start.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub fn life(&self) -> Result<String, Box<dyn Error>> {
        Ok(self.guest.virsh("domid", &[])?)
    }
}

/// Makes what a disk lies on, and for a volume the disk itself.
fn place(world: &World, disk: &str) -> Result<(PathBuf, Format), Box<dyn Error>> {
    if let Some(name) = disk.strip_suffix(".zvol") {
        return Ok((world.pool.zvol(name, DISK_MIB)?, Format::Block));
    }
    let path = world.pool.path().join(disk);
    let volume = path.parent().unwrap_or(Path::new("/"));
    if let (false, Some(name)) = (volume.exists(), volume.file_name()) {
        world.pool.subvolume(&name.to_string_lossy())?;
    }
    let format = match path.extension().is_some_and(|it| it == "qcow2") {
        true => Format::Qcow2,
        false => Format::Raw,
    };
    Ok((path, format))
}
