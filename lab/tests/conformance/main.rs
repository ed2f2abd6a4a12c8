//! The rules of every port, as `vitrify-core` states them and keeps them with its fake, on real
//! Btrfs, real homes, a real journal and real guests.

mod homes;
mod hypervisor;
mod journal;
mod storage;

use std::process::ExitCode;

use vitrify_core::conformance;
use vitrify_lab::harness::{self, Machine, Outcome};

/// A test before it is run.
type Rule = Box<dyn FnOnce() -> Outcome + Send>;

fn main() -> ExitCode {
    let mut rules: Vec<(String, Rule)> = Vec::new();
    let mut add =
        |port: &str, name: &str, rule: Rule| rules.push((format!("{port}::{name}"), rule));
    for (name, check) in conformance::storage::rules() {
        add("btrfs", name, Box::new(move || Ok(check(&mut storage::OnBtrfs::new()?)?)));
    }
    for &(name, check) in conformance::homes::RULES {
        add(
            "homes_in_a_folder",
            name,
            Box::new(move || Ok(check(&mut homes::Homes::in_folder()?)?)),
        );
        add("homes_on_btrfs", name, Box::new(move || Ok(check(&mut homes::Homes::on_btrfs()?)?)));
    }
    for &(name, check) in conformance::journal::RULES {
        add("journal", name, Box::new(move || Ok(check(&mut journal::OnDisk::new()?)?)));
    }
    for (name, check) in conformance::hypervisor::rules() {
        add("libvirt", name, Box::new(move || Ok(check(&mut hypervisor::OneGuest::new()?)?)));
    }
    // Their guests do next to nothing: mostly libvirt is waited for.
    harness::run_named(Machine::Host, 4, rules)
}
