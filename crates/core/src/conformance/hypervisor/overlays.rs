//! Rules for snapshots with memory, for overlays and their commits.

use std::time::Duration;

use super::{
    Check, DISKS, Dump, Fixture, LIMIT, another, inactive, is, live, look, session, stop, suspend,
};
use crate::conformance::{Verdict, ensure, fails, is_error, ok, rules, same};
use crate::inventory::GuestState;
use crate::problem::ProblemKind;

pub(super) const RULES: &[(&str, Check)] = rules![
    a_snapshot_puts_the_disks_on_overlays,
    a_disk_without_an_overlay_is_left_alone,
    files_in_the_way_of_a_snapshot_are_refused,
    a_guest_that_does_not_run_is_not_snapshotted,
    a_limit_is_kept_or_the_snapshot_is_complete,
    a_suspended_guest_is_put_on_overlays,
    overlays_alone_need_a_suspended_guest_of_this_life,
    files_in_the_way_of_overlays_alone_are_refused,
    without_a_snapshot_job_there_is_nothing_to_abort,
    a_commit_brings_the_base_and_what_was_written,
    disks_are_committed_one_by_one,
    a_commit_may_be_repeated,
    a_commit_of_another_overlay_is_refused,
    a_commit_into_another_base_is_refused,
    a_disk_that_the_guest_has_not_is_not_committed,
    a_commit_needs_an_active_guest,
];

fn a_snapshot_puts_the_disks_on_overlays(fixture: &mut dyn Fixture) -> Verdict {
    let before = session(fixture)?;
    let dump = Dump::prepare(fixture, &DISKS)?;
    let pause = ok("external snapshot", dump.attempt(fixture, LIMIT))?;
    ensure(pause.pause > Duration::ZERO && pause.pause < LIMIT, "a pause is told")?;
    is(fixture, GuestState::Running)?;
    same("its life", session(fixture)?, before)?;
    same("the live disks", live(fixture)?, dump.overlays.clone())?;
    same("the disks of the next start", inactive(fixture)?, dump.overlays.clone())?;
    same("the job", look(fixture)?.job, None)?;
    // From here on the bases keep what they hold.
    suspend(fixture)?;
    for target in DISKS {
        let held = fixture.read(&dump.bases[target])?;
        fixture.guest_writes(target)?;
        same("the base after a write", fixture.read(&dump.bases[target])?, held)?;
    }
    Ok(())
}

fn a_disk_without_an_overlay_is_left_alone(fixture: &mut dyn Fixture) -> Verdict {
    let dump = Dump::take(fixture, &["vdb"])?;
    same("the live disks", live(fixture)?, dump.tops())?;
    same("the disks of the next start", inactive(fixture)?, dump.tops())?;
    suspend(fixture)?;
    let written = fixture.guest_writes("vda")?;
    same("the disk that was left alone", fixture.read(&dump.bases["vda"])?, written)
}

fn files_in_the_way_of_a_snapshot_are_refused(fixture: &mut dyn Fixture) -> Verdict {
    for memory_is_there in [true, false] {
        let dump = Dump::prepare(fixture, &DISKS)?;
        let there = if memory_is_there { &dump.memory } else { &dump.overlays["vdb"] };
        fixture.obstruct(there)?;
        fails("the snapshot", dump.attempt(fixture, LIMIT), ProblemKind::Refused)?;
        is(fixture, GuestState::Running)?;
        same("the live disks", live(fixture)?, dump.bases)?;
    }
    Ok(())
}

fn a_guest_that_does_not_run_is_not_snapshotted(fixture: &mut dyn Fixture) -> Verdict {
    suspend(fixture)?;
    let dump = Dump::prepare(fixture, &DISKS)?;
    is_error("a snapshot of a suspended guest", dump.attempt(fixture, LIMIT))?;
    is(fixture, GuestState::PausedByUser)?;
    same("the live disks", live(fixture)?, dump.bases.clone())?;
    stop(fixture)?;
    is_error("a snapshot of a guest that is off", dump.attempt(fixture, LIMIT))?;
    same("the disks of the next start", inactive(fixture)?, dump.bases)
}

fn a_limit_is_kept_or_the_snapshot_is_complete(fixture: &mut dyn Fixture) -> Verdict {
    let dump = Dump::prepare(fixture, &DISKS)?;
    let tops = match dump.attempt(fixture, Duration::ZERO) {
        Ok(_) => dump.tops(),
        Err(late) if late.kind == ProblemKind::TimedOut => dump.bases.clone(),
        Err(other) => return fails("a passed limit", Err::<(), _>(other), ProblemKind::TimedOut),
    };
    is(fixture, GuestState::Running)?;
    same("the live disks", live(fixture)?, tops)?;
    same("the job", look(fixture)?.job, None)
}

fn a_suspended_guest_is_put_on_overlays(fixture: &mut dyn Fixture) -> Verdict {
    for targets in [&["vdb"][..], &DISKS] {
        let before = suspend(fixture)?;
        let dump = Dump::prepare(fixture, targets)?;
        ok("put overlays", dump.put(fixture, &before))?;
        is(fixture, GuestState::PausedByUser)?;
        same("the live disks", live(fixture)?, dump.tops())?;
        same("the disks of the next start", inactive(fixture)?, dump.tops())?;
        same("the job", look(fixture)?.job, None)?;
        for &target in targets {
            let base = &dump.bases[target];
            let held = fixture.read(base)?;
            let written = fixture.guest_writes(target)?;
            same("the base after a write", fixture.read(base)?, held)?;
            ok("commit", dump.commit(fixture, target))?;
            same("what the base holds", fixture.read(base)?, written)?;
        }
        same("the live disks", live(fixture)?, dump.bases)?;
        let pause = ok("resume", fixture.hypervisor().resume(&fixture.guest(), &before))?;
        ensure(pause.is_some(), "the process that suspended it must know the pause")?;
        is(fixture, GuestState::Running)?;
    }
    Ok(())
}

fn overlays_alone_need_a_suspended_guest_of_this_life(fixture: &mut dyn Fixture) -> Verdict {
    let own = session(fixture)?;
    let dump = Dump::prepare(fixture, &DISKS)?;
    is_error("overlays of a guest that runs", dump.put(fixture, &own))?;
    is(fixture, GuestState::Running)?;
    suspend(fixture)?;
    fails("another life", dump.put(fixture, &another(&own)), ProblemKind::Refused)?;
    is(fixture, GuestState::PausedByUser)?;
    same("the live disks", live(fixture)?, dump.bases.clone())?;
    stop(fixture)?;
    is_error("overlays of a guest that is off", dump.put(fixture, &own))?;
    same("the disks of the next start", inactive(fixture)?, dump.bases)
}

fn files_in_the_way_of_overlays_alone_are_refused(fixture: &mut dyn Fixture) -> Verdict {
    let dump = Dump::prepare(fixture, &DISKS)?;
    fixture.obstruct(&dump.overlays["vdb"])?;
    let session = suspend(fixture)?;
    fails("putting overlays", dump.put(fixture, &session), ProblemKind::Refused)?;
    is(fixture, GuestState::PausedByUser)?;
    same("the live disks", live(fixture)?, dump.bases)
}

fn without_a_snapshot_job_there_is_nothing_to_abort(fixture: &mut dyn Fixture) -> Verdict {
    let guest = fixture.guest();
    for _ in 0..2 {
        ok("abort", fixture.hypervisor().abort_snapshot_job(&guest))?;
        is(fixture, GuestState::Running)?;
    }
    stop(fixture)?;
    ok("aborting for a guest that is off", fixture.hypervisor().abort_snapshot_job(&guest))
}

fn a_commit_brings_the_base_and_what_was_written(fixture: &mut dyn Fixture) -> Verdict {
    let dump = Dump::take(fixture, &DISKS)?;
    let before = suspend(fixture)?;
    for target in DISKS {
        let written = fixture.guest_writes(target)?;
        ok("commit", dump.commit(fixture, target))?;
        same("what the base holds", fixture.read(&dump.bases[target])?, written)?;
        let written = fixture.guest_writes(target)?;
        same("what it holds after a write", fixture.read(&dump.bases[target])?, written)?;
    }
    same("the live disks", live(fixture)?, dump.bases.clone())?;
    same("the disks of the next start", inactive(fixture)?, dump.bases.clone())?;
    same("its life", session(fixture)?, before.clone())?;
    ok("resume", fixture.hypervisor().resume(&fixture.guest(), &before))?;
    is(fixture, GuestState::Running)
}

fn disks_are_committed_one_by_one(fixture: &mut dyn Fixture) -> Verdict {
    let dump = Dump::take(fixture, &DISKS)?;
    ok("commit", dump.commit(fixture, "vdb"))?;
    let mut wanted = dump.tops();
    wanted.insert("vdb".into(), dump.bases["vdb"].clone());
    same("the live disks", live(fixture)?, wanted)?;
    ok("commit", dump.commit(fixture, "vda"))?;
    same("the live disks", live(fixture)?, dump.bases)?;
    is(fixture, GuestState::Running)
}

fn a_commit_may_be_repeated(fixture: &mut dyn Fixture) -> Verdict {
    let dump = Dump::take(fixture, &["vda"])?;
    suspend(fixture)?;
    ok("commit", dump.commit(fixture, "vda"))?;
    let written = fixture.guest_writes("vda")?;
    ok("commit again", dump.commit(fixture, "vda"))?;
    same("the live disks", live(fixture)?, dump.bases.clone())?;
    same("what was written since", fixture.read(&dump.bases["vda"])?, written)
}

fn a_commit_of_another_overlay_is_refused(fixture: &mut dyn Fixture) -> Verdict {
    let dump = Dump::take(fixture, &["vda"])?;
    let (base, other) = (&dump.bases["vda"], fixture.overlay()?);
    let committed = dump.commit_of(fixture, "vda", &other, base);
    fails("committing another overlay", committed, ProblemKind::Refused)?;
    same("the live disks", live(fixture)?, dump.tops())
}

fn a_commit_into_another_base_is_refused(fixture: &mut dyn Fixture) -> Verdict {
    let dump = Dump::take(fixture, &["vda"])?;
    let (overlay, other) = (&dump.overlays["vda"], &dump.bases["vdb"]);
    let committed = dump.commit_of(fixture, "vda", overlay, other);
    fails("committing into another base", committed, ProblemKind::Refused)?;
    same("the live disks", live(fixture)?, dump.tops())
}

fn a_disk_that_the_guest_has_not_is_not_committed(fixture: &mut dyn Fixture) -> Verdict {
    let dump = Dump::take(fixture, &["vda"])?;
    let (overlay, base) = (&dump.overlays["vda"], &dump.bases["vda"]);
    let committed = dump.commit_of(fixture, "vdz", overlay, base);
    fails("committing no disk", committed, ProblemKind::Refused)?;
    same("the live disks", live(fixture)?, dump.tops())
}

fn a_commit_needs_an_active_guest(fixture: &mut dyn Fixture) -> Verdict {
    let dump = Dump::take(fixture, &["vda"])?;
    stop(fixture)?;
    fails("committing live", dump.commit(fixture, "vda"), ProblemKind::Failed)?;
    same("the disks of the next start", inactive(fixture)?, dump.tops())
}
