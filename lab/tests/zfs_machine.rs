//! The lab's ZFS machine is what the other ZFS tests take it for: a host as a distribution ships
//! it, with systemd, OpenZFS, and libvirt that confines its guests.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitCode};

use vitrify_lab::harness::{self, Machine, Outcome};
use vitrify_lab::run::{LIMIT, must, run, virsh};
use vitrify_lab::scratch::Scratch;

fn main() -> ExitCode {
    harness::run_on(
        Machine::Zfs,
        2,
        &[
            ("systemd_has_started_everything", systemd_has_started_everything),
            ("openzfs_is_2_3_or_newer", openzfs_is_2_3_or_newer),
            ("guests_are_confined", guests_are_confined),
            ("a_zvol_has_its_link", a_zvol_has_its_link),
            ("vitrify_runs", vitrify_runs),
        ],
    )
}

fn systemd_has_started_everything() -> Outcome {
    let state = run(Command::new("systemctl").arg("is-system-running"), LIMIT)?.stdout;
    let failed = must("systemctl", &["list-units", "--failed", "--plain", "--no-legend"])?;
    assert_eq!(state.trim_end(), "running", "{failed}");
    Ok(())
}

fn openzfs_is_2_3_or_newer() -> Outcome {
    let versions = must("zfs", &["version"])?;
    for part in ["zfs-kmod-", "zfs-"] {
        let version = versions.lines().find_map(|line| line.strip_prefix(part));
        let numbers = version.unwrap_or_default().split(['.', '-']).map(str::parse::<u32>);
        let numbers: Vec<u32> = numbers.map_while(Result::ok).collect();
        assert!(numbers >= vec![2, 3], "{versions}");
    }
    Ok(())
}

fn guests_are_confined() -> Outcome {
    let scratch = Scratch::new()?;
    let name = format!("lab{}-confined", std::process::id());
    let definition = scratch.path().join("guest.xml");
    fs::write(&definition, guest(&name))?;
    virsh(&["create", &definition.display().to_string()])?;
    let information = virsh(&["dominfo", &name]);
    virsh(&["destroy", &name])?;
    let information = information?;
    let label = information.lines().find(|line| line.starts_with("Security label:"));
    assert!(label.is_some_and(|label| label.ends_with("(enforcing)")), "{information}");
    Ok(())
}

/// It boots into nothing.
fn guest(name: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory>\
         <os><type arch='x86_64'>hvm</type></os></domain>"
    )
}

fn a_zvol_has_its_link() -> Outcome {
    let pool = FilePool::new()?;
    let volume = format!("{}/volume", pool.name);
    must("zfs", &["create", "-V", "16M", &volume])?;
    let link = format!("/dev/zvol/{volume}");
    must("udevadm", &["wait", "--timeout=30", &link])?;
    let device = Path::new(&link).canonicalize()?;
    assert!(device.display().to_string().starts_with("/dev/zd"), "{}", device.display());
    Ok(())
}

/// A pool on one file. Dropped, it is destroyed.
struct FilePool {
    name: String,
    _scratch: Scratch,
}

impl FilePool {
    fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let scratch = Scratch::new()?;
        let file = scratch.path().join("vdev");
        File::create_new(&file)?.set_len(256 << 20)?;
        let name = format!("lab{}", std::process::id());
        must("zpool", &["create", "-m", "none", &name, &file.display().to_string()])?;
        Ok(Self { name, _scratch: scratch })
    }
}

impl Drop for FilePool {
    fn drop(&mut self) {
        // The machine is thrown away: a pool that stays harms nobody.
        let _ = must("zpool", &["destroy", "-f", &self.name]);
    }
}

fn vitrify_runs() -> Outcome {
    let version = must("vitrify", &["--version"])?;
    assert!(version.starts_with("vitrify "), "{version}");
    Ok(())
}
