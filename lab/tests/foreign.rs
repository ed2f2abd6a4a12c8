//! What others did to a guest is named by `repair` and left as it is.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::Signal;
use vitrify_lab::harness::{self, Outcome};
use vitrify_lab::journal::Journal;
use vitrify_lab::leftovers::entries;
use vitrify_lab::run::must;
use vitrify_lab::scene::Scene;

const LIMIT: Duration = Duration::from_secs(90);

fn main() -> ExitCode {
    harness::run(&[
        ("an_overlay_by_hand", an_overlay_by_hand),
        ("a_suspended_guest", a_suspended_guest),
        ("a_block_copy_by_hand", a_block_copy_by_hand),
        ("the_capability_of_a_lost_capture", the_capability_of_a_lost_capture),
        ("snapshots_and_files_without_a_point", snapshots_and_files_without_a_point),
        ("a_base_that_was_rolled_back", a_base_that_was_rolled_back),
    ])
}

/// What repair says of the guest, however it is asked; nothing of the guest is changed by that.
fn left_alone(scene: &Scene, wanted: &[&str]) -> Outcome {
    let before = definitions(scene)?;
    let name = scene.guest.name();
    for command in [&["repair"][..], &["repair", name], &["repair", "--dry-run"], &["repair"]] {
        let said = scene.vitrify(0, command)?;
        for line in wanted {
            assert!(said.stdout.contains(line), "{command:?}: {}", said.stdout);
        }
        assert!(said.stdout.lines().all(|it| it.starts_with("left alone: ")), "{}", said.stdout);
    }
    let json = scene.vitrify(0, &["repair", name, "--json"])?.json()?;
    assert_eq!(json["foreign"][0]["subject"], format!("guest {name}"), "{json}");
    assert_eq!(definitions(scene)?, before);
    Ok(())
}

/// What libvirt knows of the guest, and its state.
fn definitions(scene: &Scene) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let live = scene.guest.virsh("dumpxml", &[])?;
    let inactive = scene.guest.virsh("dumpxml", &["--inactive"])?;
    let snapshots = scene.guest.virsh("snapshot-list", &["--name"])?;
    Ok(vec![live, inactive, snapshots, scene.guest.state()?])
}

fn nothing_is_left(mut scene: Scene) -> Outcome {
    let said = scene.vitrify(0, &["repair", scene.guest.name()])?;
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("", ""));
    scene.is_well()
}

fn an_overlay_by_hand() -> Outcome {
    for more in [&[][..], &["--no-metadata"]] {
        let scene = Scene::new()?;
        let arguments = [&["mine", "--disk-only"][..], more].concat();
        scene.guest.virsh("snapshot-create-as", &arguments)?;
        left_alone(&scene, &["disk vda is on an overlay that is not ours"])?;
        if more.is_empty() {
            left_alone(&scene, &["external snapshots of it, not ours: mine"])?;
            scene.guest.virsh("snapshot-delete", &["mine", "--metadata"])?;
        }
        scene.guest.virsh("blockcommit", &["vda", "--active", "--pivot"])?;
        fs::remove_file(scene.disks[0].with_extension("mine"))?;
        nothing_is_left(scene)?;
    }
    Ok(())
}

fn a_suspended_guest() -> Outcome {
    let mut scene = Scene::new()?;
    scene.snapshot(&[])?;
    scene.guest.suspend()?;
    let wanted = format!("is suspended, not by us; 'virsh resume {}'", scene.guest.name());
    left_alone(&scene, &[&wanted])?;
    scene.guest.resume()?;
    nothing_is_left(scene)
}

fn a_block_copy_by_hand() -> Outcome {
    let scene = Scene::new()?;
    let copy = scene.disks[0].with_extension("copy");
    let copy_name = copy.display().to_string();
    scene.guest.virsh("blockcopy", &["vda", &copy_name, "--transient-job", "--wait"])?;
    left_alone(&scene, &["a block job is at work on disk vda, not for us"])?;
    scene.guest.virsh("blockjob", &["vda", "--abort"])?;
    fs::remove_file(copy)?;
    nothing_is_left(scene)
}

/// The capability is on, and no journal tells of a capture.
fn the_capability_of_a_lost_capture() -> Outcome {
    let mut scene = Scene::new()?;
    scene.snapshot(&["--engine", "instant"])?;
    let switch = |state: &str| {
        scene.guest.monitor(&format!("migrate_set_capability background-snapshot {state}"))
    };
    switch("on")?;
    left_alone(&scene, &["capability 'background-snapshot' is on"])?;
    switch("off")?;
    nothing_is_left(scene)
}

/// A point's folder is gone by somebody's hand, and another was staged by a capture whose journal is lost.
fn snapshots_and_files_without_a_point() -> Outcome {
    let mut scene = Scene::new()?;
    let kept = scene.snapshot(&[])?;
    let lost = scene.snapshot(&[])?;
    let home = scene.world.store.join(scene.guest.uuid()?);
    let id = lost.json["id"].as_str().ok_or("a point without an id")?;
    let staged = home.join("incoming").join(id);
    fs::rename(home.join("points").join(id), &staged)?;
    let repair = ["repair", scene.guest.name()];
    let said = scene.vitrify(0, &repair)?.stdout;
    let wanted = format!("was staged in {} and never published", staged.display());
    assert!(said.contains(&wanted), "{said}");
    let wanted = format!("its snapshot {} belongs to no point in this store", lost.name);
    assert!(said.contains(&wanted), "{said}");
    assert!(!said.contains(&kept.name), "{said}");
    assert_eq!(scene.vitrify(0, &repair)?.stdout, said);
    assert!(staged.is_dir());
    Ok(())
}

/// Somebody put the base of a leftover overlay back to the snapshot, as a file of its own.
fn a_base_that_was_rolled_back() -> Outcome {
    let scene = Scene::new()?;
    let name = scene.guest.name().to_owned();
    let journal = Journal::of(&scene.world.vitrify)?;
    let process = scene.world.vitrify.start(&["snapshot", &name, "--engine", "overlay"])?;
    assert!(journal.reaches(&process, LIMIT, |now| now.len() >= 7)?, "it was not caught");
    process.signal(Signal::KILL);
    process.finish(LIMIT)?;
    scene.guest.destroy()?;
    let (base, beside) = (&scene.disks[0], scene.disks[0].with_extension("old"));
    must("cp", &[&base.display().to_string(), &beside.display().to_string()])?;
    fs::rename(&beside, base)?;
    fs::OpenOptions::new().write(true).open(base)?.write_all_at(b"rolled back", 1 << 20)?;
    let sum = || must("sha256sum", &[&base.display().to_string()]);
    let (before, overlays) = (sum()?, entries(&scene.world.overlays)?);
    assert_eq!(overlays.len(), 1, "{overlays:?}");
    for how in [&[][..], &["--commit"]] {
        let refused = scene.vitrify(3, &[&["repair", &name][..], how].concat())?;
        assert!(refused.stderr.contains("vda"), "{}", refused.stderr);
        assert_eq!((entries(&scene.world.overlays)?, sum()?), (overlays.clone(), before.clone()));
    }
    scene.guest.start()?;
    scene.vitrify(3, &["repair"])?;
    assert_eq!(entries(&scene.world.overlays)?, overlays);
    Ok(())
}
