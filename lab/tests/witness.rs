//! The witness proves itself, the Linux one and the one of boot-sector code: it finds memory and disks
//! of one instant good, and of two instants bad.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use vitrify_lab::guest::{Format, Guest, Machine, Witness};
use vitrify_lab::harness::{self, Outcome};
use vitrify_lab::run::must;
use vitrify_lab::serial::Status;
use vitrify_lab::world::World;
use witness::line::{From, Line};

/// A boot takes 3 to 4 s here under emulation.
const BOOT: Duration = Duration::from_secs(60);
/// A step takes 20 ms.
const SOON: Duration = Duration::from_secs(20);

/// Makes a witness one of a kind.
type Kind = fn(Witness) -> Witness;

/// A test of a kind.
type Proof = fn(Kind) -> Outcome;

const KINDS: [(&str, Kind); 2] = [("linux", |it| it), ("boot_sector", Witness::boot_sector)];

fn main() -> ExitCode {
    let of_both: [(&str, Proof); 8] = [
        ("a_lap_without_a_mismatch_then_disks_of_a_lap_ago", a_lap_and_disks_of_a_lap_ago),
        ("saved_and_restored_it_is_the_same_boot", saved_and_restored_it_is_the_same_boot),
        ("memory_on_newer_disks_is_reported", memory_on_newer_disks_is_reported),
        ("memory_on_older_disks_is_reported", memory_on_older_disks_is_reported),
        ("memory_on_one_newer_disk_is_reported", memory_on_one_newer_disk_is_reported),
        ("a_cold_boot_continues_from_the_disks", a_cold_boot_continues_from_the_disks),
        ("disks_of_two_instants_are_reported_at_a_cold_boot", disks_of_two_instants),
        ("it_makes_memory_dirty_at_the_rate_asked_for", it_makes_memory_dirty),
    ];
    let mut tests: Vec<(String, Box<dyn FnOnce() -> Outcome + Send>)> = Vec::new();
    for (kind, make) in KINDS {
        for (name, test) in of_both {
            tests.push((format!("{kind}::{name}"), Box::new(move || test(make))));
        }
    }
    let mut add = |name: &str, test: fn() -> Outcome| tests.push((name.into(), Box::new(test)));
    add("linux::without_a_disk_it_refuses_to_count", without_a_disk_it_refuses_to_count);
    add("boot_sector::a_page_of_another_instant_is_reported", a_page_of_another_instant);
    add("boot_sector::a_read_only_disk_is_left_alone", a_read_only_disk_is_left_alone);
    harness::run_named(harness::Machine::Host, 2, tests)
}

/// A world and a witness that runs in it; the guest goes first.
struct Scene {
    guest: Guest,
    disks: [PathBuf; 2],
    world: World,
}

impl Scene {
    fn new(kind: Kind) -> Result<Self, Box<dyn std::error::Error>> {
        Self::with_step(kind, Duration::from_millis(20))
    }

    fn with_step(kind: Kind, step: Duration) -> Result<Self, Box<dyn std::error::Error>> {
        let world = World::new()?;
        let volume = world.pool.subvolume("guest")?;
        let disks = [volume.join("a.raw"), volume.join("b.qcow2")];
        let witness = kind(Witness::new(&world.guest_name("w")))
            .disk(&disks[0], Format::Raw)
            .disk(&disks[1], Format::Qcow2)
            .step(step);
        let mut guest = world.start(&witness)?;
        let ready = guest.serial.ready(BOOT)?;
        assert_eq!((ready.disks, ready.from, ready.count), (2, From::Fresh, 0));
        Ok(Self { guest, disks, world })
    }

    /// Copies the disks of a paused or stopped guest aside.
    fn keep_disks(&self, name: &str) -> Result<[PathBuf; 2], Box<dyn std::error::Error>> {
        let copies = self.disks.each_ref().map(|disk| disk.with_extension(name));
        for (disk, copy) in self.disks.iter().zip(&copies) {
            must("cp", &["--reflink=always", text(disk)?, text(copy)?])?;
        }
        Ok(copies)
    }

    fn memory(&self) -> PathBuf {
        self.world.store.join("memory")
    }

    /// Waits for the first mismatch from here on and returns it with the count at which it was
    /// found.
    fn mismatch(&mut self) -> Result<(String, Status), Box<dyn std::error::Error>> {
        let is_mismatch = |line: &Line| matches!(line, Line::Mismatch { .. });
        let line = self.guest.serial.wait_for("mismatch", SOON, is_mismatch)?;
        let status = self.guest.serial.count_reaches(0, SOON)?;
        Ok((line.to_string(), status))
    }
}

fn text(path: &Path) -> Result<&str, &'static str> {
    path.to_str().ok_or("a path that is not text")
}

fn a_lap_and_disks_of_a_lap_ago(kind: Kind) -> Outcome {
    let mut scene = Scene::with_step(kind, Duration::from_millis(5))?;
    scene.guest.serial.steps_on(50, SOON)?;
    scene.guest.suspend()?;
    let older = scene.keep_disks("older")?;
    scene.guest.resume()?;
    // More than a lap of the ring, so that every slot was overwritten once.
    let status = scene.guest.serial.count_reaches(2200, Duration::from_secs(300))?;
    assert_eq!(status.mismatches, 0);
    assert_eq!(scene.guest.serial.mismatches(), [""; 0]);
    restored_on(&mut scene, &older)
}

fn saved_and_restored_it_is_the_same_boot(kind: Kind) -> Outcome {
    let mut scene = Scene::new(kind)?;
    let before = scene.guest.serial.steps_on(50, SOON)?;
    scene.guest.save(&scene.memory())?;
    scene.guest.serial.skip_to_end()?;
    let last = scene.guest.serial.latest().ok_or("nothing was said")?;
    scene.guest.restore(&scene.memory())?;
    let after = scene.guest.serial.count_reaches(last.count + 50, SOON)?;
    assert_eq!((after.boot, after.mismatches), (before.boot, 0));
    Ok(())
}

fn memory_on_newer_disks_is_reported(kind: Kind) -> Outcome {
    let mut scene = Scene::new(kind)?;
    scene.guest.serial.steps_on(50, SOON)?;
    scene.guest.save(&scene.memory())?;
    scene.guest.serial.skip_to_end()?;
    let saved = scene.guest.serial.latest().ok_or("nothing was said")?;
    // The guest goes on, and with it its disks, before its memory is put back.
    scene.guest.restore(&scene.memory())?;
    scene.guest.serial.count_reaches(saved.count + 20, SOON)?;
    scene.guest.destroy()?;
    scene.guest.serial.skip_to_end()?;
    scene.guest.restore(&scene.memory())?;
    reported_at_once(&mut scene, saved, "vd")
}

fn memory_on_older_disks_is_reported(kind: Kind) -> Outcome {
    let mut scene = Scene::new(kind)?;
    scene.guest.serial.steps_on(50, SOON)?;
    scene.guest.suspend()?;
    let older = scene.keep_disks("older")?;
    scene.guest.resume()?;
    scene.guest.serial.steps_on(20, SOON)?;
    restored_on(&mut scene, &older)
}

/// Restores the memory of now on disks of the past, which must be reported.
fn restored_on(scene: &mut Scene, older: &[PathBuf; 2]) -> Outcome {
    scene.guest.save(&scene.memory())?;
    scene.guest.serial.skip_to_end()?;
    let saved = scene.guest.serial.latest().ok_or("nothing was said")?;
    for (copy, disk) in older.iter().zip(&scene.disks) {
        fs::rename(copy, disk)?;
    }
    scene.guest.restore(&scene.memory())?;
    reported_at_once(scene, saved, "vd")
}

fn memory_on_one_newer_disk_is_reported(kind: Kind) -> Outcome {
    let mut scene = Scene::new(kind)?;
    scene.guest.serial.steps_on(50, SOON)?;
    scene.guest.save(&scene.memory())?;
    scene.guest.serial.skip_to_end()?;
    let saved = scene.guest.serial.latest().ok_or("nothing was said")?;
    let [first, _] = scene.keep_disks("saved")?;
    scene.guest.restore(&scene.memory())?;
    scene.guest.serial.count_reaches(saved.count + 20, SOON)?;
    scene.guest.destroy()?;
    scene.guest.serial.skip_to_end()?;
    fs::rename(&first, &scene.disks[0])?;
    scene.guest.restore(&scene.memory())?;
    reported_at_once(&mut scene, saved, "vdb")
}

/// A mismatch on a disk whose name begins so (the memory may be of the middle of a step, when the
/// first disk was compared already) must be said by the first steps after a restore of the memory of
/// `saved`, and stay in every status from then on.
fn reported_at_once(scene: &mut Scene, saved: Status, disk: &str) -> Outcome {
    let (line, status) = scene.mismatch()?;
    assert!(line.contains(&format!("disk={disk}")), "{line}");
    assert!(status.mismatches > 0, "{status:?}");
    // There are 10 steps at most from one status to the next. The log may lack the last one before
    // the save, and what was found is counted by the next after it.
    assert!(status.count <= saved.count + 20, "{status:?} long after {saved:?}");
    assert_eq!(status.boot, saved.boot);
    let later = scene.guest.serial.steps_on(50, SOON)?;
    assert!(later.mismatches >= status.mismatches, "{later:?}");
    Ok(())
}

fn a_cold_boot_continues_from_the_disks(kind: Kind) -> Outcome {
    let mut scene = Scene::new(kind)?;
    let before = scene.guest.serial.steps_on(50, SOON)?;
    scene.guest.destroy()?;
    scene.guest.serial.skip_to_end()?;
    let last = scene.guest.serial.latest().ok_or("nothing was said")?;
    scene.guest.start()?;
    let ready = scene.guest.serial.ready(BOOT)?;
    assert_eq!((ready.disks, ready.from), (2, From::Cold));
    assert_ne!(ready.boot, before.boot);
    // A status is said each 50 ms: a few more steps than the last said can be on the disks.
    assert!((last.count..last.count + 10).contains(&ready.count), "{ready:?} after {last:?}");
    let after = scene.guest.serial.count_reaches(ready.count + 50, SOON)?;
    assert_eq!((after.boot, after.mismatches), (ready.boot, 0));
    Ok(())
}

fn disks_of_two_instants(kind: Kind) -> Outcome {
    let mut scene = Scene::new(kind)?;
    scene.guest.serial.steps_on(50, SOON)?;
    scene.guest.suspend()?;
    let [older, _] = scene.keep_disks("older")?;
    scene.guest.resume()?;
    scene.guest.serial.steps_on(20, SOON)?;
    scene.guest.destroy()?;
    scene.guest.serial.skip_to_end()?;
    fs::rename(&older, &scene.disks[0])?;
    scene.guest.start()?;
    let is_mismatch = |line: &Line| matches!(line, Line::Mismatch { .. });
    let line = scene.guest.serial.wait_for("mismatch", BOOT, is_mismatch)?.to_string();
    assert!(line.contains("MISMATCH disks expected=one-instant"), "{line}");
    Ok(())
}

fn without_a_disk_it_refuses_to_count() -> Outcome {
    let world = World::new()?;
    let mut guest = world.start(&Witness::new(&world.guest_name("none")).machine(Machine::Q35))?;
    let is_fatal = |line: &Line| matches!(line, Line::Fatal { .. });
    let line = guest.serial.wait_for("fatal", BOOT, is_fatal)?;
    assert_eq!(line, Line::Fatal { reason: "no disk".to_owned() });
    Ok(())
}

fn it_makes_memory_dirty(kind: Kind) -> Outcome {
    const ASKED_MBPS: u64 = 50;
    let world = World::new()?;
    let volume = world.pool.subvolume("guest")?;
    let witness = kind(Witness::new(&world.guest_name("dirty")))
        .disk(volume.join("a.raw"), Format::Raw)
        .fill_mib(32)
        .dirty_mbps(ASKED_MBPS);
    let mut guest = world.start(&witness)?;
    guest.serial.ready(BOOT)?;
    let near = |mbps| (ASKED_MBPS / 2..=ASKED_MBPS).contains(&mbps);
    let reached =
        |line: &Line| matches!(line, Line::Status { dirty_mbps, .. } if near(*dirty_mbps));
    guest.serial.wait_for("rate", SOON, reached)?;
    let memory = world.store.join("memory");
    guest.save(&memory)?;
    guest.serial.skip_to_end()?;
    guest.restore(&memory)?;
    // 32 MiB are walked through in less than a second.
    let status = guest.serial.steps_on(100, SOON)?;
    assert_eq!(status.mismatches, 0);
    Ok(())
}

/// One page of a saved memory is replaced by what it was a pass before; its mark is its number and
/// the pass.
fn a_page_of_another_instant() -> Outcome {
    const PAGE: u32 = 3333;
    let world = World::new()?;
    let volume = world.pool.subvolume("guest")?;
    let witness = Witness::new(&world.guest_name("torn")).boot_sector();
    let witness = witness.disk(volume.join("a.raw"), Format::Raw).fill_mib(16).dirty_mbps(20);
    let mut guest = world.start(&witness)?;
    guest.serial.ready(BOOT)?;
    // The second pass has begun, and not ended.
    let lap = |line: &Line| matches!(line, Line::Status { count, .. } if *count >= 60);
    guest.serial.wait_for("second pass", SOON, lap)?;
    let memory = world.store.join("memory");
    guest.save(&memory)?;
    let mut image = fs::read(&memory)?;
    let page = PAGE.to_le_bytes();
    let is_mark = |at: &usize| image[*at..*at + 4] == page && image[*at + 5..*at + 8] == [0; 3];
    let marks: Vec<usize> = (0..image.len() - 8).filter(is_mark).collect();
    let [mark] = marks[..] else { return Err(format!("marks at {marks:?}").into()) };
    image[mark + 4] = image[mark + 4].wrapping_sub(1);
    fs::write(&memory, &image)?;
    guest.serial.skip_to_end()?;
    guest.restore(&memory)?;
    let is_mismatch = |line: &Line| matches!(line, Line::Mismatch { .. });
    let line = guest.serial.wait_for("mismatch", SOON, is_mismatch)?.to_string();
    assert!(line.contains(&format!("MISMATCH ram page={PAGE} ")), "{line}");
    Ok(())
}

fn a_read_only_disk_is_left_alone() -> Outcome {
    let world = World::new()?;
    let volume = world.pool.subvolume("guest")?;
    let [first, golden] = ["a.raw", "golden.raw"].map(|name| volume.join(name));
    fs::write(&golden, vec![0x5a; 2 << 20])?;
    let more = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>\
         <target dev='vdb' bus='virtio'/><readonly/><boot order='2'/></disk>",
        golden.display()
    );
    let witness = Witness::new(&world.guest_name("golden")).boot_sector();
    let mut guest = world.start(&witness.disk(first, Format::Raw).extra_devices(&more))?;
    assert_eq!(guest.serial.ready(BOOT)?.disks, 1);
    guest.serial.steps_on(10, SOON)?;
    assert_eq!(fs::read(&golden)?, vec![0x5a; 2 << 20]);
    Ok(())
}
