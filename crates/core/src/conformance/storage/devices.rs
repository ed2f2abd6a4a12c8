//! Rules for volumes that are images themselves.

use super::snapshots::take;
use super::{DeviceCheck, DeviceFixture, holds, locate};
use crate::conformance::{Verdict, differ, fails, name, ok, rules, same};
use crate::inventory::Snapshot;
use crate::name::PointId;
use crate::ports::{FileContent, NamedFile};
use crate::problem::ProblemKind;

pub(super) const RULES: &[(&str, DeviceCheck)] = rules![
    a_device_is_located,
    a_device_keeps_its_identity,
    a_snapshot_is_exposed_until_it_is_concealed,
    a_device_is_overwritten_from_its_snapshot,
    exposing_needs_the_snapshot,
    each_owner_exposes_for_itself,
    one_owner_exposes_several_snapshots,
    annotating_leaves_a_device_as_it_is,
];

fn owner(number: u8) -> Result<PointId, String> {
    name(&format!("00000000-0000-4000-a000-00000000000{number}"))
}

fn a_device_is_located(fixture: &mut dyn DeviceFixture) -> Verdict {
    let (volume, path) = fixture.device();
    let location = ok("locate", locate(fixture, &path))?;
    same("the volume", location.volume, volume)?;
    same("the path in the volume", location.path_in_volume, None)?;
    let object = ok("object", fixture.storage().object(&path))?;
    same("the object", Some(location.object), object)
}

fn a_device_keeps_its_identity(fixture: &mut dyn DeviceFixture) -> Verdict {
    let (_, path) = fixture.device();
    let before = ok("object", fixture.storage().object(&path))?;
    fixture.write(&path, 2)?;
    same("the object after a write", ok("object", fixture.storage().object(&path))?, before)
}

fn a_snapshot_is_exposed_until_it_is_concealed(fixture: &mut dyn DeviceFixture) -> Verdict {
    let (volume, path) = fixture.device();
    fixture.write(&path, 1)?;
    let snapshot = take(fixture, &volume, "p1")?;
    fixture.write(&path, 2)?;
    let exposed = ok("expose", fixture.storage().expose(&snapshot, &owner(1)?))?;
    let again = ok("expose again", fixture.storage().expose(&snapshot, &owner(1)?))?;
    same("the device", &again, &exposed)?;
    holds(fixture, &exposed, Some(1))?;
    holds(fixture, &path, Some(2))?;
    for _ in 0..2 {
        ok("conceal", fixture.storage().conceal(&snapshot, &owner(1)?))?;
        same("what was exposed", ok("object", fixture.storage().object(&exposed))?, None)?;
    }
    holds(fixture, &path, Some(2))?;
    ok("destroy", fixture.storage().destroy(&[snapshot]))
}

fn a_device_is_overwritten_from_its_snapshot(fixture: &mut dyn DeviceFixture) -> Verdict {
    let (volume, path) = fixture.device();
    fixture.write(&path, 1)?;
    let snapshot = take(fixture, &volume, "p1")?;
    fixture.write(&path, 2)?;
    let before = ok("object", fixture.storage().object(&path))?;
    let exposed = ok("expose", fixture.storage().expose(&snapshot, &owner(1)?))?;
    for _ in 0..2 {
        ok("overwrite", fixture.storage().overwrite(&exposed, &path))?;
        holds(fixture, &path, Some(1))?;
    }
    same("the object", ok("object", fixture.storage().object(&path))?, before)?;
    ok("conceal", fixture.storage().conceal(&snapshot, &owner(1)?))?;
    holds(fixture, &path, Some(1))
}

fn exposing_needs_the_snapshot(fixture: &mut dyn DeviceFixture) -> Verdict {
    let (volume, path) = fixture.device();
    fixture.write(&path, 1)?;
    let (one, other) = (take(fixture, &volume, "p1")?, take(fixture, &volume, "p2")?);
    let mixed = Snapshot { id: other.id, ..one.clone() };
    let exposed = fixture.storage().expose(&mixed, &owner(1)?);
    fails("exposing one of another identity", exposed, ProblemKind::Refused)?;
    let absent = Snapshot { name: name("p3")?, ..one };
    let exposed = fixture.storage().expose(&absent, &owner(1)?);
    fails("exposing what is not there", exposed, ProblemKind::NotFound)
}

fn each_owner_exposes_for_itself(fixture: &mut dyn DeviceFixture) -> Verdict {
    let (volume, path) = fixture.device();
    fixture.write(&path, 1)?;
    let snapshot = take(fixture, &volume, "p1")?;
    let first = ok("expose", fixture.storage().expose(&snapshot, &owner(1)?))?;
    let second = ok("expose", fixture.storage().expose(&snapshot, &owner(2)?))?;
    differ("the devices", &first, &second)?;
    ok("conceal", fixture.storage().conceal(&snapshot, &owner(1)?))?;
    holds(fixture, &second, Some(1))?;
    ok("conceal", fixture.storage().conceal(&snapshot, &owner(2)?))
}

fn one_owner_exposes_several_snapshots(fixture: &mut dyn DeviceFixture) -> Verdict {
    let (volume, path) = fixture.device();
    let mut exposed = Vec::new();
    for (point, content) in [("p1", 1), ("p2", 2)] {
        fixture.write(&path, content)?;
        let snapshot = take(fixture, &volume, point)?;
        let device = ok("expose", fixture.storage().expose(&snapshot, &owner(1)?))?;
        exposed.push((snapshot, device, content));
    }
    for (_, device, content) in &exposed {
        holds(fixture, device, Some(*content))?;
    }
    for (snapshot, ..) in &exposed {
        ok("conceal", fixture.storage().conceal(snapshot, &owner(1)?))?;
    }
    Ok(())
}

fn annotating_leaves_a_device_as_it_is(fixture: &mut dyn DeviceFixture) -> Verdict {
    let (volume, path) = fixture.device();
    fixture.write(&path, 1)?;
    let file = NamedFile { name: "w.xml".into(), content: FileContent::Text("2".into()) };
    ok("annotate", fixture.storage().annotate(&volume, &[file]))?;
    holds(fixture, &path, Some(1))
}
