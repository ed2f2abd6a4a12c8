//! The lab's one way to run a program: bounded in time, in the C locale, with what it printed kept.

use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};

/// How long an ordinary program may take. In the emulated ZFS machine libvirt was seen to take more
/// than a minute to start a guest under AppArmor.
pub const LIMIT: Duration = Duration::from_secs(180);

/// A program that has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed as its result.
    pub stdout: String,
    /// What it said beside that.
    pub stderr: String,
}

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It is not installed, or the machine has no room for it.
    #[error("cannot run {program}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It was killed because it took too long.
    #[error("{command} did not end within {limit:?} and was killed; it said: {stderr}")]
    Limit {
        /// The program and its arguments.
        command: String,
        /// What it was allowed.
        limit: Duration,
        /// What it had said until then.
        stderr: String,
    },
    /// It said no.
    #[error("{command} failed ({status}): {stderr}")]
    Failed {
        /// The program and its arguments.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// Its own words.
        stderr: String,
    },
}

/// Runs a program that must succeed and returns what it printed, without the last newline.
///
/// # Errors
/// [`RunError`]; an exit status other than 0 is [`RunError::Failed`].
pub fn must(program: &str, arguments: &[&str]) -> Result<String, RunError> {
    let mut command = Command::new(program);
    command.args(arguments);
    let finished = run(&mut command, LIMIT)?;
    if finished.status.success() {
        return Ok(finished.stdout.trim_end().to_owned());
    }
    let stderr = finished.stderr.trim_end().to_owned();
    Err(RunError::Failed { command: words(&command), status: finished.status, stderr })
}

/// Runs `virsh` on the system's libvirt; it must succeed.
///
/// # Errors
/// As [`must`].
pub fn virsh(arguments: &[&str]) -> Result<String, RunError> {
    must("virsh", &[&["-q", "-c", "qemu:///system"], arguments].concat())
}

/// Runs a program to its end, whatever that is. After `limit` it and its children are killed.
///
/// # Errors
/// [`RunError::Start`] and [`RunError::Limit`].
pub fn run(command: &mut Command, limit: Duration) -> Result<Finished, RunError> {
    Running::start(command)?.finish(limit)
}

/// A program that runs. Dropped before its end was awaited, it is killed with its children.
#[derive(Debug)]
pub struct Running {
    words: String,
    program: String,
    child: Child,
    /// Readable once it has ended.
    end: OwnedFd,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    /// Starts a program, in a process group of its own.
    ///
    /// # Errors
    /// [`RunError::Start`].
    pub fn start(command: &mut Command) -> Result<Self, RunError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let failed = |source| RunError::Start { program: program.clone(), source };
        command.env("LC_ALL", "C").process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let end = pidfd_open(pid_of(&child), PidfdFlags::empty());
        let end = end.map_err(|error| failed(error.into()))?;
        let stdout = Some(collect(child.stdout.take()));
        let stderr = Some(collect(child.stderr.take()));
        Ok(Self { words: words(command), program, child, end, stdout, stderr })
    }

    /// Sends it a signal; it alone, not its children. One that has ended hears nothing.
    pub fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.end, signal);
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ends_within(Duration::ZERO).unwrap_or(false)
    }

    /// Waits for its end, but no longer than that; it goes on.
    ///
    /// # Errors
    /// What the system says.
    pub fn ends_within(&self, limit: Duration) -> io::Result<bool> {
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        Ok(poll(&mut [self.ends()], Some(&limit))? > 0)
    }

    /// The most memory that it had resident until now, in bytes; 0 once it has ended.
    #[must_use]
    pub fn peak_resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|it| it.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kib.map_or(0, |kib| kib << 10)
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What becomes readable when it ends.
    pub(crate) fn ends(&self) -> PollFd<'_> {
        PollFd::new(&self.end, PollFlags::IN)
    }

    /// Waits for its end, whatever that is. After `limit` it and its children are killed.
    ///
    /// # Errors
    /// [`RunError::Limit`].
    pub fn finish(mut self, limit: Duration) -> Result<Finished, RunError> {
        let in_time = self.ends_within(limit).map_err(|source| self.failed(source))?;
        if !in_time {
            self.kill();
        }
        let status = self.child.wait().map_err(|source| self.failed(source))?;
        let [stdout, stderr] = [self.stdout.take(), self.stderr.take()]
            .map(|reader| reader.and_then(|reader| reader.join().ok()).unwrap_or_default());
        if in_time {
            Ok(Finished { status, stdout, stderr })
        } else {
            Err(RunError::Limit { command: self.words.clone(), limit, stderr })
        }
    }

    fn failed(&self, source: io::Error) -> RunError {
        RunError::Start { program: self.program.clone(), source }
    }

    fn kill(&self) {
        // It may have ended this very moment; then there is no group any more.
        let _ = kill_process_group(pid_of(&self.child), Signal::KILL);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.stdout.is_some() {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is still worth telling.
        let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Result<Finished, RunError> {
        run(Command::new("sh").args(["-c", script]), limit)
    }

    #[test]
    fn what_a_program_said_and_how_it_ended_is_kept() -> Result<(), RunError> {
        let finished = shell("echo out; echo err >&2; exit 3", LIMIT)?;
        assert_eq!(finished.stdout, "out\n");
        assert_eq!(finished.stderr, "err\n");
        assert_eq!(finished.status.code(), Some(3));
        Ok(())
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_its_children() {
        let error = shell("echo stuck >&2; sleep 1000 & sleep 1000", Duration::from_millis(300));
        let Err(RunError::Limit { stderr, .. }) = error else { panic!("{error:?}") };
        assert_eq!(stderr, "stuck\n");
    }

    #[test]
    fn a_program_that_says_no_is_an_error_with_its_words() {
        let error = must("false", &[]).map_err(|error| error.to_string());
        assert_eq!(error, Err("false failed (exit status: 1): ".to_owned()));
    }
}
