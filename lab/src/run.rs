//! The lab's one way to run a program: bounded in time, in the C locale, with what it printed kept.

use std::io::{self, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// How long an ordinary program may take.
pub const LIMIT: Duration = Duration::from_secs(60);

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
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |source| RunError::Start { program: program.clone(), source };
    command.env("LC_ALL", "C").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let in_time = ended_within(&child, limit).map_err(failed)?;
    if !in_time && let Some(group) = pid_of(&child) {
        // It may have ended this very moment; then there is no group any more.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let status = child.wait().map_err(failed)?;
    let [stdout, stderr] = [stdout, stderr].map(|reader| reader.join().unwrap_or_default());
    if in_time {
        Ok(Finished { status, stdout, stderr })
    } else {
        Err(RunError::Limit { command: words(command), limit, stderr })
    }
}

fn pid_of(child: &Child) -> Option<Pid> {
    Pid::from_raw(child.id().cast_signed())
}

fn ended_within(child: &Child, limit: Duration) -> io::Result<bool> {
    let Some(pid) = pid_of(child) else { return Ok(true) };
    let handle = pidfd_open(pid, PidfdFlags::empty())?;
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    let ready = poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&limit))?;
    Ok(ready > 0)
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
