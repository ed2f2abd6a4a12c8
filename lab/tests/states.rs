//! Guests that do not just run: suspended by their user, shut off, saved by libvirt. Each is after
//! a capture what it was before.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::process::ExitCode;

use vitrify_lab::harness::{self, Outcome};
use vitrify_lab::run::must;
use vitrify_lab::scene::{BOOT, SOON, Scene};
use vitrify_lab::world::World;
use witness::line::From;

fn main() -> ExitCode {
    harness::run_in_pairs(&[
        ("a_guest_that_its_user_suspended_stays_so", a_suspended_guest),
        ("a_guest_that_is_shut_off_stays_so", a_guest_that_is_shut_off),
        ("a_guest_that_libvirt_saved_stays_so", a_guest_that_libvirt_saved),
        ("a_restored_guest_can_come_up_suspended", a_restored_guest_can_come_up_suspended),
        ("a_guest_that_is_not_defined_any_more_comes_back", a_guest_that_is_gone),
    ])
}

fn a_suspended_guest() -> Outcome {
    let mut scene = Scene::of(World::new()?, &["one/a.raw", "two/b.raw"], |witness| witness)?;
    let life = scene.life()?;
    scene.guest.suspend()?;
    let name = scene.guest.name().to_owned();
    let point = scene.vitrify(0, &["snapshot", "--json", &name])?.json()?;
    assert_eq!((&point["consistency"], &point["engine"]), (&"crash".into(), &"plain".into()));
    let reason = point["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("suspended, and stays so"), "{reason}");
    assert_eq!((scene.guest.state()?.as_str(), scene.life()?), ("paused", life.clone()));
    let refused = scene.vitrify(4, &["snapshot", "--consistency", "memory", &name])?;
    assert!(refused.stderr.contains("suspended"), "{}", refused.stderr);
    scene.is_settled()?;
    scene.guest.resume()?;
    scene.is_well()?;
    assert_eq!(scene.life()?, life);
    Ok(())
}

fn a_guest_that_is_shut_off() -> Outcome {
    let mut scene = Scene::new()?;
    scene.guest.serial.steps_on(20, SOON)?;
    scene.guest.destroy()?;
    let name = scene.guest.name().to_owned();
    let sum = |scene: &Scene| must("sha256sum", &[&scene.disks[0].display().to_string()]);
    let before = sum(&scene)?;
    let point = scene.vitrify(0, &["snapshot", "--json", &name])?.json()?;
    assert_eq!((&point["consistency"], &point["engine"]), (&"off".into(), &"plain".into()));
    assert_eq!(point["memory_bytes"], 0);
    assert_eq!((scene.guest.state()?.as_str(), sum(&scene)?), ("shut off", before.clone()));

    OpenOptions::new().write(true).open(&scene.disks[0])?.write_all_at(b"damage", 4096)?;
    let damaged = sum(&scene)?;
    let at = scene.at("latest");
    let refused = scene.vitrify(3, &["restore", &at])?;
    assert!(refused.stderr.contains("no memory image"), "{}", refused.stderr);
    assert_eq!(sum(&scene)?, damaged);
    scene.vitrify(0, &["restore", "--cold", &at])?;
    assert_eq!((scene.guest.state()?.as_str(), sum(&scene)?), ("shut off", before));
    scene.is_settled()?;
    scene.guest.start()?;
    assert_eq!(scene.guest.serial.ready(BOOT)?.from, From::Cold);
    scene.is_well()
}

fn a_guest_that_libvirt_saved() -> Outcome {
    let mut scene = Scene::new()?;
    let before = scene.guest.serial.steps_on(20, SOON)?;
    scene.guest.virsh("managedsave", &[])?;
    scene.guest.serial.skip_to_end()?;
    let saved = scene.guest.serial.latest().ok_or("nothing was said")?;
    let name = scene.guest.name().to_owned();
    let point = scene.vitrify(0, &["snapshot", "--json", &name])?.json()?;
    assert_eq!((&point["consistency"], &point["engine"]), (&"memory".into(), &"plain".into()));
    let is_saved = |scene: &Scene| -> Result<bool, Box<dyn std::error::Error>> {
        let info = scene.guest.virsh("dominfo", &[])?;
        Ok(info.lines().any(|it| it.starts_with("Managed save:") && it.ends_with("yes")))
    };
    assert!(is_saved(&scene)? && scene.guest.state()? == "shut off");
    scene.is_settled()?;

    // It starts from its own image as ever, and the point is none the worse for it.
    scene.guest.start()?;
    let after = scene.guest.serial.count_reaches(saved.count + 100, SOON)?;
    assert_eq!(after.boot, before.boot);
    scene.vitrify(0, &["restore", "--force", &scene.at("latest")])?;
    let first = scene.first_below(after.count)?;
    assert_eq!(first.boot, before.boot);
    assert!((saved.count..saved.count + 30).contains(&first.count), "{first:?} after {saved:?}");
    scene.is_well()?;

    // Over a saved guest: its image belongs to the replaced disks and goes into the safety point.
    scene.guest.serial.count_reaches(saved.count + 100, SOON)?;
    scene.guest.virsh("managedsave", &[])?;
    scene.guest.serial.skip_to_end()?;
    let second = scene.guest.serial.latest().ok_or("nothing was said")?;
    let restored = scene.vitrify(0, &["restore", "--json", &scene.at("latest")])?.json()?;
    assert!(!is_saved(&scene)?);
    let first = scene.first_below(second.count)?;
    assert!(first.count < saved.count + 30, "{first:?} after {saved:?}");
    let safety = restored["safety_point"].as_str().ok_or("no safety point")?.to_owned();
    scene.is_well()?;
    scene.vitrify(0, &["restore", "--force", &scene.at(&safety)])?;
    let back = scene.guest.serial.count_reaches(second.count, SOON)?;
    assert_eq!(back.boot, before.boot);
    assert!(back.count < second.count + 30, "{back:?} after {second:?}");
    scene.is_well()
}

fn a_restored_guest_can_come_up_suspended() -> Outcome {
    let mut scene = Scene::new()?;
    let point = scene.snapshot(&[])?;
    scene.vitrify(0, &["restore", "--force", "--paused", &scene.at("latest")])?;
    assert_eq!(scene.guest.state()?, "paused");
    scene.is_settled()?;
    scene.guest.resume()?;
    let first = scene.guest.serial.count_reaches(0, SOON)?;
    scene.continues(&point, first)?;
    scene.is_well()
}

/// Undefined and its disk removed: the point holds all that is needed.
fn a_guest_that_is_gone() -> Outcome {
    let mut scene = Scene::new()?;
    let point = scene.snapshot(&[])?;
    let uuid = scene.guest.uuid()?;
    let definition = scene.guest.virsh("dumpxml", &["--inactive"])?;
    scene.guest.destroy()?;
    scene.guest.virsh("undefine", &[])?;
    fs::remove_file(&scene.disks[0])?;
    scene.guest.serial.skip_to_end()?;
    scene.vitrify(0, &["restore", &scene.at("latest")])?;
    assert_eq!(scene.guest.uuid()?, uuid);
    let first = scene.guest.serial.count_reaches(0, SOON)?;
    scene.continues(&point, first)?;
    assert_eq!(scene.guest.virsh("dumpxml", &["--inactive"])?, definition);
    scene.is_well()
}
