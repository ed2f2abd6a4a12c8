//! The rules of the storage on real ZFS, and what only ZFS can have amiss.

mod fixture;
mod places;
mod pools;
mod processes;
mod snapshots;

use std::env;
use std::path::Path;
use std::process::ExitCode;

use vitrify_core::conformance::storage;
use vitrify_lab::harness::{self, Machine, Outcome};

use crate::fixture::{OnZfs, Shared};

type Test = Box<dyn FnOnce() -> Outcome + Send>;

fn main() -> ExitCode {
    if let Some(images) = env::var_os(processes::PROBE) {
        return processes::probe(Path::new(&images));
    }
    let mut tests: Vec<(String, Test)> = Vec::new();
    for (name, check) in storage::rules() {
        let rule = move || Ok(check(&mut OnZfs::new()?)?);
        tests.push((format!("rules::{name}"), Box::new(rule)));
    }
    for &(name, check) in storage::DEVICES {
        let rule = move || Ok(check(&mut OnZfs::new()?)?);
        tests.push((format!("rules::devices::{name}"), Box::new(rule)));
    }
    let lists = [places::TESTS, snapshots::TESTS, pools::TESTS, processes::TESTS];
    for &(name, test) in lists.into_iter().flatten() {
        tests.push((name.to_owned(), Box::new(test)));
    }
    let code = harness::run_named(Machine::Zfs, 1, tests);
    Shared::remove();
    code
}
