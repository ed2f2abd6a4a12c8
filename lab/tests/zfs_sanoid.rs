//! `vitrify sanoid` on real pools: what the well-known configuration takes, what is pruned, and what
//! its scripts hear.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use vitrify_lab::harness::{self, Machine, Outcome};
use vitrify_lab::pool::Pool;
use vitrify_lab::run::{must, run};
use vitrify_lab::scratch::Scratch;
use vitrify_lab::vitrify::Vitrify;

/// Size of a pool, in MiB; sparse.
const POOL_MIB: u64 = 256;
/// How long a run may take, also on an emulated machine.
const LIMIT: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    harness::run_on(
        Machine::Zfs,
        2,
        &[
            ("the_well_known_configuration", the_well_known_configuration),
            ("recursive_zfs_is_one_transaction_group", recursive_zfs),
            ("what_has_served_goes_and_nothing_else", what_has_served_goes),
            ("a_script_that_hangs_is_killed_and_the_next_is_told", a_script_that_hangs),
            ("a_dataset_that_is_not_there_keeps_no_other_one", not_there),
        ],
    )
}

/// A pool with some datasets, and a folder for the configuration, the locks and what scripts write.
struct Scene {
    pool: Pool,
    folder: Scratch,
    program: PathBuf,
}

impl Scene {
    fn new(datasets: &[&str]) -> Result<Self, Box<dyn Error>> {
        let pool = Pool::zfs(POOL_MIB)?;
        for name in datasets {
            must("zfs", &["create", &pool.dataset(name)?])?;
        }
        let program = Vitrify::new(Path::new(""), Path::new("")).program().to_owned();
        Ok(Self { pool, folder: Scratch::new()?, program })
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Runs it with this configuration, in which POOL is the pool and HEARD a file; what it says on
    /// stderr. The exit status must be this one.
    fn run(&self, status: i32, text: &str, options: &[&str]) -> Result<String, Box<dyn Error>> {
        let text = text.replace("POOL", &self.pool.dataset("")?).replace("HEARD", &self.heard());
        fs::write(self.file("sanoid.conf"), text)?;
        let mut command = Command::new(&self.program);
        command.args(["sanoid", "--configdir", &self.file("")]);
        command.args(["--run-dir", &self.file("locks")]).args(options);
        let finished = run(&mut command, LIMIT)?;
        assert_eq!(finished.status.code(), Some(status), "{}{}", finished.stdout, finished.stderr);
        Ok(finished.stderr)
    }

    fn heard(&self) -> String {
        self.file("heard")
    }

    /// The lines that scripts wrote, with the pool's name left out.
    fn lines(&self) -> Result<Vec<String>, Box<dyn Error>> {
        let (pool, text) = (self.pool.dataset("")?, fs::read_to_string(self.heard())?);
        Ok(text.replace(&format!("{pool}/"), "").lines().map(str::to_owned).collect())
    }

    /// Every snapshot as `dataset@name`, with the pool's name left out, and its transaction group.
    fn snapshots(&self) -> Result<Vec<(String, String)>, Box<dyn Error>> {
        let pool = self.pool.dataset("")?;
        let arguments = ["list", "-H", "-p", "-t", "snapshot", "-o", "name,createtxg", "-r", &pool];
        let listed = must("zfs", &arguments)?.replace(&format!("{pool}/"), "");
        let pairs = listed.lines().filter_map(|line| line.split_once('\t'));
        Ok(pairs.map(|(name, group)| (name.to_owned(), group.to_owned())).collect())
    }

    /// The same as `dataset period`, sorted.
    fn periods(&self) -> Result<Vec<String>, Box<dyn Error>> {
        let snapshots = self.snapshots()?;
        let shown = snapshots.iter().filter_map(|(name, _)| {
            Some(format!("{} {}", name.split_once('@')?.0, name.rsplit_once('_')?.1))
        });
        let mut shown: Vec<_> = shown.collect();
        shown.sort();
        Ok(shown)
    }
}

const WELL_KNOWN: &str = "\
[POOL/vm]
use_template = production,scripts
recursive = yes
process_children_only = yes

[template_production]
frequently = 0
hourly = 36
daily = 30
monthly = 3
yearly = 0
autosnap = yes
autoprune = yes

[template_scripts]
pre_snapshot_script = echo $SANOID_SCRIPT $SANOID_TARGET $SANOID_SNAPNAME >> HEARD
post_snapshot_script = echo $SANOID_SCRIPT $SANOID_TARGET $SANOID_SNAPNAME >> HEARD
no_inconsistent_snapshot = yes
force_post_snapshot_script = yes
";

fn the_well_known_configuration() -> Outcome {
    let scene = Scene::new(&["vm", "vm/a", "vm/b", "other"])?;
    scene.run(0, WELL_KNOWN, &["--cron"])?;
    let wanted = ["a daily", "a hourly", "a monthly", "b daily", "b hourly", "b monthly"];
    assert_eq!(scene.periods()?, wanted.map(|it| format!("vm/{it}")));
    let heard = scene.lines()?;
    let words: Vec<Vec<_>> = heard.iter().map(|it| it.split(' ').collect()).collect();
    let order: Vec<_> = words.iter().map(|it| it[..2].join(" ")).collect();
    assert_eq!(order, ["pre vm/a", "post vm/a", "pre vm/b", "post vm/b"]);
    let taken = scene.snapshots()?;
    for line in &words {
        let name = format!("{}@{}", line[1], line[2]);
        assert!(taken.iter().any(|it| it.0 == name), "{name} of {taken:?}");
    }
    // Nothing is due, so nothing is run.
    scene.run(0, WELL_KNOWN, &["--cron"])?;
    let after: Vec<_> = scene.snapshots()?;
    let hours =
        |all: &[(String, String)]| all.iter().filter(|it| it.0.ends_with("_hourly")).count();
    // Unless an hour began meanwhile.
    assert!(after == taken || hours(&after) > hours(&taken), "{after:?}");
    Ok(())
}

fn recursive_zfs() -> Outcome {
    let scene = Scene::new(&["vm", "vm/a", "vm/a/b", "vm/c"])?;
    let text = "[POOL/vm]\nrecursive = zfs\nhourly = 1\ndaily = 0\nmonthly = 1";
    scene.run(0, text, &["--take-snapshots"])?;
    for period in ["hourly", "monthly"] {
        let all = scene.snapshots()?;
        let of_it: Vec<_> = all.iter().filter(|it| it.0.ends_with(period)).collect();
        assert_eq!(of_it.len(), 4, "{all:?}");
        assert!(of_it.iter().all(|it| it.1 == of_it[0].1), "{of_it:?}");
    }
    Ok(())
}

/// Of a period of which none is kept, all snapshots have served.
fn what_has_served_goes() -> Outcome {
    let scene = Scene::new(&["vm"])?;
    let name = |time: &str| Ok::<_, Box<dyn Error>>(scene.pool.dataset("vm")? + "@" + time);
    let [gone, also_gone, held, cloned] =
        ["01", "02", "03", "04"].map(|hour| format!("autosnap_2026-01-01_{hour}:00:00_hourly"));
    for it in [&gone, &also_gone, &held, &cloned, "autosnap_2026-01-01_05:00:00_weekly", "mine"] {
        must("zfs", &["snapshot", &name(it)?])?;
    }
    must("zfs", &["hold", "keep", &name(&held)?])?;
    must("zfs", &["clone", &name(&cloned)?, &scene.pool.dataset("copy")?])?;
    let text = "[POOL/vm]\nhourly = 0\ndaily = 0\nweekly = 1\nmonthly = 0\n\
                pruning_script = echo $SANOID_TARGET@$SANOID_SNAPNAME >> HEARD";
    let said = scene.run(0, text, &["--prune-snapshots"])?;
    let left: Vec<_> = scene.snapshots()?.into_iter().map(|it| it.0).collect();
    must("zfs", &["release", "keep", &name(&held)?])?;
    let kept = [&held, &cloned, "autosnap_2026-01-01_05:00:00_weekly", "mine"];
    assert_eq!(left, kept.map(|it| format!("vm@{it}")));
    assert!(said.contains(&format!("'zfs holds {}'", name(&held)?)), "{said}");
    assert!(said.contains(&format!("{} is a clone", scene.pool.dataset("copy")?)), "{said}");
    assert_eq!(scene.lines()?, [gone, also_gone].map(|it| format!("vm@{it}")));
    Ok(())
}

fn a_script_that_hangs() -> Outcome {
    let scene = Scene::new(&["vm", "plain"])?;
    let text = "[POOL/vm]\nhourly = 1\ndaily = 0\nmonthly = 0\nscript_timeout = 1\n\
                pre_snapshot_script = sleep 600\n\
                post_snapshot_script = echo $SANOID_PRE_FAILURE $VITRIFY_SNAPSHOT_TAKEN >> HEARD\n\
                no_inconsistent_snapshot = yes\n\
                [POOL/plain]\nhourly = 1\ndaily = 0\nmonthly = 0";
    let said = scene.run(1, text, &["--cron"])?;
    assert!(said.contains("pre_snapshot_script: it was killed after 1 s"), "{said}");
    assert_eq!(scene.lines()?, ["1 0"]);
    assert_eq!(scene.periods()?, ["plain hourly"]);
    Ok(())
}

fn not_there() -> Outcome {
    let scene = Scene::new(&["vm"])?;
    let text = "[POOL/gone]\n[nosuchpool/x]\n[POOL/vm]\nhourly = 1\ndaily = 0\nmonthly = 0";
    let said = scene.run(1, text, &["--cron"])?;
    assert!(said.contains("the pool nosuchpool is not imported"), "{said}");
    assert!(said.contains("sanoid.conf:1: there is no dataset"), "{said}");
    assert_eq!(scene.periods()?, ["vm hourly"]);
    Ok(())
}
