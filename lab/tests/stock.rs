//! The libvirt and QEMU of the release itself, where the host has newer ones: captures and restores
//! with memory, with and without the setting of the kernel that lets this QEMU use userfaultfd.

use std::error::Error;
use std::fs;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::Signal;
use vitrify_lab::guest::Witness;
use vitrify_lab::harness::{self, Machine, Outcome};
use vitrify_lab::journal::Journal;
use vitrify_lab::run::virsh;
use vitrify_lab::scene::{Point, SOON, Scene};
use vitrify_lab::world::World;
use witness::line::Line;

/// Whether a process without privileges may have a userfaultfd that sees the kernel's own faults:
/// <https://docs.kernel.org/admin-guide/sysctl/vm.html#unprivileged-userfaultfd>.
const SETTING: &str = "/proc/sys/vm/unprivileged_userfaultfd";
const LIMIT: Duration = Duration::from_secs(90);

fn main() -> ExitCode {
    harness::run_on(
        Machine::Stock,
        1,
        &[
            ("it_is_libvirt_9_0_and_qemu_7_2", it_is_libvirt_9_0_and_qemu_7_2),
            ("memory_on_newer_disks_is_reported", memory_on_newer_disks_is_reported),
            ("allowed::ten_captures_and_restores", ten_captures_and_restores),
            ("allowed::a_restless_guest_is_captured", a_restless_guest_is_captured),
            ("allowed::plain_virsh_restores_what_was_exported", what_was_exported),
            ("forbidden::the_reason_names_the_setting", the_reason_names_the_setting),
            ("forbidden::captures_and_restores_by_overlay", by_overlay),
            ("a_capture_killed_at_its_records", killed_at_its_records),
        ],
    )
}

/// The kernel's setting, which is put back. It is the whole kernel's: `cargo xtask` puts it back too,
/// where this process is killed.
struct Userfaultfd {
    before: String,
}

impl Userfaultfd {
    fn allowed(allowed: bool) -> io::Result<Self> {
        let before = fs::read_to_string(SETTING)?;
        fs::write(SETTING, if allowed { "1" } else { "0" })?;
        Ok(Self { before })
    }
}

impl Drop for Userfaultfd {
    fn drop(&mut self) {
        let _ = fs::write(SETTING, &self.before);
    }
}

/// Two disks on two volumes: no snapshot is of one instant by itself.
fn scene(describe: impl FnOnce(Witness) -> Witness) -> Result<Scene, Box<dyn Error>> {
    let step = Duration::from_millis(10);
    Scene::of(World::new()?, &["one/a.raw", "two/b.qcow2"], |witness| describe(witness.step(step)))
}

/// Linux is no witness here: emulated by QEMU 7.2 it panics in its allocator now and then, as it
/// boots.
fn boot_sector() -> Result<Scene, Box<dyn Error>> {
    scene(|witness| witness.boot_sector().fill_mib(16).dirty_mbps(20))
}

fn said<'a>(point: &'a Point, key: &str) -> &'a str {
    point.json[key].as_str().unwrap_or_default()
}

/// A figure for the reader of the test's output.
#[expect(clippy::print_stderr, reason = "figures are part of what these tests are for")]
fn say(text: &str) {
    eprintln!("{text}");
}

fn it_is_libvirt_9_0_and_qemu_7_2() -> Outcome {
    let scene = boot_sector()?;
    let findings = scene.vitrify(0, &["doctor", "--json"])?.json()?;
    let findings = findings["findings"].as_array().cloned().unwrap_or_default();
    let of = |subject: &str| findings.iter().find(|it| it["subject"] == subject);
    let version = of("libvirt").and_then(|it| it["detail"].as_str()).unwrap_or_default();
    assert!(version.starts_with("libvirt 9.0.") && version.contains("QEMU 7.2."), "{version}");
    let guest =
        of(&format!("guest {}", scene.guest.name())).ok_or("doctor passes the guest over")?;
    assert!(guest["detail"].as_str().is_some_and(|it| it.starts_with("memory by ")), "{guest}");
    say(version);
    Ok(())
}

/// The witness is worth its word here too.
fn memory_on_newer_disks_is_reported() -> Outcome {
    let mut scene = boot_sector()?;
    let file = scene.world.store.join("plain.save");
    scene.guest.save(&file)?;
    scene.guest.restore(&file)?;
    scene.guest.serial.skip_to_end()?;
    scene.guest.serial.steps_on(50, SOON)?;
    scene.guest.destroy()?;
    scene.guest.restore(&file)?;
    let is_mismatch = |line: &Line| matches!(line, Line::Mismatch { .. });
    scene.guest.serial.wait_for("mismatch", SOON, is_mismatch)?;
    Ok(())
}

fn ten_captures_and_restores() -> Outcome {
    let _allowed = Userfaultfd::allowed(true)?;
    let mut scene = boot_sector()?;
    let mut pauses = Vec::new();
    for _ in 0..10 {
        let point = scene.snapshot(&["--engine", "instant", "--consistency", "memory"])?;
        assert_eq!((said(&point, "engine"), said(&point, "consistency")), ("instant", "memory"));
        let pause = point.json["pause_ms"].as_f64().filter(|it| *it > 0.0);
        pauses.push(pause.ok_or_else(|| format!("no pause: {}", point.json))?);
        scene.is_well()?;
        scene.restore(&point, &["--no-safety-point", "--yes"])?;
        // So far that every page and most of the ring are looked at.
        scene.guest.serial.steps_on(100, SOON)?;
        scene.is_well()?;
    }
    pauses.sort_by(f64::total_cmp);
    say(&format!(
        "10 captures and restores by instant, pauses {:.0} to {:.0} ms, median {:.0} ms; no mismatch",
        pauses[0], pauses[9], pauses[5]
    ));
    Ok(())
}

fn a_restless_guest_is_captured() -> Outcome {
    let _allowed = Userfaultfd::allowed(true)?;
    let mut scene =
        scene(|witness| witness.boot_sector().memory_mib(256).fill_mib(128).dirty_mbps(400))?;
    let point = scene.snapshot(&["--engine", "instant"])?;
    assert_eq!((said(&point, "engine"), said(&point, "consistency")), ("instant", "memory"));
    scene.restore(&point, &[])?;
    scene.is_well()?;
    // The point, and the safety point of the restore.
    let verified = scene.vitrify(0, &["verify", "--json"])?.json()?;
    assert_eq!(verified["verified"].as_array().map(Vec::len), Some(2), "{verified}");
    Ok(())
}

fn what_was_exported() -> Outcome {
    let _allowed = Userfaultfd::allowed(true)?;
    let mut scene = boot_sector()?;
    for engine in ["instant", "overlay"] {
        let point = scene.snapshot(&["--engine", engine])?;
        let (file, at) = (scene.world.store.join("exported.save"), scene.at(&point.name));
        let file = file.display().to_string();
        scene.vitrify(0, &["export", &at, "--save-image", &file])?;
        // Its own disks, and nothing that ran on them.
        scene.vitrify(0, &["restore", "--force", "--paused", "--no-safety-point", "--yes", &at])?;
        scene.guest.destroy()?;
        scene.guest.serial.skip_to_end()?;
        virsh(&["restore", "--running", &file])?;
        let first = scene.guest.serial.count_reaches(0, SOON)?;
        scene.continues(&point, first)?;
        scene.guest.serial.steps_on(100, SOON)?;
        fs::remove_file(&file)?;
        scene.is_well()?;
    }
    Ok(())
}

/// The records at which a capture is killed: in its beginning, while the guest is suspended or RAM
/// is saved, and after that.
fn killed_at_its_records() -> Outcome {
    let mut scene = boot_sector()?;
    let (name, life) = (scene.guest.name().to_owned(), scene.life()?);
    let mut killed = 0;
    for lines in [2, 4, 6, 7, 8, 9, 11, 13, 15] {
        let journal = Journal::of(&scene.world.vitrify)?;
        let process = scene.world.vitrify.start(&["snapshot", &name])?;
        let caught = journal.reaches(&process, LIMIT, |now| now.len() >= lines)?;
        process.signal(Signal::KILL);
        // The end of its output is the guard's.
        process.finish(LIMIT)?;
        killed += usize::from(caught);
        let what = format!("killed at record {lines}");
        assert_eq!(scene.guest.state()?, "running", "{what}");
        scene.vitrify(0, &["repair"])?;
        let again = scene.vitrify(0, &["repair"])?;
        assert_eq!((again.stdout.as_str(), again.stderr.as_str()), ("", ""), "{what}");
        assert_eq!(scene.life()?, life, "{what}");
        scene.is_well().map_err(|error| format!("{what}: {error}"))?;
    }
    assert!(killed >= 6, "only {killed} kills");
    let point = scene.snapshot(&["--consistency", "memory"])?;
    assert_eq!(said(&point, "engine"), "overlay");
    scene.restore(&point, &[])?;
    scene.is_well()
}

fn the_reason_names_the_setting() -> Outcome {
    let _forbidden = Userfaultfd::allowed(false)?;
    let mut scene = boot_sector()?;
    let name = scene.guest.name().to_owned();
    let remedy = "sysctl vm.unprivileged_userfaultfd=1";
    let point = scene.snapshot(&[])?;
    assert_eq!((said(&point, "engine"), said(&point, "consistency")), ("overlay", "memory"));
    assert!(said(&point, "reason").contains(remedy), "{}", point.json);
    let refused = scene.vitrify(4, &["snapshot", "--engine", "instant", &name])?;
    assert!(refused.stderr.contains(remedy), "{}", refused.stderr);
    let diagnosed = scene.vitrify(0, &["doctor"])?;
    assert!(diagnosed.stdout.contains(remedy), "{}", diagnosed.stdout);
    scene.is_well()?;
    let allowed = Userfaultfd::allowed(true)?;
    let diagnosed = scene.vitrify(0, &["doctor"])?;
    assert!(!diagnosed.stdout.contains(remedy), "{}", diagnosed.stdout);
    let point = scene.snapshot(&[])?;
    assert_eq!(said(&point, "engine"), "overlay");
    assert!(said(&point, "reason").contains("a QEMU before 10"), "{}", point.json);
    assert_eq!(said(&scene.snapshot(&["--engine", "instant"])?, "engine"), "instant");
    drop(allowed);
    assert_eq!(fs::read_to_string(SETTING)?.trim(), "0");
    scene.is_well()
}

fn by_overlay() -> Outcome {
    let _forbidden = Userfaultfd::allowed(false)?;
    let mut scene = boot_sector()?;
    for _ in 0..3 {
        let point = scene.snapshot(&["--consistency", "memory"])?;
        assert_eq!(said(&point, "engine"), "overlay");
        scene.is_well()?;
        scene.restore(&point, &[])?;
        scene.is_well()?;
    }
    Ok(())
}
