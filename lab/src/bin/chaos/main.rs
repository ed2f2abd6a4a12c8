//! `cargo xtask chaos`: random rounds of chaos, until one of them does not end as it must.
//!
//! Everything happens in worlds of its own, one for each round. The world of a round that failed is
//! kept, all others are gone when the next begins.

mod options;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use vitrify_lab::chaos::{Broken, Ground, Round, play};
use vitrify_lab::harness::{chain, missing};
use vitrify_lab::interrupt::Interrupt;
use vitrify_lab::program::{self, note, print};

use options::{HELP, Options};

/// What packages install, so that `instant` goes on to work after a block job under AppArmor.
const DROP_IN: &str = "/etc/apparmor.d/abstractions/libvirt-qemu.d/vitrify";
const PACKAGED: &str = include_str!("../../../../packaging/apparmor/vitrify");

fn main() -> ExitCode {
    let options = match program::options(Options::parse, HELP) {
        Ok(options) => options,
        Err(status) => return status,
    };
    match prepare(&options).and_then(|()| play_all(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(&format!("chaos: {}", chain(&*error)));
            ExitCode::FAILURE
        }
    }
}

fn prepare(options: &Options) -> Result<(), Box<dyn Error>> {
    match options.ground {
        Ground::Btrfs => missing().map_or(Ok(()), |reason| Err(reason.into())),
        Ground::Zfs if std::env::var("VITRIFY_LAB").is_ok_and(|machine| machine == "zfs") => {
            let drop_in = Path::new(DROP_IN);
            fs::create_dir_all(drop_in.parent().ok_or("it lies nowhere")?)?;
            Ok(fs::write(drop_in, PACKAGED)?)
        }
        Ground::Zfs => Err("ZFS is in the lab's machine: cargo xtask chaos --on zfs".into()),
    }
}

fn play_all(options: &Options) -> Result<(), Box<dyn Error>> {
    let interrupt = Interrupt::listen()?;
    let began = Instant::now();
    let numbers = options.numbers();
    for number in numbers.clone() {
        let round = Round::draw(options.ground, options.seed, number);
        print(&format!("round {number}: {round}"));
        let began = Instant::now();
        let played = play(&round);
        interrupt.check()?;
        match played {
            Ok(story) => print(&format!("  {:.1} s: {story}", began.elapsed().as_secs_f64())),
            Err(broken) => return Err(explain(*broken, options, number).into()),
        }
    }
    print(&format!(
        "{} rounds of seed {}, all well, in {:.0} s",
        numbers.count(),
        options.seed,
        began.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// What there is to know about a round that failed.
fn explain(broken: Broken, options: &Options, number: u64) -> String {
    let error = chain(&*broken.error);
    let story = broken.story.clone();
    let kept = match broken.keep() {
        Ok(Some(kept)) => kept,
        Ok(None) => "nothing is kept".to_owned(),
        Err(error) => format!("its world could not be kept: {error}"),
    };
    format!(
        "round {number} of seed {} failed: {error}\nbefore that:\n{story}\nagain: {}\n{kept}",
        options.seed,
        options.again(number)
    )
}
