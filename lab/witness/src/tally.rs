//! What the file on the guest's ext4 holds: the count again and again, so that a torn one shows.

/// The file's name, in the root of its file system.
pub const NAME: &str = "count";

/// Repetitions: more than a block's worth.
const TIMES: usize = 1024;
const BYTES: usize = size_of::<u64>();

/// The file's content for this count.
#[must_use]
pub fn encode(count: u64) -> Vec<u8> {
    count.to_le_bytes().repeat(TIMES)
}

/// The count that a file holds; `None` where it is not whole.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<u64> {
    let count = *bytes.first_chunk::<BYTES>()?;
    let whole = bytes.len() == BYTES * TIMES && bytes.chunks_exact(BYTES).all(|it| it == count);
    whole.then_some(u64::from_le_bytes(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_file_holds_a_count() {
        let whole = encode(71);
        let torn = [&encode(71)[..4096], &encode(72)[4096..]].concat();
        let table: [(&[u8], Option<u64>); 4] =
            [(&whole, Some(71)), (&torn, None), (&whole[..4096], None), (&[], None)];
        for (bytes, count) in table {
            assert_eq!(decode(bytes), count);
        }
    }
}
