//! How many processes a look takes: this program starts itself with a `zfs` in its path that counts.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use vitrify_core::name::Volume;
use vitrify_core::ports::Storage;
use vitrify_host::storage::HostStorage;
use vitrify_lab::harness::{self, Outcome, Test};
use vitrify_lab::run::{must, run};
use vitrify_lab::scratch::Scratch;

use crate::fixture::pool;

pub(crate) const TESTS: &[Test] = &[
    ("a_look_takes_as_many_processes_for_hundreds_of_datasets_as_for_10", constant),
    ("a_host_without_images_on_zfs_starts_none", none),
];

/// Names a file that lists images; the program then only looks at them.
pub(crate) const PROBE: &str = "VITRIFY_LAB_PROBE";

/// Locates the images and lists their volumes' snapshots. Says how many were found.
#[expect(clippy::print_stdout, reason = "its caller reads it")]
pub(crate) fn probe(images: &Path) -> ExitCode {
    let images: Vec<PathBuf> =
        fs::read_to_string(images).unwrap_or_default().lines().map(PathBuf::from).collect();
    let located: Vec<_> = HostStorage.locate(&images).into_iter().flatten().collect();
    let volumes: Vec<Volume> = located.into_iter().map(|it| it.volume).collect();
    match HostStorage.snapshots(&volumes) {
        Ok(found) => {
            println!("{} {}", volumes.len(), found.len());
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}

/// Volumes found, snapshots found, and processes started.
fn count(images: &[PathBuf]) -> Result<[usize; 3], Box<dyn std::error::Error>> {
    let scratch = Scratch::new()?;
    let (list, log) = (scratch.path().join("images"), scratch.path().join("log"));
    let lines: Vec<_> = images.iter().map(|it| it.display().to_string()).collect();
    fs::write(&list, lines.join("\n"))?;
    fs::write(&log, "")?;
    for program in ["zfs", "zpool", "btrfs"] {
        let path = scratch.path().join(program);
        let real = must("sh", &["-c", &format!("command -v {program}")])?;
        fs::write(
            &path,
            format!("#!/bin/sh\necho x >> {}\nexec {} \"$@\"\n", log.display(), real.trim()),
        )?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    }
    let path = format!("{}:{}", scratch.path().display(), env::var("PATH")?);
    let output = Command::new(env::current_exe()?).env("PATH", path).env(PROBE, &list).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers: Vec<_> = said.split_whitespace().filter_map(|it| it.parse().ok()).collect();
    let &[volumes, snapshots] = &numbers[..] else { return Err(format!("said {said:?}").into()) };
    Ok([volumes, snapshots, fs::read_to_string(&log)?.lines().count()])
}

/// Runs a program that takes long on an emulated machine.
fn slowly(program: &str, arguments: &[&str]) -> Outcome {
    let finished = run(Command::new(program).args(arguments), Duration::from_secs(600))?;
    match finished.status.success() {
        true => Ok(()),
        false => Err(finished.stderr.into()),
    }
}

/// With 1000 datasets (`VITRIFY_ROUNDS=1000`) it is the same, and most of the time goes into making them.
fn constant() -> Outcome {
    let pool = pool(512)?;
    let name = pool.dataset("")?;
    // Many at a time, because each waits for a transaction group.
    let most = harness::rounds(300);
    let create = format!("seq {most} | xargs -P 16 -I NUMBER zfs create {name}/dNUMBER");
    slowly("sh", &["-c", &create])?;
    let images: Vec<_> =
        (1..=most).map(|number| pool.path().join(format!("d{number}/disk.img"))).collect();
    for image in &images {
        fs::write(image, "x")?;
    }
    slowly("zfs", &["snapshot", "-r", &format!("{name}@p1")])?;
    for number in [10, 100, most] {
        assert_eq!(count(&images[..number])?, [number, number, 2]);
    }
    Ok(())
}

fn none() -> Outcome {
    let scratch = Scratch::new()?;
    let image = scratch.path().join("disk.img");
    fs::write(&image, "x")?;
    let pools = must("zpool", &["list", "-H", "-o", "name"])?;
    match pools.trim().is_empty() {
        true => assert_eq!(count(&[image])?, [0, 0, 0]),
        // It may lie where a dataset of an imported pool belongs.
        false => assert_eq!(count(&[image])?, [0, 0, 1]),
    }
    Ok(())
}
