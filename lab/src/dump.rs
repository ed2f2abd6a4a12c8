//! Dumps of RAM that take as long as a test wants: libvirt dumps into a file as fast as it can, but
//! the speed of a dump that runs can be set.

use std::error::Error;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::guest::{Guest, Witness};
use crate::journal::Journal;
use crate::run::{RunError, Running, run};
use crate::scene::Scene;

/// How long it may take until a dump has begun.
const BEGIN: Duration = Duration::from_secs(90);

/// How long libvirt may take to pass a command on.
const TURN: Duration = Duration::from_secs(2);
/// How fast a dump may be that is not to end.
const DUMP_BYTES_PER_S: u64 = 8 << 20;

/// A witness that makes more of its memory dirty than a slowed dump can save, and has so much that a
/// dump does not come to its end before it is slowed.
#[must_use]
pub fn restless(witness: Witness) -> Witness {
    witness.memory_mib(512).fill_mib(384).dirty_mbps(1000)
}

/// Starts a capture of a restless guest and slows its dump down, so that it does not end.
///
/// # Errors
/// Where the dump cannot be caught in its middle.
pub fn endless(scene: &Scene, more: &[&str]) -> Result<Running, Box<dyn Error>> {
    // Else QEMU would believe that the rest can be saved while the guest stands still.
    scene.guest.virsh("migrate-setmaxdowntime", &["1"])?;
    let journal = Journal::of(&scene.world.vitrify)?;
    let arguments = [&["snapshot", "--json", scene.guest.name()], more].concat();
    let process = scene.world.vitrify.start(&arguments)?;
    let begun = |lines: &[String]| {
        lines.iter().any(|it| it.contains(r#""begun""#) && it.contains("external-snapshot"))
    };
    if !journal.reaches(&process, BEGIN, begun)? {
        return Err(format!("no dump: {:?}", process.finish(BEGIN)?).into());
    }
    let deadline = Instant::now() + BEGIN;
    loop {
        // libvirt sets the speed itself just before it begins, and tells nobody: the last one counts.
        slow_down(&scene.guest)?;
        if is_migrating(&scene.guest)? && slow_down(&scene.guest)? {
            return Ok(process);
        }
        if process.has_ended() || Instant::now() > deadline {
            return Err(format!("no dump was caught: {:?}", process.finish(BEGIN)?).into());
        }
    }
}

/// Whether QEMU was told.
fn slow_down(guest: &Guest) -> Result<bool, RunError> {
    let command = format!(
        r#"{{"execute":"migrate-set-parameters","arguments":{{"max-bandwidth":{DUMP_BYTES_PER_S}}}}}"#
    );
    Ok(ask_qemu(guest, &command)?.is_some())
}

fn is_migrating(guest: &Guest) -> Result<bool, Box<dyn Error>> {
    let Some(said) = ask_qemu(guest, r#"{"execute":"query-migrate"}"#)? else { return Ok(false) };
    let said: Value = serde_json::from_str(&said)?;
    Ok(said["return"]["status"] == "active")
}

/// What QEMU itself says; `None` where libvirt did not let us ask. While its snapshot job begins and
/// ends, libvirt sometimes forgets a command that waits its turn, until that gives up after 30 s
/// ("cannot acquire state change lock", held by nobody). A new one gets its turn at once.
fn ask_qemu(guest: &Guest, command: &str) -> Result<Option<String>, RunError> {
    let mut virsh = Command::new("virsh");
    virsh.args(["-q", "-c", "qemu:///system", "qemu-monitor-command", guest.name(), command]);
    match run(&mut virsh, TURN) {
        Ok(said) if said.status.success() => Ok(Some(said.stdout)),
        Ok(_) | Err(RunError::Limit { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Waits until a dump has saved so many bytes.
///
/// # Errors
/// Where it ends before.
pub fn saved(guest: &Guest, process: &Running, bytes: u64) -> Result<(), Box<dyn Error>> {
    let deadline = Instant::now() + BEGIN;
    while Instant::now() < deadline && !process.has_ended() {
        // libvirt tells nobody how far it is: it has to be asked, and takes its time to answer.
        if data_processed(guest).is_some_and(|it| it >= bytes) {
            return Ok(());
        }
    }
    let info = guest.virsh("domjobinfo", &["--rawstats"]);
    let ended = process.has_ended();
    Err(format!("the dump did not come to {bytes} bytes; ended: {ended}; {info:?}").into())
}

/// `None` while nothing is dumped, or where libvirt does not say.
fn data_processed(guest: &Guest) -> Option<u64> {
    let info = guest.virsh("domjobinfo", &["--rawstats"]).ok()?;
    let line = info.lines().find_map(|line| line.trim().strip_prefix("data_processed: "))?;
    line.trim().parse().ok()
}

/// Whether libvirt is at work on the guest as a whole.
///
/// # Errors
/// What libvirt says.
pub fn has_job(guest: &Guest) -> Result<bool, Box<dyn Error>> {
    Ok(!guest.virsh("domjobinfo", &[])?.contains("None"))
}
