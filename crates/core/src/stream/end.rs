//! How a stream ends. What devices save has no length, so its end is known from behind: QEMU ends a
//! stream with a mark and a description of the devices, in JSON, whose length it says. It has some
//! 7 KiB per CPU (QEMU 10.0: 1.8 MiB with 240 of them), so it is not kept: JSON holds no zero byte,
//! and what lies around the last one is enough.

/// Bytes of the mark 0, the section's type, and the length.
const MARK: usize = 6;

/// The end of a stream so far.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// The last bytes.
    recent: Vec<u8>,
    /// The last bytes up to the last zero byte, and with it.
    before: Vec<u8>,
    /// The first bytes after it.
    after: Vec<u8>,
    /// How many bytes came after it.
    count: u64,
}

impl Tail {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let mut news = bytes;
        if let Some(zero) = bytes.iter().rposition(|it| *it == 0) {
            self.before.clone_from(&self.recent);
            keep_last(&mut self.before, &bytes[..=zero]);
            (self.after, self.count) = (Vec::new(), 0);
            news = &bytes[zero + 1..];
        }
        let wanted = (MARK - self.after.len()).min(news.len());
        self.after.extend_from_slice(&news[..wanted]);
        self.count += news.len() as u64;
        keep_last(&mut self.recent, bytes);
    }

    /// Whether a stream can end so: the mark 0, and a section 6 that reaches to the very end.
    pub(super) fn is_end(&self) -> bool {
        let edge = [self.before.as_slice(), &self.after].concat();
        let length = self.before.len() as u64 + self.count;
        let is_it = |at: usize| match edge[at..] {
            [0, 6, a, b, c, d, b'{', ..] => {
                (at + MARK) as u64 + u64::from(u32::from_be_bytes([a, b, c, d])) == length
            }
            _ => false,
        };
        self.recent.last() == Some(&b'}') && (0..self.before.len()).any(is_it)
    }
}

/// Appends, and keeps as many bytes as a mark has.
fn keep_last(kept: &mut Vec<u8>, bytes: &[u8]) {
    kept.extend_from_slice(&bytes[bytes.len().saturating_sub(MARK)..]);
    kept.drain(..kept.len().saturating_sub(MARK));
}
