//! How long a guest stood still, whoever made it: the time between QEMU's STOP and RESUME events,
//! as `virsh qemu-monitor-event` prints them with QEMU's own timestamps.

use std::io::{self, BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::run::{RunError, virsh};

/// How long an event may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(10);
/// How long to wait before the listener is tried once more, which may not listen yet.
const AGAIN: Duration = Duration::from_millis(500);

/// A running guest's STOP and RESUME events, collected by a `virsh` that is killed on drop.
#[derive(Debug)]
pub struct Events {
    guest: String,
    listener: Child,
    arrived: Receiver<Event>,
}

/// What QEMU did, and when by its clock, since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Stop(Duration),
    Resume(Duration),
}

/// Why the pauses are not known.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// The listener could not be started.
    #[error("cannot listen to a guest's events")]
    Io(#[from] io::Error),
    /// The guest could not be paused and resumed, which marks a place among the events.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The marks that were made never arrived.
    #[error("the events of a pause did not arrive within {ARRIVAL:?}")]
    Silence,
    /// A STOP without a RESUME, or the other way round.
    #[error("STOP and RESUME do not alternate: {0}")]
    Odd(String),
}

impl Events {
    /// Listens to a running guest, and pauses it a few times for a moment to know that it does.
    ///
    /// # Errors
    /// [`EventsError`].
    pub fn of(guest: &str) -> Result<Self, EventsError> {
        let mut command = Command::new("virsh");
        command.args(["-q", "-c", "qemu:///system", "qemu-monitor-event", "--loop"]);
        command.args(["--domain", guest]).env("LC_ALL", "C").process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut listener = command.spawn()?;
        let (sender, arrived) = channel();
        if let Some(stdout) = listener.stdout.take() {
            thread::spawn(move || read(stdout, |event| sender.send(event).is_ok()));
        }
        let mut events = Self { guest: guest.to_owned(), listener, arrived };
        let deadline = Instant::now() + ARRIVAL;
        while events.mark(AGAIN)?.is_none() {
            if Instant::now() > deadline {
                return Err(EventsError::Silence);
            }
        }
        Ok(events)
    }

    /// The guest's pauses since the last call, or since the beginning. Pauses it for a moment, which
    /// does not count.
    ///
    /// # Errors
    /// [`EventsError`].
    pub fn pauses(&mut self) -> Result<Vec<Duration>, EventsError> {
        pauses(&self.mark(ARRIVAL)?.ok_or(EventsError::Silence)?)
    }

    /// Pauses and resumes the guest, and returns the events before that: when a mark's own have
    /// arrived, all earlier ones have. None if they do not arrive in time.
    fn mark(&mut self, limit: Duration) -> Result<Option<Vec<Event>>, EventsError> {
        let made = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        virsh(&["suspend", &self.guest])?;
        virsh(&["resume", &self.guest])?;
        let deadline = Instant::now() + limit;
        let mut earlier = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.arrived.recv_timeout(left) {
                Ok(Event::Resume(at)) if at >= made => return Ok(Some(earlier)),
                Ok(Event::Stop(at)) if at >= made => {}
                Ok(event) => earlier.push(event),
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => return Err(EventsError::Silence),
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // It may have ended already, with libvirt.
        let _ = self.listener.kill();
        let _ = self.listener.wait();
    }
}

fn read(stdout: ChildStdout, mut take: impl FnMut(Event) -> bool) {
    let lines = BufReader::new(stdout).lines().map_while(Result::ok);
    let mut events = lines.filter_map(|line| parse(&line));
    while events.next().is_some_and(&mut take) {}
}

/// Reads `event STOP at 1700000000.123456 for domain 'web': <null>`.
fn parse(line: &str) -> Option<Event> {
    let (name, rest) = line.strip_prefix("event ")?.split_once(" at ")?;
    let (seconds, rest) = rest.split_once('.')?;
    let (micros, _) = rest.split_once(' ')?;
    let at = Duration::from_secs(seconds.parse().ok()?);
    let at = at + Duration::from_micros(micros.parse().ok()?);
    match name {
        "STOP" => Some(Event::Stop(at)),
        "RESUME" => Some(Event::Resume(at)),
        _ => None,
    }
}

fn pauses(events: &[Event]) -> Result<Vec<Duration>, EventsError> {
    let pair = |pair: &[Event]| match *pair {
        [Event::Stop(stop), Event::Resume(resume)] => Ok(resume.saturating_sub(stop)),
        _ => Err(EventsError::Odd(format!("{events:?}"))),
    };
    events.chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let at = Duration::new(1_795_440_257, 916_727_000);
        let table = [
            ("event STOP at 1795440257.916727 for domain 'w': <null>", Some(Event::Stop(at))),
            ("event RESUME at 1795440257.916727 for domain 'w': <null>", Some(Event::Resume(at))),
            ("event RTC_CHANGE at 1795440257.916727 for domain 'w': {\"offset\":0}", None),
            ("event loop interrupted", None),
            ("events received: 2", None),
        ];
        for (line, event) in table {
            assert_eq!(parse(line), event, "{line}");
        }
    }

    #[test]
    fn a_pause_is_from_stop_to_resume() {
        let [stop, resume] = [Event::Stop, Event::Resume];
        let ms = Duration::from_millis;
        let two = [stop(ms(10)), resume(ms(13)), stop(ms(20)), resume(ms(21))];
        assert_eq!(pauses(&two).unwrap(), [ms(3), ms(1)]);
        assert_eq!(pauses(&[]).unwrap(), []);
        assert!(pauses(&two[..3]).is_err());
        assert!(pauses(&two[1..3]).is_err());
    }
}
