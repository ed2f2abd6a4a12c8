//! Tells the story on stdout: what is about to be done, each command as one would type it with what
//! it printed, and each claim once it was checked.

use std::fmt::Display;
use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use vitrify_lab::run::{Finished, run};
use vitrify_lab::vitrify::Vitrify;

use crate::Failure;

/// How long one command of the story may take.
const LIMIT: Duration = Duration::from_secs(180);
/// Columns of a paragraph.
const WIDTH: usize = 90;

/// Opens the next part of the story.
pub(crate) fn title(text: &str) {
    print(&format!("\n== {text}\n"));
}

/// Says a few sentences.
pub(crate) fn say(text: &str) {
    let (mut lines, mut line) = (String::new(), String::new());
    for word in text.split_whitespace() {
        if line.len() + word.len() >= WIDTH {
            lines += &format!("{line}\n");
            line.clear();
        }
        line += if line.is_empty() { "" } else { " " };
        line += word;
    }
    print(&format!("\n{lines}{line}\n"));
}

/// Says that a claim holds, if it does.
///
/// # Errors
/// The claim, and what was found instead.
pub(crate) fn check(claim: &str, holds: bool, found: &dyn Display) -> Result<(), Failure> {
    if !holds {
        return Err(format!("it does not hold that {claim}; found: {found}").into());
    }
    print(&format!("  checked: {claim}\n"));
    Ok(())
}

/// Shows lines as they were found.
pub(crate) fn show(text: &str) {
    for line in text.trim_end().lines() {
        print(&format!("  {}\n", line.trim_end()));
    }
}

/// Types a command of the system, and shows what it printed. It must succeed.
///
/// # Errors
/// What it said.
pub(crate) fn type_in(program: &str, arguments: &[&str]) -> Result<String, Failure> {
    print(&format!("\n$ {program} {}\n", arguments.join(" ")));
    finish(Command::new(program).args(arguments))
}

/// Types a vitrify command by its alias, and shows what it printed. It must succeed.
///
/// # Errors
/// What it said.
pub(crate) fn vitrify(vitrify: &Vitrify, arguments: &[&str]) -> Result<String, Failure> {
    print(&format!("\n$ vitrify {}\n", arguments.join(" ")));
    finish(&mut vitrify.command(arguments))
}

/// Shows the alias that the vitrify commands are typed with.
pub(crate) fn alias(vitrify: &Vitrify) {
    print(&format!("\n$ alias vitrify='{}'\n", words(&vitrify.command(&[]))));
}

fn finish(command: &mut Command) -> Result<String, Failure> {
    let Finished { status, stdout, stderr } = run(command, LIMIT)?;
    // Messages come while a command works, its result at the end.
    show(&stderr);
    show(&stdout);
    if !status.success() {
        return Err(format!("`{}` failed ({status})", words(command)).into());
    }
    Ok(stdout)
}

fn words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// A reader that went away is no reason to leave a guest behind.
fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
