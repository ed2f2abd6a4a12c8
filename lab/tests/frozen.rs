//! Restore points by the engine `freeze`, and what becomes of a capture whose guest's agent fails.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use vitrify_lab::files::{Files, is_frozen};
use vitrify_lab::guest::{Format, Guest, Witness};
use vitrify_lab::harness::{self, Outcome};
use vitrify_lab::journal::Journal;
use vitrify_lab::leftovers::{entries, snapshots_of};
use vitrify_lab::scene::{BOOT, SOON};
use vitrify_lab::vitrify::Outcome as Said;
use vitrify_lab::world::World;
use witness::line::Line;
use witness::params::Agent;

const LIMIT: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    harness::run(&[
        ("a_frozen_point_needs_no_recovery", a_frozen_point_needs_no_recovery),
        ("freeze_is_chosen_where_memory_cannot_be_kept", freeze_is_chosen),
        ("a_guest_without_an_agent_is_refused_or_crash", a_guest_without_an_agent),
        ("an_agent_that_hangs_is_passed_over", an_agent_that_hangs_is_passed_over),
        ("a_capture_killed_while_frozen_is_repaired", a_capture_killed_while_frozen),
        ("an_agent_killed_while_frozen_is_told", an_agent_killed_while_frozen),
    ])
}

/// A guest with files on an ext4, whose agent behaves so. The guest goes first.
struct Scene {
    guest: Guest,
    files: PathBuf,
    world: World,
}

impl Scene {
    fn new(agent: Option<Agent>) -> Result<Self, Box<dyn Error>> {
        Self::with(agent, |_, witness| Ok(witness))
    }

    /// A disk that others write to as well is not captured, so there can be no memory image. The
    /// guest's kernel has no driver for it.
    fn without_memory(agent: Option<Agent>) -> Result<Self, Box<dyn Error>> {
        Self::with(agent, |world, witness| {
            let path = world.folder().join("shared.raw");
            fs::File::create_new(&path)?.set_len(1 << 20)?;
            Ok(witness.extra_devices(&format!(
                "<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/>\
                 <source file='{}'/><target dev='hda' bus='ide'/><shareable/></disk>",
                path.display()
            )))
        })
    }

    fn with(
        agent: Option<Agent>,
        describe: impl FnOnce(&World, Witness) -> Result<Witness, Box<dyn Error>>,
    ) -> Result<Self, Box<dyn Error>> {
        let world = World::new()?;
        let volume = world.pool.subvolume("guest")?;
        let files = volume.join("files.ext4");
        let witness = Witness::new(&world.guest_name("frozen")).memory_mib(192);
        let witness = witness.disk(volume.join("a.raw"), Format::Raw).files(&files);
        let witness = describe(&world, witness)?;
        let witness = match agent {
            Some(agent) => witness.agent(agent),
            None => witness,
        };
        let mut guest = world.start(&witness)?;
        guest.serial.ready(BOOT)?;
        let mut scene = Self { guest, files, world };
        scene.writes_on()?;
        if agent.is_some() {
            scene.guest.agent_becomes("connected", SOON)?;
        }
        Ok(scene)
    }

    fn vitrify(&self, code: i32, arguments: &[&str]) -> Result<Said, Box<dyn Error>> {
        let said = self.world.vitrify.run_within(LIMIT, arguments)?;
        match said.code == Some(code) {
            true => Ok(said),
            false => Err(format!("{arguments:?} should end with {code}: {said:?}").into()),
        }
    }

    fn snapshot(&self, more: &[&str]) -> Result<Value, Box<dyn Error>> {
        let arguments = [&["snapshot", "--json", self.guest.name()], more].concat();
        Ok(self.vitrify(0, &arguments)?.json()?)
    }

    /// The guest's file system as a point holds it.
    fn files_of(&self, point: &Value) -> Result<Files, Box<dyn Error>> {
        let name = point["point"].as_str().ok_or("no name")?;
        let volume = self.files.parent().unwrap_or(Path::new("/"));
        let image = snapshots_of(volume).join(name).join("files.ext4");
        let copy = self.world.folder().join("copy.ext4");
        fs::copy(image, &copy)?;
        Ok(Files::of(&copy)?)
    }

    /// The guest goes on to write to its file system.
    fn writes_on(&mut self) -> Outcome {
        self.guest.serial.skip_to_end()?;
        let is_note = |line: &Line| matches!(line, Line::Note { what, .. } if what == "files");
        self.guest.serial.wait_for("count in files", SOON, is_note)?;
        Ok(())
    }

    /// Starts a frozen capture and signals it as soon as the freeze is recorded.
    fn caught_frozen(&self, signal: Signal) -> Result<vitrify_lab::run::Running, Box<dyn Error>> {
        let journal = Journal::of(&self.world.vitrify)?;
        let arguments = ["snapshot", self.guest.name(), "--consistency", "frozen"];
        let process = self.world.vitrify.start(&arguments)?;
        // The plan, the point staged, the freeze: begun and done each.
        let caught = journal.reaches(&process, LIMIT, |now| now.len() >= 5)?;
        process.signal(signal);
        let lines = journal.lines()?.join("\n");
        match caught && lines.contains("\"freeze\"") && !lines.contains("\"thaw\"") {
            true => Ok(process),
            false => Err(format!("not caught while frozen:\n{lines}").into()),
        }
    }

    /// The guest runs and writes, and nothing of a capture is left.
    fn is_well(&mut self) -> Outcome {
        assert_eq!(self.guest.state()?, "running");
        self.writes_on()?;
        let left = entries(&self.world.vitrify.state().join("journal"))?;
        assert!(left.is_empty(), "{left:?}");
        Ok(())
    }
}

fn a_frozen_point_needs_no_recovery() -> Outcome {
    let mut scene = Scene::new(Some(Agent::Works))?;
    let frozen = scene.snapshot(&["--consistency", "frozen"])?;
    assert_eq!((&frozen["consistency"], &frozen["engine"]), (&"frozen".into(), &"freeze".into()));
    assert_eq!(frozen["pause_ms"], Value::Null, "its CPUs are not stopped");
    assert!(!is_frozen(&scene.guest)?);
    scene.is_well()?;
    let files = scene.files_of(&frozen)?;
    assert!(files.clean && files.count.is_some(), "{files:?}");
    // The control: without a freeze the journal needs recovery.
    let crash = scene.snapshot(&["--consistency", "crash"])?;
    assert_eq!(crash["engine"], "plain");
    assert!(!scene.files_of(&crash)?.clean);
    scene.is_well()
}

fn freeze_is_chosen() -> Outcome {
    let mut scene = Scene::without_memory(Some(Agent::Works))?;
    let point = scene.snapshot(&[])?;
    assert_eq!((&point["consistency"], &point["engine"]), (&"frozen".into(), &"freeze".into()));
    let reason = point["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("no memory image") && reason.contains("shareable"), "{reason}");
    scene.is_well()
}

fn a_guest_without_an_agent() -> Outcome {
    let mut scene = Scene::without_memory(None)?;
    let arguments = ["snapshot", scene.guest.name(), "--consistency", "frozen"];
    let refused = scene.vitrify(4, &arguments)?;
    assert!(refused.stderr.contains("channel"), "{}", refused.stderr);
    falls_to_crash(&mut scene)
}

fn an_agent_that_hangs_is_passed_over() -> Outcome {
    let mut scene = Scene::without_memory(Some(Agent::Hangs))?;
    let arguments = ["snapshot", scene.guest.name(), "--consistency", "frozen"];
    let failed = scene.vitrify(4, &arguments)?;
    assert!(failed.stderr.contains("did not answer"), "{}", failed.stderr);
    falls_to_crash(&mut scene)
}

/// What is not demanded is passed over, and the point says why.
fn falls_to_crash(scene: &mut Scene) -> Outcome {
    let point = scene.snapshot(&[])?;
    assert_eq!(point["consistency"], "crash");
    assert!(point["reason"].as_str().is_some_and(|it| it.contains("not frozen")), "{point}");
    scene.is_well()
}

fn a_capture_killed_while_frozen() -> Outcome {
    let mut scene = Scene::new(Some(Agent::Works))?;
    scene.caught_frozen(Signal::KILL)?.finish(LIMIT)?;
    // The end of its output is the guard's, which has thawed it.
    assert!(!is_frozen(&scene.guest)?);
    scene.writes_on()?;
    scene.vitrify(0, &["repair"])?;
    assert!(!is_frozen(&scene.guest)?);
    let again = scene.vitrify(0, &["repair", scene.guest.name()])?;
    assert_eq!((again.stdout.as_str(), again.stderr.as_str()), ("", ""));
    scene.is_well()
}

/// Nobody but the guest itself can thaw it then. That is said with what helps, until it did.
fn an_agent_killed_while_frozen() -> Outcome {
    let mut scene = Scene::new(Some(Agent::DiesFrozen))?;
    let process = scene.caught_frozen(Signal::STOP)?;
    scene.guest.agent_becomes("disconnected", SOON)?;
    process.signal(Signal::CONT);
    let ended = process.finish(LIMIT)?;
    assert!(!ended.status.success(), "{ended:?}");
    for words in [scene.guest.name(), "may still be frozen", "virsh reset"] {
        assert!(ended.stderr.contains(words), "no '{words}' in {}", ended.stderr);
    }
    let refused = scene.world.vitrify.run_within(LIMIT, &["repair"])?;
    assert!(refused.code != Some(0) && refused.stderr.contains("virsh reset"), "{refused:?}");
    scene.guest.virsh("reset", &[])?;
    scene.guest.serial.skip_to_end()?;
    scene.guest.serial.ready(BOOT)?;
    scene.guest.agent_becomes("connected", SOON)?;
    scene.vitrify(0, &["repair"])?;
    scene.is_well()
}
