//! What runs in the lab's machine while `cargo xtask lab power-loss` cuts its power: guests that start
//! with the host, captures of them without end, and after the next boot what an administrator does. At the
//! end systemd's timer does it, and outlives a boot, too.

use std::error::Error;
use std::fs;
use std::mem::forget;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use vitrify_lab::draw::Draw;
use vitrify_lab::guest::{Format, Guest};
use vitrify_lab::harness::chain;
use vitrify_lab::leftovers::leftovers;
use vitrify_lab::pool::Pool;
use vitrify_lab::run::must;
use vitrify_lab::scene::{BOOT, SOON};
use vitrify_lab::units::{self, Units};
use vitrify_lab::world::World;

/// Where the world's place is written down.
const NOTE: &str = "/scratch/power-loss.world";
/// The same for its guests: a name and its disks a line.
const GUESTS: &str = "/scratch/power-loss.guests";
/// Size of the pool, in MiB; sparse.
const POOL_MIB: u64 = 8192;
const DISK_MIB: u64 = 16;
/// How long a tick may take that captures all of them.
const TICK: Duration = Duration::from_secs(600);

type Outcome = Result<(), Box<dyn Error>>;

/// A guest that outlived the power, and its images.
struct Survivor {
    guest: Guest,
    disks: Vec<PathBuf>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["prepare"] => prepare(),
        ["capture", seed] => seed.parse().map_err(Into::into).and_then(capture),
        ["check"] => check(),
        ["enable"] => enable(),
        ["tick"] => tick(),
        _ => Err("prepare | capture SEED | check | enable | tick".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("power-loss: {}", chain(&*error)));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "this program reports to the one that started it")]
fn say(text: &str) {
    println!("{text}");
}

/// Three guests that libvirt starts at each boot: a raw file, two disks on two datasets, a volume.
fn prepare() -> Outcome {
    let world = World::on(Pool::zfs(POOL_MIB)?)?;
    // So that it is imported at boot, before libvirt starts guests.
    let pool = world.pool.dataset("")?;
    must("zpool", &["set", "cachefile=/etc/zfs/zpool.cache", &pool])?;
    let place = |name: &str| world.pool.subvolume(name);
    let kinds: [Vec<(PathBuf, Format)>; 3] = [
        vec![(place("a")?.join("a.raw"), Format::Raw)],
        vec![
            (place("b")?.join("b.qcow2"), Format::Qcow2),
            (place("b2")?.join("b.raw"), Format::Raw),
        ],
        vec![(world.pool.zvol("c", DISK_MIB)?, Format::Block)],
    ];
    let mut lines = String::new();
    for (name, disks) in ["a", "b", "c"].iter().zip(&kinds) {
        let mut witness = world.witness(name);
        for (path, format) in disks {
            witness = witness.disk(path, *format);
        }
        let mut guest = world.start(&witness)?;
        guest.virsh("autostart", &[])?;
        guest.serial.ready(BOOT)?;
        let paths = disks.iter().map(|(path, _)| path.display().to_string());
        lines += &format!("{} {}\n", guest.name(), paths.collect::<Vec<_>>().join(" "));
        forget(guest);
    }
    fs::write(GUESTS, lines)?;
    world.leave(Path::new(NOTE))?;
    must("sync", &[])?;
    Ok(())
}

fn survivors(world: &World) -> Result<Vec<Survivor>, Box<dyn Error>> {
    let lines = fs::read_to_string(GUESTS)?;
    let mut guests = Vec::new();
    for line in lines.lines() {
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        let disks = words.map(PathBuf::from).collect();
        guests.push(Survivor { guest: world.guest(name)?, disks });
    }
    Ok(guests)
}

/// Captures of guests and by engines that the seed draws, until the power is cut.
fn capture(seed: u64) -> Outcome {
    let world = World::left(Path::new(NOTE))?;
    let mut draw = Draw(seed);
    let guests = survivors(&world)?;
    loop {
        let Survivor { guest, disks } = &guests[draw.below(guests.len())];
        // AppArmor lets no overlay be committed into a volume.
        let is_volume = disks[0].starts_with("/dev");
        let engine = ["instant", "overlay"][if is_volume { 0 } else { draw.below(2) }];
        say(&format!("{} by {engine}", guest.name()));
        let said = world.vitrify.run(&["snapshot", "--engine", engine, guest.name()])?;
        if said.code != Some(0) {
            return Err(format!("{said:?}").into());
        }
    }
}

/// One repair, and then every guest must be well, its points too.
fn check() -> Outcome {
    let world = World::left(Path::new(NOTE))?;
    let mut guests = survivors(&world)?;
    let said = world.vitrify.run(&["repair"])?;
    for line in [said.stdout.trim_end(), said.stderr.trim_end()].iter().filter(|it| !it.is_empty())
    {
        say(&format!("repair: {line}"));
    }
    match said.code {
        Some(0) => {}
        // Where nothing proves what the base holds, an operator decides.
        Some(3) => settle(&world, &guests)?,
        code => return Err(format!("repair ended with {code:?}").into()),
    }
    let again = world.vitrify.run(&["repair"])?;
    if (again.code, again.stdout.as_str(), again.stderr.as_str()) != (Some(0), "", "") {
        return Err(format!("a second repair: {again:?}").into());
    }
    for Survivor { guest, disks } in &mut guests {
        is_well(&world, guest, disks)?;
        let newest = world.vitrify.run(&["list", "--json", guest.name()])?.json()?;
        let points = newest["points"].as_array().cloned().unwrap_or_default();
        if let Some(name) = points.first().and_then(|point| point["point"].as_str()) {
            let at = format!("{}@{name}", guest.name());
            let restore = ["restore", "--force", "--no-safety-point", "--yes", &at];
            let restored = world.vitrify.run(&restore)?;
            if restored.code != Some(0) {
                return Err(format!("{at}: {restored:?}").into());
            }
            is_well(&world, guest, disks)?;
        }
        say(&format!("{}: well, with {} points", guest.name(), points.len()));
    }
    forget(guests);
    forget(world);
    Ok(())
}

/// A point of each guest is due four times an hour, and systemd sees to that.
fn enable() -> Outcome {
    let world = World::left(Path::new(NOTE))?;
    let guests = survivors(&world)?;
    let names: Vec<_> = guests.iter().map(|it| format!("\"{}\"", it.guest.name())).collect();
    let names = names.join(", ");
    world.configure(&format!(
        "\n[policy.test]\nfrequently = 3\n[[guest]]\nmatch = [{names}]\npolicy = \"test\"\n"
    ))?;
    forget(Units::install(&world.vitrify)?);
    must("sync", &[])?;
    forget(guests);
    forget(world);
    tick()
}

/// The timer is there, and one tick takes a point of each guest, all of them well after it.
fn tick() -> Outcome {
    let world = World::left(Path::new(NOTE))?;
    let mut guests = survivors(&world)?;
    must("systemctl", &["is-active", "vitrify.timer"])?;
    let before = scheduled(&world)?;
    let ticked = units::tick(&world.vitrify, TICK)?;
    if (ticked.result.as_str(), ticked.code.as_str()) != ("success", "0") {
        return Err(format!("the tick ended so: {ticked:?}").into());
    }
    let new: Vec<_> = scheduled(&world)?.into_iter().filter(|it| !before.contains(it)).collect();
    for Survivor { guest, disks } in &mut guests {
        if !new.iter().any(|it| it.0 == guest.name()) {
            return Err(format!("no point of {}: {new:?}", guest.name()).into());
        }
        is_well(&world, guest, disks)?;
        say(&format!("{}: well, with a point by the timer", guest.name()));
    }
    must("sync", &[])?;
    forget(guests);
    forget(world);
    Ok(())
}

/// The guests and names of the points that ticks have taken.
fn scheduled(world: &World) -> Result<Vec<(String, String)>, Box<dyn Error>> {
    let listed = world.vitrify.run(&["list", "--json"])?.json()?;
    let points = listed["points"].as_array().cloned().unwrap_or_default();
    let named = points.iter().filter_map(|it| Some((it["guest"].as_str()?, it["point"].as_str()?)));
    let taken = named.filter(|it| it.1.ends_with("_frequently"));
    Ok(taken.map(|(guest, point)| (guest.to_owned(), point.to_owned())).collect())
}

/// Keeps what the guests wrote on their overlays.
fn settle(world: &World, guests: &[Survivor]) -> Outcome {
    for Survivor { guest, .. } in guests {
        let listed = guest.virsh("domblklist", &[])?;
        if !listed.contains(&world.overlays.display().to_string()) {
            continue;
        }
        say(&format!("{}: shut off, and its overlay committed by an operator", guest.name()));
        guest.destroy()?;
        let said = world.vitrify.run(&["repair", guest.name(), "--commit"])?;
        if said.code != Some(0) {
            return Err(format!("{}: {said:?}", guest.name()).into());
        }
        guest.start()?;
    }
    Ok(())
}

/// It runs, starting it if it does not, and counts on without a mismatch.
fn is_well(world: &World, guest: &mut Guest, disks: &[PathBuf]) -> Outcome {
    if guest.state()? == "shut off" {
        guest.start()?;
    }
    let state = guest.state()?;
    if state != "running" {
        return Err(format!("{} is {state}", guest.name()).into());
    }
    guest.serial.skip_to_end()?;
    guest.serial.count_reaches(0, BOOT)?;
    guest.serial.steps_on(20, SOON)?;
    if !guest.serial.mismatches().is_empty() {
        return Err(guest.serial.mismatches().join("\n").into());
    }
    let found = leftovers(world, guest, disks)?;
    if !found.is_empty() {
        return Err(found.join("\n").into());
    }
    Ok(())
}
