//! When `vitrify` dies or hangs while it holds a guest, the guard lets the guest go: nobody has to
//! run anything.

use std::collections::BTreeSet;
use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use vitrify_lab::harness::{self, Outcome};
use vitrify_lab::journal::Journal;
use vitrify_lab::run::{RunError, Running, must};
use vitrify_lab::scene::{SOON, Scene};
use vitrify_lab::world::World;

const LIMIT: Duration = Duration::from_secs(90);
/// No storage writes out anything in half of that: overlays inside the pause of `instant`.
const SLOW: &str = "[capture]\npause-limit = \"1ms\"\n";

fn main() -> ExitCode {
    harness::run_in_pairs(&[
        ("killed_with_its_guard_on_slow_storage_too", || killed_with_its_guard(SLOW)),
        ("killed_on_slow_storage_the_guest_runs_and_can_be_saved", || killed_at_each_record(SLOW)),
        ("killed_with_its_guard_it_leaves_what_one_repair_settles", || killed_with_its_guard("")),
        ("killed_at_each_record_the_guest_runs_and_can_be_saved", || killed_at_each_record("")),
        ("a_vitrify_that_hangs_is_no_harm_to_a_suspended_guest", hangs_while_suspended),
        ("no_guard_is_left_behind", no_guard_is_left_behind),
    ])
}

fn scene() -> Result<Scene, Box<dyn Error>> {
    let step = Duration::from_millis(10);
    Scene::of(World::new()?, &["one/a.raw", "two/b.raw"], |witness| witness.step(step))
}

/// Starts a capture and signals it when its journal has so many lines. `None` where it ended before.
fn signalled(
    scene: &Scene,
    arguments: &[&str],
    lines: usize,
    signal: Signal,
) -> Result<Option<Running>, Box<dyn Error>> {
    let journal = Journal::of(&scene.world.vitrify)?;
    let arguments = [&["snapshot", scene.guest.name()], arguments].concat();
    let process = scene.world.vitrify.start(&arguments)?;
    if !journal.reaches(&process, LIMIT, |now| now.len() >= lines)? {
        process.finish(LIMIT)?;
        return Ok(None);
    }
    process.signal(signal);
    Ok(Some(process))
}

/// The guard has our standard error: its end is the guard's.
fn killed_at_each_record(configuration: &str) -> Outcome {
    let mut scene = scene()?;
    scene.world.configure(configuration)?;
    let name = scene.guest.name().to_owned();
    let mut kills = 0;
    for lines in 1.. {
        let Some(process) = signalled(&scene, &["--engine", "instant"], lines, Signal::KILL)?
        else {
            break;
        };
        process.finish(LIMIT)?;
        assert_eq!(scene.guest.state()?, "running", "killed at record {lines}");
        scene.guest.serial.skip_to_end()?;
        scene.guest.serial.steps_on(10, SOON)?;
        // Nothing of ours is in the way of an ordinary save. One that was restored on its overlays is
        // another life, which an operator has to judge.
        let on_overlay = scene.guest.virsh("domblklist", &[])?.contains(".qcow2");
        if lines % 4 == 2 && !on_overlay {
            scene.can_be_saved()?;
        }
        scene.vitrify(0, &["repair"])?;
        scene.is_well()?;
        if lines % 4 == 2 && on_overlay {
            scene.can_be_saved()?;
        }
        kills += 1;
    }
    assert!(kills >= 15, "only {kills} kills");
    scene.vitrify(0, &["snapshot", &name, "--engine", "instant"])?;
    scene.is_well()
}

/// Nobody lets the guest go until somebody asks for a repair: the capability on, the descriptor in
/// QEMU, the guest suspended by us, its disks on overlays.
fn killed_with_its_guard(configuration: &str) -> Outcome {
    let mut scene = Scene::of(World::new()?, &["one/a.raw", "two/b.raw"], |witness| {
        witness.boot_sector().step(Duration::from_millis(10))
    })?;
    scene.world.configure(configuration)?;
    let (mut suspended, mut kills) = (0, 0);
    for lines in 1.. {
        let Some(process) = signalled(&scene, &["--engine", "instant"], lines, Signal::STOP)?
        else {
            break;
        };
        let guard = format!("{}", process.id());
        // Its only child that lives for longer than a call.
        let children = must("ps", &["--ppid", &guard, "-o", "pid=,args="]).unwrap_or_default();
        for child in children.lines().filter(|it| it.contains(" guard ")) {
            let pid = child.split_whitespace().next().unwrap_or_default();
            must("kill", &["-KILL", pid])?;
        }
        process.signal(Signal::KILL);
        process.finish(LIMIT)?;
        suspended += u32::from(scene.guest.state()? == "paused");
        scene.vitrify(0, &["repair"])?;
        scene.is_well().map_err(|error| format!("killed at record {lines}: {error}"))?;
        scene.can_be_saved()?;
        kills += 1;
    }
    assert!(kills >= 15 && suspended >= 3, "{suspended} of {kills} kills while suspended");
    let name = scene.guest.name().to_owned();
    scene.vitrify(0, &["snapshot", &name, "--engine", "instant"])?;
    scene.is_well()
}

/// Two subvolumes: the guest is suspended for their snapshots. Stopped in the middle of that, we do
/// not let it go; the guard does after 10 s, and what was captured is not believed.
fn hangs_while_suspended() -> Outcome {
    for arguments in [["--consistency", "crash"], ["--engine", "instant"]] {
        let mut scene = scene()?;
        let journal = Journal::of(&scene.world.vitrify)?;
        let arguments = [&["snapshot", scene.guest.name()], &arguments[..]].concat();
        let process = scene.world.vitrify.start(&arguments)?;
        let suspends = |now: &[String]| {
            now.iter().any(|it| it.contains(r#""done""#) && it.contains(r#""suspend""#))
        };
        assert!(journal.reaches(&process, LIMIT, suspends)?, "it was not suspended");
        process.signal(Signal::STOP);
        scene.guest.serial.skip_to_end()?;
        scene.guest.serial.steps_on(10, SOON)?;
        process.signal(Signal::CONT);
        let ended = process.finish(LIMIT)?;
        assert!(!ended.status.success(), "{ended:?}");
        scene.vitrify(0, &["repair"])?;
        scene.is_well()?;
        let points = scene.vitrify(0, &["list", "--json"])?.json()?;
        assert_eq!(points["points"].as_array().map(Vec::len), Some(0), "{points}");
    }
    Ok(())
}

fn no_guard_is_left_behind() -> Outcome {
    let mut scene = scene()?;
    for engine in ["instant", "overlay", "plain"] {
        scene.vitrify(0, &["snapshot", scene.guest.name(), "--engine", engine])?;
    }
    let ours = format!("{} guard", scene.world.vitrify.program().display());
    let guards = || -> Result<BTreeSet<String>, RunError> {
        let all = must("ps", &["-e", "-o", "pid=,args="])?;
        let ours = |line: &&str| {
            line.trim_start().split_once(' ').is_some_and(|it| it.1.starts_with(&ours))
        };
        Ok(all.lines().filter(ours).map(str::to_owned).collect())
    };
    // Those of a test beside this one end as well.
    let (mut left, deadline) = (guards()?, Instant::now() + LIMIT);
    while !left.is_empty() {
        assert!(Instant::now() < deadline, "{left:?}");
        left = left.intersection(&guards()?).cloned().collect();
    }
    scene.is_well()
}
