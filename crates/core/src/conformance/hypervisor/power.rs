//! Rules for suspending, resuming, stopping and starting.

use super::{Check, Dump, Fixture, another, is, look, session, stop, suspend};
use crate::conformance::{Verdict, differ, ensure, fails, ok, rules, same};
use crate::inventory::GuestState;
use crate::problem::ProblemKind;

pub(super) const RULES: &[(&str, Check)] = rules![
    suspending_and_resuming_may_be_repeated,
    another_life_is_left_alone,
    a_pause_for_another_reason_is_left_alone,
    only_what_could_not_write_tries_again,
    a_guest_that_is_off_is_not_suspended_or_resumed,
    stopping_may_be_repeated,
    a_suspended_guest_is_stopped,
    an_active_guest_is_not_started_again,
    a_start_is_a_new_life,
    a_guest_can_be_started_suspended,
    memory_is_resumed_on_its_disks,
    memory_that_is_not_there_is_not_resumed,
    a_managed_save_image_is_found_and_removed,
    starting_discards_the_managed_save_image,
];

fn suspending_and_resuming_may_be_repeated(fixture: &mut dyn Fixture) -> Verdict {
    let (guest, session) = (fixture.guest(), session(fixture)?);
    let resumed = ok("resuming what runs", fixture.hypervisor().resume(&guest, &session))?;
    same("the pause of a guest that ran", resumed, None)?;
    for _ in 0..2 {
        for _ in 0..2 {
            ok("suspend", fixture.hypervisor().suspend(&guest, &session))?;
            is(fixture, GuestState::PausedByUser)?;
        }
        let pause = ok("resume", fixture.hypervisor().resume(&guest, &session))?;
        ensure(pause.is_some(), "the process that suspended it must know the pause")?;
        is(fixture, GuestState::Running)?;
        let again = ok("resume again", fixture.hypervisor().resume(&guest, &session))?;
        same("the pause of a guest that ran", again, None)?;
    }
    same("its life", look(fixture)?.session, Some(session))
}

fn another_life_is_left_alone(fixture: &mut dyn Fixture) -> Verdict {
    let (guest, own) = (fixture.guest(), session(fixture)?);
    let other = another(&own);
    let refused = ProblemKind::Refused;
    fails("suspending", fixture.hypervisor().suspend(&guest, &other), refused)?;
    fails("stopping", fixture.hypervisor().stop(&guest, &other), refused)?;
    is(fixture, GuestState::Running)?;
    suspend(fixture)?;
    fails("resuming", fixture.hypervisor().resume(&guest, &other), refused)?;
    fails("stopping", fixture.hypervisor().stop(&guest, &other), refused)?;
    is(fixture, GuestState::PausedByUser)?;
    same("its life", session(fixture)?, own)
}

fn a_pause_for_another_reason_is_left_alone(fixture: &mut dyn Fixture) -> Verdict {
    let (guest, session) = (fixture.guest(), session(fixture)?);
    fixture.pause_otherwise()?;
    is(fixture, GuestState::PausedOtherwise)?;
    let refused = ProblemKind::Refused;
    fails("resuming", fixture.hypervisor().resume(&guest, &session), refused)?;
    fails("suspending", fixture.hypervisor().suspend(&guest, &session), refused)?;
    ok("retry", fixture.hypervisor().retry(&guest, &session))?;
    is(fixture, GuestState::PausedOtherwise)
}

fn only_what_could_not_write_tries_again(fixture: &mut dyn Fixture) -> Verdict {
    let (guest, session) = (fixture.guest(), session(fixture)?);
    ok("retry of what runs", fixture.hypervisor().retry(&guest, &session))?;
    is(fixture, GuestState::Running)?;
    suspend(fixture)?;
    ok("retry of what is suspended", fixture.hypervisor().retry(&guest, &session))?;
    is(fixture, GuestState::PausedByUser)?;
    stop(fixture)?;
    ok("retry of what is off", fixture.hypervisor().retry(&guest, &session))?;
    is(fixture, GuestState::ShutOff)
}

fn a_guest_that_is_off_is_not_suspended_or_resumed(fixture: &mut dyn Fixture) -> Verdict {
    let (guest, session) = (fixture.guest(), session(fixture)?);
    stop(fixture)?;
    let failed = ProblemKind::Failed;
    fails("suspending", fixture.hypervisor().suspend(&guest, &session), failed)?;
    fails("resuming", fixture.hypervisor().resume(&guest, &session), failed)?;
    is(fixture, GuestState::ShutOff)
}

fn stopping_may_be_repeated(fixture: &mut dyn Fixture) -> Verdict {
    let (guest, session) = (fixture.guest(), session(fixture)?);
    for session in [&session, &session, &another(&session)] {
        ok("stop", fixture.hypervisor().stop(&guest, session))?;
        let found = look(fixture)?;
        same("its state", found.state, GuestState::ShutOff)?;
        same("its life", found.session, None)?;
        ensure(found.live_xml.is_none(), "a guest that is off must have no live definition")?;
        ensure(found.inactive_xml.is_some(), "its definition must be kept")?;
    }
    Ok(())
}

fn a_suspended_guest_is_stopped(fixture: &mut dyn Fixture) -> Verdict {
    suspend(fixture)?;
    stop(fixture)
}

fn an_active_guest_is_not_started_again(fixture: &mut dyn Fixture) -> Verdict {
    let dump = Dump::take(fixture, &[])?;
    let (guest, before) = (fixture.guest(), session(fixture)?);
    for state in [GuestState::Running, GuestState::PausedByUser] {
        ok("start", fixture.hypervisor().start(&guest, false))?;
        let resumed = fixture.hypervisor().start_from_image(&guest, &dump.memory, false);
        ok("start from the image", resumed)?;
        is(fixture, state)?;
        same("its life", session(fixture)?, before.clone())?;
        suspend(fixture)?;
    }
    Ok(())
}

fn a_start_is_a_new_life(fixture: &mut dyn Fixture) -> Verdict {
    let (guest, before) = (fixture.guest(), session(fixture)?);
    stop(fixture)?;
    ok("start", fixture.hypervisor().start(&guest, false))?;
    is(fixture, GuestState::Running)?;
    differ("the two lives", session(fixture)?, before.clone())?;
    let stopped = fixture.hypervisor().stop(&guest, &before);
    fails("stopping it by its former life", stopped, ProblemKind::Refused)?;
    is(fixture, GuestState::Running)
}

fn a_guest_can_be_started_suspended(fixture: &mut dyn Fixture) -> Verdict {
    let guest = fixture.guest();
    stop(fixture)?;
    ok("start", fixture.hypervisor().start(&guest, true))?;
    is(fixture, GuestState::PausedByUser)?;
    let session = session(fixture)?;
    ok("resume", fixture.hypervisor().resume(&guest, &session))?;
    is(fixture, GuestState::Running)
}

fn memory_is_resumed_on_its_disks(fixture: &mut dyn Fixture) -> Verdict {
    let guest = fixture.guest();
    let dump = Dump::take(fixture, &super::DISKS)?;
    let before = session(fixture)?;
    // Suspended first: it writes nothing, so that its disks fit the image once more.
    for paused in [true, false] {
        stop(fixture)?;
        dump.point_back(fixture)?;
        let started = fixture.hypervisor().start_from_image(&guest, &dump.memory, paused);
        ok("start from the image", started)?;
        let state = look(fixture)?.state;
        ensure(state.is_active(), "the guest must be active")?;
        same("whether its CPUs run", state == GuestState::Running, !paused)?;
        differ("the two lives", session(fixture)?, before.clone())?;
        same("its disks", super::live(fixture)?, dump.bases.clone())?;
    }
    Ok(())
}

fn memory_that_is_not_there_is_not_resumed(fixture: &mut dyn Fixture) -> Verdict {
    let (guest, absent) = (fixture.guest(), fixture.memory()?);
    stop(fixture)?;
    let started = fixture.hypervisor().start_from_image(&guest, &absent, false);
    fails("starting from what is not there", started, ProblemKind::NotFound)?;
    is(fixture, GuestState::ShutOff)
}

fn a_managed_save_image_is_found_and_removed(fixture: &mut dyn Fixture) -> Verdict {
    let (guest, name) = (fixture.guest(), look(fixture)?.name);
    let image = |fixture: &dyn Fixture| {
        ok("managed-save image", fixture.hypervisor().managed_save_image(&name))
    };
    same("the image of a guest that has none", image(fixture)?, None)?;
    ok("removing none", fixture.hypervisor().remove_managed_save(&guest))?;
    fixture.managed_save()?;
    is(fixture, GuestState::ShutOff)?;
    ensure(look(fixture)?.managed_save, "the guest must be said to have an image")?;
    ensure(image(fixture)?.is_some(), "the image must be found")?;
    for _ in 0..2 {
        ok("remove", fixture.hypervisor().remove_managed_save(&guest))?;
        ensure(!look(fixture)?.managed_save, "the image must be gone")?;
        same("the image that was removed", image(fixture)?, None)?;
    }
    Ok(())
}

fn starting_discards_the_managed_save_image(fixture: &mut dyn Fixture) -> Verdict {
    let guest = fixture.guest();
    fixture.managed_save()?;
    ok("start", fixture.hypervisor().start(&guest, false))?;
    is(fixture, GuestState::Running)?;
    ensure(!look(fixture)?.managed_save, "the image must be gone")
}
