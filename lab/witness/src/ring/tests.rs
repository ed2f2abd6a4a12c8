//! Rings against disks of the same, a later and an earlier time.

use super::*;
use crate::slot::{BootId, encode};

const BOOT: BootId = BootId(7);

/// A disk and RAM's ring after `count` steps of one boot.
fn after(count: u64) -> (Ring, Vec<u8>) {
    let mut ring = Ring::fresh(0);
    let mut disk = vec![0; SLOTS * SLOT_BYTES];
    for count in 1..=count {
        write(&mut disk, Entry { count, boot: BOOT });
        ring.advance(Entry { count, boot: BOOT });
    }
    (ring, disk)
}

fn write(disk: &mut [u8], entry: Entry) {
    let at = slot_of(entry.count) * SLOT_BYTES;
    encode(entry, 0, &mut disk[at..at + SLOT_BYTES]);
}

/// The differences around the head at `count`, as a step looks for them.
fn near_differences(ring: &Ring, disk: &[u8], count: u64) -> Vec<Difference> {
    let compare = |range: Range<usize>| {
        ring.compare(range.start, &disk[range.start * SLOT_BYTES..range.end * SLOT_BYTES])
    };
    near(count).into_iter().flat_map(compare).collect()
}

#[test]
fn memory_on_disks_of_each_time() {
    const LAPS: u64 = 3 * SLOTS as u64;
    // (count in RAM, count on disk, differences around the head)
    let table = [
        (0, 0, 0),
        (10, 10, 0),
        (LAPS + 5, LAPS + 5, 0),
        (10, 11, 1),
        (10, 13, 3),
        (13, 10, 3),
        (10, 500, NEAR),
        (500, 10, NEAR),
        (LAPS, LAPS + 1, 1),
        (LAPS, LAPS - 1, 1),
        (LAPS + 2, LAPS + 2 + SLOTS as u64, 2 * NEAR),
        (LAPS + 2, 0, 2 * NEAR),
    ];
    for (in_ram, on_disk, expected) in table {
        let (ring, _) = after(in_ram);
        let (_, disk) = after(on_disk);
        let differences = near_differences(&ring, &disk, in_ram);
        assert_eq!(differences.len(), expected, "RAM at {in_ram}, disk at {on_disk}");
    }
}

#[test]
fn the_write_in_flight_heals_but_the_ring_behind_it_does_not() {
    let (mut ring, _) = after(100);
    let (_, mut disk) = after(104);
    let repeated = Entry { count: 101, boot: BOOT };
    write(&mut disk, repeated);
    ring.advance(repeated);
    let differences = near_differences(&ring, &disk, 101);
    let slots: Vec<usize> = differences.iter().map(|difference| difference.slot).collect();
    assert_eq!(slots, [102, 103, 104]);
}

#[test]
fn the_same_counts_of_another_boot_are_a_difference() {
    let (ring, mut disk) = after(20);
    write(&mut disk, Entry { count: 20, boot: BootId(8) });
    let expected = Found::Entry(Entry { count: 20, boot: BOOT });
    let found = Found::Entry(Entry { count: 20, boot: BootId(8) });
    assert_eq!(near_differences(&ring, &disk, 20), [Difference { slot: 20, expected, found }]);
}

#[test]
fn a_whole_ring_is_learned_at_a_cold_boot() {
    for count in [0, 1, SLOTS as u64 - 1, SLOTS as u64, 5 * SLOTS as u64 + 3] {
        let (_, disk) = after(count);
        let (ring, differences) = Ring::learn(0, &disk);
        assert_eq!(differences, [], "count {count}");
        assert_eq!(ring.newest(), count);
        assert_eq!(ring.compare(0, &disk), []);
    }
}

#[test]
fn a_gap_in_the_past_is_found_at_a_cold_boot() {
    let (_, newer) = after(SLOTS as u64 + 9);
    let mut lost = newer.clone();
    lost[5 * SLOT_BYTES..6 * SLOT_BYTES].fill(0);
    let mut stale = newer.clone();
    let (_, older) = after(9);
    stale[5 * SLOT_BYTES..6 * SLOT_BYTES].copy_from_slice(&older[5 * SLOT_BYTES..6 * SLOT_BYTES]);
    let mut torn = newer;
    torn[5 * SLOT_BYTES + 8] ^= 0xff;
    for disk in [lost, stale, torn] {
        let (_, differences) = Ring::learn(0, &disk);
        let slots: Vec<usize> = differences.iter().map(|difference| difference.slot).collect();
        assert_eq!(slots, [5]);
    }
}

#[test]
fn the_window_follows_the_head_around_the_ring() {
    let table = [
        (1000, [937..1065, 0..0]),
        (63, [0..128, 0..0]),
        (62, [2047..2048, 0..127]),
        (2047, [1984..2048, 0..64]),
        (2048, [1985..2048, 0..65]),
    ];
    for (count, expected) in table {
        assert_eq!(near(count), expected, "count {count}");
    }
}

#[test]
fn disks_of_one_instant_fall_by_one_at_most() {
    let table: [(&[u64], bool); 9] = [
        (&[], true),
        (&[5], true),
        (&[5, 5], true),
        (&[6, 5], true),
        (&[6, 6, 5, 5], true),
        (&[5, 6], false),
        (&[7, 5], false),
        (&[7, 6, 5], false),
        (&[6, 5, 6], false),
    ];
    for (newest, expected) in table {
        assert_eq!(of_one_instant(newest), expected, "{newest:?}");
    }
}
