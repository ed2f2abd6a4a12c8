//! QEMU's own monitor, spoken to through libvirt's. A guest whose monitor was spoken to is tainted.
//!
//! QMP: <https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html>.

use std::os::fd::BorrowedFd;

use serde_json::{Value, json};
use virt::domain::Domain;
use virt::error::Error;
use vitrify_core::ports::Answer;
use vitrify_core::problem::Problem;

use super::error::problem;
use super::guests::name_of;
use super::sys;

/// The monitor of one guest's QEMU.
pub(super) struct Monitor<'a> {
    domain: &'a Domain,
    /// Its name, for messages.
    pub(super) guest: String,
}

impl<'a> Monitor<'a> {
    pub(super) fn of(domain: &'a Domain) -> Self {
        Self { domain, guest: name_of(domain) }
    }

    /// What QEMU says to a command.
    pub(super) fn ask(&self, name: &str, arguments: &Value) -> Answer<Value> {
        self.judge(name, self.domain.qemu_monitor_command(&command(name, arguments), 0))
    }

    /// The same for a command that hands a descriptor over.
    pub(super) fn hand_over(
        &self,
        name: &str,
        arguments: &Value,
        file: BorrowedFd<'_>,
    ) -> Answer<Value> {
        self.judge(name, sys::monitor_command_with(self.domain, &command(name, arguments), file))
    }

    /// QEMU's own word for what the guest is doing: `running`, `paused`, `io-error` and others.
    pub(super) fn run_state(&self) -> Answer<String> {
        let status = self.ask("query-status", &json!({}))?;
        Ok(status["status"].as_str().unwrap_or_default().to_owned())
    }

    fn judge(&self, name: &str, reply: Result<String, Error>) -> Answer<Value> {
        let reply = reply.map_err(|error| {
            problem(format!("cannot ask the QEMU of guest '{}' for {name}", self.guest), &error)
        })?;
        let mut reply: Value = serde_json::from_str(&reply)
            .map_err(|error| Problem::failed(format!("QEMU's answer to {name}")).from(error))?;
        match reply["error"]["desc"].as_str() {
            Some(said) => Err(Problem::failed(format!(
                "the QEMU of guest '{}' refuses {name}: {said}",
                self.guest
            ))),
            None => Ok(reply["return"].take()),
        }
    }
}

fn command(name: &str, arguments: &Value) -> String {
    json!({ "execute": name, "arguments": arguments }).to_string()
}
