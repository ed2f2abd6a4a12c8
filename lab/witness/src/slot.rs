//! One slot of a ring on a disk: a sector that says which count was written there, by which boot,
//! on which disk.

use std::fmt;

use crate::checksum;

/// Bytes of a slot: one sector, the unit that a disk writes whole or not at all.
pub const SLOT_BYTES: usize = 512;

const MAGIC: [u8; 8] = *b"VITRWIT\x01";
const HEADER_BYTES: usize = 40;

/// A random number that a witness chooses when it boots. It tells a resumed guest from a rebooted
/// one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BootId(pub u64);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A count and the boot that wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Steps since the disks were fresh; the first is 1.
    pub count: u64,
    /// Who wrote it.
    pub boot: BootId,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.count, self.boot)
    }
}

/// What a sector turns out to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing but zeros: never written.
    Empty,
    /// A whole slot of this disk.
    Entry(Entry),
    /// A whole slot that belongs to another disk: the disks were exchanged.
    OtherDisk(u32),
    /// Neither zeros nor a slot.
    Garbage,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("empty"),
            Self::Entry(entry) => entry.fmt(f),
            Self::OtherDisk(disk) => write!(f, "slot-of-disk-{disk}"),
            Self::Garbage => f.write_str("garbage"),
        }
    }
}

/// Writes `entry` of disk number `disk` into `sector`, which must be [`SLOT_BYTES`] long.
pub fn encode(entry: Entry, disk: u32, sector: &mut [u8]) {
    sector.fill(0);
    sector[0..8].copy_from_slice(&MAGIC);
    sector[8..16].copy_from_slice(&entry.count.to_le_bytes());
    sector[16..24].copy_from_slice(&entry.boot.0.to_le_bytes());
    sector[24..28].copy_from_slice(&disk.to_le_bytes());
    let sum = checksum(&sector[..32]);
    sector[32..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
}

/// Reads a sector of disk number `disk` back.
#[must_use]
pub fn decode(sector: &[u8], disk: u32) -> Found {
    let Some(header) = sector.first_chunk::<HEADER_BYTES>() else { return Found::Garbage };
    if header[..8] != MAGIC {
        let zero = sector.iter().all(|byte| *byte == 0);
        return if zero { Found::Empty } else { Found::Garbage };
    }
    if word(header, 32) != checksum(&header[..32]) {
        return Found::Garbage;
    }
    let written_for = word(header, 24) as u32;
    if written_for != disk {
        return Found::OtherDisk(written_for);
    }
    Found::Entry(Entry { count: word(header, 8), boot: BootId(word(header, 16)) })
}

/// The little-endian word at `at`.
fn word(header: &[u8; HEADER_BYTES], at: usize) -> u64 {
    header[at..at + 8].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: Entry = Entry { count: 0x0102_0304_0506, boot: BootId(0xfeed_beef) };

    fn sector() -> [u8; SLOT_BYTES] {
        let mut sector = [0xaa; SLOT_BYTES];
        encode(ENTRY, 1, &mut sector);
        sector
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        assert_eq!(decode(&sector(), 1), Found::Entry(ENTRY));
    }

    #[test]
    fn a_sector_says_what_it_is() {
        let mut flipped = sector();
        flipped[9] ^= 1;
        let mut nearly_empty = [0; SLOT_BYTES];
        nearly_empty[SLOT_BYTES - 1] = 1;
        let table: [(&[u8], u32, Found); 5] = [
            (&[0; SLOT_BYTES], 0, Found::Empty),
            (&nearly_empty, 0, Found::Garbage),
            (&flipped, 1, Found::Garbage),
            (&sector(), 0, Found::OtherDisk(1)),
            (&sector()[..20], 1, Found::Garbage),
        ];
        for (bytes, disk, expected) in table {
            assert_eq!(decode(bytes, disk), expected);
        }
    }
}
