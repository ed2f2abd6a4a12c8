//! The main job on real guests: captured live with memory and disks of one instant, restored, and
//! nothing left behind.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vitrify_lab::draw::Draw;
use vitrify_lab::guest::{Machine, Witness};
use vitrify_lab::harness::{self, Outcome};
use vitrify_lab::pool::Pool;
use vitrify_lab::run::must;
use vitrify_lab::scene::{BOOT, Point, SOON, Scene};
use vitrify_lab::serial::Status;
use vitrify_lab::world::World;
use witness::line::{From, Line};

/// More than any witness can make dirty.
const HIGHEST_MBPS: u64 = 20_000;

/// Room for what fifty captures add, in MiB; sparse.
const ROOM_MIB: u64 = 16 << 10;

fn main() -> ExitCode {
    harness::run_in_pairs(&[
        ("a_running_guest_continues_from_the_instant_of_its_capture", a_running_guest_continues),
        ("what_list_and_show_say", what_list_and_show_say),
        ("captures_and_restores_of_two_disks", of_two_disks),
        ("captures_and_restores_at_the_highest_rate", at_the_highest_rate),
        ("qcow2_disks_and_their_golden_image", qcow2_disks_and_their_golden_image),
        ("a_point_without_memory_boots_cold", a_point_without_memory_boots_cold),
        ("a_store_on_ext4_does_as_well", a_store_on_ext4_does_as_well),
        ("five_captures_and_restores_of_a_boot_sector_guest", boot_sector_guest),
    ])
}

fn a_running_guest_continues() -> Outcome {
    let mut scene = Scene::new()?;
    let first = scene.snapshot(&[])?;
    assert_eq!(first.json["version"], 1);
    assert_eq!(first.json["consistency"], "memory");
    assert_eq!(first.json["engine"], "instant");
    scene.is_well()?;
    let life = scene.life()?;
    scene.restore_as(&first, "latest", &[])?;
    assert_ne!(scene.life()?, life, "it was not started anew");
    scene.is_well()?;
    // The safety point of the first restore is newer, and is not what 'latest' means.
    scene.restore_as(&first, "latest", &[])?;
    scene.is_well()?;
    let points = scene.vitrify(0, &["list", "--json"])?.json()?;
    let points = points["points"].as_array().ok_or("no points")?;
    assert_eq!(points.len(), 3, "{points:?}");
    for point in points {
        assert_eq!(point["consistency"], "memory");
    }
    Ok(())
}

/// The fields that scripts rely on.
fn what_list_and_show_say() -> Outcome {
    let mut scene = Scene::new()?;
    let point = scene.snapshot(&["--name", "before-upgrade"])?;
    let said = &point.json;
    assert_eq!(
        keys(said),
        "consistency duration_ms engine guest id memory_bytes names pause_ms pause_parts_ms point reason \
         stalled_ms stored_bytes time uncovered version volumes"
    );
    assert_eq!(said["point"], "before-upgrade");
    assert_eq!(said["guest"], scene.guest.name());
    assert_eq!(said["uncovered"], json!([]));
    for number in ["duration_ms", "memory_bytes", "pause_ms", "stored_bytes"] {
        assert!(said[number].as_f64().is_some_and(|it| it > 0.0), "{number}: {said}");
    }
    let parts = said["pause_parts_ms"].as_object().ok_or("no pause_parts_ms")?;
    let sum: f64 = parts.values().filter_map(Value::as_f64).sum();
    let pause = said["pause_ms"].as_f64().unwrap_or_default();
    assert!((sum - pause).abs() < 0.01, "its parts add up to the pause: {said}");
    let volume = scene.world.pool.path().join("guest");
    assert_eq!(said["volumes"][0]["volume"], json!(volume));
    assert_eq!(said["volumes"][0]["snapshot"], "before-upgrade");

    let listed = scene.vitrify(0, &["list", "--json"])?.json()?;
    assert_eq!(keys(&listed), "points version");
    assert_eq!(listed["points"][0]["id"], said["id"]);
    assert_eq!(listed["points"][0]["published"], true);

    for name in ["before-upgrade", "latest", said["id"].as_str().unwrap_or_default()] {
        let shown = scene.vitrify(0, &["show", "--json", &scene.at(name)])?.json()?;
        assert_eq!((&shown["version"], &shown["id"]), (&json!(1), &said["id"]));
        assert_eq!(shown["disks"][0]["path"], json!(scene.disks[0]));
        let image = PathBuf::from(shown["memory_image"].as_str().unwrap_or_default());
        assert!(image.join("memory.img").is_file(), "{}", image.display());
    }
    // A restore says what it did, too.
    let restored =
        scene.vitrify(0, &["restore", "--force", "--json", &scene.at("before-upgrade")])?.json()?;
    assert_eq!(keys(&restored), "guest id point safety_point state version with_memory");
    assert_eq!(restored["with_memory"], true);
    assert!(restored["safety_point"].as_str().is_some_and(|it| it.ends_with("_safety")));
    scene.is_well()
}

fn keys(value: &Value) -> String {
    let keys = value.as_object().map(|it| it.keys().map(String::as_str).collect::<Vec<_>>());
    let mut keys = keys.unwrap_or_default();
    keys.sort_unstable();
    keys.join(" ")
}

/// `VITRIFY_ROUNDS=50` is the proof, as below; fewer show that it still holds.
fn of_two_disks() -> Outcome {
    let mut scene = Scene::of(World::new()?, &["one/a.raw", "two/b.raw"], |witness| {
        witness.machine(Machine::Q35).step(Duration::from_millis(5)).fill_mib(16).dirty_mbps(20)
    })?;
    captures_and_restores(&mut scene, harness::rounds(10))
}

fn at_the_highest_rate() -> Outcome {
    let world = World::on(Pool::btrfs(ROOM_MIB)?)?;
    let mut scene = Scene::of(world, &["one/a.raw", "two/b.raw"], |witness| {
        witness.memory_mib(192).step(Duration::from_millis(5)).fill_mib(64).dirty_mbps(HIGHEST_MBPS)
    })?;
    captures_and_restores(&mut scene, harness::rounds(5))
}

/// Batches of captures while the guest counts, each followed by restores of points drawn from all
/// that there are.
fn captures_and_restores(scene: &mut Scene, count: usize) -> Outcome {
    const EACH: usize = 5;
    let mut draw = Draw(7);
    let mut points = Vec::new();
    let (mut took, mut mbps) = ([Duration::ZERO; 2], 0);
    while points.len() < count {
        let began = Instant::now();
        for _ in 0..EACH {
            points.push(scene.snapshot(&["--consistency", "memory"])?);
            mbps = mbps.max(points[points.len() - 1].before.dirty_mbps);
        }
        took[0] += began.elapsed();
        for _ in 0..EACH {
            let drawn = draw.below(points.len());
            let began = Instant::now();
            let first = jump(scene, &points[drawn])?;
            took[1] += began.elapsed();
            scene.continues(&points[drawn], first)?;
            // More than a second, so that every page and most of the ring are looked at.
            scene.guest.serial.steps_on(200, SOON)?;
            assert_eq!(scene.guest.serial.mismatches(), [""; 0]);
        }
    }
    scene.is_well()?;
    let pauses = points.iter().filter_map(|point| point.json["pause_ms"].as_f64());
    let mut pauses: Vec<_> = pauses.collect();
    pauses.sort_by(f64::total_cmp);
    assert_eq!(pauses.len(), points.len());
    let engine = |name: &str| points.iter().filter(|it| it.json["engine"] == name).count();
    say(&format!(
        "{} captures of two disks in {:.1} s ({} by instant), up to {mbps} MB/s made dirty, pauses \
         {:.0} to {:.0} ms, median {:.0} ms; as many restores in {:.1} s; no mismatch",
        points.len(),
        took[0].as_secs_f64(),
        engine("instant"),
        pauses[0],
        pauses[pauses.len() - 1],
        pauses[pauses.len() / 2],
        took[1].as_secs_f64(),
    ));
    Ok(())
}

/// Restores a point that may lie before or after what the guest counts now: it comes up suspended,
/// so that what it says first cannot be taken for what it said last.
fn jump(scene: &mut Scene, point: &Point) -> Result<Status, Box<dyn Error>> {
    let name = scene.at(&point.name);
    scene.vitrify(0, &["restore", "--force", "--paused", "--no-safety-point", "--yes", &name])?;
    assert_eq!(scene.guest.state()?, "paused");
    scene.guest.serial.skip_to_end()?;
    scene.guest.resume()?;
    Ok(scene.guest.serial.count_reaches(0, SOON)?)
}

fn qcow2_disks_and_their_golden_image() -> Outcome {
    let world = World::new()?;
    let golden = world.pool.subvolume("golden")?.join("golden.qcow2");
    let volume = world.pool.subvolume("guest")?;
    let disks = [volume.join("a.qcow2"), volume.join("b.qcow2")];
    let text = |path: &std::path::Path| path.display().to_string();
    must("qemu-img", &["create", "-q", "-f", "qcow2", &text(&golden), "16M"])?;
    let backing = format!("backing_file={},backing_fmt=qcow2", text(&golden));
    must("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &backing, &text(&disks[0])])?;
    let sum = must("sha256sum", &[&text(&golden)])?;
    let mut scene = Scene::of(world, &["guest/a.qcow2", "guest/b.qcow2"], |witness| witness)?;
    for _ in 0..3 {
        let point = scene.snapshot(&[])?;
        assert_eq!(point.json["consistency"], "memory");
        scene.is_well()?;
        scene.restore(&point, &[])?;
        scene.is_well()?;
    }
    assert_eq!(must("sha256sum", &[&text(&golden)])?, sum, "the golden image was written to");
    let info = must("qemu-img", &["info", "--force-share", &text(&disks[0])])?;
    assert!(info.contains(&format!("backing file: {}", text(&golden))), "{info}");
    Ok(())
}

fn a_point_without_memory_boots_cold() -> Outcome {
    let mut scene = Scene::of(World::new()?, &["one/a.raw", "two/b.raw"], |witness| witness)?;
    let point = scene.snapshot(&["--consistency", "crash"])?;
    assert_eq!(point.json["consistency"], "crash");
    assert_eq!(point.json["engine"], "plain");
    // Two volumes are not one power cord: the guest stood still meanwhile.
    assert!(point.json["pause_ms"].as_f64().is_some_and(|it| it > 0.0), "{}", point.json);
    scene.is_well()?;
    let life = scene.life()?;
    let refused = scene.vitrify(3, &["restore", "--force", &scene.at(&point.name)])?;
    assert!(refused.stderr.contains("no memory image"), "{}", refused.stderr);
    assert_eq!(scene.life()?, life);
    scene.vitrify(0, &["restore", "--force", "--cold", &scene.at(&point.name)])?;
    let is_ready = |line: &Line| matches!(line, Line::Ready { .. });
    let ready = scene.guest.serial.wait_for("READY", BOOT, is_ready)?;
    let Line::Ready { from, count, disks, .. } = ready else { return Err("not ready".into()) };
    assert_eq!((from, disks), (From::Cold, 2));
    assert!(point.counts.contains(&count), "{count} of {point:?}");
    scene.is_well()
}

fn a_store_on_ext4_does_as_well() -> Outcome {
    let mut world = World::new()?;
    let store = Pool::ext4(2048)?;
    world.store_in(&store.subvolume("mem")?)?;
    let mut scene = Scene::of(world, &["guest/a.raw"], |witness| witness)?;
    let point = scene.snapshot(&[])?;
    assert_eq!(point.json["consistency"], "memory");
    scene.is_well()?;
    scene.restore(&point, &[])?;
    scene.is_well()
}

/// A figure for the reader of the test's output.
#[expect(clippy::print_stderr, reason = "figures are part of what this test is for")]
fn say(text: &str) {
    eprintln!("{text}");
}

/// The guest of the machines that are emulated themselves.
fn boot_sector_guest() -> Outcome {
    let mut scene = Scene::of(World::new()?, &["one/a.raw", "two/b.qcow2"], Witness::boot_sector)?;
    for _ in 0..5 {
        let point = scene.snapshot(&[])?;
        assert_eq!(point.json["consistency"], "memory");
        scene.restore(&point, &[])?;
        scene.is_well()?;
    }
    Ok(())
}
