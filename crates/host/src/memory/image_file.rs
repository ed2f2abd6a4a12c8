//! The file with RAM by address, and where in it each block of 64 KiB lies.
//!
//! Btrfs keeps all of an extent for as long as any of it is in use, so an image that is to give room back
//! when points are pruned must consist of small extents. Blocks with a hole after each of them are
//! never written as one extent, however and whenever that happens; blocks side by side are, unless each is
//! sent to the drive before its neighbour is written, which took most of the time of receiving a stream.

use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};

use super::backlog::Place;
use super::pages::GROUP_BYTES;

/// Offsets are those of RAM, whatever lies between the blocks.
#[derive(Debug)]
pub(super) struct ImageFile {
    pub(super) file: File,
    /// Whether a hole as long as a block follows each block.
    pub(super) spaced: bool,
}

impl ImageFile {
    /// How long the file is for so many bytes of RAM, which are whole blocks.
    pub(super) fn length(bytes: u64, spaced: bool) -> u64 {
        if spaced { bytes.saturating_mul(2) } else { bytes }
    }

    fn at(&self, offset: u64) -> u64 {
        if self.spaced { offset + offset / GROUP_BYTES * GROUP_BYTES } else { offset }
    }

    /// Reads RAM from the beginning of a block on.
    pub(super) fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        if !self.spaced {
            return self.file.read_exact_at(bytes, offset);
        }
        let blocks = || (offset..).step_by(GROUP_BYTES as usize);
        // The kernel does not see that one follows the other.
        for (_, block) in bytes.chunks(GROUP_BYTES as usize).zip(blocks()) {
            let length = NonZeroU64::new(GROUP_BYTES);
            fadvise(&self.file, self.at(block), length, Advice::WillNeed).ok();
        }
        let mut pieces = bytes.chunks_mut(GROUP_BYTES as usize).zip(blocks());
        pieces.try_for_each(|(piece, block)| self.file.read_exact_at(piece, self.at(block)))
    }
}

impl Place for ImageFile {
    fn clear(&mut self, bytes: u64) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.set_len(Self::length(bytes, self.spaced))
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, self.at(offset))
    }

    fn punch(&mut self, offset: u64, bytes: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.file, flags, self.at(offset), bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_lie_side_by_side_or_with_holes_between() {
        const BLOCK: usize = GROUP_BYTES as usize;
        for (spaced, second) in [(false, GROUP_BYTES), (true, 2 * GROUP_BYTES)] {
            let file = tempfile::tempfile().unwrap();
            let mut image = ImageFile { file: file.try_clone().unwrap(), spaced };
            image.clear(3 * GROUP_BYTES).unwrap();
            assert_eq!(file.metadata().unwrap().len(), 3 * second, "{spaced}");
            image.write_at(&[1; 4096], GROUP_BYTES - 4096).unwrap();
            image.write_at(&[2; 4096], GROUP_BYTES).unwrap();
            image.write_at(&[3; 4096], GROUP_BYTES + 4096).unwrap();
            image.punch(GROUP_BYTES + 4096, 4096).unwrap();
            let mut bytes = [9; 1];
            for (offset, wanted) in [(GROUP_BYTES - 1, 1), (second, 2), (second + 4096, 0)] {
                file.read_exact_at(&mut bytes, offset).unwrap();
                assert_eq!(bytes, [wanted], "{spaced} {offset}");
            }
            let mut ram = vec![9; 2 * BLOCK];
            image.read_exact_at(&mut ram, 0).unwrap();
            assert_eq!((ram[0], ram[BLOCK - 1], ram[BLOCK], ram[2 * BLOCK - 1]), (0, 1, 2, 0));
            image.read_exact_at(&mut ram[..BLOCK], GROUP_BYTES).unwrap();
            assert_eq!((ram[0], ram[4096]), (2, 0), "{spaced}");
        }
    }
}
