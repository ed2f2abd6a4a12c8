//! The ring of the last counts, as RAM remembers it for one disk, and its comparison with what the
//! disk holds.
//!
//! One counter would heal: the write that was in flight at the instant of a capture is repeated
//! after a restore. A ring of the past does not: on a disk of a later time the slots ahead of the
//! head hold a future that RAM does not know, on a disk of an earlier time the slots behind it lack
//! a past that RAM does.

use std::ops::Range;

use crate::slot::{Entry, Found, SLOT_BYTES, decode};

/// Slots of a ring.
pub const SLOTS: usize = 2048;
/// Slots before the head, and as many after it, that are compared at every step.
pub const NEAR: usize = 64;

/// What RAM says that one disk holds.
#[derive(Clone, Debug)]
pub struct Ring {
    disk: u32,
    slots: Vec<Option<Entry>>,
}

/// A slot in which a disk and RAM disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its place in the ring.
    pub slot: usize,
    /// What RAM says.
    pub expected: Found,
    /// What the disk says.
    pub found: Found,
}

impl Ring {
    /// The ring of disk number `disk` before the first count.
    #[must_use]
    pub fn fresh(disk: u32) -> Self {
        Self { disk, slots: vec![None; SLOTS] }
    }

    /// Learns a ring from a disk at a cold boot and judges whether it is a gapless past: the slots
    /// hold the newest count and those before it, each in its place, and nothing else.
    #[must_use]
    pub fn learn(disk: u32, bytes: &[u8]) -> (Self, Vec<Difference>) {
        let found: Vec<Found> = sectors(bytes).map(|sector| decode(sector, disk)).collect();
        let slots = found.iter().map(entry).collect();
        let ring = Self { disk, slots };
        let newest = ring.newest();
        let differences = found.iter().enumerate().filter_map(|(slot, found)| {
            let expected = expected_count(slot, newest);
            let agrees = match found {
                Found::Empty => expected.is_none(),
                Found::Entry(entry) => expected == Some(entry.count),
                Found::OtherDisk(_) | Found::Garbage => false,
            };
            let boot = entry(found).map_or(crate::slot::BootId(0), |entry| entry.boot);
            let expected =
                expected.map_or(Found::Empty, |count| Found::Entry(Entry { count, boot }));
            (!agrees).then_some(Difference { slot, expected, found: *found })
        });
        let differences = differences.collect();
        (ring, differences)
    }

    /// The highest count in the ring; 0 if there is none.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.slots.iter().flatten().map(|entry| entry.count).max().unwrap_or(0)
    }

    /// Remembers a count that was written.
    pub fn advance(&mut self, entry: Entry) {
        self.slots[slot_of(entry.count)] = Some(entry);
    }

    /// Compares the slots from `first` on, as read from the disk, with what RAM says.
    #[must_use]
    pub fn compare(&self, first: usize, bytes: &[u8]) -> Vec<Difference> {
        let pairs = self.slots[first..].iter().zip(sectors(bytes)).enumerate();
        let differences = pairs.filter_map(|(at, (known, sector))| {
            let expected = known.map_or(Found::Empty, Found::Entry);
            let found = decode(sector, self.disk);
            (expected != found).then_some(Difference { slot: first + at, expected, found })
        });
        differences.collect()
    }
}

/// The slot that holds `count`.
#[must_use]
pub fn slot_of(count: u64) -> usize {
    (count % SLOTS as u64) as usize
}

/// The slots around the head: [`NEAR`] up to and including it, [`NEAR`] after it. The second range
/// is empty unless they wrap.
#[must_use]
pub fn near(count: u64) -> [Range<usize>; 2] {
    let first = (slot_of(count) + SLOTS + 1 - NEAR) % SLOTS;
    let end = first + 2 * NEAR;
    [first..end.min(SLOTS), 0..end.saturating_sub(SLOTS)]
}

/// Whether disks with these newest counts are of one instant. They are written in order, so that at
/// any instant the counts fall by one in all, at one place, or not at all.
#[must_use]
pub fn of_one_instant(newest: &[u64]) -> bool {
    let ordered = newest.windows(2).all(|pair| pair[0] >= pair[1]);
    let spread = newest.iter().max().zip(newest.iter().min()).map_or(0, |(max, min)| max - min);
    ordered && spread <= 1
}

/// The count that belongs in `slot` when `newest` is the newest of a gapless ring.
fn expected_count(slot: usize, newest: u64) -> Option<u64> {
    let back = (slot_of(newest) + SLOTS - slot) % SLOTS;
    newest.checked_sub(back as u64).filter(|count| *count > 0)
}

fn entry(found: &Found) -> Option<Entry> {
    if let Found::Entry(entry) = found { Some(*entry) } else { None }
}

fn sectors(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.chunks_exact(SLOT_BYTES)
}

#[cfg(test)]
mod tests;
