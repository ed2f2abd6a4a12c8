//! The command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use vitrify_core::capture::{Consistency, Engine};
use vitrify_core::name::{GuestName, PointName};
use vitrify_core::point::PointRef;

const AFTER_HELP: &str = "\
GUEST@POINT splits at the last '@'. POINT is a point's name, its id, a time (the newest point at \
or before it, local time; a day means its end), 'latest' or 'latest-N'. 'latest' and times leave \
safety points out.

Exit status:
  0   done
  1   some of the work failed, or a store is full (each failure is on stderr)
  2   wrong usage or configuration, unknown guest or point, bad name
  3   refused, to protect data: a mismatch, a name that exists, a running guest without --force
  4   the host or the guest lacks something: storage, store, libvirt
  75  another vitrify holds the lock";

/// Restore points of running libvirt guests: memory, disks, firmware variables and definition,
/// all of one instant.
#[derive(Debug, Parser)]
#[command(name = "vitrify", version, after_help = AFTER_HELP, disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct Global {
    /// Configuration file [default: /etc/vitrify/vitrify.toml if it exists]; conf.d/*.toml beside
    /// it is read too.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// libvirt's URI.
    #[arg(long, global = true, value_name = "URI", default_value = "qemu:///system")]
    pub(crate) connect: String,
    /// Where the journal and the locks are kept, and the homes and overlays unless the
    /// configuration says otherwise [default: /var/lib/vitrify; not root:
    /// $XDG_STATE_HOME/vitrify].
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Print one compact JSON document on stdout.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say each step on stderr.
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
    /// Say nothing on stderr but errors.
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// No progress display on a terminal.
    #[arg(long, global = true)]
    pub(crate) no_progress: bool,
    /// Do what has no way back without asking.
    #[arg(long, global = true)]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Snapshot(SnapshotArgs),
    List(ListArgs),
    Show(ShowArgs),
    Restore(RestoreArgs),
    /// Check this host and every guest: what can be captured, how, and what to do about the rest.
    ///
    /// Changes no guest and no storage. Exit status 0 if every guest can be captured, even if not at
    /// its best; 1 if one cannot, or if the host lacks something.
    Doctor,
    Repair(RepairArgs),
}

/// Take a restore point of each guest now, while it runs.
///
/// A guest that runs is captured with its memory where that is possible: libvirt dumps RAM while
/// the guest runs on, its disks are frozen for the moment, their volumes are snapshotted, and the
/// guest is back on its own images when this command ends. The pause is about a tenth of a second;
/// a guest that rewrites its memory at full speed can be paused for longer than a second.
/// What stands against it is printed and recorded, and the point is taken as a power failure
/// would leave the disks ('crash').
///
/// With --json, one guest gives one object (version, guest, point, id, consistency, engine,
/// reason, pause_ms, stalled_ms, duration_ms, memory_bytes, stored_bytes, volumes, uncovered);
/// several give {version, points, failures}.
#[derive(Debug, ClapArgs)]
pub(crate) struct SnapshotArgs {
    /// The guests, one after the other.
    #[arg(required = true, value_name = "GUEST")]
    pub(crate) guests: Vec<GuestName>,
    /// Fail unless the point reaches this [default: the best that the guest allows].
    #[arg(long)]
    pub(crate) consistency: Option<WantedConsistency>,
    /// Fail unless it can be done this way.
    #[arg(long, default_value = "auto")]
    pub(crate) engine: WantedEngine,
    /// The point's name; by default `vitrify_`, the time in UTC, and `_manual`.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) name: Option<PointName>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum WantedConsistency {
    /// RAM, devices and disks of one instant.
    Memory,
    /// The disks as a power failure would leave them.
    Crash,
}

impl From<WantedConsistency> for Consistency {
    fn from(wanted: WantedConsistency) -> Self {
        match wanted {
            WantedConsistency::Memory => Self::Memory,
            WantedConsistency::Crash => Self::Crash,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum WantedEngine {
    /// As fits the guest.
    Auto,
    /// libvirt's external snapshot with RAM, committed back at once.
    Overlay,
    /// The volumes' snapshots alone.
    Plain,
}

impl From<WantedEngine> for Option<Engine> {
    fn from(wanted: WantedEngine) -> Self {
        match wanted {
            WantedEngine::Auto => None,
            WantedEngine::Overlay => Some(Engine::Overlay),
            WantedEngine::Plain => Some(Engine::Plain),
        }
    }
}

/// List restore points, newest first.
#[derive(Debug, ClapArgs)]
pub(crate) struct ListArgs {
    /// Only this guest's.
    pub(crate) guest: Option<GuestName>,
    /// No header, fields separated by tabs.
    #[arg(short = 'H')]
    pub(crate) no_header: bool,
    /// Exact numbers: bytes, microseconds, seconds since 1970.
    #[arg(short = 'p')]
    pub(crate) parsable: bool,
}

/// Show everything about one restore point.
#[derive(Debug, ClapArgs)]
pub(crate) struct ShowArgs {
    /// The point.
    #[arg(value_name = "GUEST@POINT")]
    pub(crate) point: PointRef,
}

/// Put a guest back to a restore point, in place.
///
/// First the guest's present state is kept as a safety point. Then the point's disks are copied
/// beside the present ones (sharing blocks, so this takes little time and room), the guest is
/// stopped, the files change places, and the guest continues from its memory image. Only this
/// guest's files are touched. If a step fails, everything is put back and the guest is left shut
/// off; if this command is killed, 'vitrify repair' finishes it or undoes it.
///
/// A memory image is resumed only on the very snapshots that it was taken with, and only if every
/// byte of it is as it was written. Nothing overrides that; --cold leaves the memory aside. A
/// guest that was shut off at the capture stays so.
#[derive(Debug, ClapArgs)]
pub(crate) struct RestoreArgs {
    /// The point.
    #[arg(value_name = "GUEST@POINT")]
    pub(crate) point: PointRef,
    /// Boot from the disks instead of resuming memory; needed for a point without memory.
    #[arg(long)]
    pub(crate) cold: bool,
    /// Leave the guest suspended.
    #[arg(long)]
    pub(crate) paused: bool,
    /// Stop the guest if it is running.
    #[arg(long)]
    pub(crate) force: bool,
    /// Keep the guest's present definition.
    #[arg(long)]
    pub(crate) keep_definition: bool,
    /// Take no safety point: what the guest is now is lost. Asks for the guest's name on a
    /// terminal, and needs --yes elsewhere.
    #[arg(long)]
    pub(crate) no_safety_point: bool,
}

/// Bring back to order what an interrupted capture or restore left behind.
///
/// Resumes a guest that we paused, aborts our snapshot job, commits our overlays, removes what was
/// never published, and finishes or undoes a restore. It touches only what Vitrify's journal
/// records as its own. Nothing to do: silence and exit status 0.
///
/// A guest that is shut off while its disk is on our overlay is left alone (exit status 3) until
/// you say --commit or --discard.
#[derive(Debug, ClapArgs)]
pub(crate) struct RepairArgs {
    /// Only this guest.
    pub(crate) guest: Option<GuestName>,
    /// Only say what would be done.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Keep what the guest wrote since the interrupted capture.
    #[arg(long, requires = "guest", conflicts_with = "discard")]
    pub(crate) commit: bool,
    /// Throw away what the guest wrote since the interrupted capture. Asks for the guest's name on
    /// a terminal, and needs --yes elsewhere.
    #[arg(long, requires = "guest")]
    pub(crate) discard: bool,
}
