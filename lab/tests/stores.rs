//! Memory stores that are slower than the guest, or that hang, and a folder of overlays that is full: the
//! guest must not feel them.

use std::error::Error;
use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use vitrify_lab::harness::{self, Outcome};
use vitrify_lab::journal::Journal;
use vitrify_lab::pool::Pool;
use vitrify_lab::scene::Scene;
use vitrify_lab::work::Work;
use vitrify_lab::world::World;

/// Size of a store, in MiB; sparse.
const STORE_MIB: u64 = 4096;
/// Size of a folder of overlays, in MiB.
const OVERLAYS_MIB: u64 = 512;
/// What a slow store takes.
const SLOW: u64 = 20_000_000;
/// What the guest makes dirty, in MB/s.
const RATE: u64 = 200;
/// How long its rate is measured before.
const BEFORE: Duration = Duration::from_secs(4);
/// How long a command may take.
const LIMIT: Duration = Duration::from_secs(120);
/// How long a guest waits for a store that does not answer (`STALL_LIMIT`), and how long all its waits
/// may be together (`STALL_BUDGET`).
const STALL_LIMIT: Duration = Duration::from_secs(1);
const STALL_BUDGET: Duration = Duration::from_secs(5);
/// By so much may what is measured be longer on a machine where other things run.
const NOISE: Duration = Duration::from_millis(1500);

fn main() -> ExitCode {
    harness::run(&[
        ("a_slow_store_with_a_spool_is_not_felt", a_slow_store_with_a_spool),
        ("a_slow_store_without_one_is_given_up", a_slow_store_without_one),
        ("a_store_that_hangs_in_the_middle", || a_store_that_hangs("receive-memory")),
        ("a_store_that_hangs_before_the_first_page", || a_store_that_hangs("suspend")),
        ("a_folder_of_overlays_that_fills_up", a_folder_of_overlays_that_fills_up),
    ])
}

/// A figure for the reader of the test's output.
#[expect(clippy::print_stderr, reason = "figures are part of what these tests are for")]
fn say(text: &str) {
    eprintln!("{text}");
}

/// A guest that writes, its store on a file system of its own.
fn scene(store: &Pool, more: &str) -> Result<Scene, Box<dyn Error>> {
    let mut world = World::new()?;
    world.store_in(&store.subvolume("mem")?)?;
    // More than waits in memory for the store.
    let scene = Scene::of(world, &["guest/a.raw"], |witness| {
        witness.memory_mib(512).fill_mib(384).dirty_mbps(RATE)
    })?;
    let config = scene.world.vitrify.config();
    let text = fs::read_to_string(config)?;
    let spool = scene.world.pool.subvolume("spool")?;
    fs::write(
        config,
        text.replace("[overlay]", &more.replace("SPOOL", &spool.display().to_string())),
    )?;
    Ok(scene)
}

/// Whether a line of the journal says that this was begun, or done, of this effect.
fn has(lines: &[String], what: &str, effect: &str) -> bool {
    let [what, effect] = [what, effect].map(|it| format!("\"{it}\""));
    lines.iter().any(|it| it.contains(&what) && it.contains(&effect))
}

fn a_slow_store_with_a_spool() -> Outcome {
    let store = Pool::btrfs(STORE_MIB)?;
    let mut scene = scene(&store, "spool = \"SPOOL\"\n\n[overlay]")?;
    let slow = store.slow_down(SLOW)?;
    let before = Work::within(&mut scene.guest, BEFORE)?;
    let journal = Journal::of(&scene.world.vitrify)?;
    let arguments = ["snapshot", "--json", "--engine", "instant", scene.guest.name()];
    let process = scene.world.vitrify.start(&arguments)?;
    let (began, mut resident) = (Instant::now(), 0);
    let streaming = Work::of(&mut scene.guest, |_| {
        resident = resident.max(process.peak_resident());
        Ok(process.has_ended() || has(&journal.lines()?, "done", "receive-memory"))
    })?;
    let streamed = began.elapsed();
    let after = Work::of(&mut scene.guest, |_| Ok(process.has_ended()))?;
    let finished = process.finish(LIMIT)?;
    let took = began.elapsed();
    drop(slow);
    assert!(finished.status.success(), "{finished:?}");
    let point: Value = serde_json::from_str(&finished.stdout)?;
    say(&format!(
        "work before {:.0} MB/s; while RAM streamed {:.0} MB/s for {:.1} s, with {} ms of waiting \
         and no word for {} ms at most; while it was written {:.0} MB/s for {:.1} s; pause {} ms; {} \
         MiB resident at most",
        before.mbps(),
        streaming.mbps(),
        streamed.as_secs_f64(),
        point["stalled_ms"],
        streaming.longest_silence().as_millis(),
        after.mbps(),
        (took - streamed).as_secs_f64(),
        point["pause_ms"],
        resident >> 20,
    ));
    assert_eq!(point["engine"], "instant");
    assert!(resident > 0 && resident <= 256 << 20, "{resident} bytes resident");
    // The store was as slow as it should be, and slower than the guest's RAM came.
    assert!(took > 2 * streamed && took > Duration::from_secs(10), "{streamed:?} of {took:?}");
    let parts = [&streaming, &after].map(|it| (it.mbps(), it.time().as_secs_f64()));
    let work: f64 = parts.iter().map(|(mbps, seconds)| mbps * seconds).sum();
    let kept = work / parts.iter().map(|it| it.1).sum::<f64>() / before.mbps();
    assert!(kept >= 0.7, "only {kept:.2} of its work rate is left during the capture");
    scene.is_well()
}

fn a_slow_store_without_one() -> Outcome {
    let store = Pool::btrfs(STORE_MIB)?;
    let mut scene = scene(&store, "[overlay]\ndump-limit = \"4s\"")?;
    let _slow = store.slow_down(SLOW)?;
    let journal = Journal::of(&scene.world.vitrify)?;
    let process = scene.world.vitrify.start(&["snapshot", "--json", scene.guest.name()])?;
    assert!(journal.reaches(&process, LIMIT, |now| has(now, "begun", "receive-memory"))?);
    let began = Instant::now();
    let streaming = Work::of(&mut scene.guest, |_| {
        Ok(process.has_ended() || has(&journal.lines()?, "begun", "close-stream"))
    })?;
    let streamed = began.elapsed();
    let freed = Work::within(&mut scene.guest, Duration::from_secs(2))?;
    let finished = process.finish(LIMIT)?;
    assert!(finished.status.success(), "{finished:?}");
    let point: Value = serde_json::from_str(&finished.stdout)?;
    let reason = point["reason"].as_str().unwrap_or_default();
    say(&format!(
        "given up after {:.1} s, with {:.0} MB/s of work until then and {:.0} MB/s after; the point: \
         {}, because {reason}",
        streamed.as_secs_f64(),
        streaming.mbps(),
        freed.mbps(),
        point["consistency"],
    ));
    assert!(reason.contains("the memory store is too slow"), "{reason}");
    let waited = reason.split_once("waited for it (").and_then(|it| it.1.split_once(" ms so far"));
    let waited: u64 = waited.ok_or("it does not say how long")?.0.parse()?;
    let waited = Duration::from_millis(waited);
    assert!((STALL_BUDGET..STALL_BUDGET + STALL_LIMIT).contains(&waited), "{waited:?}");
    assert_ne!(point["engine"], "instant");
    scene.is_well()
}

/// Frozen when the effect has begun, while our process stands still, so that it is in time.
fn a_store_that_hangs(effect: &str) -> Outcome {
    let store = Pool::btrfs(STORE_MIB)?;
    let mut scene = scene(&store, "[overlay]")?;
    let journal = Journal::of(&scene.world.vitrify)?;
    let arguments = ["snapshot", "--json", "--engine", "instant", scene.guest.name()];
    let process = scene.world.vitrify.start(&arguments)?;
    assert!(journal.reaches(&process, LIMIT, |now| has(now, "begun", effect))?);
    process.signal(Signal::STOP);
    let frozen = store.freeze();
    process.signal(Signal::CONT);
    let frozen = frozen?;
    let hanging = Work::within(&mut scene.guest, Duration::from_secs(5))?;
    assert!(!process.has_ended(), "the store does not hang: {:?}", process.finish(LIMIT)?);
    let capable = r#"{"execute": "query-migrate-capabilities"}"#;
    let capable = scene.guest.virsh("qemu-monitor-command", &[capable])?;
    let thawed = Instant::now();
    drop(frozen);
    let finished = process.finish(LIMIT)?;
    say(&format!(
        "frozen at {effect}: no word for {} ms at most, {:.0} MB/s over {:.1} s; ended {:.1} s after \
         the thaw",
        hanging.longest_silence().as_millis(),
        hanging.mbps(),
        hanging.time().as_secs_f64(),
        thawed.elapsed().as_secs_f64(),
    ));
    assert!(hanging.longest_silence() < STALL_LIMIT + NOISE, "{:?}", hanging.longest_silence());
    assert!(!capable.contains(r#""state":true,"capability":"background-snapshot""#), "{capable}");
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    assert!(finished.stderr.contains("the memory store is too slow"), "{}", finished.stderr);
    scene.vitrify(0, &["repair"])?;
    scene.is_well()?;
    scene.vitrify(0, &["snapshot", "--engine", "instant", scene.guest.name()])?;
    scene.is_well()
}

/// QEMU suspends a guest that finds no room on its overlay. When its disks are back it goes on, also
/// where it is a repair that brings them back.
fn a_folder_of_overlays_that_fills_up() -> Outcome {
    let (mut world, pool) = (World::new()?, Pool::btrfs(OVERLAYS_MIB)?);
    world.overlays = pool.subvolume("overlays")?;
    world.configure("")?;
    let mut scene = Scene::of(world, &["one/a.raw", "two/b.raw"], |witness| witness)?;
    for dies in [false, true] {
        let (life, journal) = (scene.life()?, Journal::of(&scene.world.vitrify)?);
        let words = ["snapshot", "--engine", "overlay", scene.guest.name()];
        let process = scene.world.vitrify.start(&words)?;
        let on_overlays = |lines: &[String]| has(lines, "begun", "snapshot-volumes");
        assert!(journal.reaches(&process, LIMIT, on_overlays)?);
        process.signal(Signal::STOP);
        let full = pool.fill(0)?;
        let deadline = Instant::now() + LIMIT;
        while !scene.guest.virsh("domstate", &["--reason"])?.contains("I/O error") {
            assert!(Instant::now() < deadline, "it found room");
        }
        // QEMU tells libvirt of one failure a second at most: of the next ones libvirt knows no reason,
        // and it hears of one when the guest may have gone on.
        for _ in 0..3 {
            scene.guest.resume()?;
            while !scene.guest.virsh("domstate", &[])?.contains("paused") {
                assert!(Instant::now() < deadline, "it found room");
            }
        }
        process.signal(if dies { Signal::KILL } else { Signal::CONT });
        let finished = process.finish(LIMIT)?;
        match dies {
            true => drop(scene.vitrify(0, &["repair"])?),
            false => assert!(finished.status.success(), "{finished:?}"),
        }
        drop(full);
        assert_eq!(scene.life()?, life);
        scene.is_well()?;
        assert_eq!(scene.guest.virsh("domstate", &[])?.trim(), "running");
    }
    Ok(())
}
