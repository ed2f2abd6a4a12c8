//! Policies on real guests: what a tick takes, what goes and what must not.

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::Value;
use vitrify_lab::guest::Format;
use vitrify_lab::harness::{self, Outcome};
use vitrify_lab::scene::Scene;
use vitrify_lab::started::started;
use vitrify_lab::world::World;

fn main() -> ExitCode {
    harness::run_in_pairs(&[
        ("a_tick_takes_what_is_due_and_prunes", a_tick_takes_and_prunes),
        ("a_deleted_point_leaves_nothing_behind", a_deleted_point),
        ("a_point_that_cannot_be_read_is_given_up", an_unreadable_point),
        ("a_point_that_is_held_stays", a_held_point),
        ("one_snapshot_serves_two_guests_until_both_are_done", shared_snapshot),
        ("a_memory_image_goes_before_its_point", an_image_expires),
        ("only_one_tick_at_a_time", only_one_tick),
        ("a_tick_with_nothing_to_do_starts_two_programs", a_tick_with_nothing_to_do),
        ("a_hook_that_hangs_is_killed_and_the_next_one_told", a_hook_that_hangs),
        ("a_hook_that_fails_keeps_what_would_be_pruned", a_hook_before_pruning),
        ("an_interrupted_tick_runs_the_hook_after_it", an_interrupted_tick),
    ])
}

/// The policy of a world's guests; the rule covers no guest of other worlds.
fn policy(scene: &Scene, keep: &str, more: &str) -> Outcome {
    let text = format!(
        "\n[policy.test]\n{keep}\n[[guest]]\nmatch = \"{}\"\npolicy = \"test\"\n{more}",
        scene.guest.name()
    );
    Ok(scene.world.configure(&text)?)
}

fn tick(scene: &Scene, code: i32) -> Result<Value, Box<dyn Error>> {
    Ok(scene.vitrify(code, &["run", "--json"])?.json()?)
}

fn count(value: &Value) -> usize {
    value.as_array().map_or(0, Vec::len)
}

/// The names of all points, sorted.
fn names(scene: &Scene) -> Result<Vec<String>, Box<dyn Error>> {
    let listed = scene.vitrify(0, &["list", "--json"])?.json()?;
    let points = listed["points"].as_array().ok_or("no points")?.iter();
    let names = points.filter_map(|it| Some(it["point"].as_str()?.to_owned()));
    let mut names: Vec<_> = names.collect();
    names.sort();
    Ok(names)
}

fn a_tick_takes_and_prunes() -> Outcome {
    let mut scene = Scene::new()?;
    let life = scene.life()?;
    // Without a rule nothing is taken and nothing goes.
    assert_eq!((count(&tick(&scene, 0)?["taken"]), names(&scene)?.len()), (0, 0));
    policy(&scene, "hourly = 2\ndaily = 2\nmonthly = 2", "consistency = \"memory\"")?;
    let said = scene.vitrify(0, &["run", "--dry-run"])?.stdout;
    assert_eq!(said.lines().filter(|it| it.starts_with("would take ")).count(), 3, "{said}");
    assert!(names(&scene)?.is_empty());
    let told = scene.vitrify(2, &["status", "--nagios"])?.stdout;
    assert!(told.starts_with("VITRIFY CRITICAL - ") && told.contains(" critical=1 "), "{told}");
    // One capture for all that is due, and nothing more until the next hour.
    let first = tick(&scene, 0)?;
    assert_eq!(count(&first["taken"]), 1, "{first}");
    let taken = &first["taken"][0];
    assert_eq!((&taken["consistency"], count(&taken["names"])), (&"memory".into(), 3));
    assert!(taken["point"].as_str().is_some_and(|it| it.ends_with("_monthly")), "{taken}");
    let told = scene.vitrify(0, &["status", "--nagios"])?.stdout;
    assert!(told.starts_with("VITRIFY OK - 1 guests"), "{told}");
    // The same for everybody.
    let file = scene.world.vitrify.state().join("status.json");
    let left: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
    assert_eq!(left["guests"][0]["newest"]["point"], taken["point"], "{left}");
    assert!(left["written"].is_string(), "{left}");
    assert_eq!(fs::metadata(&file)?.permissions().mode() & 0o777, 0o644);
    let metrics = scene.vitrify(0, &["metrics"])?.stdout;
    let points = format!("vitrify_guest_points{{guest=\"{}\"}} 1", scene.guest.name());
    assert!(metrics.lines().any(|it| it == points), "{metrics}");
    let again = tick(&scene, 0)?;
    let hour_has_changed = count(&again["taken"]) == 1;
    assert_eq!(
        (count(&again["pruned"]), names(&scene)?.len()),
        (0, 1 + usize::from(hour_has_changed))
    );

    // By hand, so that it is the newest; a policy that keeps none of what it took.
    scene.snapshot(&["--name", "by-hand"])?;
    policy(&scene, "hourly = 0\ndaily = 0\nmonthly = 0", "")?;
    let told = scene.vitrify(0, &["prune", "--dry-run"])?.stdout;
    assert!(told.contains("_monthly") && told.contains("no monthly is kept"), "{told}");
    if !hour_has_changed {
        let pruned = tick(&scene, 0)?;
        assert_eq!((count(&pruned["taken"]), count(&pruned["pruned"])), (0, 3), "{pruned}");
        assert_eq!(names(&scene)?, ["by-hand"]);
        assert_eq!(count(&tick(&scene, 0)?["pruned"]), 0);
    }
    assert_eq!(scene.life()?, life);
    scene.is_well()
}

/// However many guests have points on subvolumes below one: that one is shown, and what lies below it
/// listed.
fn a_tick_with_nothing_to_do() -> Outcome {
    let world = World::new()?;
    world.configure(&format!(
        "\n[policy.test]\nyearly = 9\n[[guest]]\nmatch = \"{}\"\npolicy = \"test\"\n",
        world.guest_name("*")
    ))?;
    let mut guests = Vec::new();
    for so_many in [2, 8] {
        for number in guests.len()..so_many {
            let name = format!("shut-off-{number}");
            let image = world.pool.subvolume(&name)?.join("a.raw");
            guests.push(world.witness(&name).disk(&image, Format::Raw).define(world.folder())?);
        }
        let taken = world.vitrify.run(&["run", "--json"])?.json()?;
        assert!(count(&taken["taken"]) > 0, "{taken}");
        let (outcome, started) = started(&world.vitrify, world.folder(), &["run", "--json"])?;
        assert_eq!((outcome.code, count(&outcome.json()?["taken"])), (Some(0), 0), "{outcome:?}");
        assert_eq!(started, ["btrfs subvolume", "btrfs subvolume"], "{so_many} guests");
    }
    Ok(())
}

fn a_deleted_point() -> Outcome {
    let mut scene = Scene::of(World::new()?, &["one/a.raw", "two/b.raw"], |it| it)?;
    let (first, second) = (scene.snapshot(&[])?, scene.snapshot(&[])?);
    // Nobody is there to be asked.
    scene.vitrify(2, &["delete", &scene.at(&first.name)])?;
    assert_eq!(names(&scene)?.len(), 2);
    scene.vitrify(0, &["delete", "--yes", &scene.at(&first.name)])?;
    scene.vitrify(2, &["delete", "--yes", &scene.at(&first.name)])?;
    assert_eq!(names(&scene)?, [second.name.as_str()]);
    let again = scene.vitrify(0, &["repair", scene.guest.name()])?;
    assert_eq!((again.stdout.as_str(), again.stderr.as_str()), ("", ""));
    scene.is_well()?;
    scene.restore_as(&second, &second.name, &[])?;
    scene.is_well()
}

fn an_unreadable_point() -> Outcome {
    let mut scene = Scene::new()?;
    let (lost, kept) = (scene.snapshot(&["--name", "lost"])?, scene.snapshot(&["--name", "kept"])?);
    let last = scene.snapshot(&["--name", "last"])?;
    let id = lost.json["id"].as_str().ok_or("no id")?.to_owned();
    let home = scene.world.store.join(scene.guest.uuid()?);
    fs::write(home.join("points").join(&id).join("manifest.json"), "{")?;
    // Which snapshots it has nobody knows.
    let refused = scene.vitrify(3, &["delete", "--yes", &scene.at(&kept.name)])?.stderr;
    assert!(refused.contains(&format!("'vitrify delete {}'", scene.at(&id))), "{refused}");
    let asked = scene.vitrify(2, &["delete", &scene.at(&id)])?.stderr;
    assert!(asked.contains("cannot be believed") && asked.contains("--yes"), "{asked}");
    let other = scene.vitrify(2, &["delete", "--yes", &format!("other@{id}")])?.stderr;
    assert!(other.contains("another guest's home"), "{other}");
    assert!(home.join("points").join(&id).exists());
    scene.vitrify(0, &["delete", "--yes", &scene.at(&id)])?;
    assert!(!home.join("points").join(&id).exists());
    let left = scene.vitrify(0, &["repair"])?.stdout;
    assert!(left.contains("snapshot lost of ") && left.contains("no point here has it"), "{left}");
    scene.vitrify(0, &["delete", "--yes", &scene.at(&kept.name)])?;
    assert_eq!(names(&scene)?, [last.name.as_str()]);
    scene.restore_as(&last, &last.name, &[])?;
    Ok(())
}

fn a_held_point() -> Outcome {
    let mut scene = Scene::new()?;
    let (first, last) = (scene.snapshot(&[])?, scene.snapshot(&[])?);
    let at = scene.at(&first.name);
    scene.vitrify(2, &["release", &at])?;
    scene.vitrify(0, &["hold", &at])?;
    let refused = scene.vitrify(3, &["delete", "--yes", &at])?;
    assert!(refused.stderr.contains("it is held (vitrify:user)"), "{}", refused.stderr);
    assert_eq!(names(&scene)?.len(), 2);
    scene.vitrify(0, &["release", &at])?;
    scene.vitrify(0, &["delete", "--yes", &at])?;
    assert_eq!(names(&scene)?, [last.name]);
    scene.is_well()
}

fn shared_snapshot() -> Outcome {
    let mut scene = Scene::of(World::new()?, &["flat/a.raw"], |it| it)?;
    let disk = scene.world.pool.path().join("flat/b.raw");
    let other = scene.world.witness("v").disk(&disk, vitrify_lab::guest::Format::Raw);
    let mut other = scene.world.start(&other)?;
    other.serial.ready(vitrify_lab::scene::BOOT)?;
    let (first, second) = (scene.guest.name().to_owned(), other.name().to_owned());
    let taken = scene.vitrify(0, &["snapshot", "--json", &first, &second])?.json()?;
    let name = taken["points"][0]["point"].as_str().ok_or("no point")?.to_owned();
    let said = scene.vitrify(0, &["delete", "--yes", &format!("{first}@{name}")])?.stdout;
    assert!(said.contains("1 of its snapshots serve other points"), "{said}");
    // The other's point is whole.
    scene.vitrify(0, &["verify", &format!("{second}@{name}")])?;
    let restore = ["restore", "--force", "--no-safety-point", "--yes"];
    scene.vitrify(0, &[&restore[..], &[&format!("{second}@{name}")]].concat())?;
    other.serial.steps_on(20, vitrify_lab::scene::SOON)?;
    assert_eq!(other.serial.mismatches(), [""; 0]);
    scene.vitrify(0, &["delete", "--yes", &format!("{second}@{name}")])?;
    let left = scene.vitrify(0, &["repair", &second])?;
    assert_eq!((left.stdout.as_str(), left.stderr.as_str()), ("", ""));
    drop(other);
    scene.is_well()
}

fn an_image_expires() -> Outcome {
    let mut scene = Scene::new()?;
    policy(&scene, "hourly = 5\nmemory = { hourly = 5 }", "")?;
    let taken = tick(&scene, 0)?;
    let name = taken["taken"][0]["point"].as_str().ok_or("nothing was taken")?.to_owned();
    let last = scene.snapshot(&["--name", "by-hand"])?;
    policy(&scene, "hourly = 5\nmemory = { hourly = 0 }", "")?;
    let pruned = scene.vitrify(0, &["prune"])?.stdout;
    assert!(pruned.contains(&format!("the memory image of {}", scene.at(&name))), "{pruned}");
    let listed = scene.vitrify(0, &["list"])?.stdout;
    let line = listed.lines().find(|it| it.contains(&name)).ok_or("it is not listed")?;
    assert!(line.contains("expired") && line.contains("crash"), "{line}");
    let refused = scene.vitrify(3, &["restore", "--force", &scene.at(&name)])?;
    assert!(refused.stderr.contains("memory image is gone"), "{}", refused.stderr);
    scene.vitrify(0, &["verify", scene.guest.name()])?;
    assert_eq!(scene.vitrify(0, &["prune"])?.stdout, "");
    scene.is_well()?;
    scene.restore_as(&last, "by-hand", &[])?;
    scene.is_well()
}

/// Hooks of these lines, and a command for what is worth a word.
fn scripts(lines: &str, notify: &Path) -> String {
    format!(
        "[hooks]\n{lines}\n[notify]\ncommand = \"echo $VITRIFY_EVENT >> {}\"\n",
        notify.display()
    )
}

/// A command line that writes down what the hook is told.
fn tells(file: &Path) -> String {
    format!("env | grep -E '^(SANOID|VITRIFY)_' > {}", file.display())
}

/// What the hook was told that wrote the file; `None`: it did not run.
fn told(file: &Path, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let lines = text.lines().filter_map(|it| it.split_once('='));
    lines.filter(|it| it.0 == key).map(|it| it.1.to_owned()).next()
}

fn a_hook_that_hangs() -> Outcome {
    let mut scene = Scene::new()?;
    let life = scene.life()?;
    let [pid, post, events] = ["pid", "post", "events"].map(|it| scene.world.folder().join(it));
    let hang = format!("echo $$ > {}; echo it hangs; exec sleep 100000", pid.display());
    let lines = |pre: &str, limit: &str| {
        let post = tells(&post);
        format!("pre-snapshot = \"{pre}\"\npost-snapshot = \"{post}\"\ntimeout = \"{limit}\"")
    };
    policy(&scene, "hourly = 2\ndaily = 2", &scripts(&lines(&hang, "1s"), &events))?;
    let ended = scene.vitrify(1, &["run"])?;
    assert!(ended.stderr.contains("hook pre-snapshot: it hangs\n"), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("hook pre-snapshot: it was killed after 1 s"),
        "{}",
        ended.stderr
    );
    let pid = fs::read_to_string(pid)?;
    assert!(!Path::new("/proc").join(pid.trim()).exists(), "process {pid} lives");
    // The point was taken all the same, and the hook after it knows both.
    let taken = names(&scene)?;
    assert_eq!(taken.len(), 1, "{}", ended.stderr);
    for (key, value) in [
        ("SANOID_PRE_FAILURE", "1"),
        ("SANOID_SNAPNAME", taken[0].as_str()),
        ("SANOID_TYPES", "daily,hourly"),
        ("VITRIFY_HOOK", "post-snapshot"),
        ("VITRIFY_GUESTS", scene.guest.name()),
        ("VITRIFY_RESULT", "taken"),
        ("VITRIFY_CONSISTENCY", "memory"),
        ("VITRIFY_ERROR", ""),
    ] {
        assert_eq!(told(&post, key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(fs::read_to_string(&events)?, "failure\n");
    assert_eq!(scene.life()?, life);
    scene.is_well()?;
    // By hand as well, now with a hook that is in order; and the tick after it is in order again.
    policy(&scene, "hourly = 2", &scripts(&lines("true", "1min"), &events))?;
    scene.snapshot(&["--name", "by-hand"])?;
    assert_eq!(told(&post, "SANOID_SNAPNAMES").as_deref(), Some("by-hand"));
    assert_eq!(told(&post, "SANOID_PRE_FAILURE").as_deref(), Some("0"));
    tick(&scene, 0)?;
    tick(&scene, 0)?;
    assert_eq!(fs::read_to_string(&events)?, "failure\nrecovery\n");
    scene.is_well()
}

fn a_hook_before_pruning() -> Outcome {
    let mut scene = Scene::new()?;
    policy(&scene, "daily = 2", "")?;
    tick(&scene, 0)?;
    scene.snapshot(&["--name", "by-hand"])?;
    let all = names(&scene)?;
    let daily = all.iter().find(|it| it.ends_with("_daily")).ok_or("nothing was taken")?;
    let post = scene.world.folder().join("post");
    let hooks = |pre: &str| {
        let post = tells(&post);
        format!("[hooks]\npre-prune = \"{pre}\"\npost-prune = \"{post}\"\n")
    };
    policy(&scene, "daily = 0", &hooks("echo not now; exit 3"))?;
    let kept = scene.vitrify(1, &["run"])?;
    assert!(kept.stderr.contains("hook pre-prune: not now\n"), "{}", kept.stderr);
    assert_eq!((names(&scene)?, told(&post, "VITRIFY_HOOK")), (all.clone(), None));
    // One that is in order; nothing is run for a rehearsal, nor where nothing goes.
    policy(&scene, "daily = 0", &hooks("true"))?;
    scene.vitrify(0, &["prune", "--dry-run"])?;
    assert_eq!(told(&post, "VITRIFY_HOOK"), None);
    scene.vitrify(0, &["prune"])?;
    assert_eq!(names(&scene)?, ["by-hand"]);
    assert_eq!(told(&post, "VITRIFY_RESULT").as_deref(), Some("pruned"));
    assert_eq!(told(&post, "SANOID_SNAPNAME").as_ref(), Some(daily));
    fs::remove_file(&post)?;
    scene.vitrify(0, &["prune"])?;
    assert_eq!(told(&post, "VITRIFY_HOOK"), None);
    scene.is_well()
}

fn an_interrupted_tick() -> Outcome {
    let mut scene = Scene::new()?;
    let [begun, go, post] = ["begun", "go", "post"].map(|it| scene.world.folder().join(it));
    let wait =
        format!("touch {}; while [ ! -e {} ]; do sleep 0.1; done", begun.display(), go.display());
    let hooks =
        format!("[hooks]\npre-snapshot = \"{wait}\"\npost-snapshot = \"{}\"\n", tells(&post));
    policy(&scene, "hourly = 2", &hooks)?;
    let tick = scene.world.vitrify.start(&["run"])?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while !begun.exists() {
        assert!(!tick.has_ended() && Instant::now() < deadline, "no hook was run");
    }
    tick.signal(rustix::process::Signal::TERM);
    fs::write(&go, "")?;
    let ended = tick.finish(Duration::from_secs(120))?;
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert_eq!(told(&post, "VITRIFY_RESULT").as_deref(), Some("failed"));
    assert_eq!(told(&post, "SANOID_PRE_FAILURE").as_deref(), Some("0"));
    assert!(names(&scene)?.is_empty());
    scene.is_well()
}

fn only_one_tick() -> Outcome {
    let scene = Scene::new()?;
    policy(&scene, "hourly = 2", "")?;
    let first = scene.world.vitrify.start(&["run"])?;
    let lock = scene.world.vitrify.state().join("locks/tick");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !fs::read_to_string(&lock).is_ok_and(|it| !it.is_empty()) {
        assert!(!first.has_ended() && Instant::now() < deadline, "it took no lock");
    }
    first.signal(rustix::process::Signal::STOP);
    let turned_away = scene.vitrify(75, &["run"])?;
    assert!(turned_away.stderr.contains("tick"), "{}", turned_away.stderr);
    first.signal(rustix::process::Signal::CONT);
    let ended = first.finish(Duration::from_secs(120))?;
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(names(&scene)?.len(), 1);
    Ok(())
}
