//! Collects the changed pages of a group until all of the group were seen, so that each group is
//! written once, and in long runs. A guest that writes at random leaves about 10,000 groups per GiB
//! of RAM incomplete at a time, so what is collected is bounded: the oldest goes first.

use std::collections::{HashMap, VecDeque};

use vitrify_core::stream::PAGE;

use super::pages::{GROUP, GROUP_BYTES};

/// What changed in a group.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// The group.
    pub(super) group: u64,
    /// The pages that hold zeros now, one bit each.
    pub(super) zeros: u16,
    /// Which pages `data` holds, in its order.
    pub(super) slots: Vec<u8>,
    /// Their contents.
    pub(super) data: Vec<u8>,
}

impl Change {
    /// The place of this page in the image.
    pub(super) fn offset(&self, slot: u8) -> u64 {
        self.group * GROUP_BYTES + u64::from(slot) * PAGE as u64
    }

    fn put(&mut self, slot: u8, page: &[u8; PAGE]) {
        self.zeros &= !(1 << slot);
        match self.slots.iter().position(|it| *it == slot) {
            Some(at) => self.data[at * PAGE..(at + 1) * PAGE].copy_from_slice(page),
            None => {
                // What begins with its first page will mostly be whole: RAM comes from below upwards,
                // but for the pages that the guest is about to write to.
                if slot == 0 && self.slots.is_empty() {
                    self.data.reserve_exact(GROUP * PAGE);
                }
                self.slots.push(slot);
                self.data.extend_from_slice(page);
            }
        }
    }

    fn clear(&mut self, slot: u8) {
        self.zeros |= 1 << slot;
        if let Some(at) = self.slots.iter().position(|it| *it == slot) {
            self.slots.swap_remove(at);
            let last = self.data.split_off(self.data.len() - PAGE);
            if let Some(place) = self.data.get_mut(at * PAGE..(at + 1) * PAGE) {
                place.copy_from_slice(&last);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.zeros == 0 && self.slots.is_empty()
    }
}

/// The groups that are not complete yet.
#[derive(Debug)]
pub(super) struct Collector {
    groups: HashMap<u64, (u16, Change)>,
    /// Groups with changes, in the order of their first change; some have gone since.
    order: VecDeque<u64>,
    bytes: usize,
    bound: usize,
}

/// What a page turned out to be.
pub(super) enum Seen<'a> {
    /// As it was.
    Same,
    /// Zeros now.
    Zero,
    /// This, now.
    New(&'a [u8; PAGE]),
}

impl Collector {
    /// Holds this many bytes of pages at most.
    pub(super) fn new(bound: usize) -> Self {
        Self { groups: HashMap::new(), order: VecDeque::new(), bytes: 0, bound }
    }

    /// Takes note of a page, and hands on what is complete or too much.
    pub(super) fn see(&mut self, page: usize, seen: &Seen<'_>) -> Option<Change> {
        let (group, slot) = ((page / GROUP) as u64, (page % GROUP) as u8);
        let fresh = || (0, Change { group, ..Change::default() });
        let (mask, change) = self.groups.entry(group).or_insert_with(fresh);
        let (was_empty, held) = (change.is_empty(), change.data.len());
        *mask |= 1 << slot;
        match seen {
            Seen::Same => {}
            Seen::Zero => change.clear(slot),
            Seen::New(data) => change.put(slot, data),
        }
        let (complete, filled) = (*mask == u16::MAX, !change.is_empty());
        self.bytes = self.bytes + change.data.len() - held;
        if complete {
            return self.take(group);
        }
        if was_empty && filled {
            self.order.push_back(group);
        }
        if self.bytes > self.bound { self.next() } else { None }
    }

    /// The oldest of what is left.
    pub(super) fn next(&mut self) -> Option<Change> {
        while let Some(group) = self.order.pop_front() {
            if let Some(change) = self.take(group) {
                return Some(change);
            }
        }
        None
    }

    fn take(&mut self, group: u64) -> Option<Change> {
        let (_, change) = self.groups.remove(&group)?;
        self.bytes -= change.data.len();
        (!change.is_empty()).then_some(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGES: [[u8; PAGE]; 2] = [[1; PAGE], [2; PAGE]];

    #[test]
    fn a_group_is_handed_on_when_all_of_it_was_seen() {
        let mut collector = Collector::new(1 << 20);
        for page in 16..31 {
            let seen = match page {
                20 => Seen::New(&PAGES[0]),
                21 => Seen::Zero,
                _ => Seen::Same,
            };
            assert_eq!(collector.see(page, &seen), None);
        }
        let change = collector.see(31, &Seen::New(&PAGES[1])).unwrap();
        assert_eq!((change.group, change.zeros, &*change.slots), (1, 1 << 5, &[4_u8, 15][..]));
        assert_eq!(change.data, PAGES.concat());
        assert_eq!(change.offset(15), 31 * 4096);
        assert_eq!((collector.next(), collector.bytes), (None, 0));
    }

    #[test]
    fn what_did_not_change_is_not_handed_on() {
        let mut collector = Collector::new(1 << 20);
        assert!((0..32).all(|page| collector.see(page, &Seen::Same).is_none()));
        assert_eq!(collector.next(), None);
    }

    #[test]
    fn the_last_content_of_a_page_wins() {
        let mut collector = Collector::new(1 << 20);
        collector.see(3, &Seen::New(&PAGES[0]));
        collector.see(4, &Seen::New(&PAGES[0]));
        collector.see(3, &Seen::New(&PAGES[1]));
        collector.see(4, &Seen::Zero);
        collector.see(5, &Seen::Zero);
        collector.see(5, &Seen::New(&PAGES[0]));
        let change = collector.next().unwrap();
        assert_eq!((change.zeros, &*change.slots), (1 << 4, &[3_u8, 5][..]));
        assert_eq!(change.data, [PAGES[1], PAGES[0]].concat());
        assert_eq!(collector.bytes, 0);
    }

    #[test]
    fn beyond_the_bound_the_oldest_goes_first() {
        let mut collector = Collector::new(2 * PAGE);
        assert_eq!(collector.see(0, &Seen::New(&PAGES[0])), None);
        assert_eq!(collector.see(16, &Seen::New(&PAGES[0])), None);
        assert_eq!(collector.see(32, &Seen::New(&PAGES[0])).unwrap().group, 0);
        assert_eq!(collector.next().unwrap().group, 1);
        assert_eq!(collector.next().unwrap().group, 2);
        assert_eq!(collector.next(), None);
    }
}
