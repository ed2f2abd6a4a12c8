//! The serial port, one whole line at a time, and the count of mismatches said so far.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use witness::line::Line;

use crate::Fatal;
use crate::machine::attempt;

/// Mismatches of one comparison that are spelt out; the rest are only counted.
const SPELT_OUT: usize = 4;

/// Shared by the threads.
#[derive(Clone, Default)]
pub(crate) struct Console {
    port: Arc<Mutex<Option<File>>>,
    mismatches: Arc<AtomicU64>,
}

impl Console {
    /// Opens the serial port, which exists once `/dev` is mounted.
    pub(crate) fn open(&self) -> Result<(), Fatal> {
        let port = attempt("open /dev/ttyS0", OpenOptions::new().write(true).open("/dev/ttyS0"))?;
        *self.port.lock().unwrap_or_else(PoisonError::into_inner) = Some(port);
        Ok(())
    }

    /// Says one line. A serial port that fails leaves nobody to tell.
    pub(crate) fn say(&self, line: &Line) {
        let text = format!("{line}\n");
        if let Some(port) = &mut *self.port.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = port.write_all(text.as_bytes());
        }
    }

    /// Says something that happened beside the counting.
    pub(crate) fn note(&self, what: &str, value: &str) {
        let (what, value) = (what.to_owned(), value.to_owned());
        self.say(&Line::Note { what, value });
    }

    /// Counts the mismatches of one comparison and says the first few.
    pub(crate) fn mismatches(&self, lines: &[Line]) {
        self.mismatches.fetch_add(lines.len() as u64, Ordering::Relaxed);
        for line in lines.iter().take(SPELT_OUT) {
            self.say(line);
        }
    }

    /// Mismatches since the boot.
    pub(crate) fn mismatch_count(&self) -> u64 {
        self.mismatches.load(Ordering::Relaxed)
    }

    /// Waits until all that was said has left the port.
    pub(crate) fn drain(&self) {
        if let Some(port) = &*self.port.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = rustix::termios::tcdrain(port);
        }
    }
}
