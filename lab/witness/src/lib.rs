//! What the witness knows, as plain data: the ring of counts that it keeps on every disk and in
//! RAM, the marks in its fill pages, the count in its file, its kernel command line, and the lines that it says on its
//! serial port. Touches no machine; the program in `main.rs` does, and `vitrify-lab` reads the same
//! lines back.

pub mod line;
pub mod pages;
pub mod params;
pub mod ring;
pub mod slot;
pub mod tally;

/// Mixes `bytes` into 64 bits (FNV-1a). Finds accidents, not attackers.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
