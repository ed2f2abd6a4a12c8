//! QEMU's migration stream: taking it apart into RAM pages and the rest, and writing pages again.
//!
//! A stream is kept as its head, the last content of each page, and everything from the first thing
//! on that is not understood, byte for byte. That is exact whatever that thing is: pages may come in
//! any order and more than once, and what follows them, a delta to an earlier page included, finds
//! every page as it was at that place of the stream.
//!
//! Format, as seen in streams of QEMU 7.2 and 10.0: `QEVM`, version 3; sections that each begin with
//! a type and, but for the configuration, an id; a footer that repeats the id. Big-endian throughout.
//! RAM is one section in parts: its START lists the blocks, its PARTs (and a live stream's END) hold
//! records of one page each. A background snapshot has no END. What devices save carries no length.

mod end;
mod write;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use self::end::Tail;
pub use self::write::Writer;

/// Bytes of a page of guest RAM.
pub const PAGE: usize = 4096;

const MAGIC: &[u8; 8] = b"QEVM\0\0\0\x03";
const START: u8 = 1;
const PART: u8 = 2;
const END: u8 = 3;
const CONFIGURATION: u8 = 7;
const FOOTER: u8 = 0x7e;
/// The name and the version of RAM's section.
const RAM: (&[u8], u32) = (b"ram", 4);

/// The low bits of a record's address say what it is.
const FLAGS: u64 = 0xfff;
const FILLED: u64 = 0x02;
const MEM_SIZE: u64 = 0x04;
const WHOLE: u64 = 0x08;
const EOS: u64 = 0x10;
const CONTINUE: u64 = 0x20;

/// The longest head that is looked at as a whole: the table of RAM's blocks.
const LONGEST: usize = 64 << 10;

/// A block of guest RAM: `pc.ram`, a ROM, a graphics card's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RamBlock {
    /// QEMU's name for it.
    pub name: String,
    /// Its size, a multiple of [`PAGE`].
    pub bytes: u64,
}

/// What the parser finds, in the order of the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes before the first record of RAM, to be kept as they are.
    Head(&'a [u8]),
    /// All RAM blocks; once, before any page.
    Blocks(&'a [RamBlock]),
    /// A page.
    Page {
        /// The block's index.
        block: usize,
        /// Where in the block, in bytes: a multiple of [`PAGE`] below the block's size.
        offset: u64,
        /// Its content.
        data: &'a [u8; PAGE],
    },
    /// A page that is filled with one byte.
    Filled {
        /// The block's index.
        block: usize,
        /// Where in the block, in bytes: a multiple of [`PAGE`] below the block's size.
        offset: u64,
        /// The byte.
        byte: u8,
    },
    /// Bytes from the first thing on that is not understood, to be kept as they are.
    Rest(&'a [u8]),
}

/// Where the rest of a stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// At a section's beginning.
    Section,
    /// Among the records of a part of RAM.
    Records,
    /// Where the footer of a part of RAM would be.
    Footer,
}

/// How the kept parts join when a stream is put together again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Joint {
    /// The id of RAM's section; `None` where no RAM was understood: head and rest are the stream.
    pub section: Option<u32>,
    /// Where the rest begins.
    pub place: Place,
    /// The block of the last record before it: a record that continues means this one.
    pub last: Option<usize>,
}

/// A stream that ends where none does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// In the head, or in RAM.
    #[error("the stream of the guest's memory was cut off in the middle of its RAM")]
    CutInRam,
    /// After RAM, and not with the description that QEMU ends a stream with.
    #[error("the stream of the guest's memory was cut off in the middle of its devices")]
    CutInDevices,
}

/// Takes a stream apart as it comes. Holds less than 1 MiB, whatever the stream says.
#[derive(Debug, Default)]
pub struct Parser {
    state: State,
    /// The beginning of something whose end has not come yet.
    held: Vec<u8>,
    blocks: Vec<RamBlock>,
    section: Option<u32>,
    last: Option<usize>,
    place: Option<Place>,
    tail: Tail,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Header,
    Section,
    Records,
    Footer,
    Rest,
}

/// What was found at the beginning of some bytes.
enum Found<'a> {
    /// Its end has not come yet.
    Short,
    /// Nothing that is understood.
    Odd,
    /// So many bytes of the head.
    Head(usize),
    /// So many bytes of the head, ending with the table of the blocks.
    Table(usize),
    /// So many bytes that need not be kept.
    Frame(usize),
    /// So many bytes with a page.
    Page(usize, Piece<'a>),
}

impl Parser {
    /// At the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes. However a stream is cut, it gives the same pieces, but for where its
    /// head and its rest are cut.
    ///
    /// # Errors
    /// What `each` answers; the stream itself is never an error here.
    pub fn feed<E>(
        &mut self,
        mut bytes: &[u8],
        each: &mut impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while !self.held.is_empty() && self.state != State::Rest {
            let before = self.held.len();
            let added = bytes.len().min(2 * PAGE);
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(&bytes[..added]);
            let taken = self.take(&held, each)?;
            if taken >= before {
                bytes = &bytes[taken - before..];
                break;
            }
            bytes = &bytes[added..];
            held.drain(..taken);
            self.held = held;
            if bytes.is_empty() {
                return Ok(());
            }
        }
        if self.state == State::Rest {
            let held = std::mem::take(&mut self.held);
            self.rest(&held, each)?;
            return self.rest(bytes, each);
        }
        let taken = self.take(bytes, each)?;
        self.held = bytes[taken..].to_vec();
        Ok(())
    }

    /// The stream ends here.
    ///
    /// # Errors
    /// [`StreamError`] where a stream of QEMU's does not end.
    pub fn finish(self) -> Result<Joint, StreamError> {
        let Some(place) = self.place else { return Err(StreamError::CutInRam) };
        if !self.tail.is_end() {
            return Err(StreamError::CutInDevices);
        }
        Ok(Joint { section: self.section, place, last: self.last })
    }

    fn rest<E>(
        &mut self,
        bytes: &[u8],
        each: &mut impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.tail.push(bytes);
        if bytes.is_empty() { Ok(()) } else { each(Piece::Rest(bytes)) }
    }

    /// Takes all that is whole, and answers how many bytes that was.
    fn take<E>(
        &mut self,
        bytes: &[u8],
        each: &mut impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut taken = 0;
        loop {
            let left = &bytes[taken..];
            let length = match self.find(left) {
                Found::Short => return Ok(taken),
                Found::Odd => {
                    self.place = Some(match self.state {
                        State::Records => Place::Records,
                        State::Footer => Place::Footer,
                        _ => Place::Section,
                    });
                    self.state = State::Rest;
                    self.rest(left, each)?;
                    return Ok(bytes.len());
                }
                Found::Head(length) => {
                    each(Piece::Head(&left[..length]))?;
                    length
                }
                Found::Table(length) => {
                    each(Piece::Head(&left[..length]))?;
                    each(Piece::Blocks(&self.blocks))?;
                    length
                }
                Found::Frame(length) => length,
                Found::Page(length, piece) => {
                    each(piece)?;
                    length
                }
            };
            taken += length;
        }
    }

    fn find<'a>(&mut self, bytes: &'a [u8]) -> Found<'a> {
        // Never more than would be held, or else what is understood would depend on the cutting.
        let bytes = &bytes[..bytes.len().min(LONGEST)];
        let found = match self.state {
            State::Header => self.header(bytes),
            State::Section => self.section(bytes),
            State::Records => self.record(bytes),
            State::Footer => self.footer(bytes),
            State::Rest => Some(Found::Odd),
        };
        found.unwrap_or(if bytes.len() == LONGEST { Found::Odd } else { Found::Short })
    }

    fn header<'a>(&mut self, bytes: &[u8]) -> Option<Found<'a>> {
        if !MAGIC.starts_with(&bytes[..bytes.len().min(MAGIC.len())]) {
            return Some(Found::Odd);
        }
        bytes.get(..MAGIC.len())?;
        self.state = State::Section;
        Some(Found::Head(MAGIC.len()))
    }

    fn section<'a>(&mut self, bytes: &[u8]) -> Option<Found<'a>> {
        let mut reader = Reader(bytes);
        match (reader.u8()?, self.section) {
            (CONFIGURATION, None) => {
                let length = usize::try_from(reader.u32()?).ok().filter(|it| *it <= PAGE);
                let Some(length) = length else { return Some(Found::Odd) };
                reader.bytes(length)?;
                Some(Found::Head(bytes.len() - reader.0.len()))
            }
            (START, None) => self.start(bytes, reader),
            (PART | END, Some(section)) if reader.u32()? == section => {
                self.state = State::Records;
                Some(Found::Frame(5))
            }
            _ => Some(Found::Odd),
        }
    }

    /// The section that lists RAM's blocks, as a whole.
    fn start<'a>(&mut self, bytes: &[u8], mut reader: Reader<'_>) -> Option<Found<'a>> {
        let section = reader.u32()?;
        let name = reader.name()?;
        let _instance = reader.u32()?;
        let version = reader.u32()?;
        let word = reader.u64()?;
        let total = word & !FLAGS;
        if (name, version) != RAM || word & FLAGS != MEM_SIZE {
            return Some(Found::Odd);
        }
        let (mut blocks, mut names, mut sum) = (Vec::new(), BTreeSet::new(), 0_u64);
        while sum < total {
            let name = reader.name()?;
            let bytes = reader.u64()?;
            let fine = bytes > 0 && bytes & FLAGS == 0 && bytes <= total - sum;
            match std::str::from_utf8(name) {
                Ok(text) if fine && !text.is_empty() && names.insert(name) => {
                    blocks.push(RamBlock { name: text.to_owned(), bytes });
                }
                _ => return Some(Found::Odd),
            }
            sum += bytes;
        }
        if reader.u64()? != EOS || reader.u8()? != FOOTER || reader.u32()? != section {
            return Some(Found::Odd);
        }
        if blocks.is_empty() {
            return Some(Found::Odd);
        }
        (self.blocks, self.section, self.state) = (blocks, Some(section), State::Section);
        Some(Found::Table(bytes.len() - reader.0.len()))
    }

    fn record<'a>(&mut self, bytes: &'a [u8]) -> Option<Found<'a>> {
        let mut reader = Reader(bytes);
        let word = reader.u64()?;
        let (offset, flags) = (word & !FLAGS, word & FLAGS);
        if word == EOS {
            self.state = State::Footer;
            return Some(Found::Frame(8));
        }
        let kind = flags & !CONTINUE;
        if kind != FILLED && kind != WHOLE {
            return Some(Found::Odd);
        }
        let block = if flags & CONTINUE != 0 {
            self.last
        } else {
            let name = reader.name()?;
            // One and the same block, mostly.
            let is_it = |it: &RamBlock| it.name.as_bytes() == name;
            self.blocks.iter().position(is_it)
        };
        let Some(block) = block.filter(|it| offset < self.blocks[*it].bytes) else {
            return Some(Found::Odd);
        };
        let piece = if kind == FILLED {
            Piece::Filled { block, offset, byte: reader.u8()? }
        } else {
            Piece::Page { block, offset, data: reader.bytes(PAGE)?.try_into().ok()? }
        };
        self.last = Some(block);
        Some(Found::Page(bytes.len() - reader.0.len(), piece))
    }

    fn footer<'a>(&mut self, bytes: &[u8]) -> Option<Found<'a>> {
        let mut reader = Reader(bytes);
        if reader.u8()? != FOOTER || Some(reader.u32()?) != self.section {
            return Some(Found::Odd);
        }
        self.state = State::Section;
        Some(Found::Frame(5))
    }
}

/// Numbers and names from the beginning of some bytes; `None` where they are too short.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, left) = self.0.split_at_checked(length)?;
        self.0 = left;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.bytes(1).map(|it| it[0])
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.bytes(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.bytes(8)?.try_into().ok()?))
    }

    fn name(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.bytes(usize::from(length))
    }
}

#[cfg(test)]
mod tests;
