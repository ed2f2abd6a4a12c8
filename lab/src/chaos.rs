//! Chaos: a random guest, random points of it, an operation with random trouble in its middle, then
//! at most one `vitrify repair`, and all must be well.
//!
//! A [`Round`] is drawn as pure data; [`play`] plays it in a world of its own. What trouble meets is
//! as random as the machine's timing; everything else follows from seed and number.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

mod invariants;
mod operators;
mod perform;
mod round;
mod stage;

pub use round::{Ground, Round};
use stage::Stage;

/// A round that did not end as it must.
#[derive(Debug)]
pub struct Broken {
    /// What is wrong.
    pub error: Box<dyn Error>,
    /// What had been done until then, a line each.
    pub story: String,
    /// Where it happened, if there was a place by then.
    stage: Option<Stage>,
}

impl Broken {
    /// Keeps its world for a person to look at. What is there, in lines; `None` if there is nothing.
    ///
    /// # Errors
    /// What the file system says.
    pub fn keep(self) -> io::Result<Option<String>> {
        let Some(stage) = self.stage else { return Ok(None) };
        let vitrify = &stage.scene.world.vitrify;
        let mut text = format!(
            "guest    {}\npool     {}\nvitrify  {} --config {} --state {}\n",
            stage.scene.guest.name(),
            stage.scene.world.pool.path().display(),
            vitrify.program().display(),
            vitrify.config().display(),
            vitrify.state().display(),
        );
        let mark: PathBuf = stage.keep()?;
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "kept until {} is removed and the lab's next program runs",
            mark.display()
        );
        Ok(Some(text))
    }
}

/// Plays a round and says how it went, in a line.
///
/// # Errors
/// [`Broken`], boxed because it holds the whole place.
pub fn play(round: &Round) -> Result<String, Box<Broken>> {
    let broken = |error, story, stage| Box::new(Broken { error, story, stage });
    let mut stage = match Stage::set(round) {
        Ok(stage) => stage,
        Err(error) => return Err(broken(error, String::new(), None)),
    };
    let mut story = Story::default();
    match in_order(&mut stage, round, &mut story) {
        Ok(()) => Ok(story.brief.join("; ")),
        Err(error) => Err(broken(error, story.whole.join("\n"), Some(stage))),
    }
}

/// What was done, for the reader.
#[derive(Debug, Default)]
struct Story {
    /// In brief.
    brief: Vec<String>,
    /// With all that was said, for the reader of a failure.
    whole: Vec<String>,
}

impl Story {
    fn tell(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.whole.push(what.clone());
        self.brief.push(what);
    }

    fn detail(&mut self, said: &str) {
        self.whole.extend(said.lines().filter(|it| !it.is_empty()).map(|it| format!("  {it}")));
    }
}

fn in_order(stage: &mut Stage, round: &Round, story: &mut Story) -> Result<(), Box<dyn Error>> {
    stage.capture_history(round)?;
    let before = stage.now()?;
    let excuse = perform::with_trouble(stage, round, story)?;
    stage.learn(&before)?;
    operators::repair(stage, round, story)?;
    // What repair finished is of an instant before it began.
    stage.learn(&before)?;
    operators::bring_up(stage, excuse, story)?;
    invariants::hold(stage)?;
    operators::restore_one(stage, round, excuse, story)?;
    invariants::hold(stage)?;
    operators::start_plainly(stage)?;
    invariants::hold(stage)
}
