//! What the ZFS machine boots from: its disk, kernel and key, built once per recipe into the cache.

use std::path::{Path, PathBuf};

use crate::apt;
use crate::debian::Recipe;
use crate::process::{Failure, command, must};

/// What it is made of, beside the smallest Debian.
const PACKAGES: &[&str] = &[
    "linux-image-cloud-amd64",
    "linux-headers-cloud-amd64",
    "initramfs-tools",
    "zstd",
    "kmod",
    "udev",
    "systemd",
    "systemd-sysv",
    "dbus",
    "polkitd",
    "procps",
    "iproute2",
    "openssh-server",
    "ca-certificates",
    "sudo",
    "apparmor",
    "apparmor-utils",
    "zfs-dkms",
    "zfsutils-linux",
    "zfs-zed",
    "btrfs-progs",
    "xfsprogs",
    "e2fsprogs",
    "mount",
    "libvirt-daemon-system",
    "libvirt-daemon-driver-qemu",
    "libvirt-clients",
    "qemu-system-x86",
    "qemu-utils",
    "ovmf",
    "swtpm",
    "swtpm-tools",
    "mbuffer",
];

const RECIPE: Recipe = Recipe {
    home: "machine",
    what: "lab machine",
    takes: "about five minutes on two cores",
    script: include_str!("build.sh"),
    packages: PACKAGES,
    mark: "disk.ext4",
    definitions: apt::definitions,
    prepare: make_key,
};

/// A machine's image: a folder in the cache.
pub(crate) struct Image {
    /// Holds `disk.ext4`, `vmlinuz`, `initrd`, `key` and `known_hosts`.
    pub(crate) folder: PathBuf,
}

impl Image {
    /// The image of today's recipe, built if the cache does not have it. The images of older
    /// recipes are removed, with the worlds that were kept of them.
    ///
    /// # Errors
    /// [`Failure`] that says what to do, and where the build's log lies.
    pub(crate) fn ensure() -> Result<Self, Failure> {
        Ok(Self { folder: RECIPE.ensure()? })
    }
}

/// The key that opens the machine.
fn make_key(folder: &Path) -> Result<(), Failure> {
    let key = folder.join("key").display().to_string();
    must(&mut command("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", &key]))
}
