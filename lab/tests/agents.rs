//! Freezing a guest through its agent, and what holds when the agent fails. The image of a frozen
//! file system needs no recovery; that of a running one does.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vitrify_core::inventory::Session;
use vitrify_core::name::GuestUuid;
use vitrify_core::ports::Hypervisor as _;
use vitrify_core::problem::{Problem, ProblemKind};
use vitrify_host::libvirt::Libvirt;
use vitrify_lab::files::{Files, is_frozen};
use vitrify_lab::guest::{Format, Guest, Witness};
use vitrify_lab::harness::{self, Outcome};
use vitrify_lab::scene::{BOOT, SOON};
use vitrify_lab::world::World;
use witness::line::Line;
use witness::params::Agent;

/// What an agent is given to answer.
const LIMIT: Duration = Duration::from_secs(3);
/// Longer than a slow agent takes to freeze.
const PATIENT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    harness::run_in_pairs(&[
        ("a_frozen_file_system_needs_no_recovery", a_frozen_file_system_needs_no_recovery),
        ("a_thaw_by_another_hand_is_noticed", a_thaw_by_another_hand_is_noticed),
        ("a_reboot_in_between_is_noticed", a_reboot_in_between_is_noticed),
        ("a_guest_without_a_channel_lacks_an_agent", a_guest_without_a_channel),
        ("a_guest_where_nobody_listens_lacks_an_agent", a_guest_where_nobody_listens),
        ("an_agent_that_hangs_is_not_waited_for", an_agent_that_hangs),
        ("a_freeze_that_comes_late_is_thawed", a_freeze_that_comes_late_is_thawed),
        ("an_agent_that_hangs_while_frozen_is_an_error", an_agent_that_hangs_while_frozen),
        ("an_agent_that_died_while_frozen_is_an_error", an_agent_that_died_while_frozen),
        ("an_agent_that_was_restarted_thaws", an_agent_that_was_restarted_thaws),
        ("another_session_is_left_alone", another_session_is_left_alone),
    ])
}

/// A guest with files and an agent, and what acts on it. The guest goes first.
struct Scene {
    guest: Guest,
    files: PathBuf,
    libvirt: Libvirt,
    uuid: GuestUuid,
    session: Session,
    _world: World,
}

impl Scene {
    fn new(agent: Option<Agent>) -> Result<Self, Box<dyn Error>> {
        let world = World::new()?;
        let volume = world.pool.subvolume("guest")?;
        let files = volume.join("files.ext4");
        let mut witness = Witness::new(&world.guest_name("agent"))
            .memory_mib(192)
            .disk(volume.join("a.raw"), Format::Raw)
            .files(&files);
        if let Some(agent) = agent {
            witness = witness.agent(agent);
        }
        let mut guest = world.start(&witness)?;
        guest.serial.ready(BOOT)?;
        let libvirt = Libvirt::connect("qemu:///system", Arc::default()).map_err(said)?;
        let uuid: GuestUuid = guest.uuid()?.parse()?;
        let session = libvirt.inspect(&uuid).map_err(said)?.session.ok_or("no session")?;
        let mut scene = Self { guest, files, libvirt, uuid, session, _world: world };
        scene.written_after(0)?;
        if matches!(agent, Some(agent) if agent != Agent::Absent) {
            scene.guest.agent_becomes("connected", SOON)?;
        }
        Ok(scene)
    }

    fn freeze(&self) -> Result<(), Problem> {
        self.libvirt.freeze_guest(&self.uuid, &self.session, LIMIT)
    }

    fn thaw(&self, limit: Duration) -> Result<bool, Problem> {
        self.libvirt.thaw_guest(&self.uuid, &self.session, limit)
    }

    /// Waits until the guest has written a count above this one, and says which.
    fn written_after(&mut self, count: u64) -> Result<u64, Box<dyn Error>> {
        let number = |line: &Line| match line {
            Line::Note { what, value } if what == "files" => value.parse().ok(),
            _ => None,
        };
        let serial = &mut self.guest.serial;
        let line = serial.wait_for("count in files", SOON, |it| number(it) > Some(count))?;
        number(&line).ok_or_else(|| "no number".into())
    }

    fn agent_is(&mut self, state: &str) -> Outcome {
        let wanted = |line: &Line| matches!(line, Line::Note { what, value } if what == "agent" && value == state);
        self.guest.serial.wait_for(&format!("agent that {state}"), SOON, wanted)?;
        Ok(())
    }

    /// What a snapshot of the disk would hold.
    fn snapshot(&self) -> Result<Files, Box<dyn Error>> {
        let copy = self.files.with_extension("snapshot");
        fs::copy(&self.files, &copy)?;
        Ok(Files::of(&copy)?)
    }

    /// Whether this problem is of a kind and names the guest.
    fn is(&self, kind: ProblemKind, problem: &Problem) -> bool {
        problem.kind == kind && problem.message.contains(self.guest.name())
    }
}

fn said(problem: Problem) -> String {
    format!("{} ({:?})", problem.chain(), problem.kind)
}

fn a_frozen_file_system_needs_no_recovery() -> Outcome {
    let mut scene = Scene::new(Some(Agent::Works))?;
    assert!(!scene.snapshot()?.clean);
    let before = scene.written_after(0)?;
    scene.freeze().map_err(said)?;
    scene.freeze().map_err(said)?;
    assert!(is_frozen(&scene.guest)?);
    let frozen = scene.snapshot()?;
    assert!(frozen.clean, "{frozen:?}");
    assert!(scene.thaw(LIMIT).map_err(said)?);
    let count = frozen.count.ok_or("the file is missing or torn")?;
    // A write that was under way may be in the image before the guest knows of it.
    scene.guest.serial.skip_to_end()?;
    let after = scene.written_after(count)?;
    assert!((before..after).contains(&count), "{before} {count} {after}");
    assert!(!scene.thaw(LIMIT).map_err(said)?);
    Ok(())
}

fn a_thaw_by_another_hand_is_noticed() -> Outcome {
    let mut scene = Scene::new(Some(Agent::Works))?;
    scene.freeze().map_err(said)?;
    scene.guest.virsh("domfsthaw", &[])?;
    assert!(!scene.thaw(LIMIT).map_err(said)?);
    scene.guest.serial.skip_to_end()?;
    scene.written_after(0)?;
    Ok(())
}

fn a_reboot_in_between_is_noticed() -> Outcome {
    let mut scene = Scene::new(Some(Agent::Works))?;
    scene.freeze().map_err(said)?;
    scene.guest.virsh("reset", &[])?;
    scene.guest.serial.ready(BOOT)?;
    assert!(!scene.thaw(PATIENT).map_err(said)?);
    scene.written_after(0)?;
    Ok(())
}

fn a_guest_without_a_channel() -> Outcome {
    lacks_an_agent(&Scene::new(None)?)
}

fn a_guest_where_nobody_listens() -> Outcome {
    lacks_an_agent(&Scene::new(Some(Agent::Absent))?)
}

fn lacks_an_agent(scene: &Scene) -> Outcome {
    let problem = scene.freeze().err().ok_or("frozen without an agent")?;
    assert!(scene.is(ProblemKind::Lacking, &problem), "{problem:?}");
    assert!(problem.hint.is_some_and(|hint| hint.contains("qemu-guest-agent")));
    Ok(())
}

fn an_agent_that_hangs() -> Outcome {
    let mut scene = Scene::new(Some(Agent::Hangs))?;
    let begun = Instant::now();
    let problem = scene.freeze().err().ok_or("frozen by an agent that hangs")?;
    assert!(scene.is(ProblemKind::Lacking, &problem), "{problem:?}");
    assert!(begun.elapsed() < 4 * LIMIT, "{:?}", begun.elapsed());
    scene.guest.serial.skip_to_end()?;
    scene.written_after(0)?;
    Ok(())
}

fn a_freeze_that_comes_late_is_thawed() -> Outcome {
    let mut scene = Scene::new(Some(Agent::Slow))?;
    let problem = scene.freeze().err().ok_or("frozen in time")?;
    assert!(scene.is(ProblemKind::TimedOut, &problem), "{problem:?}");
    assert!(scene.thaw(PATIENT).map_err(said)?);
    assert!(!is_frozen(&scene.guest)?);
    scene.guest.serial.skip_to_end()?;
    scene.written_after(0)?;
    Ok(())
}

fn an_agent_that_hangs_while_frozen() -> Outcome {
    let mut scene = Scene::new(Some(Agent::HangsFrozen))?;
    scene.freeze().map_err(said)?;
    scene.agent_is("stopped")?;
    assert!(scene.snapshot()?.clean);
    let problem = scene.thaw(LIMIT).err().ok_or("thawed by an agent that hangs")?;
    assert!(scene.is(ProblemKind::TimedOut, &problem), "{problem:?}");
    assert!(problem.message.contains("may still be frozen"), "{problem}");
    Ok(())
}

fn an_agent_that_died_while_frozen() -> Outcome {
    let mut scene = Scene::new(Some(Agent::DiesFrozen))?;
    scene.freeze().map_err(said)?;
    scene.agent_is("killed")?;
    let problem = scene.thaw(LIMIT).err().ok_or("thawed without an agent")?;
    assert!(scene.is(ProblemKind::Lacking, &problem), "{problem:?}");
    assert!(problem.message.contains("may still be frozen"), "{problem}");
    assert!(problem.hint.is_some_and(|hint| hint.contains("restart qemu-guest-agent")));
    Ok(())
}

fn an_agent_that_was_restarted_thaws() -> Outcome {
    let mut scene = Scene::new(Some(Agent::RestartsFrozen))?;
    scene.freeze().map_err(said)?;
    scene.agent_is("restarted")?;
    assert!(scene.thaw(PATIENT).map_err(said)?);
    scene.guest.serial.skip_to_end()?;
    scene.written_after(0)?;
    Ok(())
}

fn another_session_is_left_alone() -> Outcome {
    let scene = Scene::new(Some(Agent::Works))?;
    let other = Session { domain_id: scene.session.domain_id + 1, ..scene.session.clone() };
    let frozen = scene.libvirt.freeze_guest(&scene.uuid, &other, LIMIT);
    assert!(frozen.is_err_and(|problem| scene.is(ProblemKind::Refused, &problem)));
    assert!(!is_frozen(&scene.guest)?);
    scene.freeze().map_err(said)?;
    let thawed = scene.libvirt.thaw_guest(&scene.uuid, &other, LIMIT);
    assert!(thawed.is_err_and(|problem| scene.is(ProblemKind::Refused, &problem)));
    assert!(scene.thaw(LIMIT).map_err(said)?);
    Ok(())
}
