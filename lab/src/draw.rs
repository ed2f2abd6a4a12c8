//! Numbers that look random and are the same each time.

/// A generator (xorshift) from its seed, which must not be 0.
#[derive(Clone, Debug)]
pub struct Draw(pub u64);

impl Draw {
    /// A number below this bound.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or(0) % bound
    }
}
