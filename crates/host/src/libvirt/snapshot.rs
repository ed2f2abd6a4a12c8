//! libvirt's external snapshot: RAM live into a file, overlays on the disks, all of one instant.
//!
//! Format: <https://libvirt.org/formatsnapshot.html>.

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};
use virt_sys as c;
use vitrify_core::inventory::{GuestState, Session};
use vitrify_core::name::GuestUuid;
use vitrify_core::ports::{Answer, OverlayDisk, Pause};
use vitrify_core::problem::{Problem, ProblemKind};

use super::error::{Said, is_no_space, problem};
use super::events::{Mark, pause};
use super::guests::{name_of, operation_name};
use super::power::not_as_left;
use super::{Libvirt, sys};

/// How long an aborted job may take to end. Back on its base after 76 ms as a rule; libvirt's own
/// steps in between are bounded by its 30 s wait for the guest's job lock.
const ABORT_LIMIT: Duration = Duration::from_secs(60);
/// How often an abort is asked for again: libvirt ignores it before the dump has begun.
const ABORT_AGAIN: Duration = Duration::from_millis(500);
/// How often the caller's wish to cancel is looked at.
const CANCEL_CHECK: Duration = Duration::from_millis(100);
/// How long the image may grow before it is written out again.
const FLUSH_AGAIN: Duration = Duration::from_millis(50);
/// How long QEMU's events may lag behind the answer to our call.
const EVENT_LAG: Duration = Duration::from_secs(5);

/// No metadata: libvirt shall keep no record of its own that would outlive the overlays.
const FLAGS: u32 = c::VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC | c::VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA;
const WITH_MEMORY: u32 = FLAGS | c::VIR_DOMAIN_SNAPSHOT_CREATE_LIVE;
const DISKS_ONLY: u32 = FLAGS | c::VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY;

impl Libvirt {
    pub(super) fn take_external_snapshot(
        &self,
        guest: &GuestUuid,
        memory: &Path,
        disks: &[OverlayDisk<'_>],
        limit: Duration,
    ) -> Answer<Pause> {
        let domain = self.domain(guest)?;
        let name = name_of(&domain);
        // libvirt would overwrite the memory file, and asks this of overlays only.
        check_free(overlays(disks).chain([memory]))?;
        if self.life(&domain)?.0 != GuestState::Running {
            return Err(Problem::failed(format!("guest '{name}' is not running")));
        }
        let xml = snapshot_xml(Some(memory), disks)?;
        let mark = self.log.mark();
        let flusher = Flusher::of(memory)?;
        let result = self.snapshot_within(&domain, xml, limit)?;
        drop(flusher);
        result.map_err(|error| {
            let file = memory.display();
            let what = if is_no_space(&error) {
                format!("no room for the memory of guest '{name}' in {file}")
            } else {
                format!("cannot take the snapshot of guest '{name}' with its memory in {file}")
            };
            problem(what, &error)
        })?;
        self.pause_since(mark, guest).ok_or_else(|| {
            Problem::failed(format!(
                "QEMU's events do not tell that guest '{name}' was stopped and resumed for its \
                 snapshot; somebody else may have suspended it"
            ))
        })
    }

    /// In one transaction of QEMU's, which leaves a guest that is suspended so: 68 ms with one disk. The
    /// guest's RAM may stream from before to after the commit.
    pub(super) fn put_suspended_on_overlays(
        &self,
        guest: &GuestUuid,
        session: &Session,
        disks: &[OverlayDisk<'_>],
    ) -> Answer<()> {
        let domain = self.domain(guest)?;
        let name = name_of(&domain);
        check_free(overlays(disks))?;
        match self.life(&domain)? {
            (GuestState::PausedByUser, Some(found)) if found == *session => {}
            (GuestState::Running, Some(found)) if found == *session => {
                return Err(Problem::failed(format!("guest '{name}' is not suspended any more")));
            }
            found => return Err(not_as_left(&name, &found, session, "put on overlays")),
        }
        let taken = domain.create_snapshot_xml(&snapshot_xml(None, disks)?, DISKS_ONLY).map(drop);
        taken.map_err(|error| {
            problem(format!("cannot put the disks of guest '{name}' on overlays"), &error)
        })
    }

    /// Has libvirt take the snapshot, on a thread of its own, because the call returns only when
    /// it is done. When the limit has passed, or somebody cancels, the job is aborted and its end
    /// awaited. A snapshot that is complete all the same is a success.
    fn snapshot_within(
        &self,
        domain: &Domain,
        xml: String,
        limit: Duration,
    ) -> Answer<Result<(), Error>> {
        let name = name_of(domain);
        let (sender, receiver) = mpsc::channel();
        let worker = domain.clone();
        thread::Builder::new()
            .name("snapshot".into())
            .spawn(move || {
                let taken = worker.create_snapshot_xml(&xml, WITH_MEMORY).map(drop);
                // Nobody listens if the caller gave up on us.
                let _ = sender.send(taken);
            })
            .map_err(|error| Problem::io("cannot start a thread", error))?;

        let end = Instant::now() + limit;
        let why = loop {
            let left = end.saturating_duration_since(Instant::now());
            match receiver.recv_timeout(left.min(CANCEL_CHECK)) {
                Ok(result) => return Ok(result),
                Err(RecvTimeoutError::Disconnected) => return Err(lost(&name)),
                Err(RecvTimeoutError::Timeout) if self.is_cancelled() => {
                    break Problem::failed(format!("the dump of guest '{name}' was cancelled"));
                }
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    break Problem::new(
                        ProblemKind::TimedOut,
                        format!("the dump of guest '{name}' took longer than {}", shown(limit)),
                    )
                    .hint("it writes to its memory faster than that can be saved; raise [overlay] dump-limit");
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        };
        match end_of_aborted(domain, &receiver)? {
            Ok(()) => Ok(Ok(())),
            Err(error) if error.code().is(ErrorNumber::OperationAborted) => Err(why),
            Err(error) => Err(why.from(Said::from(&error))),
        }
    }

    /// The pause that QEMU's events tell of since the mark.
    pub(super) fn pause_since(&self, mark: Mark, guest: &GuestUuid) -> Option<Pause> {
        let end = Instant::now() + EVENT_LAG;
        let mut seen = mark;
        loop {
            if let Some(pause) = pause(&self.log.since(mark, guest.as_str())) {
                return Some(pause);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            seen = self.log.wait(seen, guest.as_str(), left);
        }
    }

    /// Aborts a snapshot job of the guest that nobody waits for any more.
    pub(super) fn abort_own_job(&self, guest: &GuestUuid) -> Answer<()> {
        let name = name_of(&self.domain(guest)?);
        let end = Instant::now() + ABORT_LIMIT;
        let mut seen = self.log.mark();
        let mut abort = Abort::default();
        while Instant::now() < end {
            let domain = self.domain(guest)?;
            match job_of(&domain) {
                Ok(None) => return Ok(()),
                Ok(Some(c::VIR_DOMAIN_JOB_OPERATION_SNAPSHOT)) => abort.ask(&domain),
                Ok(Some(other)) => {
                    let job = operation_name(other);
                    let message = format!("guest '{name}' is busy with somebody's job ({job})");
                    return Err(Problem::failed(message).hint("try again when it has ended"));
                }
                // A job in its first steps hides even what it is.
                Err(busy) if busy.code().is(ErrorNumber::OperationTimeout) => {}
                Err(error) => {
                    let message = format!("cannot ask for the job of guest '{name}'");
                    return Err(problem(message, &error));
                }
            }
            seen = self.log.wait(seen, guest.as_str(), ABORT_AGAIN);
        }
        let message = format!("the snapshot job of guest '{name}' does not end");
        let hint = format!("see 'virsh domjobinfo {name}'");
        Err(Problem::new(ProblemKind::TimedOut, message).hint(hint))
    }
}

/// The overlay files that are to be made.
fn overlays<'a>(disks: &'a [OverlayDisk<'a>]) -> impl Iterator<Item = &'a Path> {
    disks.iter().filter_map(|disk| disk.overlay)
}

fn check_free<'a>(mut files: impl Iterator<Item = &'a Path>) -> Answer<()> {
    match files.find(|file| file.symlink_metadata().is_ok()) {
        Some(file) => Err(Problem::refused(format!("{} exists already", file.display()))),
        None => Ok(()),
    }
}

/// Writes the memory image out to its drive while it grows. libvirt syncs the image while the guest
/// stands still, so whatever is only in the page cache by then is a part of the pause.
///
/// Measured with a guest of 1 GiB, 512 MiB filled, idle: 494–651 ms of pause without, 105–121 ms
/// with an image that is synced every 0.1 s.
struct Flusher {
    over: Arc<AtomicBool>,
}

impl Flusher {
    fn of(memory: &Path) -> Answer<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let (seen, path) = (Arc::clone(&over), memory.to_owned());
        // Never joined: on a drive that hangs it would not come back.
        thread::Builder::new()
            .name("flush".into())
            .spawn(move || {
                while !seen.load(Ordering::Relaxed) {
                    if let Ok(image) = File::open(&path) {
                        // A failure shows when libvirt syncs the image itself.
                        image.sync_data().ok();
                    }
                    thread::park_timeout(FLUSH_AGAIN);
                }
            })
            .map_err(|error| Problem::io("cannot start a thread", error))?;
        Ok(Self { over })
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// The job of a guest as a whole; none where the guest is shut off.
fn job_of(domain: &Domain) -> Result<Option<u32>, Error> {
    match domain.id() {
        None => Ok(None),
        Some(_) => sys::job_operation(domain),
    }
}

/// Aborts the job until the call that waits for it has returned.
fn end_of_aborted(
    domain: &Domain,
    receiver: &Receiver<Result<(), Error>>,
) -> Answer<Result<(), Error>> {
    let name = name_of(domain);
    let end = Instant::now() + ABORT_LIMIT;
    let mut abort = Abort::default();
    while Instant::now() < end {
        abort.ask(domain);
        match receiver.recv_timeout(ABORT_AGAIN) {
            Ok(result) => return Ok(result),
            Err(RecvTimeoutError::Disconnected) => return Err(lost(&name)),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
    let message = format!("libvirt does not end the snapshot of guest '{name}'");
    let hint = format!("see 'virsh domjobinfo {name}', and run 'vitrify repair {name}' later");
    Err(Problem::new(ProblemKind::TimedOut, message).hint(hint))
}

/// Requests to abort a job. Each is made on a thread of its own: one that comes in the job's first
/// milliseconds, before the dump, blocks for libvirt's 30 s job timeout without any effect
/// (measured with libvirt 11.3), while one that is made after it succeeds at once.
#[derive(Default)]
struct Abort {
    asked: Vec<JoinHandle<()>>,
}

impl Abort {
    /// How many may be blocked: the daemon works on five calls of a client at once
    /// (`max_client_requests`), and the snapshot's own is one of them.
    const BOUND: usize = 3;

    fn ask(&mut self, domain: &Domain) {
        self.asked.retain(|thread| !thread.is_finished());
        if self.asked.len() >= Self::BOUND {
            return;
        }
        let domain = domain.clone();
        // An error means that the job has ended already, or not begun: the next look tells.
        let ask = move || drop(sys::abort_job(&domain));
        self.asked.extend(thread::Builder::new().name("abort".into()).spawn(ask));
    }
}

fn lost(name: &str) -> Problem {
    Problem::failed(format!("the thread that takes the snapshot of guest '{name}' died"))
}

/// A limit, for people.
pub(super) fn shown(limit: Duration) -> String {
    if limit.subsec_millis() == 0 {
        format!("{} s", limit.as_secs())
    } else {
        format!("{} ms", limit.as_millis())
    }
}

/// What is asked of libvirt. Every disk of the guest must be listed: libvirt gives an overlay of
/// its own choice to a writable disk that is not.
fn snapshot_xml(memory: Option<&Path>, disks: &[OverlayDisk<'_>]) -> Answer<String> {
    let mut xml = String::from("<domainsnapshot>\n");
    let _ = match memory.map(attribute).transpose()? {
        Some(memory) => writeln!(xml, "  <memory snapshot='external' file='{memory}'/>"),
        None => writeln!(xml, "  <memory snapshot='no'/>"),
    };
    xml.push_str("  <disks>\n");
    for disk in disks {
        let target = escaped(disk.target);
        let _ = match disk.overlay {
            None => writeln!(xml, "    <disk name='{target}' snapshot='no'/>"),
            Some(overlay) => writeln!(
                xml,
                "    <disk name='{target}' snapshot='external' type='file'>\n      \
                 <driver type='qcow2'/>\n      <source file='{}'/>\n    </disk>",
                attribute(overlay)?
            ),
        };
    }
    xml.push_str("  </disks>\n</domainsnapshot>\n");
    Ok(xml)
}

fn attribute(path: &Path) -> Answer<String> {
    let text = path.to_str().filter(|text| !text.chars().any(char::is_control));
    text.map(escaped).ok_or_else(|| {
        Problem::lacking(format!("libvirt cannot be told the name {}", path.display()))
    })
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_disk_is_listed() {
        let disks = [
            OverlayDisk { target: "vda", overlay: Some(Path::new("/ov/a & 'b'.overlay")) },
            OverlayDisk { target: "sda", overlay: None },
        ];
        let wanted = "<domainsnapshot>
  <memory snapshot='external' file='/store/&lt;x&gt;/memory.save'/>
  <disks>
    <disk name='vda' snapshot='external' type='file'>
      <driver type='qcow2'/>
      <source file='/ov/a &amp; &apos;b&apos;.overlay'/>
    </disk>
    <disk name='sda' snapshot='no'/>
  </disks>
</domainsnapshot>
"
        .replace("&gt;", ">");
        let memory = Path::new("/store/<x>/memory.save");
        assert_eq!(snapshot_xml(Some(memory), &disks).unwrap(), wanted);
        let without = "<domainsnapshot>\n  <memory snapshot='no'/>\n  <disks>\n";
        assert!(snapshot_xml(None, &disks).unwrap().starts_with(without));
    }

    #[test]
    fn names_that_xml_cannot_hold_are_refused() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        for name in [&b"/a\nb"[..], b"/a\xff"] {
            assert!(snapshot_xml(Some(Path::new(OsStr::from_bytes(name))), &[]).is_err());
        }
    }

    #[test]
    fn limits_are_shown_with_a_unit() {
        assert_eq!(shown(Duration::from_secs(90)), "90 s");
        assert_eq!(shown(Duration::from_millis(1500)), "1500 ms");
    }
}
