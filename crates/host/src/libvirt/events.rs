//! The log of what libvirt told us, and waiting for more of it. Every wait here has a limit.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use vitrify_core::ports::Pause;

use super::sys::Notice;

/// How many notices are kept; older ones are forgotten. A capture makes about ten.
const KEPT: usize = 4096;

/// The notices of all guests, in order of arrival.
#[derive(Default)]
pub(super) struct EventLog {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    /// How many ever arrived.
    count: u64,
    kept: VecDeque<(String, Notice)>,
}

/// A place in the log: what arrives later is news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark(u64);

impl EventLog {
    /// Adds a notice about a guest.
    pub(super) fn push(&self, guest: String, notice: Notice) {
        let mut state = self.lock();
        state.count += 1;
        state.kept.push_back((guest, notice));
        if state.kept.len() > KEPT {
            state.kept.pop_front();
        }
        self.arrived.notify_all();
    }

    /// The end of the log.
    pub(super) fn mark(&self) -> Mark {
        Mark(self.lock().count)
    }

    /// What was said about a guest after the mark.
    pub(super) fn since(&self, mark: Mark, guest: &str) -> Vec<Notice> {
        self.lock().since(mark, guest).cloned().collect()
    }

    /// Waits until there is news about a guest, or for `limit`; answers with the log's new end.
    pub(super) fn wait(&self, mark: Mark, guest: &str, limit: Duration) -> Mark {
        let end = Instant::now() + limit;
        let mut state = self.lock();
        while state.since(mark, guest).next().is_none() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.arrived.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Mark(state.count)
    }

    /// The place just before the guest's last STOP, if this process heard of it and of no RESUME
    /// since.
    pub(super) fn last_stop(&self, guest: &str) -> Option<Mark> {
        let state = self.lock();
        let first = state.count - state.kept.len() as u64;
        let mut stop = None;
        for (place, (uuid, notice)) in (first..).zip(&state.kept) {
            match notice {
                _ if uuid != guest => {}
                Notice::Monitor { name, .. } if name == "STOP" => stop = Some(Mark(place)),
                Notice::Monitor { .. } => stop = None,
                _ => {}
            }
        }
        stop
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn since<'a>(&'a self, mark: Mark, guest: &'a str) -> impl Iterator<Item = &'a Notice> {
        let news = usize::try_from(self.count - mark.0).unwrap_or(usize::MAX);
        let old = self.kept.len().saturating_sub(news);
        self.kept.iter().skip(old).filter(move |(uuid, _)| uuid == guest).map(|(_, it)| it)
    }
}

/// The pauses that QEMU's events tell of: the sum of each STOP to the RESUME that follows it.
/// `None` if there is no such pair, or if the last STOP was not followed by a RESUME.
///
/// The times are QEMU's wall clock (`timestamp` in
/// <https://www.qemu.org/docs/master/interop/qmp-spec.html#asynchronous-events>).
pub(super) fn pause(notices: &[Notice]) -> Option<Pause> {
    let mut stopped = None;
    let mut total: Option<Pause> = None;
    for notice in notices {
        match notice {
            Notice::Monitor { name, at } if name == "STOP" => stopped = stopped.or(Some(*at)),
            Notice::Monitor { name, at } if name == "RESUME" => {
                if let Some(since) = stopped.take() {
                    let none = Pause { pause: Duration::ZERO, stopped: since };
                    total.get_or_insert(none).pause += at.saturating_sub(since);
                }
            }
            _ => {}
        }
    }
    if stopped.is_some() { None } else { total }
}

/// Runs libvirt's event loop on a thread of its own, which lives as long as the process: libvirt's
/// default loop is one per process, must be there before the first connection, and closing a
/// connection needs it too.
pub(super) fn run_loop() -> Result<(), String> {
    static LOOP: OnceLock<Result<(), String>> = OnceLock::new();
    LOOP.get_or_init(|| {
        virt::event::event_register_default_impl().map_err(|error| error.to_string())?;
        // A loop without a timer could sleep for ever; waking twice a second costs nothing.
        virt::event::event_add_timeout(500, |_, _| {}, std::ptr::null_mut())
            .map_err(|error| error.to_string())?;
        let turn = || {
            loop {
                if virt::event::event_run_default_impl().is_err() {
                    thread::sleep(Duration::from_millis(100));
                }
            }
        };
        thread::Builder::new()
            .name("libvirt-events".into())
            .spawn(turn)
            .map(drop)
            .map_err(|error| error.to_string())
    })
    .clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn monitor(name: &str, micros: u64) -> Notice {
        Notice::Monitor { name: name.to_owned(), at: Duration::from_micros(micros) }
    }

    #[test]
    fn pauses_are_the_time_between_stop_and_resume() {
        let stop = |at| monitor("STOP", at);
        let resume = |at| monitor("RESUME", at);
        for (notices, micros) in [
            (vec![], None),
            (vec![stop(5)], None),
            (vec![resume(5)], None),
            (vec![stop(5), resume(180)], Some(175)),
            (vec![Notice::Lifecycle, stop(5), Notice::JobCompleted, resume(180)], Some(175)),
            (vec![stop(5), stop(7), resume(10)], Some(5)),
            (vec![stop(5), resume(10), stop(20), resume(22)], Some(7)),
            (vec![stop(5), resume(10), stop(20)], None),
            // The host's clock was set back in between.
            (vec![stop(5), resume(3)], Some(0)),
        ] {
            let stopped = Duration::from_micros(5);
            let wanted =
                micros.map(|micros| Pause { pause: Duration::from_micros(micros), stopped });
            assert_eq!(pause(&notices), wanted, "{notices:?}");
        }
    }

    #[test]
    fn a_mark_separates_news_from_what_is_known() {
        let log = EventLog::default();
        log.push("a".into(), Notice::Lifecycle);
        let mark = log.mark();
        assert_eq!(log.since(mark, "a"), []);
        log.push("b".into(), Notice::JobCompleted);
        log.push("a".into(), Notice::JobCompleted);
        assert_eq!(log.since(mark, "a"), [Notice::JobCompleted]);
        assert_eq!(log.wait(mark, "a", Duration::ZERO), log.mark());
    }

    #[test]
    fn the_last_stop_counts_until_the_guest_resumes() {
        let log = EventLog::default();
        assert_eq!(log.last_stop("a"), None);
        log.push("b".into(), monitor("STOP", 1));
        log.push("a".into(), monitor("STOP", 2));
        log.push("a".into(), Notice::Lifecycle);
        log.push("b".into(), monitor("RESUME", 3));
        assert_eq!(log.last_stop("a"), Some(Mark(1)));
        log.push("a".into(), monitor("RESUME", 4));
        assert_eq!(log.last_stop("a"), None);
        assert_eq!(
            pause(&log.since(Mark(1), "a")),
            pause(&[monitor("STOP", 2), monitor("RESUME", 4)])
        );
    }

    #[test]
    fn forgetting_old_notices_keeps_marks_right() {
        let log = EventLog::default();
        let early = log.mark();
        for _ in 0..KEPT + 10 {
            log.push("a".into(), Notice::Lifecycle);
        }
        assert_eq!(log.since(early, "a").len(), KEPT);
        let mark = log.mark();
        log.push("a".into(), Notice::JobCompleted);
        assert_eq!(log.since(mark, "a"), [Notice::JobCompleted]);
    }

    #[test]
    fn a_wait_ends_with_news_from_another_thread() {
        let log = EventLog::default();
        let mark = log.mark();
        thread::scope(|scope| {
            scope.spawn(|| log.push("a".into(), Notice::Lifecycle));
            assert_ne!(log.wait(mark, "a", Duration::from_secs(60)), mark);
        });
    }
}
