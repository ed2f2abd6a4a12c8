//! The rings on the disks, written through to the disk and read past the page cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use rustix::fs::OFlags;
use witness::line::Line;
use witness::ring::{Difference, Ring, SLOTS, slot_of};
use witness::slot::{Entry, SLOT_BYTES, encode};

use crate::Fatal;
use crate::machine::attempt;

/// What `O_DIRECT` demands of a buffer's address, with room for disks of 4 KiB sectors.
const ALIGNMENT: usize = 4096;

/// One disk with what RAM says that it holds.
pub(crate) struct Disk {
    name: String,
    number: u32,
    file: File,
    ring: Ring,
    buffer: Buffer,
}

/// Opens these disks.
pub(crate) fn open_all(names: Vec<String>) -> Result<Vec<Disk>, Fatal> {
    names.into_iter().zip(0..).map(|(name, number)| Disk::open(name, number)).collect()
}

impl Disk {
    fn open(name: String, number: u32) -> Result<Self, Fatal> {
        let flags = OFlags::DIRECT | OFlags::DSYNC;
        let path = format!("/dev/{name}");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags.bits().cast_signed())
            .open(&path);
        let file = attempt(format!("open {path}"), file)?;
        let buffer = Buffer::new(SLOTS * SLOT_BYTES);
        Ok(Self { name, number, file, ring: Ring::fresh(number), buffer })
    }

    /// Learns the ring that is on the disk. Returns the newest count and what is wrong with its
    /// past.
    pub(crate) fn learn(&mut self) -> Result<(u64, Vec<Line>), Fatal> {
        let bytes = self.buffer.part(SLOTS * SLOT_BYTES);
        attempt(format!("read {}", self.name), self.file.read_exact_at(bytes, 0))?;
        let (ring, differences) = Ring::learn(self.number, bytes);
        self.ring = ring;
        Ok((self.ring.newest(), self.lines(&differences)))
    }

    /// Writes a count through to the disk, then remembers it in RAM.
    pub(crate) fn write(&mut self, entry: Entry) -> Result<(), Line> {
        let slot = slot_of(entry.count);
        let sector = self.buffer.part(SLOT_BYTES);
        encode(entry, self.number, sector);
        let written = self.file.write_all_at(sector, (slot * SLOT_BYTES) as u64);
        self.ring.advance(entry);
        written.map_err(|error| self.failed(slot, "written", &error))
    }

    /// Compares a range of slots on the disk with RAM.
    pub(crate) fn compare(&mut self, range: Range<usize>) -> Vec<Line> {
        let bytes = self.buffer.part(range.len() * SLOT_BYTES);
        match self.file.read_exact_at(bytes, (range.start * SLOT_BYTES) as u64) {
            Ok(()) => {
                let differences = self.ring.compare(range.start, bytes);
                self.lines(&differences)
            }
            Err(error) => vec![self.failed(range.start, "read", &error)],
        }
    }

    fn lines(&self, differences: &[Difference]) -> Vec<Line> {
        let line = |difference: &Difference| Line::Mismatch {
            place: self.place(difference.slot),
            expected: difference.expected.to_string(),
            found: difference.found.to_string(),
        };
        differences.iter().map(line).collect()
    }

    fn failed(&self, slot: usize, expected: &str, error: &io::Error) -> Line {
        let (expected, found) = (expected.to_owned(), format!("error: {error}"));
        Line::Mismatch { place: self.place(slot), expected, found }
    }

    fn place(&self, slot: usize) -> String {
        format!("disk={} slot={slot}", self.name)
    }
}

/// Bytes at an aligned address.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn new(len: usize) -> Self {
        let bytes = vec![0; len + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        Self { bytes, start }
    }

    /// The first `len` bytes.
    fn part(&mut self, len: usize) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + len]
    }
}
