//! Witness guests: described, defined in libvirt, started, and gone without a trace when dropped.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use witness::params::Agent;

use crate::boot;
use crate::image::{Image, ImageError};
use crate::run::{RunError, must, virsh};
use crate::scratch::complain;
use crate::serial::{Serial, SerialError};
use crate::xml;

/// Size of an ext4 that has to be made, as mke2fs reads it.
const FILES_SIZE: &str = "64M";
/// Size of a disk that has to be made, in MiB. The witness uses the first two.
pub(crate) const DISK_MIB: u64 = 16;

/// How a disk's content lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As it is.
    Raw,
    /// QEMU's own.
    Qcow2,
    /// As it is, on a block device that is there already.
    Block,
}

/// What a witness is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// A Linux with the witness as its first process. Boots in 3 to 4 s, and in 100 s in a machine
    /// that is emulated itself.
    Linux,
    /// Boot-sector code on its first disk. Boots in less than a second, there in a few.
    BootSector,
}

/// The emulated machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// The old PC: fewest devices.
    Pc,
    /// The newer one, with PCI Express.
    Q35,
}

/// How the variables of a UEFI guest lie in their file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nvram {
    /// As they are; libvirt's default.
    Raw,
    /// In a qcow2 image, which libvirt's internal snapshots need.
    Qcow2,
}

/// A disk of a guest.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
}

/// The description of a witness guest. Unless said otherwise: a Linux with 128 MiB, one CPU, a PC, no
/// fill, a step each 20 ms.
#[derive(Clone, Debug)]
pub struct Witness {
    pub(crate) name: String,
    pub(crate) program: Program,
    pub(crate) memory_mib: u64,
    pub(crate) vcpus: u32,
    pub(crate) machine: Machine,
    pub(crate) disks: Vec<Disk>,
    pub(crate) files: Option<PathBuf>,
    pub(crate) agent: Option<Agent>,
    pub(crate) uefi: Option<Nvram>,
    pub(crate) tpm: bool,
    pub(crate) extra_devices: String,
    pub(crate) fill_mib: u64,
    pub(crate) dirty_mbps: u64,
    pub(crate) scattered: bool,
    pub(crate) step: Duration,
    pub(crate) unconfined: bool,
}

impl Witness {
    /// A witness without disks; it will refuse to count.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            program: Program::Linux,
            memory_mib: 128,
            vcpus: 1,
            machine: Machine::Pc,
            disks: Vec::new(),
            files: None,
            agent: None,
            uefi: None,
            tpm: false,
            extra_devices: String::new(),
            fill_mib: 0,
            dirty_mbps: 0,
            scattered: false,
            step: Duration::from_millis(20),
            unconfined: false,
        }
    }

    /// Boot-sector code instead of Linux, written onto the first disk when the guest is defined,
    /// unless that can boot already; a qcow2 image when it is made. 64 MiB of RAM; steps of 54 ms
    /// at most. It sees the first four writable disks that have a place in the boot order.
    #[must_use]
    pub fn boot_sector(self) -> Self {
        Self { program: Program::BootSector, memory_mib: 64, ..self }
    }

    /// Without AppArmor's profile around its QEMU.
    #[must_use]
    pub fn unconfined(self) -> Self {
        Self { unconfined: true, ..self }
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

    /// One more disk after all others, raw, with an ext4 on which the guest replaces and syncs a
    /// file with a rising count. Made when the guest is defined, if it is not there.
    #[must_use]
    pub fn files(self, path: impl Into<PathBuf>) -> Self {
        Self { files: Some(path.into()), ..self }
    }

    /// A channel for the guest agent, and how the agent behaves. It runs in guests with
    /// [`Witness::files`] only. These guests need 192 MiB.
    #[must_use]
    pub fn agent(self, agent: Agent) -> Self {
        Self { agent: Some(agent), ..self }
    }

    /// UEFI firmware instead of a BIOS; the guest counts its boots in a variable of it.
    #[must_use]
    pub fn uefi(self, nvram: Nvram) -> Self {
        Self { uefi: Some(nvram), ..self }
    }

    /// An emulated TPM 2.0.
    #[must_use]
    pub fn tpm(self) -> Self {
        Self { tpm: true, ..self }
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

    /// In a scattered order instead of from the first page to the last; under Linux only.
    #[must_use]
    pub fn scattered(self) -> Self {
        Self { scattered: true, ..self }
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
    pub fn define(&self, folder: &Path) -> Result<Guest, GuestError> {
        if virsh(&["domuuid", &self.name]).is_ok() {
            return Err(GuestError::NameTaken(self.name.clone()));
        }
        let image = match self.program {
            Program::Linux => Some(Image::in_folder(folder)?),
            Program::BootSector => None,
        };
        self.make_disks(folder)?;
        if let Some(path) = self.files.as_deref().filter(|path| !path.exists()) {
            must("mke2fs", &["-q", "-t", "ext4", &path.display().to_string(), FILES_SIZE])?;
        }
        let variables = folder.join(format!("{}_VARS.qcow2", self.name));
        if self.uefi == Some(Nvram::Qcow2) && !variables.exists() {
            // libvirt 11.3 does not convert its template, and Debian ships a raw one.
            let to = variables.display().to_string();
            must("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", xml::VARIABLES, &to])?;
        }
        let file = folder.join(format!("{}.xml", self.name));
        let log = serial_log(folder, &self.name);
        fs::write(&file, xml::definition(self, image.as_ref(), &log, &variables))?;
        let serial = Serial::follow(log)?;
        virsh(&["define", &file.display().to_string()])?;
        Ok(Guest { name: self.name.clone(), serial })
    }

    /// Defines the guest and starts it, without waiting for its first word.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn start(&self, folder: &Path) -> Result<Guest, GuestError> {
        let guest = self.define(folder)?;
        guest.start()?;
        Ok(guest)
    }

    fn make_disks(&self, folder: &Path) -> Result<(), GuestError> {
        for (number, disk) in self.disks.iter().enumerate() {
            let boots = number == 0 && self.program == Program::BootSector;
            let is_new = !disk.path.exists();
            match disk.format {
                Format::Raw if is_new => File::create_new(&disk.path)?.set_len(DISK_MIB << 20)?,
                Format::Qcow2 if is_new => {
                    let content = folder.join(format!("{}.content", self.name));
                    let code = if boots { boot::code(self) } else { Vec::new() };
                    fs::write(&content, code)?;
                    OpenOptions::new().write(true).open(&content)?.set_len(DISK_MIB << 20)?;
                    let [from, to] = [&content, &disk.path].map(|it| it.display().to_string());
                    must("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &from, &to])?;
                    fs::remove_file(&content)?;
                }
                Format::Raw | Format::Qcow2 | Format::Block => {}
            }
            if boots && disk.format != Format::Qcow2 {
                boot::install(self, &disk.path)?;
            }
        }
        Ok(())
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
    /// The Linux witness's image could not be had.
    #[error("no image to boot the guest from")]
    Image(#[from] ImageError),
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
    /// One that an earlier process left, with its serial log in `folder`. What it said before is
    /// passed over.
    pub(crate) fn left(name: String, folder: &Path) -> Result<Self, SerialError> {
        let mut serial = Serial::follow(serial_log(folder, &name))?;
        serial.skip_to_end()?;
        Ok(Self { name, serial })
    }

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

    /// Waits until libvirt sees the guest's agent in this state, `connected` or `disconnected`: a moment
    /// after it was started or ended. `virsh` tells nobody who asks; the definition says so.
    ///
    /// # Errors
    /// [`RunError`], or that it is not within the limit.
    pub fn agent_becomes(&self, state: &str, limit: Duration) -> Result<(), Box<dyn Error>> {
        let deadline = Instant::now() + limit;
        while !self.xml()?.contains(&format!("state='{state}'")) {
            if Instant::now() > deadline {
                return Err(format!("the agent is not {state}").into());
            }
        }
        Ok(())
    }

    /// Any other virsh command that takes a guest first.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn virsh(&self, command: &str, arguments: &[&str]) -> Result<String, RunError> {
        virsh(&[&[command, &self.name], arguments].concat())
    }

    /// A command of QEMU's human monitor, and what it said.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn monitor(&self, command: &str) -> Result<String, RunError> {
        self.virsh("qemu-monitor-command", &["--hmp", command])
    }
}

fn serial_log(folder: &Path, guest: &str) -> PathBuf {
    folder.join(format!("{guest}.serial"))
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
    let flags =
        ["--nvram", "--tpm", "--snapshots-metadata", "--checkpoints-metadata", "--managed-save"];
    if let Err(error) = virsh(&[&["undefine", name], &flags[..]].concat()) {
        complain(&format!("guest {name}"), &error);
    }
}
