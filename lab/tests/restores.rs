//! What a restore refuses, and what it leaves alone: parts that do not belong together, and other
//! guests.

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::Value;
use vitrify_lab::guest::{Format, Witness};
use vitrify_lab::harness::{self, Outcome};
use vitrify_lab::leftovers::snapshots_of;
use vitrify_lab::run::must;
use vitrify_lab::scene::{BOOT, Point, SOON, Scene};
use vitrify_lab::world::World;
use witness::line::From;

fn main() -> ExitCode {
    harness::run_in_pairs(&[
        ("one_changed_byte_of_memory_is_refused", one_changed_byte_of_memory),
        ("memory_of_another_point_is_refused", memory_of_another_point),
        ("another_snapshot_of_the_disk_is_refused", another_snapshot_of_the_disk),
        ("a_snapshot_that_is_gone_is_refused", a_snapshot_that_is_gone),
        ("a_snapshot_made_writable_is_refused", a_snapshot_made_writable),
        ("an_edited_manifest_is_refused", an_edited_manifest),
        ("a_neighbour_that_is_shut_off_keeps_every_byte", a_neighbour_that_is_shut_off),
        ("a_neighbour_that_runs_goes_on", a_neighbour_that_runs),
    ])
}

/// What a refused restore must not have touched.
#[derive(Debug, PartialEq, Eq)]
struct Untouched {
    life: String,
    definition: String,
    disks: Vec<u64>,
    points: usize,
}

impl Untouched {
    fn of(scene: &Scene) -> Result<Self, Box<dyn Error>> {
        let listed = scene.world.vitrify.run(&["list", "--json"])?.json()?;
        let inode = |disk: &PathBuf| Ok(fs::metadata(disk)?.ino());
        Ok(Self {
            life: scene.life()?,
            definition: scene.guest.xml()?,
            disks: scene.disks.iter().map(inode).collect::<Result<_, Box<dyn Error>>>()?,
            points: listed["points"].as_array().map_or(0, Vec::len),
        })
    }
}

/// Restores in vain, with every option that a desperate administrator might try, and answers with
/// the message. The guest runs on as if nothing had been asked.
fn refused(scene: &mut Scene, point: &str) -> Result<String, Box<dyn Error>> {
    let before = Untouched::of(scene)?;
    let name = scene.at(point);
    let plain = scene.vitrify(3, &["restore", "--force", &name])?;
    let more = ["restore", "--force", "--no-safety-point", "--yes", "--keep-definition", &name];
    scene.vitrify(3, &more)?;
    assert_eq!(Untouched::of(scene)?, before, "a refusal changed something");
    assert_eq!(scene.guest.state()?, "running");
    scene.guest.serial.steps_on(10, SOON)?;
    assert_eq!(scene.guest.serial.mismatches(), [""; 0]);
    assert_eq!(plain.stdout, "");
    Ok(plain.stderr)
}

/// Restores the disks alone: the guest boots and finds them of one instant.
fn boots_cold(scene: &mut Scene, point: &Point) -> Outcome {
    scene.guest.serial.skip_to_end()?;
    scene.vitrify(0, &["restore", "--force", "--cold", &scene.at(&point.name)])?;
    let ready = scene.guest.serial.ready(BOOT)?;
    assert_eq!(ready.from, From::Cold);
    assert!(point.counts.contains(&ready.count), "{ready:?} of {point:?}");
    scene.is_well()
}

fn memory_image(scene: &Scene, point: &Point) -> Result<PathBuf, Box<dyn Error>> {
    let shown = scene.vitrify(0, &["show", "--json", &scene.at(&point.name)])?.json()?;
    Ok(shown["memory_image"].as_str().ok_or("no memory image")?.into())
}

/// Makes the read-only snapshot of a home writable for a vandal: `<snapshot>/memory`.
fn unlock(image: &Path) -> Outcome {
    let snapshot = image.parent().ok_or("no snapshot around the image")?;
    must("btrfs", &["property", "set", "-ts", text(snapshot)?, "ro", "false"])?;
    Ok(())
}

fn text(path: &Path) -> Result<&str, &'static str> {
    path.to_str().ok_or("a path that is not text")
}

fn one_changed_byte_of_memory() -> Outcome {
    let mut scene = Scene::new()?;
    let point = scene.snapshot(&[])?;
    let image = memory_image(&scene, &point)?;
    unlock(&image)?;
    let image = image.join("memory.img");
    let file = OpenOptions::new().read(true).write(true).open(&image)?;
    // In the first page: the interrupt table of a PC.
    let (middle, mut byte) = (32, [0]);
    file.read_exact_at(&mut byte, middle)?;
    file.write_all_at(&[byte[0] ^ 1], middle)?;
    file.sync_all()?;
    let message = refused(&mut scene, &point.name)?;
    assert!(message.contains(text(&image)?), "{message}");
    assert!(message.contains("is not what was captured"), "{message}");
    // It was this byte that stood against it, and nothing else.
    file.write_all_at(&byte, middle)?;
    scene.restore(&point, &[])?;
    scene.is_well()?;
    file.write_all_at(&[byte[0] ^ 1], middle)?;
    boots_cold(&mut scene, &point)
}

fn memory_of_another_point() -> Outcome {
    let mut scene = Scene::new()?;
    let [older, newer] = [scene.snapshot(&[])?, scene.snapshot(&[])?];
    let [theirs, image] = [memory_image(&scene, &older)?, memory_image(&scene, &newer)?];
    unlock(&image)?;
    fs::remove_dir_all(&image)?;
    must("cp", &["--recursive", "--reflink=always", text(&theirs)?, text(&image)?])?;
    let message = refused(&mut scene, &newer.name)?;
    assert!(message.contains(text(&image)?), "{message}");
    fs::remove_dir_all(&image)?;
    // Where there is no image any more, it is not a point without memory.
    let message = refused(&mut scene, &newer.name)?;
    assert!(message.contains("memory"), "{message}");
    boots_cold(&mut scene, &newer)?;
    scene.restore(&older, &[])?;
    scene.is_well()
}

/// Puts a newer snapshot of the volume under the name of an older one.
fn another_snapshot_of_the_disk() -> Outcome {
    let mut scene = Scene::new()?;
    let [older, newer] = [scene.snapshot(&[])?, scene.snapshot(&[])?];
    let folder = snapshots_of(&scene.world.pool.path().join("guest"));
    let [place, other] = [folder.join(&older.name), folder.join(&newer.name)];
    must("btrfs", &["subvolume", "delete", text(&place)?])?;
    must("btrfs", &["subvolume", "snapshot", "-r", text(&other)?, text(&place)?])?;
    let message = refused(&mut scene, &older.name)?;
    assert!(message.contains(&older.name), "{message}");
    assert!(message.contains("another one than was taken then"), "{message}");
    // These are not the point's disks: booting from them would be no better.
    let name = scene.at(&older.name);
    scene.vitrify(3, &["restore", "--force", "--cold", &name])?;
    scene.restore(&newer, &[])?;
    scene.is_well()
}

fn a_snapshot_that_is_gone() -> Outcome {
    let mut scene = Scene::of(World::new()?, &["one/a.raw", "two/b.raw"], |witness| witness)?;
    let point = scene.snapshot(&[])?;
    let place = snapshots_of(&scene.world.pool.path().join("two")).join(&point.name);
    must("btrfs", &["subvolume", "delete", text(&place)?])?;
    let message = refused(&mut scene, &point.name)?;
    assert!(message.contains(&point.name) && message.contains("is gone"), "{message}");
    assert!(message.contains("pool/two"), "{message}");
    Ok(())
}

fn a_snapshot_made_writable() -> Outcome {
    let mut scene = Scene::new()?;
    let point = scene.snapshot(&[])?;
    let place = snapshots_of(&scene.world.pool.path().join("guest")).join(&point.name);
    must("btrfs", &["property", "set", "-ts", text(&place)?, "ro", "false"])?;
    let message = refused(&mut scene, &point.name)?;
    assert!(message.contains(text(&place)?) && message.contains("made writable"), "{message}");
    must("btrfs", &["property", "set", "-ts", text(&place)?, "ro", "true"])?;
    scene.restore(&point, &[])?;
    scene.is_well()
}

/// Whoever edits a manifest so that other parts fit together must not succeed.
fn an_edited_manifest() -> Outcome {
    let mut scene = Scene::new()?;
    let point = scene.snapshot(&[])?;
    let shown = scene.vitrify(0, &["show", "--json", &scene.at(&point.name)])?.json()?;
    let folder = PathBuf::from(shown["folder"].as_str().ok_or("no folder")?);
    let manifest = folder.join("manifest.json");
    let text = fs::read_to_string(&manifest)?;
    let guid = shown["volumes"][0]["guid"].as_str().ok_or("no guid")?;
    let edited = text.replace(guid, "00000000-0000-4000-8000-000000000000");
    assert_ne!(edited, text);
    fs::write(&manifest, &edited)?;
    let id = point.json["id"].as_str().unwrap_or_default();
    let message = refused(&mut scene, id)?;
    assert!(message.contains(self::text(&manifest)?), "{message}");
    assert!(message.contains("it was changed after the capture"), "{message}");
    let listed = scene.vitrify(3, &["list", "--json"])?;
    assert_eq!(listed.json()?["points"], Value::Array(Vec::new()));
    assert!(listed.stderr.contains(self::text(&manifest)?), "{}", listed.stderr);
    fs::write(&manifest, text)?;
    scene.restore(&point, &[])?;
    scene.is_well()
}

/// Another witness with its disk in the same subvolume.
fn neighbour(scene: &Scene) -> Witness {
    let disk = scene.world.pool.path().join("guest/neighbour.raw");
    Witness::new(&scene.world.guest_name("neighbour")).disk(disk, Format::Raw)
}

fn a_neighbour_that_is_shut_off() -> Outcome {
    let mut scene = Scene::new()?;
    let mut other = scene.world.start(&neighbour(&scene))?;
    other.serial.ready(BOOT)?;
    other.serial.steps_on(50, SOON)?;
    let point = scene.snapshot(&[])?;
    // What it writes after the point must not be undone with the other guest's.
    other.serial.steps_on(50, SOON)?;
    other.destroy()?;
    let disk = scene.world.pool.path().join("guest/neighbour.raw");
    let look = || -> Result<_, Box<dyn Error>> {
        Ok((must("sha256sum", &[text(&disk)?])?, fs::metadata(&disk)?.ino()))
    };
    let before = look()?;
    scene.restore(&point, &[])?;
    assert_eq!(look()?, before);
    boots_cold(&mut scene, &point)?;
    assert_eq!(look()?, before);
    assert_eq!(other.state()?, "shut off");
    Ok(())
}

fn a_neighbour_that_runs() -> Outcome {
    let mut scene = Scene::new()?;
    let mut other = scene.world.start(&neighbour(&scene))?;
    let boot = other.serial.ready(BOOT)?.boot;
    other.serial.steps_on(10, SOON)?;
    let life = other.virsh("domid", &[])?;
    let point = scene.snapshot(&[])?;
    let mut last = other.serial.steps_on(10, SOON)?.count;
    for _ in 0..2 {
        scene.restore(&point, &[])?;
        let now = other.serial.steps_on(50, SOON)?;
        assert!(now.boot == boot && now.count > last, "{now:?} after {last}");
        last = now.count;
    }
    scene.is_well()?;
    assert_eq!(other.virsh("domid", &[])?, life);
    assert_eq!(other.serial.mismatches(), [""; 0]);
    Ok(())
}
