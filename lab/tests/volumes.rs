//! Plain volumes without guests, kept by policies, on Btrfs.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};
use vitrify_core::config::Config;
use vitrify_lab::harness::{self, Outcome};
use vitrify_lab::run::must;
use vitrify_lab::scene::Scene;
use vitrify_lab::vitrify::Outcome as Said;
use vitrify_lab::world::World;

fn main() -> ExitCode {
    harness::run_in_pairs(&[
        ("a_volume_is_kept_by_its_policy", kept_by_its_policy),
        ("a_recursive_rule_takes_what_lies_below", a_recursive_rule),
        ("what_a_crash_left_counts", what_a_crash_left),
        ("a_volume_that_is_away_loses_nothing", a_volume_that_is_away),
        ("what_guests_have_is_left_to_their_rules", what_guests_have),
        ("volumes_need_no_libvirt", without_libvirt),
        ("hooks_are_told_of_volumes", hooks),
    ])
}

/// Runs a command that must end with this status.
fn vitrify(world: &World, code: i32, arguments: &[&str]) -> Result<Said, Box<dyn Error>> {
    let said = world.vitrify.run(arguments)?;
    assert_eq!(said.code, Some(code), "{arguments:?}: {}{}", said.stdout, said.stderr);
    Ok(said)
}

/// One policy, and a rule for each of these volumes.
fn rules(world: &World, keep: &str, volumes: &[(&Path, &str)]) -> Outcome {
    let rule = |(path, more): &(&Path, &str)| {
        format!("[[volume]]\nmatch = \"{}\"\npolicy = \"test\"\n{more}\n", path.display())
    };
    let rules: String = volumes.iter().map(rule).collect();
    let text = format!("\n[policy.test]\n{keep}\n{rules}");
    Config::parse([("more", text.as_str())]).map_err(|errors| format!("{errors:?}"))?;
    Ok(world.configure(&text)?)
}

/// The snapshots beside a subvolume, sorted.
fn snapshots(of: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let name = of.file_name().ok_or("no name")?;
    let folder = of.parent().ok_or("no parent")?.join(".vitrify").join(name);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Changes what is written down of the snapshots.
fn rewrite(world: &World, change: impl FnOnce(&mut Value)) -> Outcome {
    let file = world.vitrify.state().join("volumes.json");
    let mut ledger: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
    change(&mut ledger);
    Ok(fs::write(file, ledger.to_string())?)
}

/// Makes all that was taken years old.
fn age(world: &World) -> Outcome {
    rewrite(world, |ledger| {
        for it in ledger["taken"].as_array_mut().into_iter().flatten() {
            it["time"] = json!("2020-01-01T12:00:00Z");
        }
    })
}

fn subvolume(place: &Path) -> Result<PathBuf, Box<dyn Error>> {
    must("btrfs", &["subvolume", "create", &place.display().to_string()])?;
    Ok(place.to_owned())
}

fn kept_by_its_policy() -> Outcome {
    let world = World::new()?;
    let data = world.pool.subvolume("data")?;
    let shown = data.display().to_string();
    fs::write(data.join("file"), "one")?;
    rules(&world, "daily = 1\nmonthly = 1", &[(&data, "")])?;
    let said = vitrify(&world, 0, &["run", "--dry-run"])?.stdout;
    let would = format!("would take {shown}: ");
    assert_eq!(said.lines().filter(|it| it.starts_with(&would)).count(), 2, "{said}");
    assert_eq!(snapshots(&data)?, [""; 0]);
    let told = vitrify(&world, 2, &["status", "--nagios"])?.stdout;
    assert!(told.contains(&format!("{shown}: there is no daily")), "{told}");

    // One snapshot for all that is due.
    let said = vitrify(&world, 0, &["run"])?.stdout;
    let first = snapshots(&data)?;
    assert_eq!(first.len(), 1, "{said}");
    assert!(first[0].starts_with("vitrify_") && first[0].ends_with("_monthly"), "{first:?}");
    assert!(said.contains(&format!("took {shown}@{}, ", first[0])), "{said}");
    let place = world.pool.path().join(".vitrify/data").join(&first[0]);
    assert_eq!(fs::read_to_string(place.join("file"))?, "one");
    assert!(fs::write(place.join("file"), "two").is_err(), "it can be written to");
    assert_eq!(vitrify(&world, 0, &["run"])?.stdout, "");
    assert_eq!(snapshots(&data)?, first);

    let told = vitrify(&world, 0, &["status", "--nagios"])?.stdout;
    assert!(told.starts_with("VITRIFY OK - 0 guests and 1 volumes"), "{told}");
    let file = world.vitrify.state().join("status.json");
    let left: Value = serde_json::from_str(&fs::read_to_string(file)?)?;
    assert_eq!(left["volumes"][0]["newest"]["snapshot"], first[0].as_str(), "{left}");
    let metrics = vitrify(&world, 0, &["metrics"])?.stdout;
    let line = format!("vitrify_volume_snapshots{{volume=\"{shown}\"}} 1");
    assert!(metrics.lines().any(|it| it == line), "{metrics}");
    let left = vitrify(&world, 0, &["uninstall", "--dry-run"])?.stdout;
    assert!(left.contains(&format!("volume: 1 snapshots of {shown}\n")), "{left}");

    // What is not written down is not ours, whatever it is called.
    let folder = place.parent().ok_or("no folder")?;
    let theirs = "vitrify_2019-01-01_00:00:00_daily";
    let place = folder.join(theirs).display().to_string();
    must("btrfs", &["subvolume", "snapshot", "-r", &shown, &place])?;
    age(&world)?;
    let said = vitrify(&world, 0, &["run"])?.stdout;
    assert!(said.contains(&format!("pruned {shown}@{}: ", first[0])), "{said}");
    let second = snapshots(&data)?;
    assert_eq!((second.len(), second[0].as_str()), (2, theirs), "{said}");
    // The newest stays, whatever the policy says.
    age(&world)?;
    rules(&world, "daily = 0\nmonthly = 0", &[(&data, "")])?;
    assert_eq!(vitrify(&world, 0, &["run"])?.stdout, "");
    assert_eq!(snapshots(&data)?, second);
    // Nothing is known where the ledger is damaged.
    rules(&world, "daily = 1", &[(&data, "")])?;
    fs::write(world.vitrify.state().join("volumes.json"), "{")?;
    let said = vitrify(&world, 1, &["run"])?;
    assert!(said.stderr.contains("which snapshots of volumes are ours"), "{}", said.stderr);
    assert_eq!(snapshots(&data)?, second);
    Ok(())
}

fn a_recursive_rule() -> Outcome {
    let world = World::new()?;
    let top = world.pool.path().to_owned();
    let data = world.pool.subvolume("data")?;
    let [a, deep, own] = ["a", "a/deep", "own"].map(|it| data.join(it));
    for it in [&a, &deep, &own] {
        subvolume(it)?;
    }
    // Another tool's snapshot.
    let theirs = data.join("theirs");
    let (from, to) = (a.display().to_string(), theirs.display().to_string());
    must("btrfs", &["subvolume", "snapshot", "-r", &from, &to])?;
    let both = [(data.as_path(), "recursive = true"), (own.as_path(), "")];
    rules(&world, "daily = 1", &both)?;
    let taken = vitrify(&world, 0, &["run", "--json"])?.json()?;
    let volumes = taken["volumes"].as_array().ok_or("nothing was taken")?;
    assert_eq!(volumes.len(), 4, "{taken}");
    for it in [&data, &a, &deep, &own] {
        assert_eq!(snapshots(it)?.len(), 1, "{}", it.display());
    }
    assert_eq!(snapshots(&theirs)?, [""; 0]);
    // Our own snapshots are not taken either.
    age(&world)?;
    let again = vitrify(&world, 0, &["run", "--json"])?.json()?;
    assert_eq!(again["volumes"].as_array().map(Vec::len), Some(4), "{again}");
    assert_eq!(again["pruned"].as_array().map(Vec::len), Some(4), "{again}");
    // A mounted subvolume has no place beside it, and a rule's volume that is not there is no success.
    rules(&world, "daily = 1", &[(&top, ""), (&data.join("absent"), "")])?;
    let said = vitrify(&world, 1, &["run"])?;
    assert!(said.stderr.contains("no room for snapshots"), "{}", said.stderr);
    assert!(said.stderr.contains("absent"), "{}", said.stderr);
    vitrify(&world, 2, &["status", "--nagios"])?;
    // The memory store is none.
    let store = world.store.clone();
    rules(&world, "daily = 1", &[(&store, "")])?;
    let said = vitrify(&world, 2, &["run"])?;
    assert!(said.stderr.contains("is the memory store"), "{}", said.stderr);
    assert_eq!(snapshots(&store)?, [""; 0]);
    Ok(())
}

fn what_a_crash_left() -> Outcome {
    let world = World::new()?;
    let data = world.pool.subvolume("data")?;
    rules(&world, "daily = 1", &[(&data, "")])?;
    vitrify(&world, 0, &["run"])?;
    let first = snapshots(&data)?;
    // As if the snapshot was the last thing that the process did.
    rewrite(&world, |ledger| {
        let taken = ledger["taken"][0].clone();
        ledger["taken"] = json!([]);
        let field = |name: &str| taken[name].clone();
        ledger["begun"] = json!([{
            "id": field("id"), "names": field("names"), "time": field("time"),
            "volumes": [field("volume")],
        }]);
    })?;
    assert_eq!(vitrify(&world, 0, &["run"])?.stdout, "");
    assert_eq!(snapshots(&data)?, first);
    age(&world)?;
    let said = vitrify(&world, 0, &["run"])?.stdout;
    assert!(said.contains(&format!("pruned {}@{}", data.display(), first[0])), "{said}");
    Ok(())
}

fn a_volume_that_is_away() -> Outcome {
    let world = World::new()?;
    let folder = world.pool.path().join("folder");
    fs::create_dir(&folder)?;
    let data = subvolume(&folder.join("data"))?;
    rules(&world, "daily = 1", &[(&data, "")])?;
    vitrify(&world, 0, &["run"])?;
    let first = snapshots(&data)?;
    age(&world)?;
    let aside = world.pool.path().join("aside");
    fs::rename(&folder, &aside)?;
    let said = vitrify(&world, 2, &["run"])?;
    assert!(said.stderr.contains("not found") || said.stderr.contains("cannot find"), "{said:?}");
    fs::rename(&aside, &folder)?;
    let said = vitrify(&world, 0, &["run"])?.stdout;
    assert!(said.contains(&format!("pruned {}@{}", data.display(), first[0])), "{said}");
    assert_eq!(snapshots(&data)?.len(), 1);
    Ok(())
}

fn what_guests_have() -> Outcome {
    let scene = Scene::of(World::new()?, &["data/a.raw"], |it| it)?;
    let data = scene.world.pool.path().join("data");
    subvolume(&data.join("below"))?;
    let rule = format!(
        "[[volume]]\nmatch = \"{}\"\nrecursive = true\npolicy = \"test\"\n",
        data.display()
    );
    let guest = format!("[[guest]]\nmatch = \"{}\"\npolicy = \"test\"\n", scene.guest.name());
    let policy = "\n[policy.test]\ndaily = 1\n";
    scene.world.configure(&format!("{policy}{rule}{guest}"))?;
    let told = scene.vitrify(2, &["run"])?;
    let said = format!("guest '{}' has a disk on volume '{}'", scene.guest.name(), data.display());
    assert!(told.stderr.contains(&said), "{}", told.stderr);
    // Its point was taken, and what lies below is kept.
    assert_eq!((snapshots(&data)?.len(), snapshots(&data.join("below"))?.len()), (1, 1));
    // Without a rule for the guest it is a volume like another.
    scene.world.configure(&format!("{policy}{rule}"))?;
    scene.vitrify(0, &["run"])?;
    assert_eq!(snapshots(&data)?.len(), 2);
    let repaired = scene.vitrify(0, &["repair", scene.guest.name()])?;
    assert_eq!(repaired.stdout, "");
    assert_eq!(scene.guest.serial.mismatches(), [""; 0]);
    Ok(())
}

fn without_libvirt() -> Outcome {
    let world = World::new()?;
    let data = world.pool.subvolume("data")?;
    let run = ["--connect", "qemu:///nonsense", "run"];
    let more = "[[guest]]\nmatch = \"nobody\"\npolicy = \"test\"";
    rules(&world, "daily = 1", &[(&data, more)])?;
    vitrify(&world, 4, &run)?;
    assert_eq!(snapshots(&data)?, [""; 0]);
    rules(&world, "daily = 1", &[(&data, "")])?;
    vitrify(&world, 4, &run)?;
    assert_eq!(snapshots(&data)?.len(), 1);
    Ok(())
}

fn hooks() -> Outcome {
    let world = World::new()?;
    let data = world.pool.subvolume("data")?;
    let told = world.folder().join("told");
    let tell = format!("echo $VITRIFY_HOOK $SANOID_TARGETS $VITRIFY_RESULT >> {}", told.display());
    let hooks = format!("[hooks]\npost-snapshot = \"{tell}\"\npost-prune = \"{tell}\"\n");
    rules(&world, "daily = 1", &[(&data, &hooks)])?;
    vitrify(&world, 0, &["run"])?;
    age(&world)?;
    vitrify(&world, 0, &["run"])?;
    let data = data.display();
    let taken = format!("post-snapshot {data} taken\n");
    let wanted = format!("{taken}{taken}post-prune {data} pruned\n");
    assert_eq!(fs::read_to_string(told)?, wanted);
    Ok(())
}
