//! Fill pages: RAM with content that does not compress, walked through in one order again and again,
//! one marked word a page, so that pages of different instants are found out. At any instant the
//! pages before the cursor carry the mark of this pass and those from it on the mark of the pass
//! before.

/// Words of a page of 4 KiB.
pub const PAGE_WORDS: usize = 512;
/// Bytes of a page.
pub const PAGE_BYTES: u64 = 4096;

/// The fill and how far the present pass has come.
#[derive(Debug)]
pub struct Pages {
    words: Vec<u64>,
    /// The page to come.
    cursor: usize,
    is_scattered: bool,
    pass: u64,
}

/// A page whose mark is not the one that its place in the walk demands: the RAM is not of one
/// instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The page's place in the fill.
    pub page: usize,
    /// The mark that it should carry.
    pub expected: u64,
    /// The mark that it carries.
    pub found: u64,
}

impl Pages {
    /// Fills `mib` MiB, to be walked through from the first page to the last or, scattered, in an
    /// order in which neighbours come far apart.
    #[must_use]
    pub fn filled(mib: u64, is_scattered: bool) -> Self {
        let pages = (mib << 20) / PAGE_BYTES;
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut words = Vec::with_capacity(pages as usize * PAGE_WORDS);
        for page in 0..pages {
            words.push(mark(page, 0));
            words.extend((1..PAGE_WORDS).map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            }));
        }
        Self { words, cursor: 0, is_scattered, pass: 1 }
    }

    /// Checks the next page's mark and puts the present pass's in its place, which makes the page
    /// dirty.
    ///
    /// # Errors
    /// [`Torn`] if the mark was another; the page is marked all the same.
    pub fn touch_next(&mut self) -> Result<(), Torn> {
        let Some(word) = self.words.get_mut(self.cursor * PAGE_WORDS) else { return Ok(()) };
        let page = self.cursor;
        let expected = mark(page as u64, self.pass - 1);
        let found = std::mem::replace(word, mark(page as u64, self.pass));
        self.cursor = self.after(page);
        if self.cursor == 0 {
            self.pass += 1;
        }
        if found == expected { Ok(()) } else { Err(Torn { page, expected, found }) }
    }

    /// The page after this one; after the last the first, which is 0 in either order.
    fn after(&self, page: usize) -> usize {
        let count = self.words.len() / PAGE_WORDS;
        if !self.is_scattered {
            return (page + 1) % count;
        }
        // A linear congruential generator that visits every number below a power of two (Hull and
        // Dobell: an odd increment, a multiplier of 4n + 1); what lies beyond the fill is passed over.
        let mask = count.next_power_of_two() - 1;
        let next = |page: usize| page.wrapping_mul(0x915f_77f5).wrapping_add(0x3c6e_f35f) & mask;
        std::iter::successors(Some(next(page)), |page| Some(next(*page)))
            .find(|page| *page < count)
            .unwrap_or(0)
    }
}

/// The mark of a page in a pass (the finaliser of splitmix64, which spreads neighbours far apart).
fn mark(page: u64, pass: u64) -> u64 {
    let mut word = (page << 32 | pass).wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_over_whole_memory_find_nothing() {
        for is_scattered in [false, true] {
            let mut pages = Pages::filled(3, is_scattered);
            for _ in 0..3 * 3 * 256 + 7 {
                assert_eq!(pages.touch_next(), Ok(()));
            }
            assert_eq!(pages.pass, 4, "each page comes once in a pass");
        }
    }

    #[test]
    fn a_scattered_walk_keeps_neighbours_apart() {
        let mut pages = Pages::filled(4, true);
        let mut near = 0;
        for _ in 0..4 * 256 {
            let page = pages.cursor;
            pages.touch_next().unwrap();
            near += usize::from(page.abs_diff(pages.cursor) < 16);
        }
        assert!(near < 50, "{near}");
    }

    #[test]
    fn a_page_of_another_instant_is_found_within_one_pass() {
        for wrong_pass in [1, 3] {
            let mut pages = Pages::filled(1, false);
            for _ in 0..2 * 256 {
                assert_eq!(pages.touch_next(), Ok(()));
            }
            pages.words[9 * PAGE_WORDS] = mark(9, wrong_pass);
            let found: Vec<usize> =
                (0..256).filter_map(|_| pages.touch_next().err()).map(|torn| torn.page).collect();
            assert_eq!(found, [9]);
        }
    }

    #[test]
    fn no_fill_is_nothing_to_touch() {
        assert_eq!(Pages::filled(0, false).touch_next(), Ok(()));
    }
}
