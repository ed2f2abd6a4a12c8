//! Restore points of guests on ZFS: volumes and datasets, one pool and two, guests that share a
//! dataset, and the layout that the well-known recipe leaves behind.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use serde_json::{Value, json};
use vitrify_lab::guest::{Format, Witness};
use vitrify_lab::harness::{self, Machine, Outcome};
use vitrify_lab::pool::Pool;
use vitrify_lab::run::must;
use vitrify_lab::scene::{BOOT, Point, SOON, Scene};
use vitrify_lab::serial::Status;
use vitrify_lab::started::started;
use vitrify_lab::world::World;
use witness::line::From;

/// Size of a pool, in MiB; sparse.
const POOL_MIB: u64 = 2048;
/// How many captures, and how many restores after them: `VITRIFY_ROUNDS=50` is the proof, fewer show
/// that it still holds.
const ROUNDS: usize = 4;
/// More than the witness can make dirty there, in MB/s: its steps take as long as that takes.
const HIGHEST_MBPS: u64 = 500;

fn main() -> ExitCode {
    harness::run_on(
        Machine::Zfs,
        2,
        &[
            ("captures_of_a_volume", captures_of_a_volume),
            ("captures_of_two_pools", captures_of_two_pools),
            ("guests_of_one_dataset_are_captured_together", one_dataset),
            ("the_layout_of_the_recipe", the_layout_of_the_recipe),
            ("a_tick_with_nothing_to_do_starts_three_programs", a_tick_with_nothing_to_do),
            ("a_held_point_survives_zfs_destroy", a_held_point),
        ],
    )
}

fn world() -> Result<World, Box<dyn Error>> {
    Ok(World::on(Pool::zfs(POOL_MIB)?)?)
}

#[expect(clippy::print_stderr, reason = "figures are part of what these tests are for")]
fn say(text: &str) {
    eprintln!("{text}");
}

fn restless(witness: Witness) -> Witness {
    witness.fill_mib(16).dirty_mbps(HIGHEST_MBPS)
}

/// Without AppArmor, which would refuse the commit into a block device.
fn captures_of_a_volume() -> Outcome {
    let mut scene = Scene::of(world()?, &["guest.zvol"], |it| restless(it.unconfined()))?;
    rounds(&mut scene, "a volume")
}

fn captures_of_two_pools() -> Outcome {
    let second = Pool::zfs(POOL_MIB)?;
    let disk = second.subvolume("guest")?.join("b.raw");
    let mut scene =
        Scene::of(world()?, &["guest/a.raw"], |it| restless(it.disk(&disk, Format::Raw)))?;
    scene.disks.push(disk);
    let outcome = rounds(&mut scene, "two datasets on two pools");
    drop(scene);
    outcome
}

/// Every hold in the pool, as the snapshot's name and the tag.
fn holds(scene: &Scene) -> Result<Vec<(String, String)>, Box<dyn Error>> {
    let pool = scene.world.pool.dataset("")?;
    let listed = must("zfs", &["list", "-H", "-r", "-t", "snapshot", "-o", "name", &pool])?;
    let mut found = Vec::new();
    for name in listed.lines() {
        let holds = must("zfs", &["holds", "-H", name])?;
        let tags = holds.lines().filter_map(|line| line.split('\t').nth(1));
        found.extend(tags.map(|tag| (name.to_owned(), tag.to_owned())));
    }
    Ok(found)
}

/// Its snapshot and that of its home are held. What a `hold` or a `release` leaves that dies between
/// ZFS and the home is made by hand.
fn a_held_point() -> Outcome {
    let mut scene = Scene::of(world()?, &["guest/a.raw"], |it| it)?;
    let first = scene.snapshot(&["--consistency", "memory"])?;
    scene.snapshot(&[])?;
    let at = scene.at(&first.name);
    let id = first.json["id"].as_str().ok_or("no id")?;
    let tag = format!("vitrify:hold:{id}");
    let snapshot = format!("{}@{}", scene.world.pool.dataset("guest")?, first.name);
    let ours = || Ok::<_, Box<dyn Error>>(holds(&scene)?.into_iter().filter(|it| it.1 == tag));
    for _ in 0..2 {
        scene.vitrify(0, &["hold", &at])?;
        assert_eq!(ours()?.count(), 2, "{:?}", holds(&scene)?);
    }
    let both: Vec<_> = ours()?.map(|it| it.0).collect();
    assert!(both.contains(&snapshot), "{both:?}");
    for name in &both {
        assert!(must("zfs", &["destroy", name]).is_err(), "{name} is gone");
    }
    must("zfs", &["hold", "backup", &snapshot])?;
    let refused = scene.vitrify(3, &["delete", "--yes", &at])?;
    assert!(refused.stderr.contains("it is held"), "{}", refused.stderr);
    let repair = |wanted: &str| -> Outcome {
        let said = scene.vitrify(0, &["repair", "--json"])?.stdout;
        assert!(said.contains(wanted), "{said}");
        Ok(())
    };
    // Somebody released it: the point says more than is so, until it is held again.
    must("zfs", &["release", &tag, &snapshot])?;
    repair(&format!("'vitrify hold {}@{id}' holds it", scene.guest.name()))?;
    scene.vitrify(0, &["hold", &at])?;
    assert_eq!(ours()?.count(), 2);
    let listed = scene.vitrify(0, &["uninstall", "--dry-run"])?.stdout;
    assert!(listed.contains(&tag), "{listed}");
    scene.vitrify(0, &["release", &at])?;
    assert_eq!(holds(&scene)?, [(snapshot.clone(), "backup".to_owned())]);
    must("zfs", &["release", "backup", &snapshot])?;
    // A hold that died.
    must("zfs", &["hold", &tag, &snapshot])?;
    repair(&format!("'vitrify release {}@{id}' lets it go", scene.guest.name()))?;
    scene.vitrify(0, &["release", &at])?;
    assert_eq!(holds(&scene)?, []);
    scene.vitrify(2, &["release", &at])?;
    // Nor does one keep the point from being deleted.
    for name in &both {
        must("zfs", &["hold", &tag, name])?;
    }
    scene.vitrify(0, &["delete", "--yes", &at])?;
    for name in &both {
        assert!(must("zfs", &["list", name]).is_err(), "{name} stays");
    }
    scene.is_well()
}

/// Captures while the guest counts, then restores of every point, with memory and cold in turn.
fn rounds(scene: &mut Scene, what: &str) -> Outcome {
    let (began, count) = (Instant::now(), harness::rounds(ROUNDS));
    let mut points = Vec::new();
    for _ in 0..count {
        points.push(scene.snapshot(&["--consistency", "memory"])?);
    }
    let captured = began.elapsed();
    let began = Instant::now();
    for (number, point) in points.iter().enumerate() {
        match number % 2 {
            0 => resumes(scene, point)?,
            _ => boots(scene, point)?,
        }
        scene.guest.serial.steps_on(20, SOON)?;
        assert_eq!(scene.guest.serial.mismatches(), [""; 0]);
    }
    let restored = began.elapsed();
    scene.is_well()?;
    let pauses = points.iter().filter_map(|point| point.json["pause_ms"].as_f64());
    let mut pauses: Vec<_> = pauses.collect();
    pauses.sort_by(f64::total_cmp);
    assert_eq!(pauses.len(), count);
    let mbps = points.iter().map(|it| it.before.dirty_mbps).max().unwrap_or_default();
    say(&format!(
        "{what}: {count} captures in {:.0} s, up to {mbps} MB/s made dirty, pauses {:.0} to {:.0} ms; \
         {count} restores in {:.0} s, every other one cold; no mismatch",
        captured.as_secs_f64(),
        pauses[0],
        pauses[count - 1],
        restored.as_secs_f64(),
    ));
    Ok(())
}

/// Restores with memory: it comes up suspended, so that what it says first is new.
fn resumes(scene: &mut Scene, point: &Point) -> Outcome {
    let name = scene.at(&point.name);
    scene.vitrify(0, &["restore", "--force", "--paused", "--no-safety-point", "--yes", &name])?;
    scene.guest.serial.skip_to_end()?;
    scene.guest.resume()?;
    let first = scene.guest.serial.count_reaches(0, SOON)?;
    scene.continues(point, first)
}

/// Restores without: it boots and finds what its disks held then.
fn boots(scene: &mut Scene, point: &Point) -> Outcome {
    let name = scene.at(&point.name);
    scene.guest.serial.skip_to_end()?;
    scene.vitrify(0, &["restore", "--force", "--cold", "--no-safety-point", "--yes", &name])?;
    let ready = scene.guest.serial.ready(BOOT);
    let ready = ready.map_err(|error| format!("{error}\n{}", where_it_stands(scene)))?;
    assert_eq!(ready.from, From::Cold);
    let near = *point.counts.start()..=point.counts.end() + 30;
    assert!(near.contains(&ready.count), "{ready:?} is not of {point:?}");
    Ok(())
}

/// Where the CPU of a guest that does not boot stands, what was read of its disks, and how the first
/// of these begins.
fn where_it_stands(scene: &Scene) -> String {
    let disk = scene.disks[0].display().to_string();
    [
        scene.guest.monitor("info status"),
        scene.guest.monitor("info registers"),
        scene.guest.monitor("info blockstats"),
        must("od", &["-A", "d", "-t", "x1", "-N", "512", &disk]),
    ]
    .map(|said| said.unwrap_or_else(|error| error.to_string()))
    .join("\n")
}

/// Two guests on one dataset, a third that nobody asks for beside them.
fn one_dataset() -> Outcome {
    let mut scene = Scene::of(world()?, &["flat/a.raw"], |it| it)?;
    let flat = scene.world.pool.path().join("flat");
    let mut others = Vec::new();
    for name in ["v", "u"] {
        let image = flat.join(format!("{name}.raw"));
        let mut guest = scene.world.start(&scene.world.witness(name).disk(&image, Format::Raw))?;
        guest.serial.ready(BOOT)?;
        others.push(guest);
    }
    let (first, second) = (scene.guest.name().to_owned(), others[0].name().to_owned());
    let before = scene.guest.serial.steps_on(1, SOON)?;
    let taken = scene.vitrify(0, &["snapshot", "--json", &first, &second])?.json()?;
    let points = taken["points"].as_array().ok_or("no points")?;
    assert_eq!(points.len(), 2, "{taken}");
    assert_eq!(points[0]["volumes"], points[1]["volumes"], "one snapshot serves both");
    assert_eq!(points[0]["volumes"].as_array().map(Vec::len), Some(1));
    let tags = tags(&points[0]["volumes"][0])?;
    for point in points {
        assert!(tags.contains(text(&point["id"])), "{tags} does not name {}", point["id"]);
    }
    // A restore of the one touches neither the other nor the third.
    let after = scene.guest.serial.steps_on(1, SOON)?;
    let of_first = |it: &&Value| it["guest"] == first.as_str();
    let json = points.iter().find(of_first).ok_or("no point of the first")?.clone();
    let name = text(&json["point"]).to_owned();
    let point = Point { name, json, before, counts: before.count..=after.count };
    let lives: Vec<_> = others.iter().map(|it| it.virsh("domid", &[])).collect::<Result<_, _>>()?;
    resumes(&mut scene, &point)?;
    for (guest, life) in others.iter_mut().zip(&lives) {
        let now: Status = guest.serial.steps_on(20, SOON)?;
        assert_eq!((now.mismatches, guest.virsh("domid", &[])?), (0, life.clone()));
    }
    let told = scene.world.vitrify.run(&["doctor"])?.stdout;
    let dataset = scene.world.pool.dataset("flat")?;
    let explains = |line: &str| line.contains(&dataset) && line.contains(&first);
    assert!(told.lines().any(explains), "{told}");
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The points that ZFS says a snapshot was taken for.
fn tags(snapshot: &Value) -> Result<String, Box<dyn Error>> {
    let name = format!("{}@{}", text(&snapshot["volume"]), text(&snapshot["snapshot"]));
    Ok(must("zfs", &["get", "-H", "-o", "value", "vitrify:point", &name])?)
}

/// One dataset for each guest below `VM`, mounted elsewhere; overlays on `VM_snapshots`; memory on
/// another drive.
fn the_layout_of_the_recipe() -> Outcome {
    let drive = Pool::zfs(POOL_MIB)?;
    let mut world = world()?;
    let images = world.folder().join("images");
    std::fs::create_dir(&images)?;
    let vm = world.pool.dataset("VM")?;
    must("zfs", &["create", "-o", "canmount=off", &vm])?;
    let place = |name: &str| images.join(name);
    let guest_folder = place("fedora28");
    let mountpoint = format!("mountpoint={}", guest_folder.display());
    must("zfs", &["create", "-o", &mountpoint, &format!("{vm}/fedora28")])?;
    world.overlays = world.pool.subvolume("VM_snapshots")?;
    world.store_in(&drive.subvolume("memory")?)?;
    let disk = guest_folder.join("fedora28.raw");
    let mut guest = world.start(&world.witness("fedora28").disk(&disk, Format::Raw))?;
    guest.serial.ready(BOOT)?;
    guest.serial.steps_on(1, SOON)?;
    let mut scene = Scene { guest, disks: vec![disk], world };
    let point = scene.snapshot(&["--consistency", "memory"])?;
    assert_eq!(text(&point.json["volumes"][0]["volume"]), format!("{vm}/fedora28"));
    let beside = guest_folder.join(".vitrify").join(format!("{}.xml", scene.guest.name()));
    assert!(beside.is_file(), "no {}", beside.display());
    assert!(memory_is_on(&scene, &point, drive.path())?);
    resumes(&mut scene, &point)?;
    boots(&mut scene, &point)?;
    scene.is_well()?;
    drop(scene);
    Ok(())
}

fn memory_is_on(scene: &Scene, point: &Point, drive: &Path) -> Result<bool, Box<dyn Error>> {
    let shown = scene.vitrify(0, &["show", "--json", &scene.at(&point.name)])?.json()?;
    let image = PathBuf::from(text(&shown["memory_image"]));
    Ok(image.starts_with(drive) && image.exists())
}

/// Guests with points and with snapshots of sanoid's, all kept, one of them held: the datasets are listed,
/// their snapshots, and who holds that one.
fn a_tick_with_nothing_to_do() -> Outcome {
    let scene = Scene::of(world()?, &["guest/a.raw"], Witness::unconfined)?;
    let all = scene.world.guest_name("*");
    scene.world.configure(&format!(
        "\n[policy.test]\nyearly = 9\n[[guest]]\nmatch = \"{all}\"\npolicy = \"test\"\n\
         adopt = true\n"
    ))?;
    let mut others = Vec::new();
    for so_many in [2, 8] {
        for number in others.len()..so_many {
            let name = format!("shut-off-{number}");
            let image = scene.world.pool.subvolume(&name)?.join("a.raw");
            let witness = scene.world.witness(&name).disk(&image, Format::Raw);
            others.push(witness.define(scene.world.folder())?);
            let dataset = scene.world.pool.dataset(&name)?;
            must("zfs", &["snapshot", &format!("{dataset}@autosnap_2026-01-01_00:00:00_yearly")])?;
        }
        let taken = scene.vitrify(0, &["run", "--json"])?.json()?;
        assert!(taken["taken"].as_array().is_some_and(|it| !it.is_empty()), "{taken}");
        if so_many == 2 {
            let dataset = scene.world.pool.dataset("guest")?;
            let listed = must("zfs", &["list", "-H", "-t", "snapshot", "-o", "name", &dataset])?;
            must("zfs", &["hold", "keep", listed.lines().next().ok_or("no snapshot")?])?;
        }
        for place in mounted_snapshots(&scene)? {
            must("umount", &[&place])?;
        }
        let (vitrify, folder) = (&scene.world.vitrify, scene.world.folder());
        let (outcome, started) = started(vitrify, folder, &["run", "--json"])?;
        assert_eq!(outcome.json()?["taken"], json!([]), "{outcome:?}");
        assert_eq!(started, ["zfs list", "zfs get", "zfs holds"], "{so_many} guests");
        // ZFS starts a program for each snapshot that somebody looks into.
        assert_eq!(mounted_snapshots(&scene)?, [""; 0]);
    }
    Ok(())
}

/// Where snapshots of the scene's pool are mounted.
fn mounted_snapshots(scene: &Scene) -> Result<Vec<String>, Box<dyn Error>> {
    let pool = scene.world.pool.dataset("")?;
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    let of_snapshot = |line: &str| {
        let mut fields = line.split(' ');
        let (source, place) = (fields.next()?, fields.next()?);
        (source.starts_with(&pool) && source.contains('@')).then(|| place.to_owned())
    };
    Ok(mounts.lines().filter_map(of_snapshot).collect())
}
