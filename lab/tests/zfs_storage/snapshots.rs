//! Snapshots that others hold, cloned, or whose dataset is gone, and what a zvol can have amiss.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::OFlags;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use vitrify_core::inventory::Need;
use vitrify_core::name::PointId;
use vitrify_core::ports::Storage;
use vitrify_core::problem::ProblemKind;
use vitrify_host::storage::HostStorage;
use vitrify_lab::harness::{Outcome, Test};
use vitrify_lab::run::must;

use crate::fixture::{OnZfs, failed, owners, zfs};

pub(crate) const TESTS: &[Test] = &[
    ("all_of_a_pool_are_of_one_transaction_group_and_carry_their_owners", one_instant),
    ("what_a_dataset_passes_on_is_not_written_on_its_snapshot", inherited),
    ("a_held_snapshot_is_refused_with_its_tag_and_the_others_go", held),
    ("what_is_held_for_a_point_survives_zfs_destroy", held_for_a_point),
    ("a_cloned_snapshot_is_refused_with_its_clones", cloned),
    ("a_destroyed_dataset_is_named", destroyed),
    ("a_copy_out_of_a_snapshot_shares_its_blocks", shared_blocks),
    ("a_zvol_of_another_size_is_not_exposed", resized),
    ("a_foreign_dataset_of_the_clones_name_is_left_alone", foreign_clone),
    ("a_device_in_use_is_not_overwritten", in_use),
];

fn owner() -> Result<PointId, Box<dyn std::error::Error>> {
    Ok("00000000-0000-4000-a000-000000000001".parse()?)
}

fn one_instant() -> Outcome {
    let fixture = OnZfs::new()?;
    let volumes = [fixture.volume("disk")?, fixture.volume("one")?, fixture.volume("other")?];
    HostStorage.snapshot(&volumes, &"p1".parse()?, &owners()?)?;
    let arguments = ["get", "-H", "-p", "-r", "-t", "snapshot", "-o", "property,value"];
    let listed = [&arguments[..], &["createtxg,vitrify:guest,vitrify:point", &fixture.base]];
    let mut lines: Vec<_> = zfs(&listed.concat())?.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 9);
    lines.sort();
    lines.dedup();
    assert_eq!(lines.len(), 3, "{lines:?}");
    Ok(())
}

fn inherited() -> Outcome {
    let fixture = OnZfs::new()?;
    let name = format!("{}/one", fixture.base);
    zfs(&["set", &format!("vitrify:point={}", owner()?), &name])?;
    zfs(&["snapshot", &format!("{name}@foreign")])?;
    let found = HostStorage.snapshots(&[fixture.volume("one")?])?;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].points, Some(Vec::new()));
    assert!(!found[0].may_be_of(&owner()?));
    Ok(())
}

fn held() -> Outcome {
    let fixture = OnZfs::new()?;
    let (kept, gone) = (fixture.take("one", "p1")?, fixture.take("one", "p2")?);
    let full = format!("{}/one@p1", fixture.base);
    zfs(&["hold", "backup", &full])?;
    let problem = failed(HostStorage.destroy(&[kept.clone(), gone]))?;
    zfs(&["release", "backup", &full])?;
    assert_eq!(problem.kind, ProblemKind::Refused);
    assert_eq!(problem.message, format!("the snapshot {full} is held: backup"));
    assert!(problem.hint.unwrap_or_default().contains(&format!("'zfs holds {full}'")));
    let left: Vec<_> = HostStorage
        .snapshots(&[fixture.volume("one")?])?
        .into_iter()
        .map(|it| it.snapshot)
        .collect();
    assert_eq!(left, std::slice::from_ref(&kept));
    HostStorage.destroy(&[kept])?;
    Ok(())
}

/// The tags under which a snapshot is held, sorted.
fn tags(full: &str) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let listed = zfs(&["holds", "-H", full])?;
    let tags = listed.lines().filter_map(|line| line.split('\t').nth(1));
    let mut tags: Vec<_> = tags.map(str::to_owned).collect();
    tags.sort();
    Ok(tags)
}

fn held_for_a_point() -> Outcome {
    let fixture = OnZfs::new()?;
    let both = [fixture.take("one", "p1")?, fixture.take("disk", "p1")?];
    let point = owners()?[0].point.clone();
    let (ours, others) = (format!("vitrify:hold:{point}"), format!("vitrify:hold:{}", owner()?));
    HostStorage.hold(&both, &point)?;
    for it in &both {
        let full = format!("{}@p1", it.volume);
        assert!(zfs(&["destroy", &full]).is_err(), "{full} is gone");
        assert_eq!(tags(&full)?, [ours.as_str()]);
    }
    // Somebody's own, and one that names a point for which it was not taken.
    let full = format!("{}@p1", both[0].volume);
    zfs(&["hold", "backup", &full])?;
    zfs(&["hold", &others, &full])?;
    HostStorage.hold(&both, &point)?;
    let found = HostStorage.snapshots(&[both[0].volume.clone()])?.remove(0);
    assert_eq!(found.held_for, Some(vec![point.clone()]));
    let mut needed = found.needed;
    needed.sort_by_key(ToString::to_string);
    assert_eq!(needed, [Need::Held("backup".to_owned()), Need::Held(others.clone())]);
    for _ in 0..2 {
        HostStorage.release(&both, &point)?;
    }
    assert_eq!(tags(&full)?, ["backup", others.as_str()]);
    let problem = failed(HostStorage.destroy(&both))?;
    assert_eq!(problem.kind, ProblemKind::Refused);
    assert_eq!(HostStorage.snapshots(&[both[1].volume.clone()])?, []);
    zfs(&["release", "backup", &full])?;
    zfs(&["release", &others, &full])?;
    HostStorage.destroy(&both)?;
    Ok(())
}

fn cloned() -> Outcome {
    let fixture = OnZfs::new()?;
    let (kept, gone) = (fixture.take("one", "p1")?, fixture.take("one", "p2")?);
    let clone = format!("{}/copy", fixture.base);
    zfs(&["clone", &format!("{}/one@p1", fixture.base), &clone])?;
    let problem = failed(HostStorage.destroy(&[gone, kept.clone()]))?;
    assert_eq!(problem.kind, ProblemKind::Refused);
    assert!(problem.message.ends_with(&format!("has clones: {clone}")), "{problem}");
    assert_eq!(HostStorage.snapshots(&[fixture.volume("one")?])?.len(), 1);
    zfs(&["destroy", &clone])?;
    HostStorage.destroy(&[kept])?;
    Ok(())
}

fn destroyed() -> Outcome {
    let fixture = OnZfs::new()?;
    let (snapshot, volume) = (fixture.take("one", "p1")?, fixture.volume("one")?);
    zfs(&["destroy", "-r", volume.as_str()])?;
    let problem =
        failed(HostStorage.snapshot(std::slice::from_ref(&volume), &"p2".parse()?, &owners()?))?;
    assert_eq!(problem.kind, ProblemKind::NotFound);
    assert!(problem.message.contains(volume.as_str()), "{problem}");
    assert_eq!(HostStorage.snapshots(&[volume])?, []);
    let gone = failed(HostStorage.check_read_only(&snapshot))?;
    assert_eq!(gone.kind, ProblemKind::NotFound);
    HostStorage.destroy(&[snapshot])?;
    Ok(())
}

fn shared_blocks() -> Outcome {
    let fixture = OnZfs::new()?;
    let image = fixture.root.join("one/disk.img");
    fs::write(&image, vec![7; 32 << 20])?;
    let snapshot = fixture.take("one", "p1")?;
    let before = allocated(&fixture)?;
    let beside = fixture.root.join("one/copy.img");
    HostStorage.copy_from_snapshot(&snapshot, Path::new("disk.img"), &beside, &image)?;
    must("zpool", &["sync"])?;
    let grown = allocated(&fixture)?.saturating_sub(before);
    assert!(fs::read(&beside)? == fs::read(&image)?);
    assert_eq!(fs::metadata(&beside)?.mode(), fs::metadata(&image)?.mode());
    assert!(grown < 8 << 20, "the pool grew by {grown} bytes");
    Ok(())
}

fn allocated(fixture: &OnZfs) -> Result<u64, Box<dyn std::error::Error>> {
    let pool = fixture.base.split('/').next().unwrap_or_default();
    Ok(must("zpool", &["list", "-H", "-p", "-o", "allocated", pool])?.trim().parse()?)
}

fn resized() -> Outcome {
    let fixture = OnZfs::new()?;
    let snapshot = fixture.take("disk", "p1")?;
    let volume = fixture.volume("disk")?;
    zfs(&["set", "volsize=16M", volume.as_str()])?;
    let problem = failed(HostStorage.expose(&snapshot, &owner()?))?;
    assert_eq!(problem.kind, ProblemKind::Refused);
    let hint = problem.hint.unwrap_or_default();
    assert!(hint.contains(&format!("'zfs set volsize=8388608 {volume}'")), "{hint}");
    Ok(())
}

fn foreign_clone() -> Outcome {
    let fixture = OnZfs::new()?;
    let (snapshot, owner) = (fixture.take("disk", "p1")?, owner()?);
    let clone = format!("{}.vitrify-{owner}-{}", snapshot.volume, snapshot.id);
    zfs(&["clone", &format!("{}@p1", snapshot.volume), &clone])?;
    for problem in [
        failed(HostStorage.expose(&snapshot, &owner))?,
        failed(HostStorage.conceal(&snapshot, &owner))?,
    ] {
        assert_eq!(problem.kind, ProblemKind::Refused, "{problem}");
    }
    zfs(&["list", &clone]).map(drop)
}

fn in_use() -> Outcome {
    let fixture = OnZfs::new()?;
    let (source, target) = (fixture.zvol("source", "8M")?, fixture.zvol("target", "8M")?);
    let exclusive = i32::try_from(OFlags::EXCL.bits())?;
    let used = File::options().read(true).custom_flags(exclusive).open(&target)?;
    let problem = failed(HostStorage.overwrite(&source, &target))?;
    assert_eq!(problem.kind, ProblemKind::Refused, "{problem}");
    drop(used);
    HostStorage.overwrite(&source, &target)?;
    let other = fixture.zvol("small", "4M")?;
    let problem = failed(HostStorage.overwrite(&source, &other))?;
    assert_eq!(problem.kind, ProblemKind::Refused, "{problem}");
    Ok(())
}
