//! The operation of a round, with its trouble in the middle.

use std::error::Error;
use std::fs;
use std::time::Duration;

use rustix::process::Signal as Number;

use super::Story;
use super::round::{Hand, Moment, Operation, Place, Round, Signal, Trouble};
use super::stage::Stage;
use crate::journal::Journal;
use crate::run::{Finished, RunError, Running, must, virsh};

/// How long an operation may take, its guard's end included.
const LIMIT: Duration = Duration::from_secs(600);

/// In what state somebody else may have left the guest.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Excuse {
    pub(super) paused: bool,
    pub(super) off: bool,
    /// QEMU itself suspends a guest that cannot write.
    pub(super) has_no_room: bool,
}

/// Carries out the operation and its trouble.
pub(super) fn with_trouble(
    stage: &mut Stage,
    round: &Round,
    story: &mut Story,
) -> Result<Excuse, Box<dyn Error>> {
    let words = arguments(stage, round.operation);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let journal = Journal::of(&stage.scene.world.vitrify)?;
    let process = stage.scene.world.vitrify.start(&words)?;
    let moment = match round.trouble {
        Trouble::Signal(_, moment) | Trouble::Hand(_, moment) | Trouble::Full(_, _, moment) => {
            Some(moment)
        }
        Trouble::Nothing => None,
    };
    let in_time = match moment {
        Some(moment) => comes(moment, stage, &journal, &process)?,
        None => false,
    };
    let (mut excuse, mut full) = (Excuse::default(), None);
    match round.trouble {
        Trouble::Signal(signal, _) if in_time => send(signal, &process)?,
        Trouble::Hand(hand, _) if in_time => {
            let said = lay_on(hand, stage)?;
            excuse.paused = hand == Hand::Suspend;
            excuse.off = matches!(hand, Hand::Destroy | Hand::Shutdown | Hand::KillQemu);
            story.tell(format!("the other hand: {said}"));
        }
        Trouble::Full(place, left_mib, _) if in_time => {
            full = Some(stage.pool().fill(left_mib)?);
            excuse.has_no_room = place == Place::Pool;
        }
        _ => {}
    }
    let finished = process.finish(LIMIT)?;
    drop(full);
    let late = moment.is_some() && !in_time;
    let when = if late { " before its trouble came" } else { "" };
    story.tell(format!("it ended{when} ({})", finished.status));
    story.detail(&finished.stderr);
    may_end_so(&finished, round, in_time)?;
    Ok(excuse)
}

fn arguments(stage: &Stage, operation: Operation) -> Vec<String> {
    let guest = stage.scene.guest.name();
    let words = match operation {
        Operation::Snapshot(engine) => vec!["snapshot", "--engine", engine.name(), guest],
        Operation::Restore { point, cold, safety } => {
            let known = &stage.known[point];
            let at = stage.scene.at(&known.name);
            let mut words =
                vec!["restore".to_owned(), "--force".to_owned(), "--yes".to_owned(), at];
            words.extend((cold || !known.has_memory).then(|| "--cold".to_owned()));
            words.extend((!safety).then(|| "--no-safety-point".to_owned()));
            return words;
        }
    };
    words.into_iter().map(str::to_owned).collect()
}

/// Waits for the moment; false if the operation has ended before.
fn comes(
    moment: Moment,
    stage: &Stage,
    journal: &Journal,
    process: &Running,
) -> Result<bool, Box<dyn Error>> {
    Ok(match moment {
        Moment::Share(thousandths) => {
            !process.ends_within(stage.capture_time * thousandths / 1000)?
        }
        Moment::Record(records) => journal.reaches(process, LIMIT, |now| now.len() >= records)?,
    })
}

fn send(signal: Signal, process: &Running) -> Result<(), Box<dyn Error>> {
    match signal {
        Signal::Kill => process.signal(Number::KILL),
        Signal::Terminate => process.signal(Number::TERM),
        Signal::Interrupt => process.signal(Number::INT),
        Signal::KillWithGuard => {
            process.signal(Number::STOP);
            let parent = process.id().to_string();
            // There are no children where this fails.
            let children = must("ps", &["--ppid", &parent, "-o", "pid=,args="]).unwrap_or_default();
            for guard in children.lines().filter(|it| it.contains(" guard ")) {
                let id = guard.split_whitespace().next().unwrap_or_default();
                must("kill", &["-KILL", id])?;
            }
            process.signal(Number::KILL);
        }
    }
    Ok(())
}

/// Does what somebody else does, who may be refused. Answers with what came of it.
fn lay_on(hand: Hand, stage: &Stage) -> Result<String, Box<dyn Error>> {
    let guest = &stage.scene.guest;
    let said = match hand {
        Hand::Suspend => guest.virsh("suspend", &[]),
        Hand::Resume => guest.virsh("resume", &[]),
        Hand::Destroy => guest.virsh("destroy", &[]),
        Hand::Reset => guest.virsh("reset", &[]),
        Hand::Reboot => guest.virsh("reboot", &["--mode", "acpi"]),
        Hand::Shutdown => guest.virsh("shutdown", &["--mode", "acpi"]),
        Hand::KillQemu => kill_qemu(guest.name()),
        Hand::RestartLibvirt => must("systemctl", &["restart", "libvirtd"]),
        Hand::Repair => {
            let said = stage.scene.world.vitrify.run(&["repair"])?;
            return match said.code {
                Some(0 | 75) => Ok(format!("repair ended with {:?}", said.code)),
                _ => Err(format!("another's repair: {said:?}").into()),
            };
        }
    };
    Ok(said.map_or_else(|error| error.to_string(), |_| "done".to_owned()))
}

/// There may be none at this moment. Ends when libvirt has seen it: until then it calls the guest running.
fn kill_qemu(guest: &str) -> Result<String, RunError> {
    let file = format!("/run/libvirt/qemu/{guest}.pid");
    let Ok(id) = fs::read_to_string(&file) else { return Ok(String::new()) };
    let said = must("kill", &["-KILL", id.trim()])?;
    while fs::read_to_string(&file).is_ok_and(|now| now == id) {
        virsh(&["domstate", guest])?;
    }
    Ok(said)
}

fn may_end_so(finished: &Finished, round: &Round, may_fail: bool) -> Result<(), Box<dyn Error>> {
    let may_die = matches!(round.trouble, Trouble::Signal(..));
    match finished.status.code() {
        Some(0) => Ok(()),
        Some(1 | 3 | 4) if may_fail => Ok(()),
        None if may_fail && may_die => Ok(()),
        _ => Err(format!("it should not end so: {finished:?}").into()),
    }
}
