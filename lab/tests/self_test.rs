//! The engines' self-test on Btrfs: carried out by itself before the first capture, believed from then
//! on, and gone without a trace, also when it was killed.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use vitrify_lab::guest::Witness;
use vitrify_lab::harness::{self, Outcome};
use vitrify_lab::leftovers::entries;
use vitrify_lab::run::{must, run, virsh};
use vitrify_lab::scene::Scene;
use vitrify_lab::world::World;

const LIMIT: Duration = Duration::from_secs(180);
/// What the names of a self-test's guests and volumes hold.
const MARK: &str = "vitrify-self-test-";

fn main() -> ExitCode {
    harness::run(&[
        ("the_first_capture_carries_it_out", the_first_capture_carries_it_out),
        ("what_did_not_pass_is_not_used", what_did_not_pass_is_not_used),
        ("one_that_cannot_be_carried_out_hinders_no_point", one_that_cannot_be_carried_out),
        ("killed_in_the_middle", killed_in_the_middle),
        ("interrupted", interrupted),
    ])
}

fn scene() -> Result<Scene, Box<dyn Error>> {
    Scene::of(World::new()?, &["guest/a.raw"], Witness::boot_sector)
}

fn verdicts(scene: &Scene) -> PathBuf {
    scene.world.vitrify.state().join("self-test.json")
}

/// What there is of self-tests of this world: records, and volumes in its pool.
fn traces(scene: &Scene) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut found = entries(&scene.world.vitrify.state().join("self-test"))?;
    let is_scratch = |it: &PathBuf| it.to_string_lossy().contains(MARK);
    found.extend(entries(scene.world.pool.path())?.into_iter().filter(is_scratch));
    Ok(found)
}

/// The guest of the self-test that this record is of.
fn guest_of(record: &std::path::Path) -> String {
    format!("{MARK}{}", record.file_stem().unwrap_or_default().to_string_lossy())
}

fn the_first_capture_carries_it_out() -> Outcome {
    let mut scene = scene()?;
    fs::remove_file(verdicts(&scene))?;
    let doctor = scene.vitrify(0, &["doctor", scene.guest.name()])?;
    assert!(doctor.stdout.contains("not carried out on these versions yet"), "{}", doctor.stdout);
    // An engine that is demanded does not wait for it.
    let name = scene.guest.name().to_owned();
    let demanded = scene.vitrify(0, &["snapshot", &name, "--engine", "instant", "--json"])?;
    assert!(!demanded.stderr.contains("first capture"), "{}", demanded.stderr);
    assert!(!verdicts(&scene).exists());
    let first = scene.vitrify(0, &["snapshot", &name, "--json"])?;
    assert!(first.stderr.contains("first capture on these versions"), "{}", first.stderr);
    assert_eq!(first.json()?["engine"], "instant", "{first:?}");
    let kept: Value = serde_json::from_str(&fs::read_to_string(verdicts(&scene))?)?;
    assert_eq!(kept["verdicts"][0]["ground"]["storage"], "subvolume", "{kept}");
    assert_eq!(kept["verdicts"][0]["overlay"], Value::Null, "{kept}");
    assert_eq!(traces(&scene)?, Vec::<PathBuf>::new());
    let second = scene.vitrify(0, &["snapshot", &name])?;
    assert!(!second.stderr.contains("first capture"), "{}", second.stderr);
    let doctor = scene.vitrify(0, &["doctor", &name])?;
    assert!(doctor.stdout.contains("passed by instant and overlay"), "{}", doctor.stdout);
    scene.is_well()
}

fn what_did_not_pass_is_not_used() -> Outcome {
    let mut scene = scene()?;
    let mut kept: Value = serde_json::from_str(&fs::read_to_string(verdicts(&scene))?)?;
    kept["verdicts"][0]["instant"] = json!("the guest did not run");
    fs::write(verdicts(&scene), kept.to_string())?;
    let words = "not instant: the self-test of instant on a Btrfs subvolume with accelerator qemu \
                 failed: the guest did not run";
    let point = scene.snapshot(&[])?;
    assert_eq!(point.json["engine"], "overlay");
    assert_eq!(point.json["reason"], words);
    let doctor = scene.vitrify(0, &["doctor", scene.guest.name()])?;
    assert!(doctor.stdout.contains(words), "{}", doctor.stdout);
    assert!(doctor.stdout.contains("'vitrify doctor --self-test' tries again"));
    assert_eq!(scene.snapshot(&["--engine", "instant"])?.json["engine"], "instant");
    let again = scene.vitrify(0, &["doctor", "--self-test", scene.guest.name()])?;
    assert!(again.stdout.contains("passed by instant and overlay"), "{}", again.stdout);
    assert_eq!(scene.snapshot(&[])?.json["engine"], "instant");
    scene.is_well()
}

/// A `btrfs` on the path that makes no scratch volume.
fn one_that_cannot_be_carried_out() -> Outcome {
    let mut scene = scene()?;
    fs::remove_file(verdicts(&scene))?;
    let folder = scene.world.folder().join("bin");
    fs::create_dir(&folder)?;
    let program = folder.join("btrfs");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *create*{MARK}*) echo no >&2; exit 1;; esac\n\
         PATH=${{PATH#*:}} exec btrfs \"$@\"\n"
    );
    fs::write(&program, script)?;
    must("chmod", &["+x", &program.display().to_string()])?;
    let path = format!("{}:{}", folder.display(), std::env::var("PATH")?);
    let mut command = scene.world.vitrify.command(&["snapshot", scene.guest.name(), "--json"]);
    let ended = run(command.env("PATH", path), LIMIT)?;
    assert!(ended.status.success(), "{ended:?}");
    let point: Value = serde_json::from_str(&ended.stdout)?;
    assert_eq!(point["engine"], "plain", "{point}");
    let reason = point["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("could not be carried out"), "{reason}");
    assert!(!verdicts(&scene).exists(), "a verdict of nothing was kept");
    assert_eq!(traces(&scene)?, Vec::<PathBuf>::new());
    scene.is_well()
}

/// Killed at several places, each time what is left is removed by another command.
fn killed_in_the_middle() -> Outcome {
    type Reached = fn(&str) -> bool;
    let boots: Reached = |guest| virsh(&["domstate", guest]).is_ok_and(|it| it == "running");
    let on_overlay: Reached =
        |guest| virsh(&["domblklist", guest]).is_ok_and(|it| it.contains("overlays"));
    let mut scene = scene()?;
    let name = scene.guest.name().to_owned();
    let places: [(Reached, &[&str]); 4] = [
        (|_| true, &["repair"]),
        (boots, &["repair"]),
        (on_overlay, &["doctor", &name]),
        (boots, &["doctor", "--self-test", &name]),
    ];
    for (reached, cleaner) in places {
        let process = scene.world.vitrify.start(&["doctor", "--self-test", &name])?;
        let deadline = Instant::now() + LIMIT;
        let record = loop {
            assert!(!process.has_ended() && Instant::now() < deadline, "it was not caught");
            let records = entries(&scene.world.vitrify.state().join("self-test"))?;
            let record =
                records.into_iter().find(|it| it.extension().is_some_and(|it| it == "json"));
            if let Some(record) = record.filter(|it| reached(&guest_of(it))) {
                break record;
            }
        };
        process.signal(Signal::KILL);
        process.finish(LIMIT)?;
        assert!(record.exists(), "caught too late");
        if cleaner[0] == "repair" {
            let told = scene.vitrify(0, &["repair", "--dry-run"])?;
            assert!(told.stdout.contains(&guest_of(&record)), "{}", told.stdout);
        }
        let cleaned = scene.vitrify(0, cleaner)?;
        assert!(cleaned.stdout.contains(&guest_of(&record)), "{}", cleaned.stdout);
        assert_eq!(traces(&scene)?, Vec::<PathBuf>::new());
        assert!(virsh(&["domstate", &guest_of(&record)]).is_err(), "its guest is still there");
        // Of the guests of others there may be something to say.
        let again = scene.vitrify(0, &["repair"])?;
        assert!(!again.stdout.contains("self-test") && again.stderr.is_empty(), "{again:?}");
    }
    scene.is_well()
}

/// Ctrl-C ends it, it cleans up by itself, and there is no verdict.
fn interrupted() -> Outcome {
    let mut scene = scene()?;
    fs::remove_file(verdicts(&scene))?;
    let name = scene.guest.name().to_owned();
    let process = scene.world.vitrify.start(&["snapshot", &name])?;
    let deadline = Instant::now() + LIMIT;
    while !virsh(&["list", "--name"])?.contains(MARK) {
        assert!(!process.has_ended() && Instant::now() < deadline, "it was not caught");
    }
    process.signal(Signal::INT);
    let ended = process.finish(LIMIT)?;
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("cancelled"), "{}", ended.stderr);
    assert!(!verdicts(&scene).exists());
    assert_eq!(traces(&scene)?, Vec::<PathBuf>::new());
    scene.is_well()
}
