//! `cargo xtask`: brings a machine to where Vitrify can be built, shown and tested, and does that.
//! Depends on nothing but the standard library, so that it runs on a machine that has only Rust.

mod agent;
mod apt;
mod cache;
mod debian;
mod download;
mod install;
mod keeper;
mod kernel;
mod lab;
mod libvirt;
mod packages;
mod payload;
mod process;
mod sanoid;
mod steps;
mod stock;

use std::process::ExitCode;

use process::{Failure, say};

const HELP: &str = "\
cargo xtask setup               install what is missing, fetch the lab's guest kernel and agent
cargo xtask install [--prefix DIR] [--destdir DIR]
                                build, and put the binary, systemd's units, manual pages and
                                completions in place, below /usr/local or DIR
cargo xtask demo                set up, build, and show Vitrify on a real guest
cargo xtask test [STEP…]        set up, then every check and test, the lab's included; or only
                                these: setup, format, clippy, deny, doc, unit, lab, stock, zfs
cargo xtask bench pause [ARG…]  set up, build, and measure how long captures pause a guest
cargo xtask bench memory [ARG…] the same for what memory images cost
cargo xtask bench tick [ARG…]   the same for a tick with nothing to do, beside Debian's sanoid
cargo xtask chaos [ARG…]        set up, build, and play rounds of chaos: random guests, operations
                                and trouble, one repair, then all must be well; --help tells more
cargo xtask stock -- CMD…       run CMD beside the release's own libvirt and QEMU, in a chroot with
                                the release binary, the witness and the tests for them
cargo xtask lab                 what there is to do with the ZFS machine
cargo xtask help                this

Needs root or `sudo -n` for packages, libvirt and the lab's file systems. libvirt is started if
nothing runs it here, and stopped again at the end. Downloads, the ZFS machine and the chroot
stay in $XDG_CACHE_HOME/vitrify.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match task(&words) {
        Ok(status) => status,
        Err(failure) => {
            say(&format!("xtask: {failure}"));
            ExitCode::FAILURE
        }
    }
}

fn task(words: &[&str]) -> Result<ExitCode, Failure> {
    match words {
        ["setup"] => steps::setup(),
        ["install", options @ ..] => install::install(options),
        ["demo"] => steps::program("demo", &[]),
        ["bench", "pause", rest @ ..] => steps::program("bench-pause", rest),
        ["bench", "memory", rest @ ..] => steps::program("bench-memory", rest),
        ["bench", "tick", rest @ ..] => {
            sanoid::ensure(&mut None)?;
            steps::program("bench-tick", rest)
        }
        ["chaos", rest @ ..] if rest.windows(2).any(|pair| pair == ["--on", "zfs"]) => {
            lab::chaos(rest)
        }
        ["chaos", rest @ ..] => steps::program("chaos", rest),
        ["test", wanted @ ..] => steps::test(wanted),
        ["stock", "--", command @ ..] if !command.is_empty() => stock::run(command),
        ["lab", "build"] => lab::build(),
        ["lab", "run", "--", command @ ..] if !command.is_empty() => return lab::run(command),
        ["lab", "power-loss", options @ ..] => lab::power_loss(options),
        ["lab", "shell"] => lab::shell(),
        ["lab", "shell", "failed"] => lab::shell_in_kept(),
        ["lab"] => {
            say(lab::HELP);
            Ok(())
        }
        [] | ["help" | "--help" | "-h"] => {
            say(HELP);
            Ok(())
        }
        _ => Err(Failure::new(format!("unknown: {}\n{HELP}", words.join(" ")))),
    }?;
    Ok(ExitCode::SUCCESS)
}
