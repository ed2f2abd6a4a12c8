//! Rules for taking, listing and destroying snapshots.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Check, Fixture, holds, image};
use crate::conformance::{Verdict, differ, ensure, fails, is_error, name, ok, rules, same};
use crate::inventory::{AnySnapshot, Owner, Snapshot};
use crate::name::{PointId, PointName, Volume};
use crate::ports::{FileContent, NamedFile};
use crate::problem::ProblemKind;

pub(super) const RULES: &[(&str, Check)] = rules![
    a_group_is_taken_under_one_name_in_its_order,
    a_snapshot_keeps_what_the_file_held,
    a_taken_name_is_refused_and_nothing_is_taken,
    a_volume_that_is_not_there_fails_and_nothing_is_taken,
    a_group_that_fails_half_way_leaves_nothing,
    a_volume_without_snapshots_has_none,
    several_volumes_are_listed_at_once,
    whoever_took_a_snapshot_all_are_listed,
    owners_are_read_again_where_they_are_written,
    destroying_may_be_repeated,
    destroying_needs_the_identity,
    destroying_needs_the_name,
    one_that_cannot_be_destroyed_does_not_keep_the_others,
    a_name_that_is_used_again_has_another_identity,
    what_is_held_stays_until_it_is_released,
    each_point_holds_for_itself,
    holding_needs_the_identity,
    annotations_are_in_the_snapshots,
];

/// A snapshot of the volume under this name.
pub(super) fn take(fixture: &dyn Fixture, volume: &Volume, text: &str) -> Result<Snapshot, String> {
    let taken = fixture.storage().snapshot(std::slice::from_ref(volume), &name(text)?, &[owner()?]);
    match &ok("snapshot", taken)?[..] {
        [snapshot] => Ok(snapshot.clone()),
        other => Err(format!("one volume gave {} snapshots", other.len())),
    }
}

/// A guest and a point that snapshots are taken for.
fn owner() -> Result<Owner, String> {
    Ok(Owner {
        guest: Some(name("00000000-0000-4000-8000-000000000001")?),
        point: name("00000000-0000-4000-9000-000000000001")?,
    })
}

fn listed(fixture: &dyn Fixture, volume: &Volume) -> Result<Vec<Snapshot>, String> {
    let found = ok("snapshots", fixture.storage().snapshots(std::slice::from_ref(volume)))?;
    Ok(found.into_iter().map(|it| it.snapshot).collect())
}

fn whoever_took_a_snapshot_all_are_listed(fixture: &mut dyn Fixture) -> Verdict {
    let [a, b] = fixture.volumes();
    let all = |fixture: &dyn Fixture, volumes: &[Volume]| {
        let found = ok("all snapshots", fixture.storage().all_snapshots(volumes))?;
        let of = |it: AnySnapshot| (it.volume, it.id);
        let mut found: Vec<_> = found.into_iter().map(of).collect();
        found.sort();
        Ok::<_, String>(found)
    };
    let both = [a.clone(), b.clone()];
    same("of volumes without any", all(fixture, &both)?, Vec::new())?;
    let mut taken = Vec::new();
    for (volume, name) in [(&a, "p1"), (&a, "p2"), (&b, "p1")] {
        let snapshot = take(fixture, volume, name)?;
        taken.push((snapshot.volume, snapshot.id));
    }
    taken.sort();
    same("of both", all(fixture, &both)?, taken.clone())?;
    taken.retain(|(volume, _)| *volume == a);
    same("of one", all(fixture, &[a])?, taken)?;
    let absent: Volume = name(&format!("{b}-absent"))?;
    same("of one that is not there", all(fixture, &[absent])?, Vec::new())
}

fn a_group_is_taken_under_one_name_in_its_order(fixture: &mut dyn Fixture) -> Verdict {
    let [a, b] = fixture.volumes();
    let point: PointName = name("p1")?;
    for volumes in [[b.clone(), a.clone()], [a.clone(), b.clone()]] {
        let taken = ok("snapshot", fixture.storage().snapshot(&volumes, &point, &[owner()?]))?;
        let order: Vec<_> = taken.iter().map(|it| it.volume.clone()).collect();
        same("the order", order, volumes.to_vec())?;
        ensure(taken.iter().all(|it| it.name == point), "each has the name that was given")?;
        differ("the identities", &taken[0].id, &taken[1].id)?;
        for snapshot in &taken {
            same("the list", listed(fixture, &snapshot.volume)?, vec![snapshot.clone()])?;
            ok("destroy", fixture.storage().destroy(std::slice::from_ref(snapshot)))?;
        }
    }
    Ok(())
}

fn a_snapshot_keeps_what_the_file_held(fixture: &mut dyn Fixture) -> Verdict {
    let (volume, path) = image(fixture)?;
    let first = take(fixture, &volume, "p1")?;
    fixture.write(&path, 2)?;
    let second = take(fixture, &volume, "p2")?;
    ok("remove", fixture.storage().remove_file(&path))?;
    for (snapshot, content) in [(&first, 1), (&second, 2), (&first, 1)] {
        let copied = fixture.storage().copy_from_snapshot(
            snapshot,
            Path::new("disk.img"),
            &path.with_file_name("copy"),
            &path,
        );
        ok("copy from the snapshot", copied)?;
        holds(fixture, &path.with_file_name("copy"), Some(content))?;
    }
    holds(fixture, &path, None)
}

fn a_taken_name_is_refused_and_nothing_is_taken(fixture: &mut dyn Fixture) -> Verdict {
    let [a, b] = fixture.volumes();
    let there = take(fixture, &b, "p1")?;
    for volumes in [[a.clone(), b.clone()], [b.clone(), a.clone()]] {
        let taken = fixture.storage().snapshot(&volumes, &name("p1")?, &[owner()?]);
        fails("a name that exists", taken, ProblemKind::Refused)?;
        same("the snapshots of the other", listed(fixture, &a)?, Vec::new())?;
        same("the snapshots of that", listed(fixture, &b)?, vec![there.clone()])?;
    }
    let free = take(fixture, &a, "p1")?;
    same("the name on another volume", listed(fixture, &a)?, vec![free])
}

fn a_volume_that_is_not_there_fails_and_nothing_is_taken(fixture: &mut dyn Fixture) -> Verdict {
    let [a, _] = fixture.volumes();
    let absent: Volume = name(&format!("{a}-absent"))?;
    let volumes = [a.clone(), absent];
    let taken = fixture.storage().snapshot(&volumes, &name("p1")?, &[owner()?]);
    fails("a volume that is not there", taken, ProblemKind::NotFound)?;
    same("the snapshots", listed(fixture, &a)?, Vec::new())
}

fn a_group_that_fails_half_way_leaves_nothing(fixture: &mut dyn Fixture) -> Verdict {
    let [a, b] = fixture.volumes();
    let kept = take(fixture, &a, "p1")?;
    fixture.obstruct(&b)?;
    let volumes = [a.clone(), b.clone()];
    let taken = fixture.storage().snapshot(&volumes, &name("p2")?, &[owner()?]);
    is_error("a group with a volume that fails", taken)?;
    same("the first volume's snapshots", listed(fixture, &a)?, vec![kept])?;
    same("the other's", listed(fixture, &b)?, Vec::new())
}

fn a_volume_without_snapshots_has_none(fixture: &mut dyn Fixture) -> Verdict {
    let [a, _] = fixture.volumes();
    let absent: Volume = name(&format!("{a}-absent"))?;
    same("the snapshots", listed(fixture, &a)?, Vec::new())?;
    same("the snapshots of what is not there", listed(fixture, &absent)?, Vec::new())
}

fn several_volumes_are_listed_at_once(fixture: &mut dyn Fixture) -> Verdict {
    let [a, b] = fixture.volumes();
    let absent: Volume = name(&format!("{a}-absent"))?;
    let mut taken =
        vec![take(fixture, &a, "p1")?, take(fixture, &b, "p1")?, take(fixture, &a, "p2")?];
    let found = ok("snapshots", fixture.storage().snapshots(&[b, absent, a]))?;
    let mut found: Vec<_> = found.into_iter().map(|it| it.snapshot).collect();
    found.sort_by(|one, other| one.id.cmp(&other.id));
    taken.sort_by(|one, other| one.id.cmp(&other.id));
    same("the snapshots", found, taken)
}

fn owners_are_read_again_where_they_are_written(fixture: &mut dyn Fixture) -> Verdict {
    let [a, _] = fixture.volumes();
    let first = owner()?;
    let second = Owner { guest: None, point: name("00000000-0000-4000-9000-000000000002")? };
    let owners = [first.clone(), second.clone()];
    let volumes = std::slice::from_ref(&a);
    ok("snapshot", fixture.storage().snapshot(volumes, &name("p1")?, &owners))?;
    ok("snapshot for nobody", fixture.storage().snapshot(volumes, &name("p2")?, &[]))?;
    for found in ok("snapshots", fixture.storage().snapshots(volumes))? {
        let wanted = match found.snapshot.name.as_str() {
            "p1" => vec![first.point.clone(), second.point.clone()],
            _ => Vec::new(),
        };
        same("the points", found.points.clone().unwrap_or(wanted.clone()), wanted)?;
    }
    Ok(())
}

fn destroying_may_be_repeated(fixture: &mut dyn Fixture) -> Verdict {
    let [a, b] = fixture.volumes();
    let (gone, kept) = (take(fixture, &a, "p1")?, take(fixture, &a, "p2")?);
    let other = take(fixture, &b, "p1")?;
    for _ in 0..2 {
        ok("destroy", fixture.storage().destroy(std::slice::from_ref(&gone)))?;
        same("the volume's snapshots", listed(fixture, &a)?, vec![kept.clone()])?;
        same("the other volume's", listed(fixture, &b)?, vec![other.clone()])?;
    }
    Ok(())
}

fn destroying_needs_the_identity(fixture: &mut dyn Fixture) -> Verdict {
    let [a, _] = fixture.volumes();
    let (one, two) = (take(fixture, &a, "p1")?, take(fixture, &a, "p2")?);
    let mixed = Snapshot { id: two.id.clone(), ..one.clone() };
    let destroyed = fixture.storage().destroy(std::slice::from_ref(&mixed));
    fails("destroying one of another identity", destroyed, ProblemKind::Refused)?;
    same("the snapshots", listed(fixture, &a)?, vec![one, two])
}

fn destroying_needs_the_name(fixture: &mut dyn Fixture) -> Verdict {
    let [a, b] = fixture.volumes();
    let kept = take(fixture, &a, "p1")?;
    let renamed = Snapshot { name: name("p2")?, ..kept.clone() };
    let moved = Snapshot { volume: b, ..kept.clone() };
    for other in [renamed, moved] {
        ok(
            "destroying what is not there",
            fixture.storage().destroy(std::slice::from_ref(&other)),
        )?;
        same("the snapshots", listed(fixture, &a)?, vec![kept.clone()])?;
    }
    Ok(())
}

fn one_that_cannot_be_destroyed_does_not_keep_the_others(fixture: &mut dyn Fixture) -> Verdict {
    let [a, b] = fixture.volumes();
    let (first, kept) = (take(fixture, &a, "p1")?, take(fixture, &a, "p2")?);
    let (last, there) = (take(fixture, &b, "p1")?, take(fixture, &b, "p2")?);
    let mixed = Snapshot { id: last.id.clone(), ..kept.clone() };
    let absent = Snapshot { name: name("p3")?, ..first.clone() };
    let destroyed = fixture.storage().destroy(&[absent, first, mixed, last]);
    fails("destroying one of another identity", destroyed, ProblemKind::Refused)?;
    same("the first volume's snapshots", listed(fixture, &a)?, vec![kept])?;
    same("the other's", listed(fixture, &b)?, vec![there])?;
    ok("destroying nothing", fixture.storage().destroy(&[]))
}

/// The points that a snapshot is held for; `None` where the storage cannot hold it.
fn held_for(
    fixture: &dyn Fixture,
    snapshot: &Snapshot,
) -> Result<Option<BTreeSet<PointId>>, String> {
    let volumes = std::slice::from_ref(&snapshot.volume);
    let found = ok("snapshots", fixture.storage().snapshots(volumes))?;
    let found = found.into_iter().find(|it| it.snapshot == *snapshot);
    let found = found.ok_or_else(|| format!("{} is not there", snapshot.name))?;
    Ok(found.held_for.map(|it| it.into_iter().collect()))
}

fn what_is_held_stays_until_it_is_released(fixture: &mut dyn Fixture) -> Verdict {
    let [a, b] = fixture.volumes();
    let (one, two, free) =
        (take(fixture, &a, "p1")?, take(fixture, &b, "p1")?, take(fixture, &a, "p2")?);
    let (point, both) = (owner()?.point, [one.clone(), two.clone()]);
    for _ in 0..2 {
        ok("hold", fixture.storage().hold(&both, &point))?;
    }
    same("the free one", held_for(fixture, &free)?.unwrap_or_default(), BTreeSet::new())?;
    for snapshot in &both {
        let Some(points) = held_for(fixture, snapshot)? else { continue };
        same("the points", points, BTreeSet::from([point.clone()]))?;
        let destroyed = fixture.storage().destroy(std::slice::from_ref(snapshot));
        fails("destroying what is held", destroyed, ProblemKind::Refused)?;
    }
    ok("destroy the free one", fixture.storage().destroy(std::slice::from_ref(&free)))?;
    for _ in 0..2 {
        ok("release", fixture.storage().release(&[one.clone(), free.clone()], &point))?;
    }
    ok("destroy what was released", fixture.storage().destroy(std::slice::from_ref(&one)))?;
    same("the first volume's snapshots", listed(fixture, &a)?, Vec::new())?;
    same("the other's", listed(fixture, &b)?, vec![two.clone()])?;
    ok("release", fixture.storage().release(&both, &point))?;
    ok("destroy", fixture.storage().destroy(&both))?;
    same("the other's", listed(fixture, &b)?, Vec::new())?;
    ok("holding nothing", fixture.storage().hold(&[], &point))?;
    ok("releasing nothing", fixture.storage().release(&[], &point))
}

fn each_point_holds_for_itself(fixture: &mut dyn Fixture) -> Verdict {
    let [a, _] = fixture.volumes();
    let first = owner()?;
    let second = Owner {
        guest: Some(name("00000000-0000-4000-8000-000000000002")?),
        point: name("00000000-0000-4000-9000-000000000002")?,
    };
    let owners = [first.clone(), second.clone()];
    let taken = fixture.storage().snapshot(std::slice::from_ref(&a), &name("p1")?, &owners);
    let taken = ok("snapshot", taken)?;
    for owner in &owners {
        ok("hold", fixture.storage().hold(&taken, &owner.point))?;
    }
    ok("release", fixture.storage().release(&taken, &first.point))?;
    if let Some(points) = held_for(fixture, &taken[0])? {
        same("the points", points, BTreeSet::from([second.point.clone()]))?;
        fails("destroying", fixture.storage().destroy(&taken), ProblemKind::Refused)?;
    }
    ok("release", fixture.storage().release(&taken, &second.point))?;
    ok("destroy", fixture.storage().destroy(&taken))?;
    same("the snapshots", listed(fixture, &a)?, Vec::new())
}

fn holding_needs_the_identity(fixture: &mut dyn Fixture) -> Verdict {
    let [a, _] = fixture.volumes();
    let (one, two) = (take(fixture, &a, "p1")?, take(fixture, &a, "p2")?);
    let point = owner()?.point;
    let mixed = Snapshot { id: two.id.clone(), ..one.clone() };
    let absent = Snapshot { name: name("p3")?, ..one.clone() };
    let can_hold = held_for(fixture, &one)?.is_some();
    for (other, kind) in [(&mixed, ProblemKind::Refused), (&absent, ProblemKind::NotFound)] {
        let held = fixture.storage().hold(std::slice::from_ref(other), &point);
        if can_hold {
            fails("holding another one", held, kind)?;
        }
    }
    ok("hold", fixture.storage().hold(std::slice::from_ref(&one), &point))?;
    ok("releasing others", fixture.storage().release(&[mixed, absent], &point))?;
    if let Some(points) = held_for(fixture, &one)? {
        same("the points", points, BTreeSet::from([point.clone()]))?;
    }
    ok("release", fixture.storage().release(std::slice::from_ref(&one), &point))?;
    ok("destroy", fixture.storage().destroy(&[one, two]))
}

fn a_name_that_is_used_again_has_another_identity(fixture: &mut dyn Fixture) -> Verdict {
    let [a, _] = fixture.volumes();
    let first = take(fixture, &a, "p1")?;
    ok("destroy", fixture.storage().destroy(std::slice::from_ref(&first)))?;
    let second = take(fixture, &a, "p1")?;
    differ("the identities", &first.id, &second.id)?;
    fails(
        "destroying the first",
        fixture.storage().destroy(std::slice::from_ref(&first)),
        ProblemKind::Refused,
    )?;
    same("the snapshots", listed(fixture, &a)?, vec![second])
}

fn annotations_are_in_the_snapshots(fixture: &mut dyn Fixture) -> Verdict {
    let (volume, path) = image(fixture)?;
    let (source, copy) = (path.with_file_name("vars"), path.with_file_name("copy"));
    let file = NamedFile { name: "w.nvram".into(), content: FileContent::CopyOf(source.clone()) };
    for (point, content) in [("p1", 3), ("p2", 4)] {
        fixture.write(&source, content)?;
        ok("annotate", fixture.storage().annotate(&volume, std::slice::from_ref(&file)))?;
        let snapshot = take(fixture, &volume, point)?;
        fixture.write(&source, 9)?;
        let inside = Path::new(".vitrify/w.nvram");
        let copied = fixture.storage().copy_from_snapshot(&snapshot, inside, &copy, &path);
        ok("copying the annotation", copied)?;
        holds(fixture, &copy, Some(content))?;
    }
    Ok(())
}
