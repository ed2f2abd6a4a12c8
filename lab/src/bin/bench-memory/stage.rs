//! The guest that is captured, and its world.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use vitrify_lab::guest::{Format, Guest, Witness};
use vitrify_lab::pool::Pool;
use vitrify_lab::run::{Finished, must};
use vitrify_lab::world::World;

use crate::Failure;
use crate::measure;
use crate::options::Writer;
use crate::row::{Capture, Image, Restore};

/// Sparse.
const STORE_MIB: u64 = 64 << 10;
/// Filling RAM takes most of it.
const BOOT: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_secs(120);
/// A capture with everything.
const LIMIT: Duration = Duration::from_secs(600);
/// Steps of 20 ms over which the guest's work before a capture is measured.
const BEFORE: u64 = 150;
const PAGE_MB: f64 = 4096.0 / 1e6;

/// A running witness. Fields go in their order: the guest before its world, and the store last.
pub(crate) struct Stage {
    guest: Guest,
    memory_mib: u64,
    writer: Writer,
    /// The hashes of the last point's pages.
    last: Option<Vec<u8>>,
    point: String,
    world: World,
    store: Pool,
}

/// How much work a guest had done by when.
struct Done {
    at: Instant,
    pages: u64,
}

impl Stage {
    /// Boots a witness in a world of its own.
    pub(crate) fn set(memory_mib: u64, writer: Writer, mbps: u64) -> Result<Self, Failure> {
        let mut world = World::new()?;
        let store = Pool::btrfs(STORE_MIB)?;
        world.store_in(&store.subvolume("mem")?)?;
        let disk = world.pool.subvolume("guest")?.join("a.raw");
        let witness = Witness::new(&world.guest_name("bench"))
            .memory_mib(memory_mib)
            .fill_mib(memory_mib / 2)
            .dirty_mbps(mbps)
            .disk(&disk, Format::Raw);
        let witness = if writer == Writer::Scattered { witness.scattered() } else { witness };
        let mut guest = world.start(&witness)?;
        guest.serial.ready(BOOT)?;
        Ok(Self { guest, memory_mib, writer, last: None, point: String::new(), world, store })
    }

    /// One capture.
    pub(crate) fn capture(&mut self, round: u64) -> Result<Capture, Failure> {
        let used = self.used()?;
        let earlier = self.done(1)?;
        let before = self.done(BEFORE)?;
        let arguments = ["snapshot", "--engine", "instant", "--json", "--quiet", self.guest.name()];
        let (finished, resident) = self.vitrify(&arguments)?;
        let total = before.at.elapsed();
        let after = self.done(1)?;
        let taken: Value = serde_json::from_str(&finished.stdout)
            .map_err(|error| format!("{error}: {}", finished.stderr))?;
        let growth = self.used()?.saturating_sub(used);
        self.point = format!("{}@{}", self.guest.name(), taken["id"].as_str().unwrap_or_default());
        let hashes = fs::read(self.image_folder()?.join("pages.b3"))?;
        let changed = measure::changed_bytes(self.last.as_deref().unwrap_or(&[]), &hashes);
        self.last = Some(hashes);
        let ms = |name: &str| taken[name].as_f64().ok_or_else(|| format!("no {name}"));
        Ok(Capture {
            memory_mib: self.memory_mib,
            writer: self.writer,
            round,
            pause_ms: ms("pause_ms")?,
            stalled_ms: ms("stalled_ms")?,
            total,
            growth,
            changed,
            resident,
            work_before: before.mbps_since(&earlier),
            work_during: after.mbps_since(&before),
        })
    }

    /// The last point's image: received and restored. The guest is gone after that.
    pub(crate) fn image(&mut self, rounds: u64) -> Result<Image, Failure> {
        let raw = self.world.store.join("bench.save");
        let exported = ["export", &self.point, "--save-image", &text(&raw)];
        must_end_well(self.world.vitrify.run_within(LIMIT, &exported)?.stderr, raw.is_file())?;
        let ingest = measure::ingest(&raw, &self.world.store, rounds)?;
        Ok(Image {
            memory_mib: self.memory_mib,
            bytes: raw.metadata()?.len(),
            ingest,
            restore: self.restore(&raw)?,
        })
    }

    /// With everything warm, and the guest off.
    fn restore(&self, raw: &Path) -> Result<Restore, Failure> {
        self.guest.destroy()?;
        let verified = self.world.vitrify.run_within(LIMIT, &["verify", &self.point])?;
        must_end_well(verified.stderr, verified.code == Some(0))?;
        let begun = Instant::now();
        let arguments = ["restore", "--yes", "--quiet", "--no-safety-point", &self.point];
        let (_, resident) = self.vitrify(&arguments)?;
        let ours = begun.elapsed();
        self.guest.destroy()?;
        let cp = measure::cp(raw, &self.world.store)?;
        let begun = Instant::now();
        self.guest.restore(raw)?;
        Ok(Restore { virsh: begun.elapsed(), cp, ours, resident })
    }

    /// Runs vitrify to its end, and tells how much memory it had in RAM at most.
    fn vitrify(&self, arguments: &[&str]) -> Result<(Finished, u64), Failure> {
        let process = self.world.vitrify.start(arguments)?;
        let resident = measure::peak_while_running(&process);
        let finished = process.finish(LIMIT)?;
        must_end_well(finished.stderr.clone(), finished.status.success())?;
        Ok((finished, resident))
    }

    /// The work that is done after so many more steps.
    fn done(&mut self, steps: u64) -> Result<Done, Failure> {
        let pages = self.guest.serial.steps_on(steps, SOON)?.dirty_pages;
        Ok(Done { at: Instant::now(), pages })
    }

    fn image_folder(&self) -> Result<PathBuf, Failure> {
        let shown = self.world.vitrify.run(&["show", "--json", &self.point])?.json()?;
        Ok(shown["memory_image"].as_str().ok_or("no memory image")?.into())
    }

    /// Bytes that the store's file system uses, with what is on its way.
    fn used(&self) -> Result<u64, Failure> {
        let store = text(self.store.path());
        must("sync", &["--file-system", &store])?;
        let used = must("df", &["--block-size=1", "--output=used", &store])?;
        Ok(used.lines().last().unwrap_or_default().trim().parse()?)
    }
}

impl Done {
    fn mbps_since(&self, earlier: &Self) -> f64 {
        let pages = self.pages.saturating_sub(earlier.pages) as f64;
        pages * PAGE_MB / self.at.duration_since(earlier.at).as_secs_f64()
    }
}

fn must_end_well(said: String, went_well: bool) -> Result<(), Failure> {
    if went_well { Ok(()) } else { Err(said.into()) }
}

pub(crate) fn text(path: &Path) -> String {
    path.display().to_string()
}
