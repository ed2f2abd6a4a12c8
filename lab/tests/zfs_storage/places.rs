//! Where images lie: datasets in datasets, not mounted, mounted by hand, and the names of zvols.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use vitrify_core::ports::Storage;
use vitrify_core::problem::ProblemKind;
use vitrify_host::storage::HostStorage;
use vitrify_lab::harness::{Outcome, Test};
use vitrify_lab::run::must;
use vitrify_lab::scratch::Scratch;

use crate::fixture::{OnZfs, failed, locate, zfs};

pub(crate) const TESTS: &[Test] = &[
    ("a_nested_dataset_is_found_as_what_it_is", nested),
    ("a_dataset_that_is_not_mounted_is_named_and_never_its_parent", unmounted),
    ("a_legacy_mountpoint_is_found_by_its_mount", legacy),
    ("a_bind_mount_leads_to_the_path_in_its_dataset", bind_mount),
    ("every_link_to_a_zvol_leads_to_it_and_its_number_is_warned_of", links),
    ("a_partition_of_a_zvol_is_lacking", partition),
    ("an_object_is_known_again_after_a_remount_and_not_after_its_number_was_used_again", identity),
];

fn nested() -> Outcome {
    let mut fixture = OnZfs::new()?;
    zfs(&["create", &format!("{}/one/inner", fixture.base)])?;
    let image = fixture.root.join("one/inner/disk.img");
    fixture.put(&image, 1)?;
    let location = locate(&image)?;
    assert_eq!(location.volume, fixture.volume("one/inner")?);
    assert_eq!(location.path_in_volume, Some("disk.img".into()));
    assert_eq!(Some(location.group.as_str()), fixture.base.split('/').next());
    Ok(())
}

fn unmounted() -> Outcome {
    let mut fixture = OnZfs::new()?;
    let (name, image) = (format!("{}/one", fixture.base), fixture.root.join("one/disk.img"));
    zfs(&["unmount", &name])?;
    let absent = failed(locate(&image))?;
    // Somebody writes where the dataset should be: a file of the parent.
    fixture.put(&image, 1)?;
    let shadowed = failed(locate(&image))?;
    for problem in [absent, shadowed] {
        assert_eq!(problem.kind, ProblemKind::Lacking, "{problem}");
        assert!(problem.message.contains(&format!("the dataset {name} belongs at")), "{problem}");
        assert_eq!(problem.hint, Some(format!("'zfs mount {name}'")));
    }
    fs::remove_file(&image)?;
    zfs(&["set", "canmount=noauto", &name])?;
    fixture.put(&image, 1)?;
    assert_eq!(locate(&image)?.volume.as_str(), fixture.base);
    Ok(())
}

fn legacy() -> Outcome {
    let mut fixture = OnZfs::new()?;
    let name = format!("{}/one", fixture.base);
    zfs(&["set", "mountpoint=legacy", &name])?;
    let scratch = Scratch::new()?;
    let place = scratch.path().display().to_string();
    must("mount", &["-t", "zfs", &name, &place])?;
    let image = scratch.path().join("disk.img");
    let mut work = || -> Outcome {
        fixture.put(&image, 1)?;
        assert_eq!(locate(&image)?.volume.as_str(), name);
        let snapshot = fixture.take("one", "p1")?;
        let copy = scratch.path().join("copy");
        HostStorage.copy_from_snapshot(&snapshot, Path::new("disk.img"), &copy, &image)?;
        assert_eq!(fs::read(copy)?, fs::read(&image)?);
        Ok(())
    };
    let worked = work();
    must("umount", &["--recursive", &place])?;
    worked
}

fn bind_mount() -> Outcome {
    let mut fixture = OnZfs::new()?;
    let folder = fixture.root.join("one/images");
    fs::create_dir(&folder)?;
    fixture.put(&folder.join("disk.img"), 1)?;
    let scratch = Scratch::new()?;
    let place = scratch.path().display().to_string();
    must("mount", &["--bind", &folder.display().to_string(), &place])?;
    let location = locate(&scratch.path().join("disk.img"));
    must("umount", &[&place])?;
    let location = location?;
    assert_eq!(location.volume, fixture.volume("one")?);
    assert_eq!(location.path_in_volume, Some("images/disk.img".into()));
    Ok(())
}

fn links() -> Outcome {
    let fixture = OnZfs::new()?;
    let volume = fixture.volume("disk")?;
    let path = Path::new("/dev/zvol").join(volume.as_str());
    let number = fs::canonicalize(&path)?;
    let scratch = Scratch::new()?;
    let by_id = scratch.path().join("by-id");
    symlink(&path, &by_id)?;
    let mut objects = Vec::new();
    for (path, warned) in [(&path, false), (&by_id, false), (&number, true)] {
        let location = locate(path)?;
        assert_eq!((&location.volume, &location.path_in_volume), (&volume, &None));
        let found = location.warnings.iter().any(|it| it.contains("is another zvol after a boot"));
        assert_eq!(found, warned, "{}: {:?}", path.display(), location.warnings);
        objects.push(location.object);
    }
    objects.dedup();
    assert_eq!(objects.len(), 1);
    Ok(())
}

fn partition() -> Outcome {
    let fixture = OnZfs::new()?;
    let disk = Path::new("/dev/zvol").join(fixture.volume("disk")?.as_str());
    // A partition table of one partition, by hand: no tool for it need be installed.
    let mut sector = vec![0; 512];
    sector[446..462].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0]);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    fs::OpenOptions::new()
        .write(true)
        .open(&disk)
        .and_then(|file| std::os::unix::fs::FileExt::write_all_at(&file, &sector, 0))?;
    must("blockdev", &["--rereadpt", &disk.display().to_string()])?;
    let device = fs::canonicalize(&disk)?;
    let part = PathBuf::from(format!("{}p1", device.display()));
    crate::fixture::wait_until("the partition comes up", || part.exists())?;
    let problem = failed(locate(&part))?;
    assert_eq!(problem.kind, ProblemKind::Lacking);
    assert!(problem.message.contains("is a partition of a zvol"), "{problem}");
    Ok(())
}

fn identity() -> Outcome {
    let mut fixture = OnZfs::new()?;
    let name = format!("{}/one", fixture.base);
    let image = fixture.root.join("one/disk.img");
    fixture.put(&image, 1)?;
    let before = HostStorage.object(&image)?;
    zfs(&["unmount", &name])?;
    zfs(&["mount", &name])?;
    assert_eq!(HostStorage.object(&image)?, before);
    zfs(&["rename", &name, &format!("{name}-renamed")])?;
    let moved = fixture.root.join("one-renamed/disk.img");
    assert_eq!(HostStorage.object(&moved)?, before);
    // Until ZFS gives the number to a new file.
    let number = fs::metadata(&moved)?.ino();
    fs::remove_file(&moved)?;
    must("zpool", &["sync"])?;
    for attempt in 0..2000 {
        let path = moved.with_file_name(format!("f{attempt}"));
        fs::write(&path, "x")?;
        if fs::metadata(&path)?.ino() == number {
            assert_ne!(HostStorage.object(&path)?, before);
            break;
        }
    }
    zfs(&["rename", &format!("{name}-renamed"), &name])?;
    Ok(())
}
