//! What cannot be done is refused with the right exit status, a message that says why, and no
//! trace.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;
use vitrify_lab::guest::{Format, Witness};
use vitrify_lab::harness::{self, Outcome};
use vitrify_lab::leftovers::{entries, leftovers, snapshots_of};
use vitrify_lab::pool::Pool;
use vitrify_lab::run::must;
use vitrify_lab::scene::{BOOT, SOON, Scene};
use vitrify_lab::world::World;

fn main() -> ExitCode {
    harness::run_in_pairs(&[
        ("each_mistake_has_its_exit_status", each_mistake_has_its_exit_status),
        ("a_disk_on_ext4_cannot_be_captured", a_disk_on_ext4),
        ("a_store_that_cannot_be_written", a_store_that_cannot_be_written),
        ("a_store_without_room_for_memory", a_store_without_room_for_memory),
        ("a_store_without_any_room", a_store_without_any_room),
    ])
}

/// The point's name, the guest's name and `GUEST@POINT` are put in where `P`, `G` and `@` stand.
#[rustfmt::skip]
const MISTAKES: &[(i32, &str, &str)] = &[
    (2, "snapshot nobody", "there is no guest 'nobody'"),
    (2, "restore nobody@latest", "guest 'nobody' has no restore points"),
    (2, "show nobody@latest", "guest 'nobody' has no restore points"),
    (2, "repair nobody", "there is no guest 'nobody'"),
    (2, "snapshot a/b", "not a valid guest name"),
    (2, "snapshot G --name a/b", "not a valid point name"),
    (2, "snapshot G --name .hidden", "not a valid point name"),
    (2, "snapshot", "required"),
    (2, "snapshot G --consistency perfect", "invalid value"),
    (2, "restore G", "names no point"),
    (2, "restore G@other --force", "has no restore point 'other'"),
    (2, "restore G@latest-1 --force", "has no restore point 'latest-1'"),
    (2, "show G@other", "has no restore point 'other'"),
    (2, "restore @ --force --no-safety-point", "needs --yes"),
    (2, "repair G --commit --discard", "cannot be used with"),
    (2, "repair --discard", "required"),
    (3, "snapshot G --name P", "has a snapshot named 'P' already"),
    (3, "restore @", "is active"),
    (3, "restore @ --cold", "is active"),
    (4, "--connect qemu:///nonexistent snapshot G", "libvirt"),
    (4, "--connect qemu+unix:///system?socket=/nonexistent snapshot G", "libvirt"),
    (4, "--connect qemu+unix:///system?socket=/nonexistent restore @ --force", "libvirt"),
    (4, "--connect qemu+unix:///system?socket=/nonexistent repair", "libvirt"),
];

fn each_mistake_has_its_exit_status() -> Outcome {
    let mut scene = Scene::new()?;
    let point = scene.snapshot(&["--name", "first"])?.name;
    let look = |scene: &Scene| -> Result<_, Box<dyn Error>> {
        let listed = scene.vitrify(0, &["list", "--json"])?.stdout;
        Ok((scene.life()?, scene.guest.state()?, scene.guest.xml()?, listed))
    };
    let before = look(&scene)?;
    for (code, command, message) in MISTAKES {
        let word = |it: &str| match it {
            "G" => scene.guest.name().to_owned(),
            "P" => point.clone(),
            "@" => scene.at(&point),
            it => it.replace("G@", &scene.at("")),
        };
        let words: Vec<String> = command.split(' ').map(word).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let outcome = scene.vitrify(*code, &words)?;
        let message = message.replace('P', &point);
        assert!(outcome.stderr.contains(&message), "{command}: {}", outcome.stderr);
        assert_eq!(outcome.stdout, "", "{command}");
        assert_eq!(look(&scene)?, before, "{command}");
    }
    scene.is_well()
}

/// Several guests: what can be done is done, and the rest is said.
fn a_disk_on_ext4() -> Outcome {
    let other = Pool::ext4(256)?;
    let mut scene = Scene::new()?;
    let disk = other.path().join("a.raw");
    let witness = Witness::new(&scene.world.guest_name("ext4")).disk(&disk, Format::Raw);
    let mut guest = scene.world.start(&witness)?;
    guest.serial.ready(BOOT)?;
    let life = guest.virsh("domid", &[])?;
    let refused = scene.vitrify(4, &["snapshot", guest.name()])?;
    assert!(refused.stderr.contains("vda"), "{}", refused.stderr);
    assert!(refused.stderr.contains("lies on ext4"), "{}", refused.stderr);
    let both = scene.vitrify(4, &["snapshot", "--json", guest.name(), scene.guest.name()])?;
    let said = both.json()?;
    assert_eq!(said["points"][0]["guest"], scene.guest.name());
    assert_eq!(said["failures"][0]["guest"], guest.name());
    guest.serial.steps_on(10, SOON)?;
    assert_eq!(guest.virsh("domid", &[])?, life);
    assert_eq!(leftovers(&scene.world, &guest, &[disk])?, [""; 0]);
    scene.is_well()?;
    drop(guest);
    Ok(())
}

/// A guest that runs before and after, with nothing of ours anywhere.
fn untouched(scene: &mut Scene, life: &str) -> Outcome {
    assert_eq!(scene.life()?, life);
    assert_eq!(scene.guest.state()?, "running");
    scene.guest.serial.steps_on(10, SOON)?;
    let volume = scene.world.pool.path().join("guest");
    assert_eq!(entries(&snapshots_of(&volume))?, [""; 0].map(Path::new));
    assert_eq!(entries(&scene.world.overlays)?, [""; 0].map(Path::new));
    assert_eq!(entries(&scene.world.vitrify.state().join("journal"))?, [""; 0].map(Path::new));
    Ok(())
}

fn a_store_that_cannot_be_written() -> Outcome {
    let store = Pool::ext4(512)?;
    let mut world = World::new()?;
    world.store_in(&store.subvolume("mem")?)?;
    let mut scene = Scene::of(world, &["guest/a.raw"], |witness| witness)?;
    let life = scene.life()?;
    let name = scene.guest.name().to_owned();
    let place = store.path().display().to_string();
    must("mount", &["-o", "remount,ro", &place])?;
    let outcome = scene.vitrify(4, &["snapshot", &name])?;
    assert!(outcome.stderr.contains("cannot be written"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains(&place), "{}", outcome.stderr);
    untouched(&mut scene, &life)?;
    must("mount", &["-o", "remount,rw", &place])?;

    // Not mounted at all.
    let elsewhere = store.path().join("nowhere");
    scene.world.store_in(&elsewhere)?;
    let outcome = scene.vitrify(4, &["snapshot", &name])?;
    assert!(outcome.stderr.contains("is missing"), "{}", outcome.stderr);
    assert!(!elsewhere.exists(), "it was made where a drive should be mounted");
    untouched(&mut scene, &life)?;

    scene.world.store_in(&store.path().join("mem"))?;
    scene.snapshot(&["--consistency", "memory"])?;
    scene.is_well()
}

/// It is known beforehand that RAM will not fit.
fn a_store_without_room_for_memory() -> Outcome {
    let store = Pool::ext4(128)?;
    let mut world = World::new()?;
    world.store_in(&store.subvolume("mem")?)?;
    let mut scene = Scene::of(world, &["guest/a.raw"], |witness| witness)?;
    let life = scene.life()?;
    let name = scene.guest.name().to_owned();
    let demanded = scene.vitrify(1, &["snapshot", "--consistency", "memory", &name])?;
    assert!(demanded.stderr.contains("above its reserve"), "{}", demanded.stderr);
    untouched(&mut scene, &life)?;
    let free = scene.vitrify(0, &["snapshot", "--json", &name])?;
    let point = free.json()?;
    assert_eq!(point["consistency"], "crash");
    let reason = point["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("above its reserve"), "{reason}");
    scene.is_well()?;
    // Recorded for whoever wonders later.
    let shown = scene.vitrify(0, &["show", "--json", &scene.at("latest")])?.json()?;
    assert_eq!(shown["reason"], Value::String(reason));
    assert_eq!(scene.life()?, life);
    Ok(())
}

/// Not even a manifest can be written.
fn a_store_without_any_room() -> Outcome {
    let store = Pool::ext4(64)?;
    let mut world = World::new()?;
    world.store_in(&store.subvolume("mem")?)?;
    let mut scene = Scene::of(world, &["guest/a.raw"], |witness| witness)?;
    let life = scene.life()?;
    let name = scene.guest.name().to_owned();
    let filler = store.path().join("filler");
    fill(&filler)?;
    for more in [&[][..], &["--consistency", "crash"]] {
        let outcome = scene.vitrify(1, &[&["snapshot", &name], more].concat())?;
        assert!(outcome.stderr.contains("No space left"), "{}", outcome.stderr);
        untouched(&mut scene, &life)?;
    }
    fs::remove_file(&filler)?;
    scene.vitrify(0, &["snapshot", &name])?;
    scene.is_well()
}

/// Writes until nothing more fits, in ever smaller pieces.
fn fill(path: &Path) -> Outcome {
    let mut file = File::create_new(path)?;
    for size in [1 << 20, 1 << 12, 1 << 9] {
        while file.write_all(&vec![1; size]).and_then(|()| file.sync_data()).is_ok() {}
    }
    Ok(())
}
