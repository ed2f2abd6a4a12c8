//! What may happen to a capture by `instant` in its middle: it dies at any moment, somebody else
//! resumes the guest, another process writes to the guest's RAM.

use std::error::Error;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use vitrify_lab::draw::Draw;
use vitrify_lab::guest::Witness;
use vitrify_lab::harness::{self, Outcome};
use vitrify_lab::journal::Journal;
use vitrify_lab::run::Finished;
use vitrify_lab::scene::{BOOT, Point, SOON, Scene};
use vitrify_lab::world::World;

/// How long a command may take.
const LIMIT: Duration = Duration::from_secs(90);
/// After so long the guard lets a guest go.
const GUARD: Duration = Duration::from_secs(10);
const KILLS: usize = 50;
/// All kills together, with what is looked at after each.
const BUDGET: Duration = Duration::from_secs(300);
const SEED: u64 = 0x7669_7472_6966_7921;
/// What the guest shares with other processes.
const SHARED: &str = "/dev/shm/vitrify-lab";

fn main() -> ExitCode {
    harness::run(&[
        ("killed_at_fifty_random_moments", killed_at_random_moments),
        ("resumed_by_somebody_else_in_the_pause", resumed_in_the_pause),
        ("resumed_by_somebody_else_as_the_stream_begins", resumed_as_the_stream_begins),
        ("reset_by_somebody_else_in_the_pause", reset_in_the_pause),
        ("ram_that_another_process_writes_to", ram_of_another_process),
    ])
}

/// A figure for the reader of the test's output.
#[expect(clippy::print_stderr, reason = "figures are part of what these tests are for")]
fn say(text: &str) {
    eprintln!("{text}");
}

fn scene() -> Result<Scene, Box<dyn Error>> {
    let step = Duration::from_millis(10);
    Scene::of(World::new()?, &["one/a.raw", "two/b.raw"], |witness| {
        witness.step(step).fill_mib(32).dirty_mbps(100)
    })
}

fn points(scene: &Scene) -> Result<usize, Box<dyn Error>> {
    let listed = scene.vitrify(0, &["list", "--json"])?.json()?;
    Ok(listed["points"].as_array().map_or(0, Vec::len))
}

fn killed_at_random_moments() -> Outcome {
    let mut scene = scene()?;
    let instant = ["snapshot", "--engine", "instant", scene.guest.name()].map(str::to_owned);
    let instant = instant.each_ref().map(String::as_str);
    scene.vitrify(0, &instant)?;
    let began = Instant::now();
    scene.vitrify(0, &instant)?;
    let whole = began.elapsed();
    let (began, mut draw) = (Instant::now(), Draw(SEED));
    let (mut in_time, mut longest) = (0, Duration::ZERO);
    for kill in 1..=KILLS {
        let moment = whole.mul_f64(draw.below(1000) as f64 / 1000.0);
        let place = format!("kill {kill} after {moment:?}, seed {SEED:#x}");
        let process = scene.world.vitrify.start(&instant)?;
        in_time += usize::from(!process.ends_within(moment)?);
        process.signal(Signal::KILL);
        let struck = Instant::now();
        let steps = scene.guest.serial.steps_on(10, GUARD);
        steps.map_err(|error| format!("{place}: {error}"))?;
        longest = longest.max(struck.elapsed());
        // The guard has our standard error: its end is the guard's.
        process.finish(LIMIT)?;
        assert_eq!(scene.guest.state()?, "running", "{place}");
        if kill % 5 == 0 {
            scene.can_be_saved().map_err(|error| format!("{place}: {error}"))?;
        }
        scene.vitrify(0, &["repair"])?;
        if kill % 5 == 0 {
            scene.vitrify(0, &instant)?;
        }
        scene.is_well().map_err(|error| format!("{place}: {error}"))?;
        assert!(began.elapsed() < BUDGET, "{place}: only so far in {BUDGET:?}");
    }
    say(&format!(
        "{KILLS} kills in the {} ms of a capture, seed {SEED:#x}: {in_time} before its end, the guest \
         10 steps on within {} ms; {:.0} s in all",
        whole.as_millis(),
        longest.as_millis(),
        began.elapsed().as_secs_f64(),
    ));
    assert!(in_time >= KILLS / 2, "only {in_time} were in time");
    Ok(())
}

/// Captures, and does something to the guest while our process stands still, at this place in the
/// journal.
fn with_hand(
    scene: &Scene,
    hand: &str,
    more: &[&str],
    effect: &str,
) -> Result<Finished, Box<dyn Error>> {
    let journal = Journal::of(&scene.world.vitrify)?;
    let arguments = [&["snapshot", "--json", scene.guest.name()], more].concat();
    let process = scene.world.vitrify.start(&arguments)?;
    let effect = format!("\"{effect}\"");
    let done =
        |now: &[String]| now.iter().any(|it| it.contains(r#""done""#) && it.contains(&effect));
    assert!(journal.reaches(&process, LIMIT, done)?, "no {effect} in the journal");
    process.signal(Signal::STOP);
    let done = scene.guest.virsh(hand, &[]);
    process.signal(Signal::CONT);
    done?;
    Ok(process.finish(LIMIT)?)
}

fn resumed_in_the_pause() -> Outcome {
    let mut scene = scene()?;
    for effect in ["suspend", "snapshot-volumes"] {
        let finished = with_hand(&scene, "resume", &["--engine", "instant"], effect)?;
        assert_eq!(finished.status.code(), Some(1), "{effect}: {finished:?}");
        assert!(finished.stderr.contains("somebody else"), "{effect}: {}", finished.stderr);
        assert_eq!(points(&scene)?, 0, "{effect}");
        scene.is_well()?;
    }
    // Free to choose, it takes the next engine, and says why.
    let finished = with_hand(&scene, "resume", &[], "snapshot-volumes")?;
    assert!(finished.status.success(), "{finished:?}");
    let point: Value = serde_json::from_str(&finished.stdout)?;
    assert_eq!(point["engine"], "overlay");
    let reason = point["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("somebody else"), "{reason}");
    scene.is_well()
}

/// QEMU 10.0 would not survive it.
fn reset_in_the_pause() -> Outcome {
    let mut scene = scene()?;
    for effect in ["suspend", "snapshot-volumes"] {
        let life = scene.life()?;
        scene.guest.serial.skip_to_end()?;
        let finished = with_hand(&scene, "reset", &["--engine", "instant"], effect)?;
        assert_eq!(finished.status.code(), Some(1), "{effect}: {finished:?}");
        assert!(finished.stderr.contains("else reset guest"), "{effect}: {}", finished.stderr);
        scene.guest.serial.ready(BOOT)?;
        assert_eq!((points(&scene)?, scene.life()?), (0, life), "{effect}");
        scene.is_well()?;
    }
    Ok(())
}

/// While QEMU sets the stream up it stops a guest again that somebody resumed, and completes as if
/// nothing had been. Where our resume was first, or theirs after the first page, the point is good: the
/// witness knows.
fn resumed_as_the_stream_begins() -> Outcome {
    const ATTEMPTS: usize = 12;
    let (mut scene, mut draw, mut good) = (scene()?, Draw(SEED), 0);
    for _ in 0..ATTEMPTS {
        let journal = Journal::of(&scene.world.vitrify)?;
        scene.guest.serial.skip_to_end()?;
        let before = scene.guest.serial.latest().ok_or("the witness never spoke")?;
        let arguments = ["snapshot", "--json", "--engine", "instant", scene.guest.name()];
        let process = scene.world.vitrify.start(&arguments)?;
        let begun = |now: &[String]| {
            now.iter().any(|it| it.contains(r#""begun""#) && it.contains(r#""save-memory""#))
        };
        assert!(journal.reaches(&process, LIMIT, begun)?, "no stream was begun");
        process.ends_within(Duration::from_millis(draw.below(6) as u64))?;
        // It may run already.
        let _ = scene.guest.resume();
        let finished = process.finish(LIMIT)?;
        scene.is_well().map_err(|error| format!("{error}; it ended with {finished:?}"))?;
        let after = scene.guest.serial.steps_on(1, SOON)?;
        let had = points(&scene)?;
        if !finished.status.success() {
            assert!(finished.stderr.contains("somebody else"), "{}", finished.stderr);
            assert_eq!(had, good, "a point was published");
            continue;
        }
        good += 1;
        assert_eq!(had, good);
        let json: Value = serde_json::from_str(&finished.stdout)?;
        let name = json["point"].as_str().unwrap_or_default().to_owned();
        let point = Point { name, json, before, counts: before.count..=after.count };
        scene.restore(&point, &["--no-safety-point", "--yes"])?;
        scene.guest.serial.steps_on(100, SOON)?;
        scene.is_well()?;
    }
    say(&format!("{ATTEMPTS} captures that somebody disturbed: {good} good, the others given up"));
    Ok(())
}

fn ram_of_another_process() -> Outcome {
    let device = "<shmem name='vitrify-lab' role='master'><model type='ivshmem-plain'/>\
                  <size unit='M'>1</size></shmem>";
    let describe = |witness: Witness| witness.extra_devices(device);
    let mut scene = Scene::of(World::new()?, &["guest/a.raw"], describe)?;
    let shared = OpenOptions::new().write(true).open(SHARED)?;
    let done = AtomicBool::new(false);
    let free = thread::scope(|scope| -> Result<Value, Box<dyn Error>> {
        let writer = scope.spawn(|| {
            for number in 0_u64.. {
                if done.load(Ordering::Relaxed) {
                    return Ok(number);
                }
                shared.write_all_at(&number.to_le_bytes(), number % 256 * 4096)?;
            }
            Ok::<_, std::io::Error>(0)
        });
        let name = scene.guest.name();
        let refused = scene.vitrify(4, &["snapshot", "--engine", "instant", name]);
        let free = scene.vitrify(0, &["snapshot", "--json", name]);
        done.store(true, Ordering::Relaxed);
        let written = writer.join().map_err(|_| "the writer died")??;
        assert!(written > 0, "nothing was written");
        let refused = refused?;
        assert!(refused.stderr.contains("shared memory (ivshmem)"), "{}", refused.stderr);
        Ok(free?.json()?)
    })?;
    assert_eq!(free["consistency"], "crash");
    let reason = free["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("shared memory (ivshmem) writes to its RAM"), "{reason}");
    assert_eq!(points(&scene)?, 1);
    scene.is_well()
}
