//! Looks into the journal of a `vitrify` that runs, so that it can be struck at a chosen record.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::run::Running;
use crate::vitrify::Vitrify;
use crate::watch::Watch;

/// Length of the digest, and the blank, before a line's JSON.
const DIGEST: usize = 17;

/// The journal of one world.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    watch: Watch,
}

impl Journal {
    /// The journal of this `vitrify`, which need not have run yet.
    ///
    /// # Errors
    /// What the file system says.
    pub fn of(vitrify: &Vitrify) -> io::Result<Self> {
        let folder = vitrify.state().join("journal");
        fs::create_dir_all(&folder)?;
        let watch = Watch::on(&folder)?;
        Ok(Self { folder, watch })
    }

    /// Every whole line of every open entry, the plan and then the records, as JSON.
    ///
    /// # Errors
    /// What the file system says.
    pub fn lines(&self) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_none_or(|it| it != "jsonl") {
                continue;
            }
            match fs::read_to_string(&path) {
                // It was closed this very moment.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                text => {
                    let text = text?;
                    let whole = text.split_inclusive('\n').filter_map(|it| it.strip_suffix('\n'));
                    lines.extend(whole.filter_map(|it| it.get(DIGEST..)).map(str::to_owned));
                }
            }
        }
        Ok(lines)
    }

    /// Waits until the lines are as wanted. False when `process` has ended before that, or `limit`
    /// has passed.
    ///
    /// # Errors
    /// What the file system says.
    pub fn reaches(
        &self,
        process: &Running,
        limit: Duration,
        wanted: impl Fn(&[String]) -> bool,
    ) -> io::Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            if wanted(&self.lines()?) {
                return Ok(true);
            }
            if process.has_ended() || !self.watch.wait(Some(process), deadline)? {
                return Ok(false);
            }
        }
    }
}
