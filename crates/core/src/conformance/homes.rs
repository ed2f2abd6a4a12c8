//! Rules for [`Homes`]: staging, publishing, finding and removing points.

use std::cell::Cell;
use std::path::PathBuf;

use super::{Verdict, differ, ensure, fails, is_error, name, ok, rules, same};
use crate::fake::sample_manifest;
use crate::inventory::AnySnapshot;
use crate::manifest::{Manifest, MemoryImage};
use crate::name::{Bytes, GuestUuid, PointId};
use crate::ports::{FileContent, FoundPoint, Homes, NamedFile, STAGED_PLAN};
use crate::problem::{Problem, ProblemKind};

/// What the rules need: an empty store.
pub trait Fixture {
    /// The port.
    fn homes(&self) -> &dyn Homes;

    /// Writes a save image of this content to where libvirt writes that of a staged point.
    fn write_memory(&mut self, guest: &GuestUuid, point: &PointId, content: u8) -> Verdict;

    /// Changes a published point's memory image.
    fn damage_memory(&mut self, point: &FoundPoint) -> Verdict;

    /// Makes a save image of this content somewhere outside the store.
    fn save_image(&mut self, content: u8) -> Result<PathBuf, String>;

    /// Makes a small file somewhere outside the store that holds this number in decimal digits.
    fn file(&mut self, number: u8) -> Result<PathBuf, String>;
}

/// A rule.
pub type Check = fn(&mut dyn Fixture) -> Verdict;

/// The rules.
pub const RULES: &[(&str, Check)] = rules![
    an_empty_store_has_no_points,
    what_is_staged_is_not_published,
    what_is_staged_is_unfinished,
    what_is_noted_as_torn_stays_noted,
    what_is_published_is_found,
    publishing_may_be_repeated,
    what_was_never_staged_is_not_published,
    a_memory_image_that_is_not_there_is_not_published,
    staging_again_keeps_what_was_staged,
    a_file_to_be_copied_must_be_there,
    a_sealed_image_is_known_by_its_content,
    a_save_image_is_copied,
    a_memory_image_is_checked,
    points_are_kept_apart,
    an_expired_image_is_gone_and_its_point_stays,
    a_point_is_held_until_it_is_let_go,
    discarding_removes_everything_and_may_be_repeated,
    discarding_leaves_other_points,
];

fn guest(number: u8) -> Result<GuestUuid, String> {
    name(&format!("{number:08x}-0000-4000-8000-000000000000"))
}

fn point(number: u8) -> Result<PointId, String> {
    name(&format!("{number:08x}-0000-4000-9000-000000000000"))
}

fn text(name: &str, text: &str) -> NamedFile {
    NamedFile { name: name.to_owned(), content: FileContent::Text(text.to_owned()) }
}

fn manifest(of: u8, number: u8, memory: Option<MemoryImage>) -> Result<Manifest, String> {
    let sample = sample_manifest("2026-11-23T10:00:00Z", "p1");
    Ok(Manifest { id: point(number)?, guest_uuid: guest(of)?, memory, ..sample })
}

/// Stages the first guest's point of this number, with memory where a content is given.
fn stage(fixture: &mut dyn Fixture, number: u8, memory: Option<u8>) -> Result<Manifest, String> {
    stage_of(fixture, 1, number, memory)
}

fn stage_of(
    fixture: &mut dyn Fixture,
    of: u8,
    number: u8,
    memory: Option<u8>,
) -> Result<Manifest, String> {
    let (guest, point) = (guest(of)?, point(number)?);
    let file = text("domain.xml", &format!("{of} {number}"));
    ok("stage", fixture.homes().stage(&guest, &point, &[file]))?;
    let sealed = match memory {
        Some(content) => {
            fixture.write_memory(&guest, &point, content)?;
            Some(ok("seal", fixture.homes().seal_memory(&guest, &point))?)
        }
        None => None,
    };
    manifest(of, number, sealed)
}

fn find(fixture: &dyn Fixture, manifest: &Manifest) -> Result<FoundPoint, String> {
    let points = ok("points", fixture.homes().points())?;
    let is_it = |it: &FoundPoint| it.id == manifest.id && it.guest == manifest.guest_uuid;
    let missing = || format!("point {} must be found", manifest.id);
    points.into_iter().find(is_it).ok_or_else(missing)
}

/// The point is found, published, with its manifest and its files.
fn is_published(fixture: &dyn Fixture, manifest: &Manifest) -> Result<FoundPoint, String> {
    let found = find(fixture, manifest)?;
    ensure(found.published, "the point must be published")?;
    let read = found.manifest.as_ref().map_err(Problem::chain)?;
    same("the manifest", read, manifest)?;
    same("whether it has a memory image", found.memory.is_some(), manifest.memory.is_some())?;
    Ok(found)
}

/// No point is published.
fn nothing_is_published(fixture: &dyn Fixture) -> Verdict {
    let points = ok("points", fixture.homes().points())?;
    ensure(!points.iter().any(|it| it.published), "nothing must be published")
}

fn reads(fixture: &dyn Fixture, point: &FoundPoint, name: &str, wanted: Option<&str>) -> Verdict {
    let read = ok("read", fixture.homes().read_text(point, name))?;
    same(name, read.as_deref(), wanted)
}

fn check(fixture: &dyn Fixture, point: &FoundPoint) -> crate::ports::Answer<()> {
    fixture.homes().check_memory(point, &|_| {})
}

fn an_empty_store_has_no_points(fixture: &mut dyn Fixture) -> Verdict {
    let points = ok("points", fixture.homes().points())?;
    ensure(points.is_empty(), "there are points in an empty store")?;
    let facts = ok("store", fixture.homes().store())?;
    ensure(facts.path.is_absolute() && facts.free > Bytes(0), "the store's facts are odd")?;
    ok("discard", fixture.homes().discard(&guest(1)?, &point(1)?))
}

fn what_is_staged_is_not_published(fixture: &mut dyn Fixture) -> Verdict {
    for memory in [None, Some(7)] {
        let manifest = stage(fixture, 1, memory)?;
        nothing_is_published(fixture)?;
        let (guest, point) = (&manifest.guest_uuid, &manifest.id);
        ok("discard", fixture.homes().discard(guest, point))?;
    }
    Ok(())
}

fn what_is_published_is_found(fixture: &mut dyn Fixture) -> Verdict {
    for (number, memory) in [(1, None), (2, Some(7))] {
        let manifest = stage(fixture, number, memory)?;
        let published = ok("publish", fixture.homes().publish(&manifest))?;
        ensure(published.stored > Bytes(0), "a point takes room")?;
        let found = is_published(fixture, &manifest)?;
        reads(fixture, &found, "domain.xml", Some(&format!("1 {number}")))?;
        reads(fixture, &found, "absent", None)?;
    }
    Ok(())
}

fn publishing_may_be_repeated(fixture: &mut dyn Fixture) -> Verdict {
    let manifest = stage(fixture, 1, Some(7))?;
    let first = ok("publish", fixture.homes().publish(&manifest))?;
    let second = ok("publish again", fixture.homes().publish(&manifest))?;
    same("the home's snapshot", second.home_snapshot, first.home_snapshot)?;
    let found = is_published(fixture, &manifest)?;
    ok("check", check(fixture, &found))?;
    same("the number of points", ok("points", fixture.homes().points())?.len(), 1)
}

fn what_was_never_staged_is_not_published(fixture: &mut dyn Fixture) -> Verdict {
    is_error("publishing", fixture.homes().publish(&manifest(1, 1, None)?))?;
    nothing_is_published(fixture)?;
    stage(fixture, 2, None)?;
    is_error("publishing", fixture.homes().publish(&manifest(1, 1, None)?))?;
    nothing_is_published(fixture)
}

fn a_memory_image_that_is_not_there_is_not_published(fixture: &mut dyn Fixture) -> Verdict {
    let manifest = stage(fixture, 1, None)?;
    let memory = MemoryImage { bytes: Bytes(1), blake3: "0".repeat(64) };
    let published = fixture.homes().publish(&Manifest { memory: Some(memory), ..manifest });
    is_error("publishing", published)?;
    nothing_is_published(fixture)
}

fn staging_again_keeps_what_was_staged(fixture: &mut dyn Fixture) -> Verdict {
    let manifest = stage(fixture, 1, Some(7))?;
    let vars = NamedFile { name: "nvram".into(), content: FileContent::CopyOf(fixture.file(42)?) };
    for files in [vec![text("domain.inactive.xml", "old"), vars.clone()], vec![vars]] {
        ok("stage", fixture.homes().stage(&manifest.guest_uuid, &manifest.id, &files))?;
    }
    let newer = [text("domain.inactive.xml", "new")];
    ok("stage", fixture.homes().stage(&manifest.guest_uuid, &manifest.id, &newer))?;
    ok("publish", fixture.homes().publish(&manifest))?;
    let found = is_published(fixture, &manifest)?;
    reads(fixture, &found, "domain.xml", Some("1 1"))?;
    reads(fixture, &found, "domain.inactive.xml", Some("new"))?;
    reads(fixture, &found, "nvram", Some("42"))?;
    ok("check", check(fixture, &found))
}

fn a_file_to_be_copied_must_be_there(fixture: &mut dyn Fixture) -> Verdict {
    let absent = fixture.file(42)?.with_file_name("absent");
    let file = NamedFile { name: "nvram".into(), content: FileContent::CopyOf(absent) };
    let staged = fixture.homes().stage(&guest(1)?, &point(1)?, &[file]);
    fails("staging a copy of what is not there", staged, ProblemKind::NotFound)?;
    nothing_is_published(fixture)
}

fn a_sealed_image_is_known_by_its_content(fixture: &mut dyn Fixture) -> Verdict {
    let mut sealed = Vec::new();
    for (number, content) in [(1, 7), (2, 8), (3, 7)] {
        let manifest = stage(fixture, number, Some(content))?;
        let again = fixture.homes().seal_memory(&manifest.guest_uuid, &manifest.id);
        same("sealing it again", Some(ok("seal", again)?), manifest.memory.clone())?;
        sealed.push(manifest.memory);
    }
    same("images of one content", &sealed[0], &sealed[2])?;
    differ("images of two contents", &sealed[0], &sealed[1])?;
    stage(fixture, 4, None)?;
    let nothing = fixture.homes().seal_memory(&guest(1)?, &point(4)?);
    fails("sealing what is not there", nothing, ProblemKind::NotFound)
}

fn a_save_image_is_copied(fixture: &mut dyn Fixture) -> Verdict {
    let mut manifest = stage(fixture, 1, None)?;
    let (guest, point) = (manifest.guest_uuid.clone(), manifest.id.clone());
    let image = fixture.save_image(7)?;
    let absent = image.with_file_name("absent");
    let copied = fixture.homes().stage_memory_copy(&guest, &point, &absent);
    fails("copying what is not there", copied, ProblemKind::NotFound)?;
    for _ in 0..2 {
        ok("copy", fixture.homes().stage_memory_copy(&guest, &point, &image))?;
    }
    manifest.memory = Some(ok("seal", fixture.homes().seal_memory(&guest, &point))?);
    ok("publish", fixture.homes().publish(&manifest))?;
    let found = is_published(fixture, &manifest)?;
    ok("check", check(fixture, &found))
}

fn a_memory_image_is_checked(fixture: &mut dyn Fixture) -> Verdict {
    let without = stage(fixture, 1, None)?;
    ok("publish", fixture.homes().publish(&without))?;
    ok("checking a point without memory", check(fixture, &find(fixture, &without)?))?;
    let manifest = stage(fixture, 2, Some(7))?;
    ok("publish", fixture.homes().publish(&manifest))?;
    let found = find(fixture, &manifest)?;
    let (told, sealed) = (Cell::new(Bytes(0)), manifest.memory.as_ref().map(|it| it.bytes));
    ok("check", fixture.homes().check_memory(&found, &|bytes| told.set(bytes)))?;
    same("the progress", Some(told.get()), sealed)?;
    let target = fixture.homes().save_image(&manifest.guest_uuid, &point(9)?);
    for _ in 0..2 {
        ok("write out", fixture.homes().write_save_image(&found, &target, &|_| {}))?;
    }
    let nothing = find(fixture, &without)?;
    let written = fixture.homes().write_save_image(&nothing, &target, &|_| {});
    fails("writing out what is not there", written, ProblemKind::NotFound)?;
    fixture.damage_memory(&found)?;
    let written = fixture.homes().write_save_image(&found, &target, &|_| {});
    fails("writing out a damaged image", written, ProblemKind::Refused)?;
    fails("checking a damaged image", check(fixture, &found), ProblemKind::Refused)
}

fn points_are_kept_apart(fixture: &mut dyn Fixture) -> Verdict {
    // Of one guest one point comes after the other; of two, side by side.
    let mut manifests = vec![stage_of(fixture, 1, 1, Some(7))?];
    ok("publish", fixture.homes().publish(&manifests[0]))?;
    for (of, number, content) in [(1, 2, 8), (2, 3, 9)] {
        manifests.push(stage_of(fixture, of, number, Some(content))?);
    }
    for manifest in manifests[1..].iter().rev() {
        ok("publish", fixture.homes().publish(manifest))?;
    }
    let mut folders = Vec::new();
    for manifest in &manifests {
        let found = is_published(fixture, manifest)?;
        ok("check", check(fixture, &found))?;
        folders.push(found.folder);
    }
    folders.dedup();
    same("the number of folders", folders.len(), 3)
}

fn an_expired_image_is_gone_and_its_point_stays(fixture: &mut dyn Fixture) -> Verdict {
    let (old, bare) = (stage(fixture, 1, Some(7))?, stage(fixture, 3, None)?);
    ok("publish", fixture.homes().publish(&bare))?;
    ok("publish", fixture.homes().publish(&old))?;
    let new = stage(fixture, 2, Some(8))?;
    ok("publish", fixture.homes().publish(&new))?;
    for _ in 0..2 {
        for manifest in [&old, &bare] {
            let expire = fixture.homes().expire_memory(&manifest.guest_uuid, &manifest.id);
            ok("expire", expire)?;
        }
    }
    let found = find(fixture, &old)?;
    ensure(found.published && found.expired, "the point stays, and says so")?;
    same("its image", &found.memory, &None)?;
    reads(fixture, &found, "domain.xml", Some("1 1"))?;
    let target = fixture.homes().save_image(&old.guest_uuid, &point(9)?);
    let written = fixture.homes().write_save_image(&found, &target, &|_| {});
    fails("writing out what expired", written, ProblemKind::NotFound)?;
    // The next image goes on from it all the same.
    let found = is_published(fixture, &new)?;
    ensure(!found.expired, "the other image stays")?;
    ok("check", check(fixture, &found))?;
    ok("discard", fixture.homes().discard(&old.guest_uuid, &old.id))?;
    let found = is_published(fixture, &new)?;
    ok("check", check(fixture, &found))
}

fn a_point_is_held_until_it_is_let_go(fixture: &mut dyn Fixture) -> Verdict {
    let manifest = stage(fixture, 1, Some(7))?;
    ok("publish", fixture.homes().publish(&manifest))?;
    let (guest, id) = (&manifest.guest_uuid, &manifest.id);
    let hold = |fixture: &dyn Fixture, tag: &str, held: bool, wanted: &[&str]| {
        for _ in 0..2 {
            ok("hold", fixture.homes().hold(guest, id, tag, held))?;
        }
        let found = is_published(fixture, &manifest)?;
        same("the tags", found.holds, wanted.iter().map(|it| (*it).to_owned()).collect())
    };
    hold(fixture, "b", true, &["b"])?;
    hold(fixture, "a", true, &["a", "b"])?;
    hold(fixture, "b", false, &["a"])?;
    hold(fixture, "c", false, &["a"])?;
    hold(fixture, "a", false, &[])?;
    let unknown = point(2)?;
    let held = fixture.homes().hold(guest, &unknown, "a", true);
    fails("holding what is not there", held, ProblemKind::NotFound)
}

fn discarding_removes_everything_and_may_be_repeated(fixture: &mut dyn Fixture) -> Verdict {
    let manifest = stage(fixture, 1, Some(7))?;
    let (guest, point) = (&manifest.guest_uuid, &manifest.id);
    for _ in 0..2 {
        ok("discard", fixture.homes().discard(guest, point))?;
    }
    ensure(ok("points", fixture.homes().points())?.is_empty(), "a point is left")?;
    is_error("publishing what was discarded", fixture.homes().publish(&manifest))?;
    // A new beginning finds nothing of the old one.
    ok("stage", fixture.homes().stage(guest, point, &[]))?;
    let sealed = fixture.homes().seal_memory(guest, point);
    fails("sealing what was discarded", sealed, ProblemKind::NotFound)?;
    let bare = Manifest { memory: None, ..manifest.clone() };
    ok("publish", fixture.homes().publish(&bare))?;
    let found = is_published(fixture, &bare)?;
    reads(fixture, &found, "domain.xml", None)
}

fn discarding_leaves_other_points(fixture: &mut dyn Fixture) -> Verdict {
    let published = stage(fixture, 1, Some(7))?;
    ok("publish", fixture.homes().publish(&published))?;
    let gone = stage(fixture, 3, Some(9))?;
    ok("discard", fixture.homes().discard(&gone.guest_uuid, &gone.id))?;
    let staged = stage(fixture, 2, Some(8))?;
    ok("discard in another home", fixture.homes().discard(&guest(2)?, &staged.id))?;
    ok("discard in another home", fixture.homes().discard(&guest(2)?, &published.id))?;
    ok("publish", fixture.homes().publish(&staged))?;
    for manifest in [&published, &staged] {
        let found = is_published(fixture, manifest)?;
        ok("check", check(fixture, &found))?;
    }
    Ok(())
}

fn what_is_staged_is_unfinished(fixture: &mut dyn Fixture) -> Verdict {
    let (guest, one, other) = (guest(1)?, point(1)?, point(2)?);
    let staged = |fixture: &dyn Fixture| -> Result<Vec<(PointId, Option<String>)>, String> {
        let found = ok("unfinished", fixture.homes().unfinished())?;
        let mut found: Vec<_> = found.into_iter().map(|it| (it.id, it.plan)).collect();
        found.sort();
        Ok(found)
    };
    same("an empty store", staged(fixture)?, Vec::new())?;
    ok("stage", fixture.homes().stage(&guest, &one, &[text(STAGED_PLAN, "a plan")]))?;
    ok("stage", fixture.homes().stage(&guest, &other, &[]))?;
    let both = vec![(one.clone(), Some("a plan".to_owned())), (other.clone(), None)];
    same("two points", staged(fixture)?, both)?;
    let manifest = Manifest {
        id: one.clone(),
        guest_uuid: guest.clone(),
        ..sample_manifest("2026-01-01T00:00:00Z", "one")
    };
    ok("publish", fixture.homes().publish(&manifest))?;
    same("one is published", staged(fixture)?, vec![(other.clone(), None)])?;
    let found = ok("points", fixture.homes().points())?;
    let plan = found.first().map(|it| fixture.homes().read_text(it, STAGED_PLAN));
    ensure(matches!(plan, Some(Ok(None))), "a published point has no plan")?;
    ok("discard", fixture.homes().discard(&guest, &other))?;
    same("nothing is left", staged(fixture)?, Vec::new())
}

fn what_is_noted_as_torn_stays_noted(fixture: &mut dyn Fixture) -> Verdict {
    let snapshot = |id: &str| -> Result<AnySnapshot, String> {
        Ok(AnySnapshot { volume: name("/v")?, name: format!("snapper/{id}"), id: name(id)? })
    };
    let noted = |fixture: &dyn Fixture| {
        let mut noted = ok("torn", fixture.homes().torn())?;
        noted.sort_by(|a, b| (&a.0, &a.1.id).cmp(&(&b.0, &b.1.id)));
        Ok::<_, String>(noted)
    };
    let (one, other) = (guest(1)?, guest(2)?);
    for (guest, number) in [(&one, 1), (&other, 2)] {
        ok("stage", fixture.homes().stage(guest, &point(number)?, &[]))?;
    }
    same("at first", noted(fixture)?, Vec::new())?;
    let (a, b) = (snapshot("a")?, snapshot("b")?);
    ok("note", fixture.homes().note_torn(&one, std::slice::from_ref(&a)))?;
    ok("note", fixture.homes().note_torn(&other, std::slice::from_ref(&a)))?;
    for _ in 0..2 {
        ok("note", fixture.homes().note_torn(&one, &[a.clone(), b.clone()]))?;
    }
    ok("discard", fixture.homes().discard(&one, &point(1)?))?;
    let wanted = vec![(one.clone(), a.clone()), (one, b), (other, a)];
    same("afterwards", noted(fixture)?, wanted)
}
