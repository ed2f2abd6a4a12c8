//! Starts other programs. The one place that does: no shell, no terminal, no locale, and a limit on
//! the time and on the output of each.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use vitrify_core::ports::Answer;
use vitrify_core::problem::{Problem, ProblemKind};

/// How long a program may run where nobody says otherwise.
const DEFAULT_LIMIT: Duration = Duration::from_secs(60);
/// How many bytes of standard output, and of standard error, are kept where nobody says otherwise.
const OUTPUT_BOUND: u64 = 16 << 20;
/// How long a killed program and its pipes may take to go away.
const GRACE: Duration = Duration::from_secs(5);
/// How many of the last lines of standard error a problem carries.
const TOLD_LINES: usize = 5;

/// Which Debian package brings a program that we start.
const PACKAGES: [(&str, &str); 5] = [
    ("btrfs", "btrfs-progs"),
    ("qemu-img", "qemu-utils"),
    ("zfs", "zfsutils-linux"),
    ("zpool", "zfsutils-linux"),
    ("apparmor_parser", "apparmor"),
];

/// Starts a program that goes on beside us and may outlive us, with this as its standard input;
/// `scoped`, in a scope of systemd's of its own, so that it is not stopped with our service.
///
/// # Errors
/// What the system says.
pub(crate) fn leave_running(
    program: &Path,
    args: &[&str],
    stdin: OwnedFd,
    scoped: bool,
) -> io::Result<()> {
    let mut command = match scoped {
        true => {
            let mut command = std::process::Command::new("systemd-run");
            command.args(["--scope", "--quiet", "--collect", "--"]).arg(program);
            command
        }
        false => std::process::Command::new(program),
    };
    command.args(args).stdin(stdin).stdout(Stdio::null()).spawn().map(drop)
}

/// A program with its arguments, to be started by [`Command::run`].
#[derive(Debug, Clone)]
pub struct Command {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    limit: Option<Duration>,
    output_bound: u64,
}

/// What a program that succeeded wrote to its standard output: all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The bytes.
    pub stdout: Vec<u8>,
}

/// How a program ended that may fail in a way that its caller understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Whether it ended with success.
    pub(crate) success: bool,
    /// What it wrote to its standard output.
    pub(crate) output: Output,
    /// What it wrote to its standard error.
    pub(crate) complaints: String,
}

impl Output {
    /// The output as text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Command {
    /// A command line of an administrator's, for a shell, with these variables and our environment.
    pub(crate) fn shell(line: &str, variables: &[(&'static str, String)]) -> Self {
        let env = variables.iter().map(|(key, value)| (key.into(), value.into())).collect();
        Self { env, ..Self::new("sh").args(["-c", line]) }
    }

    /// A program, looked up in `PATH`.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: vec![("LC_ALL".into(), "C".into())],
            limit: Some(DEFAULT_LIMIT),
            output_bound: OUTPUT_BOUND,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// How long it may run, 60 s unless set; `None`: as long as it likes.
    #[must_use]
    pub fn limit(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.limit = limit.into();
        self
    }

    /// How many bytes it may write to its standard output, 16 MiB unless set.
    #[must_use]
    pub(crate) fn output_bound(mut self, bytes: u64) -> Self {
        self.output_bound = bytes;
        self
    }

    /// Runs it to its end in a process group of its own, so that Ctrl-C at our terminal does not
    /// reach it, with `LC_ALL=C` and no standard input.
    ///
    /// # Errors
    /// `Lacking` where there is no such program, `TimedOut` where it had to be killed (with its
    /// whole group) at the limit, `Failed` with the last lines of its standard error where it ended
    /// otherwise than with success. A killed program that hangs in the kernel is left behind.
    pub fn run(&self) -> Answer<Output> {
        let (status, output, err) = self.in_time()?;
        if status.success() { Ok(output) } else { Err(self.failure(status, &err)) }
    }

    /// The same, but a program that ends without success is an answer, not an error.
    pub(crate) fn end(&self) -> Answer<Ended> {
        let (status, output, err) = self.in_time()?;
        let complaints = String::from_utf8_lossy(&err).into_owned();
        Ok(Ended { success: status.success(), output, complaints })
    }

    fn in_time(&self) -> Answer<(ExitStatus, Output, Vec<u8>)> {
        let (status, stdout, err) = self.finish()?;
        let Some(status) = status else {
            let limit = self.limit.unwrap_or_default().as_secs_f64();
            let message = format!("'{self}' did not end within {limit} s");
            return Err(Problem::new(ProblemKind::TimedOut, message));
        };
        if status.success() && stdout.len() as u64 > self.output_bound {
            let bound = self.output_bound >> 20;
            return Err(Problem::failed(format!("'{self}' wrote more than {bound} MiB")));
        }
        Ok((status, Output { stdout }, err))
    }

    /// Runs it to its end, or to its limit (`None`), with what it wrote till then.
    pub(crate) fn finish(&self) -> Answer<(Option<ExitStatus>, Vec<u8>, Vec<u8>)> {
        let deadline = self.limit.map(|limit| Instant::now() + limit);
        let mut child = self.spawn()?;
        let stdout = child.stdout.take().map(|pipe| collect(pipe, self.output_bound));
        let stderr = child.stderr.take().map(|pipe| collect(pipe, OUTPUT_BOUND));
        let status = self.wait(child, deadline)?;
        Ok((status, received(stdout), received(stderr)))
    }

    fn spawn(&self) -> Answer<Child> {
        std::process::Command::new(&self.program)
            .args(&self.args)
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| self.not_started(error))
    }

    fn not_started(&self, error: io::Error) -> Problem {
        let program = self.program.to_string_lossy();
        if error.kind() != io::ErrorKind::NotFound {
            return Problem::io(format!("cannot start '{program}'"), error)
                .hint(format!("find out why it cannot be executed: 'type -a {program}'"));
        }
        let package = PACKAGES.iter().find(|(name, _)| *name == program);
        let hint = match package {
            Some((_, package)) => format!("on Debian: apt install {package}"),
            None => "install it, or put it into PATH".into(),
        };
        Problem::lacking(format!("the program '{program}' is not installed")).hint(hint)
    }

    fn wait(&self, mut child: Child, deadline: Option<Instant>) -> Answer<Option<ExitStatus>> {
        let reap = |child: &mut Child| {
            child.wait().map_err(|error| Problem::io(format!("cannot wait for '{self}'"), error))
        };
        let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else {
            return reap(&mut child).map(Some);
        };
        // The child stays a zombie until we reap it, so that its group's number is not reused
        // before the kill.
        let (ended, end) = channel();
        thread::spawn(move || {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(pid), options) {}
            // Nobody listens any more where the child outlived its kill.
            ended.send(()).ok();
        });
        let has_ended = match deadline {
            Some(deadline) => {
                end.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok()
            }
            None => end.recv().is_ok(),
        };
        if has_ended {
            return reap(&mut child).map(Some);
        }
        kill_process_group(pid, Signal::KILL).ok();
        if end.recv_timeout(GRACE).is_ok() {
            reap(&mut child)?;
        }
        Ok(None)
    }

    fn failure(&self, status: ExitStatus, stderr: &[u8]) -> Problem {
        let text = String::from_utf8_lossy(stderr);
        let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let said = lines[lines.len().saturating_sub(TOLD_LINES)..].join("; ");
        let kind = if said.contains("No space left on device") || said.contains("quota exceeded") {
            ProblemKind::NoSpace
        } else {
            ProblemKind::Failed
        };
        let said = if said.is_empty() { status.to_string() } else { said };
        Problem::new(kind, format!("'{self}' failed: {said}"))
    }
}

/// The command line, for messages. Not meant for a shell.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.program.to_string_lossy())?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", arg.to_string_lossy()))
    }
}

/// Reads a pipe to its end in a thread; keeps one byte more than the bound, to tell that there was
/// more, and drops the rest.
fn collect(mut pipe: impl Read + Send + 'static, bound: u64) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut kept = Vec::new();
        // A pipe that breaks is a pipe that ends.
        pipe.by_ref().take(bound + 1).read_to_end(&mut kept).ok();
        io::copy(&mut pipe, &mut io::sink()).ok();
        sender.send(kept).ok();
    });
    receiver
}

/// What was read; nothing where somebody else still holds the pipe after the program's end.
fn received(pipe: Option<Receiver<Vec<u8>>>) -> Vec<u8> {
    pipe.and_then(|pipe| pipe.recv_timeout(GRACE).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_locale() {
        let output = Command::new("printenv").arg("LC_ALL").run().unwrap();
        assert_eq!(output.text(), "C\n");
    }

    #[test]
    fn failures_carry_the_command_and_its_last_words() {
        let problem = Command::new("ls").args(["/no/such/folder"]).run().unwrap_err();
        assert_eq!(problem.kind, ProblemKind::Failed);
        assert!(problem.message.starts_with("'ls /no/such/folder' failed: "), "{problem}");
        assert!(problem.message.contains("No such file or directory"), "{problem}");
        let silent = Command::new("false").run().unwrap_err();
        assert!(silent.message.ends_with("exit status: 1"), "{silent}");
    }

    #[test]
    fn an_absent_program_is_lacking() {
        let problem = Command::new("vitrify-no-such-program").run().unwrap_err();
        assert_eq!(problem.kind, ProblemKind::Lacking);
        assert!(problem.hint.is_some());
    }

    #[test]
    fn the_limit_ends_the_whole_group() {
        let begun = Instant::now();
        let limit = Duration::from_millis(50);
        let problem = Command::new("sleep").arg("60").limit(limit).run().unwrap_err();
        assert_eq!(problem.kind, ProblemKind::TimedOut);
        assert!(problem.message.contains("'sleep 60'"), "{problem}");
        assert!(begun.elapsed() < Duration::from_secs(30));
        // `timeout` would leave its own child behind; a group leaves nobody to hold the pipe.
        let begun = Instant::now();
        let command = Command::new("env").args(["nice", "sleep", "60"]).limit(limit);
        assert_eq!(command.run().unwrap_err().kind, ProblemKind::TimedOut);
        assert!(begun.elapsed() < GRACE);
    }

    #[test]
    fn more_output_than_a_pipe_holds() {
        let output = Command::new("seq").arg("200000").run().unwrap();
        assert!(output.text().ends_with("200000\n"));
        let endless = Command::new("head").args(["-c", "20M", "/dev/zero"]).run().unwrap_err();
        assert!(endless.message.contains("more than 16 MiB"), "{endless}");
        let command = Command::new("head").args(["-c", "20M", "/dev/zero"]).output_bound(20 << 20);
        assert_eq!(command.run().unwrap().stdout.len(), 20 << 20);
    }
}
