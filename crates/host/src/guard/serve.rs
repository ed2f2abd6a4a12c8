//! The guard's own end. Once it is ready it opens no files: what it works for may be a host whose
//! disks do not answer.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Pid, PidfdFlags, Signal, getppid, pidfd_open, pidfd_send_signal, setsid};
use vitrify_core::inventory::Session;
use vitrify_core::name::GuestUuid;
use vitrify_core::ports::{Answer, Hypervisor as _};
use vitrify_core::problem::{Problem, ProblemKind};

use super::LEAST_HOLD;
use super::message::{Hold, Message, READY};
use crate::libvirt::Libvirt;

/// How long QEMU may take to let a guest go while our process lives. One that is stopped holds the
/// stream of the guest's RAM unread, and QEMU's monitor waits for it.
const STRIKE_LIMIT: Duration = Duration::from_secs(2);
/// How long it may take then.
const LAST_LIMIT: Duration = Duration::from_secs(60);

/// What lets a guest go.
pub(super) trait Releases: Send + Sync + 'static {
    /// Undoes a hold on a guest in this life; fine where it is undone.
    fn release(&self, guest: &GuestUuid, session: &Session, hold: Hold) -> Answer<()>;
}

impl Releases for Libvirt {
    fn release(&self, guest: &GuestUuid, session: &Session, hold: Hold) -> Answer<()> {
        match hold {
            Hold::Suspended => {
                // A stream that is being set up would stop the guest again. One that cannot be
                // closed must not keep it from running.
                let closed = self.close_stream(guest, session);
                self.resume(guest, session).and(closed)
            }
            Hold::Frozen => self.thaw(guest, session, LEAST_HOLD).map(drop),
            Hold::Dumped => self.abort_snapshot_job(guest),
            Hold::Streamed => self.close_stream(guest, session),
        }
    }
}

struct Armed {
    session: Session,
    until: Option<Instant>,
}

/// Guards until the process at the other end of standard input has gone, and what it held is let go.
/// `tell` is told when a guest had to be let go.
///
/// # Errors
/// Where libvirt cannot be reached, or standard input is no socket.
pub fn serve(uri: &str, tell: &dyn Fn(&str)) -> Answer<()> {
    let failed = |error: io::Error| Problem::io("the guard process cannot start", error);
    let socket = io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
    // A terminal's Ctrl-C is not for us. It fails where we lead a session already.
    setsid().ok();
    let parent = getppid();
    let libvirt = Arc::new(Libvirt::connect(uri, Arc::default())?);
    // Where that is forbidden we do without.
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE).ok();
    watch(UnixStream::from(socket), &libvirt, parent, tell).map_err(failed)
}

/// Hears what is said through the socket, and strikes.
fn watch<R: Releases>(
    mut socket: UnixStream,
    releases: &Arc<R>,
    parent: Option<Pid>,
    tell: &dyn Fn(&str),
) -> io::Result<()> {
    let ready = format!("{READY}\n");
    socket.write_all(ready.as_bytes())?;
    let mut armed: HashMap<(GuestUuid, Hold), Armed> = HashMap::new();
    let mut heard = Vec::new();
    loop {
        let next = armed.values().filter_map(|it| it.until).min();
        if !readable(&socket, next)? {
            let now = Instant::now();
            let is_late = |it: &Armed| it.until.is_some_and(|until| until <= now);
            let late: HashSet<_> = armed
                .iter()
                .filter(|(_, it)| is_late(it))
                .map(|((guest, _), _)| guest.clone())
                .collect();
            let held = armed.extract_if(|(guest, _), _| late.contains(guest)).collect();
            strike_all(releases, held, parent, tell);
            continue;
        }
        let mut bytes = [0; 4096];
        let read = socket.read(&mut bytes)?;
        if read == 0 {
            break;
        }
        heard.extend_from_slice(&bytes[..read]);
        while let Some(end) = heard.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = heard.drain(..=end).collect();
            match Message::parse(&String::from_utf8_lossy(&line)) {
                Some(Message::Arm { guest, session, hold, limit }) => {
                    let until = limit.map(|it| Instant::now() + it);
                    armed.insert((guest, hold), Armed { session, until });
                }
                Some(Message::Disarm { guest, hold }) => drop(armed.remove(&(guest, hold))),
                None => continue,
            }
            if socket.write_all(ready.as_bytes()).is_err() {
                break;
            }
        }
    }
    strike_all(releases, armed.into_iter().collect(), None, tell);
    Ok(())
}

/// Lets go of all that these guests are held by.
fn strike_all<R: Releases>(
    releases: &Arc<R>,
    mut held: Vec<((GuestUuid, Hold), Armed)>,
    parent: Option<Pid>,
    tell: &dyn Fn(&str),
) {
    // What was suspended first: a guest that stands still is the worst, and its agent cannot thaw it.
    held.sort_by_key(|((_, hold), _)| *hold != Hold::Suspended);
    for (key, it) in held {
        strike(releases, key, it, parent, tell);
    }
}

/// Whether there is something to read, before this instant.
fn readable(socket: &UnixStream, until: Option<Instant>) -> io::Result<bool> {
    let limit = until.map(|it| it.saturating_duration_since(Instant::now()));
    let limit = limit.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
    let mut watched = [PollFd::new(socket, PollFlags::IN)];
    Ok(poll(&mut watched, limit.as_ref())? > 0)
}

/// Lets a guest go. A parent that lives and is in the way is killed: its sockets end with it.
fn strike<R: Releases>(
    releases: &Arc<R>,
    (guest, hold): (GuestUuid, Hold),
    it: Armed,
    parent: Option<Pid>,
    tell: &dyn Fn(&str),
) {
    let (done, answer) = mpsc::channel();
    let (worker, uuid) = (Arc::clone(releases), guest.clone());
    let work = move || {
        // Nobody waits after the limits.
        let _ = done.send(worker.release(&uuid, &it.session, hold));
    };
    if let Err(error) = thread::Builder::new().spawn(work) {
        return tell(&format!("the guard cannot let guest {guest} go: {error}"));
    }
    let mut answered = answer.recv_timeout(STRIKE_LIMIT).ok();
    if answered.is_none() {
        if let Some(parent) = parent.and_then(|it| pidfd_open(it, PidfdFlags::empty()).ok()) {
            pidfd_send_signal(&parent, Signal::KILL).ok();
        }
        answered = answer.recv_timeout(LAST_LIMIT).ok();
    }
    let what = match answered {
        Some(Ok(())) => "let it go",
        // It ended, or somebody else holds it: not ours.
        Some(Err(problem)) if problem.kind == ProblemKind::Refused => return,
        Some(Err(problem)) => return tell(&format!("guest {guest}: {}", problem.chain())),
        None => "could not let it go",
    };
    tell(&format!(
        "guest {guest} was held for too long, or by a vitrify that died: the guard {what}"
    ));
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Log(Mutex<Vec<(String, u32, Hold)>>);

    impl Releases for Log {
        fn release(&self, guest: &GuestUuid, session: &Session, hold: Hold) -> Answer<()> {
            self.0.lock().unwrap().push((guest.to_string(), session.domain_id, hold));
            Ok(())
        }
    }

    fn guest(number: u8) -> GuestUuid {
        format!("{number:08x}-0000-4000-8000-000000000001").parse().unwrap()
    }

    fn arm(number: u8, hold: Hold, limit: Option<Duration>) -> Message {
        let session = Session { boot: "b".into(), domain_id: u32::from(number), started_ticks: 1 };
        Message::Arm { guest: guest(number), session, hold, limit }
    }

    /// Says these to a guard, waits for as many strikes, goes, and answers with all strikes.
    fn guarded(messages: &[Message], strikes: usize) -> Vec<(String, u32, Hold)> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let log = Arc::new(Log::default());
        let watched = Arc::clone(&log);
        thread::scope(|scope| {
            let (struck, strike) = mpsc::channel();
            let guard = scope.spawn(move || {
                watch(theirs, &watched, None, &|_| struck.send(()).unwrap()).unwrap();
            });
            let mut answers = BufReader::new(ours.try_clone().unwrap()).lines();
            assert_eq!(answers.next().unwrap().unwrap(), READY);
            for message in messages {
                (&ours).write_all(message.to_line().as_bytes()).unwrap();
                assert_eq!(answers.next().unwrap().unwrap(), READY);
            }
            for _ in 0..strikes {
                strike.recv_timeout(Duration::from_secs(20)).unwrap();
            }
            drop((ours, answers));
            guard.join().unwrap();
        });
        std::mem::take(&mut log.0.lock().unwrap())
    }

    #[test]
    fn what_is_held_at_the_end_is_let_go() {
        let long = Some(Duration::from_secs(600));
        let disarm = |number, hold| Message::Disarm { guest: guest(number), hold };
        let found = guarded(
            &[
                arm(1, Hold::Streamed, None),
                arm(1, Hold::Suspended, long),
                arm(2, Hold::Frozen, long),
                disarm(2, Hold::Frozen),
                disarm(3, Hold::Frozen),
                disarm(1, Hold::Frozen),
            ],
            0,
        );
        let guest = guest(1).to_string();
        assert_eq!(found, [(guest.clone(), 1, Hold::Suspended), (guest, 1, Hold::Streamed)]);
        assert_eq!(guarded(&[], 0), []);
    }

    #[test]
    fn what_is_held_for_too_long_is_let_go_once() {
        let short = Some(Duration::from_millis(1));
        let found = guarded(&[arm(1, Hold::Suspended, short)], 1);
        assert_eq!(found, [(guest(1).to_string(), 1, Hold::Suspended)]);
    }

    #[test]
    fn a_guest_is_thawed_once_it_runs() {
        let held = [
            arm(1, Hold::Suspended, Some(Duration::from_secs(600))),
            arm(1, Hold::Frozen, Some(Duration::from_millis(1))),
        ];
        let guest = guest(1).to_string();
        let wanted = [(guest.clone(), 1, Hold::Suspended), (guest, 1, Hold::Frozen)];
        assert_eq!(guarded(&held, 2), wanted);
    }
}
