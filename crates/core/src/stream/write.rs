//! Writing records of RAM.

use super::{CONTINUE, EOS, FILLED, FOOTER, PAGE, PART, WHOLE};

/// Writes records of RAM as one part of its section.
#[derive(Debug)]
pub struct Writer {
    section: u32,
    last: Option<usize>,
}

impl Writer {
    /// Begins a part of the section of this id.
    pub fn begin(out: &mut Vec<u8>, section: u32) -> Self {
        out.push(PART);
        out.extend_from_slice(&section.to_be_bytes());
        Self { section, last: None }
    }

    /// A page of the block that has this index and this name.
    pub fn page(
        &mut self,
        out: &mut Vec<u8>,
        block: (usize, &str),
        offset: u64,
        data: &[u8; PAGE],
    ) {
        self.record(out, block, offset | WHOLE);
        out.extend_from_slice(data);
    }

    /// A page that is filled with one byte.
    pub fn filled(&mut self, out: &mut Vec<u8>, block: (usize, &str), offset: u64, byte: u8) {
        self.record(out, block, offset | FILLED);
        out.push(byte);
    }

    fn record(&mut self, out: &mut Vec<u8>, (block, name): (usize, &str), word: u64) {
        if self.last.replace(block) == Some(block) {
            out.extend_from_slice(&(word | CONTINUE).to_be_bytes());
            return;
        }
        out.extend_from_slice(&word.to_be_bytes());
        out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(name.as_bytes());
    }

    /// Ends the records, but not the part.
    pub fn end_records(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&EOS.to_be_bytes());
    }

    /// Ends the part, whose records have ended.
    pub fn end(self, out: &mut Vec<u8>) {
        out.push(FOOTER);
        out.extend_from_slice(&self.section.to_be_bytes());
    }
}
