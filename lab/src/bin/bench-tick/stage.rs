//! The pool that is not there, and the tools that look at it.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use vitrify_lab::image::packages_in_cache;
use vitrify_lab::run::{must, run};
use vitrify_lab::scratch::Scratch;
use vitrify_lab::vitrify::Vitrify;

use crate::options::Options;

/// The pool.
const POOL: &str = "benchtick";
/// Where Debian's sanoid looks for its defaults.
const DEFAULTS: &str = "/usr/share/sanoid/";
const LIMIT: Duration = Duration::from_secs(900);
const HOUR: u64 = 60 * 60;

/// A tool, and in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Debian's `sanoid --cron`, without its cache.
    SanoidCold,
    /// The same, right after.
    SanoidWarm,
    /// `vitrify sanoid --cron`, which has no cache.
    Drop,
    /// `vitrify run --dry-run`.
    Run,
}

impl Way {
    pub(crate) const ALL: [Self; 4] = [Self::SanoidCold, Self::SanoidWarm, Self::Drop, Self::Run];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SanoidCold => "sanoid --cron, cold",
            Self::SanoidWarm => "sanoid --cron, warm",
            Self::Drop => "vitrify sanoid --cron",
            Self::Run => "vitrify run --dry-run",
        }
    }
}

/// Programs that answer from files and count, and the tools' configurations.
pub(crate) struct Stage {
    scratch: Scratch,
    vitrify: Vitrify,
}

impl Stage {
    pub(crate) fn set(options: &Options) -> Result<Self, Box<dyn Error>> {
        let scratch = Scratch::new()?;
        let of = |name: &str| scratch.path().join(name);
        let vitrify = Vitrify::new(&of("vitrify.toml"), &of("state"));
        let stage = Self { scratch, vitrify };
        for folder in ["bin", "etc", "state", "run", "sanoid"] {
            fs::create_dir(stage.path(folder))?;
        }
        stage.unpack_sanoid()?;
        stage.write_lists(options)?;
        let text = format!(
            "[{POOL}]\nuse_template = production\nrecursive = yes\n\n[template_production]\n\
             hourly = {}\ndaily = 1\nmonthly = 1\nyearly = 0\nautosnap = yes\nautoprune = yes\n",
            options.snapshots - 2
        );
        fs::write(stage.path("etc/sanoid.conf"), text)?;
        fs::write(stage.path("vitrify.toml"), "")?;
        stage.write_programs()?;
        Ok(stage)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Into a folder of its own, with its defaults found there.
    fn unpack_sanoid(&self) -> Result<(), Box<dyn Error>> {
        let to = self.path("sanoid");
        for package in packages_in_cache("sanoid")? {
            let [package, to] = [&package, &to].map(|it| it.display().to_string());
            must("dpkg-deb", &["--extract", &package, &to])?;
        }
        let program = to.join("usr/sbin/sanoid");
        let text = fs::read_to_string(&program)?;
        let here = format!("{}/", to.join("usr/share/sanoid").display());
        Ok(fs::write(&program, text.replace(DEFAULTS, &here))?)
    }

    /// A pool in which nothing is due and nothing has served.
    fn write_lists(&self, options: &Options) -> Result<(), Box<dyn Error>> {
        let now = SystemTime::UNIX_EPOCH.elapsed()?.as_secs();
        let (mut names, mut ours, mut theirs) = (String::new(), String::new(), String::new());
        let of = |age: u64, period| Ok::<_, Box<dyn Error>>((now - age, stamp(now - age)?, period));
        let mut snapshots = vec![of(0, "monthly")?, of(0, "daily")?];
        for age in 0..options.snapshots - 2 {
            snapshots.push(of(age * HOUR, "hourly")?);
        }
        let mut guid = 0;
        for number in 0..options.datasets {
            let dataset = match number {
                0 => POOL.to_owned(),
                _ => format!("{POOL}/d{number}"),
            };
            writeln!(names, "{dataset}")?;
            writeln!(ours, "{dataset}\t{number}\t{now}\t1\t-\t-")?;
            for (place, (time, stamp, period)) in snapshots.iter().enumerate() {
                guid += 1;
                let order = snapshots.len() - place;
                let snapshot = format!("{dataset}@autosnap_{stamp}_{period}");
                writeln!(ours, "{snapshot}\t{guid}\t{time}\t{order}\t0\t")?;
                writeln!(theirs, "{snapshot}\tcreation\t{time}\t-")?;
            }
        }
        fs::write(self.path("names"), names)?;
        fs::write(self.path("list"), ours)?;
        fs::write(self.path("creation"), theirs)?;
        Ok(())
    }

    fn write_programs(&self) -> Result<(), Box<dyn Error>> {
        let folder = self.scratch.path().display();
        let zfs = format!(
            "case \"$*\" in\n\
             *'snapshot creation'*) exec cat {folder}/creation ;;\n\
             'list -o name -t filesystem,volume'*) exec cat {folder}/names ;;\n\
             *'name,guid,creation,createtxg,userrefs,clones'*) exec cat {folder}/list ;;\n\
             *) echo \"not expected: zfs $*\" >&2; exit 1 ;;\nesac\n"
        );
        let zpool = format!(
            "case \"$*\" in\n\
             *name,health,capacity*) printf '{POOL}\\tONLINE\\t40\\n' ;;\n\
             *'-o cap'*) echo 40% ;;\n\
             *) echo \"not expected: zpool $*\" >&2; exit 1 ;;\nesac\n"
        );
        let ps = must("sh", &["-c", "command -v ps"])?;
        for (name, text) in
            [("zfs", zfs), ("zpool", zpool), ("ps", format!("exec {} \"$@\"\n", ps.trim()))]
        {
            let path = self.path("bin").join(name);
            fs::write(&path, format!("#!/bin/sh\necho {name} >> {folder}/started\n{text}"))?;
            fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    /// How long it took, and how many programs it started.
    pub(crate) fn run(&self, way: Way) -> Result<(Duration, usize), Box<dyn Error>> {
        let folder = |name: &str| self.path(name).display().to_string();
        if way == Way::SanoidCold {
            remove(&self.path("cache"))?;
        }
        let mut command = match way {
            Way::SanoidCold | Way::SanoidWarm => {
                let mut command = Command::new("perl");
                command.arg(self.path("sanoid/usr/sbin/sanoid"));
                command.env("PERL5LIB", self.path("sanoid/usr/share/perl5"));
                command.args(["--cron", "--cache-dir", &folder("cache")]);
                command.args(["--configdir", &folder("etc"), "--run-dir", &folder("run")]);
                command
            }
            Way::Drop => self.vitrify.command(&[
                "sanoid",
                "--cron",
                "--configdir",
                &folder("etc"),
                "--run-dir",
                &folder("run"),
            ]),
            Way::Run => self.vitrify.command(&["run", "--dry-run"]),
        };
        let path = format!("{}:{}", folder("bin"), env::var("PATH")?);
        fs::write(self.path("started"), "")?;
        let begun = Instant::now();
        let finished = run(command.env("PATH", path).env("TZ", "UTC"), LIMIT)?;
        let took = begun.elapsed();
        let started = fs::read_to_string(self.path("started"))?.lines().count();
        match finished.status.success() && finished.stderr.is_empty() {
            true => Ok((took, started)),
            false => Err(format!("{}: {} {}", way.name(), finished.status, finished.stderr).into()),
        }
    }
}

/// A time as it stands in a snapshot's name.
fn stamp(seconds: u64) -> Result<String, Box<dyn Error>> {
    let stamp = must("date", &["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%d_%H:%M:%S"])?;
    Ok(stamp.trim().to_owned())
}

fn remove(folder: &Path) -> Result<(), Box<dyn Error>> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
