//! The lab's own ground on ZFS: pools, datasets and volumes, guests on them, and how what is left
//! behind is found.

use std::path::Path;
use std::process::ExitCode;

use vitrify_lab::guest::{Format, Guest};
use vitrify_lab::harness::{self, Machine, Outcome};
use vitrify_lab::leftovers::on_zfs;
use vitrify_lab::pool::{Kind, Pool};
use vitrify_lab::run::must;
use vitrify_lab::scene::{BOOT, SOON};
use vitrify_lab::world::World;
use witness::line::From;

/// Size of a pool, in MiB; sparse.
const POOL_MIB: u64 = 512;

fn main() -> ExitCode {
    harness::run_on(
        Machine::Zfs,
        2,
        &[
            ("a_pool_is_gone_with_its_owner", a_pool_is_gone_with_its_owner),
            ("two_pools_have_two_names", two_pools_have_two_names),
            ("snapshots_clones_and_holds_are_found", snapshots_clones_and_holds_are_found),
            ("a_guest_counts_on_a_file_and_a_volume", a_guest_counts_on_a_file_and_a_volume),
        ],
    )
}

fn a_pool_is_gone_with_its_owner() -> Outcome {
    let pool = Pool::zfs(POOL_MIB)?;
    assert_eq!(pool.kind(), Kind::Zfs);
    let name = pool.dataset("")?;
    let place = pool.subvolume("guest")?;
    let mounted =
        must("zfs", &["get", "-H", "-o", "value", "mountpoint", &pool.dataset("guest")?])?;
    assert_eq!(Path::new(&mounted), place);
    std::fs::write(place.join("file"), "content")?;
    let device = pool.zvol("disk", 16)?;
    assert_eq!(must("blockdev", &["--getsize64", &device.display().to_string()])?, "16777216");
    must("zfs", &["snapshot", &format!("{name}/guest@one")])?;
    drop(pool);
    assert!(must("zpool", &["list", "-H", &name]).is_err(), "{name} is still there");
    assert!(!place.exists());
    Ok(())
}

fn two_pools_have_two_names() -> Outcome {
    let pools = [Pool::zfs(POOL_MIB)?, Pool::zfs(POOL_MIB)?];
    let [one, other] = [pools[0].dataset("")?, pools[1].dataset("")?];
    assert_ne!(one, other);
    let listed = must("zpool", &["list", "-H", "-o", "name"])?;
    assert!([one, other].iter().all(|name| listed.lines().any(|it| it == name)), "{listed}");
    Ok(())
}

fn snapshots_clones_and_holds_are_found() -> Outcome {
    let pool = Pool::zfs(POOL_MIB)?;
    pool.subvolume("guest")?;
    let [guest, copy] = [pool.dataset("guest")?, pool.dataset("copy")?];
    let snapshot = format!("{guest}@one");
    assert_eq!(on_zfs(&pool, &[])?, [""; 0]);
    must("zfs", &["snapshot", &snapshot])?;
    let missing = format!("{guest}@other");
    let lacks = [format!("snapshot without a point {snapshot}")];
    assert_eq!(on_zfs(&pool, &[])?, lacks);
    assert_eq!(on_zfs(&pool, std::slice::from_ref(&snapshot))?, [""; 0]);
    must("zfs", &["clone", &snapshot, &copy])?;
    must("zfs", &["hold", "keep", &snapshot])?;
    let expected = [
        format!("point without its snapshot {missing}"),
        format!("clone {copy}"),
        format!("hold keep on {snapshot}"),
    ];
    assert_eq!(on_zfs(&pool, &[snapshot.clone(), missing])?, expected);
    must("zfs", &["release", "keep", &snapshot])?;
    Ok(())
}

fn a_guest_counts_on_a_file_and_a_volume() -> Outcome {
    let world = World::on(Pool::zfs(POOL_MIB)?)?;
    let volume = world.pool.zvol("disk", 16)?;
    let file = world.pool.subvolume("guest")?.join("b.raw");
    let witness = world.witness("w").disk(&volume, Format::Block).disk(&file, Format::Raw);
    let mut guest = world.start(&witness)?;
    let ready = guest.serial.ready(BOOT)?;
    assert_eq!((ready.disks, ready.from), (2, From::Fresh));
    guest.serial.steps_on(20, SOON)?;
    boots_cold(&mut guest)?;
    assert_eq!(guest.serial.mismatches(), [""; 0]);
    Ok(())
}

fn boots_cold(guest: &mut Guest) -> Outcome {
    guest.destroy()?;
    guest.serial.skip_to_end()?;
    let last = guest.serial.latest().ok_or("nothing was said")?;
    guest.start()?;
    let ready = guest.serial.ready(BOOT)?;
    assert_eq!(ready.from, From::Cold);
    assert!((last.count..last.count + 10).contains(&ready.count), "{ready:?} after {last:?}");
    assert_eq!(guest.serial.steps_on(20, SOON)?.mismatches, 0);
    Ok(())
}
