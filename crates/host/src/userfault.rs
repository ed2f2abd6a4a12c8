//! Whether QEMU may use userfaultfd on this host: looks at `/dev`, `/proc/sys`, and AppArmor's drop-in.

use std::fs;
use std::path::Path;

use vitrify_core::ports::{Answer, Hypervisor};
use vitrify_core::userfault::{DROP_IN, Facts};

use crate::libvirt::Libvirt;

/// What is known of this host.
///
/// # Errors
/// Where libvirt does not answer.
pub fn facts(hypervisor: &Libvirt) -> Answer<Facts> {
    let switch = fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd").ok();
    Ok(Facts {
        hypervisor: hypervisor.version()?,
        device: Path::new("/dev/userfaultfd").exists(),
        unprivileged: switch.map(|it| it.trim() == "1"),
        confined: hypervisor.security()? == "apparmor",
        drop_in: fs::read_to_string(DROP_IN).ok(),
    })
}
