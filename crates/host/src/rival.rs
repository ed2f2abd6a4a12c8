//! Whether sanoid itself is at work on this host.

use std::fs;
use std::path::Path;

use vitrify_core::name::Volume;
use vitrify_core::ports::Answer;
use vitrify_core::problem::Problem;
use vitrify_core::sanoid::datasets::targets;
use vitrify_core::sanoid::settings::read;

use crate::command::Command;

const TIMER: &str = "sanoid.timer";
/// Debian's; it does nothing where systemd runs.
const CRON: &str = "/etc/cron.d/sanoid";
const CONFIGURATION: &str = "/etc/sanoid/sanoid.conf";

/// Sanoid, started by something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rival {
    /// What starts it: a unit, or a file.
    pub starter: &'static str,
    /// Those of the volumes in question that its configuration covers; all where that cannot be read.
    pub volumes: Vec<Volume>,
}

/// What starts sanoid by itself and covers some of these volumes, if anything does.
///
/// # Errors
/// Where its configuration is there and cannot be opened.
pub fn sanoid(volumes: &[Volume]) -> Answer<Option<Rival>> {
    let starter = match Path::new("/run/systemd/system").is_dir() {
        true => Command::new("systemctl").args(["is-active", TIMER]).run().is_ok().then_some(TIMER),
        false => Path::new(CRON).exists().then_some(CRON),
    };
    let Some(starter) = starter else { return Ok(None) };
    let text = match fs::read_to_string(CONFIGURATION) {
        // Without one it does nothing.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|error| Problem::io(format!("cannot read {CONFIGURATION}"), error))?,
    };
    let covered: Vec<_> = match read(CONFIGURATION, &text) {
        Ok(configuration) => {
            let targets = targets(&configuration.sections, volumes).targets;
            targets.into_iter().map(|it| it.dataset.clone()).collect()
        }
        Err(_) => volumes.to_vec(),
    };
    Ok(Some(Rival { starter, volumes: covered }).filter(|it| !it.volumes.is_empty()))
}
