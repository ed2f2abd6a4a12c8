//! The steps: compare, write the next count to every disk in turn, say how far we are.

use std::convert::Infallible;
use std::hash::{BuildHasher as _, RandomState};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use witness::line::{From, Line};
use witness::ring::{SLOTS, near, of_one_instant};
use witness::slot::{BootId, Entry};

use crate::Fatal;
use crate::console::Console;
use crate::dirty::Dirty;
use crate::disk::Disk;

/// Every so many steps the whole ring is compared.
const WHOLE_RING_EVERY: u64 = 16;
/// Least time between two status lines.
const STATUS_EVERY: Duration = Duration::from_millis(50);

/// Steps for ever.
///
/// The comparison opens a step, and the sleep comes just before it: a guest that was captured
/// asleep compares first when it wakes, before a write could heal anything.
pub(crate) fn run(
    console: &Console,
    mut disks: Vec<Disk>,
    dirty: &Dirty,
    step: Duration,
) -> Result<Infallible, Fatal> {
    let boot = boot_id();
    let mut count = learn(console, &mut disks)?;
    let from = if count == 0 { From::Fresh } else { From::Cold };
    console.say(&Line::Ready { boot, disks: disks.len(), from, count });
    let mut next_status = Instant::now();
    loop {
        let started = Instant::now();
        let whole = count % WHOLE_RING_EVERY == 0;
        let windows = if whole { [0..SLOTS, 0..0] } else { near(count) };
        for disk in &mut disks {
            let found: Vec<Line> = windows.iter().flat_map(|it| disk.compare(it.clone())).collect();
            console.mismatches(&found);
        }
        count += 1;
        for disk in &mut disks {
            if let Err(line) = disk.write(Entry { count, boot }) {
                console.mismatches(&[line]);
            }
        }
        if started >= next_status {
            let (dirty_mbps, dirty_pages) = (dirty.mbps(), dirty.pages());
            let mismatches = console.mismatch_count();
            console.say(&Line::Status { boot, count, mismatches, dirty_mbps, dirty_pages });
            next_status = started + STATUS_EVERY;
        }
        thread::sleep(step.saturating_sub(started.elapsed()));
    }
}

/// Reads and judges all rings. Returns the last count that every disk holds.
fn learn(console: &Console, disks: &mut [Disk]) -> Result<u64, Fatal> {
    let mut newest = Vec::new();
    for disk in disks {
        let (count, differences) = disk.learn()?;
        newest.push(count);
        console.mismatches(&differences);
    }
    if !of_one_instant(&newest) {
        let found = newest.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        let (place, expected) = ("disks".to_owned(), "one-instant".to_owned());
        console.mismatches(&[Line::Mismatch { place, expected, found }]);
    }
    Ok(newest.into_iter().min().unwrap_or(0))
}

/// A number that no other boot has. The kernel's generator may not be seeded this early, so the
/// time is mixed in.
fn boot_id() -> BootId {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    BootId(RandomState::new().hash_one((time, Instant::now())))
}
