//! Suspending, resuming, stopping and starting guests, and their managed-save images.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use roxmltree::Document;
use serde_json::json;
use virt_sys as c;
use vitrify_core::inventory::{GuestState, Session};
use vitrify_core::name::{GuestName, GuestUuid};
use vitrify_core::ports::{Answer, Pause};
use vitrify_core::problem::{Problem, ProblemKind};

use super::Libvirt;
use super::error::problem;
use super::guests::name_of;
use super::monitor::Monitor;

/// How long a guest may take to be where libvirt says it put it.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);
/// How long QEMU may hold back that a disk failed, of which it tells once a second at most, and a bit.
const HELD_BACK: Duration = Duration::from_millis(1500);
/// How often a guest is looked at again where no event arrives.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Libvirt {
    pub(super) fn suspend_guest(&self, guest: &GuestUuid, session: &Session) -> Answer<()> {
        let domain = self.domain(guest)?;
        let name = name_of(&domain);
        match self.life(&domain)? {
            (GuestState::Running, Some(found)) if found == *session => {
                let failed = |error| problem(format!("cannot suspend guest '{name}'"), &error);
                domain.suspend().map_err(failed)
            }
            (GuestState::PausedByUser, Some(found)) if found == *session => Ok(()),
            found => Err(not_as_left(&name, &found, session, "suspended")),
        }
    }

    pub(super) fn resume_guest(
        &self,
        guest: &GuestUuid,
        session: &Session,
    ) -> Answer<Option<Pause>> {
        let domain = self.domain(guest)?;
        let name = name_of(&domain);
        match self.life(&domain)? {
            // QEMU 7.2 does it by itself once its RAM streams.
            (GuestState::Running, Some(found)) if found == *session => {
                Ok(self.streams.mark(guest).and_then(|mark| self.pause_since(mark, guest)))
            }
            (state, Some(found)) if found == *session && self.is_stopped_by_us(state, guest) => {
                let stop = self.log.last_stop(guest.as_str());
                match domain.resume() {
                    Ok(_) => {}
                    // QEMU 7.2 did it this very moment.
                    Err(_)
                        if self.life(&domain)? == (GuestState::Running, Some(session.clone())) => {}
                    Err(error) => {
                        return Err(problem(format!("cannot resume guest '{name}'"), &error));
                    }
                }
                Ok(stop.and_then(|mark| self.pause_since(mark, guest)))
            }
            found => Err(not_as_left(&name, &found, session, "resumed")),
        }
    }

    /// While QEMU sets a stream up it stops a guest again that somebody resumed. libvirt, which was not
    /// asked to, knows no reason.
    fn is_stopped_by_us(&self, state: GuestState, guest: &GuestUuid) -> bool {
        match state {
            GuestState::PausedByUser => true,
            GuestState::PausedOtherwise => self.streams.is_begun(guest),
            _ => false,
        }
    }

    /// QEMU keeps the requests that failed and repeats them when it goes on.
    pub(super) fn retry_writes(&self, guest: &GuestUuid, session: &Session) -> Answer<()> {
        let domain = match self.domain(guest) {
            Err(gone) if gone.kind == ProblemKind::NotFound => return Ok(()),
            found => found?,
        };
        let monitor = Monitor::of(&domain);
        let go_on = || {
            let failed = |error| problem(format!("cannot let '{}' go on", monitor.guest), &error);
            domain.resume().map(drop).map_err(failed)
        };
        let mut seen = self.log.mark();
        if self.life(&domain)? != (GuestState::PausedOnError, Some(session.clone())) {
            return Ok(());
        }
        go_on()?;
        let end = Instant::now() + HELD_BACK;
        while Instant::now() < end {
            match self.life(&domain)? {
                (GuestState::PausedOnError, Some(life)) if life == *session => {
                    if monitor.run_state()? != "running" {
                        return Ok(());
                    }
                    // libvirt heard of an error after the guest had gone on. It believes that the
                    // guest is paused until QEMU tells it that it goes on, which takes a stop.
                    monitor.ask("stop", &json!({}))?;
                    go_on()?;
                }
                (GuestState::Running, _) => {}
                _ => return Ok(()),
            }
            seen =
                self.log.wait(seen, guest.as_str(), end.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }

    pub(super) fn stop_guest(&self, guest: &GuestUuid, session: &Session) -> Answer<()> {
        let domain = match self.domain(guest) {
            Err(gone) if gone.kind == ProblemKind::NotFound => return Ok(()),
            found => found?,
        };
        let name = name_of(&domain);
        match self.life(&domain)? {
            (GuestState::ShutOff, _) => Ok(()),
            (_, Some(found)) if found == *session => match domain.destroy() {
                Ok(()) => Ok(()),
                // It ended by itself in between.
                Err(_) if !domain.is_active().unwrap_or(true) => Ok(()),
                Err(error) => Err(problem(format!("cannot stop guest '{name}'"), &error)),
            },
            found => Err(not_as_left(&name, &found, session, "stopped")),
        }
    }

    pub(super) fn boot_guest(&self, guest: &GuestUuid, paused: bool) -> Answer<()> {
        let domain = self.domain(guest)?;
        let name = name_of(&domain);
        if domain.id().is_some() {
            return Ok(());
        }
        let flags = if paused { c::VIR_DOMAIN_START_PAUSED } else { 0 };
        domain
            .create_with_flags(c::VIR_DOMAIN_START_FORCE_BOOT | flags)
            .map_err(|error| problem(format!("cannot start guest '{name}'"), &error))?;
        self.await_start(guest, &name, paused)
    }

    pub(super) fn restore_guest(
        &self,
        guest: &GuestUuid,
        image: &Path,
        paused: bool,
    ) -> Answer<()> {
        let found = match self.domain(guest) {
            Err(gone) if gone.kind == ProblemKind::NotFound => None,
            found => Some(found?),
        };
        if found.is_some_and(|domain| domain.id().is_some()) {
            return Ok(());
        }
        let shown = image.display();
        if let Err(error) = image.symlink_metadata() {
            return Err(Problem::io(format!("the memory image {shown}"), error));
        }
        let file = image
            .to_str()
            .ok_or_else(|| Problem::lacking(format!("libvirt cannot be told the name {shown}")))?;
        let connection = self.connection()?;
        let xml = connection
            .save_image_xml_desc(file, 0)
            .map_err(|error| problem(format!("cannot read the memory image {shown}"), &error))?;
        if image_uuid(&xml).as_deref() != Some(guest.as_str()) {
            let message = format!("the memory image {shown} is not of the guest {guest}");
            return Err(Problem::refused(message));
        }
        let flags = if paused { c::VIR_DOMAIN_SAVE_PAUSED } else { c::VIR_DOMAIN_SAVE_RUNNING };
        connection.restore_domain_flags(file, None, flags).map_err(|error| {
            problem(format!("cannot resume the guest {guest} from {shown}"), &error)
        })?;
        self.await_start(guest, guest.as_str(), paused)
    }

    /// Waits until a guest that libvirt has started is in the state that it was started for.
    fn await_start(&self, guest: &GuestUuid, name: &str, paused: bool) -> Answer<()> {
        let end = Instant::now() + SETTLE_LIMIT;
        let mut seen = self.log.mark();
        loop {
            let (state, _) = self.life(&self.domain(guest)?)?;
            match state {
                GuestState::Running => return Ok(()),
                GuestState::PausedByUser | GuestState::PausedOtherwise if paused => return Ok(()),
                GuestState::ShutOff => {
                    return Err(Problem::failed(format!("guest '{name}' ended as it started"))
                        .hint("see its log in /var/log/libvirt/qemu"));
                }
                _ if Instant::now() >= end => {
                    let message = format!("guest '{name}' was started and does not run");
                    return Err(Problem::new(ProblemKind::TimedOut, message));
                }
                _ => seen = self.log.wait(seen, guest.as_str(), LOOK_AGAIN),
            }
        }
    }

    pub(super) fn find_managed_save(&self, guest: &GuestName) -> Answer<Option<PathBuf>> {
        let Some(folder) = self.save_folder() else { return Ok(None) };
        let image = folder.join(format!("{guest}.save"));
        // Opened rather than looked at: only an image that can be read is of use.
        match File::open(&image).and_then(|file| file.metadata()) {
            Ok(facts) if facts.is_file() => Ok(Some(image)),
            _ => Ok(None),
        }
    }

    /// Where the daemon keeps managed-save images.
    fn save_folder(&self) -> Option<PathBuf> {
        if !self.is_session() {
            return Some(PathBuf::from("/var/lib/libvirt/qemu/save"));
        }
        let config = std::env::var_os("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")))?;
        Some(config.join("libvirt/qemu/save"))
    }

    pub(super) fn drop_managed_save(&self, guest: &GuestUuid) -> Answer<()> {
        let domain = self.domain(guest)?;
        let name = name_of(&domain);
        let failed =
            |error| problem(format!("cannot remove the managed save of guest '{name}'"), &error);
        if domain.has_managed_save(0).map_err(failed)? {
            domain.managed_save_remove(0).map_err(failed)?;
        }
        Ok(())
    }
}

/// Why a guest is left alone.
pub(super) fn not_as_left(
    name: &str,
    found: &(GuestState, Option<Session>),
    wanted: &Session,
    verb: &str,
) -> Problem {
    match found {
        (GuestState::ShutOff, _) => {
            Problem::failed(format!("guest '{name}' is shut off and cannot be {verb}"))
        }
        (_, session) if session.as_ref() != Some(wanted) => Problem::refused(format!(
            "guest '{name}' was restarted meanwhile and is not {verb} by us"
        )),
        _ => Problem::refused(format!(
            "guest '{name}' is paused by somebody else's doing and is not {verb} by us"
        ))
        .hint(format!("see 'virsh domstate --reason {name}'")),
    }
}

/// The UUID in a save image's definition.
fn image_uuid(xml: &str) -> Option<String> {
    let document = Document::parse(xml).ok()?;
    let uuid = document.root_element().children().find(|child| child.has_tag_name("uuid"))?;
    Some(uuid.text()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_is_not_ours_is_left_alone() {
        let session = |domain_id| Session { boot: "b".into(), domain_id, started_ticks: 7 };
        for (state, found, wanted) in [
            (GuestState::ShutOff, None, ProblemKind::Failed),
            (GuestState::Running, Some(session(2)), ProblemKind::Refused),
            (GuestState::PausedByUser, Some(session(2)), ProblemKind::Refused),
            (GuestState::PausedOtherwise, Some(session(1)), ProblemKind::Refused),
        ] {
            let problem = not_as_left("w", &(state, found), &session(1), "resumed");
            assert_eq!(problem.kind, wanted, "{state:?}");
            assert!(problem.message.contains("guest 'w'"));
        }
    }

    #[test]
    fn save_images_say_whose_they_are() {
        for (xml, uuid) in [
            ("<domain><name>x</name><uuid>u-1</uuid></domain>", Some("u-1")),
            ("<domain><metadata><uuid>u-2</uuid></metadata></domain>", None),
            ("<domain/>", None),
            ("", None),
        ] {
            assert_eq!(image_uuid(xml).as_deref(), uuid, "{xml}");
        }
    }
}
