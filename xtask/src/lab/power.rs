//! `cargo xtask lab power-loss`: the machine's power is cut at random moments of captures, again and
//! again, and after each boot one `vitrify repair` must be enough. At the end systemd's timer is enabled,
//! and must tick after the next boot as before it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use super::machine::Machine;
use crate::process::{Failure, say, tell};

/// The lab's program that does the machine's part.
pub(crate) const PROGRAM: &str = "power-loss";
/// How late after a capture began the power goes, in ms. One takes 5 to 20 s there.
const MOMENTS_MS: u64 = 15_000;
/// In seconds. A program that takes longer hangs.
const LIMIT: &str = "900";

/// Cuts the power so many times, at moments that follow from the seed.
///
/// # Errors
/// [`Failure`] with the round, and how to play its like again.
pub(crate) fn rounds(machine: &mut Machine, rounds: u64, seed: u64) -> Result<(), Failure> {
    inside(machine, &["prepare"])?;
    let mut moments = Vec::new();
    for round in 0..rounds {
        let drawn = mixed(seed.wrapping_add(round));
        let moment = Duration::from_millis(drawn % MOMENTS_MS);
        let cut = cut(machine, drawn, moment).and_then(|()| inside(machine, &["check"]));
        cut.map_err(|failure| {
            Failure::new(format!(
                "round {round}: {failure}\n\
                 again: cargo xtask lab power-loss --rounds 1 --seed {}",
                seed.wrapping_add(round)
            ))
        })?;
        moments.push(format!("{:.1}", moment.as_secs_f64()));
    }
    inside(machine, &["enable"])?;
    machine.lose_power()?;
    // Whether its last words before that were durable, is for repair, which every tick begins with.
    inside(machine, &["tick"])?;
    say(&format!(
        "{rounds} times without power, {} s into captures; one repair each, every guest well;\n\
         the timer ticks before and after another boot",
        moments.join(", ")
    ));
    Ok(())
}

/// Lets captures run, and pulls the cord at that moment after the first began.
fn cut(machine: &mut Machine, seed: u64, moment: Duration) -> Result<(), Failure> {
    let mut captures = start(machine, &["capture", &(seed | 1).to_string()])?;
    let first = captures.stdout.take().and_then(|it| BufReader::new(it).lines().next());
    match first {
        Some(Ok(line)) => tell(&format!("lab machine: {line}, cut after {moment:?}")),
        _ => return Err(Failure::new("no capture began")),
    }
    thread::sleep(moment);
    if let Ok(Some(status)) = captures.try_wait() {
        return Err(Failure::new(format!("captures ended ({status})")));
    }
    let cut = machine.lose_power();
    let _ = captures.kill();
    let _ = captures.wait();
    cut
}

fn start(machine: &Machine, words: &[&str]) -> Result<Child, Failure> {
    let mut command = machine.command(&[&["timeout", LIMIT, PROGRAM], words].concat());
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    child.map_err(|error| Failure::new(format!("cannot run ssh: {error}")))
}

fn inside(machine: &Machine, words: &[&str]) -> Result<(), Failure> {
    let mut said = String::new();
    let status = machine.follow(&[&["timeout", LIMIT, PROGRAM], words].concat(), |line| {
        say(line);
        line.clone_into(&mut said);
    });
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::new(format!("{} failed ({status}): {said}", words[0]))),
        Err(error) => Err(Failure::new(format!("cannot run ssh: {error}"))),
    }
}

/// A number that looks random and is the same each time: splitmix64's step.
fn mixed(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_splitmix64() {
        // The first that it gives for the seed 0.
        assert_eq!(mixed(0), 0xe220_a839_7b1d_cdaf);
    }
}
