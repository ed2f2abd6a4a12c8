//! The ways to capture a guest with its memory.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use vitrify_lab::run::{Finished, Running, must, virsh};
use vitrify_lab::world::World;

use crate::Failure;
use crate::row::{Captured, Parts};

/// What a command may take beyond the limit of the dump: the commit, the hashes, the clearing up.
const GRACE: Duration = Duration::from_secs(120);
/// What a capture that was given up came to.
const ENDLESS: &str = "did not converge";

/// A way to capture a guest with its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// `virsh snapshot-create-as`, `btrfs subvolume snapshot`, `virsh blockcommit`.
    Recipe,
    /// The same with `--live`.
    RecipeLive,
    /// `vitrify snapshot --engine overlay`.
    Overlay,
    /// `vitrify snapshot --engine instant`.
    Instant,
}

/// A guest with one disk, and where captures of it go.
pub(crate) struct Subject<'a> {
    pub(crate) guest: &'a str,
    pub(crate) volume: PathBuf,
    pub(crate) world: &'a World,
    pub(crate) limit: Duration,
}

impl How {
    /// All of them, in the order in which the tables have them.
    pub(crate) const ALL: [Self; 4] =
        [Self::Recipe, Self::RecipeLive, Self::Overlay, Self::Instant];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Recipe => "recipe",
            Self::RecipeLive => "recipe-live",
            Self::Overlay => "overlay",
            Self::Instant => "instant",
        }
    }

    /// The way of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|how| how.name() == name)
    }

    /// Captures the guest. The inner error is a capture that came to nothing.
    ///
    /// # Errors
    /// What could not be run or found out.
    pub(crate) fn capture(
        self,
        subject: &Subject<'_>,
    ) -> Result<Result<Captured, String>, Failure> {
        match self {
            Self::Recipe => recipe(subject, &[]),
            Self::RecipeLive => recipe(subject, &["--live"]),
            Self::Overlay | Self::Instant => vitrify(subject, self.name()),
        }
    }
}

/// The recipe as it is found in many a script.
fn recipe(subject: &Subject<'_>, live: &[&str]) -> Result<Result<Captured, String>, Failure> {
    let Subject { guest, volume, world, limit } = subject;
    let [memory, overlay] = recipe_files(world);
    let memspec = format!("file={},snapshot=external", memory.display());
    let diskspec = format!("vda,snapshot=external,file={}", overlay.display());
    let mut command = Command::new("virsh");
    command.args(["-q", "-c", "qemu:///system", "snapshot-create-as", guest, "--name", "recipe"]);
    command.args(["--memspec", &memspec, "--diskspec", &diskspec, "--atomic", "--no-metadata"]);
    command.args(live);
    let (dumped, aborted) = dump(&mut command, guest, *limit)?;
    if !dumped.status.success() {
        let said = dumped.stderr.trim().to_owned();
        return Ok(Err(if aborted { ENDLESS.to_owned() } else { said }));
    }
    let snapshot = world.pool.path().join("recipe");
    let [volume, snapshot] = [volume, &snapshot].map(|path| path.display().to_string());
    must("btrfs", &["subvolume", "snapshot", "-r", &volume, &snapshot])?;
    virsh(&["blockcommit", guest, "vda", "--active", "--pivot", "--wait"])?;
    let image_bytes = fs::metadata(memory)?.len();
    Ok(Ok(Captured { image_bytes, own_pause_ms: None, parts: None }))
}

/// Runs the recipe's first command. Past the limit libvirt's job is aborted, as an administrator
/// would; whether it was is told with the command's end.
fn dump(command: &mut Command, guest: &str, limit: Duration) -> Result<(Finished, bool), Failure> {
    let running = Running::start(command)?;
    let (sender, ended) = channel();
    let waiter = thread::spawn(move || {
        let finished = running.finish(limit + GRACE);
        // Nobody listens any more when the limit has passed.
        let _ = sender.send(());
        finished
    });
    let aborted = ended.recv_timeout(limit).is_err();
    if aborted {
        // It may have ended this very moment; then there is no job any more.
        let _ = virsh(&["domjobabort", guest]);
    }
    let finished = waiter.join().map_err(|_| "the thread that waited for virsh died")?;
    Ok((finished?, aborted))
}

fn vitrify(subject: &Subject<'_>, engine: &str) -> Result<Result<Captured, String>, Failure> {
    let arguments = ["snapshot", subject.guest, "--engine", engine, "--json", "--quiet"];
    let outcome = subject.world.vitrify.run_within(subject.limit + GRACE, &arguments)?;
    if outcome.code != Some(0) {
        return Ok(Err(outcome.stderr.trim().to_owned()));
    }
    let taken = outcome.json()?;
    let image_bytes = taken["memory_bytes"].as_u64().ok_or("no memory_bytes")?;
    let (own_pause_ms, parts) = (taken["pause_ms"].as_f64(), Parts::of(&taken["pause_parts_ms"]));
    Ok(Ok(Captured { image_bytes, own_pause_ms, parts }))
}

/// The recipe's memory file and overlay.
pub(crate) fn recipe_files(world: &World) -> [PathBuf; 2] {
    [world.store.join("recipe.memory"), world.overlays.join("recipe.qcow2")]
}
