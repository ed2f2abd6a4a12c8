//! What `repair` finds in the world and leaves as it is: it is somebody else's, or nothing says any more
//! whose it is. Each is named, with what ends it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::definition::Definition;
use crate::inventory::{Disk, FoundSnapshot, Guest, GuestState};
use crate::manifest::Manifest;
use crate::name::SnapshotId;
use crate::ports::FoundPoint;

/// Something that is left as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Whose it is: `guest web`, `volume tank/vm/web`.
    pub subject: String,
    /// What it is.
    pub what: String,
    /// What ends it.
    pub remedy: String,
}

/// What is known of a guest that nothing of ours is at work on.
#[derive(Debug)]
pub struct Known<'a> {
    /// The guest.
    pub guest: &'a Guest,
    /// Its live definition, or the inactive one where it is shut off.
    pub definition: &'a Definition,
    /// The external snapshots that libvirt knows of it, by name.
    pub snapshots: Vec<String>,
    /// Whether its QEMU has been told to stream its RAM while it runs on.
    pub streams: bool,
    /// Its newest point.
    pub newest: Option<&'a Manifest>,
}

/// What is foreign about a guest.
pub fn of_guest(known: &Known<'_>) -> Vec<Foreign> {
    let name = &known.guest.name;
    let mut found = Vec::new();
    let mut add = |what: String, remedy: String| {
        found.push(Foreign { subject: format!("guest {name}"), what, remedy });
    };
    match known.guest.state {
        GuestState::PausedByUser => {
            add("is suspended, not by us".into(), format!("'virsh resume {name}' lets it run"));
        }
        GuestState::PausedOtherwise => add(
            "is paused, and by nobody's 'virsh suspend'".into(),
            format!("'virsh domstate --reason {name}' tells why"),
        ),
        GuestState::Running | GuestState::ShutOff => {}
    }
    if let Some(job) = &known.guest.job {
        add(
            format!("libvirt is at work on it, not for us: {job}"),
            format!("'virsh domjobinfo {name}' tells more, 'virsh domjobabort {name}' ends it"),
        );
    }
    if known.streams {
        add(
            "its QEMU's capability 'background-snapshot' is on, and no capture of ours is recorded"
                .into(),
            format!(
                "'virsh qemu-monitor-command {name} --hmp migrate_set_capability \
                 background-snapshot off' switches it off"
            ),
        );
    }
    for disk in &known.definition.disks {
        let target = &disk.target;
        if disk.mirror {
            add(
                format!("a block job is at work on disk {target}, not for us"),
                format!("'virsh blockjob {name} {target}' tells more, with --abort it ends it"),
            );
        } else if let Some((top, base)) = overlay(disk, known.newest) {
            add(
                format!(
                    "disk {target} is on an overlay that is not ours: {} over {}",
                    top.display(),
                    base.display()
                ),
                format!(
                    "'virsh blockcommit {name} {target} --active --pivot --base {}' brings it back",
                    base.display()
                ),
            );
        }
    }
    if !known.snapshots.is_empty() {
        let names = known.snapshots.join(", ");
        add(
            format!("libvirt has external snapshots of it, not ours: {names}"),
            format!("'virsh snapshot-list {name} --external' tells more"),
        );
    }
    found
}

/// The top and the base of a chain that somebody made of a disk: the newest point has the disk on what lies
/// below now, or the top is called as libvirt calls overlays, the base's name with another extension.
/// A disk that has always had a golden image behind it is no such thing.
fn overlay<'a>(disk: &'a Disk, newest: Option<&Manifest>) -> Option<(&'a Path, &'a Path)> {
    let top = disk.source.path()?;
    let last = newest.and_then(|it| it.disks.iter().find(|it| it.target == disk.target));
    let is_base = |below: &&PathBuf| match last {
        Some(last) => last.path == **below && last.path != *top,
        None => {
            let (Some(stem), Some(name)) = (below.file_stem(), top.file_stem()) else {
                return false;
            };
            below.parent() == top.parent() && stem == name
        }
    };
    disk.backing.iter().find(is_base).map(|base| (&**top, &**base))
}

/// The snapshots that were taken for points of ours, or lie among those, and that no point needs. Nothing
/// where a point cannot be read, because it might be the one.
pub fn without_a_point(found: &[FoundSnapshot], points: &[FoundPoint]) -> Vec<Foreign> {
    let mut needed: BTreeSet<&SnapshotId> = BTreeSet::new();
    for point in points {
        let Ok(manifest) = &point.manifest else { return Vec::new() };
        needed.extend(manifest.volumes.iter().map(|it| &it.id));
    }
    let is_lost = |it: &&FoundSnapshot| {
        !needed.contains(&it.snapshot.id) && it.points.as_ref().is_none_or(|it| !it.is_empty())
    };
    let told = |it: &FoundSnapshot| {
        let (volume, name) = (&it.snapshot.volume, &it.snapshot.name);
        let remedy = match volume.as_str().starts_with('/') {
            true => "'btrfs subvolume delete'",
            false => "'zfs destroy'",
        };
        Foreign {
            subject: format!("volume {volume}"),
            what: format!("its snapshot {name} belongs to no point in this store"),
            remedy: format!("if no other store has its point, {remedy} removes it"),
        }
    };
    found.iter().filter(is_lost).map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, sample_manifest};
    use crate::ports::Hypervisor as _;

    fn disk(top: &str, backing: &str, mirror: &str) -> String {
        let chain = match backing {
            "" => String::new(),
            base => format!("<backingStore type='file'><source file='{base}'/></backingStore>"),
        };
        format!(
            "<disk type='file' device='disk'><source file='{top}'/>{chain}{mirror}\
             <target dev='vda'/></disk>"
        )
    }

    /// Columns: the guest's state, its disk's top, backing file and mirror, its job, where its newest point
    /// has the disk, what is said begins so.
    #[test]
    fn what_is_foreign_is_named() {
        use GuestState::{PausedByUser, PausedOtherwise, Running};
        for (state, (top, backing, mirror), job, newest, wanted) in [
            (Running, ("/a/a.raw", "", ""), None, None, ""),
            (PausedByUser, ("/a/a.raw", "", ""), None, None, "is suspended, not by us"),
            (PausedOtherwise, ("/a/a.raw", "", ""), None, None, "is paused, and by nobody's"),
            (Running, ("/a/a.raw", "", ""), Some("dump"), None, "libvirt is at work on it, not"),
            (
                Running,
                ("/a/a.raw", "", "<mirror job='copy'/>"),
                None,
                None,
                "a block job is at work",
            ),
            (Running, ("/a/a.s1", "/a/a.raw", ""), None, None, "disk vda is on an overlay"),
            (
                Running,
                ("/b/x", "/a/a.raw", ""),
                None,
                Some("/a/a.raw"),
                "disk vda is on an overlay",
            ),
            (Running, ("/b/x", "/golden/a.raw", ""), None, None, ""),
            (Running, ("/a/a.s1", "/a/a.raw", ""), None, Some("/a/a.s1"), ""),
        ] {
            let fake = Fake::with_guest(1);
            let mut guest = fake.inspect(&fake.guest_uuid()).unwrap();
            (guest.state, guest.job) = (state, job.map(str::to_owned));
            let disk = disk(top, backing, mirror);
            let xml = format!(
                "<domain><os><type machine='pc'>hvm</type></os><devices>{disk}</devices></domain>"
            );
            let definition = Definition::parse(&xml).unwrap();
            let newest = newest.map(|path| {
                let mut manifest = sample_manifest("2026-11-23T10:00:00Z", "one");
                manifest.disks.truncate(1);
                for disk in &mut manifest.disks {
                    (disk.target, disk.path) = ("vda".into(), path.into());
                }
                manifest
            });
            let known = Known {
                guest: &guest,
                definition: &definition,
                snapshots: Vec::new(),
                streams: false,
                newest: newest.as_ref(),
            };
            let found: Vec<_> = of_guest(&known).into_iter().map(|it| it.what).collect();
            let case = format!("{state:?} {top} {backing} {newest:?}: {found:?}");
            assert_eq!(found.len(), usize::from(!wanted.is_empty()), "{case}");
            assert!(found.iter().all(|it| it.starts_with(wanted)), "{case}");
        }
    }
}
