//! Programs that xtask runs, with or without root's powers, and what it says.

use std::fmt;
use std::process::{Command, Stdio};

/// Why a task ended, in words for a person.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    /// With these words.
    pub(crate) fn new(words: impl Into<String>) -> Self {
        Self(words.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Says one line or more.
#[expect(clippy::print_stdout, reason = "xtask talks to the person who runs it")]
pub(crate) fn say(words: &str) {
    println!("{words}");
}

/// The same beside the output of what we run for somebody: for tasks whose output is that.
#[expect(clippy::print_stderr, reason = "xtask talks to the person who runs it")]
pub(crate) fn tell(words: &str) {
    eprintln!("{words}");
}

/// A program with its arguments; its own words in the C locale, nothing to read.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// The same as root: as it is if we are root, else through `sudo -n`.
///
/// # Errors
/// [`Failure`] with what to run by hand if neither is possible.
pub(crate) fn as_root(program: &str, arguments: &[&str]) -> Result<Command, Failure> {
    if is_root() {
        return Ok(command(program, arguments));
    }
    if can_sudo() {
        return Ok(command("sudo", &[&["-n", program], arguments].concat()));
    }
    let words = [&[program], arguments].concat().join(" ");
    Err(Failure::new(format!("not root, and `sudo -n` is not possible; run as root: {words}")))
}

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    output(&mut command("id", &["-u"])).is_some_and(|id| id.trim() == "0")
}

/// Whether root's powers can be had without a password.
pub(crate) fn can_sudo() -> bool {
    output(&mut command("sudo", &["-n", "true"])).is_some()
}

/// Runs a program with its output passed through; it must succeed.
///
/// # Errors
/// [`Failure`] that names the command.
pub(crate) fn must(command: &mut Command) -> Result<(), Failure> {
    let words = words(command);
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::new(format!("`{words}` failed ({status})"))),
        Err(error) => Err(Failure::new(format!("cannot run `{words}`: {error}"))),
    }
}

/// What a program prints, if it succeeds; what it says on stderr is dropped.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command as one would type it.
pub(crate) fn words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
