//! What the self-test asks of libvirt beside the port: the guests' security driver, and a guest that
//! libvirt forgets when it ends.

use std::path::Path;

use roxmltree::Document;
use vitrify_core::name::{GuestName, GuestUuid};
use vitrify_core::ports::{Answer, Hypervisor};
use vitrify_core::problem::{Problem, ProblemKind};

use super::Libvirt;
use super::error::problem;
use crate::files::unlink;

/// Where libvirt's AppArmor driver writes guests' profiles, and leaves them when a guest ends that it
/// forgets.
const PROFILES: &str = "/etc/apparmor.d/libvirt";
/// Where the host's daemon keeps what guests' QEMU said.
const LOGS: &str = "/var/log/libvirt/qemu";

impl Libvirt {
    /// What confines the guests, by libvirt's capabilities: `apparmor`, `selinux`, or `none`.
    ///
    /// # Errors
    /// Where libvirt does not answer.
    pub fn security(&self) -> Answer<String> {
        let text = self
            .connection()?
            .capabilities()
            .map_err(|error| problem("cannot ask libvirt for its capabilities", &error))?;
        let document = Document::parse(&text)
            .map_err(|error| Problem::failed("libvirt's capabilities").from(error))?;
        let models = document.descendants().filter(|it| it.has_tag_name("secmodel"));
        let models = models.filter_map(|it| it.children().find(|it| it.has_tag_name("model")));
        let mut models = models.filter_map(|it| it.text().map(str::trim));
        // Owners and modes are handled by a driver beside the one that confines.
        Ok(models.find(|it| !matches!(*it, "dac" | "none")).unwrap_or("none").to_owned())
    }

    /// The same, and whether QEMU is kept from streaming RAM: what a verdict of the self-test holds for.
    ///
    /// # Errors
    /// Where libvirt does not answer.
    pub fn confinement(&self) -> Answer<String> {
        let security = self.security()?;
        Ok(match self.no_stream()? {
            None => security,
            Some(why) => format!("{security}, {why}"),
        })
    }

    /// Boots a guest that libvirt forgets when it ends.
    pub(crate) fn start_transient(&self, xml: &str) -> Answer<()> {
        let started = self.connection()?.create_domain_xml(xml, 0);
        started.map(drop).map_err(|error| problem("cannot boot the guest of the self-test", &error))
    }

    /// Ends the guest of a self-test, if it is there, with what libvirt leaves behind of it. One of
    /// that UUID and another name is `Refused`.
    pub(crate) fn stop_self_test(&self, guest: &GuestUuid, name: &GuestName) -> Answer<()> {
        match self.inspect(guest) {
            Err(gone) if gone.kind == ProblemKind::NotFound => {}
            Err(problem) => return Err(problem),
            Ok(found) if found.name != *name => {
                let message = format!("guest '{}' has the UUID of our '{name}'", found.name);
                return Err(Problem::refused(message));
            }
            Ok(found) => {
                if let Some(session) = &found.session {
                    self.stop(guest, session)?;
                }
            }
        }
        let profile = format!("libvirt-{guest}");
        unlink(&Path::new(PROFILES).join(&profile))?;
        unlink(&Path::new(PROFILES).join(format!("{profile}.files")))?;
        unlink(&Path::new(LOGS).join(format!("{name}.log"))).map(drop)
    }
}
