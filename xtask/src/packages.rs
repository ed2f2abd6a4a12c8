//! What the machine must have, each package with its reason, and the look whether it has it.

use crate::apt::Apt;
use crate::process::{Failure, command, output, tell};

/// Package and what it is for.
const NEEDED: [(&str, &str); 18] = [
    ("pkg-config", "finds libvirt when Vitrify is built"),
    ("libvirt-dev", "Vitrify is built against it"),
    ("libvirt-daemon-system", "runs the guests"),
    ("libvirt-daemon-driver-qemu", "libvirt's driver for QEMU"),
    ("libvirt-clients", "virsh, with which the lab defines its guests"),
    ("qemu-system-x86", "is the guests' machine"),
    ("ovmf", "is the firmware of UEFI guests"),
    ("swtpm", "is the guests' TPM"),
    ("swtpm-tools", "makes a new TPM's certificates and keys"),
    ("qemu-utils", "makes qcow2 disks"),
    ("btrfs-progs", "makes and snapshots Btrfs"),
    ("xfsprogs", "makes XFS, for the lab"),
    ("e2fsprogs", "makes ext4, for the lab"),
    ("mount", "mounts the lab's file systems"),
    ("dpkg", "unpacks the guest's kernel and agent"),
    ("mmdebstrap", "builds the lab's ZFS machine"),
    ("util-linux", "keeps that build's mounts from the host"),
    ("openssh-client", "runs commands in it"),
];

/// Installs what is missing, if anything is.
///
/// # Errors
/// [`Failure`] that names the packages and the command.
pub(crate) fn ensure(apt: &mut Option<Apt>) -> Result<(), Failure> {
    let missing: Vec<_> = NEEDED.iter().filter(|(package, _)| !installed(package)).collect();
    if missing.is_empty() {
        tell("packages: all there");
        return Ok(());
    }
    tell("packages to install:");
    for (package, reason) in &missing {
        tell(&format!("  {package:<28} {reason}"));
    }
    let names: Vec<&str> = missing.iter().map(|(package, _)| *package).collect();
    let apt = match apt {
        Some(apt) => apt,
        None => apt.insert(Apt::prepare()?),
    };
    apt.install(&names)
}

fn installed(package: &str) -> bool {
    let status =
        output(&mut command("dpkg-query", &["-W", "-f", "${db:Status-Status}\n", package]));
    status.is_some_and(|status| status.lines().any(|line| line == "installed"))
}
