//! The guard: a process of its own that lets a guest go if we die, or take too long.
//!
//! It is armed before a guest is suspended or frozen, before libvirt dumps its RAM, and while QEMU
//! streams it. It hears of our death by the end of its socket, whatever way we died, and has a
//! connection to libvirt of its own. It acts on the very life of the guest that it was armed for,
//! and only on a pause that a user (we) asked for.

mod message;
mod serve;

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::geteuid;
use vitrify_core::inventory::Session;
use vitrify_core::name::GuestUuid;
use vitrify_core::ports::Answer;
use vitrify_core::problem::Problem;

pub(crate) use self::message::Hold;
use self::message::{Message, READY};
pub use self::serve::serve;
use crate::command;

/// After how long the guard lets a guest go at the soonest.
const LEAST_HOLD: Duration = Duration::from_secs(10);
/// How long the guard may take to come up, and to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// Our end. The guard is started when it is first needed.
#[derive(Debug)]
pub(crate) struct Guard {
    program: PathBuf,
    uri: String,
    hold_limit: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    link: Option<Link>,
    armed: HashSet<(GuestUuid, Hold)>,
}

#[derive(Debug)]
struct Link {
    out: UnixStream,
    answers: BufReader<UnixStream>,
}

impl Guard {
    /// A guard that is `program guard --connect uri`, of guests that should stand still for no longer
    /// than the pause limit.
    pub(crate) fn new(program: PathBuf, uri: &str, pause_limit: Duration) -> Self {
        let hold_limit = hold_limit(pause_limit);
        Self { program, uri: uri.to_owned(), hold_limit, state: Mutex::default() }
    }

    /// After how long a guest that is suspended is let go.
    pub(crate) fn hold_limit(&self) -> Duration {
        self.hold_limit
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the guard lets the guest go if we die, or if the limit passes. When it returns,
    /// the guard knows.
    ///
    /// # Errors
    /// Where the guard cannot be started or does not answer: then nothing may be held.
    pub(crate) fn arm(
        &self,
        guest: &GuestUuid,
        session: &Session,
        hold: Hold,
        limit: Option<Duration>,
    ) -> Answer<()> {
        let mut state = self.lock();
        let link = match &mut state.link {
            Some(link) => link,
            none => none.insert(self.start()?),
        };
        let (guest, session) = (guest.clone(), session.clone());
        let key = (guest.clone(), hold);
        link.tell(&Message::Arm { guest, session, hold, limit })?;
        state.armed.insert(key);
        Ok(())
    }

    /// The guest has been let go. What the guard does not hear is no harm: it looks before it acts.
    pub(crate) fn disarm(&self, guest: &GuestUuid, hold: Hold) {
        let mut state = self.lock();
        if state.armed.remove(&(guest.clone(), hold))
            && let Some(link) = &mut state.link
            && link.tell(&Message::Disarm { guest: guest.clone(), hold }).is_err()
        {
            state.link = None;
        }
    }

    /// systemd may be there and not answer, in a container for example.
    fn start(&self) -> Answer<Link> {
        let may_scope = Path::new("/run/systemd/system").is_dir() && geteuid().is_root();
        match may_scope.then(|| self.start_one(true)) {
            Some(Ok(link)) => Ok(link),
            _ => self.start_one(false),
        }
    }

    fn start_one(&self, scoped: bool) -> Answer<Link> {
        let failed = |error| Problem::io("cannot start the guard process", error);
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        ours.set_read_timeout(Some(ANSWER_LIMIT)).map_err(failed)?;
        let arguments = ["guard", "--connect", &self.uri];
        let theirs = OwnedFd::from(theirs);
        command::leave_running(&self.program, &arguments, theirs, scoped).map_err(failed)?;
        let answers = BufReader::new(ours.try_clone().map_err(failed)?);
        let mut link = Link { out: ours, answers };
        link.answer()?;
        Ok(link)
    }
}

/// Far more than the pause should be, because letting a guest go spoils the capture.
fn hold_limit(pause_limit: Duration) -> Duration {
    pause_limit.saturating_mul(10).max(LEAST_HOLD)
}

impl Link {
    fn tell(&mut self, message: &Message) -> Answer<()> {
        let failed = |error| Problem::io("cannot reach the guard process", error);
        self.out.write_all(message.to_line().as_bytes()).map_err(failed)?;
        self.answer()
    }

    fn answer(&mut self) -> Answer<()> {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line);
        match read {
            Ok(_) if line.trim_end() == READY => Ok(()),
            Ok(0) => Err(Problem::failed("the guard process ended")
                .hint("without it no guest is suspended or frozen")),
            Ok(_) => Err(Problem::failed(format!("the guard process says: {}", line.trim_end()))),
            Err(error) => Err(Problem::io("the guard process does not answer", error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_held_for_ten_pauses_and_ten_seconds_at_least() {
        for (pause_limit_ms, held_s) in [(1, 10), (1000, 10), (1001, 10), (3000, 30)] {
            let held = hold_limit(Duration::from_millis(pause_limit_ms));
            assert_eq!(held.as_secs(), held_s, "{pause_limit_ms} ms");
        }
    }
}
