//! Where each page lies in an image by pages, and what it hashes to.

use vitrify_core::stream::{PAGE, RamBlock};

/// Pages are written in blocks of this many, which is a ZFS record of 64 KiB.
pub(super) const GROUP: usize = 16;
/// Bytes of such a block.
pub(super) const GROUP_BYTES: u64 = (GROUP * PAGE) as u64;

/// The hash of a page; of one that holds zeros only, zeros.
pub(super) type PageHash = [u8; 16];

/// The hash of a page.
pub(super) fn hash(page: &[u8; PAGE]) -> PageHash {
    if is_zero(page) {
        return PageHash::default();
    }
    let mut hash = PageHash::default();
    hash.copy_from_slice(&blake3::hash(page).as_bytes()[..16]);
    hash
}

pub(super) fn is_zero(page: &[u8; PAGE]) -> bool {
    // By words, which the compiler turns into wide instructions.
    page.chunks_exact(64).all(|words| words.iter().fold(0, |all, byte| all | byte) == 0)
}

/// RAM's blocks, one after the other, each from a group's beginning on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) blocks: Vec<RamBlock>,
    starts: Vec<u64>,
    /// Bytes of the whole image.
    pub(super) bytes: u64,
}

impl Layout {
    pub(super) fn of(blocks: &[RamBlock]) -> Self {
        let (mut starts, mut bytes) = (Vec::new(), 0_u64);
        for block in blocks {
            starts.push(bytes);
            // What a damaged table says may be more than there can be.
            let groups = block.bytes.div_ceil(GROUP_BYTES);
            bytes = bytes.saturating_add(groups.saturating_mul(GROUP_BYTES));
        }
        Self { blocks: blocks.to_vec(), starts, bytes }
    }

    /// The number of pages, those between blocks included.
    pub(super) fn pages(&self) -> usize {
        usize::try_from(self.bytes / PAGE as u64).unwrap_or(usize::MAX)
    }

    /// Which page of the image a page of a block is.
    pub(super) fn page(&self, block: usize, offset: u64) -> usize {
        let at = self.starts[block] + offset;
        usize::try_from(at / PAGE as u64).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_begin_at_groups() {
        let block = |bytes: u64| RamBlock { name: bytes.to_string(), bytes };
        let layout = Layout::of(&[block(1 << 20), block(4096), block(128 << 10)]);
        assert_eq!(layout.bytes, (1 << 20) + (64 << 10) + (128 << 10));
        assert_eq!((layout.page(0, 4096), layout.page(1, 0), layout.page(2, 0)), (1, 256, 272));
    }

    #[test]
    fn only_zeros_hash_to_zeros() {
        assert_eq!(hash(&[0; PAGE]), [0; 16]);
        for at in [0, 63, 64, 2000, PAGE - 1] {
            let mut page = [0; PAGE];
            page[at] = 1;
            assert_ne!(hash(&page), [0; 16], "{at}");
        }
    }
}
