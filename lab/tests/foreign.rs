//! What others do with guests, and what bears our marks without a journal entry: `repair` names it
//! and leaves it exactly as it was. And bases that were rolled back by hand, and lost journals.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::Signal;
use vitrify_lab::harness::{self, Outcome};
use vitrify_lab::journal::Journal;
use vitrify_lab::leftovers::{entries, snapshots_of};
use vitrify_lab::run::must;
use vitrify_lab::scene::{SOON, Scene};
use vitrify_lab::trace::{difference, everything};
use vitrify_lab::world::World;

const LIMIT: Duration = Duration::from_secs(90);

fn main() -> ExitCode {
    harness::run(&[
        ("a_guest_that_somebody_suspended", a_suspended_guest),
        ("an_overlay_that_somebody_made", an_overlay),
        ("a_block_copy_that_somebody_began", a_block_copy),
        ("a_capability_that_somebody_left_on", a_capability),
        ("a_snapshot_in_the_middle_of_a_commit", a_torn_snapshot),
        ("what_bears_our_marks_and_belongs_to_nothing", orphans),
        ("a_base_that_was_rolled_back_by_hand", a_base_rolled_back),
        ("a_capture_whose_journal_is_lost", || {
            without_journal(|folder| fs::remove_dir_all(folder))
        }),
        ("a_capture_whose_journal_is_damaged", || {
            without_journal(|folder| {
                for entry in entries(folder)? {
                    let mut bytes = fs::read(&entry)?;
                    bytes[0] ^= 1;
                    fs::write(&entry, bytes)?;
                }
                Ok(())
            })
        }),
    ])
}

fn scene() -> Result<Scene, Box<dyn Error>> {
    let scene = Scene::of(World::new()?, &["one/a.raw", "two/b.raw"], |witness| witness)?;
    // The first makes the folders of its own state.
    silence(&scene)?;
    Ok(scene)
}

/// `repair` says each of these, changes nothing, and finds nothing wrong; nor does a rehearsal. Of all
/// guests there may be more to say: this machine may have others.
fn is_named_and_left(scene: &Scene, wanted: &[&str]) -> Outcome {
    let before = everything(&scene.world, &scene.guest)?;
    let name = scene.guest.name();
    for command in [&["repair"][..], &["repair", name, "--dry-run"], &["repair", name]] {
        let said = scene.vitrify(0, command)?;
        for words in wanted {
            if !said.stdout.contains(words) {
                return Err(format!("{command:?} does not say '{words}': {said:?}").into());
            }
        }
        let lines = said.stdout.lines().count();
        assert!(lines == wanted.len() || !command.contains(&name), "{}", said.stdout);
        let changed = difference(&before, &everything(&scene.world, &scene.guest)?);
        assert_eq!(changed, "", "{command:?}");
    }
    let json = scene.vitrify(0, &["repair", "--json", name])?.json()?;
    assert_eq!(json["repairs"].as_array().map(Vec::len), Some(0), "{json}");
    assert_eq!(json["left_alone"].as_array().map(Vec::len), Some(wanted.len()), "{json}");
    Ok(())
}

fn silence(scene: &Scene) -> Outcome {
    let said = scene.vitrify(0, &["repair", scene.guest.name()])?;
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("", ""));
    Ok(())
}

fn a_suspended_guest() -> Outcome {
    let mut scene = scene()?;
    silence(&scene)?;
    scene.guest.suspend()?;
    is_named_and_left(&scene, &["it was suspended, not by vitrify; 'virsh resume"])?;
    scene.guest.resume()?;
    silence(&scene)?;
    scene.is_well()
}

fn an_overlay() -> Outcome {
    let mut scene = scene()?;
    scene.guest.virsh("snapshot-create-as", &["before", "--disk-only"])?;
    let lines = ["disk vda reads", "disk vdb reads", "external snapshot 'before'"];
    is_named_and_left(&scene, &lines)?;
    scene.guest.serial.steps_on(10, SOON)?;
    scene.guest.destroy()?;
    is_named_and_left(&scene, &lines)?;
    scene.guest.start()?;
    for disk in ["vda", "vdb"] {
        let said = scene.vitrify(0, &["repair"])?.stdout;
        let line = said.lines().find(|it| it.contains(&format!("disk {disk}")));
        let command = line.and_then(|it| it.split('\'').nth(1)).ok_or("no command")?;
        // As it says, but waiting for the end.
        let words: Vec<_> = command.split(' ').skip(1).chain(["--wait"]).collect();
        vitrify_lab::run::virsh(&words)?;
    }
    scene.guest.virsh("snapshot-delete", &["before", "--metadata"])?;
    silence(&scene)?;
    for overlay in ["one/a.before", "two/b.before"] {
        fs::remove_file(scene.world.pool.path().join(overlay))?;
    }
    scene.is_well()
}

fn a_block_copy() -> Outcome {
    let mut scene = scene()?;
    let copy = scene.world.folder().join("copy.raw");
    let path = copy.display().to_string();
    scene.guest.virsh("blockcopy", &["vda", &path, "--transient-job", "--wait"])?;
    is_named_and_left(&scene, &["disk vda has a block job (copy); 'virsh blockjob"])?;
    assert!(scene.guest.xml()?.contains("<mirror") && copy.exists());
    scene.guest.virsh("blockjob", &["vda", "--abort"])?;
    silence(&scene)?;
    scene.is_well()
}

fn a_torn_snapshot() -> Outcome {
    let mut scene = scene()?;
    let journal = Journal::of(&scene.world.vitrify)?;
    let words = ["snapshot", "--engine", "overlay", scene.guest.name()];
    let process = scene.world.vitrify.start(&words)?;
    let commits = |lines: &[String]| lines.iter().any(|it| it.contains("settle-overlay"));
    assert!(journal.reaches(&process, LIMIT, commits)?);
    process.signal(Signal::STOP);
    let [volume, theirs] = ["one", "theirs"].map(|it| scene.world.pool.path().join(it));
    let [volume, theirs] = [volume, theirs].map(|it| it.display().to_string());
    must("btrfs", &["subvolume", "snapshot", "-r", &volume, &theirs])?;
    process.signal(Signal::CONT);
    let finished = process.finish(LIMIT)?;
    assert!(finished.status.success(), "{finished:?}");
    assert!(finished.stderr.contains("warning: ") && finished.stderr.contains("snapshot theirs"));
    is_named_and_left(&scene, &["snapshot theirs was taken by others while vitrify committed"])?;
    must("btrfs", &["subvolume", "delete", &theirs])?;
    silence(&scene)?;
    scene.is_well()
}

/// A store whose drive is not mounted makes no snapshot one that may go.
fn is_no_empty_store(scene: &Scene) -> Outcome {
    let (store, away) = (&scene.world.store, scene.world.store.with_file_name("away"));
    fs::rename(store, &away)?;
    let missing = scene.vitrify(4, &["repair", scene.guest.name()])?;
    assert!(missing.stderr.contains("is missing"), "{}", missing.stderr);
    assert!(!missing.stdout.contains("delete"), "{}", missing.stdout);
    fs::create_dir(store)?;
    let empty = scene.vitrify(0, &["repair", scene.guest.name()])?.stdout;
    assert!(empty.contains("drive mounted?") && !empty.contains("delete"), "{empty}");
    fs::remove_dir(store)?;
    fs::rename(&away, store)?;
    Ok(())
}

fn a_capability() -> Outcome {
    let mut scene = scene()?;
    let ask = |words: &str| scene.guest.monitor(words);
    ask("migrate_set_capability background-snapshot on")?;
    let capability = "migration capability background-snapshot is on";
    is_named_and_left(&scene, &[capability])?;
    assert!(ask("info migrate_capabilities")?.contains("background-snapshot: on"));
    ask("migrate_set_capability background-snapshot off")?;
    silence(&scene)?;
    scene.is_well()
}

/// A published point is taken away by hand, so that its snapshots are nobody's; and there are files
/// under names that we give.
fn orphans() -> Outcome {
    let mut scene = scene()?;
    scene.snapshot(&["--consistency", "crash", "--name", "another"])?;
    let point = scene.snapshot(&["--consistency", "crash", "--name", "one"])?;
    let name = point.name.as_str();
    let id = "00000000-0000-4000-9000-0000000000aa";
    let home = scene.world.store.join(scene.guest.uuid()?);
    let published = home.join("points").join(point.json["id"].as_str().ok_or("no id")?);
    let kept = scene.world.folder().join("kept");
    must("mv", &[&published.display().to_string(), &kept.display().to_string()])?;
    let folder = home.join("incoming").join(id);
    fs::create_dir(&folder)?;
    let spare = scene.disks[0].with_file_name(format!(".a.raw.vitrify-{id}"));
    let overlay = scene.world.overlays.join(format!("w.vda.{id}.qcow2"));
    for path in [&spare, &overlay] {
        fs::write(path, "")?;
    }
    let volume = |disk: &PathBuf| disk.parent().unwrap_or(Path::new("/")).to_owned();
    let [one, two] = [0, 1].map(|it| snapshots_of(&volume(&scene.disks[it])).join(name));
    let commands = [&one, &two].map(|it| format!("'btrfs subvolume delete {}'", it.display()));
    let paths = [&folder, &spare, &overlay].map(|it| it.display().to_string());
    let wanted: Vec<_> = commands.iter().chain(&paths).map(String::as_str).collect();
    is_named_and_left(&scene, &wanted)?;
    is_no_empty_store(&scene)?;
    must("mv", &[&kept.display().to_string(), &published.display().to_string()])?;
    fs::remove_dir(folder)?;
    fs::remove_file(spare)?;
    fs::remove_file(overlay)?;
    silence(&scene)?;
    scene.is_well()
}

/// Kills a capture as soon as its guest is on overlays, and before anything of them is committed.
fn leave_on_overlays(scene: &Scene) -> Outcome {
    let journal = Journal::of(&scene.world.vitrify)?;
    let name = scene.guest.name();
    for _ in 0..5 {
        let arguments = ["snapshot", name, "--engine", "overlay"];
        let process = scene.world.vitrify.start(&arguments)?;
        let snapshots = |it: &String| it.contains(r#""effect":"snapshot-volumes""#);
        journal.reaches(&process, LIMIT, |now| now.iter().any(snapshots))?;
        process.signal(Signal::KILL);
        process.finish(LIMIT)?;
        let lines = journal.lines()?.join("\n");
        if lines.contains("snapshot-volumes") && !lines.contains("settle-overlay") {
            return Ok(());
        }
        scene.vitrify(0, &["repair"])?;
    }
    Err("no capture could be caught on its overlays".into())
}

fn a_base_rolled_back() -> Outcome {
    let mut scene = scene()?;
    let pool = scene.world.pool.path().to_owned();
    let [one, before, broken] =
        ["one", "one-before", "one-broken"].map(|it| pool.join(it).display().to_string());
    must("btrfs", &["subvolume", "snapshot", "-r", &one, &before])?;
    scene.guest.serial.steps_on(10, SOON)?;
    leave_on_overlays(&scene)?;
    scene.guest.destroy()?;
    must("mv", &[&one, &broken])?;
    must("btrfs", &["subvolume", "snapshot", &before, &one])?;

    let name = scene.guest.name().to_owned();
    let disks: Vec<_> = scene.disks.iter().map(|it| it.display().to_string()).collect();
    let bases = || must("sha256sum", &[&disks[0], &disks[1]]);
    let untouched = bases()?;
    let keeps = |arguments: &[&str], why: &str| -> Outcome {
        let refused = scene.vitrify(3, arguments)?;
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
        assert_eq!(entries(&scene.world.overlays)?.len(), 2, "an overlay is gone");
        assert_eq!(bases()?, untouched, "a base was written to");
        Ok(())
    };
    keeps(&["repair"], "replaced since the capture")?;
    keeps(&["repair", &name, "--commit"], "so none does")?;
    scene.guest.start()?;
    keeps(&["repair"], "replaced since the capture")?;
    keeps(&["repair", &name, "--commit"], "so none does")?;
    scene.guest.destroy()?;
    scene.vitrify(0, &["repair", &name, "--discard", "--yes"])?;
    assert_eq!((entries(&scene.world.overlays)?.len(), bases()?), (0, untouched.clone()));
    silence(&scene)
}

/// A capture is killed on its overlays and its journal spoilt: what was staged tells enough.
fn without_journal(spoil: fn(&Path) -> std::io::Result<()>) -> Outcome {
    let mut scene = scene()?;
    let life = scene.life()?;
    leave_on_overlays(&scene)?;
    spoil(&scene.world.vitrify.state().join("journal"))?;
    let rehearsed = scene.vitrify(0, &["repair", "--dry-run"]);
    if let Ok(rehearsed) = rehearsed {
        assert!(rehearsed.stdout.contains("would "), "{}", rehearsed.stdout);
    }
    let said = scene.vitrify(0, &["repair"])?;
    assert!(said.stdout.contains("the interrupted capture was undone"), "{said:?}");
    assert_eq!(scene.life()?, life);
    // What could not be believed is kept beside, for whoever wants to know.
    for kept in entries(&scene.world.vitrify.state().join("journal"))? {
        assert!(kept.extension().is_some_and(|it| it == "damaged"), "{}", kept.display());
        fs::remove_file(kept)?;
    }
    silence(&scene)?;
    scene.is_well()
}
