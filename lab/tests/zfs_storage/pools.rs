//! Pools that are full, gone, or do not answer. Each test has its own.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::thread;

use vitrify_core::name::Volume;
use vitrify_core::ports::Storage;
use vitrify_core::problem::ProblemKind;
use vitrify_host::storage::HostStorage;
use vitrify_lab::harness::{Outcome, Test};
use vitrify_lab::run::must;
use vitrify_lab::scratch::Scratch;

use crate::fixture::{failed, locate, owners, pool, wait_until, zfs};

pub(crate) const TESTS: &[Test] = &[
    ("a_pool_that_is_nearly_full_is_warned_of", nearly_full),
    ("a_quota_that_is_nearly_reached_is_warned_of", quota),
    ("no_room_for_a_snapshot_is_no_space", no_space),
    ("an_exported_pool_is_an_error", exported),
    ("a_suspended_pool_is_an_error_and_no_wait", suspended),
    ("two_pools_are_two_groups_and_a_failure_in_one_leaves_nothing_in_the_other", two_pools),
];

fn nearly_full() -> Outcome {
    let pool = pool(128)?;
    let image = pool.path().join("disk.img");
    let free = zfs(&["get", "-H", "-p", "-o", "value", "available", &pool.dataset("")?])?;
    let most = free.trim().parse::<usize>()? / 100 * 85;
    fs::write(&image, vec![7; most])?;
    must("zpool", &["sync"])?;
    let warnings = locate(&image)?.warnings.join("\n");
    assert!(warnings.contains(&format!("the pool {} is 8", pool.dataset("")?)), "{warnings}");
    assert!(warnings.contains(" % full"), "{warnings}");
    Ok(())
}

fn quota() -> Outcome {
    let pool = pool(128)?;
    let name = pool.dataset("small")?;
    zfs(&["create", "-o", "quota=10M", &name])?;
    let image = pool.path().join("small/disk.img");
    let mut file = File::create_new(&image)?;
    // Until there is no more room.
    while file.write_all(&[7; 1 << 20]).and_then(|()| file.sync_all()).is_ok() {}
    let warnings = locate(&image)?.warnings.join("\n");
    assert!(warnings.contains(&format!("the dataset {name} has used")), "{warnings}");
    assert!(warnings.contains("of its quota of 10.0 MiB"), "{warnings}");
    Ok(())
}

fn no_space() -> Outcome {
    let pool = pool(128)?;
    let name = pool.dataset("disk")?;
    zfs(&["create", "-V", "8M", &name])?;
    let device = std::path::Path::new("/dev/zvol").join(&name);
    wait_until("udev links the zvol", || device.exists())?;
    let mut file = File::options().write(true).open(&device)?;
    file.write_all(&[7; 7 << 20])?;
    file.sync_all()?;
    drop(file);
    must("zpool", &["sync"])?;
    // Another takes nearly all that is left, without writing it.
    let free = zfs(&["get", "-H", "-p", "-o", "value", "available", &pool.dataset("")?])?;
    let reservation = format!("reservation={}", free.trim().parse::<u64>()? - (2 << 20));
    zfs(&["create", "-o", &reservation, &pool.dataset("rest")?])?;
    let warnings = locate(&device)?.warnings.join("\n");
    assert!(warnings.contains("beside its refreservation"), "{warnings}");
    let volume: Volume = name.parse()?;
    let taken = HostStorage.snapshot(&[volume], &"p1".parse()?, &owners()?);
    let problem = failed(taken)?;
    assert_eq!(problem.kind, ProblemKind::NoSpace, "{problem}");
    Ok(())
}

fn exported() -> Outcome {
    let pool = pool(128)?;
    let name = pool.dataset("a")?;
    zfs(&["create", &name])?;
    let volume: Volume = name.parse()?;
    let taken = HostStorage.snapshot(std::slice::from_ref(&volume), &"p1".parse()?, &owners()?)?;
    let image = pool.path().join("a/disk.img");
    fs::write(&image, "x")?;
    let exported = pool.dataset("")?;
    must("zpool", &["export", &exported])?;
    for problem in [
        failed(HostStorage.snapshots(std::slice::from_ref(&volume)))?,
        failed(HostStorage.snapshot(&[volume], &"p2".parse()?, &owners()?))?,
        failed(HostStorage.check_read_only(&taken[0]))?,
        failed(HostStorage.destroy(&taken))?,
    ] {
        assert_eq!(problem.kind, ProblemKind::Lacking, "{problem}");
        assert_eq!(problem.hint, Some(format!("'zpool import {exported}'")));
    }
    assert_eq!(failed(locate(&image))?.kind, ProblemKind::NotFound);
    let folder = pool.path().parent().unwrap_or(Path::new("/")).display().to_string();
    must("zpool", &["import", "-d", &folder, &exported])?;
    Ok(())
}

/// The pool's device is a file on a tmpfs that is smaller than the pool.
fn suspended() -> Outcome {
    let scratch = Scratch::new()?;
    let place = scratch.path().display().to_string();
    // Called so, it is swept if this process dies.
    let pool = scratch.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    must("mount", &["-t", "tmpfs", "-o", "size=80M", "lab", &place])?;
    let tested = (|| -> Outcome {
        let device = scratch.path().join("device");
        File::create_new(&device)?.set_len(256 << 20)?;
        let device = device.display().to_string();
        let mountpoint = format!("mountpoint={place}/pool");
        must("zpool", &["create", "-O", &mountpoint, "-O", "compression=off", &pool, &device])?;
        let (name, root) = (format!("{pool}/a"), scratch.path().join("pool/a"));
        zfs(&["create", &name])?;
        let image = root.join("disk.img");
        fs::write(&image, "x")?;
        let volume: Volume = name.parse()?;
        let taken =
            HostStorage.snapshot(std::slice::from_ref(&volume), &"p1".parse()?, &owners()?)?;
        let (second, owners) = ("p2".parse()?, owners()?);
        let filler = root.join("filler");
        let writer = thread::spawn(move || fs::write(filler, vec![7; 100 << 20]));
        let state = format!("/proc/spl/kstat/zfs/{pool}/state");
        let is = |wanted: &str| fs::read_to_string(&state).is_ok_and(|it| it.trim() == wanted);
        let reached = wait_until("the pool is suspended", || is("SUSPENDED"));
        let judged = reached.map(|()| {
            [
                HostStorage.snapshots(std::slice::from_ref(&volume)).map(drop),
                HostStorage.snapshot(&[volume], &second, &owners).map(drop),
                HostStorage.check_read_only(&taken[0]),
                HostStorage.destroy(&taken),
                locate(&image).map(drop),
            ]
            .into_iter()
            .map(|answer| answer.map_err(|problem| (problem.kind, problem.message)))
            .collect::<Vec<_>>()
        });
        must("mount", &["-o", "remount,size=400M", &place])?;
        wait_until("the pool goes on", || {
            must("zpool", &["clear", &pool]).is_ok() && !is("SUSPENDED")
        })?;
        writer.join().map_err(|_| "the writer panicked")??;
        for answer in judged? {
            let Err((kind, message)) = answer else {
                return Err("a suspended pool gave an answer".into());
            };
            assert_eq!(kind, ProblemKind::Lacking, "{message}");
            assert!(message.contains("is suspended"), "{message}");
        }
        Ok(())
    })();
    let _ = must("zpool", &["destroy", "-f", &pool]);
    must("umount", &["--recursive", &place])?;
    tested
}

fn two_pools() -> Outcome {
    let pools = [pool(128)?, pool(128)?];
    let mut volumes: Vec<Volume> = Vec::new();
    for pool in &pools {
        volumes.push(pool.dataset("")?.parse()?);
    }
    let (name, other) = ("p1".parse()?, "p2".parse()?);
    let taken = HostStorage.snapshot(&volumes, &name, &owners()?)?;
    let order: Vec<_> = taken.iter().map(|it| it.volume.clone()).collect();
    assert_eq!(order, volumes);
    zfs(&["snapshot", &format!("{}@p2", volumes[1])])?;
    let problem = failed(HostStorage.snapshot(&volumes, &other, &owners()?))?;
    assert_eq!(problem.kind, ProblemKind::Refused);
    assert_eq!(HostStorage.snapshots(&volumes[..1])?.len(), 1);
    Ok(())
}
