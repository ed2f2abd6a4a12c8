//! `cargo xtask`: brings a machine to where Vitrify can be built, shown and tested, and does that.
//! Depends on nothing but the standard library, so that it runs on a machine that has only Rust.

mod apt;
mod cache;
mod kernel;
mod libvirt;
mod packages;
mod process;
mod steps;

use std::process::ExitCode;

use process::{Failure, say};

const HELP: &str = "\
cargo xtask setup               install what is missing and fetch the lab's guest kernel
cargo xtask demo                set up, build, and show Vitrify on a real guest
cargo xtask test [STEP…]        set up, then every check and test, the lab's included; or only
                                these: setup, format, clippy, deny, doc, unit, lab
cargo xtask bench pause [ARG…]  set up, build, and measure how long captures pause a guest
cargo xtask help                this

Needs root or `sudo -n` for packages, libvirt and the lab's file systems. libvirt is started if
nothing runs it here, and stopped again at the end. Downloads stay in $XDG_CACHE_HOME/vitrify.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["setup"] => steps::setup(),
        ["demo"] => steps::program("demo", &[]),
        ["bench", "pause", ref rest @ ..] => steps::program("bench-pause", rest),
        ["test", ref wanted @ ..] => steps::test(wanted),
        [] | ["help" | "--help" | "-h"] => {
            say(HELP);
            Ok(())
        }
        _ => Err(Failure::new(format!("unknown: {}\n{HELP}", words.join(" ")))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&format!("xtask: {failure}"));
            ExitCode::FAILURE
        }
    }
}
