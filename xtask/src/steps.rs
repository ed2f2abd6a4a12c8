//! The tasks, step by step: each announced and timed, the first failure ends them, a summary closes
//! them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::cache;
use crate::libvirt::Libvirt;
use crate::process::{Failure, can_sudo, command, is_root, must, output, say};
use crate::{agent, kernel, lab, packages, stock};

/// A name and what it does.
type Step = (&'static str, fn() -> Result<(), Failure>);

const DENY_VERSION: &str = "0.20.2";

/// Installs and fetches what is missing.
///
/// # Errors
/// [`Failure`].
pub(crate) fn setup() -> Result<(), Failure> {
    let mut apt = None;
    packages::ensure(&mut apt)?;
    kernel::ensure(&mut apt)?;
    agent::ensure(&mut apt)
}

/// Sets up and runs one of the lab's programs against a release build.
///
/// # Errors
/// [`Failure`].
pub(crate) fn program(name: &str, arguments: &[&str]) -> Result<(), Failure> {
    setup()?;
    build()?;
    let _libvirt = Libvirt::ensure()?;
    let run =
        ["run", "--quiet", "--release", "--locked", "--package", "vitrify-lab", "--bin", name];
    must(&mut in_lab(cargo(&[&run[..], &["--"], arguments].concat()))?)
}

/// The checks and tests, in the order in which they run.
const STEPS: [Step; 9] = [
    ("setup", setup),
    ("format", || must(&mut cargo(&["fmt", "--all", "--check"]))),
    ("clippy", || {
        let arguments = ["clippy", "--workspace", "--all-targets", "--locked"];
        must(&mut cargo(&[&arguments[..], &["--", "-D", "warnings"]].concat()))
    }),
    ("deny", deny),
    ("doc", || {
        let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--locked"]);
        must(doc.env("RUSTDOCFLAGS", "-D warnings"))
    }),
    ("unit", || must(&mut cargo(&["test", "--workspace", "--locked", "--exclude", "vitrify-lab"]))),
    ("lab", on_host),
    ("stock", stock::test),
    ("zfs", lab::test),
];

/// The checks and tests with these names; all of them if none is named.
///
/// # Errors
/// [`Failure`] of the first that failed, or a name that there is not.
pub(crate) fn test(wanted: &[&str]) -> Result<(), Failure> {
    if let Some(unknown) = wanted.iter().find(|name| STEPS.iter().all(|(it, _)| it != *name)) {
        let names = STEPS.map(|(name, _)| name).join(", ");
        return Err(Failure::new(format!("no step {unknown}; there are {names}")));
    }
    let chosen = STEPS.iter().filter(|(name, _)| wanted.is_empty() || wanted.contains(name));
    let mut done = Vec::new();
    for (name, step) in chosen {
        say(&format!("\n== {name}"));
        let begun = Instant::now();
        let result = step();
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        done.push(summary_line(name, verdict, begun.elapsed()));
        if let Err(failure) = result {
            say(&format!("\n{}", done.join("\n")));
            return Err(Failure::new(format!("{name}: {failure}")));
        }
    }
    say(&format!("\n{}", done.join("\n")));
    Ok(())
}

fn summary_line(name: &str, verdict: &str, took: Duration) -> String {
    format!("{name:<8} {verdict:<6} {:>7.1} s", took.as_secs_f64())
}

/// Builds what the lab tests and shows.
///
/// # Errors
/// [`Failure`].
pub(crate) fn build() -> Result<(), Failure> {
    must(&mut cargo(&["build", "--release", "--locked", "--package", "vitrify"]))
}

/// The release binary.
///
/// # Errors
/// [`Failure`].
pub(crate) fn vitrify() -> Result<PathBuf, Failure> {
    Ok(target_folder()?.join("release/vitrify"))
}

/// The lab's tests for the host. They must not skip: the set-up has just been made.
fn on_host() -> Result<(), Failure> {
    build()?;
    let _libvirt = Libvirt::ensure()?;
    // One run tells of every failure.
    let test = cargo(&["test", "--locked", "--no-fail-fast", "--package", "vitrify-lab"]);
    must(in_lab(test)?.env("VITRIFY_LAB", "host"))
}

/// What a command of the lab needs: the binary under test, and root for the programs that cargo
/// starts.
fn in_lab(mut command: Command) -> Result<Command, Failure> {
    command.env("VITRIFY_BIN", vitrify()?);
    if !is_root() {
        if !can_sudo() {
            return Err(Failure::new("the lab needs root: run this as root, or allow `sudo -n`"));
        }
        command.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", "sudo -n -E");
    }
    Ok(command)
}

/// Checks the dependencies against deny.toml, with a cargo-deny of our own if there is none.
fn deny() -> Result<(), Failure> {
    let tools = cache::folder()?.join("tools");
    let ours = tools.join("bin/cargo-deny");
    let program = if output(&mut command("cargo-deny", &["--version"])).is_some() {
        PathBuf::from("cargo-deny")
    } else {
        if !ours.is_file() {
            say(&format!("installing cargo-deny {DENY_VERSION} into {}", tools.display()));
            let root = tools.display().to_string();
            let version = ["cargo-deny", "--version", DENY_VERSION];
            must(&mut cargo(&[&["install", "--locked", "--root", &root], &version[..]].concat()))?;
        }
        ours
    };
    let checks = ["check", "licenses", "bans", "sources"];
    let mut deny = command(&program.display().to_string(), &checks);
    must(deny.current_dir(workspace()))
}

/// Cargo, in the workspace.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let program = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut cargo = command(&program, arguments);
    cargo.current_dir(workspace());
    cargo
}

fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// Where cargo builds, wherever the user's configuration puts it.
pub(crate) fn target_folder() -> Result<PathBuf, Failure> {
    const KEY: &str = "\"target_directory\":\"";
    let metadata = output(&mut cargo(&["metadata", "--no-deps", "--format-version", "1"]));
    let folder = metadata.as_deref().and_then(|text| {
        let (_, rest) = text.split_once(KEY)?;
        rest.split_once('"').map(|(folder, _)| PathBuf::from(folder))
    });
    folder.ok_or_else(|| Failure::new("cargo metadata does not say where the target folder is"))
}
