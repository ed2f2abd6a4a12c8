//! What an administrator does after the trouble: one repair, starting what somebody else stopped, a
//! restore, a plain start. Each must go well.

use std::error::Error;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use witness::line::From;

use super::Story;
use super::perform::Excuse;
use super::round::{Decision, Round};
use super::stage::Stage;
use crate::journal::Journal;
use crate::scene::{BOOT, SOON};
use crate::serial::Ready;
use crate::trace::{difference, everything};
use crate::vitrify::Outcome;

const LIMIT: Duration = Duration::from_secs(600);

type Done = Result<(), Box<dyn Error>>;

/// One repair is enough, or where it leaves an overlay to a person, it and what that person decides.
/// A second has nothing to do, and changes nothing.
pub(super) fn repair(stage: &mut Stage, round: &Round, story: &mut Story) -> Done {
    if let Some(records) = round.repair_killed {
        let journal = Journal::of(&stage.scene.world.vitrify)?;
        let had = journal.lines()?.len();
        let process = stage.scene.world.vitrify.start(&["repair"])?;
        if journal.reaches(&process, LIMIT, |now| now.len() >= had + records)? {
            process.signal(Signal::KILL);
            story.tell("a repair was killed");
        }
        process.finish(LIMIT)?;
    }
    let said = stage.scene.world.vitrify.run(&["repair"])?;
    tell(story, "repair", &said);
    match said.code {
        Some(0) => {}
        Some(3) if stage.scene.guest.state()? == "shut off" => decide(stage, round, story)?,
        _ => return Err(format!("repair ended with {:?}", said.code).into()),
    }
    let settled = everything(&stage.scene.world, &stage.scene.guest)?;
    let again = stage.scene.vitrify(0, &["repair", stage.scene.guest.name()])?;
    // It goes on naming what is somebody else's.
    let does_nothing = again.stdout.lines().all(|line| line.starts_with("left alone: "));
    if !(does_nothing && again.stderr.is_empty()) {
        return Err(format!("a second repair did something: {again:?}").into());
    }
    let after = everything(&stage.scene.world, &stage.scene.guest)?;
    let changed = difference(&settled, &after);
    if !changed.is_empty() {
        return Err(format!("a second repair changed something:\n{changed}").into());
    }
    Ok(())
}

/// What is written on an overlay of a guest that is off is kept, or not. Not once a part of it was
/// committed already.
fn decide(stage: &Stage, round: &Round, story: &mut Story) -> Done {
    let name = stage.scene.guest.name();
    if round.decision == Decision::Discard {
        let said = stage.scene.world.vitrify.run(&["repair", name, "--discard", "--yes"])?;
        tell(story, "repair --discard", &said);
        match said.code {
            Some(0) => return Ok(()),
            Some(3) => {}
            code => return Err(format!("repair --discard ended with {code:?}").into()),
        }
    }
    let said = stage.scene.vitrify(0, &["repair", name, "--commit"])?;
    tell(story, "repair --commit", &said);
    Ok(())
}

fn tell(story: &mut Story, what: &str, said: &Outcome) {
    let result = said.stdout.lines().collect::<Vec<_>>().join(" | ");
    if said.code != Some(0) || !result.is_empty() {
        story.tell(format!("{what} ended with {:?}: {result}", said.code));
    }
    story.detail(&said.stderr);
}

/// The guest runs. Where somebody else suspended it or switched it off, it is an administrator who
/// lets it go on; where it lacked room to write, too.
pub(super) fn bring_up(stage: &mut Stage, excuse: Excuse, story: &mut Story) -> Done {
    let state = stage.scene.guest.virsh("domstate", &["--reason"])?;
    match state.split(' ').next().unwrap_or_default() {
        "running" => return Ok(()),
        "paused" if excuse.paused => stage.scene.guest.resume()?,
        "paused" if excuse.has_no_room && state.contains("I/O error") => {
            stage.scene.guest.resume()?;
        }
        "shut" if excuse.off => start_cold(stage).map(drop)?,
        _ => return Err(format!("the guest was left {state}").into()),
    }
    story.tell(format!("the guest was {state}"));
    Ok(())
}

/// It boots from what is on its disks, and finds them of one instant.
fn start_cold(stage: &mut Stage) -> Result<Ready, Box<dyn Error>> {
    stage.scene.guest.serial.skip_to_end()?;
    stage.scene.guest.start()?;
    is_cold(stage)
}

fn is_cold(stage: &mut Stage) -> Result<Ready, Box<dyn Error>> {
    let ready = stage.scene.guest.serial.ready(BOOT)?;
    match (ready.from, ready.disks == stage.disks) {
        (From::Cold, true) => Ok(ready),
        _ => Err(format!("it did not find its {} disks: {ready:?}", stage.disks).into()),
    }
}

/// Every point's memory is what it was, and the drawn one can be had back.
pub(super) fn restore_one(
    stage: &mut Stage,
    round: &Round,
    excuse: Excuse,
    story: &mut Story,
) -> Done {
    let points = stage.known.len();
    let point = stage.known[points - 1 - round.restored % points].clone();
    stage.scene.vitrify(0, &["verify", stage.scene.guest.name()])?;
    let is_cold_one = round.restored_cold || !point.has_memory;
    let at = stage.scene.at(&point.name);
    let mut words = vec!["restore", "--force", "--no-safety-point", "--yes", &at];
    words.extend(is_cold_one.then_some("--cold"));
    stage.scene.guest.serial.skip_to_end()?;
    let began = Instant::now();
    stage.scene.vitrify(0, &words)?;
    story.tell(format!("{points} points"));
    let back = if !is_cold_one {
        bring_up(stage, Excuse { off: false, ..excuse }, story)?;
        // All that is said from here on is of the restored guest.
        stage.scene.guest.serial.skip_to_end()?;
        let status = stage.scene.guest.serial.count_reaches(0, SOON)?;
        point.is_continued_by(Some(status.boot), status.count, began.elapsed())
    } else {
        let ready = match stage.scene.guest.state()?.as_str() {
            // As it was when it was captured.
            "shut off" if point.was_off => start_cold(stage)?,
            _ => {
                bring_up(stage, excuse, story)?;
                is_cold(stage)?
            }
        };
        point.is_continued_by(None, ready.count, Duration::ZERO)
    };
    back.map_err(|error| format!("{at}: {error}").into())
}

/// Without us.
pub(super) fn start_plainly(stage: &mut Stage) -> Done {
    stage.scene.guest.destroy()?;
    start_cold(stage).map(drop)
}
