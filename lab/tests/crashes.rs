//! `vitrify` is killed at every record of its journal, and `vitrify repair` brings the guest and
//! the host back to order.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use vitrify_lab::files::is_frozen;
use vitrify_lab::guest::Witness;
use vitrify_lab::harness::{self, Outcome};
use vitrify_lab::journal::Journal;
use vitrify_lab::leftovers::entries;
use vitrify_lab::scene::{BOOT, Point, SOON, Scene};
use vitrify_lab::serial::Status;
use vitrify_lab::trace::{difference, everything};
use vitrify_lab::world::World;
use witness::line::From;
use witness::params::Agent;

const LIMIT: Duration = Duration::from_secs(90);
/// No storage writes out anything in half of that: overlays inside the pause of `instant`.
const SLOW: &str = "[capture]\npause-limit = \"1ms\"\n";

fn main() -> ExitCode {
    harness::run_in_pairs(&[
        ("a_capture_killed_at_each_record", || killed_at_each_record("instant", "", 10)),
        ("a_capture_by_overlay_killed_at_each_record", || killed_at_each_record("overlay", "", 10)),
        ("a_capture_of_slow_storage_killed_at_each_record", || {
            killed_at_each_record("instant", SLOW, 10)
        }),
        ("a_capture_by_freeze_killed_at_each_record", || killed_at_each_record("freeze", "", 5)),
        ("a_plain_capture_killed_at_each_record", || killed_at_each_record("plain", "", 5)),
        ("a_restore_killed_at_each_record", a_restore_killed_at_each_record),
        ("a_repair_killed_at_each_record", a_repair_killed_at_each_record),
        ("an_overlay_of_a_guest_that_is_off_is_discarded", an_overlay_is_discarded),
        ("an_overlay_of_a_guest_that_is_off_is_committed", an_overlay_is_committed),
        ("a_rehearsal_changes_nothing", a_rehearsal_changes_nothing),
    ])
}

fn scene() -> Result<Scene, Box<dyn Error>> {
    let step = Duration::from_millis(10);
    Scene::of(World::new()?, &["one/a.raw", "two/b.raw"], |witness| witness.step(step))
}

/// A witness whose agent freezes its file systems.
fn scene_with_agent() -> Result<Scene, Box<dyn Error>> {
    let (world, step) = (World::new()?, Duration::from_millis(10));
    let files = world.pool.path().join("one/files.ext4");
    let describe = |it: Witness| it.memory_mib(192).step(step).files(&files).agent(Agent::Works);
    let mut scene = Scene::of(world, &["one/a.raw"], describe)?;
    scene.disks.push(files);
    scene.guest.agent_becomes("connected", SOON)?;
    Ok(scene)
}

/// Kills a command as soon as its journal has so many lines more than it had, and answers with the
/// last; `None` where it ended before that.
fn strike(
    scene: &Scene,
    arguments: &[&str],
    lines: usize,
) -> Result<Option<String>, Box<dyn Error>> {
    let journal = Journal::of(&scene.world.vitrify)?;
    let had = journal.lines()?.len();
    let process = scene.world.vitrify.start(arguments)?;
    if !journal.reaches(&process, LIMIT, |now| now.len() >= had + lines)? {
        let finished = process.finish(LIMIT)?;
        assert_eq!(finished.status.code(), Some(0), "{finished:?}");
        return Ok(None);
    }
    process.signal(Signal::KILL);
    process.finish(LIMIT)?;
    let last = journal.lines()?.pop();
    // It may have come to its end in the very last moment.
    Ok(Some(last.unwrap_or_else(|| "after its end".to_owned())))
}

/// What an administrator does then. A second time there is nothing to do, or to say of this guest.
fn repair(scene: &Scene) -> Outcome {
    scene.vitrify(0, &["repair"])?;
    let again = scene.vitrify(0, &["repair", scene.guest.name()])?;
    assert_eq!((again.stdout.as_str(), again.stderr.as_str()), ("", ""));
    Ok(())
}

/// The plan is long: only what record it is matters.
fn short(line: &str) -> &str {
    if line.contains(r#""record""#) { line } else { "the plan" }
}

#[expect(clippy::print_stderr, reason = "figures are part of what these tests are for")]
fn say(text: &str) {
    eprintln!("{text}");
}

fn killed_at_each_record(engine: &str, configuration: &str, least: usize) -> Outcome {
    let freezes = engine == "freeze";
    let mut scene = if freezes { scene_with_agent() } else { scene() }?;
    scene.world.configure(configuration)?;
    let (mut kills, mut points) = (0, 0);
    for lines in 1.. {
        scene.guest.serial.skip_to_end()?;
        let before = scene.guest.serial.latest().ok_or("nothing was said")?;
        let life = scene.life()?;
        let name = scene.guest.name().to_owned();
        let Some(last) = strike(&scene, &["snapshot", &name, "--engine", engine], lines)? else {
            break;
        };
        let after = scene.guest.serial.steps_on(1, SOON)?;
        kills += 1;
        let mut check = || -> Outcome {
            repair(&scene)?;
            assert_eq!(scene.life()?, life, "it was started anew");
            scene.is_well()?;
            assert!(!(freezes && is_frozen(&scene.guest)?), "it is frozen");
            let there = listed(&scene)?;
            if there.len() > points {
                points = there.len();
                let json = there[0].clone();
                let name = json["point"].as_str().unwrap_or_default().to_owned();
                let counts = before.count..=after.count;
                as_good_as_any(&mut scene, &Point { name, json, before, counts })?;
            }
            Ok(())
        };
        check().map_err(|error| format!("kill {lines}: {}: {error}", short(&last)))?;
    }
    // What an effect came to is written with the next one's beginning, and the last records follow one
    // another fast: few moments are left in which a point is worth finishing.
    assert!(kills >= least && points >= 1 && points < kills, "{kills} and {points}");
    works(&mut scene)?;
    say(&format!("{kills} kills of a capture by {engine}, {points} of them finished by repair"));
    Ok(())
}

/// A point that a repair published is no worse than others.
fn as_good_as_any(scene: &mut Scene, point: &Point) -> Outcome {
    if point.json["consistency"] == "memory" {
        scene.restore(point, &["--no-safety-point", "--yes"])?;
        return scene.is_well();
    }
    scene.guest.serial.skip_to_end()?;
    let at = scene.at(&point.name);
    scene.vitrify(0, &["restore", "--cold", "--force", "--no-safety-point", "--yes", &at])?;
    let ready = scene.guest.serial.ready(BOOT)?;
    // What had not reached a disk by then is not on it.
    let counts = point.counts.start().saturating_sub(30)..=*point.counts.end();
    assert!(ready.from == From::Cold && counts.contains(&ready.count), "{ready:?} of {counts:?}");
    if point.json["consistency"] == "frozen" {
        scene.guest.agent_becomes("connected", SOON)?;
    }
    scene.is_well()
}

/// The points, newest first.
fn listed(scene: &Scene) -> Result<Vec<Value>, Box<dyn Error>> {
    let listed = scene.vitrify(0, &["list", "--json"])?.json()?;
    Ok(listed["points"].as_array().cloned().unwrap_or_default())
}

fn a_restore_killed_at_each_record() -> Outcome {
    let mut scene = scene()?;
    let point = scene.snapshot(&["--consistency", "memory"])?;
    let (mut undone, mut finished) = (0, 0);
    for lines in 1.. {
        scene.guest.serial.skip_to_end()?;
        let reached = scene.guest.serial.count_reaches(point.counts.end() + 100, BOOT)?;
        let life = scene.life()?;
        let name = scene.at(&point.name);
        let arguments = ["restore", "--force", "--no-safety-point", "--yes", &name];
        let Some(last) = strike(&scene, &arguments, lines)? else { break };
        let what = format!("kill {lines}: {}", short(&last));
        let mut check = || -> Outcome {
            repair(&scene)?;
            if scene.guest.state()? == "running" && scene.life()? == life {
                // As if nothing had been asked.
                let now = scene.guest.serial.steps_on(10, SOON)?;
                assert!(now.boot == reached.boot && now.count > reached.count, "{now:?}");
                undone += 1;
            } else {
                let first = scene.first_below(reached.count)?;
                scene.continues(&point, first)?;
                finished += 1;
            }
            scene.is_well()
        };
        check().map_err(|error| format!("{what}: {error}"))?;
    }
    assert!(undone >= 3 && finished >= 5, "{undone} and {finished}");
    scene.restore(&point, &[])?;
    scene.is_well()?;
    say(&format!("{undone} kills of a restore undone, {finished} finished"));
    Ok(())
}

/// Two crashes in a row: of a capture or a restore in its middle, and of its repair at each record.
fn a_repair_killed_at_each_record() -> Outcome {
    let mut scene = scene()?;
    let point = scene.snapshot(&["--consistency", "memory"])?;
    let (guest, at) = (scene.guest.name().to_owned(), scene.at(&point.name));
    let restore = ["restore", "--force", "--no-safety-point", "--yes", &at];
    let mut kills = 0;
    let by = |engine| ["snapshot", &guest, "--engine", engine];
    let (instant, overlay) = (by("instant"), by("overlay"));
    for (arguments, first) in
        [(&instant[..], 9), (&overlay[..], 5), (&restore[..], 4), (&restore[..], 9)]
    {
        for lines in 1.. {
            let far = point.counts.end() + 100;
            scene.guest.serial.skip_to_end()?;
            scene.guest.serial.count_reaches(far, BOOT)?;
            let last = strike(&scene, arguments, first)?.ok_or("it was not caught")?;
            let second = strike(&scene, &["repair"], lines)?;
            let what = format!("{} and then {second:?}", short(&last));
            repair(&scene).map_err(|error| format!("{what}: {error}"))?;
            scene.is_well().map_err(|error| format!("{what}: {error}"))?;
            kills += 1;
            if second.is_none() {
                break;
            }
        }
    }
    scene.restore(&point, &[])?;
    scene.is_well()?;
    say(&format!("{kills} pairs of kills, each repaired"));
    Ok(())
}

/// Kills a capture while the guest is on its overlays and before anything of them was committed.
/// Our own timing decides whether that succeeds: a capture that had come further is repaired, and
/// the next one is tried.
fn left_on_overlays(scene: &mut Scene) -> Result<Point, Box<dyn Error>> {
    let name = scene.guest.name().to_owned();
    let journal = Journal::of(&scene.world.vitrify)?;
    for _ in 0..5 {
        scene.guest.serial.skip_to_end()?;
        let before = scene.guest.serial.latest().ok_or("nothing was said")?;
        // The plan, the point staged, the dump: begun and done each.
        strike(scene, &["snapshot", &name, "--engine", "overlay"], 5)?
            .ok_or("it was not caught")?;
        let lines = journal.lines()?.join("\n");
        if !lines.contains("settle-overlay") && lines.contains("external-snapshot") {
            let after = scene.guest.serial.steps_on(1, SOON)?;
            let counts = before.count..=after.count;
            return Ok(Point { name, json: lines.into(), before, counts });
        }
        repair(scene)?;
    }
    Err("no capture could be caught on its overlays".into())
}

/// Pulls the power cord of a guest that has gone on on its overlays, and answers with the last that
/// it said. Nothing is decided without its owner.
fn pull_the_cord(scene: &mut Scene) -> Result<Status, Box<dyn Error>> {
    let last = scene.guest.serial.steps_on(200, SOON)?;
    scene.guest.destroy()?;
    scene.guest.serial.skip_to_end()?;
    let last = scene.guest.serial.latest().unwrap_or(last);
    let refused = scene.vitrify(3, &["repair"])?;
    assert!(refused.stderr.contains("--commit") && refused.stderr.contains("--discard"));
    assert_eq!(entries(&scene.world.overlays)?.len(), 2, "an overlay is gone");
    assert_eq!(scene.guest.state()?, "shut off");
    let name = scene.guest.name().to_owned();
    scene.vitrify(2, &["repair", &name, "--discard"])?;
    let refused = scene.vitrify(3, &["snapshot", &name])?;
    assert!(refused.stderr.contains("vitrify repair"), "{}", refused.stderr);
    assert_eq!(entries(&scene.world.overlays)?.len(), 2, "an overlay is gone");
    Ok(last)
}

fn an_overlay_is_discarded() -> Outcome {
    let mut scene = scene()?;
    let capture = left_on_overlays(&mut scene)?;
    let last = pull_the_cord(&mut scene)?;
    let name = scene.guest.name().to_owned();
    scene.vitrify(0, &["repair", &name, "--discard", "--yes"])?;
    assert_eq!(scene.guest.state()?, "shut off");
    scene.is_settled()?;
    scene.guest.start()?;
    let ready = scene.guest.serial.ready(BOOT)?;
    assert_eq!((ready.from, ready.disks), (From::Cold, 2));
    assert!(capture.counts.contains(&ready.count), "{ready:?} of {:?}", capture.counts);
    assert!(ready.count < last.count);
    works(&mut scene)
}

fn an_overlay_is_committed() -> Outcome {
    let mut scene = scene()?;
    left_on_overlays(&mut scene)?;
    let last = pull_the_cord(&mut scene)?;
    let name = scene.guest.name().to_owned();
    scene.vitrify(0, &["repair", &name, "--commit"])?;
    assert_eq!(scene.guest.state()?, "shut off");
    scene.is_settled()?;
    scene.guest.start()?;
    let ready = scene.guest.serial.ready(BOOT)?;
    assert_eq!((ready.from, ready.disks), (From::Cold, 2));
    assert!((last.count..last.count + 30).contains(&ready.count), "{ready:?} after {last:?}");
    works(&mut scene)
}

/// A capture and a restore go well.
fn works(scene: &mut Scene) -> Outcome {
    scene.is_well()?;
    repair(scene)?;
    let point = scene.snapshot(&["--consistency", "memory"])?;
    scene.restore(&point, &[])?;
    scene.is_well()
}

fn a_rehearsal_changes_nothing() -> Outcome {
    let mut scene = scene()?;
    let point = scene.snapshot(&["--consistency", "memory"])?;
    let (guest, at) = (scene.guest.name().to_owned(), scene.at(&point.name));
    let restore = ["restore", "--force", "--no-safety-point", "--yes", &at];
    let capture = ["snapshot", guest.as_str()];
    for (arguments, lines) in [(&capture[..], 5), (&capture, 7), (&restore, 4), (&restore, 10)] {
        scene.guest.serial.skip_to_end()?;
        scene.guest.serial.count_reaches(point.counts.end() + 100, BOOT)?;
        strike(&scene, arguments, lines)?.ok_or("it was not caught")?;
        let before = everything(&scene.world, &scene.guest)?;
        for command in [&["repair", "--dry-run"][..], &["repair", &guest, "--dry-run", "--json"]] {
            let said = scene.vitrify(0, command)?;
            assert!(said.stdout.contains("would "), "{}", said.stdout);
            let changed = difference(&before, &everything(&scene.world, &scene.guest)?);
            assert_eq!(changed, "", "{command:?}");
        }
        repair(&scene)?;
        let said = scene.vitrify(0, &["repair", &guest, "--dry-run"])?;
        assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("", ""));
        scene.is_well()?;
    }
    Ok(())
}
