//! What `instant` needs of a host beside QEMU: that QEMU may use userfaultfd. What is missing, and how
//! an administrator gives it.

/// The file that lets every guest under AppArmor use userfaultfd, from its next start on.
pub const DROP_IN: &str = "/etc/apparmor.d/abstractions/libvirt-qemu.d/vitrify";
/// The line in it that does.
pub const RULE: &str = "/dev/userfaultfd rw,";
/// Where the switch is set for all programs.
pub const SYSCTL_FILE: &str = "/etc/sysctl.d/60-vitrify.conf";
const SYSCTL: &str = "vm.unprivileged_userfaultfd";
/// The first QEMU that opens `/dev/userfaultfd` (its commit c40c0463); libvirt hands that to a guest.
const OPENS_DEVICE: u32 = 8;

/// What is known of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// libvirt's and QEMU's versions, as `libvirt 11.3.0, QEMU 10.0.2`.
    pub hypervisor: String,
    /// Whether there is a `/dev/userfaultfd`: since Linux 6.1.
    pub device: bool,
    /// Whether `vm.unprivileged_userfaultfd` is 1; `None` where the kernel has no such switch, nor
    /// userfaultfd.
    pub unprivileged: Option<bool>,
    /// Whether AppArmor confines the guests.
    pub confined: bool,
    /// What the drop-in for AppArmor holds, where there is one.
    pub drop_in: Option<String>,
}

/// What to do about one thing that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// What is missing, and what it costs.
    pub detail: String,
    /// The remedy.
    pub hint: String,
}

/// What is missing; nothing on a host that is in order.
pub fn advice(facts: &Facts) -> Vec<Advice> {
    [access(facts), confinement(facts)].into_iter().flatten().collect()
}

fn access(facts: &Facts) -> Option<Advice> {
    let opens_device = major(&facts.hypervisor, "QEMU").is_some_and(|it| it >= OPENS_DEVICE);
    let Some(unprivileged) = facts.unprivileged else {
        return Some(Advice {
            detail: "this kernel has no userfaultfd, so no guest can be captured by instant".into(),
            hint: "boot a kernel with CONFIG_USERFAULTFD, as distributions build it".into(),
        });
    };
    if unprivileged || (opens_device && facts.device) {
        return None;
    }
    let why = match opens_device {
        true => "there is no /dev/userfaultfd",
        false => "it does not open /dev/userfaultfd",
    };
    Some(Advice {
        detail: format!(
            "{}: {why}, so it needs sysctl {SYSCTL}=1 to capture a guest by instant, and that is 0",
            facts.hypervisor
        ),
        hint: format!("write '{SYSCTL} = 1' into {SYSCTL_FILE}, then 'sysctl --system'"),
    })
}

fn confinement(facts: &Facts) -> Option<Advice> {
    let text = facts.drop_in.as_deref().unwrap_or("");
    if !facts.confined || text.lines().any(|line| line.trim() == RULE) {
        return None;
    }
    Some(Advice {
        detail: format!(
            "AppArmor confines the guests, and {DROP_IN} lacks the line '{RULE}': after a block job \
             (a commit, a backup) a guest cannot be captured by instant until it is restarted"
        ),
        hint: "write that line into that file; for a guest that runs 'apparmor_parser -r \
               /etc/apparmor.d/libvirt/libvirt-UUID' applies it at once"
            .into(),
    })
}

/// The first number of a program's version.
fn major(versions: &str, program: &str) -> Option<u32> {
    let (_, version) = versions.split_once(program)?;
    version.trim_start().split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "libvirt 9.0.0, QEMU 7.2.17";
    const NEW: &str = "libvirt 11.3.0, QEMU 10.0.2";

    /// Columns: versions, device, switch, confined, drop-in, words of each advice.
    #[test]
    fn each_kind_of_host() {
        let sysctl = "needs sysctl vm.unprivileged_userfaultfd=1";
        let packaged = include_str!("../../../packaging/apparmor/vitrify");
        for (hypervisor, device, unprivileged, confined, drop_in, wanted) in [
            (NEW, true, Some(false), false, None, vec![]),
            (NEW, false, Some(false), false, None, vec![sysctl]),
            (NEW, false, Some(true), false, None, vec![]),
            (NEW, false, None, false, None, vec!["no userfaultfd"]),
            (OLD, true, Some(false), false, None, vec![sysctl]),
            (OLD, true, Some(true), false, None, vec![]),
            (OLD, true, Some(false), true, None, vec![sysctl, DROP_IN]),
            (NEW, true, Some(false), true, Some("# nothing\n"), vec![RULE]),
            (NEW, true, Some(false), true, Some("#/dev/userfaultfd rw,\n"), vec![RULE]),
            (NEW, true, Some(false), true, Some(packaged), vec![]),
        ] {
            let hypervisor = hypervisor.to_owned();
            let drop_in = drop_in.map(str::to_owned);
            let facts = Facts { hypervisor, device, unprivileged, confined, drop_in };
            let found = advice(&facts);
            assert_eq!(found.len(), wanted.len(), "{facts:?}: {found:?}");
            for (advice, words) in found.iter().zip(wanted) {
                assert!(advice.detail.contains(words), "{facts:?}: {advice:?}");
            }
        }
    }
}
