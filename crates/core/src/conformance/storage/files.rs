//! Rules for copying, exchanging and removing image files.

use std::path::Path;

use super::snapshots::take;
use super::{Check, Fixture, holds, image};
use crate::conformance::{Verdict, differ, ensure, fails, ok, rules, same};
use crate::inventory::Snapshot;
use crate::problem::ProblemKind;

pub(super) const RULES: &[(&str, Check)] = rules![
    a_copy_from_a_snapshot_is_another_object,
    a_copy_replaces_what_lay_there,
    what_a_snapshot_does_not_hold_is_not_found,
    a_path_out_of_the_snapshot_is_refused,
    a_snapshot_of_another_identity_is_not_copied_from,
    a_file_is_copied,
    a_file_that_is_not_there_is_not_copied,
    exchanging_swaps_two_files,
    exchanging_renames_where_there_is_no_target,
    exchanging_nothing_is_not_found,
    removing_may_be_repeated,
];

fn copy(fixture: &dyn Fixture, snapshot: &Snapshot, path: &str, beside: &Path) -> CopyAnswer {
    let like = beside.with_file_name("disk.img");
    fixture.storage().copy_from_snapshot(snapshot, Path::new(path), beside, &like)
}

type CopyAnswer = crate::ports::Answer<crate::inventory::ObjectId>;

fn object(
    fixture: &dyn Fixture,
    path: &Path,
) -> Result<Option<crate::inventory::ObjectId>, String> {
    ok("object", fixture.storage().object(path))
}

fn a_copy_from_a_snapshot_is_another_object(fixture: &mut dyn Fixture) -> Verdict {
    let (volume, path) = image(fixture)?;
    let snapshot = take(fixture, &volume, "p1")?;
    fixture.write(&path, 2)?;
    let (before, beside) = (object(fixture, &path)?, path.with_file_name("copy"));
    let copied = ok("copy", copy(fixture, &snapshot, "disk.img", &beside))?;
    same("the copy's object", object(fixture, &beside)?, Some(copied.clone()))?;
    differ("original and copy", before.clone(), Some(copied))?;
    same("the original's object", object(fixture, &path)?, before)?;
    holds(fixture, &path, Some(2))?;
    holds(fixture, &beside, Some(1))
}

fn a_copy_replaces_what_lay_there(fixture: &mut dyn Fixture) -> Verdict {
    let (volume, path) = image(fixture)?;
    let snapshot = take(fixture, &volume, "p1")?;
    let beside = path.with_file_name("copy");
    fixture.write(&beside, 9)?;
    let mut last = object(fixture, &beside)?;
    for _ in 0..2 {
        let copied = Some(ok("copy", copy(fixture, &snapshot, "disk.img", &beside))?);
        differ("the replaced and the copy", &last, &copied)?;
        holds(fixture, &beside, Some(1))?;
        last = copied;
    }
    Ok(())
}

fn what_a_snapshot_does_not_hold_is_not_found(fixture: &mut dyn Fixture) -> Verdict {
    let (volume, path) = image(fixture)?;
    let snapshot = take(fixture, &volume, "p1")?;
    let beside = path.with_file_name("copy");
    let copied = copy(fixture, &snapshot, "absent.img", &beside);
    fails("copying what it does not hold", copied, ProblemKind::NotFound)?;
    ok("destroy", fixture.storage().destroy(std::slice::from_ref(&snapshot)))?;
    let copied = copy(fixture, &snapshot, "disk.img", &beside);
    fails("copying from a snapshot that is gone", copied, ProblemKind::NotFound)?;
    holds(fixture, &beside, None)
}

fn a_path_out_of_the_snapshot_is_refused(fixture: &mut dyn Fixture) -> Verdict {
    let (volume, path) = image(fixture)?;
    let snapshot = take(fixture, &volume, "p1")?;
    let beside = path.with_file_name("copy");
    for climbing in ["../disk.img", "a/../../disk.img", "/etc/passwd"] {
        let copied = copy(fixture, &snapshot, climbing, &beside);
        fails(climbing, copied, ProblemKind::Refused)?;
    }
    holds(fixture, &beside, None)
}

fn a_snapshot_of_another_identity_is_not_copied_from(fixture: &mut dyn Fixture) -> Verdict {
    let (volume, path) = image(fixture)?;
    let first = take(fixture, &volume, "p1")?;
    ok("destroy", fixture.storage().destroy(std::slice::from_ref(&first)))?;
    fixture.write(&path, 2)?;
    take(fixture, &volume, "p1")?;
    let beside = path.with_file_name("copy");
    let copied = copy(fixture, &first, "disk.img", &beside);
    fails("copying from another snapshot", copied, ProblemKind::Refused)?;
    holds(fixture, &beside, None)
}

fn a_file_is_copied(fixture: &mut dyn Fixture) -> Verdict {
    let (_, path) = image(fixture)?;
    let source = fixture.elsewhere().join("vars");
    fixture.write(&source, 5)?;
    let beside = path.with_file_name("copy");
    fixture.write(&beside, 9)?;
    let copied = ok("copy", fixture.storage().copy_file(&source, &beside, &path))?;
    same("the copy's object", object(fixture, &beside)?, Some(copied))?;
    fixture.write(&source, 6)?;
    holds(fixture, &beside, Some(5))
}

fn a_file_that_is_not_there_is_not_copied(fixture: &mut dyn Fixture) -> Verdict {
    let (_, path) = image(fixture)?;
    let beside = path.with_file_name("copy");
    let copied = fixture.storage().copy_file(&path.with_file_name("absent"), &beside, &path);
    fails("copying what is not there", copied, ProblemKind::NotFound)?;
    holds(fixture, &beside, None)
}

fn exchanging_swaps_two_files(fixture: &mut dyn Fixture) -> Verdict {
    let (_, path) = image(fixture)?;
    let beside = path.with_file_name("beside");
    fixture.write(&beside, 2)?;
    let (first, second) = (object(fixture, &path)?, object(fixture, &beside)?);
    ok("exchange", fixture.storage().exchange(&beside, &path))?;
    holds(fixture, &path, Some(2))?;
    holds(fixture, &beside, Some(1))?;
    same("the object in place", object(fixture, &path)?, second)?;
    same("the object beside", object(fixture, &beside)?, first)?;
    ok("exchange back", fixture.storage().exchange(&beside, &path))?;
    holds(fixture, &path, Some(1))
}

fn exchanging_renames_where_there_is_no_target(fixture: &mut dyn Fixture) -> Verdict {
    let (_, path) = image(fixture)?;
    let target = path.with_file_name("target");
    let before = object(fixture, &path)?;
    ok("exchange", fixture.storage().exchange(&path, &target))?;
    holds(fixture, &path, None)?;
    holds(fixture, &target, Some(1))?;
    same("the object", object(fixture, &target)?, before)
}

fn exchanging_nothing_is_not_found(fixture: &mut dyn Fixture) -> Verdict {
    let (_, path) = image(fixture)?;
    for target in [path.clone(), path.with_file_name("target")] {
        let exchanged = fixture.storage().exchange(&path.with_file_name("absent"), &target);
        fails("exchanging what is not there", exchanged, ProblemKind::NotFound)?;
    }
    holds(fixture, &path, Some(1))
}

fn removing_may_be_repeated(fixture: &mut dyn Fixture) -> Verdict {
    let (_, path) = image(fixture)?;
    let other = path.with_file_name("other");
    fixture.write(&other, 2)?;
    for _ in 0..2 {
        ok("remove", fixture.storage().remove_file(&path))?;
        holds(fixture, &path, None)?;
    }
    ensure(object(fixture, &path)?.is_none(), "what was removed is no object")?;
    holds(fixture, &other, Some(2))
}
