//! systemd's units as packages install them, for one world's `vitrify`; and the clock that they go by. For
//! a machine that is thrown away.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::run::must;
use crate::scratch::complain;
use crate::vitrify::Vitrify;

const SERVICE: &str = include_str!("../../packaging/systemd/vitrify.service");
const TIMER: &str = include_str!("../../packaging/systemd/vitrify.timer");
/// What the service starts.
const PACKAGED: &str = "/usr/bin/vitrify run";
const FOLDER: &str = "/etc/systemd/system";
const NAMES: [&str; 2] = ["vitrify.service", "vitrify.timer"];
/// When the timer goes off: so long after each quarter of an hour.
const AFTER_QUARTER: u64 = 2 * 60;
const QUARTER: u64 = 15 * 60;

/// How a tick ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticked {
    /// `success`, or what else systemd calls it.
    pub result: String,
    /// The exit status.
    pub code: String,
}

/// The units, installed, the timer enabled. Dropped, they are gone.
#[derive(Debug)]
pub struct Units(());

impl Units {
    /// Installs them and starts the timer, which goes off in a quarter of an hour, unless [`tick`] moves the
    /// clock on.
    ///
    /// # Errors
    /// What the file system or systemd says.
    pub fn install(vitrify: &Vitrify) -> Result<Self, Box<dyn Error>> {
        let command = vitrify.command(&["run"]);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<_> = words.map(|it| it.to_string_lossy().into_owned()).collect();
        let service = SERVICE.replace(PACKAGED, &words.join(" "));
        let units = Self(());
        for (name, text) in NAMES.iter().zip([service.as_str(), TIMER]) {
            fs::write(Path::new(FOLDER).join(name), text)?;
        }
        must("systemctl", &["daemon-reload"])?;
        set_clock(next_after(SystemTime::now())? + 1)?;
        must("systemctl", &["enable", "--now", "--quiet", "vitrify.timer"])?;
        Ok(units)
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        let stop = must("systemctl", &["disable", "--now", "--quiet", "vitrify.timer"]);
        let stop = stop.and_then(|_| must("systemctl", &["stop", "vitrify.service"]));
        // One that was stopped in the middle has failed; one that has not is no news.
        let _ = must("systemctl", &["reset-failed", "vitrify.service"]);
        for name in NAMES {
            let _ = fs::remove_file(Path::new(FOLDER).join(name));
        }
        if let Err(error) = stop.and_then(|_| must("systemctl", &["daemon-reload"])) {
            complain("the units", &error);
        }
    }
}

/// Moves the clock on to where the timer goes off next after the last tick of this `vitrify`, which may lie
/// ahead of a clock that a boot has set back, and waits for the tick to end.
///
/// # Errors
/// Where none comes or ends in time, or systemd says no.
pub fn tick(vitrify: &Vitrify, limit: Duration) -> Result<Ticked, Box<dyn Error>> {
    let (_, last) = state()?;
    let last_tick = fs::metadata(vitrify.state().join("last-tick.json"));
    let last_tick = last_tick.and_then(|it| it.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    set_clock(next_after(last_tick.max(SystemTime::now()))? - 1)?;
    let deadline = Instant::now() + limit;
    loop {
        let (state, invocation) = state()?;
        if invocation != last && ["inactive", "failed"].contains(&state.as_str()) {
            return ticked();
        }
        if Instant::now() > deadline {
            return Err(format!("no tick within {limit:?}: the service is {state}").into());
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// When the timer goes off next, in seconds since the epoch.
fn next_after(time: SystemTime) -> Result<u64, Box<dyn Error>> {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    Ok(((seconds - AFTER_QUARTER) / QUARTER + 1) * QUARTER + AFTER_QUARTER)
}

fn set_clock(seconds: u64) -> Result<(), Box<dyn Error>> {
    must("date", &["--set", &format!("@{seconds}")])?;
    Ok(())
}

/// How the last tick ended.
///
/// # Errors
/// What systemd says.
pub fn ticked() -> Result<Ticked, Box<dyn Error>> {
    Ok(Ticked { result: shown("Result")?, code: shown("ExecMainStatus")? })
}

/// Whether it runs, and which run it is, at one instant.
fn state() -> Result<(String, String), Box<dyn Error>> {
    let properties = ["show", "--property=ActiveState", "--property=InvocationID"];
    let shown = must("systemctl", &[&properties[..], &["vitrify.service"]].concat())?;
    let of = |key| shown.lines().find_map(|it| it.strip_prefix(key)).unwrap_or_default().to_owned();
    Ok((of("ActiveState="), of("InvocationID=")))
}

/// A property of the service.
///
/// # Errors
/// What systemd says.
pub fn shown(property: &str) -> Result<String, Box<dyn Error>> {
    Ok(must("systemctl", &["show", "--value", "--property", property, "vitrify.service"])?)
}
