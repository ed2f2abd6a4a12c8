//! The command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

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

/// The arguments as they are read: a program that is called 'sanoid' is 'vitrify sanoid'.
pub(crate) fn command_line(given: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut given: Vec<_> = given.into_iter().collect();
    let is_sanoid = |it: &OsString| Path::new(it).file_name().is_some_and(|it| it == "sanoid");
    if given.first().is_some_and(is_sanoid) {
        given.splice(..1, ["vitrify".into(), "sanoid".into()]);
    }
    given
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
    Doctor(DoctorArgs),
    Verify(VerifyArgs),
    Export(ExportArgs),
    Repair(RepairArgs),
    Status(StatusArgs),
    Metrics(MetricsArgs),
    Run(RunArgs),
    Prune(PruneArgs),
    Delete(DeleteArgs),
    /// Keep a restore point until 'release' lets it go: neither 'delete' nor a policy removes it.
    ///
    /// On ZFS its snapshots are held as well ('zfs holds' shows vitrify:hold:ID, ID being the point's), so
    /// that no 'zfs destroy' and no other tool can take them; who is not root needs 'zfs allow' of hold and
    /// release for that. Btrfs has no holds: there only vitrify keeps them. A point may be held again.
    Hold(HoldArgs),
    /// Let a restore point go that 'hold' keeps.
    ///
    /// On ZFS its snapshots are released: only what vitrify holds for this very point. Holds of others, and
    /// of other points that share a snapshot, stay.
    Release(HoldArgs),
    Config(ConfigArgs),
    Sanoid(SanoidArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
    Uninstall(UninstallArgs),
    /// Lets guests go when the vitrify that holds them dies. Started by vitrify itself.
    #[command(hide = true)]
    Guard,
}

/// Take a restore point of each guest now, while it runs.
///
/// A guest that runs is captured with its memory where that is possible: it is suspended while its
/// volumes are snapshotted, some tens of milliseconds, and QEMU streams its RAM of that instant to
/// the memory store while it runs on ('instant'). Slow storage is snapshotted after that, while
/// overlays take what the guest writes. Where that cannot be had, libvirt dumps RAM and puts the
/// disks on overlays, which are committed back at once ('overlay'): the pause is about a tenth of a
/// second, longer for a guest that rewrites its memory at full speed.
/// Both must have passed a self-test on these versions and this kind of storage, which the first
/// capture carries out ('doctor --self-test'); '--engine' does not wait for it.
/// What stands against both is printed and recorded, and the point is taken by the guest's agent,
/// which freezes its file systems meanwhile ('frozen'), or else as a power failure would leave
/// the disks ('crash'). The guest is then suspended for the snapshots if its disks lie on volumes
/// that cannot be snapshotted at one instant: two ZFS pools, two Btrfs subvolumes.
///
/// The hooks of the configuration run around each capture, while the guests run. One that fails is
/// an error (exit status 1), and the point is taken all the same.
///
/// With --json, one guest gives one object (version, guest, point, names, id, consistency, engine,
/// reason, pause_ms, pause_parts_ms, stalled_ms, duration_ms, memory_bytes, stored_bytes, volumes,
/// uncovered); several give {version, points, failures}. Where we suspended the guest, the parts of
/// its pause are suspend, snapshot, setup and device_state (QEMU's, before it saves RAM), resume,
/// and others; -v shows them, too.
#[derive(Debug, ClapArgs)]
pub(crate) struct SnapshotArgs {
    /// The guests. Those that share a dataset or subvolume are captured together.
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
    /// The disks with their file systems flushed and frozen by the guest's agent.
    Frozen,
    /// The disks as a power failure would leave them.
    Crash,
}

impl From<WantedConsistency> for Consistency {
    fn from(wanted: WantedConsistency) -> Self {
        match wanted {
            WantedConsistency::Memory => Self::Memory,
            WantedConsistency::Frozen => Self::Frozen,
            WantedConsistency::Crash => Self::Crash,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum WantedEngine {
    /// As fits the guest.
    Auto,
    /// The guest is suspended for the snapshots only; QEMU streams its RAM of that instant while it
    /// runs on.
    Instant,
    /// libvirt's external snapshot with RAM, committed back at once.
    Overlay,
    /// The guest's agent freezes its file systems during the snapshots.
    Freeze,
    /// The volumes' snapshots alone.
    Plain,
}

impl From<WantedEngine> for Option<Engine> {
    fn from(wanted: WantedEngine) -> Self {
        match wanted {
            WantedEngine::Auto => None,
            WantedEngine::Instant => Some(Engine::Instant),
            WantedEngine::Overlay => Some(Engine::Overlay),
            WantedEngine::Freeze => Some(Engine::Freeze),
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

/// Read memory images to their last byte and compare them with their manifests.
///
/// Changes nothing. Exit status 3 if an image is not what was captured: it cannot be resumed, and
/// each such point is named; its disks can still be restored with 'restore --cold'.
#[derive(Debug, ClapArgs)]
pub(crate) struct VerifyArgs {
    /// Only this point, or this guest's [default: every point].
    #[arg(value_name = "GUEST[@POINT]")]
    pub(crate) what: Option<VerifyWhat>,
}

/// A guest, or one of its points.
#[derive(Debug, Clone)]
pub(crate) enum VerifyWhat {
    Guest(GuestName),
    Point(PointRef),
}

impl std::str::FromStr for VerifyWhat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.contains('@') {
            true => text.parse().map(Self::Point).map_err(|error| format!("{error}")),
            false => text.parse().map(Self::Guest).map_err(|error| format!("{error}")),
        }
    }
}

/// Write a point's memory out as a file that plain 'virsh restore FILE' resumes.
///
/// Every byte is compared with the manifest on the way. The file names the guest's disks where they
/// were at the capture: resume it only on the disks of that very point (see 'show'), else the guest
/// finds disks that are of another time than its memory, and damages them.
#[derive(Debug, ClapArgs)]
pub(crate) struct ExportArgs {
    /// The point.
    #[arg(value_name = "GUEST@POINT")]
    pub(crate) point: PointRef,
    /// The file, which must not exist. It holds the guest's RAM: keys and passwords.
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) save_image: PathBuf,
}

/// Check this host and every guest: what can be captured, how, and what to do about the rest.
///
/// Changes no guest and no storage, but removes what a killed self-test left behind. Exit status 0 if
/// every guest can be captured, even if not at its best; 1 if one cannot, if the host lacks
/// something, or if an engine does not pass the self-test that was asked for.
#[derive(Debug, ClapArgs)]
pub(crate) struct DoctorArgs {
    /// Only these guests [default: every guest].
    #[arg(value_name = "GUEST")]
    pub(crate) guests: Vec<GuestName>,
    /// Prove the engines that keep memory on this host: a guest of 64 MiB on a scratch volume beside
    /// the guests' own is captured by 'instant' and by 'overlay' and put back with its memory. Takes
    /// some seconds for each kind of storage and removes everything again. 'snapshot' does the same
    /// by itself before it first chooses such an engine on these versions of QEMU, libvirt and kernel.
    #[arg(long)]
    pub(crate) self_test: bool,
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

/// How the guests, and volumes without guests, stand against their policies.
///
/// A guest is WARNING where the newest point of a period is older than one and a half periods, or where
/// the newest point promises less than its rule demands; CRITICAL where it is older than three periods,
/// or where there is none. Guests that no rule covers are shown as unprotected. A volume with a rule
/// is judged by its newest snapshots alike; WARNING also where sanoid's timer takes care of it, CRITICAL
/// where it is not there.
///
/// With --json: {version, guests, volumes, unprotected}, each guest an object of guest, status (ok, warning,
/// critical), reasons, newest (point, time, consistency) and next: when the next point is due; each volume
/// one of volume, status, reasons, newest (snapshot, time) and next. 'run' leaves the same in /run/vitrify/status.json, for who is not root.
#[derive(Debug, ClapArgs)]
pub(crate) struct StatusArgs {
    /// One line with performance data, and Nagios' exit statuses: 0, 1 for a warning, 2, 3 for unknown.
    #[arg(long, conflicts_with = "json")]
    pub(crate) nagios: bool,
}

/// How the guests stand, for Prometheus.
///
/// Gauges of each guest that a rule covers: its level (0 ok, 1 warning, 2 critical, as 'status' has it),
/// its points and memory images, when the newest point of each period was taken, and whether the newest
/// reached what is demanded. Besides, how many guests no rule covers, when the last tick was, and the
/// room of the memory store. What is not known is left out.
#[derive(Debug, ClapArgs)]
pub(crate) struct MetricsArgs {
    /// Write them to this file instead, for node_exporter's textfile collector: in one step, readable
    /// by all. Where the guests cannot be looked at, the file stays as it is.
    #[arg(long, value_name = "FILE")]
    pub(crate) textfile: Option<PathBuf>,
}

/// One tick, what a timer calls: repair, take what is due, prune.
///
/// For each guest that a rule of the configuration covers: points are taken of the periods
/// that its policy names and that are due, all by one capture; then goes what the policy does not keep
/// any longer, memory images included. What was missed while the host was off is not made up for.
/// Only one tick runs at a time (exit status 75).
///
/// Of the volumes that the configuration has rules for, snapshots are taken and pruned alike; without
/// libvirt too, if it has no rule for guests (exit status 4 all the same).
///
/// Pruned are Vitrify's own points only, by their recorded identity. Never the newest point, the newest
/// that reached the demanded consistency, what is held, or what was cloned. Nothing of a guest whose
/// point could not be taken, nothing at all for one tick after the clock was set by more than an hour,
/// and not more than half of a guest's points at once (exit status 3; 'prune' asks). -v prints each
/// decision and its reason.
///
/// The hooks of the configuration run around each capture and each guest's removals; where the hook
/// before a removal fails, nothing of that guest is pruned (exit status 1). The 'notify' command is
/// run where something failed, where a point is less than its rule demands, and when all is well again.
///
/// Hooks get sanoid's variables, VITRIFY_HOOK and VITRIFY_GUESTS, those after the work also VITRIFY_RESULT
/// (taken, pruned or failed) and VITRIFY_ERROR, after a capture VITRIFY_SNAPSHOT_TAKEN,
/// VITRIFY_CONSISTENCY and VITRIFY_ENGINE. The 'notify' command gets VITRIFY_EVENT (failure, degraded
/// or recovery) and VITRIFY_MESSAGE.
///
/// At its end it lays what 'status --json' prints, with the time as 'written', into
/// /run/vitrify/status.json, for everybody to read; where it is not root's, or has a --state of its own,
/// into status.json there. A tick that cannot begin leaves the old one: look at 'written'.
#[derive(Debug, ClapArgs)]
pub(crate) struct RunArgs {
    /// Only say what would be done.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Remove what no policy keeps any longer, as 'run' does.
///
/// Volumes that the configuration names are pruned as well, unless guests are named here. More than half
/// of a guest's points, or of a volume's snapshots, go only after its name was typed on a terminal, or with
/// --yes. The hooks of the configuration run around each guest's and volume's removals, as with 'run'.
#[derive(Debug, ClapArgs)]
pub(crate) struct PruneArgs {
    /// Only these guests' points [default: of every guest that a rule covers].
    #[arg(value_name = "GUEST")]
    pub(crate) guests: Vec<GuestName>,
    /// Only say what would go.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Delete a restore point: its memory image, its files and its snapshots.
///
/// A snapshot that serves another guest's point as well stays until that goes. A point that is held, or
/// whose snapshot is, or that something was cloned from, is refused (exit status 3), and so is one while
/// another that cannot be read may need its snapshots: one of the same guest, or of any guest where the
/// storage does not write on a snapshot for which points it was taken (Btrfs). Asks for the guest's
/// name on a terminal, and needs --yes elsewhere. If this command is killed, 'vitrify repair' finishes
/// what it had begun.
///
/// A point whose manifest cannot be read is given up by its id: what its home has of it goes, its memory
/// image included. Which snapshots it had is not known any more: they stay, and 'vitrify repair' names
/// them. Where nobody knows the guest's name any more, its uuid will do.
#[derive(Debug, ClapArgs)]
pub(crate) struct DeleteArgs {
    /// The point.
    #[arg(value_name = "GUEST@POINT")]
    pub(crate) point: PointRef,
}

/// A point to be held, or let go.
#[derive(Debug, ClapArgs)]
pub(crate) struct HoldArgs {
    /// The point.
    #[arg(value_name = "GUEST@POINT")]
    pub(crate) point: PointRef,
}

/// Bring back to order what an interrupted capture or restore left behind.
///
/// Resumes a guest that we paused, thaws one that we froze, aborts our snapshot job, commits our
/// overlays, removes what was never published, finishes or undoes a restore, and removes what a killed
/// self-test left behind. It touches only what the journal records as Vitrify's own, or where that is
/// lost, the plan that is staged with a capture's point. Nothing to do: silence and exit status 0.
///
/// What is not ours by that record is named on a line of its own, "left alone: ...", with the command
/// that ends it, and stays as it is: a guest that somebody paused, a job of libvirt, a block job, an
/// overlay, a switched-on capability, a snapshot or a staged file without a point, a snapshot that
/// another tool took while an overlay was being committed. The exit status does not tell of it.
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

/// Check the configuration, show what it says of each guest, or import sanoid's.
#[derive(Debug, ClapArgs)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read all of the configuration and say what is wrong with it, without doing anything.
    ///
    /// Each error is a line FILE:LINE: MESSAGE on stderr, and the exit status is 2. Of a file that
    /// is no TOML, or has an unknown key or a bad value, that is the first; run it again when it is
    /// mended, because policies and rules are compared only when every file can be read. Two rules
    /// that match one guest are an error too.
    ///
    /// A pattern that matches no guest is a warning only, and so is a hook whose program is not there;
    /// guests that no rule matches are named in a note. Where libvirt is out of reach, a note says that nobody looked at the guests.
    ///
    /// With --json: {version, errors, warnings, policies, rules, unprotected}; errors and warnings
    /// are objects of file, line and message. 'unprotected' is null where nobody looked at the
    /// guests; so it is, with both counts, where a file is wrong.
    Check,
    Show(ConfigShowArgs),
    Import(ConfigImportArgs),
    /// Print the JSON schema of the configuration, by which an editor completes and checks it.
    ///
    /// Put '#:schema FILE' into its first line, FILE being what this printed. 'config check' knows more.
    Schema,
}

/// Turn a sanoid.conf into a configuration of ours, on stdout.
///
/// Policies come from its sections and templates, rules from the guests that have disks on its
/// datasets and for its other datasets, hooks from its scripts where all sections have the same. What is
/// not carried over is a comment with the line of the original. Nothing is changed: put the text where it
/// belongs yourself, in /etc/vitrify/vitrify.toml or a file of /etc/vitrify/conf.d, and have 'config check' read it.
///
/// Where libvirt is out of reach, the policies come without rules, and the exit status is 1.
///
/// With --compare no configuration is printed. For each dataset and each guest on it, a table says what
/// sanoid does by FILE and what vitrify does by its own configuration; where that has no rule, by
/// what would be imported. Below it stand the differences: what only one of them covers, periods, how
/// many are kept, preferred times, scripts, and what of sanoid's snapshots would stay or go. Then
/// what cannot be carried over, and what either would take and prune at this moment, as if it were the
/// only one. Nothing is changed.
///
/// --compare exits with 0 if both do the same, and with 1 if they differ in anything that is taken, kept,
/// pruned or run. What is due at this moment is no difference, and neither is how snapshots are monitored.
/// Exit status 4, and no comparison, where libvirt is out of reach; and where both do the same as far as
/// anybody could see, but a pool does not answer.
///
/// With --compare --json: {version, with (in-force or imported), same, time_zones (null or sanoid,
/// vitrify), rows, not_carried_over, unmatched, not_known}, each row an object of dataset, guest, section and rule (file,
/// line, name or policy; or null), sanoid and vitrify (takes, hooks), differences (what, text) and now (sanoid
/// and vitrify, each null or takes and prunes). kept is null where all are kept.
#[derive(Debug, ClapArgs)]
pub(crate) struct ConfigImportArgs {
    /// sanoid's configuration, as a rule /etc/sanoid/sanoid.conf.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Compare it with the configuration of vitrify that is in force, instead of printing one.
    #[arg(long)]
    pub(crate) compare: bool,
}

/// Show which policy holds for each guest, and in which file and line that stands.
///
/// A point is kept until as many newer ones of its period exist, and it is older than so many
/// periods. Its memory image may go before it: 'hourly 36 (memory 24)' keeps 36 points, and the
/// memory of the newest 24; without such a number, each image stays as long as its point.
///
/// Hooks and the 'notify' command hold for all guests, and stand below the table.
///
/// With --json: {version, time_zone, guests, hooks, notify, timeout_s}, each guest an object of guest, policy (name, file,
/// line, keep, keep_memory, times), rule (file, line), consistency, otherwise and
/// pause_limit_ms. Without a rule, policy and rule are null. A period that keep_memory does not name keeps
/// its memory images as long as its points. time_zone is null where it is the system's.
///
/// Exit status 2 if two rules match a guest that is shown.
#[derive(Debug, ClapArgs)]
pub(crate) struct ConfigShowArgs {
    /// Only this guest, with all that holds for it. libvirt is not asked, so it need not exist.
    pub(crate) guest: Option<GuestName>,
}

/// Take, prune and monitor snapshots of ZFS datasets, in sanoid's place.
///
/// By sanoid's configuration and with its options; also what this program does when it is called
/// 'sanoid'. It reads DIR/sanoid.conf as it is (the defaults of sanoid.defaults.conf are built in), knows
/// nothing of guests and asks no libvirt. It takes and prunes snapshots called autosnap_..., so histories
/// go on. Pruned is by name and guid, never what is held or cloned. Nothing of a section is pruned whose
/// dataset does not exist, and nothing at all by a configuration with an error.
///
/// Scripts run with sanoid's variables. One that exceeds script_timeout is killed with all that it
/// started; the post script runs all the same, and VITRIFY_SNAPSHOT_TAKEN tells it whether there is a
/// snapshot. What scripts say goes to stderr. After Ctrl-C or SIGTERM nothing more is begun, and the post
/// script that is owed still runs.
///
/// Says nothing unless something fails, or a script says something. -v says what is taken and destroyed,
/// and why; --debug also what is not. Exit status 1 if a section has no dataset, a pool does not answer,
/// or a script, a snapshot or a removal failed; 2 for a wrong configuration; 75 while another one does
/// the same. The monitors have those of Nagios. Of the options for every command only -v and -q have a
/// meaning here.
#[derive(Debug, ClapArgs)]
#[command(version, arg_required_else_help = true, next_help_heading = "sanoid's options")]
#[group(skip)]
#[command(group = clap::ArgGroup::new("action").required(true).multiple(true))]
#[command(group = clap::ArgGroup::new("monitor").conflicts_with("work"))]
#[command(group = clap::ArgGroup::new("work").multiple(true))]
pub(crate) struct SanoidArgs {
    /// Where sanoid.conf lies.
    #[arg(long, value_name = "DIR", default_value = "/etc/sanoid")]
    pub(crate) configdir: PathBuf,
    /// Where the locks lie.
    #[arg(long, value_name = "DIR", default_value = "/var/run/sanoid")]
    pub(crate) run_dir: PathBuf,
    /// --take-snapshots and --prune-snapshots.
    #[arg(long, groups = ["action", "work"])]
    pub(crate) cron: bool,
    /// Take what is due.
    #[arg(long, groups = ["action", "work"])]
    pub(crate) take_snapshots: bool,
    /// Destroy what has served.
    #[arg(long, groups = ["action", "work"])]
    pub(crate) prune_snapshots: bool,
    /// Say in one line for Nagios whether the snapshots are young enough.
    #[arg(long, groups = ["action", "monitor"])]
    pub(crate) monitor_snapshots: bool,
    /// Say in one line for Nagios whether every pool is ONLINE.
    #[arg(long, groups = ["action", "monitor"])]
    pub(crate) monitor_health: bool,
    /// Say in one line for Nagios whether the pools have room.
    #[arg(long, groups = ["action", "monitor"])]
    pub(crate) monitor_capacity: bool,
    /// Prune also where a 'zfs send' or 'zfs receive' of the dataset runs.
    #[arg(long)]
    pub(crate) force_prune: bool,
    /// Only say what would be done: no script, no snapshot, no removal, no lock.
    #[arg(long)]
    pub(crate) readonly: bool,
    /// As --verbose, and say also why the rest is not due and stays.
    #[arg(long, conflicts_with = "quiet")]
    pub(crate) debug: bool,
    /// Without effect: nothing is cached, the pools are asked each time.
    #[arg(long, value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Without effect, as --cache-dir.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) cache_ttl: Option<u64>,
    /// Without effect, as --cache-dir.
    #[arg(long)]
    pub(crate) force_update: bool,
}

/// Print what a shell needs to complete vitrify's command line.
///
/// For bash, print it into /usr/share/bash-completion/completions/vitrify; for zsh, into
/// /usr/share/zsh/vendor-completions/_vitrify; for fish, into
/// /usr/share/fish/vendor_completions.d/vitrify.fish. A package has done so.
#[derive(Debug, ClapArgs)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    pub(crate) shell: clap_complete::Shell,
}

/// Write the manual pages, one for each command.
///
/// They say what --help says. /usr/share/man/man8 is where 'man vitrify' and 'man vitrify-snapshot' look
/// for them; a package has put them there.
#[derive(Debug, ClapArgs)]
pub(crate) struct ManArgs {
    /// The folder; it is made where it is missing, and pages in it are overwritten.
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
}

/// List what of Vitrify is on this host, each with the command that removes it.
///
/// It removes nothing itself. In the order in which to remove it: the timer, what is unfinished or left
/// over, each guest's points with their snapshots, the homes, folders, configuration, and what is
/// installed. Without --dry-run, exit status 2. Where libvirt is out of reach, the rest is listed (exit
/// status 4).
#[derive(Debug, ClapArgs)]
pub(crate) struct UninstallArgs {
    /// Only list.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_fits_together() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_program_that_is_called_sanoid() {
        for (given, wanted) in [
            ("/usr/sbin/sanoid --cron", "vitrify sanoid --cron"),
            ("sanoid", "vitrify sanoid"),
            ("/usr/bin/vitrify sanoid --cron", "/usr/bin/vitrify sanoid --cron"),
            ("./sanoid-old list", "./sanoid-old list"),
            ("", ""),
        ] {
            let words =
                |text: &str| text.split_whitespace().map(OsString::from).collect::<Vec<_>>();
            assert_eq!(command_line(words(given)), words(wanted));
        }
    }
}
