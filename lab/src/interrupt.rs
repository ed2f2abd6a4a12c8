//! Ctrl-C and its like, for programs that must not leave a guest behind.
//!
//! Whatever a program waits for ends with an error when a signal comes, and what it was waiting for
//! is killed; so it ends as it does after any other failure, with everything removed. The programs
//! that it runs are in process groups of their own and do not hear the signal.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Whether a signal came.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

/// Somebody wants the program to end.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

impl Interrupt {
    /// Listens for SIGINT, SIGTERM and SIGHUP from here on.
    ///
    /// # Errors
    /// What the system says.
    pub fn listen() -> io::Result<Self> {
        let came = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&came))?;
        }
        Ok(Self(came))
    }

    /// Goes on if none came.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.0.load(Ordering::Relaxed) { Err(Interrupted) } else { Ok(()) }
    }
}
