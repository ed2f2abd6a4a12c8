//! Runs the lab's tests one after the other and reports those that cannot run on this machine as
//! skipped, with the reason. With `VITRIFY_LAB=required`, as `cargo xtask test` sets it after its
//! set-up, they fail instead.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::image::kernel_package;
use crate::run::{must, virsh};

/// What a test returns.
pub type Outcome = Result<(), Box<dyn Error>>;
/// A name and what it does.
pub type Test = (&'static str, fn() -> Outcome);

/// The main function of a test program. Takes `cargo test`'s arguments (a filter, `--list` and so
/// on).
#[must_use]
pub fn run(tests: &[Test]) -> ExitCode {
    run_named(tests.iter().map(|&(name, test)| (name.to_owned(), test)))
}

/// The same for tests that are not known by name before.
#[must_use]
pub fn run_named<F>(tests: impl IntoIterator<Item = (String, F)>) -> ExitCode
where
    F: FnOnce() -> Outcome + Send + 'static,
{
    let mut arguments = Arguments::from_args();
    // Two cores are shared by two emulated guests; more at once only measure each other.
    arguments.test_threads.get_or_insert(1);
    let trials = tests
        .into_iter()
        .map(|(name, test)| Trial::ignorable_test(name, move || attempt(test)))
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn attempt(test: impl FnOnce() -> Outcome) -> Result<Completion, Failed> {
    if let Some(reason) = missing() {
        let required = env::var("VITRIFY_LAB").is_ok_and(|value| value == "required");
        let skipped = Completion::ignored_with(&reason);
        return if required { Err(reason.into()) } else { Ok(skipped) };
    }
    test().map(|()| Completion::Completed).map_err(|error| chain(&*error).into())
}

/// What this machine lacks to run any lab test.
#[must_use]
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root, for loop devices and the system's libvirt".to_owned());
    }
    if let Err(error) = virsh(&["version"]) {
        return Some(format!("needs libvirt: {}", chain(&error)));
    }
    if let Err(error) = must("mkfs.btrfs", &["--version"]) {
        return Some(format!("needs btrfs-progs: {}", chain(&error)));
    }
    kernel_package().err().map(|error| chain(&error))
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
