//! Rules for [`Storage`]: volumes, snapshots, and the files on them.

mod devices;
mod files;
mod snapshots;

use std::path::{Path, PathBuf};

use super::{Verdict, differ, ensure, fails, ok, rules, same};
use crate::inventory::Location;
use crate::name::Volume;
use crate::ports::{Answer, Storage};
use crate::problem::{Problem, ProblemKind};

/// What the rules need: a fresh storage with two empty volumes.
pub trait Fixture {
    /// The port.
    fn storage(&self) -> &dyn Storage;

    /// The volumes, in no particular order.
    fn volumes(&self) -> [Volume; 2];

    /// The folder at a volume's root.
    fn root(&self, volume: &Volume) -> PathBuf;

    /// An empty folder on storage that cannot be snapshotted.
    fn elsewhere(&self) -> PathBuf;

    /// Writes a file that holds this byte; one that exists stays the object that it is.
    fn write(&mut self, path: &Path, content: u8) -> Verdict;

    /// The byte that a file holds; `None` if there is no file.
    fn read(&self, path: &Path) -> Result<Option<u8>, String>;

    /// Makes taking a snapshot of this volume fail, at the latest moment that can be had.
    fn obstruct(&mut self, volume: &Volume) -> Verdict;

    /// Whether both volumes are snapshotted at one instant.
    fn is_one_group(&self) -> bool;
}

/// What the rules for volumes that are images themselves need besides. Their devices are written and
/// read like files.
pub trait DeviceFixture: Fixture {
    /// Such a volume, and the path of its device.
    fn device(&self) -> (Volume, PathBuf);
}

/// A rule.
pub type Check = fn(&mut dyn Fixture) -> Verdict;

/// A rule for storage with volumes that are images themselves.
pub type DeviceCheck = fn(&mut dyn DeviceFixture) -> Verdict;

/// The rules for images and where they lie.
pub const PLACES: &[(&str, Check)] = rules![
    an_image_is_located,
    images_are_located_in_their_order,
    volumes_of_one_instant_are_of_one_group,
    an_image_that_is_not_there_is_not_found,
    an_image_elsewhere_is_lacking,
    a_path_without_links_leads_to_itself,
    an_object_keeps_its_identity,
    a_volume_is_found_by_its_name,
    a_volume_that_is_not_there_is_not_found,
];

/// The rules for snapshots.
pub const SNAPSHOTS: &[(&str, Check)] = snapshots::RULES;

/// The rules for copying, exchanging and removing files.
pub const FILES: &[(&str, Check)] = files::RULES;

/// The rules for volumes that are images themselves.
pub const DEVICES: &[(&str, DeviceCheck)] = devices::RULES;

/// All rules that any storage must keep.
pub fn rules() -> impl Iterator<Item = (&'static str, Check)> {
    PLACES.iter().chain(SNAPSHOTS).chain(FILES).copied()
}

/// An image on the first volume that holds 1.
fn image(fixture: &mut dyn Fixture) -> Result<(Volume, PathBuf), String> {
    let [volume, _] = fixture.volumes();
    let path = fixture.root(&volume).join("disk.img");
    fixture.write(&path, 1)?;
    Ok((volume, path))
}

fn locate(fixture: &dyn Fixture, image: &Path) -> Answer<Location> {
    let mut located = fixture.storage().locate(&[image.to_owned()]);
    located.pop().unwrap_or_else(|| Err(Problem::failed("no answer for the image")))
}

fn holds(fixture: &dyn Fixture, path: &Path, wanted: Option<u8>) -> Verdict {
    same(&format!("the content of {}", path.display()), fixture.read(path)?, wanted)
}

fn an_image_is_located(fixture: &mut dyn Fixture) -> Verdict {
    let (volume, path) = image(fixture)?;
    let location = ok("locate", locate(fixture, &path))?;
    same("the volume", location.volume, volume)?;
    same("the path in the volume", location.path_in_volume, Some("disk.img".into()))?;
    let object = ok("object", fixture.storage().object(&path))?;
    same("the object", Some(location.object), object)
}

fn images_are_located_in_their_order(fixture: &mut dyn Fixture) -> Verdict {
    let [a, b] = fixture.volumes();
    let paths = [&a, &b].map(|volume| fixture.root(volume).join("disk.img"));
    for path in &paths {
        fixture.write(path, 1)?;
    }
    let [first, second] = paths;
    let absent = first.with_file_name("absent.img");
    let asked = [second.clone(), absent, first, second];
    let located = fixture.storage().locate(&asked);
    same("the number of answers", located.len(), asked.len())?;
    for (answer, wanted) in located.into_iter().zip([Some(&b), None, Some(&a), Some(&b)]) {
        match wanted {
            Some(volume) => same("the volume", &ok("locate", answer)?.volume, volume)?,
            None => fails("locating what is not there", answer, ProblemKind::NotFound)?,
        }
    }
    ensure(fixture.storage().locate(&[]).is_empty(), "no image has no location")
}

fn volumes_of_one_instant_are_of_one_group(fixture: &mut dyn Fixture) -> Verdict {
    let mut groups = Vec::new();
    for volume in fixture.volumes() {
        let path = fixture.root(&volume).join("disk.img");
        fixture.write(&path, 1)?;
        groups.push(ok("locate", locate(fixture, &path))?.group);
    }
    same("whether the group is one", groups[0] == groups[1], fixture.is_one_group())
}

fn an_image_that_is_not_there_is_not_found(fixture: &mut dyn Fixture) -> Verdict {
    let [volume, _] = fixture.volumes();
    for folder in [fixture.root(&volume), fixture.elsewhere()] {
        let located = locate(fixture, &folder.join("absent.img"));
        fails("locating what is not there", located, ProblemKind::NotFound)?;
    }
    Ok(())
}

fn an_image_elsewhere_is_lacking(fixture: &mut dyn Fixture) -> Verdict {
    let path = fixture.elsewhere().join("disk.img");
    fixture.write(&path, 1)?;
    fails("locating", locate(fixture, &path), ProblemKind::Lacking)?;
    let object = ok("object", fixture.storage().object(&path))?;
    ensure(object.is_some(), "an object is known on any file system")
}

fn a_path_without_links_leads_to_itself(fixture: &mut dyn Fixture) -> Verdict {
    let (volume, path) = image(fixture)?;
    for path in [path, fixture.root(&volume).join("absent.img")] {
        same("the real path", ok("resolve", fixture.storage().resolve(&path))?, path)?;
    }
    Ok(())
}

fn an_object_keeps_its_identity(fixture: &mut dyn Fixture) -> Verdict {
    let (_, path) = image(fixture)?;
    let other = path.with_file_name("other.img");
    let look = |fixture: &dyn Fixture, path: &Path| ok("object", fixture.storage().object(path));
    same("an object that is not there", look(fixture, &other)?, None)?;
    fixture.write(&other, 1)?;
    let before = look(fixture, &path)?;
    fixture.write(&path, 2)?;
    ensure(before.is_some(), "a file is an object")?;
    same("the object after a write", look(fixture, &path)?, before.clone())?;
    differ("two files", look(fixture, &other)?, before)
}

fn a_volume_is_found_by_its_name(fixture: &mut dyn Fixture) -> Verdict {
    let mut objects = Vec::new();
    for volume in fixture.volumes() {
        for below in [false, true] {
            let found = ok("volumes", fixture.storage().volumes(&volume, below))?;
            let names: Vec<_> = found.iter().map(|it| it.volume.clone()).collect();
            same("the volumes", names, vec![volume.clone()])?;
            objects.extend(found.into_iter().map(|it| it.object));
        }
    }
    same("the object at a second look", &objects[0], &objects[1])?;
    differ("two volumes", &objects[0], &objects[2])
}

fn a_volume_that_is_not_there_is_not_found(fixture: &mut dyn Fixture) -> Verdict {
    let [volume, _] = fixture.volumes();
    let absent: Volume =
        format!("{volume}-absent").parse().map_err(|error| format!("a name: {error}"))?;
    for below in [false, true] {
        let found = fixture.storage().volumes(&absent, below);
        fails("looking at what is not there", found, ProblemKind::NotFound)?;
    }
    Ok(())
}
