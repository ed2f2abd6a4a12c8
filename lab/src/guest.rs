//! Witness guests: described, defined in libvirt, started, and gone without a trace when dropped.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::image::Image;
use crate::run::{RunError, must, virsh};
use crate::scratch::complain;
use crate::serial::{Serial, SerialError};
use crate::xml;

/// Size of a disk that has to be made, in MiB. The witness uses the first.
const DISK_MIB: u64 = 16;

/// How a disk's content lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As it is.
    Raw,
    /// QEMU's own.
    Qcow2,
}

/// The emulated machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// The old PC: fewest devices.
    Pc,
    /// The newer one, with PCI Express.
    Q35,
}

/// A disk of a guest.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
}

/// The description of a witness guest. Unless said otherwise: 128 MiB, one CPU, a PC, no fill, a
/// step each 20 ms.
#[derive(Clone, Debug)]
pub struct Witness {
    pub(crate) name: String,
    pub(crate) memory_mib: u64,
    pub(crate) vcpus: u32,
    pub(crate) machine: Machine,
    pub(crate) disks: Vec<Disk>,
    pub(crate) extra_devices: String,
    pub(crate) fill_mib: u64,
    pub(crate) dirty_mbps: u64,
    pub(crate) step: Duration,
}

impl Witness {
    /// A witness without disks; it will refuse to count.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            memory_mib: 128,
            vcpus: 1,
            machine: Machine::Pc,
            disks: Vec::new(),
            extra_devices: String::new(),
            fill_mib: 0,
            dirty_mbps: 0,
            step: Duration::from_millis(20),
        }
    }

    /// Its RAM.
    #[must_use]
    pub fn memory_mib(self, memory_mib: u64) -> Self {
        Self { memory_mib, ..self }
    }

    /// Its CPUs.
    #[must_use]
    pub fn vcpus(self, vcpus: u32) -> Self {
        Self { vcpus, ..self }
    }

    /// The machine that is emulated.
    #[must_use]
    pub fn machine(self, machine: Machine) -> Self {
        Self { machine, ..self }
    }

    /// The next disk: vda, vdb and so on. A file that is not there is made when the guest is
    /// defined.
    #[must_use]
    pub fn disk(mut self, path: impl Into<PathBuf>, format: Format) -> Self {
        self.disks.push(Disk { path: path.into(), format });
        self
    }

    /// MiB of RAM to fill with data that does not compress.
    #[must_use]
    pub fn fill_mib(self, fill_mib: u64) -> Self {
        Self { fill_mib, ..self }
    }

    /// MB/s of the fill to make dirty.
    #[must_use]
    pub fn dirty_mbps(self, dirty_mbps: u64) -> Self {
        Self { dirty_mbps, ..self }
    }

    /// The time from one count to the next.
    #[must_use]
    pub fn step(self, step: Duration) -> Self {
        Self { step, ..self }
    }

    /// More devices, as XML for libvirt's `<devices>`.
    #[must_use]
    pub fn extra_devices(self, extra_devices: &str) -> Self {
        Self { extra_devices: extra_devices.to_owned(), ..self }
    }

    /// Makes the disks that are missing and defines the guest. `folder` gets its definition and
    /// serial log; QEMU must be able to pass through it.
    ///
    /// # Errors
    /// [`GuestError`], also if libvirt knows a guest of this name.
    pub fn define(&self, image: &Image, folder: &Path) -> Result<Guest, GuestError> {
        if virsh(&["domuuid", &self.name]).is_ok() {
            return Err(GuestError::NameTaken(self.name.clone()));
        }
        for disk in &self.disks {
            make(disk)?;
        }
        let file = folder.join(format!("{}.xml", self.name));
        let log = folder.join(format!("{}.serial", self.name));
        fs::write(&file, xml::definition(self, image, &log))?;
        let serial = Serial::follow(log)?;
        virsh(&["define", &file.display().to_string()])?;
        Ok(Guest { name: self.name.clone(), serial })
    }

    /// Defines the guest and starts it, without waiting for its first word.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn start(&self, image: &Image, folder: &Path) -> Result<Guest, GuestError> {
        let guest = self.define(image, folder)?;
        guest.start()?;
        Ok(guest)
    }
}

/// Why a guest is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// libvirt has a guest of that name; it is not ours.
    #[error("there is a guest named {0} already")]
    NameTaken(String),
    /// A file of the guest could not be made.
    #[error("cannot make the guest's files")]
    Io(#[from] io::Error),
    /// Its serial log cannot be followed.
    #[error(transparent)]
    Serial(#[from] SerialError),
    /// libvirt refused.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// A guest that is known to libvirt. When dropped it is stopped and undefined; its disks stay.
#[derive(Debug)]
pub struct Guest {
    name: String,
    /// What it says.
    pub serial: Serial,
}

impl Guest {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it, from its managed-save image if there is one.
    ///
    /// # Errors
    /// [`RunError`] with libvirt's words, as for all that follow.
    pub fn start(&self) -> Result<(), RunError> {
        self.virsh("start", &[]).map(drop)
    }

    /// Pulls its power cord.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn destroy(&self) -> Result<(), RunError> {
        self.virsh("destroy", &[]).map(drop)
    }

    /// Stops its CPUs.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn suspend(&self) -> Result<(), RunError> {
        self.virsh("suspend", &[]).map(drop)
    }

    /// Lets its CPUs go on.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn resume(&self) -> Result<(), RunError> {
        self.virsh("resume", &[]).map(drop)
    }

    /// Saves its memory to a file with libvirt's own means, and stops it.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn save(&self, file: &Path) -> Result<(), RunError> {
        self.virsh("save", &[&file.display().to_string()]).map(drop)
    }

    /// Resumes it from such a file.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn restore(&self, file: &Path) -> Result<(), RunError> {
        virsh(&["restore", &file.display().to_string()]).map(drop)
    }

    /// Its state in virsh's words: `running`, `paused`, `shut off`.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn state(&self) -> Result<String, RunError> {
        self.virsh("domstate", &[])
    }

    /// Its UUID.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn uuid(&self) -> Result<String, RunError> {
        self.virsh("domuuid", &[])
    }

    /// Its live definition, or the inactive one if it is off.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn xml(&self) -> Result<String, RunError> {
        self.virsh("dumpxml", &[])
    }

    /// Any other virsh command that takes a guest first.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn virsh(&self, command: &str, arguments: &[&str]) -> Result<String, RunError> {
        virsh(&[&[command, &self.name], arguments].concat())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Stops and undefines a guest by name, for copies that something else defined. A guest that is
/// gone is fine; what could not be removed is said on stderr.
pub fn remove(name: &str) {
    let Ok(state) = virsh(&["domstate", name]) else { return };
    if state != "shut off" {
        let _ = virsh(&["destroy", name]);
    }
    // A transient guest was gone with its destruction.
    if virsh(&["domstate", name]).is_err() {
        return;
    }
    let flags = ["--nvram", "--snapshots-metadata", "--checkpoints-metadata", "--managed-save"];
    if let Err(error) = virsh(&[&["undefine", name], &flags[..]].concat()) {
        complain(&format!("guest {name}"), &error);
    }
}

fn make(disk: &Disk) -> Result<(), GuestError> {
    if disk.path.exists() {
        return Ok(());
    }
    match disk.format {
        Format::Raw => File::create_new(&disk.path)?.set_len(DISK_MIB << 20)?,
        Format::Qcow2 => {
            let path = disk.path.display().to_string();
            must("qemu-img", &["create", "-q", "-f", "qcow2", &path, &format!("{DISK_MIB}M")])?;
        }
    }
    Ok(())
}
