//! A guest with two disks and nothing to boot from. It comes up in a moment, and what it is to
//! write is written through QEMU's own view of its disks.

use std::error::Error;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vitrify_core::conformance::Verdict;
use vitrify_core::conformance::hypervisor::Fixture;
use vitrify_core::name::GuestUuid;
use vitrify_core::ports::Hypervisor;
use vitrify_host::libvirt::Libvirt;
use vitrify_lab::guest::remove;
use vitrify_lab::run::virsh;
use vitrify_lab::scratch::Scratch;

const DISK_BYTES: u64 = 4 << 20;
static NEXT: AtomicU32 = AtomicU32::new(0);

pub(super) struct OneGuest {
    libvirt: Libvirt,
    name: String,
    uuid: GuestUuid,
    scratch: Scratch,
    files: u8,
}

impl OneGuest {
    pub(super) fn new() -> Result<Self, Box<dyn Error>> {
        let scratch = Scratch::new()?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lab{}-{number}-rules", std::process::id());
        for disk in ["vda", "vdb"] {
            File::create_new(scratch.path().join(disk))?.set_len(DISK_BYTES)?;
        }
        let file = scratch.path().join("guest.xml");
        fs::write(&file, definition(&name, scratch.path()))?;
        let connect = || Libvirt::connect("qemu:///system", Arc::default());
        let libvirt = connect().map_err(|problem| problem.chain())?;
        virsh(&["define", &file.display().to_string()])?;
        let uuid = virsh(&["domuuid", &name])?.parse()?;
        let guest = Self { libvirt, name, uuid, scratch, files: 0 };
        virsh(&["start", &guest.name])?;
        Ok(guest)
    }

    fn new_name(&mut self, what: &str) -> PathBuf {
        self.files += 1;
        self.scratch.path().join(format!("{what}-{}", self.files))
    }

    fn monitor(&self, arguments: &[&str]) -> Result<String, String> {
        let said = virsh(&[&["qemu-monitor-command", &self.name], arguments].concat());
        said.map_err(|error| error.to_string())
    }
}

impl Drop for OneGuest {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

fn definition(name: &str, folder: &Path) -> String {
    let disk = |target: &str| {
        let image = folder.join(target);
        format!(
            "<disk type='file' device='disk'><driver name='qemu' type='raw'/>\
             <source file='{}'/><target dev='{target}' bus='virtio'/></disk>",
            image.display()
        )
    };
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>\
         <devices>{}{}<controller type='usb' model='none'/><memballoon model='none'/></devices>\
         </domain>",
        disk("vda"),
        disk("vdb")
    )
}

impl Fixture for OneGuest {
    fn hypervisor(&self) -> &dyn Hypervisor {
        &self.libvirt
    }

    fn guest(&self) -> GuestUuid {
        self.uuid.clone()
    }

    fn memory(&mut self) -> Result<PathBuf, String> {
        Ok(self.new_name("memory"))
    }

    fn overlay(&mut self) -> Result<PathBuf, String> {
        Ok(self.new_name("overlay"))
    }

    fn obstruct(&mut self, path: &Path) -> Verdict {
        fs::write(path, "in the way").map_err(|error| error.to_string())
    }

    /// QEMU writes as it does for the guest's own device; 512 bytes of one value.
    fn guest_writes(&mut self, target: &str) -> Result<u64, String> {
        self.files += 1;
        let (value, number) = (self.files, if target == "vda" { 0 } else { 1 });
        let device = format!("/machine/peripheral/virtio-disk{number}/virtio-backend");
        let command = format!("qemu-io -d {device} \"write -P {value} 0 512\"");
        let said = self.monitor(&["--hmp", &command])?;
        match said.to_lowercase().contains("error") || said.contains("failed") {
            true => Err(said),
            false => Ok(u64::from(value)),
        }
    }

    fn read(&self, image: &Path) -> Result<u64, String> {
        let mut sector = [0; 512];
        let read = File::open(image).and_then(|mut file| file.read_exact(&mut sector));
        read.map_err(|error| format!("{}: {error}", image.display()))?;
        match sector == [sector[0]; 512] {
            true => Ok(u64::from(sector[0])),
            false => Err(format!("{} is torn", image.display())),
        }
    }

    fn pause_otherwise(&mut self) -> Verdict {
        self.monitor(&["{\"execute\":\"stop\"}"]).map(drop)
    }

    fn managed_save(&mut self) -> Verdict {
        virsh(&["managedsave", &self.name]).map(drop).map_err(|error| error.to_string())
    }
}
