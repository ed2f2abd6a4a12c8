//! Follows a witness's serial log and waits for what it says.
//!
//! The log is written by virtlogd, which moves it aside when it has grown to 2 MiB and begins a new
//! one; the follower goes on with the new one.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use witness::line::{From, Line};
use witness::slot::BootId;

use crate::watch::Watch;

/// Lines of any kind that are kept to explain a failure.
const TAIL_LINES: usize = 20;

/// A serial log and what was said in it so far.
#[derive(Debug)]
pub struct Serial {
    path: PathBuf,
    watch: Watch,
    file: Option<File>,
    /// The beginning of a line whose end is not written yet.
    partial: Vec<u8>,
    /// Lines that were read and that nobody waited for yet.
    unread: VecDeque<Line>,
    tail: VecDeque<String>,
    latest: Option<Status>,
    mismatches: Vec<String>,
}

/// The newest status that was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Which boot said it.
    pub boot: BootId,
    /// Steps done.
    pub count: u64,
    /// Differences since that boot.
    pub mismatches: u64,
    /// MB/s made dirty.
    pub dirty_mbps: u64,
    /// Pages made dirty since that boot.
    pub dirty_pages: u64,
}

/// What a witness found when it booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// This boot.
    pub boot: BootId,
    /// Writable disks.
    pub disks: usize,
    /// What was on them.
    pub from: From,
    /// The last count that all of them held.
    pub count: u64,
}

/// Why waiting ended in vain.
#[derive(Debug, thiserror::Error)]
pub enum SerialError {
    /// It was not said in time.
    #[error("no {what} within {limit:?}; last on the serial port:\n{tail}")]
    Limit {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
        /// The last lines of any kind.
        tail: String,
    },
    /// The witness gave up.
    #[error("the witness gave up: {0}")]
    Fatal(String),
    /// The log cannot be read.
    #[error("cannot follow {}", path.display())]
    Io {
        /// The log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Serial {
    /// Follows a log from its beginning. It need not exist yet, its folder must.
    ///
    /// # Errors
    /// [`SerialError::Io`].
    pub fn follow(path: impl Into<PathBuf>) -> Result<Self, SerialError> {
        let path = path.into();
        let folder = path.parent().unwrap_or(Path::new("/"));
        let watch =
            Watch::on(folder).map_err(|source| SerialError::Io { path: path.clone(), source })?;
        Ok(Self {
            path,
            watch,
            file: None,
            partial: Vec::new(),
            unread: VecDeque::new(),
            tail: VecDeque::new(),
            latest: None,
            mismatches: Vec::new(),
        })
    }

    /// Waits for the first line from here on that satisfies `wanted`; the lines before it are
    /// passed over. `what` names it in the error.
    ///
    /// # Errors
    /// [`SerialError`]; a fatal line ends every wait but one that wants it.
    pub fn wait_for(
        &mut self,
        what: &str,
        limit: Duration,
        mut wanted: impl FnMut(&Line) -> bool,
    ) -> Result<Line, SerialError> {
        let deadline = Instant::now() + limit;
        loop {
            self.read()?;
            while let Some(line) = self.unread.pop_front() {
                if wanted(&line) {
                    return Ok(line);
                }
                if let Line::Fatal { reason } = line {
                    return Err(SerialError::Fatal(reason));
                }
            }
            if !self.grown(deadline)? {
                let (what, tail) = (what.to_owned(), self.tail());
                return Err(SerialError::Limit { what, limit, tail });
            }
        }
    }

    /// Waits until a witness has booted.
    ///
    /// # Errors
    /// [`SerialError`].
    pub fn ready(&mut self, limit: Duration) -> Result<Ready, SerialError> {
        let is_ready = |line: &Line| matches!(line, Line::Ready { .. });
        loop {
            if let Line::Ready { boot, disks, from, count } =
                self.wait_for("READY", limit, is_ready)?
            {
                return Ok(Ready { boot, disks, from, count });
            }
        }
    }

    /// Waits for a new status with a count of at least `count`.
    ///
    /// # Errors
    /// [`SerialError`].
    pub fn count_reaches(&mut self, count: u64, limit: Duration) -> Result<Status, SerialError> {
        let reached = |line: &Line| matches!(line, Line::Status { count: it, .. } if *it >= count);
        loop {
            let line = self.wait_for(&format!("count of {count}"), limit, reached)?;
            if let Some(status) = status(&line) {
                return Ok(status);
            }
        }
    }

    /// Waits for `steps` more steps than the newest that was said.
    ///
    /// # Errors
    /// [`SerialError`].
    pub fn steps_on(&mut self, steps: u64, limit: Duration) -> Result<Status, SerialError> {
        self.skip_to_end()?;
        let count = self.latest.map_or(0, |status| status.count);
        self.count_reaches(count + steps, limit)
    }

    /// Passes over all that was said until now, so that the next wait sees only what is said from
    /// here on.
    ///
    /// # Errors
    /// [`SerialError::Io`].
    pub fn skip_to_end(&mut self) -> Result<(), SerialError> {
        self.read()?;
        self.unread.clear();
        Ok(())
    }

    /// The newest status that was read, passed over or not.
    #[must_use]
    pub fn latest(&self) -> Option<Status> {
        self.latest
    }

    /// The mismatches that were spelt out and read so far, over all boots.
    #[must_use]
    pub fn mismatches(&self) -> &[String] {
        &self.mismatches
    }

    /// The last lines of any kind, to explain a failure.
    #[must_use]
    pub fn tail(&self) -> String {
        self.tail.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// Reads what there is.
    fn read(&mut self) -> Result<(), SerialError> {
        let read = self.read_files();
        read.map_err(|source| SerialError::Io { path: self.path.clone(), source })
    }

    fn read_files(&mut self) -> io::Result<()> {
        loop {
            if let Some(file) = &mut self.file {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes)?;
                self.take(&bytes);
            }
            let now = match fs::metadata(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                found => found?.ino(),
            };
            let open = self.file.as_ref().map(File::metadata).transpose()?;
            if open.is_some_and(|open| open.ino() == now) {
                return Ok(());
            }
            self.file = Some(File::open(&self.path)?);
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let bytes: Vec<u8> = self.partial.drain(..=end).collect();
            let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            if let Ok(line) = text.parse() {
                self.note(&line);
                self.unread.push_back(line);
            }
            self.tail.push_back(text);
            if self.tail.len() > TAIL_LINES {
                self.tail.pop_front();
            }
        }
    }

    fn note(&mut self, line: &Line) {
        self.latest = status(line).or(self.latest);
        if let Line::Mismatch { .. } = line {
            self.mismatches.push(line.to_string());
        }
    }

    /// Waits until something happened to the log. False when the deadline has passed.
    fn grown(&self, deadline: Instant) -> Result<bool, SerialError> {
        let failed = |source| SerialError::Io { path: self.path.clone(), source };
        self.watch.wait(None, deadline).map_err(failed)
    }
}

fn status(line: &Line) -> Option<Status> {
    match *line {
        Line::Status { boot, count, mismatches, dirty_mbps, dirty_pages } => {
            Some(Status { boot, count, mismatches, dirty_mbps, dirty_pages })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
