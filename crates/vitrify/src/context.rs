//! What every command works with: the configuration, the folders, and the host's ports.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::tz::TimeZone;
use vitrify_core::config::Config;
use vitrify_core::inventory::Guest;
use vitrify_core::manifest::Manifest;
use vitrify_core::name::{GuestName, GuestUuid, PointId, Volume};
use vitrify_core::operation::{JournalEntry, Plan};
use vitrify_core::point::{NotFound, PointRef, select};
use vitrify_core::ports::{Answer, FoundPoint, Homes, Journal, World};
use vitrify_core::problem::{Problem, ProblemKind};
use vitrify_core::userfault;
use vitrify_host::clock::SystemClock;
use vitrify_host::homes::{Reserve, StallLimits, Store, StoreConfig};
use vitrify_host::journal::FileJournal;
use vitrify_host::ledger::LedgerFile;
use vitrify_host::libvirt::Libvirt;
use vitrify_host::locks::Locks;
use vitrify_host::self_test::SelfTest;
use vitrify_host::storage::HostStorage;
use vitrify_host::tick::TickFile;

use crate::args::Global;
use crate::configuration;
use crate::progress::{Progress, Style};

/// Where root's state is kept.
const DEFAULT_STATE: &str = "/var/lib/vitrify";

/// Where root's status lies for everybody.
const DEFAULT_STATUS: &str = "/run/vitrify/status.json";

/// What every command works with.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) homes: Store,
    pub(crate) overlay_folder: PathBuf,
    pub(crate) json: bool,
    pub(crate) yes: bool,
    pub(crate) zone: TimeZone,
    style: Style,
    verbose: bool,
    quiet: bool,
    connect: String,
    state: PathBuf,
    cancelled: Arc<AtomicBool>,
}

/// The ports of this host.
pub(crate) struct Host<'a> {
    hypervisor: Libvirt,
    storage: HostStorage,
    homes: &'a Store,
    journal: FileJournal,
    clock: SystemClock,
}

impl Host<'_> {
    /// The ports as the engine takes them.
    pub(crate) fn world(&self) -> World<'_> {
        World {
            hypervisor: &self.hypervisor,
            storage: &self.storage,
            homes: self.homes,
            journal: &self.journal,
            clock: &self.clock,
        }
    }

    /// What confines the guests, and their QEMU: a verdict of the self-test holds as long as that stays.
    pub(crate) fn security(&self) -> Answer<String> {
        self.hypervisor.confinement()
    }

    /// What is known of userfaultfd.
    pub(crate) fn userfault(&self) -> Answer<userfault::Facts> {
        vitrify_host::userfault::facts(&self.hypervisor)
    }

    /// The guest of this name.
    pub(crate) fn guest(&self, name: &GuestName) -> Answer<Guest> {
        self.hypervisor.find(name).map_err(|problem| match problem.kind {
            ProblemKind::NotFound => problem.hint("'virsh list --all' shows the guests"),
            _ => problem,
        })
    }

    /// Refuses to begin anything on a guest while something of it is unfinished.
    pub(crate) fn check_settled(&self, name: &GuestName, uuid: &GuestUuid) -> Answer<()> {
        for damaged in self.journal.damaged()? {
            let guests = damaged.plan.as_ref().map(Plan::guests);
            if guests.is_none_or(|guests| guests.iter().any(|it| it.1 == uuid)) {
                return Err(damaged.problem);
            }
        }
        let entries = self.journal.entries()?;
        let concerns = |entry: &&JournalEntry| entry.plan.guests().iter().any(|it| it.1 == uuid);
        match entries.iter().find(concerns) {
            None => Ok(()),
            Some(entry) => Err(Problem::refused(format!(
                "an interrupted operation ({}) of guest '{name}' is not settled",
                entry.plan.id()
            ))
            .hint(format!("'vitrify repair {name}' settles it"))),
        }
    }
}

impl Context {
    /// Reads the configuration and finds the folders. Touches nothing but what it reads.
    pub(crate) fn new(global: &Global) -> Answer<Self> {
        let config = configuration::load(global.config.as_deref())?;
        let state = match &global.state {
            Some(path) => path.clone(),
            None => default_state()?,
        };
        let store = config.store.clone().unwrap_or_else(|| state.join("memory"));
        let reserve = Reserve::Percent(u8::try_from(config.reserve_percent).unwrap_or(99));
        let cancelled = Arc::new(AtomicBool::new(false));
        let (on_root, spool) = (config.on_root, config.spool.clone());
        let homes = Store::new(
            StoreConfig { path: store, reserve, on_root, spool, stall: StallLimits::default() },
            Arc::clone(&cancelled),
        );
        let overlay_folder =
            config.overlay_folder.clone().unwrap_or_else(|| state.join("overlays"));
        Ok(Self {
            config,
            homes,
            overlay_folder,
            json: global.json,
            yes: global.yes,
            zone: TimeZone::system(),
            verbose: global.verbose,
            quiet: global.quiet,
            style: Style::of(global.quiet, global.verbose, global.no_progress),
            connect: global.connect.clone(),
            state,
            cancelled,
        })
    }

    /// Makes our own folders where they are missing, and opens the ports. From here on Ctrl-C and
    /// SIGTERM ask the present operation to give up and put everything in order.
    pub(crate) fn host(&self) -> Answer<Host<'_>> {
        listen_for_signals(&self.cancelled)?;
        // Others may pass through to the overlays, which QEMU opens under its own user; they can
        // list nothing on the way.
        make_folder(&self.state, 0o711)?;
        if self.config.overlay_folder.is_none() {
            make_folder(&self.overlay_folder, 0o711)?;
        }
        self.make_default_store()?;
        let program = std::env::current_exe()
            .map_err(|error| Problem::io("cannot find the program itself", error))?;
        Ok(Host {
            hypervisor: Libvirt::connect(&self.connect, Arc::clone(&self.cancelled))?
                .guarded(program, self.config.pause_limit),
            storage: HostStorage,
            homes: &self.homes,
            journal: FileJournal::open(self.state.join("journal"))?,
            clock: SystemClock,
        })
    }

    fn make_default_store(&self) -> Answer<()> {
        match self.config.store {
            None => make_folder(self.homes.path(), 0o700),
            Some(_) => Ok(()),
        }
    }

    /// Locks guests and volumes for this process.
    pub(crate) fn lock(&self, guests: &[&GuestUuid], volumes: &[Volume]) -> Answer<Locks> {
        let guests = guests.iter().map(|guest| format!("guest {guest}"));
        let keys: Vec<_> = guests.chain(volume_keys(volumes)).collect();
        Locks::acquire(&self.state.join("locks"), &keys)
    }

    /// Keeps other ticks out.
    pub(crate) fn lock_tick(&self) -> Answer<Locks> {
        Locks::acquire(&self.state.join("locks"), &["tick".to_owned()])
    }

    /// Remembers when the last tick was.
    pub(crate) fn tick_file(&self) -> TickFile {
        TickFile::new(self.state.join("last-tick.json"))
    }

    /// What was taken of volumes without guests.
    pub(crate) fn ledger_file(&self) -> LedgerFile {
        LedgerFile::new(self.state.join("volumes.json"))
    }

    /// Where the journal and the locks are kept.
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// Where the status lies for everybody.
    pub(crate) fn status_file(&self) -> PathBuf {
        match is_root() && self.state == Path::new(DEFAULT_STATE) {
            true => DEFAULT_STATUS.into(),
            false => self.state.join("status.json"),
        }
    }

    /// The engines' self-test.
    pub(crate) fn self_test<'a>(&'a self, host: &'a Host<'_>) -> SelfTest<'a> {
        SelfTest {
            hypervisor: &host.hypervisor,
            state: &self.state,
            new_id,
            cancelled: Arc::clone(&self.cancelled),
        }
    }

    /// What shows an operation's progress.
    pub(crate) fn progress(&self, subject: impl Into<String>) -> Progress {
        Progress::new(subject, self.style, Arc::clone(&self.cancelled))
    }

    /// Whether somebody wants the work to be given up.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Whether each decision and its reason are wanted on stderr.
    pub(crate) fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Whether nothing but errors is wanted on stderr.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Every point of every home, newest first; what cannot be read is reported by the caller.
    pub(crate) fn points(&self) -> Answer<Vec<FoundPoint>> {
        if !self.homes.path().is_dir() {
            return match self.config.store {
                // It is made with the first point.
                None => Ok(Vec::new()),
                // A drive that is not mounted is no empty store.
                Some(_) => self.homes.store().map(|_| Vec::new()),
            };
        }
        let mut points = self.homes.points()?;
        points
            .sort_by_key(|point| std::cmp::Reverse(point.manifest.as_ref().map(|it| it.time).ok()));
        Ok(points)
    }

    /// The one point that is meant, among those that are published.
    pub(crate) fn point(&self, wanted: &PointRef) -> Answer<FoundPoint> {
        let mut points = self.points()?;
        // A point whose manifest is damaged can be named by its id; it says itself what is wrong.
        let is_readable = |point: &FoundPoint| {
            point.id.as_str() == wanted.point
                && point.manifest.as_ref().is_ok_and(|it| it.guest == wanted.guest)
        };
        let is_damaged =
            |point: &FoundPoint| point.manifest.is_err() && point.id.as_str() == wanted.point;
        if let Some(damaged) = points.iter().position(is_damaged)
            && !points.iter().any(is_readable)
        {
            return Ok(points.swap_remove(damaged));
        }
        let manifests: Vec<&Manifest> = points
            .iter()
            .filter(|point| point.published)
            .filter_map(|point| point.manifest.as_ref().ok())
            .filter(|manifest| manifest.guest == wanted.guest)
            .collect();
        let id = match select(&manifests, wanted, &self.zone) {
            Ok(manifest) => manifest.id.clone(),
            Err(error) => {
                let hint = match &error {
                    NotFound::NoPoints(_) => "'vitrify list' shows every guest's points".to_owned(),
                    NotFound::NoSuchPoint { guest, .. } => {
                        format!("'vitrify list {guest}' shows the points")
                    }
                };
                return Err(Problem::not_found(error.to_string()).hint(hint));
            }
        };
        let index = points.iter().position(|point| point.id == id);
        index.map(|index| points.swap_remove(index)).ok_or_else(|| {
            Problem::not_found(format!("point {id} vanished while it was looked for"))
        })
    }
}

/// From here on Ctrl-C, SIGTERM and SIGHUP end nothing; they are told by `cancelled`.
pub(crate) fn listen_for_signals(cancelled: &Arc<AtomicBool>) -> Answer<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(cancelled))
            .map_err(|error| Problem::io("cannot listen for signals", error))?;
    }
    Ok(())
}

fn volume_keys(volumes: &[Volume]) -> impl Iterator<Item = String> {
    volumes.iter().map(|volume| format!("volume {volume}"))
}

/// A new identity.
pub(crate) fn new_id() -> Answer<PointId> {
    uuid::Uuid::new_v4()
        .hyphenated()
        .to_string()
        .parse()
        .map_err(|error| Problem::failed("cannot make an id").from(error))
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn default_state() -> Answer<PathBuf> {
    if is_root() {
        return Ok(DEFAULT_STATE.into());
    }
    let of =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    of("XDG_STATE_HOME")
        .or_else(|| Some(of("HOME")?.join(".local/state")))
        .map(|base| base.join("vitrify"))
        .ok_or_else(|| {
            Problem::new(ProblemKind::NotFound, "neither XDG_STATE_HOME nor HOME is set")
                .hint("say where the state is kept with --state DIR")
        })
}

fn make_folder(path: &Path, mode: u32) -> Answer<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
                make_folder(parent, mode)?;
                return make_folder(path, mode);
            }
            Err(Problem::io(format!("cannot make the folder {}", path.display()), error))
        }
        result => result.map_err(|error| {
            Problem::io(format!("cannot make the folder {}", path.display()), error)
                .hint("run vitrify as root, or say where the state is kept with --state DIR")
        }),
    }
}
