//! `cargo xtask lab`: the ZFS machine, for what this machine's kernel cannot do. It is a Debian as a
//! user has it, with its systemd and AppArmor enforcing, under QEMU without KVM.

use std::env;
use std::process::{ExitCode, Stdio};

use crate::payload::Payload;
use crate::process::{Failure, output, say, tell};
use crate::steps::setup;

mod image;
mod machine;
mod power;

use image::Image;
use machine::Machine;

/// What there is to do.
pub(crate) const HELP: &str = "\
cargo xtask lab build           build the ZFS machine's image, if the cache does not have today's
cargo xtask lab run -- CMD…     boot it with the release binary, the witness and the ZFS tests
                                inside, run CMD there, stop it; ends with CMD's exit status
cargo xtask lab power-loss [--rounds N] [--seed S]
                                boot it, cut its power N times (10) in the middle of captures, and
                                have `vitrify repair` put its guests right after each boot; then
                                have systemd's timer do so
cargo xtask lab shell           the same with a shell for you
cargo xtask lab shell failed    a shell in the world that was kept when a ZFS test failed";

/// The names of the test programs that run in it begin so.
const TESTS: &[&str] = &["zfs_"];
/// The lab's program that draws and plays rounds of chaos.
const CHAOS: &str = "chaos";
/// How often tests repeat what they repeat; in the machine as outside.
const ROUNDS: &str = "VITRIFY_ROUNDS";
/// In seconds. A test program that takes longer hangs.
const TEST_LIMIT: &str = "3600";

/// Builds the image.
///
/// # Errors
/// [`Failure`], as for all that follow.
pub(crate) fn build() -> Result<(), Failure> {
    setup()?;
    let image = Image::ensure()?;
    say(&format!("lab machine: in {}", image.folder.display()));
    Ok(())
}

/// Boots the machine for one command.
pub(crate) fn run(words: &[&str]) -> Result<ExitCode, Failure> {
    let (machine, _) = boot()?;
    let status = machine.command(words).stdin(Stdio::inherit()).status();
    let status = status.map_err(|error| Failure::new(format!("cannot run ssh: {error}")))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Boots the machine for a person.
pub(crate) fn shell() -> Result<(), Failure> {
    shell_in(&boot()?.0)
}

/// Boots the world that was kept last for a person.
pub(crate) fn shell_in_kept() -> Result<(), Failure> {
    setup()?;
    shell_in(&Machine::boot(Image::ensure()?, None)?)
}

fn shell_in(machine: &Machine) -> Result<(), Failure> {
    tell("lab machine: /payload has what was built here, /scratch has room; all goes at exit");
    machine.shell().map(drop).map_err(|error| Failure::new(format!("cannot run ssh: {error}")))
}

/// Runs the ZFS tests in one boot of the machine.
pub(crate) fn test() -> Result<(), Failure> {
    let (machine, payload) = boot()?;
    match run_tests(&machine, &payload) {
        Ok(()) => Ok(()),
        Err(failure) => Err(Failure::new(format!("{failure}\n{}", machine.keep()))),
    }
}

/// Cuts its power in the middle of captures.
pub(crate) fn power_loss(options: &[&str]) -> Result<(), Failure> {
    let (mut rounds, mut seed) = (10, 1);
    for pair in options.chunks(2) {
        match (pair, pair.get(1).and_then(|value| value.parse().ok())) {
            (["--rounds", _], Some(value)) => rounds = value,
            (["--seed", _], Some(value)) => seed = value,
            _ => return Err(Failure::new(format!("unknown: {}\n{HELP}", pair.join(" ")))),
        }
    }
    let (mut machine, _) = boot()?;
    power::rounds(&mut machine, rounds, seed)
        .map_err(|failure| Failure::new(format!("{failure}\n{}", machine.keep())))
}

/// Plays rounds of chaos in it.
pub(crate) fn chaos(options: &[&str]) -> Result<(), Failure> {
    let (machine, _) = boot()?;
    let failure = match machine.follow(&[&[CHAOS], options].concat(), say) {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => format!("{CHAOS} failed ({status})"),
        Err(error) => format!("cannot run ssh: {error}"),
    };
    Err(Failure::new(format!("{failure}\n{}", machine.keep())))
}

fn boot() -> Result<(Machine, Payload), Failure> {
    setup()?;
    let image = Image::ensure()?;
    let payload = Payload::build(TESTS, &[power::PROGRAM, CHAOS])?;
    let machine = Machine::boot(image, Some(&payload))?;
    Ok((machine, payload))
}

fn run_tests(machine: &Machine, payload: &Payload) -> Result<(), Failure> {
    let (mut ran, mut closing, mut failed) = (0, Vec::new(), Vec::new());
    let rounds = env::var(ROUNDS).ok().map(|rounds| format!("{ROUNDS}={rounds}"));
    for name in payload.tests() {
        say(&format!("\n-- {name}"));
        let mut last = "no result".to_owned();
        let test = rounds.as_deref().into_iter().chain(["timeout", TEST_LIMIT, name]);
        let test: Vec<_> = ["env"].into_iter().chain(test).collect();
        let status = machine.follow(&test, |line| {
            say(line);
            if let Some(result) = line.strip_prefix("test result: ") {
                result.clone_into(&mut last);
            }
        });
        let status = status.map_err(|error| Failure::new(format!("cannot run {name}: {error}")))?;
        if !status.success() {
            failed.push(name);
        }
        ran += count(&last);
        closing.push(format!("{name}: {last}"));
    }
    let version = output(&mut machine.command(&["zfs", "version"])).unwrap_or_default();
    let version = version.lines().collect::<Vec<_>>().join(", ");
    say(&format!("\n{}", closing.join("\n")));
    say(&format!("{ran} ZFS tests ran, on {version}, with pools of files on ext4"));
    match (ran, failed.is_empty()) {
        (_, false) => Err(Failure::new(format!("failed: {}", failed.join(", ")))),
        (0, true) => Err(Failure::new("no ZFS test ran")),
        (_, true) => Ok(()),
    }
}

/// How many tests a closing line says were run.
fn count(result: &str) -> u32 {
    let mut words = result.split([' ', ';', '.']).filter(|word| !word.is_empty()).peekable();
    let mut ran = 0;
    while let Some(word) = words.next() {
        if let (Ok(number), Some(&("passed" | "failed"))) = (word.parse::<u32>(), words.peek()) {
            ran += number;
        }
    }
    ran
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_were_skipped_did_not_run() {
        let line =
            "ok. 12 passed; 3 failed; 4 ignored; 0 measured; 5 filtered out; finished in 0.04s";
        assert_eq!(count(line), 15);
        assert_eq!(count("no result"), 0);
    }
}
