//! When the last tick was, by both clocks, and whether it was in order: reads `/proc/uptime`, keeps two
//! files in the state folder.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::SignedDuration;
use vitrify_core::policy::Tick;
use vitrify_core::ports::{Answer, Clock, FileContent, NamedFile};
use vitrify_core::problem::Problem;

use crate::files::{at, exists, is_absence, lay, sync_parent, unlink};

/// This moment, by the wall clock and since the boot, sleep included (`/proc/uptime`, proc(5)).
///
/// # Errors
/// Where the kernel does not say.
pub fn now(clock: &dyn Clock) -> Answer<Tick> {
    const UPTIME: &str = "/proc/uptime";
    let text = fs::read_to_string(UPTIME)
        .map_err(|error| Problem::io(format!("cannot read {UPTIME}"), error))?;
    let seconds = text.split_whitespace().next().and_then(|it| it.parse::<f64>().ok());
    let since_boot = seconds
        .and_then(|it| SignedDuration::try_from_secs_f64(it).ok())
        .ok_or_else(|| Problem::failed(format!("{UPTIME} says '{}'", text.trim())))?;
    Ok(Tick { boot: clock.boot()?, time: clock.now(), since_boot })
}

/// The file that remembers the last tick.
#[derive(Debug)]
pub struct TickFile(PathBuf);

impl TickFile {
    /// At this path.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The last tick; `None` where there was none, or where the file cannot be believed: it can only
    /// put a pruning off.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn read(&self) -> Answer<Option<Tick>> {
        match fs::read_to_string(&self.0) {
            Err(error) if is_absence(&error) => Ok(None),
            text => Ok(serde_json::from_str(&text.map_err(at("cannot read", &self.0))?).ok()),
        }
    }

    /// Whether the last tick was in order.
    ///
    /// # Errors
    /// Where that cannot be seen.
    pub fn was_in_order(&self) -> Answer<bool> {
        exists(&self.trouble()).map(|it| !it)
    }

    /// Remembers what was not in order with this tick, a line each; `None`: nothing.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn remember_trouble(&self, trouble: Option<&str>) -> Answer<()> {
        match trouble {
            Some(text) => self.lay(&self.trouble(), format!("{text}\n")),
            None => unlink(&self.trouble()).map(drop),
        }
    }

    /// Beside the file, for an administrator to read as well.
    fn trouble(&self) -> PathBuf {
        self.0.with_extension("trouble")
    }

    /// Remembers this tick.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, tick: &Tick) -> Answer<()> {
        let text = serde_json::to_string(tick)
            .map_err(|error| Problem::failed("cannot write down the tick").from(error))?;
        self.lay(&self.0, text)
    }

    fn lay(&self, path: &Path, text: String) -> Answer<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let folder = path.parent().unwrap_or(path);
        lay(folder, &NamedFile { name, content: FileContent::Text(text) })?;
        sync_parent(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn a_tick_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let file = TickFile::new(folder.path().join("tick.json"));
        assert_eq!(file.read().unwrap(), None);
        let tick = now(&SystemClock).unwrap();
        file.write(&tick).unwrap();
        assert_eq!(file.read().unwrap(), Some(tick.clone()));
        assert_eq!(now(&SystemClock).unwrap().jump_since(&tick), None);
        fs::write(folder.path().join("tick.json"), "{").unwrap();
        assert_eq!(file.read().unwrap(), None);
    }

    #[test]
    fn trouble_is_remembered_until_it_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = TickFile::new(folder.path().join("tick.json"));
        assert!(file.was_in_order().unwrap());
        file.remember_trouble(None).unwrap();
        for trouble in ["web: no room", "web: it is locked"] {
            file.remember_trouble(Some(trouble)).unwrap();
            assert!(!file.was_in_order().unwrap());
            let text = fs::read_to_string(folder.path().join("tick.trouble")).unwrap();
            assert_eq!(text, format!("{trouble}\n"));
        }
        file.remember_trouble(None).unwrap();
        assert!(file.was_in_order().unwrap());
    }
}
