//! Dumps of RAM that do not come to their end: the limit, Ctrl-C, a second `vitrify`, a store that
//! fills up, a SIGKILL. The guest is back on its own images each time.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use vitrify_lab::dump::{endless, has_job, restless, saved};
use vitrify_lab::guest::Witness;
use vitrify_lab::harness::{self, Outcome};
use vitrify_lab::pool::Pool;
use vitrify_lab::run::{Finished, Running, must};
use vitrify_lab::scene::{SOON, Scene};
use vitrify_lab::world::World;

/// Sparse. On a busy host a dump writes some GiB before libvirt slows it down.
const ROOM_MIB: u64 = 48 << 10;
/// How long a command may take after its dump was stopped.
const END: Duration = Duration::from_secs(90);

fn main() -> ExitCode {
    harness::run_in_pairs(&[
        ("beyond_its_limit_the_disks_alone_are_captured", beyond_its_limit),
        ("beyond_its_limit_a_demand_fails", beyond_its_limit_a_demand_fails),
        ("ctrl_c_gives_the_capture_up", ctrl_c_gives_the_capture_up),
        ("a_second_vitrify_is_turned_away", a_second_vitrify_is_turned_away),
        ("a_store_that_fills_up", a_store_that_fills_up),
        ("killed_in_the_middle_of_libvirts_job", killed_in_the_middle),
    ])
}

/// A restless guest whose memory only libvirt can save.
fn scene() -> Result<Scene, Box<dyn Error>> {
    Scene::of(World::on(Pool::btrfs(ROOM_MIB)?)?, &["guest/a.raw"], restless)?.without_instant()
}

/// A scene whose dumps may take 3 s.
fn scene_with_limit() -> Result<Scene, Box<dyn Error>> {
    let world = World::new()?;
    world.configure("dump-limit = \"3s\"\n")?;
    Scene::of(world, &["guest/a.raw"], restless)?.without_instant()
}

fn end(process: Running, code: i32) -> Result<Finished, Box<dyn Error>> {
    let finished = process.finish(END)?;
    match finished.status.code() == Some(code) {
        true => Ok(finished),
        false => Err(format!("it should end with {code}: {finished:?}").into()),
    }
}

fn points(scene: &Scene) -> Result<usize, Box<dyn Error>> {
    let listed = scene.vitrify(0, &["list", "--json"])?.json()?;
    Ok(listed["points"].as_array().map_or(0, Vec::len))
}

fn beyond_its_limit() -> Outcome {
    let mut scene = scene_with_limit()?;
    let life = scene.life()?;
    let finished = end(endless(&scene, &[])?, 0)?;
    let point: Value = serde_json::from_str(&finished.stdout)?;
    assert_eq!((&point["consistency"], &point["engine"]), (&"crash".into(), &"plain".into()));
    let reason = point["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("took longer than 3 s"), "{reason}");
    assert!(finished.stderr.contains("took longer than 3 s"), "{}", finished.stderr);
    // The time that the vain attempt took counts, too.
    assert!(point["duration_ms"].as_u64().is_some_and(|it| it >= 3000), "{point}");
    assert_eq!((points(&scene)?, scene.life()?), (1, life));
    scene.is_well()
}

fn beyond_its_limit_a_demand_fails() -> Outcome {
    let mut scene = scene_with_limit()?;
    for demand in [["--consistency", "memory"], ["--engine", "overlay"]] {
        let finished = end(endless(&scene, &demand)?, 1)?;
        assert!(finished.stderr.contains("took longer than 3 s"), "{}", finished.stderr);
        assert_eq!(points(&scene)?, 0);
        scene.is_well()?;
    }
    Ok(())
}

fn ctrl_c_gives_the_capture_up() -> Outcome {
    let mut scene = scene()?;
    for signal in [Signal::INT, Signal::TERM] {
        let life = scene.life()?;
        let process = endless(&scene, &[])?;
        process.signal(signal);
        let finished = end(process, 1)?;
        assert!(finished.stderr.contains("cancelled"), "{}", finished.stderr);
        let said: Value = serde_json::from_str(&finished.stdout)?;
        assert_eq!(said["points"], Value::Array(Vec::new()));
        assert_eq!((points(&scene)?, scene.life()?), (0, life));
        scene.is_well()?;
    }
    Ok(())
}

fn a_second_vitrify_is_turned_away() -> Outcome {
    let mut scene = scene()?;
    // Of a guest this restless a dump of RAM comes to its end only with luck.
    let disks_alone = ["--consistency", "crash"];
    let earlier = scene.snapshot(&disks_alone)?;
    let first = endless(&scene, &[])?;
    let name = scene.guest.name().to_owned();
    let point = scene.at(&earlier.name);
    for arguments in
        [&["snapshot", &name][..], &["restore", "--force", &point], &["repair", &name], &["repair"]]
    {
        let second = scene.vitrify(75, arguments)?;
        assert!(second.stderr.contains("is in use by process"), "{}", second.stderr);
    }
    assert!(has_job(&scene.guest)?, "the first was disturbed");
    first.signal(Signal::INT);
    end(first, 1)?;
    scene.is_well()?;
    scene.snapshot(&disks_alone)?;
    scene.is_well()
}

/// There is room for RAM once, but the guest changes it faster than it can be saved.
fn a_store_that_fills_up() -> Outcome {
    for store in [Pool::ext4(384)?, Pool::btrfs(768)?] {
        let mut world = World::new()?;
        world.store_in(&store.subvolume("mem")?)?;
        let describe = |it: Witness| it.memory_mib(192).fill_mib(64).dirty_mbps(4000);
        let mut scene = Scene::of(world, &["guest/a.raw"], describe)?.without_instant()?;
        scene.guest.virsh("migrate-setmaxdowntime", &["1"])?;
        let life = scene.life()?;
        let name = scene.guest.name().to_owned();
        let demanded = scene.vitrify(1, &["snapshot", "--consistency", "memory", &name])?;
        assert!(demanded.stderr.contains("no room"), "{}", demanded.stderr);
        assert_eq!((points(&scene)?, scene.life()?), (0, life.clone()));
        scene.is_well()?;
        // Btrfs counts what was removed as free from its next commit on.
        must("sync", &["--file-system", &scene.world.store.display().to_string()])?;
        let free = scene.vitrify(0, &["snapshot", "--json", &name])?.json()?;
        assert_eq!(free["consistency"], "crash");
        let reason = free["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("no room"), "{reason}");
        assert_eq!((points(&scene)?, scene.life()?), (1, life));
        scene.is_well()?;
    }
    Ok(())
}

/// Killing us does not stop libvirt's job: seconds later the overlay would be active. The guard stops
/// it.
fn killed_in_the_middle() -> Outcome {
    let mut scene = scene()?;
    for bytes in [1, 48 << 20, 96 << 20] {
        let life = scene.life()?;
        let process = endless(&scene, &[])?;
        saved(&scene.guest, &process, bytes)?;
        process.signal(Signal::KILL);
        process.finish(END)?;
        // The end of its output is the guard's.
        assert!(!has_job(&scene.guest)?, "libvirt's job goes on");
        scene.guest.serial.steps_on(100, SOON)?;
        let said = scene.vitrify(0, &["repair"])?;
        assert!(said.stdout.contains("undone"), "{}", said.stdout);
        assert_eq!((points(&scene)?, scene.life()?), (0, life));
        scene.is_well()?;
        let again = scene.vitrify(0, &["repair", scene.guest.name()])?;
        assert_eq!((again.stdout.as_str(), again.stderr.as_str()), ("", ""));
    }
    Ok(())
}
