//! The place of one round: its world, its guest, and what is known of the guest's points.

use std::error::Error;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use witness::params::Agent;
use witness::slot::BootId;

use super::round::{Disk, Ground, Place, Program, Round, Trouble};
use crate::guest::Witness;
use crate::pool::{Pool, PoolError};
use crate::scene::{Point, SOON, Scene};
use crate::serial::Status;
use crate::world::World;

/// Sizes of pools, in MiB; sparse.
const POOL_MIB: u64 = 4096;
const EXTRA_MIB: u64 = 512;
/// No storage writes out anything in half of that.
const IMPATIENT: &str = "[capture]\npause-limit = \"1ms\"\n";
/// A status is said each 50 ms, and a write may be on its way: so many steps may a count be off.
const SLACK: u64 = 30;
/// The shortest step of a witness here.
const STEP: Duration = Duration::from_millis(20);

/// The place of a round. Fields go in their order: the guest before what it lies on.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) scene: Scene,
    /// A folder before the memory store.
    pub(super) spool: Option<PathBuf>,
    /// The points that are there, and of which counts they may be.
    pub(super) known: Vec<Known>,
    /// How long the last undisturbed capture took.
    pub(super) capture_time: Duration,
    /// What is filled, where that is a pool of its own.
    extra: Option<Pool>,
    /// How many disks the witness counts on.
    pub(super) disks: usize,
}

/// A restore point as far as it is known from outside.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) name: String,
    counts: RangeInclusive<u64>,
    /// The boots that were on then.
    boots: Vec<BootId>,
    pub(super) has_memory: bool,
    /// Of a guest that was shut off, which a restore leaves so.
    pub(super) was_off: bool,
}

/// What the guest said last before something began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    status: Status,
    began: Instant,
}

impl Stage {
    /// Makes pools and configuration, and boots the guest.
    pub(super) fn set(round: &Round) -> Result<Self, Box<dyn Error>> {
        let mut world = World::on(pool(round.ground, POOL_MIB)?)?;
        let mut extra = None;
        if let Trouble::Full(place @ (Place::Store | Place::Overlays), ..) = round.trouble {
            let pool = extra.insert(pool(round.ground, EXTRA_MIB)?);
            match place {
                Place::Store => world.store = pool.subvolume("mem")?,
                _ => world.overlays = pool.subvolume("overlays")?,
            }
        }
        world.configure(if round.impatient { IMPATIENT } else { "" })?;
        let spool = round.spool.then(|| world.pool.subvolume("spool")).transpose()?;
        if let Some(spool) = &spool {
            let config = fs::read_to_string(world.vitrify.config())?;
            let more = format!("spool = \"{}\"\n\n[overlay]", spool.display());
            fs::write(world.vitrify.config(), config.replace("[overlay]", &more))?;
        }
        let machine = &round.machine;
        let disks = machine.disks.iter().zip(["a", "b"]).zip(["one", "two"]);
        let disks: Vec<String> = disks
            .map(|((disk, name), volume)| {
                let volume = if machine.together { "one" } else { volume };
                match disk {
                    Disk::Raw => format!("{volume}/{name}.raw"),
                    Disk::Qcow2 => format!("{volume}/{name}.qcow2"),
                    Disk::Zvol => format!("{name}.zvol"),
                }
            })
            .collect();
        let names: Vec<&str> = disks.iter().map(String::as_str).collect();
        let files = world.pool.path().join("one/files.ext4");
        let describe = |witness: Witness| {
            let witness = match machine.program {
                Program::BootSector => witness.boot_sector(),
                Program::Linux => witness,
                Program::Agent => witness.files(&files).agent(Agent::Works),
            };
            let witness = witness.memory_mib(machine.memory_mib).fill_mib(machine.fill_mib);
            witness.dirty_mbps(machine.dirty_mbps)
        };
        let mut scene = Scene::of(world, &names, describe)?;
        if machine.program == Program::Agent {
            scene.disks.push(files);
            scene.guest.agent_becomes("connected", SOON)?;
        }
        let (known, capture_time) = (Vec::new(), Duration::ZERO);
        Ok(Self { scene, spool, known, capture_time, extra, disks: disks.len() })
    }

    /// Takes the points that are there before, undisturbed.
    pub(super) fn capture_history(&mut self, round: &Round) -> Result<(), Box<dyn Error>> {
        for engine in &round.history {
            let began = Instant::now();
            let point = self.scene.snapshot(&["--engine", engine.name()])?;
            self.capture_time = began.elapsed();
            let Point { name, json, before, counts } = point;
            self.known.push(Known::of(&json, name, counts, vec![before.boot]));
        }
        Ok(())
    }

    /// What can be filled.
    pub(super) fn pool(&self) -> &Pool {
        self.extra.as_ref().unwrap_or(&self.scene.world.pool)
    }

    /// Where the guest is now.
    pub(super) fn now(&mut self) -> Result<Before, Box<dyn Error>> {
        self.scene.guest.serial.skip_to_end()?;
        let status = self.scene.guest.serial.latest().ok_or("the witness never spoke")?;
        Ok(Before { status, began: Instant::now() })
    }

    /// Takes note of the points that are there now and were not before; they are newer than `before`.
    pub(super) fn learn(&mut self, before: &Before) -> Result<(), Box<dyn Error>> {
        let now = self.now()?;
        let listed = self.scene.vitrify(0, &["list", "--json", self.scene.guest.name()])?.json()?;
        // They are listed newest first.
        for json in listed["points"].as_array().into_iter().flatten().rev() {
            let name = json["point"].as_str().ok_or("a point has no name")?.to_owned();
            if self.known.iter().all(|known| known.name != name) {
                let counts = before.status.count..=before.furthest();
                let boots = vec![before.status.boot, now.status.boot];
                self.known.push(Known::of(json, name, counts, boots));
            }
        }
        Ok(())
    }

    /// Leaves it to a person. The answer is what keeps it.
    pub(super) fn keep(self) -> io::Result<PathBuf> {
        let Self { scene: Scene { guest, world, .. }, extra, .. } = self;
        std::mem::forget((guest, extra));
        world.keep()
    }
}

impl Before {
    /// How far the guest can have come since then.
    fn furthest(&self) -> u64 {
        self.status.count + steps(self.began.elapsed())
    }
}

impl Known {
    /// A point as vitrify told of it.
    fn of(json: &Value, name: String, counts: RangeInclusive<u64>, boots: Vec<BootId>) -> Self {
        let is = |consistency| json["consistency"] == consistency;
        Self { name, counts, boots, has_memory: is("memory"), was_off: is("off") }
    }

    /// That the guest goes on from here: `took` after it can have begun to.
    pub(super) fn is_continued_by(
        &self,
        boot: Option<BootId>,
        count: u64,
        took: Duration,
    ) -> Result<(), Box<dyn Error>> {
        let earliest = self.counts.start().saturating_sub(SLACK);
        let latest = self.counts.end() + SLACK + steps(took);
        let is_of_then = boot.is_none_or(|boot| self.boots.contains(&boot));
        match is_of_then && (earliest..=latest).contains(&count) {
            true => Ok(()),
            false => {
                Err(format!("boot {boot:?} at count {count} does not continue {self:?}").into())
            }
        }
    }
}

/// More than a witness can do in that time.
fn steps(time: Duration) -> u64 {
    u64::try_from(time.as_millis() / STEP.as_millis()).unwrap_or(u64::MAX)
}

fn pool(ground: Ground, size_mib: u64) -> Result<Pool, PoolError> {
    match ground {
        Ground::Btrfs => Pool::btrfs(size_mib),
        Ground::Zfs => Pool::zfs(size_mib),
    }
}
