//! Looking at guests: their state, their present life, their definitions.

use std::fs;
use std::path::PathBuf;

use rustix::process::Pid;
use virt::domain::Domain;
use virt::error::Error;
use virt_sys as c;
use vitrify_core::inventory::{Guest, GuestState, Session};
use vitrify_core::name::GuestUuid;
use vitrify_core::ports::Answer;
use vitrify_core::problem::{Problem, ProblemKind};

use super::error::{is_denied, problem};
use super::monitor::Monitor;
use super::{Libvirt, sys};

/// How often a guest is looked at again that changes its state while we look.
const LOOKS: usize = 5;

impl Libvirt {
    pub(super) fn all_guests(&self) -> Answer<Vec<Guest>> {
        let domains = self
            .connection()?
            .list_all_domains(0)
            .map_err(|error| problem("cannot list the guests", &error))?;
        let mut guests = Vec::new();
        for domain in &domains {
            match self.look_at(domain) {
                // A transient guest may end while the list is read.
                Err(gone) if gone.kind == ProblemKind::NotFound => {}
                found => guests.push(found?),
            }
        }
        guests.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
        Ok(guests)
    }

    /// What a guest is at one moment: if its state or its life changes meanwhile, all is read anew.
    pub(super) fn look_at(&self, domain: &Domain) -> Answer<Guest> {
        let uuid = domain.uuid_string().map_err(|error| problem("a guest has no UUID", &error))?;
        let uuid: GuestUuid = parsed(&uuid)?;
        for _ in 0..LOOKS {
            // Anew, because the library keeps a domain's id and name from its first lookup.
            let domain = self.domain(&uuid)?;
            let before = self.life(&domain)?;
            let guest = self.read(&domain, &uuid, before.clone());
            // A change may also have made a question fail.
            if self.life(&self.domain(&uuid)?)? == before {
                return guest;
            }
        }
        Err(Problem::failed(format!("guest {uuid} keeps changing its state")))
    }

    fn read(
        &self,
        domain: &Domain,
        uuid: &GuestUuid,
        life: (GuestState, Option<Session>),
    ) -> Answer<Guest> {
        let name = name_of(domain);
        let failed = |error: Error| problem(format!("cannot inspect guest '{name}'"), &error);
        let persistent = domain.is_persistent().map_err(failed)?;
        let (state, session) = life;
        let job = match state {
            GuestState::ShutOff => None,
            _ => sys::job_operation(domain).map_err(failed)?.map(operation_name),
        };
        let live = state.is_active().then(|| xml(domain, 0)).transpose().map_err(failed)?;
        let inactive = persistent
            .then(|| xml(domain, c::VIR_DOMAIN_XML_INACTIVE))
            .transpose()
            .map_err(failed)?;
        Ok(Guest {
            name: parsed(&name)?,
            uuid: uuid.clone(),
            state,
            session,
            persistent,
            managed_save: domain.has_managed_save(0).map_err(failed)?,
            job: job.map(str::to_owned),
            live_xml: live,
            inactive_xml: inactive,
            no_stream: self.no_stream()?,
            frail_stream: self.frail_stream()?,
        })
    }

    /// What a guest is doing, and in which life. Ask with a fresh lookup.
    pub(super) fn life(&self, domain: &Domain) -> Answer<(GuestState, Option<Session>)> {
        let name = name_of(domain);
        let (state, reason) = sys::state(domain)
            .map_err(|error| problem(format!("cannot ask for the state of '{name}'"), &error))?;
        let Some(domain_id) = domain.id() else { return Ok((GuestState::ShutOff, None)) };
        let state = match guest_state(state, reason) {
            GuestState::PausedOtherwise if found_no_room(domain, state, reason) => {
                GuestState::PausedOnError
            }
            known => known,
        };
        if state == GuestState::ShutOff {
            return Ok((state, None));
        }
        let session = Session { boot: boot_id()?, domain_id, started_ticks: self.started(&name) };
        Ok((state, Some(session)))
    }

    /// When the guest's QEMU started, in clock ticks since boot; 0 if that is not to be found out.
    fn started(&self, name: &str) -> u64 {
        self.process(name)
            .and_then(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok())
            .and_then(|stat| start_time(&stat))
            .unwrap_or(0)
    }

    /// The process of an active guest's QEMU.
    pub(super) fn process(&self, name: &str) -> Option<Pid> {
        let file = self.run_folder()?.join(format!("{name}.pid"));
        Pid::from_raw(fs::read_to_string(file).ok()?.trim().parse().ok()?)
    }

    /// Where the daemon keeps the process ids of its guests.
    fn run_folder(&self) -> Option<PathBuf> {
        if !self.is_session() {
            return Some(PathBuf::from("/run/libvirt/qemu"));
        }
        Some(PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?).join("libvirt/qemu/run"))
    }
}

/// libvirt knows why QEMU suspended a guest by an event of which QEMU sends one a second at most
/// (`BLOCK_IO_ERROR`, since 9.2): it has no reason for a guest that went on and failed again at once.
fn found_no_room(domain: &Domain, state: u32, reason: u32) -> bool {
    (state, reason) == (c::VIR_DOMAIN_PAUSED, c::VIR_DOMAIN_PAUSED_UNKNOWN)
        && Monitor::of(domain).run_state().is_ok_and(|state| state == "io-error")
}

/// The guest's name for messages.
pub(super) fn name_of(domain: &Domain) -> String {
    domain.name().unwrap_or_else(|_| "?".to_owned())
}

/// A definition with its secrets, or without them where the connection may not see them.
pub(super) fn xml(domain: &Domain, flags: u32) -> Result<String, Error> {
    match domain.xml_desc(flags | c::VIR_DOMAIN_XML_SECURE) {
        Err(error) if is_denied(&error) => domain.xml_desc(flags),
        other => other,
    }
}

fn parsed<T: std::str::FromStr<Err = vitrify_core::name::BadName>>(text: &str) -> Answer<T> {
    text.parse().map_err(|error| Problem::failed("libvirt reports a guest").from(error))
}

fn boot_id() -> Answer<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .map_err(|error| Problem::io(format!("cannot read {path}"), error))
}

/// `starttime`, field 22 of `/proc/PID/stat` (proc_pid_stat(5)). The second field is the command's
/// name in parentheses, which may hold anything.
fn start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// `virDomainState` and `virDomainPausedReason` in our words.
fn guest_state(state: u32, reason: u32) -> GuestState {
    match (state, reason) {
        (c::VIR_DOMAIN_RUNNING | c::VIR_DOMAIN_BLOCKED, _) => GuestState::Running,
        (c::VIR_DOMAIN_PAUSED, c::VIR_DOMAIN_PAUSED_USER) => GuestState::PausedByUser,
        (c::VIR_DOMAIN_PAUSED, c::VIR_DOMAIN_PAUSED_IOERROR) => GuestState::PausedOnError,
        (c::VIR_DOMAIN_SHUTOFF, _) => GuestState::ShutOff,
        // Paused for other reasons, crashed, asleep, on its way down, or newer than this program.
        _ => GuestState::PausedOtherwise,
    }
}

/// `virDomainJobOperation` in words.
pub(super) fn operation_name(operation: u32) -> &'static str {
    match operation {
        c::VIR_DOMAIN_JOB_OPERATION_START => "start",
        c::VIR_DOMAIN_JOB_OPERATION_SAVE => "save",
        c::VIR_DOMAIN_JOB_OPERATION_RESTORE => "restore",
        c::VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN => "incoming migration",
        c::VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT => "outgoing migration",
        c::VIR_DOMAIN_JOB_OPERATION_SNAPSHOT => "snapshot",
        c::VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_REVERT => "snapshot revert",
        c::VIR_DOMAIN_JOB_OPERATION_DUMP => "dump",
        c::VIR_DOMAIN_JOB_OPERATION_BACKUP => "backup",
        c::VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_DELETE => "snapshot delete",
        _ => "unknown job",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states() {
        for (state, reason, wanted) in [
            (c::VIR_DOMAIN_RUNNING, 1, GuestState::Running),
            (c::VIR_DOMAIN_BLOCKED, 0, GuestState::Running),
            (c::VIR_DOMAIN_PAUSED, c::VIR_DOMAIN_PAUSED_USER, GuestState::PausedByUser),
            (c::VIR_DOMAIN_PAUSED, c::VIR_DOMAIN_PAUSED_IOERROR, GuestState::PausedOnError),
            (c::VIR_DOMAIN_PAUSED, c::VIR_DOMAIN_PAUSED_MIGRATION, GuestState::PausedOtherwise),
            (c::VIR_DOMAIN_PAUSED, c::VIR_DOMAIN_PAUSED_SNAPSHOT, GuestState::PausedOtherwise),
            (c::VIR_DOMAIN_PMSUSPENDED, 0, GuestState::PausedOtherwise),
            (c::VIR_DOMAIN_CRASHED, 1, GuestState::PausedOtherwise),
            (c::VIR_DOMAIN_SHUTDOWN, 1, GuestState::PausedOtherwise),
            (c::VIR_DOMAIN_SHUTOFF, 1, GuestState::ShutOff),
            (99, 0, GuestState::PausedOtherwise),
        ] {
            assert_eq!(guest_state(state, reason), wanted, "{state}/{reason}");
        }
    }

    #[test]
    fn start_times_are_read_past_any_name() {
        let rest = "S 1 1 1 0 -1 4194560 5 0 0 0 1 2 0 0 20 0 5 0 98765 1 2 3";
        for name in ["qemu-system-x86", "a) (b", "x y z"] {
            assert_eq!(start_time(&format!("42 ({name}) {rest}")), Some(98765), "{name}");
        }
        for broken in ["", "42", "42 (q) S 1", "42 (q) S 1 1 1 0 -1 4 5 0 0 0 1 2 0 0 20 0 5 0 x"] {
            assert_eq!(start_time(broken), None, "{broken}");
        }
    }
}
