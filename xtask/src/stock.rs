//! `cargo xtask stock`: the release's own libvirt and QEMU where the host has newer ones, in a chroot
//! with daemons of its own. The host's kernel is under both, its libvirt hears nothing of it.

use std::fs;

use crate::apt;
use crate::debian::{Recipe, locked, run_in, runs_in};
use crate::keeper::{self, Kept};
use crate::payload::Payload;
use crate::process::{Failure, as_root, say};
use crate::steps::setup;

/// The test programs that run in it.
const TESTS: &[&str] = &["stock"];

const RECIPE: Recipe = Recipe {
    home: "stock",
    what: "stock Debian",
    takes: "about a minute on two cores",
    script: include_str!("stock/build.sh"),
    packages: &[
        "libvirt-daemon-system",
        "libvirt-daemon-driver-qemu",
        "libvirt-clients",
        "qemu-system-x86",
        "qemu-utils",
        "btrfs-progs",
        "e2fsprogs",
        "mount",
        "procps",
    ],
    mark: "root",
    definitions: apt::stock_definitions,
    prepare: |_| Ok(()),
};

/// Puts the kernel's setting back whatever happens inside.
const OUTSIDE: &str = include_str!("stock/run.sh");
const INSIDE: &str = include_str!("stock/inside.sh");

/// Runs the tests that are for it.
///
/// # Errors
/// [`Failure`], as for all that follow.
pub(crate) fn test() -> Result<(), Failure> {
    if apt::codename()? != apt::BACKPORTED {
        say("stock: skipped: the release's own libvirt and QEMU are those that the lab ran with");
        return Ok(());
    }
    for program in TESTS {
        run(&[program])?;
    }
    Ok(())
}

/// Runs a command in it.
pub(crate) fn run(words: &[&str]) -> Result<(), Failure> {
    setup()?;
    let tree = RECIPE.ensure()?;
    let payload = Payload::build(TESTS, &[])?;
    // They change a setting of the kernel.
    let _lock = locked(&tree.with_file_name("running"), "another run in the stock Debian")?;
    let cannot = |error| Failure::new(format!("cannot enter the stock Debian: {error}"));
    // The keepers of these were killed too, or are at it.
    for (run, _) in runs_in(&tree).filter(|(_, alive)| !alive) {
        let _ = fs::remove_dir_all(run);
    }
    let folder = run_in(&tree);
    fs::create_dir(&folder).map_err(cannot)?;
    payload.fill(&folder.join("payload")).map_err(cannot)?;
    let [tree, folder] = [&tree, &folder].map(|it| it.display().to_string());
    let inside = [&["sh", "-c", OUTSIDE, "outside", INSIDE, "inside", &tree, &folder], words];
    let mut shell = as_root("sh", &keeper::arguments(&folder, &inside.concat()))?;
    let ended = Kept::start(&mut shell).and_then(|mut kept| kept.wait());
    match ended.map_err(cannot)? {
        status if status.success() => Ok(()),
        status => Err(Failure::new(format!("`{}` failed ({status})", words.join(" ")))),
    }
}
