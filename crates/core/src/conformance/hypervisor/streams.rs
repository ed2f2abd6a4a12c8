//! Rules for streams of RAM that are of the instant of a suspension.

use std::io::{ErrorKind, Read as _};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::{Check, DISKS, Dump, Fixture, another, is, live, look, session, suspend};
use crate::conformance::{Verdict, ensure, fails, is_error, ok, rules, same};
use crate::inventory::GuestState;
use crate::ports::{MemoryStream, Pause};
use crate::problem::ProblemKind;

pub(super) const RULES: &[(&str, Check)] = rules![
    ram_streams_while_the_guest_runs_on,
    streams_follow_one_another,
    a_stream_may_begin_on_overlays_and_outlast_them,
    a_stream_need_not_be_begun,
    a_stream_that_was_not_opened_is_not_begun,
    a_stream_is_not_of_another_life,
    a_stream_of_a_guest_that_was_resumed_is_not_believed,
    a_stream_whose_reader_goes_is_given_up,
    only_a_guest_that_runs_is_streamed,
];

/// Until so much has come the head of a stream may not have ended; RAM has come after it.
const HEAD_BYTES: usize = 64 << 10;
/// How often a read may come back with nothing: more than a minute.
const PATIENCE: usize = 1000;

/// Reads to the end, or just the beginning; how much there was.
fn read(stream: &mut MemoryStream, limit: usize) -> Result<usize, String> {
    let (mut buffer, mut sum, mut waits) = (vec![0; HEAD_BYTES], 0, 0);
    while sum < limit && waits < PATIENCE {
        match stream.0.read(&mut buffer) {
            Ok(0) => return Ok(sum),
            Ok(read) => sum += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => waits += 1,
            Err(error) => return Err(format!("the stream must be read: {error}")),
        }
    }
    ensure(waits < PATIENCE, "the stream must come")?;
    Ok(sum)
}

fn read_and_resume(fixture: &dyn Fixture, stream: MemoryStream) -> Result<Option<Pause>, String> {
    read_and(stream, || resume(fixture))
}

/// Reads a stream to its end, and does something when its RAM has begun to come. Nobody may ask
/// anything of a guest whose stream nobody reads.
fn read_and<T>(
    mut stream: MemoryStream,
    work: impl FnOnce() -> Result<T, String>,
) -> Result<T, String> {
    let (sender, begun) = mpsc::channel();
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let head = read(&mut stream, HEAD_BYTES);
            // Received until the scope's end.
            let _ = sender.send(());
            head.and_then(|_| read(&mut stream, usize::MAX)).map(drop)
        });
        let arrived = begun.recv().map_err(|_| "the stream must come".to_owned());
        let worked = arrived.and_then(|()| work());
        reader.join().map_err(|_| "the reader must not panic".to_owned())??;
        worked
    })
}

fn open(fixture: &dyn Fixture) -> Result<MemoryStream, String> {
    ok("open a stream", fixture.hypervisor().open_stream(&fixture.guest(), &session(fixture)?))
}

fn close(fixture: &dyn Fixture) -> Verdict {
    let session = session(fixture)?;
    ok("close the stream", fixture.hypervisor().close_stream(&fixture.guest(), &session))
}

fn resume(fixture: &dyn Fixture) -> Result<Option<Pause>, String> {
    let session = session(fixture)?;
    ok("resume", fixture.hypervisor().resume(&fixture.guest(), &session))
}

fn ram_streams_while_the_guest_runs_on(fixture: &mut dyn Fixture) -> Verdict {
    let (guest, session) = (fixture.guest(), session(fixture)?);
    let stream = open(fixture)?;
    suspend(fixture)?;
    ok("begin", fixture.hypervisor().begin_stream(&guest, &session))?;
    let pause = read_and_resume(fixture, stream)?.map(|it| it.pause);
    ensure(pause.is_some(), "the process that suspended it must know the pause")?;
    let setup = ok("the stream's end", fixture.hypervisor().check_stream(&guest, &session))?;
    // QEMU counts in milliseconds.
    let fits = pause.is_some_and(|pause| setup <= pause + Duration::from_millis(1));
    ensure(fits, "a stream is set up while the guest stands still")?;
    is(fixture, GuestState::Running)?;
    close(fixture)?;
    same("its life", look(fixture)?.session, Some(session))
}

fn streams_follow_one_another(fixture: &mut dyn Fixture) -> Verdict {
    for _ in 0..3 {
        ram_streams_while_the_guest_runs_on(fixture)?;
        close(fixture)?;
    }
    suspend(fixture)?;
    resume(fixture)?;
    is(fixture, GuestState::Running)
}

fn a_stream_may_begin_on_overlays_and_outlast_them(fixture: &mut dyn Fixture) -> Verdict {
    let (guest, before) = (fixture.guest(), session(fixture)?);
    for committed_meanwhile in [true, false] {
        let stream = open(fixture)?;
        suspend(fixture)?;
        let dump = Dump::prepare(fixture, &DISKS)?;
        ok("put overlays", dump.put(fixture, &before))?;
        ok("begin", fixture.hypervisor().begin_stream(&guest, &before))?;
        let commit = || DISKS.iter().try_for_each(|it| ok("commit", dump.commit(fixture, it)));
        if committed_meanwhile {
            read_and(stream, || resume(fixture).and_then(|_| commit()))?;
        } else {
            read_and_resume(fixture, stream)?;
            commit()?;
        }
        ok("the stream's end", fixture.hypervisor().check_stream(&guest, &before))?;
        close(fixture)?;
        is(fixture, GuestState::Running)?;
        same("the live disks", live(fixture)?, dump.bases)?;
    }
    Ok(())
}

fn a_stream_need_not_be_begun(fixture: &mut dyn Fixture) -> Verdict {
    close(fixture)?;
    let stream = open(fixture)?;
    is_error(
        "the end of a stream that was not begun",
        fixture.hypervisor().check_stream(&fixture.guest(), &session(fixture)?),
    )?;
    close(fixture)?;
    drop(stream);
    drop(open(fixture)?);
    close(fixture)?;
    is(fixture, GuestState::Running)
}

fn a_stream_that_was_not_opened_is_not_begun(fixture: &mut dyn Fixture) -> Verdict {
    let session = suspend(fixture)?;
    let begun = fixture.hypervisor().begin_stream(&fixture.guest(), &session);
    is_error("beginning", begun)?;
    is(fixture, GuestState::PausedByUser)?;
    resume(fixture).map(drop)
}

fn a_stream_is_not_of_another_life(fixture: &mut dyn Fixture) -> Verdict {
    let (guest, other) = (fixture.guest(), another(&session(fixture)?));
    let refused = ProblemKind::Refused;
    fails("opening", fixture.hypervisor().open_stream(&guest, &other), refused)?;
    let stream = open(fixture)?;
    suspend(fixture)?;
    fails("beginning", fixture.hypervisor().begin_stream(&guest, &other), refused)?;
    // What another life had open has ended with it.
    ok("closing", fixture.hypervisor().close_stream(&guest, &other))?;
    resume(fixture)?;
    close(fixture)?;
    drop(stream);
    is(fixture, GuestState::Running)
}

fn a_stream_of_a_guest_that_was_resumed_is_not_believed(fixture: &mut dyn Fixture) -> Verdict {
    let (guest, session) = (fixture.guest(), session(fixture)?);
    for suspended_again in [false, true] {
        let stream = open(fixture)?;
        suspend(fixture)?;
        resume(fixture)?;
        if suspended_again {
            suspend(fixture)?;
        }
        if fixture.hypervisor().begin_stream(&guest, &session).is_ok() {
            read_and_resume(fixture, stream)?;
            is_error("its end", fixture.hypervisor().check_stream(&guest, &session))?;
        }
        close(fixture)?;
        resume(fixture)?;
    }
    is(fixture, GuestState::Running)
}

fn a_stream_whose_reader_goes_is_given_up(fixture: &mut dyn Fixture) -> Verdict {
    let (guest, session) = (fixture.guest(), session(fixture)?);
    let stream = open(fixture)?;
    suspend(fixture)?;
    ok("begin", fixture.hypervisor().begin_stream(&guest, &session))?;
    drop(stream);
    close(fixture)?;
    resume(fixture)?;
    is(fixture, GuestState::Running)?;
    is_error("its end", fixture.hypervisor().check_stream(&guest, &session))?;
    ram_streams_while_the_guest_runs_on(fixture)
}

fn only_a_guest_that_runs_is_streamed(fixture: &mut dyn Fixture) -> Verdict {
    let session = suspend(fixture)?;
    is_error("opening", fixture.hypervisor().open_stream(&fixture.guest(), &session))?;
    is(fixture, GuestState::PausedByUser)?;
    resume(fixture)?;
    ok("closing", fixture.hypervisor().close_stream(&fixture.guest(), &session))
}
