//! Numbers that look random and are the same each time.

/// A generator (xorshift) from its seed, which must not be 0.
#[derive(Clone, Debug)]
pub struct Draw(pub u64);

impl Draw {
    /// The generator of one of many pieces of work: it follows from the seed and the piece's number
    /// alone, and neighbours have nothing in common.
    #[must_use]
    pub fn of(seed: u64, number: u64) -> Self {
        Self(mixed(mixed(seed).wrapping_add(number)).max(1))
    }

    /// A number below this bound.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or(0) % bound
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of these, of which there must be some.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// splitmix64's step.
fn mixed(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_of_work_has_its_own_numbers_and_always_the_same() {
        let numbers = |seed, number| {
            let mut draw = Draw::of(seed, number);
            [0; 8].map(|_| draw.below(1000))
        };
        assert_eq!(numbers(1, 7), numbers(1, 7));
        assert_ne!(numbers(1, 7), numbers(1, 8));
        assert_ne!(numbers(1, 7), numbers(2, 6));
    }
}
