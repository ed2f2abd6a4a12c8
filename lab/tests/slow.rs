//! Storage that is slow to write out: the guest is put on overlays inside its pause, and the volumes
//! are snapshotted while it runs.

use std::error::Error;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use vitrify_lab::harness::{self, Outcome};
use vitrify_lab::journal::Journal;
use vitrify_lab::pool::Pool;
use vitrify_lab::scene::{Point, Scene};
use vitrify_lab::world::World;

const LIMIT: Duration = Duration::from_secs(90);
/// The drive.
const BYTES_PER_SECOND: u64 = 8 << 20;
/// What a neighbour on the guest's volume keeps unwritten, in MiB: some seconds for such a drive, before
/// there can be a snapshot.
const GATHERED: u64 = 24;
/// How often it writes one of them anew.
const PACE: Duration = Duration::from_millis(10);

fn main() -> ExitCode {
    harness::run(&[
        ("a_slow_drive_makes_no_long_pause", a_slow_drive_makes_no_long_pause),
        ("memory_fits_disks_that_were_on_overlays", memory_fits_disks_that_were_on_overlays),
    ])
}

/// The guest goes first, and then the drive that its overlays and its memory are on.
struct TwoDrives {
    scene: Scene,
    _fast: Pool,
}

/// A guest with two disks, its overlays and its memory on another drive than its disks.
fn two_drives() -> Result<TwoDrives, Box<dyn Error>> {
    let mut world = World::new()?;
    let fast = Pool::btrfs(4096)?;
    world.overlays = fast.subvolume("overlays")?;
    world.store_in(&fast.subvolume("mem")?)?;
    let step = Duration::from_millis(10);
    let scene =
        Scene::of(world, &["one/a.raw", "two/b.raw"], |witness| witness.boot_sector().step(step))?;
    Ok(TwoDrives { scene, _fast: fast })
}

fn pause_limit(scene: &Scene, limit: &str) -> Outcome {
    Ok(scene.world.configure(&format!("[capture]\npause-limit = \"{limit}\"\n"))?)
}

/// The same drive, with overlays and without: where the limit is so long that the drive is fast
/// enough for it, the snapshots are a part of the pause.
fn a_slow_drive_makes_no_long_pause() -> Outcome {
    let TwoDrives { mut scene, _fast } = two_drives()?;
    let mut pauses = Vec::new();
    for limit in ["600s", "200ms"] {
        pause_limit(&scene, limit)?;
        let slow = scene.world.pool.slow_down(BYTES_PER_SECOND)?;
        let neighbour = scene.disks[0].with_file_name("neighbour");
        let (point, snapshots) = beside_a_neighbour(&neighbour, || timed(&mut scene))?;
        let pause = point.json["pause_ms"].as_f64().ok_or("no pause")?;
        let reason = point.json["reason"].as_str().unwrap_or_default();
        assert_eq!(point.json["engine"], "instant", "{}", point.json);
        assert_eq!(point.json["consistency"], "memory", "{}", point.json);
        let on_overlays = reason.contains("more than half of the pause limit of 200 ms: overlays");
        assert_eq!(on_overlays, limit == "200ms", "{reason}");
        say(&format!(
            "pause-limit {limit}: {pause} ms of pause, {snapshots:?} of snapshots; {reason}"
        ));
        pauses.push((pause, snapshots.as_secs_f64() * 1000.0));
        drop(slow);
        scene.is_well()?;
        scene.restore(&point, &["--no-safety-point", "--yes"])?;
        scene.is_well()?;
    }
    let [(with_snapshots, first), (without, second)] = pauses[..] else { return Err("two".into()) };
    assert!(with_snapshots >= first, "{pauses:?}");
    assert!(without < second && without < with_snapshots, "{pauses:?}");
    scene.is_well()
}

/// Does it while a neighbour writes.
fn beside_a_neighbour<T>(
    file: &Path,
    work: impl FnOnce() -> Result<T, Box<dyn Error>>,
) -> Result<T, Box<dyn Error>> {
    let (stop, stopped) = mpsc::channel::<()>();
    let file = File::create(file)?;
    let chunk = vec![7; 1 << 20];
    file.write_all_at(&chunk.repeat(usize::try_from(GATHERED)?), 0)?;
    thread::scope(|scope| {
        let write = move || -> io::Result<()> {
            let mut places = (0..GATHERED).cycle().map(|it| it << 20);
            while stopped.recv_timeout(PACE) == Err(RecvTimeoutError::Timeout) {
                file.write_all_at(&chunk, places.next().unwrap_or(0))?;
            }
            Ok(())
        };
        let writer = scope.spawn(write);
        let worked = work();
        drop(stop);
        writer.join().map_err(|_| "the neighbour panicked")??;
        worked
    })
}

/// Captures the guest, and tells how long its volumes' snapshots took.
fn timed(scene: &mut Scene) -> Result<(Point, Duration), Box<dyn Error>> {
    let journal = Journal::of(&scene.world.vitrify)?;
    scene.guest.serial.skip_to_end()?;
    let before = scene.guest.serial.latest().ok_or("nothing was said")?;
    let name = scene.guest.name().to_owned();
    let process = scene.world.vitrify.start(&["snapshot", "--json", &name])?;
    let snapshots = |record: &'static str| {
        move |now: &[String]| {
            now.iter().any(|it| it.contains(record) && it.contains("snapshot-volumes"))
        }
    };
    journal.reaches(&process, LIMIT, snapshots(r#""begun""#))?;
    let begun = Instant::now();
    journal.reaches(&process, LIMIT, snapshots(r#""done""#))?;
    let took = begun.elapsed();
    let finished = process.finish(LIMIT)?;
    assert!(finished.status.success(), "{finished:?}");
    let json: Value = serde_json::from_str(&finished.stdout)?;
    let after = scene.guest.serial.steps_on(1, LIMIT)?;
    let name = json["point"].as_str().ok_or("no point")?.to_owned();
    Ok((Point { name, json, before, counts: before.count..=after.count }, took))
}

/// What the guest writes until its disks are back on their bases belongs to no point.
fn memory_fits_disks_that_were_on_overlays() -> Outcome {
    let TwoDrives { mut scene, _fast } = two_drives()?;
    pause_limit(&scene, "1ms")?;
    for _ in 0..5 {
        let point = scene.snapshot(&["--consistency", "memory"])?;
        let reason = point.json["reason"].as_str().unwrap_or_default();
        assert!(reason.ends_with("overlays during the snapshots"), "{reason}");
        assert_eq!(point.json["engine"], "instant");
        scene.is_well()?;
        scene.restore(&point, &["--no-safety-point", "--yes"])?;
        scene.is_well()?;
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "figures are part of what these tests are for")]
fn say(text: &str) {
    eprintln!("{text}");
}
