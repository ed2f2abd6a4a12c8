//! How much a witness gets done: the pages that it says it made dirty, by our clock, which does not
//! stop with the guest's.

use std::error::Error;
use std::time::{Duration, Instant};

use witness::pages::PAGE_BYTES;

use crate::guest::Guest;

/// How long a guest may stand still before nobody waits for it any more.
const LIMIT: Duration = Duration::from_secs(60);

/// What a witness said, and when it arrived: several times a second.
#[derive(Clone, Debug)]
pub struct Work {
    samples: Vec<(Instant, u64)>,
}

impl Work {
    /// Listens until the samples so far are enough.
    ///
    /// # Errors
    /// Where the witness falls silent, or `enough` fails.
    pub fn of(
        guest: &mut Guest,
        mut enough: impl FnMut(&Self) -> Result<bool, Box<dyn Error>>,
    ) -> Result<Self, Box<dyn Error>> {
        guest.serial.skip_to_end()?;
        let mut work = Self { samples: Vec::new() };
        while work.samples.len() < 2 || !enough(&work)? {
            let status = guest.serial.count_reaches(0, LIMIT)?;
            work.samples.push((Instant::now(), status.dirty_pages));
        }
        Ok(work)
    }

    /// Listens for so long.
    ///
    /// # Errors
    /// Where the witness falls silent.
    pub fn within(guest: &mut Guest, time: Duration) -> Result<Self, Box<dyn Error>> {
        Self::of(guest, |it| Ok(it.time() >= time))
    }

    /// From the first sample to the last.
    #[must_use]
    pub fn time(&self) -> Duration {
        let ends = self.samples.first().zip(self.samples.last());
        ends.map_or(Duration::ZERO, |(first, last)| last.0 - first.0)
    }

    /// MB/s made dirty on the whole.
    #[must_use]
    pub fn mbps(&self) -> f64 {
        let ends = self.samples.first().zip(self.samples.last());
        let pages = ends.map_or(0, |(first, last)| last.1.saturating_sub(first.1));
        (pages * PAGE_BYTES) as f64 / self.time().as_secs_f64() / 1e6
    }

    /// The longest time between two samples.
    #[must_use]
    pub fn longest_silence(&self) -> Duration {
        let silences = self.samples.windows(2).map(|pair| pair[1].0 - pair[0].0);
        silences.max().unwrap_or_default()
    }
}
