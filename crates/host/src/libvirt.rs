//! libvirt and QEMU: the port [`Hypervisor`] on a real host. It speaks to the daemon through its
//! library, hears of its events, and runs `qemu-img` for guests that are shut off.

mod activity;
mod agent;
mod apparmor;
mod commit;
mod error;
mod events;
mod guests;
mod monitor;
mod offline;
mod power;
mod self_test;
mod snapshot;
mod stream;
mod sys;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use virt::connect::Connect;
use virt::domain::Domain;
use vitrify_core::inventory::{Activity, Guest, Session};
use vitrify_core::name::{GuestName, GuestUuid};
use vitrify_core::ports::{Answer, Commit, Hypervisor, MemoryStream, OverlayDisk, Pause};
use vitrify_core::problem::{Problem, ProblemKind};

use crate::guard::{Guard, Hold};

use self::error::{is_no_domain, problem};
use self::events::EventLog;
use self::stream::Streams;
use self::sys::Subscriptions;

/// The daemon is asked for a sign of life every so many seconds while it is silent …
const KEEPALIVE_INTERVAL_S: i32 = 5;
/// … and given up after so many unanswered ones: no call waits longer for a dead daemon.
const KEEPALIVE_COUNT: u32 = 5;

/// A connection to the libvirt daemon of this host.
pub struct Libvirt {
    uri: String,
    /// Whether somebody wants the work to be given up; looked at where a guest is not yet in a
    /// state that must be put right.
    cancelled: Arc<AtomicBool>,
    log: Arc<EventLog>,
    streams: Streams,
    guard: Option<Guard>,
    link: Mutex<Link>,
}

/// A live connection and what it tells us. Replaced when the daemon was restarted.
struct Link {
    // Before the connection, so that it is dropped first.
    _subscriptions: Subscriptions,
    connection: Connect,
}

impl Libvirt {
    /// Connects to the daemon at `uri` (`qemu:///system`, `qemu:///session`). While `cancelled` is
    /// set, a dump that is under way is aborted.
    ///
    /// # Errors
    /// `Lacking`, naming the URI, where no daemon answers, or one that is not QEMU's on this host.
    pub fn connect(uri: &str, cancelled: Arc<AtomicBool>) -> Answer<Self> {
        virt::error::clear_error_callback();
        events::run_loop().map_err(|error| {
            Problem::failed(format!("cannot start libvirt's event loop: {error}"))
        })?;
        let log = Arc::new(EventLog::default());
        let link = Mutex::new(Link::open(uri, &log)?);
        let (uri, streams) = (uri.to_owned(), Streams::default());
        Ok(Self { uri, cancelled, log, streams, guard: None, link })
    }

    /// The same, and from now on no guest is held without a guard: `program guard`, which is to call
    /// [`crate::guard::serve`]. It lets a guest go that is held for far longer than the pause limit.
    #[must_use]
    pub fn guarded(mut self, program: PathBuf, pause_limit: Duration) -> Self {
        self.guard = Some(Guard::new(program, &self.uri, pause_limit));
        self
    }

    /// Has the guard let the guest go if we die or the limit passes.
    fn arm(
        &self,
        guest: &GuestUuid,
        session: &Session,
        hold: Hold,
        limit: Option<Duration>,
    ) -> Answer<()> {
        self.guard.as_ref().map_or(Ok(()), |it| it.arm(guest, session, hold, limit))
    }

    /// After how long the guard lets a guest go that we suspended.
    fn hold_limit(&self) -> Option<Duration> {
        self.guard.as_ref().map(Guard::hold_limit)
    }

    /// Holds a guest, or does not: then the guard need not watch.
    fn hold<T>(&self, guest: &GuestUuid, hold: Hold, held: Answer<T>) -> Answer<T> {
        match &held {
            // Nothing was done.
            Err(problem) if matches!(problem.kind, ProblemKind::Refused | ProblemKind::Lacking) => {
                self.disarm(guest, hold);
            }
            _ => {}
        }
        held
    }

    /// A guest that was let go needs no guard; one that could not be still does.
    fn let_go<T>(&self, guest: &GuestUuid, hold: Hold, released: Answer<T>) -> Answer<T> {
        if released.is_ok() {
            self.disarm(guest, hold);
        }
        released
    }

    fn disarm(&self, guest: &GuestUuid, hold: Hold) {
        self.guard.iter().for_each(|it| it.disarm(guest, hold));
    }

    /// The connection, made anew if the daemon went away since.
    fn connection(&self) -> Answer<Connect> {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if !link.connection.is_alive().unwrap_or(false) {
            *link = Link::open(&self.uri, &self.log)?;
        }
        Ok(link.connection.clone())
    }

    /// The guest of this name, whatever the others are doing.
    ///
    /// # Errors
    /// `NotFound` where there is none.
    pub fn find(&self, name: &GuestName) -> Answer<Guest> {
        let domain = self.connection()?.lookup_domain_by_name(name.as_str()).map_err(|error| {
            if is_no_domain(&error) {
                return Problem::not_found(format!("there is no guest '{name}'"));
            }
            problem(format!("cannot look up the guest '{name}'"), &error)
        })?;
        self.look_at(&domain)
    }

    fn domain(&self, guest: &GuestUuid) -> Answer<Domain> {
        self.connection()?.lookup_domain_by_uuid_string(guest.as_str()).map_err(|error| {
            if is_no_domain(&error) {
                return Problem::not_found(format!("no guest has the UUID {guest}"));
            }
            problem(format!("cannot look up the guest {guest}"), &error)
        })
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Whether this is a user's own daemon and not the host's.
    fn is_session(&self) -> bool {
        self.uri.split('?').next().is_some_and(|uri| uri.ends_with("/session"))
    }
}

impl Link {
    fn open(uri: &str, log: &Arc<EventLog>) -> Answer<Self> {
        if !is_local_qemu(uri) {
            return Err(Problem::lacking(format!("{uri} is not QEMU on this host"))
                .hint("use qemu:///system or qemu:///session"));
        }
        let unreachable = |error| {
            let mut problem = problem(format!("cannot reach libvirt at {uri}"), &error);
            problem.kind = ProblemKind::Lacking;
            problem.hint(
                "start it with 'systemctl start libvirtd' (or virtqemud), and run vitrify as a \
                 user who may manage it",
            )
        };
        let connection = Connect::open(Some(uri)).map_err(unreachable)?;
        connection
            .set_keep_alive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT)
            .map_err(|error| problem(format!("cannot keep watch over {uri}"), &error))?;
        let listener = || -> sys::Listener {
            let log = Arc::clone(log);
            Box::new(move |guest, notice| log.push(guest, notice))
        };
        let subscriptions = Subscriptions::new(&connection, listener)
            .map_err(|error| problem(format!("cannot hear of events at {uri}"), &error))?;
        Ok(Self { _subscriptions: subscriptions, connection })
    }
}

/// Boot ids, processes and images are this host's, so guests of another one make no sense.
/// URIs: <https://libvirt.org/uri.html>.
fn is_local_qemu(uri: &str) -> bool {
    let Some((scheme, rest)) = uri.split_once("://") else { return false };
    matches!(scheme, "qemu" | "qemu+unix") && rest.starts_with('/')
}

impl Hypervisor for Libvirt {
    fn guests(&self) -> Answer<Vec<Guest>> {
        self.all_guests()
    }

    fn inspect(&self, guest: &GuestUuid) -> Answer<Guest> {
        self.look_at(&self.domain(guest)?)
    }

    fn activity(&self, guest: &GuestUuid) -> Answer<Activity> {
        self.activity_of(guest)
    }

    fn version(&self) -> Answer<String> {
        let connection = self.connection()?;
        let unknown = |error| problem("cannot ask libvirt for its version", &error);
        let libvirt = connection.lib_version().map_err(unknown)?;
        let qemu = connection.hyp_version().map_err(unknown)?;
        Ok(format!("libvirt {}, QEMU {}", dotted(libvirt), dotted(qemu)))
    }

    fn external_snapshot(
        &self,
        guest: &GuestUuid,
        memory: &Path,
        disks: &[OverlayDisk<'_>],
        limit: Duration,
    ) -> Answer<Pause> {
        if self.guard.is_some() {
            let session = self.inspect(guest)?.session;
            let session =
                session.ok_or_else(|| Problem::failed(format!("the guest {guest} is shut off")))?;
            self.arm(guest, &session, Hold::Dumped, None)?;
        }
        let taken = self.take_external_snapshot(guest, memory, disks, limit);
        self.disarm(guest, Hold::Dumped);
        taken
    }

    fn put_overlays(
        &self,
        guest: &GuestUuid,
        session: &Session,
        disks: &[OverlayDisk<'_>],
    ) -> Answer<()> {
        self.put_suspended_on_overlays(guest, session, disks)
    }

    fn abort_snapshot_job(&self, guest: &GuestUuid) -> Answer<()> {
        self.abort_own_job(guest)
    }

    fn commit_overlay(&self, commit: &Commit<'_>) -> Answer<()> {
        self.commit_live(commit)
    }

    fn repoint_disk(
        &self,
        guest: &GuestUuid,
        target: &str,
        path: &Path,
        format: &str,
    ) -> Answer<()> {
        self.edit_disk(guest, target, path, format)
    }

    fn commit_offline(&self, overlay: &Path, base: &Path) -> Answer<()> {
        offline::commit_file(overlay, base)
    }

    fn open_stream(&self, guest: &GuestUuid, session: &Session) -> Answer<MemoryStream> {
        self.arm(guest, session, Hold::Streamed, None)?;
        self.hold(guest, Hold::Streamed, self.open_memory_stream(guest, session))
    }

    fn begin_stream(&self, guest: &GuestUuid, session: &Session) -> Answer<()> {
        self.begin_memory_stream(guest, session)
    }

    fn check_stream(&self, guest: &GuestUuid, session: &Session) -> Answer<Duration> {
        self.check_memory_stream(guest, session)
    }

    fn close_stream(&self, guest: &GuestUuid, session: &Session) -> Answer<()> {
        self.let_go(guest, Hold::Streamed, self.close_memory_stream(guest, session))
    }

    fn suspend(&self, guest: &GuestUuid, session: &Session) -> Answer<()> {
        self.arm(guest, session, Hold::Suspended, self.hold_limit())?;
        self.hold(guest, Hold::Suspended, self.suspend_guest(guest, session))
    }

    fn resume(&self, guest: &GuestUuid, session: &Session) -> Answer<Option<Pause>> {
        self.let_go(guest, Hold::Suspended, self.resume_guest(guest, session))
    }

    fn retry(&self, guest: &GuestUuid, session: &Session) -> Answer<()> {
        self.retry_writes(guest, session)
    }

    fn freeze(&self, guest: &GuestUuid, session: &Session, limit: Duration) -> Answer<()> {
        // It may take its limit twice, and 30 s more behind another program.
        let until = self.hold_limit().map(|it| 2 * limit + Duration::from_secs(30) + it);
        self.arm(guest, session, Hold::Frozen, until)?;
        self.hold(guest, Hold::Frozen, self.freeze_guest(guest, session, limit))
    }

    fn is_frozen(&self, guest: &GuestUuid, session: &Session, limit: Duration) -> Answer<bool> {
        self.is_guest_frozen(guest, session, limit)
    }

    fn thaw(&self, guest: &GuestUuid, session: &Session, limit: Duration) -> Answer<bool> {
        self.let_go(guest, Hold::Frozen, self.thaw_guest(guest, session, limit))
    }

    fn stop(&self, guest: &GuestUuid, session: &Session) -> Answer<()> {
        self.stop_guest(guest, session)
    }

    fn define(&self, xml: &str) -> Answer<()> {
        self.connection()?
            .define_domain_xml_flags(xml, 0)
            .map(drop)
            .map_err(|error| problem("cannot define the guest", &error))
    }

    fn start(&self, guest: &GuestUuid, paused: bool) -> Answer<()> {
        self.boot_guest(guest, paused)
    }

    fn start_from_image(&self, guest: &GuestUuid, image: &Path, paused: bool) -> Answer<()> {
        self.restore_guest(guest, image, paused)
    }

    fn managed_save_image(&self, guest: &GuestName) -> Answer<Option<PathBuf>> {
        self.find_managed_save(guest)
    }

    fn remove_managed_save(&self, guest: &GuestUuid) -> Answer<()> {
        self.drop_managed_save(guest)
    }
}

/// libvirt's version numbers: major × 1,000,000 + minor × 1,000 + release.
fn dotted(version: u32) -> String {
    format!("{}.{}.{}", version / 1_000_000, version / 1_000 % 1_000, version % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_qemu_on_this_host() {
        for (uri, local) in [
            ("qemu:///system", true),
            ("qemu:///session", true),
            ("qemu+unix:///system?socket=/run/x", true),
            ("qemu+ssh://host/system", false),
            ("qemu://host/system", false),
            ("qemu+ssh:///system", false),
            ("xen:///system", false),
            ("test:///default", false),
            ("", false),
        ] {
            assert_eq!(is_local_qemu(uri), local, "{uri:?}");
        }
    }

    #[test]
    fn versions_are_shown_with_dots() {
        for (number, shown) in [(11_003_000, "11.3.0"), (10_000_002, "10.0.2"), (0, "0.0.0")] {
            assert_eq!(dotted(number), shown);
        }
    }
}
