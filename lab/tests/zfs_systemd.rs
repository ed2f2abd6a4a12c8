//! Ticks under systemd, with the units that packages install: the timer, the journal's fields, and what
//! stopping the service does to a guest that is being captured.

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use vitrify_lab::harness::{self, Machine, Outcome};
use vitrify_lab::hook::Hook;
use vitrify_lab::journal::Journal;
use vitrify_lab::leftovers::entries;
use vitrify_lab::pool::Pool;
use vitrify_lab::run::{Running, must, run};
use vitrify_lab::scene::{BOOT, Scene};
use vitrify_lab::units::{self, Ticked, Units};
use vitrify_lab::world::World;

/// Size of a pool, in MiB; sparse.
const POOL_MIB: u64 = 2048;
/// How long a tick may take there.
const LIMIT: Duration = Duration::from_secs(300);
/// How long it may go on after it was told to stop. The service would be given eleven minutes.
const STOPS_WITHIN: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    // There is one clock, and one service of that name.
    harness::run_on(
        Machine::Zfs,
        1,
        &[
            ("the_timer_has_points_taken", the_timer_has_points_taken),
            ("a_service_that_is_stopped_lets_the_guest_go", a_stopped_service),
            ("a_guest_that_is_half_restored_does_not_start", a_half_restored_guest),
        ],
    )
}

/// A guest of which a point is due four times an hour.
fn scene() -> Result<Scene, Box<dyn Error>> {
    let world = World::on(Pool::zfs(POOL_MIB)?)?;
    let scene = Scene::of(world, &["guest/a.raw"], |it| it.fill_mib(16))?;
    let rule = format!(
        "\n[policy.test]\nfrequently = 3\n[[guest]]\nmatch = \"{}\"\npolicy = \"test\"\n",
        scene.guest.name()
    );
    scene.world.configure(&rule)?;
    Ok(scene)
}

fn points(scene: &Scene) -> Result<Vec<String>, Box<dyn Error>> {
    let listed = scene.vitrify(0, &["list", "--json"])?.json()?;
    let points = listed["points"].as_array().ok_or("no points")?;
    Ok(points.iter().filter_map(|it| Some(it["point"].as_str()?.to_owned())).collect())
}

fn the_timer_has_points_taken() -> Outcome {
    let mut scene = scene()?;
    let life = scene.life()?;
    let units = Units::install(&scene.world.vitrify)?;
    let well = Ticked { result: "success".to_owned(), code: "0".to_owned() };
    for count in 1..=3 {
        assert_eq!(units::tick(&scene.world.vitrify, LIMIT)?, well);
        assert_eq!(points(&scene)?.len(), count);
    }
    // For everybody, whatever the service's umask is.
    let status = scene.world.vitrify.state().join("status.json");
    assert_eq!(fs::metadata(&status)?.permissions().mode() & 0o777, 0o644);
    let status: Value = serde_json::from_str(&fs::read_to_string(&status)?)?;
    assert_eq!(status["guests"][0]["status"], "ok", "{status}");
    must("journalctl", &["--sync"])?;
    let guest = format!("GUEST={}", scene.guest.name());
    let said = must("journalctl", &["--no-pager", "--output=json", &guest])?;
    let said: Vec<Value> = said.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    for point in points(&scene)? {
        let took = said.iter().find(|it| {
            let text = it["MESSAGE"].as_str().unwrap_or_default();
            it["POINT"] == point.as_str() && text.starts_with("took ")
        });
        let took = took.ok_or(format!("the journal does not tell of {point}: {said:?}"))?;
        assert_eq!(took["SYSLOG_IDENTIFIER"], "vitrify");
        let steps = said.iter().filter(|it| it["POINT"] == point.as_str()).count();
        assert!(steps > 3, "{steps} messages of {point}");
    }
    drop(units);
    assert_eq!(scene.life()?, life);
    scene.is_well()
}

/// Just as the guest is to be suspended, and while its RAM streams out.
fn a_stopped_service() -> Outcome {
    let mut scene = scene()?;
    let life = scene.life()?;
    let units = Units::install(&scene.world.vitrify)?;
    let journal = Journal::of(&scene.world.vitrify)?;
    for effect in ["suspend", "receive-memory"] {
        let service = ["start", "vitrify.service"];
        let tick = Running::start(Command::new("systemctl").args(service))?;
        let begun = format!("\"effect\":\"{effect}\"");
        let is_begun = |lines: &[String]| lines.iter().any(|it| it.contains(&begun));
        assert!(journal.reaches(&tick, LIMIT, is_begun)?, "{effect}: {:?}", units::ticked()?);
        // It has the host's mounts.
        let ours = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt"));
        assert_eq!(ours(&units::shown("MainPID")?)?, ours("1")?);
        let told = Instant::now();
        must("systemctl", &["stop", "vitrify.service"])?;
        assert!(told.elapsed() < STOPS_WITHIN, "{effect}: it took {:?}", told.elapsed());
        tick.finish(LIMIT)?;
        // Not killed: it has ended by itself, and put everything in order.
        let ticked = units::ticked()?;
        assert!(["success", "exit-code"].contains(&ticked.result.as_str()), "{ticked:?}");
        let left = entries(&scene.world.vitrify.state().join("journal"))?;
        assert!(left.is_empty(), "{effect}: {left:?}");
        assert_eq!((scene.guest.state()?.as_str(), scene.life()?), ("running", life.clone()));
        let repaired = scene.vitrify(0, &["repair", scene.guest.name()])?;
        assert_eq!((repaired.stdout.as_str(), repaired.stderr.as_str()), ("", ""), "{effect}");
        scene.is_well()?;
        // So that one is due again, whatever became of this one.
        units::tick(&scene.world.vitrify, LIMIT)?;
        scene.is_well()?;
        for point in points(&scene)? {
            scene.vitrify(0, &["delete", "--yes", &scene.at(&point)])?;
        }
    }
    drop(units);
    scene.is_well()
}

/// Autostart and administrators ask libvirt, and libvirt asks its hook.
fn a_half_restored_guest() -> Outcome {
    let mut scene = scene()?;
    let hook = Hook::install(&scene.world.vitrify)?;
    let point = scene.snapshot(&["--consistency", "memory"])?;
    let (name, at) = (scene.guest.name().to_owned(), scene.at(&point.name));
    let far = scene.guest.serial.count_reaches(point.counts.end() + 100, BOOT)?;
    let journal = Journal::of(&scene.world.vitrify)?;
    let restore = ["restore", "--force", "--no-safety-point", "--yes", &at];
    let process = scene.world.vitrify.start(&restore)?;
    let swaps = |lines: &[String]| {
        lines.iter().any(|it| it.contains(r#""begun""#) && it.contains("swap-file"))
    };
    assert!(journal.reaches(&process, LIMIT, swaps)?, "{:?}", process.finish(LIMIT)?);
    process.signal(Signal::KILL);
    process.finish(LIMIT)?;
    let started = run(Command::new("virsh").args(["start", &name]), LIMIT)?;
    let expected = format!("'vitrify repair {name}'");
    assert!(!started.status.success() && started.stderr.contains(&expected), "{started:?}");
    scene.vitrify(0, &["repair"])?;
    let first = scene.first_below(far.count)?;
    scene.continues(&point, first)?;
    scene.is_well()?;
    // From then on it is a guest like any other.
    scene.guest.destroy()?;
    must("virsh", &["start", &name])?;
    scene.guest.serial.ready(BOOT)?;
    drop(hook);
    scene.is_well()
}
