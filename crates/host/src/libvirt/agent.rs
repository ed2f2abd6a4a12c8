//! Freezing and thawing a guest's file systems through QEMU's guest agent.
//!
//! Measured with libvirt 11.3.0, QEMU 10.0.2 and qemu-ga 10.0.2 on Linux 6.12, ext4:
//! - Without a limit of its own, a call to an agent that hangs never returns, and holds the guest's
//!   agent job even after the caller was killed; every other agent call then fails after 30 s
//!   ("cannot acquire state change lock"). Here each command carries its limit.
//! - libvirt asks for a sign of life (`guest-sync`, at most 5 s) before the first command and after
//!   one that timed out. An agent that hangs by then is sent nothing. After an answer it does not
//!   ask, so that a command to an agent that hung since is carried out when it wakes.
//! - A freeze that timed out while the agent was at it (a slow hook) still takes place, 8 s later in
//!   our case. The channel keeps its order and libvirt drops the late answers: as soon as the agent
//!   wakes, status and thaw are answered truly.
//! - An agent that was killed while frozen and started again knows its state (`qga.state.isfrozen`)
//!   and thaws. One that is not started again leaves the guest frozen. `virsh send-key` with
//!   Alt-SysRq-J thaws it where the guest allows that; Debian's kernel does not ("This sysrq
//!   operation is disabled") unless `kernel.sysrq` was set to 1 before. A reset always helps.
//! - Where nobody listens, the live definition says `state='disconnected'` of the channel and every
//!   call fails at once ("QEMU guest agent is not connected"). An agent that hangs is `connected`.
//! - "Frozen" is what the agent believes. Windows thaws by itself after 10 s and its agent finds out
//!   when it is told to thaw, which then fails ("couldn't hold writes", from its source). On Linux
//!   the thaw's number of file systems tells.
//! - A reboot of the guest is not a new session for libvirt, but its agent then says `thawed`.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};
use vitrify_core::inventory::{GuestState, Session};
use vitrify_core::name::GuestUuid;
use vitrify_core::ports::Answer;
use vitrify_core::problem::{Problem, ProblemKind};

use super::Libvirt;
use super::error::{Said, problem};
use super::guests::name_of;
use super::power::not_as_left;
use super::snapshot::shown;

const STATUS: &str = "guest-fsfreeze-status";
const FREEZE: &str = "guest-fsfreeze-freeze";
const THAW: &str = "guest-fsfreeze-thaw";

/// How often an agent that does not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

impl Libvirt {
    /// Freezes all file systems of a running guest of this session; what is frozen already stays
    /// so. After `TimedOut` the guest may be frozen nonetheless, or a moment later: thaw it.
    ///
    /// Takes up to `limit` for a sign of life and as much again for the freeze, in whole seconds;
    /// 30 s more if another program gets hold of the agent in between.
    ///
    /// # Errors
    /// `Lacking` where no agent is set up, none listens, or it gives no sign of life, `Refused` where
    /// the guest is in another session: nothing was frozen. `TimedOut` where it does not answer in
    /// time once it was told to freeze.
    pub fn freeze_guest(
        &self,
        guest: &GuestUuid,
        session: &Session,
        limit: Duration,
    ) -> Answer<()> {
        let agent = self.agent(guest, session, "frozen", limit)?;
        // Asked first because a freeze, unlike a question, must not be given up while libvirt may
        // still send it: it would come after our thaw.
        let asked =
            agent.is_frozen(limit).map_err(|problem| of_kind(problem, ProblemKind::Lacking));
        if asked? {
            return Ok(());
        }
        // An agent that goes away now may have frozen them.
        let failed = |error| of_kind(agent.failed("freeze", &error), ProblemKind::TimedOut);
        match agent.ask(FREEZE, limit).map_err(failed)? {
            0 => Err(Problem::lacking(format!(
                "the agent of guest '{}' found no file system to freeze",
                agent.name
            ))),
            _ => Ok(()),
        }
    }

    /// Thaws all file systems of a guest of this session, asking again until `limit` has passed,
    /// because an agent that hangs may wake. Answers whether they were frozen until now: if not,
    /// somebody else thawed them (Windows does after 10 s), or the guest rebooted, and what was
    /// captured since the freeze is not of a frozen guest.
    ///
    /// # Errors
    /// `Lacking` and `TimedOut` name the guest, which may still be frozen, and the remedy.
    pub fn thaw_guest(
        &self,
        guest: &GuestUuid,
        session: &Session,
        limit: Duration,
    ) -> Answer<bool> {
        let agent = self.agent(guest, session, "thawed", limit)?;
        let end = Instant::now() + limit;
        // A thaw whose answer did not come may have been done all the same.
        let mut was_frozen = false;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match agent.thaw(left, &mut was_frozen) {
                Err(problem) if may_pass(&problem) && left > ASK_AGAIN => {
                    thread::park_timeout(ASK_AGAIN);
                }
                answer => return answer.map_err(|problem| agent.left_frozen(problem)),
            }
        }
    }

    /// Whether the agent holds the file systems of a running guest of this session frozen.
    ///
    /// # Errors
    /// As for [`Self::freeze_guest`].
    pub fn is_guest_frozen(
        &self,
        guest: &GuestUuid,
        session: &Session,
        limit: Duration,
    ) -> Answer<bool> {
        self.agent(guest, session, "looked at", limit)?.is_frozen(limit)
    }

    fn agent(
        &self,
        guest: &GuestUuid,
        session: &Session,
        verb: &str,
        limit: Duration,
    ) -> Answer<Agent> {
        let domain = self.domain(guest)?;
        let name = name_of(&domain);
        match self.life(&domain)? {
            (GuestState::Running, Some(found)) if found == *session => {
                Ok(Agent { domain, name, limit })
            }
            found => Err(not_as_left(&name, &found, session, verb)),
        }
    }
}

/// The agent of a running guest.
struct Agent {
    domain: Domain,
    name: String,
    /// What the caller gives it, in all.
    limit: Duration,
}

impl Agent {
    /// Whether the agent holds the file systems frozen, as far as it knows.
    ///
    /// Asked on a thread of its own: where another program's call hangs, libvirt lets ours wait for
    /// 30 s, whatever the limit. An answer that comes too late changes nothing.
    fn is_frozen(&self, limit: Duration) -> Answer<bool> {
        let (sender, receiver) = mpsc::channel();
        let domain = self.domain.clone();
        thread::Builder::new()
            .name("agent".into())
            .spawn(move || {
                // Nobody listens if the caller gave up on us.
                let _ = sender.send(command(&domain, STATUS, limit));
            })
            .map_err(|error| Problem::io("cannot start a thread", error))?;
        // libvirt counts whole seconds and asks for a sign of life first, so it is given longer.
        let patience = Duration::from_secs(whole_seconds(limit).unsigned_abs().into()) * 2;
        let answer = receiver.recv_timeout(patience).map_err(|_| self.silent())?;
        let answer = answer.map_err(|error| self.failed("look at", &error))?;
        match answer.as_str() {
            Some("frozen") => Ok(true),
            Some("thawed") => Ok(false),
            _ => Err(Problem::failed(format!(
                "the agent of guest '{}' answers {answer} when asked whether it is frozen",
                self.name
            ))),
        }
    }

    /// One attempt at a thaw. Notes whether the file systems were frozen at any attempt.
    fn thaw(&self, limit: Duration, was_frozen: &mut bool) -> Answer<bool> {
        if !self.is_frozen(limit)? {
            return Ok(*was_frozen);
        }
        *was_frozen = true;
        match self.ask(THAW, limit) {
            Ok(thawed) => Ok(thawed > 0),
            Err(error) if is_silent(&error) || self.is_frozen(limit)? => {
                Err(self.failed("thaw", &error))
            }
            // The agent for Windows says so where VSS would not hold the writes any longer, and
            // counts itself as thawed then: qga/vss-win32/requester.cpp.
            Err(_) => Ok(false),
        }
    }

    /// Runs a command that answers with a number of file systems.
    fn ask(&self, name: &str, limit: Duration) -> Result<i64, Error> {
        Ok(command(&self.domain, name, limit)?.as_i64().unwrap_or_default())
    }

    fn failed(&self, verb: &str, error: &Error) -> Problem {
        let name = &self.name;
        if is_absent(error) {
            return Problem::lacking(format!("no guest agent listens in guest '{name}'"))
                .from(Said::from(error))
                .hint(SET_UP);
        }
        if is_silent(error) {
            return self.silent().from(Said::from(error));
        }
        problem(format!("cannot {verb} the file systems of guest '{name}'"), error)
    }

    fn silent(&self) -> Problem {
        let (name, limit) = (&self.name, shown(self.limit));
        let message = format!("the agent of guest '{name}' did not answer within {limit}");
        Problem::new(ProblemKind::TimedOut, message)
            .hint("see whether qemu-guest-agent works in the guest, and what its hooks do")
    }

    fn left_frozen(&self, mut problem: Problem) -> Problem {
        let name = &self.name;
        problem.message = format!("guest '{name}' may still be frozen: {}", problem.message);
        problem.hint(format!(
            "restart qemu-guest-agent in the guest and run 'virsh domfsthaw {name}', or \
             'fsfreeze --unfreeze' on each of its mount points; if neither can be done, reset it \
             with 'virsh reset {name}'"
        ))
    }
}

const SET_UP: &str = "install qemu-guest-agent in the guest and give it the channel \
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>";

/// Sends a command without arguments and returns its answer.
///
/// This call is used instead of `virDomainFSFreeze` because it carries a limit of its own, where
/// `virDomainAgentSetResponseTimeout` would change every other program's too and cannot be asked for
/// what it was. libvirt notes it in its log as "custom-ga-command".
fn command(domain: &Domain, name: &str, limit: Duration) -> Result<Value, Error> {
    let said = domain.qemu_agent_command(
        &format!(r#"{{"execute":"{name}"}}"#),
        whole_seconds(limit),
        0,
    )?;
    let answer: Value = serde_json::from_str(&said).unwrap_or_default();
    Ok(answer.get("return").cloned().unwrap_or_default())
}

/// A limit as libvirt wants it: 0 would mean not to wait at all.
fn whole_seconds(limit: Duration) -> i32 {
    i32::try_from(limit.as_millis().div_ceil(1000)).unwrap_or(i32::MAX).max(1)
}

/// No channel in the definition, nobody who listens at it, or nobody any more.
fn is_absent(error: &Error) -> bool {
    let message = error.message();
    error.code().is(ErrorNumber::ArgumentUnsupported)
        || is_silent(error)
            && ["not connected", "disappeared"].iter().any(|it| message.contains(it))
}

fn of_kind(mut problem: Problem, kind: ProblemKind) -> Problem {
    problem.kind = kind;
    problem
}

/// Whether the agent may answer when it is asked again: it hangs, or is being restarted.
fn may_pass(problem: &Problem) -> bool {
    matches!(problem.kind, ProblemKind::TimedOut | ProblemKind::Lacking)
}

fn is_silent(error: &Error) -> bool {
    use ErrorNumber as E;
    error.code().is_any(vec![E::AgentUnresponsive, E::AgentCommandTimeout, E::OperationTimeout])
}
