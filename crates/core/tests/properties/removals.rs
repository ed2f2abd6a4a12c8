//! No removal takes a snapshot that a point needs which cannot be read, whatever the points share.

use std::collections::BTreeSet;
use std::path::PathBuf;

use proptest::prelude::*;
use vitrify_core::fake::sample_manifest;
use vitrify_core::inventory::{FoundSnapshot, Snapshot};
use vitrify_core::manifest::Manifest;
use vitrify_core::name::{GuestName, GuestUuid, PointId};
use vitrify_core::ports::FoundPoint;
use vitrify_core::problem::Problem;
use vitrify_core::removal::RemovalPlan;

const GUESTS: usize = 3;
const VOLUMES: usize = 3;

/// A capture of some guests at once: each gets a point, and which of the volumes it has disks on.
#[derive(Debug, Clone)]
struct Capture {
    /// For each guest that is in it, the volumes that its disks lie on.
    members: Vec<Option<[bool; VOLUMES]>>,
    /// Which of its points cannot be read.
    unreadable: [bool; GUESTS],
    /// Which of its points are to go.
    doomed: [bool; GUESTS],
    /// Whether each snapshot is there, and says for which points it was taken.
    told: [Option<bool>; VOLUMES],
}

fn capture() -> impl Strategy<Value = Capture> {
    let members = prop::collection::vec(any::<Option<[bool; VOLUMES]>>(), GUESTS);
    (members, any::<[bool; GUESTS]>(), any::<[bool; GUESTS]>(), any::<[Option<bool>; VOLUMES]>())
        .prop_map(|(members, unreadable, doomed, told)| Capture {
            members,
            unreadable,
            doomed,
            told,
        })
}

fn guest(number: usize) -> GuestUuid {
    format!("{number:08}-0000-4000-8000-000000000000").parse().unwrap()
}

fn point(capture: usize, guest: usize) -> PointId {
    format!("00000000-0000-4000-8000-{capture:06}{guest:06}").parse().unwrap()
}

fn snapshot(capture: usize, volume: usize) -> Snapshot {
    Snapshot {
        volume: format!("tank/v{volume}").parse().unwrap(),
        name: format!("p{capture}").parse().unwrap(),
        id: format!("{capture}{volume}").parse().unwrap(),
    }
}

/// The true manifests, the points as they are found, and the snapshots that are there.
fn world(captures: &[Capture]) -> (Vec<Manifest>, Vec<FoundPoint>, Vec<FoundSnapshot>) {
    let (mut manifests, mut points, mut snapshots) = (Vec::new(), Vec::new(), Vec::new());
    for (number, it) in captures.iter().enumerate() {
        let mut taken_for = [const { Vec::new() }; VOLUMES];
        for (who, volumes) in it.members.iter().enumerate() {
            let Some(volumes) = volumes else { continue };
            let its: Vec<_> = (0..VOLUMES).filter(|volume| volumes[*volume]).collect();
            its.iter().for_each(|volume| taken_for[*volume].push(point(number, who)));
            let manifest = Manifest {
                id: point(number, who),
                guest_uuid: guest(who),
                volumes: its.iter().map(|volume| snapshot(number, *volume)).collect(),
                ..sample_manifest("2026-11-23T12:00:00Z", "p1")
            };
            let read = match it.unreadable[who] {
                true => Err(Problem::refused("damaged")),
                false => Ok(manifest.clone()),
            };
            points.push(FoundPoint {
                guest: guest(who),
                id: manifest.id.clone(),
                manifest: read,
                published: true,
                folder: PathBuf::new(),
                memory: None,
                expired: false,
                holds: Vec::new(),
            });
            manifests.push(manifest);
        }
        // A capture writes all its points on each of its snapshots.
        let all: Vec<_> = taken_for.iter().flatten().cloned().collect();
        for (volume, its) in taken_for.iter().enumerate() {
            if let (false, Some(told)) = (its.is_empty(), it.told[volume]) {
                snapshots.push(FoundSnapshot {
                    snapshot: snapshot(number, volume),
                    points: told.then(|| all.clone()),
                    order: None,
                    created: None,
                    needed: Vec::new(),
                    held_for: None,
                });
            }
        }
    }
    (manifests, points, snapshots)
}

proptest! {
    #[test]
    fn what_cannot_be_read_keeps_its_snapshots(
        captures in prop::collection::vec(capture(), 1..5),
        who in 0..GUESTS,
    ) {
        let (manifests, points, snapshots) = world(&captures);
        let is_meant = |it: &&Manifest| {
            (0..captures.len()).any(|number| captures[number].doomed[who] && it.id == point(number, who))
        };
        let doomed: BTreeSet<_> = manifests.iter().filter(is_meant).map(|it| it.id.clone()).collect();
        let readable: Vec<_> = points.iter().filter_map(|it| it.manifest.as_ref().ok()).collect();
        let of: (GuestName, _) = ("w".parse().unwrap(), guest(who));
        let plan = RemovalPlan::new(point(999, 0), of, &doomed, Vec::new(), &readable);
        let going: Vec<_> = plan.points.iter().flat_map(|it| &it.snapshots).collect();
        let unreadable: Vec<_> = points.iter().filter(|it| it.manifest.is_err()).collect();
        let needed = unreadable.iter().flat_map(|it| {
            manifests.iter().filter(|manifest| manifest.id == it.id).flat_map(|it| &it.volumes)
        });
        let loses = needed.clone().any(|it| going.contains(&it));
        match plan.obstacle(&points, &snapshots) {
            None => {
                prop_assert!(!loses);
                prop_assert!(unreadable.iter().all(|it| it.guest != guest(who)));
            }
            // Where every snapshot tells, only what is concerned is kept.
            Some(it) if captures.iter().all(|it| it.told == [Some(true); VOLUMES]) => {
                let shares = plan.points.iter().any(|doomed| {
                    let number = |id: &PointId| id.as_str()[24..30].to_owned();
                    number(&doomed.point) == number(&it.id)
                });
                prop_assert!(it.guest == guest(who) || shares);
            }
            Some(it) => prop_assert!(it.manifest.is_err()),
        }
    }
}
