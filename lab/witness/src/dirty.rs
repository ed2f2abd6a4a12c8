//! The fill of RAM and the thread that makes it dirty at a rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use witness::line::Line;
use witness::pages::{PAGE_BYTES, Pages, Torn};
use witness::params::Params;

use crate::Fatal;
use crate::console::Console;
use crate::machine::{attempt, available_mib};

/// How often the thread looks how many pages are due.
const TICK: Duration = Duration::from_millis(5);
/// RAM that must be left after the fill, in MiB.
const ROOM_MIB: u64 = 16;

/// What was reached.
#[derive(Clone, Default)]
pub(crate) struct Dirty {
    mbps: Arc<AtomicU64>,
    pages: Arc<AtomicU64>,
}

impl Dirty {
    /// MB/s made dirty in the last second.
    pub(crate) fn mbps(&self) -> u64 {
        self.mbps.load(Ordering::Relaxed)
    }

    /// Pages made dirty in all.
    pub(crate) fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }
}

/// Fills RAM as the parameters say and starts the thread if there is a rate.
pub(crate) fn start(console: &Console, params: Params) -> Result<Dirty, Fatal> {
    let dirty = Dirty::default();
    let (fill_mib, available_mib) = (params.fill_mib, available_mib()?);
    if fill_mib > 0 && fill_mib + ROOM_MIB > available_mib {
        return Err(Fatal::Fill { fill_mib, available_mib });
    }
    let pages = Pages::filled(fill_mib, params.scattered);
    let (console, reached) = (console.clone(), dirty.clone());
    let walk = move || walk(pages, params.dirty_mbps, &console, &reached);
    attempt("start a thread", thread::Builder::new().spawn(walk))?;
    Ok(dirty)
}

/// Keeps the pages alive and walks them at `mbps`, for ever.
fn walk(mut pages: Pages, mbps: u64, console: &Console, reached: &Dirty) {
    let pages_per_second = mbps * 1_000_000 / PAGE_BYTES;
    if pages_per_second == 0 {
        loop {
            thread::park();
        }
    }
    let (mut second, mut done) = (Instant::now(), 0);
    loop {
        let due = (second.elapsed().as_micros() as u64 * pages_per_second / 1_000_000).max(done);
        // No more than two ticks' worth at once: a guest that slept through a capture makes up for
        // nothing.
        let due = due.min(done + pages_per_second / 100 + 1);
        let torn = (done..due).filter_map(|_| pages.touch_next().err()).collect::<Vec<_>>();
        if !torn.is_empty() {
            console.mismatches(&torn.iter().map(line).collect::<Vec<_>>());
        }
        reached.pages.fetch_add(due - done, Ordering::Relaxed);
        done = due;
        if second.elapsed() >= Duration::from_secs(1) {
            let rate = done * PAGE_BYTES * 1000 / second.elapsed().as_millis() as u64 / 1_000_000;
            reached.mbps.store(rate, Ordering::Relaxed);
            (second, done) = (Instant::now(), 0);
        }
        thread::sleep(TICK);
    }
}

fn line(torn: &Torn) -> Line {
    Line::Mismatch {
        place: format!("ram page={}", torn.page),
        expected: format!("{:016x}", torn.expected),
        found: format!("{:016x}", torn.found),
    }
}
