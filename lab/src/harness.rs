//! Runs the lab's tests and reports those that cannot run on this machine as
//! skipped, with the reason. `VITRIFY_LAB` names the machine that we are on, as `cargo xtask test`
//! sets it after its set-up: `host`, `zfs` in the lab's ZFS machine, or `stock` in the chroot with the
//! release's own packages. A test that is for that machine and cannot run fails instead.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::image::{ImageError, kernel_package};
use crate::pool::PoolError;
use crate::run::{must, virsh};

/// What a test returns.
pub type Outcome = Result<(), Box<dyn Error>>;
/// A name and what it does.
pub type Test = (&'static str, fn() -> Outcome);

/// The machine that a test program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// The one on which `cargo xtask test` runs.
    Host,
    /// The chroot with the libvirt and QEMU of the release itself, on the host's kernel.
    Stock,
    /// The lab's ZFS machine. Its tests run nowhere else: they may change what they like there.
    Zfs,
}

/// The main function of a test program for the host, whose tests want the machine to themselves.
/// Takes `cargo test`'s arguments (a filter, `--list` and so on).
#[must_use]
pub fn run(tests: &[Test]) -> ExitCode {
    run_on(Machine::Host, 1, tests)
}

/// The same for tests that mostly wait (for boots, for QEMU's end) and measure nothing: two at once.
#[must_use]
pub fn run_in_pairs(tests: &[Test]) -> ExitCode {
    run_on(Machine::Host, 2, tests)
}

/// The main function of a test program for `machine`, so many tests at once.
#[must_use]
pub fn run_on(machine: Machine, at_once: usize, tests: &[Test]) -> ExitCode {
    run_named(machine, at_once, tests.iter().map(|&(name, test)| (name.to_owned(), test)))
}

/// The same for tests that are not known by name before, so many at once.
#[must_use]
pub fn run_named<F>(
    machine: Machine,
    at_once: usize,
    tests: impl IntoIterator<Item = (String, F)>,
) -> ExitCode
where
    F: FnOnce() -> Outcome + Send + 'static,
{
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(at_once);
    let times = Arc::new(Mutex::new(Vec::new()));
    let trial = |(name, test): (String, F)| {
        let (named, times) = (name.clone(), Arc::clone(&times));
        Trial::ignorable_test(name, move || {
            let began = Instant::now();
            let result = attempt(machine, test);
            times.lock().unwrap_or_else(PoisonError::into_inner).push((began.elapsed(), named));
            result
        })
    };
    let trials = tests.into_iter().map(trial).collect();
    let code = libtest_mimic::run(&arguments, trials).exit_code();
    say_slowest(&mut times.lock().unwrap_or_else(PoisonError::into_inner));
    code
}

/// What took ten seconds or more, the longest first: where the time of a run goes.
#[expect(clippy::print_stdout, reason = "it follows what libtest-mimic prints there")]
fn say_slowest(times: &mut [(Duration, String)]) {
    times.sort_by(|a, b| b.cmp(a));
    for (time, name) in times.iter().filter(|(time, _)| time.as_secs() >= 10) {
        println!("{:>5} s  {name}", time.as_secs());
    }
}

/// How often a test repeats what it repeats: as `VITRIFY_ROUNDS` says, else so often.
#[must_use]
pub fn rounds(otherwise: usize) -> usize {
    let said = env::var("VITRIFY_ROUNDS").ok();
    said.and_then(|it| it.parse().ok()).unwrap_or(otherwise)
}

fn attempt(machine: Machine, test: impl FnOnce() -> Outcome) -> Result<Completion, Failed> {
    let skip = |reason: String| match is_on(machine) {
        true => Err(reason.into()),
        false => Ok(Completion::ignored_with(reason)),
    };
    if let Some(reason) = missing_for(machine) {
        return skip(reason);
    }
    match test() {
        Err(error) if lacks(&*error) => skip(chain(&*error)),
        tried => tried.map(|()| Completion::Completed).map_err(|error| chain(&*error).into()),
    }
}

/// Whether a test ended because it wanted a Linux witness and there is no kernel for it, or a slow
/// device and this machine's cannot be slowed.
fn lacks(error: &(dyn Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    causes.any(|error| {
        matches!(error.downcast_ref(), Some(ImageError::NoKernel(_)))
            || matches!(error.downcast_ref(), Some(PoolError::NoLimits(_)))
    })
}

/// Whether `VITRIFY_LAB` says that we are on that machine.
fn is_on(machine: Machine) -> bool {
    let name = match machine {
        Machine::Host => "host",
        Machine::Stock => "stock",
        Machine::Zfs => "zfs",
    };
    env::var("VITRIFY_LAB").is_ok_and(|value| value == name)
}

fn missing_for(machine: Machine) -> Option<String> {
    match machine {
        Machine::Host => missing_for_any(),
        Machine::Stock if !is_on(machine) => {
            Some("needs the release's own libvirt and QEMU: `cargo xtask test stock`".to_owned())
        }
        Machine::Stock => missing_for_any(),
        Machine::Zfs if !is_on(machine) => {
            Some("needs ZFS: runs in the lab's machine, `cargo xtask test zfs`".to_owned())
        }
        Machine::Zfs => {
            let version = must("zfs", &["version"]);
            version.err().map(|error| format!("needs ZFS: {}", chain(&error)))
        }
    }
}

/// What this machine lacks to run all of the host's lab programs.
#[must_use]
pub fn missing() -> Option<String> {
    missing_for_any().or_else(|| kernel_package().err().map(|error| chain(&error)))
}

/// What it lacks to run any of them; boot-sector witnesses need no kernel.
fn missing_for_any() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root, for loop devices and the system's libvirt".to_owned());
    }
    if let Err(error) = virsh(&["version"]) {
        return Some(format!("needs libvirt: {}", chain(&error)));
    }
    if let Err(error) = must("mkfs.btrfs", &["--version"]) {
        return Some(format!("needs btrfs-progs: {}", chain(&error)));
    }
    None
}

/// An error and its causes, on one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a String cannot fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
