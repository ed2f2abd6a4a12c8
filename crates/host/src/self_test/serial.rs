//! What the witness says on its serial port, read from the file that it is written to.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use vitrify_core::engine::Observer;
use vitrify_core::ports::Answer;
use vitrify_core::problem::{Problem, ProblemKind};
use vitrify_core::self_test::{Said, Status, agrees};

use crate::files::{at, is_absence};

/// How often the file is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The serial port's file, read to some place.
pub(super) struct Serial {
    path: PathBuf,
    read: u64,
    partial: String,
}

impl Serial {
    /// A file that need not exist yet.
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), read: 0, partial: String::new() }
    }

    /// Passes over what was said until now, so that the next status is of this moment or later.
    pub(super) fn skip(&mut self) -> Answer<()> {
        self.more().map(drop)
    }

    /// Waits for the next status that is `wanted`.
    ///
    /// # Errors
    /// `TimedOut` naming `what`, `Failed` with the witness's words where it is in trouble.
    pub(super) fn status(
        &mut self,
        what: &str,
        limit: Duration,
        observer: &dyn Observer,
        wanted: impl Fn(&Status) -> bool,
    ) -> Answer<Status> {
        let deadline = Instant::now() + limit;
        loop {
            for line in self.more()? {
                match Said::parse(&line) {
                    Said::Trouble(words) => {
                        return Err(Problem::failed(format!("the guest says '{words}'")));
                    }
                    Said::Status(status) if wanted(&status) => {
                        agrees(&status).map_err(Problem::failed)?;
                        return Ok(status);
                    }
                    Said::Status(_) | Said::Other => {}
                }
            }
            if observer.cancelled() {
                return Err(Problem::failed("cancelled"));
            }
            if Instant::now() >= deadline {
                let message = format!("the guest did not {what} within {} s", limit.as_secs());
                return Err(Problem::new(ProblemKind::TimedOut, message));
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// The whole lines that were not read yet.
    fn more(&mut self) -> Answer<Vec<String>> {
        let failed = |error| at("cannot read", &self.path)(error);
        let mut file = match File::open(&self.path) {
            Err(error) if is_absence(&error) => return Ok(Vec::new()),
            file => file.map_err(failed)?,
        };
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(self.read))
            .and_then(|_| file.read_to_end(&mut bytes))
            .map_err(failed)?;
        self.read += bytes.len() as u64;
        self.partial.push_str(&String::from_utf8_lossy(&bytes));
        let Some(end) = self.partial.rfind('\n') else { return Ok(Vec::new()) };
        let rest = self.partial.split_off(end + 1);
        let whole = std::mem::replace(&mut self.partial, rest);
        Ok(whole.lines().map(str::to_owned).collect())
    }
}
