//! The guest agent: QEMU's own program as a child, and the ways in which it is made to fail.

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use witness::params::Agent;

use crate::Fatal;
use crate::console::Console;
use crate::files::Files;
use crate::machine::attempt;

const PROGRAM: &str = "/usr/sbin/qemu-ga";
/// The channel's name, as libvirt and every distribution know it.
const CHANNEL: &str = "org.qemu.guest_agent.0";
/// Where the agent keeps what it must know after a restart.
const STATE: &str = "/run";
/// Is there from just before a freeze until the thaw.
const FROZEN: &str = "/run/qga.state.isfrozen";
/// How often the agent is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long a slow freeze takes. Longer than libvirt waits for a sign of life, 5 s.
const SLOW: Duration = Duration::from_secs(12);

/// Starts the agent, and the thread that watches over it, unless there shall be none.
pub(crate) fn start(console: &Console, mode: Agent, files: Files) -> Result<(), Fatal> {
    if mode == Agent::Absent {
        return Ok(());
    }
    attempt(format!("make {STATE}"), fs::create_dir_all(STATE))?;
    let child = spawn(mode)?;
    console.note("agent", "started");
    let console = console.clone();
    let watch = move || {
        if let Err(reason) = live(&console, mode, &files, child) {
            console.note("agent", &reason.to_string());
        }
    };
    attempt("start a thread", thread::Builder::new().spawn(watch))?;
    Ok(())
}

/// What the program does when the agent calls it as its hook: a freeze that takes long.
pub(crate) fn hook() {
    if std::env::args().nth(1).as_deref() == Some("freeze") {
        thread::sleep(SLOW);
    }
}

fn live(console: &Console, mode: Agent, files: &Files, mut child: Child) -> Result<(), Fatal> {
    let pid = Pid::from_child(&child);
    let signal = |signal| attempt("signal the agent", kill_process(pid, signal));
    match mode {
        Agent::Absent | Agent::Works | Agent::Slow => {}
        Agent::Hangs => {
            until(|| has_opened_port(pid));
            signal(Signal::STOP)?;
            console.note("agent", "stopped");
        }
        Agent::HangsFrozen => {
            until(|| is_frozen(files));
            signal(Signal::STOP)?;
            console.note("agent", "stopped");
        }
        Agent::DiesFrozen | Agent::RestartsFrozen => {
            until(|| is_frozen(files));
            signal(Signal::KILL)?;
            attempt("wait for the agent", child.wait())?;
            console.note("agent", "killed");
            if mode == Agent::RestartsFrozen {
                child = spawn(mode)?;
                console.note("agent", "restarted");
            }
        }
    }
    let status = attempt("wait for the agent", child.wait())?;
    console.note("agent", &format!("ended-{}", status.into_raw()));
    Ok(())
}

fn spawn(mode: Agent) -> Result<Child, Fatal> {
    let port = attempt(format!("find the port {CHANNEL}"), port())?;
    let mut command = Command::new(PROGRAM);
    command.args(["--method", "virtio-serial", "--statedir", STATE, "--path"]).arg(port);
    if mode == Agent::Slow {
        command.arg("--fsfreeze-hook=/init");
    }
    attempt(format!("run {PROGRAM}"), command.spawn())
}

/// The device of the agent's channel. No udev is here to name it.
fn port() -> io::Result<PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("name"))?.trim() == CHANNEL {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

fn has_opened_port(pid: Pid) -> bool {
    let open = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()));
    let mut open =
        open.into_iter().flatten().flatten().filter_map(|it| fs::read_link(it.path()).ok());
    open.any(|file| file.starts_with("/dev") && file.to_string_lossy().contains("vport"))
}

/// Whether the agent has frozen the file system, and not only begun to.
fn is_frozen(files: &Files) -> bool {
    Path::new(FROZEN).exists() && files.is_stuck()
}

fn until(condition: impl Fn() -> bool) {
    while !condition() {
        thread::sleep(LOOK_AGAIN);
    }
}
