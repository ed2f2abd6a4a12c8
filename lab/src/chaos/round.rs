//! One round of chaos as plain data: what it is made of, and how it reads in a line.

use std::fmt;

use crate::draw::Draw;

/// Which storage a round runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// A Btrfs of its own on this machine.
    Btrfs,
    /// A ZFS pool in the lab's machine.
    Zfs,
}

/// A guest, points of it, one operation with trouble in its middle, and what is looked at after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// The storage.
    pub ground: Ground,
    /// The guest.
    pub machine: Machine,
    /// A pause limit that no storage can keep: `instant` puts overlays in place.
    pub impatient: bool,
    /// Whether there is a spool before the memory store.
    pub spool: bool,
    /// The points that are there before, oldest first.
    pub history: Vec<Engine>,
    /// What is troubled.
    pub operation: Operation,
    /// The trouble.
    pub trouble: Trouble,
    /// A repair is killed when it has written so many records, before the one that counts.
    pub repair_killed: Option<usize>,
    /// What an operator decides about an overlay, if asked.
    pub decision: Decision,
    /// Which point is restored at the end, counted from the newest and around.
    pub restored: usize,
    /// Whether that is without its memory, also where it has one.
    pub restored_cold: bool,
}

/// A guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// What runs in it.
    pub program: Program,
    /// Its RAM.
    pub memory_mib: u64,
    /// How much of that is filled.
    pub fill_mib: u64,
    /// How much of that it makes dirty, in MB/s.
    pub dirty_mbps: u64,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Whether they share a volume, as far as they are files.
    pub together: bool,
}

/// What runs in a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The witness in boot-sector code.
    BootSector,
    /// The witness under Linux.
    Linux,
    /// The same with files and a guest agent.
    Agent,
}

/// A disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// A raw image.
    Raw,
    /// A qcow2 image.
    Qcow2,
    /// A ZFS volume.
    Zvol,
}

/// Who captures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Whichever is chosen.
    Auto,
    /// QEMU's background snapshot.
    Instant,
    /// libvirt's external snapshot.
    Overlay,
    /// The guest's agent.
    Freeze,
    /// The storage alone.
    Plain,
}

/// What is troubled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A capture.
    Snapshot(Engine),
    /// A restore of one of the points that are there.
    Restore {
        /// Which, oldest first.
        point: usize,
        /// Without its memory.
        cold: bool,
        /// With a safety point first.
        safety: bool,
    },
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing: it must go well.
    Nothing,
    /// vitrify is sent a signal.
    Signal(Signal, Moment),
    /// Somebody else does something.
    Hand(Hand, Moment),
    /// Room for so many MiB is all there is from then on.
    Full(Place, u64, Moment),
}

/// A signal to vitrify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGKILL.
    Kill,
    /// SIGKILL, and its guard's first.
    KillWithGuard,
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
}

/// What somebody else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hand {
    /// `virsh suspend`.
    Suspend,
    /// `virsh resume`.
    Resume,
    /// `virsh destroy`.
    Destroy,
    /// `virsh reset`.
    Reset,
    /// `virsh reboot`, which a witness does not hear.
    Reboot,
    /// `virsh shutdown`, which a witness does not hear.
    Shutdown,
    /// SIGKILL of QEMU.
    KillQemu,
    /// `vitrify repair`, as a timer may run it.
    Repair,
    /// libvirt's daemon is started anew; only where that is systemd's.
    RestartLibvirt,
}

/// When it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// After so many thousandths of the time that the last capture took.
    Share(u32),
    /// When the journal has so many records of the operation, the plan being the first.
    Record(usize),
}

/// What is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The memory store, on a file system of its own.
    Store,
    /// The folder of overlays, the same.
    Overlays,
    /// The guest's pool, and with it all that is on it.
    Pool,
}

/// What an operator decides about the overlay of a guest that is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// `repair --commit`.
    Commit,
    /// `repair --discard`.
    Discard,
}

impl Round {
    /// Draws a round: it follows from these alone.
    #[must_use]
    pub fn draw(ground: Ground, seed: u64, number: u64) -> Self {
        let draw = &mut Draw::of(seed, number);
        let machine = Machine::draw(draw, ground);
        let history: Vec<_> = (0..=draw.below(2)).map(|_| Engine::draw(draw, &machine)).collect();
        let operation = match draw.below(5) {
            0 | 1 => Operation::Restore {
                point: draw.below(history.len()),
                cold: draw.once_in(3),
                safety: draw.once_in(3),
            },
            _ => Operation::Snapshot(Engine::draw(draw, &machine)),
        };
        Self {
            ground,
            impatient: !machine.has_zvol() && draw.once_in(5),
            machine,
            spool: draw.once_in(4),
            history,
            operation,
            trouble: Trouble::draw(draw, ground, operation),
            repair_killed: draw.once_in(5).then(|| 1 + draw.below(12)),
            decision: draw.one_of(&[Decision::Commit, Decision::Discard]),
            // The newest more often than the others.
            restored: draw.one_of(&[0, 0, 1, 2]),
            restored_cold: draw.once_in(3),
        }
    }
}

impl Machine {
    fn draw(draw: &mut Draw, ground: Ground) -> Self {
        // Linux boots in minutes in a machine that is emulated itself.
        let program = match (ground, draw.below(10)) {
            (Ground::Zfs, _) | (_, 0..=5) => Program::BootSector,
            (_, 6 | 7) => Program::Linux,
            _ => Program::Agent,
        };
        let memory_mib = match program {
            Program::BootSector => 32 + 16 * draw.below(7) as u64,
            Program::Linux => 128,
            Program::Agent => 192,
        };
        let disks = match ground {
            Ground::Btrfs => &[Disk::Raw, Disk::Qcow2][..],
            Ground::Zfs => &[Disk::Raw, Disk::Qcow2, Disk::Zvol],
        };
        let fill_mib = if draw.once_in(2) { memory_mib / 4 } else { 0 };
        let dirty_mbps = if fill_mib > 0 { draw.one_of(&[0, 20, 200]) } else { 0 };
        let disks = (0..=draw.below(2)).map(|_| draw.one_of(disks)).collect();
        Self { program, memory_mib, fill_mib, dirty_mbps, disks, together: draw.once_in(2) }
    }

    fn has_zvol(&self) -> bool {
        self.disks.contains(&Disk::Zvol)
    }
}

impl Engine {
    fn draw(draw: &mut Draw, machine: &Machine) -> Self {
        let mut engines = vec![Self::Auto, Self::Instant, Self::Instant, Self::Plain];
        // AppArmor lets no overlay be committed into a volume.
        if !machine.has_zvol() {
            engines.extend([Self::Overlay, Self::Overlay]);
        }
        if machine.program == Program::Agent {
            engines.extend([Self::Freeze, Self::Freeze]);
        }
        draw.one_of(&engines)
    }

    /// What the command line calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Instant => "instant",
            Self::Overlay => "overlay",
            Self::Freeze => "freeze",
            Self::Plain => "plain",
        }
    }
}

impl Trouble {
    fn draw(draw: &mut Draw, ground: Ground, operation: Operation) -> Self {
        let moment = Moment::draw(draw, operation);
        match draw.below(20) {
            0 => Self::Nothing,
            1..=9 => {
                let signal = draw.one_of(&[
                    Signal::Kill,
                    Signal::Kill,
                    Signal::KillWithGuard,
                    Signal::Terminate,
                    Signal::Interrupt,
                ]);
                Self::Signal(signal, moment)
            }
            10..=16 => {
                let mut hands = vec![
                    Hand::Suspend,
                    Hand::Resume,
                    Hand::Resume,
                    Hand::Destroy,
                    Hand::Reset,
                    Hand::Reboot,
                    Hand::Shutdown,
                    Hand::KillQemu,
                    Hand::Repair,
                ];
                if ground == Ground::Zfs {
                    hands.extend([Hand::RestartLibvirt, Hand::RestartLibvirt]);
                }
                Self::Hand(draw.one_of(&hands), moment)
            }
            _ => {
                let place = draw.one_of(&[Place::Store, Place::Overlays, Place::Pool]);
                Self::Full(place, draw.one_of(&[0, 1, 2, 4, 8, 16]), moment)
            }
        }
    }
}

impl Moment {
    /// Mostly before the operation's end.
    fn draw(draw: &mut Draw, operation: Operation) -> Self {
        // A restore takes longer, and has to stop the guest.
        let (longest, records) = match operation {
            Operation::Snapshot(Engine::Plain) => (900, 8),
            Operation::Snapshot(Engine::Freeze) => (900, 10),
            Operation::Snapshot(Engine::Overlay) => (900, 17),
            Operation::Snapshot(Engine::Auto | Engine::Instant) => (900, 21),
            Operation::Restore { .. } => (2000, 15),
        };
        match draw.once_in(2) {
            true => Self::Share(draw.below(longest) as u32),
            false => Self::Record(1 + draw.below(records)),
        }
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.machine)?;
        if self.spool {
            write!(f, ", spool")?;
        }
        if self.impatient {
            write!(f, ", pause limit 1 ms")?;
        }
        let history = self.history.iter().map(|engine| engine.name()).collect::<Vec<_>>();
        write!(f, "; points: {}; {}; {}", history.join(", "), self.operation, self.trouble)?;
        if let Some(records) = self.repair_killed {
            write!(f, "; a repair killed at record {records}")?;
        }
        let cold = if self.restored_cold { ", cold" } else { "" };
        let decision = match self.decision {
            Decision::Commit => "commit",
            Decision::Discard => "discard",
        };
        write!(f, "; {decision} if asked; at last restore newest-{}{cold}", self.restored)
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = match self.program {
            Program::BootSector => "boot sector",
            Program::Linux => "Linux",
            Program::Agent => "Linux with agent",
        };
        write!(f, "{program}, {} MiB", self.memory_mib)?;
        if self.fill_mib > 0 {
            write!(f, " ({} filled, {} MB/s)", self.fill_mib, self.dirty_mbps)?;
        }
        let disks = self.disks.iter().map(|disk| match disk {
            Disk::Raw => "raw",
            Disk::Qcow2 => "qcow2",
            Disk::Zvol => "zvol",
        });
        write!(f, ", {}", disks.collect::<Vec<_>>().join("+"))?;
        if self.together && self.disks.len() > 1 {
            write!(f, " on one volume")?;
        }
        Ok(())
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot(engine) => write!(f, "snapshot by {}", engine.name()),
            Self::Restore { point, cold, safety } => {
                let cold = if *cold { ", cold" } else { "" };
                let safety = if *safety { ", safety point first" } else { "" };
                write!(f, "restore of point {point}{cold}{safety}")
            }
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => write!(f, "no trouble"),
            Self::Signal(signal, moment) => {
                let signal = match signal {
                    Signal::Kill => "SIGKILL",
                    Signal::KillWithGuard => "SIGKILL with guard",
                    Signal::Terminate => "SIGTERM",
                    Signal::Interrupt => "SIGINT",
                };
                write!(f, "{signal} {moment}")
            }
            Self::Hand(hand, moment) => {
                let hand = match hand {
                    Hand::Suspend => "virsh suspend",
                    Hand::Resume => "virsh resume",
                    Hand::Destroy => "virsh destroy",
                    Hand::Reset => "virsh reset",
                    Hand::Reboot => "virsh reboot",
                    Hand::Shutdown => "virsh shutdown",
                    Hand::KillQemu => "SIGKILL of QEMU",
                    Hand::Repair => "another's repair",
                    Hand::RestartLibvirt => "libvirtd restarted",
                };
                write!(f, "{hand} {moment}")
            }
            Self::Full(place, left_mib, moment) => {
                let place = match place {
                    Place::Store => "store",
                    Place::Overlays => "overlay folder",
                    Place::Pool => "pool",
                };
                write!(f, "{place} full but for {left_mib} MiB {moment}")
            }
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(thousandths) => write!(f, "after {thousandths} ‰"),
            Self::Record(records) => write!(f, "at record {records}"),
        }
    }
}

#[cfg(test)]
mod tests;
