//! What the lab's programs have in common: their command line, and how they say results and messages.

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

use crate::harness::{chain, missing};

/// The options that the command line holds, or what to end with: help was wanted, or something is wrong,
/// and that is said.
///
/// # Errors
/// The exit status.
pub fn options<T>(
    parse: impl FnOnce(&[String]) -> Result<Option<T>, String>,
    help: &str,
) -> Result<T, ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match parse(&arguments) {
        Ok(Some(options)) => Ok(options),
        Ok(None) => {
            print(help);
            Err(ExitCode::SUCCESS)
        }
        Err(wrong) => {
            note(&format!("{wrong}\n\n{help}"));
            Err(ExitCode::from(2))
        }
    }
}

/// A benchmark, `cargo xtask bench NAME`, from its command line to its table.
pub fn bench<O, R>(
    name: &str,
    options: Result<O, ExitCode>,
    measure: impl FnOnce(&O) -> Result<R, Box<dyn Error>>,
    table: impl FnOnce(&R) -> String,
) -> ExitCode {
    let options = match options {
        Ok(options) => options,
        Err(status) => return status,
    };
    match missing().map_or_else(|| measure(&options), |reason| Err(reason.into())) {
        Ok(rows) => {
            print(&table(&rows));
            ExitCode::SUCCESS
        }
        Err(failure) => {
            note(&format!("bench {name}: {}", chain(&*failure)));
            ExitCode::FAILURE
        }
    }
}

/// Hands each name with its value to `set`, and each of the `flags` with nothing. False where help is
/// wanted.
///
/// # Errors
/// What is wrong, in words.
pub fn read<'a>(
    arguments: &'a [String],
    flags: &[&str],
    mut set: impl FnMut(&'a str, &'a str) -> Result<(), String>,
) -> Result<bool, String> {
    let mut arguments = arguments.iter();
    while let Some(name) = arguments.next() {
        if matches!(name.as_str(), "--help" | "-h") {
            return Ok(false);
        }
        let value = match flags.contains(&name.as_str()) {
            true => "",
            false => arguments.next().ok_or_else(|| format!("{name} wants a value"))?,
        };
        set(name, value)?;
    }
    Ok(true)
}

/// A value that is a whole number.
///
/// # Errors
/// That it is none, in words.
pub fn whole_number(name: &str, text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{name}: '{text}' is not a whole number"))
}

/// A result. A reader that went away is no reason to leave a guest behind.
pub fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// A message.
#[expect(clippy::print_stderr, reason = "this is where messages go to stderr")]
pub fn note(text: &str) {
    eprintln!("{text}");
}
