//! What is in the world and belongs to no operation in flight: what others do with the guests, and
//! what bears our marks without a point or a journal entry. Repair reports it and leaves it alone.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::inventory::{Activity, AnySnapshot, FoundSnapshot, Guest, GuestState};
use crate::manifest::Manifest;
use crate::name::{GuestName, GuestUuid, PointId, SnapshotId};
use crate::operation::Plan;
use crate::ports::{FoundPoint, Unfinished};
use crate::volumes::ledger::Ledger;

/// What kind of thing was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A guest that stands still, by somebody's hand or for a reason of its own.
    Paused,
    /// libvirt is at something with the guest as a whole.
    Job,
    /// A block job of a disk.
    BlockJob,
    /// A disk on an overlay.
    Overlay,
    /// An external snapshot of libvirt's.
    LibvirtSnapshot,
    /// QEMU's capability `background-snapshot` is on.
    Capability,
    /// A snapshot that was taken for a point, without that point.
    Snapshot,
    /// A snapshot that is held for a point which is not.
    Hold,
    /// A point that is held while a snapshot of it is not.
    NotHeld,
    /// A snapshot that somebody else took while a disk was being committed.
    TornSnapshot,
    /// A point that was begun, or a save image that was written out.
    Unfinished,
    /// A file of a restore, beside its place.
    SpareFile,
    /// An overlay file of a capture that no guest reads.
    OverlayFile,
}

/// Where there is not one, more is wrong than a snapshot too many.
const NO_POINTS: &str = "there are no points here at all: is the memory store's drive mounted?";

/// Something that repair does not touch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The guest, where it is one's.
    pub guest: Option<GuestName>,
    /// What kind of thing it is.
    pub kind: Kind,
    /// What there is, as a sentence fragment that names it.
    pub what: String,
    /// What ends it.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(guest) = &self.guest {
            write!(f, "{guest}: ")?;
        }
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

/// What was seen when somebody looked around.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The guests.
    pub guests: &'a [GuestFacts],
    /// What is in flight.
    pub plans: &'a [Plan],
    /// Where our overlay files go.
    pub overlay_folder: &'a Path,
    /// The files in that folder and in those of the guests' disks.
    pub files: &'a [PathBuf],
    /// The snapshots of the guests' volumes.
    pub snapshots: &'a [SnapshotFacts],
    /// Every point.
    pub points: &'a [FoundPoint],
    /// What was begun in the homes.
    pub unfinished: &'a [Unfinished],
    /// What was taken of volumes without guests.
    pub ledger: &'a Ledger,
    /// The snapshots that were noted as torn and are there.
    pub torn: &'a [(GuestUuid, AnySnapshot)],
}

/// A guest, and what is going on with it.
#[derive(Debug)]
pub struct GuestFacts {
    /// The guest.
    pub guest: Guest,
    /// What is going on.
    pub activity: Activity,
    /// What its disks read, in its live and in its inactive definition.
    pub disks: Vec<Layered>,
}

/// What a disk reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layered {
    /// The guest's name for the disk.
    pub target: String,
    /// The image.
    pub top: PathBuf,
    /// The images that it lies on, nearest first.
    pub below: Vec<PathBuf>,
}

/// A snapshot, and the commands that end it.
#[derive(Debug)]
pub struct SnapshotFacts {
    /// The snapshot.
    pub found: FoundSnapshot,
    /// The one that destroys it.
    pub destroy: String,
    /// For each point that it is held for, the one that releases it.
    pub releases: Vec<(PointId, String)>,
}

/// Everything that nobody answers for.
pub fn findings(facts: &Facts<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    for it in facts.guests.iter().filter(|it| !is_in_flight(facts, it)) {
        found.extend(of_guest(facts, it));
    }
    found.extend(facts.snapshots.iter().flat_map(|it| held(facts, it)));
    found.extend(facts.points.iter().filter_map(|it| not_held(facts, it)));
    found.extend(facts.snapshots.iter().filter_map(|it| orphan(facts, it)));
    found.extend(facts.guests.iter().flat_map(|it| torn(facts, it)));
    found.extend(facts.unfinished.iter().filter_map(|it| unfinished(facts, it)));
    found.extend(facts.files.iter().filter_map(|it| file(facts, it)));
    found
}

/// What is being done to it is ours, or will be put right before it is judged.
fn is_in_flight(facts: &Facts<'_>, it: &GuestFacts) -> bool {
    facts.plans.iter().flat_map(Plan::guests).any(|(_, uuid)| *uuid == it.guest.uuid)
}

fn of_guest(facts: &Facts<'_>, it: &GuestFacts) -> Vec<Finding> {
    let guest = &it.guest.name;
    let finding = |kind, what: String, remedy: String| Finding {
        guest: Some(guest.clone()),
        kind,
        what,
        remedy,
    };
    let mut found = Vec::new();
    match it.guest.state {
        GuestState::PausedByUser => {
            let remedy = format!("'virsh resume {guest}' lets it run");
            found.push(finding(Kind::Paused, "it was suspended, not by vitrify".into(), remedy));
        }
        GuestState::PausedOnError => {
            let what = "it could not write to a disk, and QEMU suspended it".to_owned();
            let remedy = format!("once there is room, 'virsh resume {guest}' lets it go on");
            found.push(finding(Kind::Paused, what, remedy));
        }
        GuestState::PausedOtherwise => {
            let what = "it is paused, and by nobody's 'virsh suspend'".to_owned();
            let remedy = format!("'virsh domstate --reason {guest}' tells why");
            found.push(finding(Kind::Paused, what, remedy));
        }
        GuestState::Running | GuestState::ShutOff => {}
    }
    if let Some(job) = &it.guest.job {
        let what = format!("libvirt is in the middle of a job ({job})");
        found.push(finding(Kind::Job, what, format!("'virsh domjobabort {guest}' ends it")));
    }
    for (disk, job) in &it.activity.block_jobs {
        let what = format!("disk {disk} has a block job ({job})");
        let remedy = format!("'virsh blockjob {guest} {disk} --abort' ends it");
        found.push(finding(Kind::BlockJob, what, remedy));
    }
    let newest = newest(facts.points, it);
    for disk in &it.disks {
        let is_ours = disk.top.starts_with(facts.overlay_folder);
        let base = if is_ours { disk.below.first() } else { base_of_overlay(disk, newest) };
        let Some(base) = base else { continue };
        let (target, top, base) = (&disk.target, disk.top.display(), base.display());
        let whose = match is_ours {
            true => "an overlay of vitrify's without a journal entry",
            false => "an overlay that vitrify did not make",
        };
        let what = format!("disk {target} reads {top} over {base}, {whose}");
        let remedy = format!(
            "'virsh blockcommit {guest} {target} --active --pivot --base {base}' commits it while \
             the guest runs"
        );
        found.push(finding(Kind::Overlay, what, remedy));
    }
    for name in &it.activity.external_snapshots {
        let what = format!("libvirt has the external snapshot '{name}' of it");
        let remedy = format!("'virsh snapshot-delete {guest} {name}' ends it");
        found.push(finding(Kind::LibvirtSnapshot, what, remedy));
    }
    if it.activity.background_snapshot {
        let what = "QEMU's migration capability background-snapshot is on".to_owned();
        let remedy = format!(
            "'virsh qemu-monitor-command {guest} --hmp migrate_set_capability background-snapshot \
             off' switches it off"
        );
        found.push(finding(Kind::Capability, what, remedy));
    }
    found
}

/// The newest point of the guest that can be read.
fn newest<'a>(points: &'a [FoundPoint], it: &GuestFacts) -> Option<&'a Manifest> {
    let its = points.iter().filter(|point| point.guest == it.guest.uuid);
    its.filter_map(|point| point.manifest.as_ref().ok()).max_by_key(|it| it.time)
}

/// What somebody put an overlay on: the newest point has the disk on what lies below now, or the top is
/// called as libvirt calls overlays, the base's name with another extension. A disk that has always had a
/// golden image behind it is no overlay.
fn base_of_overlay<'a>(disk: &'a Layered, newest: Option<&Manifest>) -> Option<&'a PathBuf> {
    let last = newest.and_then(|it| it.disks.iter().find(|it| it.target == disk.target));
    let is_base = |below: &&PathBuf| match last {
        Some(last) => last.path == **below && last.path != disk.top,
        None => {
            below.parent() == disk.top.parent()
                && below.file_stem().is_some_and(|stem| disk.top.file_stem() == Some(stem))
        }
    };
    disk.below.iter().find(is_base)
}

/// A snapshot of ours that belongs to no point. One of a point whose manifest cannot be read is not
/// judged, and where the storage writes nothing on snapshots, none is while there is such a point.
fn orphan(facts: &Facts<'_>, it: &SnapshotFacts) -> Option<Finding> {
    let (snapshot, points) = (&it.found.snapshot, it.found.points.as_deref());
    let is_unreadable = |point: &&FoundPoint| {
        point.manifest.is_err() && points.is_none_or(|points| points.contains(&point.id))
    };
    let is_in_flight = |plan: &Plan| match points {
        Some(points) => ids(plan).iter().any(|id| points.contains(id)),
        None => plan.volumes().contains(&snapshot.volume),
    };
    if points.is_some_and(<[PointId]>::is_empty)
        || bound(facts.points).contains(&snapshot.id)
        || facts.ledger.knows(&it.found)
        || facts.points.iter().any(|point| is_unreadable(&point))
        || facts.plans.iter().any(is_in_flight)
    {
        return None;
    }
    let remedy = match facts.points.is_empty() {
        true => NO_POINTS.to_owned(),
        false => format!("if no other store has its point, '{}' destroys it", it.destroy),
    };
    Some(Finding {
        guest: None,
        kind: Kind::Snapshot,
        what: format!(
            "snapshot {} of {} was taken by vitrify, and no point here has it",
            snapshot.name, snapshot.volume
        ),
        remedy,
    })
}

/// What holds a snapshot for points that are not held: what a `hold` or a `release` left that died.
fn held<'a>(facts: &'a Facts<'_>, it: &'a SnapshotFacts) -> impl Iterator<Item = Finding> + 'a {
    let is_known = |id: &PointId| {
        let mut points = facts.points.iter().filter(|point| point.id == *id);
        let is_in_flight = || facts.plans.iter().any(|plan| ids(plan).contains(&id));
        points.any(|point| !point.holds.is_empty()) || is_in_flight()
    };
    let left = it.releases.iter().filter(move |(id, _)| !is_known(id));
    left.map(|(id, release)| {
        let point = facts.points.iter().find(|point| point.id == *id);
        let manifest = point.and_then(|point| point.manifest.as_ref().ok());
        let snapshot = &it.found.snapshot;
        let remedy = match (manifest, facts.points.is_empty()) {
            (Some(manifest), _) => format!("'vitrify release {}@{id}' lets it go", manifest.guest),
            (None, true) => NO_POINTS.to_owned(),
            (None, false) => format!("if no other store has that point, '{release}' lets it go"),
        };
        Finding {
            guest: manifest.map(|it| it.guest.clone()),
            kind: Kind::Hold,
            what: format!(
                "snapshot {} of {} is held for the point {id}, which is not held",
                snapshot.name, snapshot.volume
            ),
            remedy,
        }
    })
}

/// What does not keep the snapshots of a point that is held: somebody released them, or it was held by
/// a vitrify that did not do that.
fn not_held(facts: &Facts<'_>, point: &FoundPoint) -> Option<Finding> {
    let manifest = point.manifest.as_ref().ok().filter(|_| !point.holds.is_empty())?;
    let mut its = facts.snapshots.iter().filter(|it| manifest.volumes.contains(&it.found.snapshot));
    let is_free = |it: &&SnapshotFacts| {
        it.found.held_for.as_ref().is_some_and(|points| !points.contains(&point.id))
    };
    let free = its.find(is_free)?;
    let (guest, snapshot) = (&manifest.guest, &free.found.snapshot);
    let (id, name, volume) = (&point.id, &snapshot.name, &snapshot.volume);
    Some(Finding {
        guest: Some(guest.clone()),
        kind: Kind::NotHeld,
        what: format!("the point {id} is held, and its snapshot {name} of {volume} is not"),
        remedy: format!("'vitrify hold {guest}@{id}' holds it"),
    })
}

/// The snapshots that points are made of.
pub fn bound(points: &[FoundPoint]) -> BTreeSet<&SnapshotId> {
    let manifests = points.iter().filter_map(|point| point.manifest.as_ref().ok());
    manifests.flat_map(|it| &it.volumes).map(|it| &it.id).collect()
}

/// What others snapshotted while the guest's overlays were being committed.
fn torn<'a>(facts: &'a Facts<'_>, it: &'a GuestFacts) -> impl Iterator<Item = Finding> + 'a {
    let its = facts.torn.iter().filter(|(guest, _)| *guest == it.guest.uuid);
    its.map(|(_, snapshot)| Finding {
        guest: Some(it.guest.name.clone()),
        kind: Kind::TornSnapshot,
        what: format!(
            "snapshot {} was taken by others while vitrify committed an overlay there, and holds \
             disks of it that are of no instant",
            snapshot.name
        ),
        remedy: "restore the guest from another".to_owned(),
    })
}

fn unfinished(facts: &Facts<'_>, it: &Unfinished) -> Option<Finding> {
    if facts.plans.iter().any(|plan| ids(plan).contains(&&it.id)) {
        return None;
    }
    let guest = facts.guests.iter().find(|found| found.guest.uuid == it.guest);
    let path = it.path.display();
    Some(Finding {
        guest: guest.map(|found| found.guest.name.clone()),
        kind: Kind::Unfinished,
        what: format!("{path} was begun by vitrify and belongs to nothing that is in flight"),
        remedy: format!("'rm -r {path}' removes it"),
    })
}

fn file(facts: &Facts<'_>, path: &Path) -> Option<Finding> {
    let name = path.file_name()?.to_str()?;
    let spare = name.rsplit_once(".vitrify-").map(|(_, id)| id);
    let of_overlay = || name.strip_suffix(".qcow2")?.rsplit_once('.').map(|(_, id)| id);
    let id = spare.or_else(of_overlay)?.parse::<PointId>().ok()?;
    let is_read = |it: &Layered| it.top == path || it.below.iter().any(|below| below == path);
    if facts.plans.iter().any(|plan| ids(plan).contains(&&id))
        || facts.guests.iter().flat_map(|it| &it.disks).any(is_read)
    {
        return None;
    }
    let path = path.display();
    let (kind, what, remedy) = match spare {
        Some(_) => (
            Kind::SpareFile,
            format!("{path} is a spare copy that an interrupted restore left"),
            format!("'rm {path}' removes it, once the guest's disks are known to be right"),
        ),
        None => (
            Kind::OverlayFile,
            format!("{path} is an overlay that an interrupted capture left, and no guest reads it"),
            format!("'rm {path}' removes it, if nobody misses what was written to it"),
        ),
    };
    Some(Finding { guest: None, kind, what, remedy })
}

/// The ids that what an operation makes may bear.
fn ids(plan: &Plan) -> Vec<&PointId> {
    let points = match plan {
        Plan::Capture(plan) => plan.members.iter().map(|it| &it.point).collect(),
        Plan::Restore(_) => Vec::new(),
        Plan::Removal(plan) => plan.points.iter().map(|it| &it.point).collect(),
    };
    std::iter::once(plan.id()).chain(points).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::fake::{Fake, sample_capture, sample_manifest};
    use crate::inventory::Snapshot;
    use crate::ports::Hypervisor as _;
    use crate::problem::Problem;
    use crate::volumes::ledger::Begun;

    fn idle() -> GuestFacts {
        let fake = Fake::with_guest(1);
        let guest = fake.inspect(&fake.guest_uuid()).unwrap();
        GuestFacts { guest, activity: Activity::default(), disks: Vec::new() }
    }

    fn facts(guests: &[GuestFacts]) -> Facts<'_> {
        static NOTHING: LazyLock<Ledger> = LazyLock::new(Ledger::default);
        Facts {
            guests,
            ledger: &NOTHING,
            plans: &[],
            overlay_folder: Path::new("/overlays"),
            files: &[],
            snapshots: &[],
            points: &[],
            unfinished: &[],
            torn: &[],
        }
    }

    fn lines(facts: &Facts<'_>) -> Vec<String> {
        findings(facts).iter().map(ToString::to_string).collect()
    }

    fn layered(top: &str, below: &[&str]) -> Layered {
        let below = below.iter().map(PathBuf::from).collect();
        Layered { target: "vda".into(), top: top.into(), below }
    }

    /// Columns: what others did to the guest, how the line about it begins and what it must hold.
    #[test]
    fn what_others_do_is_named_with_what_ends_it() {
        type Row = (fn(&mut GuestFacts), &'static str, &'static str);
        let rows: [Row; 11] = [
            (|it| it.guest.state = GuestState::PausedByUser, "it was suspended", "resume w"),
            (|it| it.guest.state = GuestState::PausedOtherwise, "it is paused", "domstate"),
            (|it| it.guest.state = GuestState::PausedOnError, "it could not write", "resume w"),
            (|it| it.guest.job = Some("save".into()), "libvirt is in the", "domjobabort w"),
            (
                |it| it.activity.block_jobs = vec![("vda".into(), "copy".into())],
                "disk vda has a block job (copy)",
                "blockjob w vda --abort",
            ),
            (
                |it| it.disks = vec![layered("/v/a.snap", &["/v/a.raw", "/golden"])],
                "disk vda reads /v/a.snap over /v/a.raw, an overlay that vitrify did not make",
                "blockcommit w vda --active --pivot --base /v/a.raw",
            ),
            (|it| it.disks = vec![layered("/v/clone.qcow2", &["/golden.qcow2"])], "", ""),
            (
                |it| it.disks = vec![layered("/overlays/x.qcow2", &["/v/base"])],
                "disk vda reads /overlays/x.qcow2 over /v/base, an overlay of vitrify's",
                "blockcommit w vda --active --pivot --base /v/base",
            ),
            (
                |it| it.activity.external_snapshots = vec!["before".into()],
                "libvirt has the external snapshot 'before'",
                "snapshot-delete w before",
            ),
            (|it| it.activity.background_snapshot = true, "QEMU's migration", "capability"),
            (|it| it.disks = vec![layered("/v/base", &[])], "", ""),
        ];
        for (change, begin, holds) in rows {
            let mut guest = idle();
            change(&mut guest);
            let guests = [guest];
            let mut facts = facts(&guests);
            let found = lines(&facts);
            assert_eq!(found.len(), usize::from(!begin.is_empty()), "{found:?}");
            let fits = |it: &String| it.starts_with(&format!("w: {begin}")) && it.contains(holds);
            assert!(found.iter().all(fits), "{found:?}");
            let plans = [Plan::Capture(sample_capture())];
            facts.plans = &plans;
            assert_eq!(lines(&facts), [""; 0]);
        }
    }

    /// Columns: what the disk reads and where its newest point has it; whether that is an overlay.
    #[test]
    fn a_point_tells_an_overlay_from_a_golden_image() {
        for (top, below, last, is_overlay) in [
            ("/b/x", "/a/a.raw", Some("/a/a.raw"), true),
            ("/b/x", "/a/a.raw", None, false),
            ("/a/a.s1", "/a/a.raw", None, true),
            ("/a/a.s1", "/a/a.raw", Some("/a/a.s1"), false),
            ("/a/a.s1", "/golden/a.raw", None, false),
        ] {
            let newest = last.map(|path| {
                let mut manifest = sample_manifest("2026-01-01T00:00:00Z", "one");
                manifest.disks.truncate(1);
                for disk in &mut manifest.disks {
                    (disk.target, disk.path) = ("vda".into(), path.into());
                }
                manifest
            });
            let disk = layered(top, &[below]);
            let base = base_of_overlay(&disk, newest.as_ref());
            assert_eq!(base.is_some(), is_overlay, "{top} {below} {last:?}");
        }
    }

    #[test]
    fn snapshots_of_points_and_of_others_are_no_orphans() {
        let manifest = sample_manifest("2026-01-01T00:00:00Z", "one");
        let point = |manifest| FoundPoint {
            expired: false,
            holds: Vec::new(),
            guest: idle().guest.uuid,
            id: sample_capture().members[0].point.clone(),
            manifest,
            published: true,
            folder: "/mem".into(),
            memory: None,
        };
        let theirs = "00000000-0000-4000-9000-0000000000aa".parse::<PointId>().unwrap();
        let own = manifest.id.clone();
        let found = |id: &str, points: Option<&[&PointId]>| {
            let snapshot = Snapshot { id: id.parse().unwrap(), ..manifest.volumes[0].clone() };
            let points = points.map(|it| it.iter().map(|&id| id.clone()).collect());
            [SnapshotFacts {
                found: FoundSnapshot {
                    snapshot,
                    points,
                    order: None,
                    created: None,
                    needed: Vec::new(),
                    held_for: None,
                },
                destroy: "rm it".into(),
                releases: Vec::new(),
            }]
        };
        let (whole, torn) =
            (|| point(Ok(manifest.clone())), || point(Err(Problem::refused("torn"))));
        for (id, points, point, orphaned) in [
            ("snapshot-1", Some(&[&own][..]), whole(), false),
            ("snapshot-2", Some(&[&own]), whole(), true),
            ("snapshot-2", Some(&[]), whole(), false),
            ("snapshot-2", None, whole(), true),
            ("snapshot-2", None, torn(), false),
            ("snapshot-2", Some(&[&own]), torn(), false),
            ("snapshot-2", Some(&[&theirs]), torn(), true),
        ] {
            let (snapshots, points) = (found(id, points), [point]);
            let mut facts = Facts { snapshots: &snapshots, points: &points, ..facts(&[]) };
            let found = lines(&facts);
            assert_eq!(found.len(), usize::from(orphaned), "{found:?}");
            assert!(found.iter().all(|it| it.ends_with(" 'rm it' destroys it")), "{found:?}");
            let plans = [Plan::Capture(sample_capture())];
            facts.plans = &plans;
            let another =
                snapshots[0].found.points.as_deref() == Some(std::slice::from_ref(&theirs));
            assert_eq!(lines(&facts).is_empty(), !another);
        }
        let snapshots = found("snapshot-2", Some(&[&own]));
        let found = lines(&Facts { snapshots: &snapshots, ..facts(&[]) });
        assert!(found.len() == 1 && found[0].ends_with("mounted?"), "{found:?}");
        // One of a volume without guests.
        let (mut ledger, snapshot) = (Ledger::default(), &snapshots[0].found.snapshot);
        ledger.begin(Begun {
            id: theirs.clone(),
            names: vec![snapshot.name.clone()],
            time: manifest.time,
            volumes: vec![snapshot.volume.clone()],
        });
        ledger.finish(&theirs, vec![snapshot.clone()]);
        assert_eq!(lines(&Facts { snapshots: &snapshots, ledger: &ledger, ..facts(&[]) }), [""; 0]);
    }

    /// Columns: whether the point is there, whether it is held, what its snapshot is held for, how the
    /// line about that ends.
    #[test]
    fn holds_and_points_have_to_agree() {
        let manifest = sample_manifest("2026-01-01T00:00:00Z", "one");
        let own = manifest.id.clone();
        let other = "00000000-0000-4000-9000-0000000000aa".parse::<PointId>().unwrap();
        for (is_there, is_held, held_for, wanted) in [
            (true, true, Some(&[&own][..]), None),
            (true, false, Some(&[]), None),
            (true, true, None, None),
            (true, true, Some(&[]), Some(format!("'vitrify hold w@{own}' holds it"))),
            (true, false, Some(&[&own]), Some(format!("'vitrify release w@{own}' lets it go"))),
            (true, true, Some(&[&own, &other]), Some("point, 'let go' lets it go".to_owned())),
            (false, false, Some(&[&own]), Some("mounted?".to_owned())),
        ] {
            let point = FoundPoint {
                expired: false,
                holds: if is_held { vec!["vitrify:user".into()] } else { Vec::new() },
                guest: idle().guest.uuid,
                id: own.clone(),
                manifest: Ok(manifest.clone()),
                published: true,
                folder: "/mem".into(),
                memory: None,
            };
            let held_for = held_for.map(|it| it.iter().map(|&id| id.clone()).collect::<Vec<_>>());
            let releases = held_for.iter().flatten().map(|it| (it.clone(), "let go".into()));
            let snapshots = [SnapshotFacts {
                releases: releases.collect(),
                found: FoundSnapshot {
                    snapshot: manifest.volumes[0].clone(),
                    points: Some(vec![own.clone(), other.clone()]),
                    order: None,
                    created: None,
                    needed: Vec::new(),
                    held_for,
                },
                destroy: "rm it".into(),
            }];
            let points: Vec<_> = Some(point).filter(|_| is_there).into_iter().collect();
            let facts = Facts { snapshots: &snapshots, points: &points, ..facts(&[]) };
            let found = findings(&facts).into_iter();
            let holds = found.filter(|it| matches!(it.kind, Kind::Hold | Kind::NotHeld));
            let said: Vec<_> = holds.map(|it| it.remedy).collect();
            assert_eq!(said.len(), usize::from(wanted.is_some()), "{said:?}");
            let ends = |it: &String| wanted.as_ref().is_some_and(|wanted| it.ends_with(wanted));
            assert!(said.iter().all(ends), "{said:?} {wanted:?}");
        }
    }

    #[test]
    fn a_torn_snapshot_is_named_with_its_guest() {
        let guests = [idle()];
        let torn = |guest| {
            let (volume, id) = ("/v".parse().unwrap(), "theirs".parse().unwrap());
            [(guest, AnySnapshot { volume, name: "snapper/7".into(), id })]
        };
        let its = torn(guests[0].guest.uuid.clone());
        let found = lines(&Facts { torn: &its, ..facts(&guests) });
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("w: snapshot snapper/7 was taken by others"), "{found:?}");
        let anothers = torn("00000000-0000-4000-8000-0000000000aa".parse().unwrap());
        assert_eq!(lines(&Facts { torn: &anothers, ..facts(&guests) }), [""; 0]);
    }

    #[test]
    fn files_are_known_by_the_id_in_their_names() {
        let id = "00000000-0000-4000-9000-0000000000aa";
        let own = sample_capture().members[0].point.to_string();
        for (path, found) in [
            (format!("/v/.disk.img.vitrify-{id}"), true),
            (format!("/overlays/w.vda.{id}.qcow2"), true),
            (format!("/overlays/read.vda.{id}.qcow2"), false),
            (format!("/overlays/w.vda.{own}.qcow2"), false),
            ("/v/disk.vitrify-notes".to_owned(), false),
            ("/v/disk.qcow2".to_owned(), false),
        ] {
            let mut guest = idle();
            guest.guest.uuid = "00000000-0000-4000-8000-0000000000aa".parse().unwrap();
            guest.disks = vec![layered(&format!("/overlays/read.vda.{id}.qcow2"), &[])];
            let (guests, files) = ([guest], [PathBuf::from(&path)]);
            let plans = [Plan::Capture(sample_capture())];
            let facts = Facts { files: &files, plans: &plans, ..facts(&guests) };
            assert_eq!(lines(&facts).len(), usize::from(found), "{path}");
        }
    }
}
