//! A guest on a dataset of which sanoid took snapshots for ten years.
//!
//! Moves the machine's clock, so that ZFS dates them; nothing else runs beside it.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use vitrify_lab::guest::Witness;
use vitrify_lab::harness::{self, Machine, Outcome};
use vitrify_lab::pool::Pool;
use vitrify_lab::run::must;
use vitrify_lab::scene::{SOON, Scene};
use vitrify_lab::world::World;

/// Size of the pool, in MiB; sparse.
const POOL_MIB: u64 = 2048;
const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;

fn main() -> ExitCode {
    harness::run_on(
        Machine::Zfs,
        1,
        &[("what_sanoid_took_goes_only_where_it_is_adopted", only_where_adopted)],
    )
}

/// The clock, put back when this goes.
struct Clock {
    was: SystemTime,
    since: Instant,
}

impl Clock {
    fn moved() -> Self {
        Self { was: SystemTime::now(), since: Instant::now() }
    }

    fn now(&self) -> u64 {
        let now = self.was + self.since.elapsed();
        now.duration_since(SystemTime::UNIX_EPOCH).as_ref().map_or(0, Duration::as_secs)
    }

    fn set(seconds: u64) -> Outcome {
        must("date", &["-s", &format!("@{seconds}")])?;
        Ok(())
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        // A clock that stays wrong is seen by what follows.
        drop(Self::set(self.now()));
    }
}

/// Snapshots of a dataset, so many of each period, one period apart, up to now.
fn history(dataset: &str) -> Outcome {
    let clock = Clock::moved();
    let now = clock.now();
    let mut all = Vec::new();
    for (period, length, count) in
        [("monthly", 31 * DAY, 118), ("daily", DAY, 30), ("hourly", HOUR, 40)]
    {
        all.extend((1..=count).map(|number| (now - number * length, period)));
    }
    all.sort_unstable();
    for (seconds, period) in all {
        Clock::set(seconds)?;
        let time = must("date", &["-u", "+%Y-%m-%d_%H:%M:%S"])?;
        must("zfs", &["snapshot", &format!("{dataset}@autosnap_{}_{period}", time.trim())])?;
    }
    Ok(())
}

/// What stands behind the `@` of sanoid's snapshots.
fn sanoids(dataset: &str) -> Result<BTreeSet<String>, Box<dyn Error>> {
    let listed = must("zfs", &["list", "-H", "-t", "snapshot", "-d", "1", "-o", "name", dataset])?;
    let names = listed.lines().filter_map(|it| it.split_once('@')).map(|it| it.1.to_owned());
    Ok(names.filter(|it| it.starts_with("autosnap_")).collect())
}

/// The names of sanoid's that `run` speaks of.
fn named(said: &str) -> BTreeSet<String> {
    let what = said.lines().filter_map(|it| it.split_once('@')?.1.split_once(": "));
    what.map(|it| it.0.to_owned()).filter(|it| it.starts_with("autosnap_")).collect()
}

/// What `config import --compare` says of a sanoid.conf that means the same as the policy, before any
/// point was taken. Leaves the policy in force, adopting.
fn comparison(scene: &Scene, dataset: &str, policy: &str) -> Outcome {
    let file = scene.world.folder().join("sanoid.conf");
    let text = format!("[{dataset}]\nhourly = 36\ndaily = 30\nmonthly = 3\n");
    fs::write(&file, text)?;
    let file = file.display().to_string();
    let compare = |status, more: &[&str]| {
        scene.vitrify(status, &[&["config", "import", file.as_str(), "--compare"], more].concat())
    };
    let stay = "188 of sanoid's snapshots stay for good";
    let imported = compare(1, &[])?.stdout;
    assert!(imported.starts_with("No rule of vitrify is in force"), "{imported}");
    assert!(imported.contains(stay), "{imported}");
    scene.world.configure(policy)?;
    let said = compare(1, &[])?.stdout;
    assert!(said.contains("1 difference") && said.contains(stay), "{said}");
    scene.world.configure(&policy.replace("daily = 30", "daily = 7"))?;
    let said = compare(1, &[])?.stdout;
    assert!(said.contains("daily: sanoid keeps 30, taken at 23:59; vitrify keeps 7"), "{said}");
    scene.world.configure(&format!("{policy}adopt = true\n"))?;
    let said = compare(0, &[])?.stdout;
    assert!(said.contains("Both do the same."), "{said}");
    let json = compare(0, &["--json"])?.json()?;
    assert_eq!(json["rows"].as_array().map(Vec::len), Some(1), "{json}");
    let now = |who: &str, what: &str| {
        let names = json["rows"][0]["now"][who][what].as_array().into_iter().flatten();
        names.filter_map(|it| it.as_str().map(str::to_owned)).collect::<BTreeSet<_>>()
    };
    assert_eq!(now("sanoid", "prunes").len(), 115 + 4, "{json}");
    assert_eq!(now("vitrify", "prunes"), now("sanoid", "prunes"));
    assert_eq!((now("sanoid", "takes").len(), now("vitrify", "takes").len()), (3, 3), "{json}");
    Ok(())
}

fn only_where_adopted() -> Outcome {
    let pool = Pool::zfs(POOL_MIB)?;
    let dataset = pool.dataset("guest")?;
    pool.subvolume("guest")?;
    history(&dataset)?;
    let before = sanoids(&dataset)?;
    assert_eq!(before.len(), 118 + 30 + 40);
    let mut scene = Scene::of(World::on(pool)?, &["guest/a.raw"], Witness::unconfined)?;
    let policy = format!(
        "\n[policy.test]\nhourly = 36\ndaily = 30\nmonthly = 3\n[[guest]]\nmatch = \"{}\"\n\
         policy = \"test\"\n",
        scene.guest.name()
    );
    comparison(&scene, &dataset, &policy)?;
    scene.world.configure(&policy)?;
    scene.vitrify(0, &["run"])?;
    assert_eq!(sanoids(&dataset)?, before);

    scene.world.configure(&format!("{policy}adopt = true\n"))?;
    let rehearsed = scene.vitrify(0, &["run", "--dry-run"])?;
    let doomed = named(&rehearsed.stdout);
    // A point was taken by the first run, so that one fewer of each period is needed.
    let count = |period: &str| doomed.iter().filter(|it| it.ends_with(period)).count();
    assert_eq!((count("_monthly"), count("_daily"), count("_hourly")), (116, 1, 5));
    assert!(rehearsed.stderr.contains("more than half"), "{}", rehearsed.stderr);
    assert_eq!(sanoids(&dataset)?, before);
    // Nobody's policy means that, until somebody says so.
    let refused = scene.vitrify(3, &["run"])?;
    assert!(refused.stderr.contains("122 of sanoid's 188 snapshots"), "{}", refused.stderr);
    assert_eq!(sanoids(&dataset)?, before);
    let held = doomed.first().ok_or("nothing would go")?.clone();
    must("zfs", &["hold", "keep", &format!("{dataset}@{held}")])?;
    let went = scene.vitrify(0, &["run", "--yes"])?;
    let left = before.iter().filter(|it| !doomed.contains(*it) || **it == held).cloned().collect();
    assert_eq!(sanoids(&dataset)?, left);
    assert_eq!(named(&went.stdout), doomed.iter().filter(|it| **it != held).cloned().collect());
    must("zfs", &["release", "keep", &format!("{dataset}@{held}")])?;
    let went = scene.vitrify(0, &["prune"])?;
    assert_eq!(named(&went.stdout), BTreeSet::from([held]));
    assert_eq!(scene.guest.serial.mismatches(), [""; 0]);
    scene.guest.serial.steps_on(20, SOON)?;
    Ok(())
}
