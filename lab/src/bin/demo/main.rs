//! The demo: Vitrify's main job on a real guest, told as a story in which every claim is checked.
//!
//! Makes a pool and a guest of its own, uses nothing else of the host, and removes both however it
//! ends. Exits with a status other than 0 if anything is not as told.

mod scene;
mod teller;

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use vitrify_lab::harness::{chain, missing};
use vitrify_lab::interrupt::Interrupt;
use vitrify_lab::leftovers::leftovers;
use vitrify_lab::run::virsh;
use vitrify_lab::serial::Status;
use witness::line::{From, Line};
use witness::slot::BootId;

use scene::{BOOT, Point, SOON, Scene};
use teller::{alias, check, say, show, title, type_in, vitrify};

/// Why the story ends early.
type Failure = Box<dyn Error>;

/// The names of the three points.
const NAMES: [&str; 3] = ["first", "second", "third"];
/// Steps of the witness between two parts of the story: two seconds.
const STEPS: u64 = 100;
/// A status is said each 50 ms, a step takes 20 ms; under load both take longer.
const STATUS_SLACK: u64 = 50;

fn main() -> ExitCode {
    let begun = Instant::now();
    match missing().map_or_else(tell, |reason| Err(reason.into())) {
        Ok(summary) => {
            say(&format!("As told, in {:.0} s. {summary}", begun.elapsed().as_secs_f64()));
            ExitCode::SUCCESS
        }
        Err(failure) => {
            say("The demo ends here, not as told:");
            show(&chain(&*failure));
            ExitCode::FAILURE
        }
    }
}

/// Tells all of it and returns its figures. The scene is gone when this returns.
fn tell() -> Result<String, Failure> {
    say(
        "This is Vitrify's main job, done on a real guest. Each line after a $ is a command as it \
         was run, with all that it printed below it. Each claim is checked; the first that does \
         not hold ends the demo.",
    );
    let interrupt = Interrupt::listen()?;
    let mut scene = Scene::new()?;
    let told = play(&mut scene);
    if told.is_err() && interrupt.check().is_ok() {
        say("The last that the guest said:");
        show(&scene.guest.serial.tail());
    }
    let (name, folders) = (scene.guest.name().to_owned(), scene.folders());
    drop(scene);
    interrupt.check()?;
    let figures = told?;
    title("Nothing is left behind");
    check("libvirt knows no such guest", virsh(&["domuuid", &name]).is_err(), &name)?;
    let left = folders.iter().find(|folder| folder.exists());
    check("pool, memory store and state are gone", left.is_none(), &format!("{left:?}"))?;
    Ok(figures)
}

fn play(scene: &mut Scene) -> Result<String, Failure> {
    let boot = open(scene)?;
    let points = capture(scene, boot)?;
    destroy(scene, &points)?;
    let [_, middle, _] = &points;
    let (resumed, took) = resume(scene, middle, boot)?;
    let cold_count = boot_cold(scene, middle, boot)?;
    let pauses = points.each_ref().map(|point| format!("{:.0}", point.pause_ms)).join("/");
    let sizes = points.each_ref().map(|point| mib(point.memory_bytes)).join("/");
    Ok(format!(
        "Three captures of a running guest: paused {pauses} ms, memory images {sizes} MiB. The \
         middle one, of count {}: ran on from its memory at count {} (restored in {:.1} s), and \
         booted cold from count {cold_count}. Mismatches: 0.",
        middle.count,
        resumed.count,
        took.as_secs_f64(),
    ))
}

/// Introduces the guest.
fn open(scene: &mut Scene) -> Result<BootId, Failure> {
    title("1. A pool and a guest");
    say(
        "A Btrfs pool was made in a sparse file and mounted on a loop device: one subvolume for the \
         guest's disks, one for Vitrify's memory store, one for its overlays. The guest, which is \
         booting, is a witness. It writes a rising count to both its disks and keeps the same \
         counts in RAM; before every step it compares the two. Another thread rewrites its RAM, \
         page after page, and checks that as well. What it finds it says on its serial port.",
    );
    type_in("virsh", &["domblklist", scene.guest.name()])?;
    let ready = scene.guest.serial.ready(BOOT)?;
    check("it came up with empty disks", ready.from == From::Fresh, &format!("{ready:?}"))?;
    let status = scene.guest.serial.count_reaches(STEPS, SOON)?;
    show(&spoken(&status));
    scene.check_counts_on(&status, ready.boot)?;
    Ok(ready.boot)
}

/// Captures three times while the guest runs.
fn capture(scene: &mut Scene, boot: BootId) -> Result<[Point; 3], Failure> {
    title("2. Three restore points of the running guest");
    say(
        "Vitrify is told where the memory store and the overlays are by a configuration file. From \
         here on `vitrify` is short for:",
    );
    alias(&scene.world.vitrify);
    let config = scene.world.vitrify.config().display().to_string();
    type_in("cat", &[&config])?;
    say("libvirt dumps the guest's RAM while the guest runs on, then the guest pauses for the \
         moment in which the rest of its RAM and its device state are written and its disks are \
         frozen below overlays. Vitrify snapshots the frozen disks and commits the overlays back.");
    let guest = scene.guest.name().to_owned();
    for name in NAMES {
        vitrify(&scene.world.vitrify, &["snapshot", &guest, "--name", name])?;
        let status = scene.guest.serial.steps_on(STEPS, SOON)?;
        scene.check_counts_on(&status, boot)?;
    }
    scene.check_untouched()?;
    vitrify(&scene.world.vitrify, &["list", &guest])?;
    let [first, second, third] = NAMES.map(|name| scene.point(name));
    let points = [first?, second?, third?];
    let counts = points.each_ref().map(|point| point.count);
    let text = counts.map(|count| count.to_string()).join(", ");
    check("the three counts rise", counts.is_sorted_by(|a, b| a < b), &text)?;
    Ok(points)
}

/// Loses the guest.
fn destroy(scene: &mut Scene, points: &[Point; 3]) -> Result<(), Failure> {
    title("3. The disaster");
    say("The guest's power cord is pulled and noise is written over all of both its disks.");
    let last = scene.guest.serial.steps_on(STEPS, SOON)?;
    let past = points.iter().all(|point| last.count > point.count);
    check(&format!("the guest has come to count {}", last.count), past, &last.count)?;
    type_in("virsh", &["destroy", scene.guest.name()])?;
    scene.corrupt()
}

/// Restores a point with its memory.
fn resume(scene: &mut Scene, point: &Point, boot: BootId) -> Result<(Status, Duration), Failure> {
    title("4. Back, with memory");
    say(&format!(
        "The middle point is of count {}. Restored with its memory the guest does not boot: it is \
         the same boot, it goes on from that very count, and its RAM agrees with its disks. (What \
         the guest is now, broken disks included, is kept first as a safety point.)",
        point.count
    ));
    scene.guest.serial.skip_to_end()?;
    let begun = Instant::now();
    vitrify(&scene.world.vitrify, &["restore", &point.reference])?;
    let took = begun.elapsed();
    let first = scene.guest.serial.count_reaches(0, SOON)?;
    say("The first that it says after the restore:");
    show(&spoken(&first));
    // RAM learns of a count when the disks have it: it may be one behind the first disk.
    let from_there = (point.count - 1..=point.count + STATUS_SLACK).contains(&first.count);
    let claim = format!("it goes on from count {}, at {}", point.count, first.count);
    check(&claim, from_there, &first.count)?;
    scene.check_counts_on(&first, boot)?;
    let later = scene.guest.serial.steps_on(2 * STEPS, SOON)?;
    scene.check_counts_on(&later, boot)?;
    scene.check_untouched()?;
    Ok((first, took))
}

/// Loses the guest again, restores a point without its memory, and returns the count that the guest
/// found on its disks.
fn boot_cold(scene: &mut Scene, point: &Point, boot: BootId) -> Result<u64, Failure> {
    title("5. The same, cold");
    say(
        "The same disaster again, and the same point, but its memory is left aside. Now the guest \
         boots, and takes up the count that it finds on its disks.",
    );
    type_in("virsh", &["destroy", scene.guest.name()])?;
    scene.corrupt()?;
    scene.guest.serial.skip_to_end()?;
    vitrify(&scene.world.vitrify, &["restore", &point.reference, "--cold"])?;
    let ready = scene.guest.serial.ready(BOOT)?;
    say("The first that it says after the restore:");
    let (from, count) = (ready.from, ready.count);
    let line = Line::Ready { boot: ready.boot, disks: ready.disks, from, count };
    show(&line.to_string());
    let found = format!("{ready:?}");
    check("it is another boot", ready.boot != boot && from == From::Cold, &found)?;
    // The count that both disks hold; the first may be one ahead.
    let on_disk = (point.count - 1..=point.count).contains(&count);
    check(&format!("it begins from count {count}, which its disks hold"), on_disk, &found)?;
    let later = scene.guest.serial.steps_on(STEPS, SOON)?;
    scene.check_counts_on(&later, ready.boot)?;
    say("Had anything of it been left unfinished, `vitrify repair` would put it in order. It has \
         nothing to say. The points are all still there, and the safety points with them.");
    let said = vitrify(&scene.world.vitrify, &["repair", scene.guest.name()])?;
    check("there was nothing to repair", said.is_empty(), &said)?;
    let left = leftovers(&scene.world, &scene.guest, &scene.disks)?.join(", ");
    check("no overlay, spare copy or unpublished point lies about", left.is_empty(), &left)?;
    vitrify(&scene.world.vitrify, &["list", scene.guest.name()])?;
    Ok(count)
}

/// To the nearest MiB.
fn mib(bytes: u64) -> String {
    ((bytes + (1 << 19)) >> 20).to_string()
}

/// A status as the witness said it.
fn spoken(status: &Status) -> String {
    let Status { boot, count, mismatches, dirty_mbps, dirty_pages } = *status;
    Line::Status { boot, count, mismatches, dirty_mbps, dirty_pages }.to_string()
}
