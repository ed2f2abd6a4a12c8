//! QEMU's background snapshot: the RAM of one instant streams out while the guest runs on.
//!
//! QEMU write-protects RAM with userfaultfd and sends each page before the guest changes it. libvirt
//! does not offer that, so QEMU is spoken to through libvirt's monitor.
//! QMP: <https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html#migration>.
//!
//! Measured with libvirt 11.3.0 and QEMU 10.0.2, and with 9.0.0 and 7.2:
//! - Where the capability was refused, the same `migrate` is an ordinary migration: it ends with the
//!   guest stopped and unable to be saved. Hence every reply is read, and the capability is looked at
//!   again just before.
//! - A write to a pipe that nobody reads cannot be cancelled, one to a socket can; and QEMU ends the
//!   stream by itself, the guest running on, when the other end of the socket closes.
//! - QEMU stops a guest that was resumed before the stream began a second time, by itself, and
//!   completes without an error: an image that looks whole and is of another instant than the
//!   snapshots. Hence exactly one STOP.
//! - QEMU 7.2 resumes the guest by itself as soon as RAM is protected; QEMU 10 leaves it as it was.
//! - RAM is protected when its first page arrives. The status `active` comes earlier.

use std::collections::HashMap;
use std::fs;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use vitrify_core::inventory::{GuestState, Session};
use vitrify_core::name::GuestUuid;
use vitrify_core::ports::{Answer, MemoryStream};
use vitrify_core::problem::{Problem, ProblemKind};

use crate::{huge_pages, ram_socket};

use super::Libvirt;
use super::error::problem;
use super::events::{EventLog, Mark};
use super::monitor::Monitor;
use super::power::not_as_left;
use super::sys::Notice;

/// Whether a process without privileges may have the userfaultfd that QEMU needs:
/// <https://docs.kernel.org/admin-guide/sysctl/vm.html#unprivileged-userfaultfd>.
const SETTING: &str = "/proc/sys/vm/unprivileged_userfaultfd";
const CAPABILITY: &str = "background-snapshot";
/// What QEMU calls its end of the socket.
const DESCRIPTOR: &str = "vitrify";
/// How long QEMU may take to say that a stream has ended whose end was read, or that was cancelled.
const END_LIMIT: Duration = Duration::from_secs(10);
/// How often it is asked; no event of libvirt's tells.
const ASK_AGAIN: Duration = Duration::from_millis(5);

/// The streams that this process has open.
#[derive(Default)]
pub(super) struct Streams(Mutex<HashMap<GuestUuid, Opened>>);

#[derive(Clone, Copy)]
struct Opened {
    /// Just before it was opened.
    mark: Mark,
    /// When it was begun, by the clock that QEMU's events have.
    begun: Option<Duration>,
}

impl Streams {
    fn get(&self, guest: &GuestUuid) -> Option<Opened> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(guest).copied()
    }

    fn set(&self, guest: &GuestUuid, opened: Option<Opened>) {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match opened {
            Some(opened) => drop(streams.insert(guest.clone(), opened)),
            None => drop(streams.remove(guest)),
        }
    }

    /// Whether a guest's RAM is streaming, or was and is not closed.
    pub(super) fn is_begun(&self, guest: &GuestUuid) -> bool {
        self.get(guest).is_some_and(|it| it.begun.is_some())
    }

    /// The place in the log of events from which on a guest's stream counts.
    pub(super) fn mark(&self, guest: &GuestUuid) -> Option<Mark> {
        self.get(guest).map(|it| it.mark)
    }
}

impl Libvirt {
    /// Why no guest's RAM can be streamed here, where that is known beforehand.
    pub(super) fn no_stream(&self) -> Answer<Option<String>> {
        // Kernels before 5.2 have no such setting.
        let Ok(setting) = fs::read_to_string(SETTING) else { return Ok(None) };
        Ok(forbidden(self.qemu_version()?, setting.trim()).map(str::to_owned))
    }

    /// Why RAM is not streamed here unless that is asked for.
    pub(super) fn frail_stream(&self) -> Answer<Option<String>> {
        Ok(frail(self.qemu_version()?).map(str::to_owned))
    }

    fn qemu_version(&self) -> Answer<u32> {
        let version = self.connection()?.hyp_version();
        version.map_err(|error| problem("cannot ask for QEMU's version", &error))
    }

    /// Whether a guest's QEMU has the capability on.
    pub(super) fn is_capable(&self, guest: &GuestUuid) -> Answer<bool> {
        Monitor::of(&self.domain(guest)?).is_capable()
    }

    pub(super) fn open_memory_stream(
        &self,
        guest: &GuestUuid,
        session: &Session,
    ) -> Answer<MemoryStream> {
        let domain = self.domain(guest)?;
        let monitor = Monitor::of(&domain);
        match self.life(&domain)? {
            (GuestState::Running, Some(found)) if found == *session => {}
            found => return Err(not_as_left(&monitor.guest, &found, session, "saved")),
        }
        let status = monitor.status()?;
        if !status.is_over() || monitor.is_capable()? {
            let message = format!("somebody else migrates or saves guest '{}'", monitor.guest);
            return Err(Problem::lacking(message));
        }
        if let Some(pid) = self.process(&monitor.guest) {
            // Without it the pause is longer, and that is all.
            let _ = huge_pages::gather(pid);
        }
        let opened = Opened { mark: self.log.mark(), begun: None };
        let stream = monitor.open();
        match &stream {
            Ok(_) => self.streams.set(guest, Some(opened)),
            // What is left behind is more than what is lacking.
            Err(_) => monitor.close().map_err(|left| Problem::failed(left.chain()))?,
        }
        stream
    }

    pub(super) fn begin_memory_stream(&self, guest: &GuestUuid, session: &Session) -> Answer<()> {
        let domain = self.domain(guest)?;
        let monitor = Monitor::of(&domain);
        let opened = self.streams.get(guest).ok_or_else(|| {
            Problem::failed(format!("no stream was opened for guest '{}'", monitor.guest))
        })?;
        match self.life(&domain)? {
            (GuestState::PausedByUser, Some(found)) if found == *session => {}
            (GuestState::Running, Some(found)) if found == *session => {
                return Err(resumed(&monitor.guest));
            }
            found => return Err(not_as_left(&monitor.guest, &found, session, "saved")),
        }
        if !monitor.is_capable()? {
            let message = format!("{CAPABILITY} of guest '{}' was switched off", monitor.guest);
            return Err(Problem::failed(message));
        }
        monitor.check_was_not_reset()?;
        let begun = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        self.streams.set(guest, Some(Opened { begun: Some(begun), ..opened }));
        let uri = format!("fd:{DESCRIPTOR}");
        monitor.ask("migrate", &json!({ "uri": uri })).map(drop)
    }

    pub(super) fn check_memory_stream(
        &self,
        guest: &GuestUuid,
        session: &Session,
    ) -> Answer<Duration> {
        let domain = self.domain(guest)?;
        let monitor = Monitor::of(&domain);
        let opened = self.streams.get(guest);
        let Some((mark, begun)) = opened.and_then(|it| Some((it.mark, it.begun?))) else {
            return Err(Problem::failed(format!("no RAM of guest '{}' streams", monitor.guest)));
        };
        match self.life(&domain)? {
            (_, Some(found)) if found == *session => {}
            found => return Err(not_as_left(&monitor.guest, &found, session, "saved")),
        }
        let setup = match monitor.await_end()? {
            Status { name, setup, .. } if name == "completed" => setup,
            Status { name, reason, .. } => {
                let reason = reason.map(|it| format!(": {it}")).unwrap_or_default();
                let message = format!("QEMU did not save the RAM of guest '{}'", monitor.guest);
                return Err(Problem::failed(format!("{message} ({name}{reason})")));
            }
        };
        stood_still(&self.log, mark, guest, begun)
            .then_some(setup)
            .ok_or_else(|| resumed(&monitor.guest))
    }

    pub(super) fn close_memory_stream(&self, guest: &GuestUuid, session: &Session) -> Answer<()> {
        self.streams.set(guest, None);
        let domain = match self.domain(guest) {
            Err(gone) if gone.kind == ProblemKind::NotFound => return Ok(()),
            found => found?,
        };
        match self.life(&domain)? {
            (state, Some(found)) if state.is_active() && found == *session => {
                Monitor::of(&domain).close()
            }
            _ => Ok(()),
        }
    }
}

/// Why a QEMU of this version has no userfaultfd, given the kernel's setting. One before 8.0 does not
/// know the device `/dev/userfaultfd`.
fn forbidden(version: u32, setting: &str) -> Option<&'static str> {
    (version < 8_000_000 && setting == "0").then_some(
        "its QEMU may not use userfaultfd ('sysctl vm.unprivileged_userfaultfd=1' allows it)",
    )
}

/// Measured: where the reader of a stream dies as it begins, QEMU 7.2.22 says that it failed, and keeps
/// RAM write-protected; the guest's CPU waits for ever. QEMU 10.0.2 lets it go. Those between are not
/// known.
fn frail(version: u32) -> Option<&'static str> {
    (version < 10_000_000).then_some(
        "a QEMU before 10 may leave its guest standing still for ever if vitrify dies while RAM streams \
         ('--engine instant' streams it all the same)",
    )
}

/// Whether the guest was stopped once, and not resumed before its stream began.
fn stood_still(log: &EventLog, mark: Mark, guest: &GuestUuid, begun: Duration) -> bool {
    let mut stops = 0;
    for notice in log.since(mark, guest.as_str()) {
        match notice {
            Notice::Monitor { name, .. } if name == "STOP" => stops += 1,
            Notice::Monitor { name, at } if name == "RESUME" && at < begun => return false,
            _ => {}
        }
    }
    stops == 1
}

fn resumed(guest: &str) -> Problem {
    Problem::failed(format!(
        "somebody else resumed guest '{guest}' in the middle: its RAM is not of the instant of its \
         snapshots"
    ))
}

/// What QEMU says of a migration.
struct Status {
    name: String,
    reason: Option<String>,
    /// How long it took until RAM could stream: most of it goes into the host's page tables.
    setup: Duration,
}

impl Status {
    fn is_over(&self) -> bool {
        matches!(&*self.name, "none" | "completed" | "failed" | "cancelled")
    }
}

impl Monitor<'_> {
    fn open(&self) -> Answer<MemoryStream> {
        self.set_capable(true).map_err(|problem| self.incapable(problem))?;
        // What an old QEMU does not know it may pass over.
        if !self.is_capable()? {
            let message = format!("QEMU does not switch on {CAPABILITY} for '{}'", self.guest);
            return Err(Problem::lacking(message));
        }
        let failed = |error| Problem::io("cannot make a socket", error);
        let (ours, theirs) = ram_socket::pair().map_err(failed)?;
        self.hand_over("getfd", &json!({ "fdname": DESCRIPTOR }), theirs.as_fd())?;
        Ok(MemoryStream(Box::new(ours)))
    }

    /// Nothing of ours is there while the capability is off: it is the first that is set and the
    /// last that is taken back.
    fn close(&self) -> Answer<()> {
        if !self.is_capable()? {
            return Ok(());
        }
        if !self.status()?.is_over() {
            self.ask("migrate_cancel", &json!({}))?;
            self.await_end()?;
        }
        // QEMU takes the descriptor over when a migration begins: then it is gone.
        let _ = self.ask("closefd", &json!({ "fdname": DESCRIPTOR }));
        self.set_capable(false)
    }

    fn await_end(&self) -> Answer<Status> {
        let end = Instant::now() + END_LIMIT;
        loop {
            let status = self.status()?;
            if status.is_over() {
                return Ok(status);
            }
            if Instant::now() >= end {
                let message = format!("QEMU does not end saving the RAM of '{}'", self.guest);
                return Err(Problem::new(ProblemKind::TimedOut, message));
            }
            thread::park_timeout(ASK_AGAIN);
        }
    }

    fn status(&self) -> Answer<Status> {
        let found = self.ask("query-migrate", &json!({}))?;
        let text = |name: &str| found[name].as_str().map(str::to_owned);
        let name = text("status").unwrap_or_else(|| "none".to_owned());
        let setup = Duration::from_millis(found["setup-time"].as_u64().unwrap_or_default());
        Ok(Status { name, reason: text("error-desc"), setup })
    }

    fn is_capable(&self) -> Answer<bool> {
        let all = self.ask("query-migrate-capabilities", &json!({}))?;
        let mut all = all.as_array().into_iter().flatten();
        Ok(all.any(|it| it["capability"] == CAPABILITY && it["state"] == true))
    }

    fn set_capable(&self, state: bool) -> Answer<()> {
        let wanted = json!({ "capabilities": [{ "capability": CAPABILITY, "state": state }] });
        self.ask("migrate-set-capabilities", &wanted).map(drop)
    }

    /// QEMU 10.0 aborts when it is to save the RAM of a guest that was reset while it was suspended
    /// ("invalid runstate transition: 'prelaunch' -> 'paused'"). libvirt calls such a guest paused.
    fn check_was_not_reset(&self) -> Answer<()> {
        match &*self.run_state()? {
            "paused" => Ok(()),
            _ => Err(Problem::failed(format!(
                "somebody else reset guest '{}' while it was suspended",
                self.guest
            ))),
        }
    }

    /// Why the guest cannot be saved so, and the remedy, from QEMU's words.
    fn incapable(&self, problem: Problem) -> Problem {
        let hint = if problem.message.contains("not supported by host kernel") {
            "its QEMU may not use userfaultfd. Debian 12's own: 'sysctl \
             vm.unprivileged_userfaultfd=1'. Under AppArmor: put '/dev/userfaultfd rw,' into \
             /etc/apparmor.d/abstractions/libvirt-qemu.d/vitrify and restart the guest"
        } else {
            "QEMU 6.0 and later can do that"
        };
        Problem::lacking(problem.chain()).hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_qemu_needs_the_kernels_setting() {
        for (version, setting, is_forbidden) in [
            (7_002_022, "0", true),
            (7_002_022, "1", false),
            (8_000_000, "0", false),
            (10_000_002, "0", false),
        ] {
            let found = forbidden(version, setting);
            assert_eq!(found.is_some(), is_forbidden, "{version} {setting}");
            assert!(found.is_none_or(|it| it.contains("sysctl vm.unprivileged_userfaultfd=1")));
        }
    }

    #[test]
    fn one_stop_and_no_resume_before_the_stream() {
        let guest: GuestUuid = "00000000-0000-4000-8000-000000000001".parse().unwrap();
        for (events, still) in [
            ("", false),
            ("STOP:1", true),
            ("STOP:1 RESUME:20", true),
            // The guest was resumed while the volumes were snapshotted, and stopped by QEMU.
            ("STOP:1 RESUME:5", false),
            ("STOP:1 RESUME:5 STOP:12 RESUME:20", false),
            // It was resumed while QEMU set the stream up.
            ("STOP:1 RESUME:11 STOP:12 RESUME:20", false),
            ("STOP:1 RESUME:20 STOP:30", false),
        ] {
            let log = EventLog::default();
            let mark = log.mark();
            for event in events.split_whitespace() {
                let (name, at) = event.split_once(':').unwrap();
                let at = Duration::from_secs(at.parse().unwrap());
                log.push(guest.to_string(), Notice::Monitor { name: name.to_owned(), at });
            }
            assert_eq!(stood_still(&log, mark, &guest, Duration::from_secs(10)), still, "{events}");
        }
    }
}
