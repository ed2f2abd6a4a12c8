//! Guests that AppArmor confines, as on every Debian and Ubuntu host, with disks on ZFS; and what a
//! capture does when a dataset goes away.

use std::error::Error;
use std::process::{Command, ExitCode};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use vitrify_lab::harness::{self, Machine, Outcome};
use vitrify_lab::journal::Journal;
use vitrify_lab::leftovers::entries;
use vitrify_lab::pool::Pool;
use vitrify_lab::run::{must, virsh};
use vitrify_lab::scene::{BOOT, Scene};
use vitrify_lab::world::World;

/// Size of a pool, in MiB; sparse.
const POOL_MIB: u64 = 1024;
const LIMIT: Duration = Duration::from_secs(120);
/// Two tests look for traces of any self-test.
static ONE_SELF_TEST: Mutex<()> = Mutex::new(());

fn main() -> ExitCode {
    harness::run_on(
        Machine::Zfs,
        2,
        &[
            ("the_self_test", the_self_test),
            ("overlays_on_files_are_committed", overlays_on_files_are_committed),
            ("an_overlay_on_a_volume_is_refused_before", an_overlay_on_a_volume_is_refused),
            ("instant_after_a_block_job", instant_after_a_block_job),
            ("a_killed_self_test", a_killed_self_test),
            ("a_guest_restarted_on_its_overlay_is_repaired", restarted_on_its_overlay),
            ("a_dataset_destroyed_in_the_middle", a_dataset_destroyed_in_the_middle),
        ],
    )
}

fn scene(disk: &str) -> Result<Scene, Box<dyn Error>> {
    Scene::of(World::on(Pool::zfs(POOL_MIB)?)?, &[disk], |it| it)
}

fn is_confined(scene: &Scene) -> Outcome {
    let label = format!("libvirt-{}", scene.guest.uuid()?);
    let processes = must("ps", &["-eo", "label,args"])?;
    let confined = processes.lines().any(|line| {
        line.starts_with(&label) && line.contains("(enforce)") && line.contains(scene.guest.name())
    });
    match confined {
        true => Ok(()),
        false => Err(format!("{} is not confined", scene.guest.name()).into()),
    }
}

fn overlays_on_files_are_committed() -> Outcome {
    let mut scene = scene("guest/a.raw")?;
    is_confined(&scene)?;
    let point = scene.snapshot(&["--engine", "overlay"])?;
    assert_eq!(point.json["consistency"], "memory");
    scene.is_well()
}

fn an_overlay_on_a_volume_is_refused() -> Outcome {
    let mut scene = scene("guest.zvol")?;
    is_confined(&scene)?;
    let life = scene.life()?;
    let refused = scene.vitrify(4, &["snapshot", scene.guest.name(), "--engine", "overlay"])?;
    for words in ["AppArmor", "vda"] {
        assert!(refused.stderr.contains(words), "no '{words}' in {}", refused.stderr);
    }
    scene.is_well()?;
    // Another engine needs no overlay.
    let point = scene.snapshot(&[])?;
    assert_eq!(
        (&point.json["consistency"], &point.json["engine"]),
        (&"memory".into(), &"instant".into())
    );
    assert_eq!(scene.life()?, life);
    scene.is_well()
}

/// libvirt may write a guest's profile anew for a block job, and leave `/dev/userfaultfd` out. Then
/// the error and `doctor` say what to do, and with the file that packages install it does not matter.
fn instant_after_a_block_job() -> Outcome {
    const DROP_IN: &str = "/etc/apparmor.d/abstractions/libvirt-qemu.d/vitrify";
    const PACKAGED: &str = include_str!("../../packaging/apparmor/vitrify");
    let mut scene = scene("guest/a.raw")?;
    is_confined(&scene)?;
    scene.snapshot(&["--engine", "instant"])?;
    scene.snapshot(&["--engine", "overlay"])?;
    let arguments = ["snapshot", scene.guest.name(), "--engine", "instant"];
    let again = scene.world.vitrify.run_within(LIMIT, &arguments)?;
    let doctor = scene.vitrify(0, &["doctor", scene.guest.name()])?.stdout;
    for words in [DROP_IN, "'/dev/userfaultfd rw,'", "apparmor_parser -r"] {
        assert!(doctor.contains(words), "no '{words}' in {doctor}");
        let is_told = again.stderr.contains(words.trim_matches('\''));
        assert!(again.code == Some(0) || is_told || words.starts_with("app"), "{}", again.stderr);
    }
    scene.is_well()?;
    std::fs::create_dir_all(DROP_IN.trim_end_matches("/vitrify"))?;
    std::fs::write(DROP_IN, PACKAGED)?;
    let result = with_drop_in(&mut scene);
    std::fs::remove_file(DROP_IN)?;
    result?;
    scene.is_well()
}

fn with_drop_in(scene: &mut Scene) -> Outcome {
    // A guest that runs has it at once …
    let profile = format!("/etc/apparmor.d/libvirt/libvirt-{}", scene.guest.uuid()?);
    must("apparmor_parser", &["-r", &profile])?;
    scene.snapshot(&["--engine", "instant"])?;
    // … and one that starts has it for good.
    scene.guest.destroy()?;
    scene.guest.start()?;
    scene.guest.serial.ready(BOOT)?;
    is_confined(scene)?;
    for engine in ["overlay", "instant"] {
        let point = scene.snapshot(&["--engine", engine])?;
        assert_eq!(point.json["consistency"], "memory", "{engine}");
    }
    let doctor = scene.vitrify(0, &["doctor", scene.guest.name()])?.stdout;
    assert!(!doctor.contains("AppArmor"), "{doctor}");
    Ok(())
}

/// Under AppArmor on a dataset, and on a volume of ZFS, where overlays cannot be committed.
fn the_self_test() -> Outcome {
    let _alone = ONE_SELF_TEST.lock().unwrap_or_else(PoisonError::into_inner);
    for (disk, passed) in [("guest/a.raw", "instant and overlay"), ("guest.zvol", "instant")] {
        let mut scene = scene(disk)?;
        is_confined(&scene)?;
        let code = if passed.contains("overlay") { 0 } else { 1 };
        let doctor = scene.vitrify(code, &["doctor", "--self-test", scene.guest.name()])?.stdout;
        assert!(doctor.contains(&format!("passed by {passed},")), "{doctor}");
        no_traces(&scene)?;
        assert_eq!(scene.snapshot(&[])?.json["engine"], "instant");
        scene.is_well()?;
    }
    Ok(())
}

fn a_killed_self_test() -> Outcome {
    let _alone = ONE_SELF_TEST.lock().unwrap_or_else(PoisonError::into_inner);
    let mut scene = scene("guest.zvol")?;
    let name = scene.guest.name().to_owned();
    let process = scene.world.vitrify.start(&["doctor", "--self-test", &name])?;
    let deadline = Instant::now() + LIMIT;
    while !virsh(&["list", "--name"])?.contains(MARK) {
        assert!(!process.has_ended() && Instant::now() < deadline, "it was not caught");
    }
    process.signal(Signal::KILL);
    process.finish(LIMIT)?;
    let cleaned = scene.vitrify(0, &["repair"])?;
    assert!(cleaned.stdout.contains(MARK), "{}", cleaned.stdout);
    no_traces(&scene)?;
    let again = scene.vitrify(0, &["repair"])?;
    assert_eq!((again.stdout.as_str(), again.stderr.as_str()), ("", ""));
    scene.is_well()
}

/// What the names of a self-test's guests and datasets hold.
const MARK: &str = "vitrify-self-test-";

fn no_traces(scene: &Scene) -> Outcome {
    let guests = virsh(&["list", "--all", "--name"])?;
    let datasets = must("zfs", &["list", "-H", "-r", "-t", "all", "-o", "name"])?;
    for found in [guests, datasets] {
        assert!(!found.contains(MARK), "{found}");
    }
    let records = entries(&scene.world.vitrify.state().join("self-test"))?;
    assert!(records.is_empty(), "{records:?}");
    Ok(())
}

/// The host crashed between the snapshots and the commit, and the guest was started again on its
/// overlay: libvirt's profile denies it the base from then on.
fn restarted_on_its_overlay() -> Outcome {
    let mut scene = scene("guest/a.raw")?;
    let script = "#!/bin/sh\n/sbin/zfs \"$@\" || exit\n\
                  case \"$1\" in snapshot) kill -KILL $PPID;; esac\n";
    let mut command =
        with_zfs(&scene, script, &["snapshot", scene.guest.name(), "--engine", "overlay"])?;
    let killed = vitrify_lab::run::run(&mut command, LIMIT)?;
    assert_eq!(killed.status.code(), None, "{killed:?}");
    let lines = Journal::of(&scene.world.vitrify)?.lines()?.join("\n");
    assert!(lines.contains("snapshot-volumes") && !lines.contains("settle-overlay"), "{lines}");
    scene.guest.destroy()?;
    scene.guest.serial.skip_to_end()?;
    scene.guest.start()?;
    scene.guest.serial.ready(BOOT)?;
    let overlay = scene.world.overlays.display().to_string();
    assert!(scene.guest.virsh("domblklist", &[])?.contains(&overlay), "not on its overlay");
    is_confined(&scene)?;
    scene.vitrify(0, &["repair"])?;
    let again = scene.vitrify(0, &["repair"])?;
    assert_eq!((again.stdout.as_str(), again.stderr.as_str()), ("", ""));
    scene.is_well()?;
    is_confined(&scene)
}

/// Between the look at the volumes and their snapshots: a `zfs` on the path destroys a dataset first.
fn a_dataset_destroyed_in_the_middle() -> Outcome {
    let mut scene = scene("guest/a.raw")?;
    let spare = scene.world.pool.subvolume("spare")?;
    let dataset = scene.world.pool.dataset("spare")?;
    let disk = spare.join("b.raw");
    std::fs::File::create(&disk)?.set_len(1 << 20)?;
    let disk = disk.display().to_string();
    // In use it cannot go away, and that is as well.
    scene.guest.destroy()?;
    scene.guest.virsh("attach-disk", &[&disk, "vdb", "--config", "--subdriver", "raw"])?;
    let script = format!(
        "#!/bin/sh\ncase \"$1\" in snapshot) /sbin/zfs rename {dataset} {dataset}-gone;; esac\n\
         exec /sbin/zfs \"$@\"\n"
    );
    let mut command = with_zfs(&scene, &script, &["snapshot", scene.guest.name()])?;
    let failed = vitrify_lab::run::run(&mut command, LIMIT)?;
    assert!(!failed.status.success(), "{failed:?}");
    assert!(failed.stderr.contains(&dataset), "{}", failed.stderr);
    must("zfs", &["rename", &format!("{dataset}-gone"), &dataset])?;
    scene.guest.virsh("detach-disk", &["vdb", "--config"])?;
    scene.is_settled()?;
    scene.guest.start()?;
    scene.guest.serial.ready(BOOT)?;
    scene.is_well()
}

/// Vitrify with `script` as the first `zfs` on its path.
fn with_zfs(scene: &Scene, script: &str, arguments: &[&str]) -> Result<Command, Box<dyn Error>> {
    let folder = scene.world.folder().join("bin");
    std::fs::create_dir(&folder)?;
    let program = folder.join("zfs");
    std::fs::write(&program, script)?;
    must("chmod", &["+x", &program.display().to_string()])?;
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = scene.world.vitrify.command(arguments);
    command.env("PATH", path);
    Ok(command)
}
