//! What waits to be written into an image: bounded in memory, and beyond that in the spool where
//! there is one.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};
use vitrify_core::ports::Answer;
use vitrify_core::stream::PAGE;

use super::Spool;
use super::collect::Change;
use crate::files::at;

/// How many bytes wait in memory.
const BOUND: usize = 48 << 20;
/// How many items are written at one go.
const TOGETHER: usize = 64;

/// What the writer is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// Whatever the image held, it is so many bytes of zeros now.
    Clear(u64),
    /// Pages of an image by pages.
    Pages(Change),
    /// The next bytes of an image as a whole.
    Bytes(Vec<u8>),
}

impl Item {
    /// How many bytes of RAM wait with it.
    fn length(&self) -> usize {
        match self {
            Self::Clear(_) => 0,
            Self::Pages(change) => change.data.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

/// Where it is written: an image, or in tests a slow one.
pub(super) trait Place: Send {
    /// Makes it so many bytes of zeros.
    fn clear(&mut self, bytes: u64) -> io::Result<()>;
    /// Writes these bytes after those that were appended last.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Writes these bytes here.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes so many bytes zeros, and gives their room back.
    fn punch(&mut self, offset: u64, bytes: u64) -> io::Result<()>;
}

fn write(items: &[Item], place: &mut dyn Place) -> io::Result<()> {
    items.iter().try_for_each(|item| match item {
        Item::Clear(bytes) => place.clear(*bytes),
        Item::Pages(change) => write_pages(change, place),
        Item::Bytes(bytes) => place.append(bytes),
    })
}

/// Writes pages at once that came one after the other.
fn write_pages(change: &Change, place: &mut dyn Place) -> io::Result<()> {
    let mut written = 0;
    for run in change.slots.chunk_by(|one, next| one + 1 == *next) {
        let end = written + run.len() * PAGE;
        place.write_at(&change.data[written..end], change.offset(run[0]))?;
        written = end;
    }
    for slot in (0..16).filter(|slot| change.zeros & (1 << slot) != 0) {
        place.punch(change.offset(slot), PAGE as u64)?;
    }
    Ok(())
}

/// The queue between who takes a stream apart and who writes.
#[derive(Debug)]
pub(super) struct Backlog {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Item>,
    bytes: usize,
    spool: Option<SpoolFile>,
    /// Nothing more comes.
    closed: bool,
    /// Nobody takes any more.
    abandoned: bool,
}

#[derive(Debug)]
struct SpoolFile {
    out: BufWriter<File>,
    bound: u64,
    used: u64,
}

impl Backlog {
    pub(super) fn new(spool: Option<&Spool>) -> Answer<Self> {
        let spool = spool.map(open).transpose()?;
        Ok(Self { state: Mutex::new(State { spool, ..State::default() }), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an item, and waits for room where there is none. False when nobody takes any more.
    pub(super) fn push(&self, item: Item) -> io::Result<bool> {
        let mut state = self.lock();
        // What was spooled is written last: whatever follows it must not overtake it.
        let spooling = state.spool.as_ref().is_some_and(|it| it.used > 0);
        while state.bytes > BOUND || spooling {
            if state.abandoned {
                return Ok(false);
            }
            match &mut state.spool {
                Some(spool) if spool.used + size(&item) <= spool.bound => {
                    spool.used += size(&item);
                    put(&mut spool.out, &item)?;
                    return Ok(true);
                }
                Some(_) if spooling => return Err(io::ErrorKind::StorageFull.into()),
                _ => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
        state.bytes += item.length();
        state.queue.push_back(item);
        self.changed.notify_all();
        Ok(!state.abandoned)
    }

    /// Nothing more comes.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Nobody takes any more.
    pub(super) fn abandon(&self) {
        self.lock().abandoned = true;
        self.changed.notify_all();
    }

    /// The next items, once there are many or no more come; what was spooled is not among them.
    fn pop(&self) -> Option<Vec<Item>> {
        let mut state = self.lock();
        loop {
            if state.abandoned || state.closed && state.queue.is_empty() {
                return None;
            }
            if state.closed || state.queue.len() >= TOGETHER || state.bytes > BOUND / 2 {
                let count = state.queue.len().min(TOGETHER);
                let items: Vec<_> = state.queue.drain(..count).collect();
                state.bytes -= items.iter().map(Item::length).sum::<usize>();
                self.changed.notify_all();
                return Some(items);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writes everything that comes into the image, until nothing more comes.
    pub(super) fn write_all(&self, place: &mut dyn Place) -> io::Result<()> {
        while let Some(items) = self.pop() {
            write(&items, place)?;
        }
        let spool = self.lock().spool.take();
        if let Some(spool) = spool.filter(|it| it.used > 0) {
            let mut file = spool.out.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.rewind()?;
            let mut file = BufReader::with_capacity(1 << 20, file);
            while !self.lock().abandoned {
                let mut items = Vec::new();
                while items.len() < TOGETHER
                    && let Some(item) = get(&mut file)?
                {
                    items.push(item);
                }
                if items.is_empty() {
                    break;
                }
                write(&items, place)?;
            }
        }
        Ok(())
    }
}

/// An unlinked file, which is gone with this process: RAM holds secrets.
fn open(spool: &Spool) -> Answer<SpoolFile> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::EXCL;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = rustix::fs::open(&spool.folder, flags, mode)
        .map_err(at("cannot open a file in the spool", &spool.folder))
        .map_err(|problem| problem.hint("[memory] spool names a folder on a fast drive"))?;
    let out = BufWriter::with_capacity(1 << 20, File::from(file));
    Ok(SpoolFile { out, bound: spool.bytes.0, used: 0 })
}

/// How long an item is in the spool.
fn size(item: &Item) -> u64 {
    let length = match item {
        Item::Clear(_) => 8,
        Item::Pages(change) => 8 + 2 + 1 + change.slots.len() + change.data.len(),
        Item::Bytes(bytes) => 8 + bytes.len(),
    };
    1 + length as u64
}

fn put(out: &mut impl Write, item: &Item) -> io::Result<()> {
    match item {
        Item::Clear(bytes) => {
            out.write_all(&[0])?;
            out.write_all(&bytes.to_le_bytes())
        }
        Item::Pages(change) => {
            out.write_all(&[1])?;
            out.write_all(&change.group.to_le_bytes())?;
            out.write_all(&change.zeros.to_le_bytes())?;
            out.write_all(&[u8::try_from(change.slots.len()).unwrap_or(u8::MAX)])?;
            out.write_all(&change.slots)?;
            out.write_all(&change.data)
        }
        Item::Bytes(bytes) => {
            out.write_all(&[2])?;
            out.write_all(&(bytes.len() as u64).to_le_bytes())?;
            out.write_all(bytes)
        }
    }
}

fn get(from: &mut impl Read) -> io::Result<Option<Item>> {
    let mut kind = [0; 1];
    match from.read_exact(&mut kind) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let mut number = [0; 8];
    from.read_exact(&mut number)?;
    let number = u64::from_le_bytes(number);
    Ok(Some(match kind {
        [0] => Item::Clear(number),
        [1] => Item::Pages(get_pages(number, from)?),
        _ => {
            let mut bytes = vec![0; usize::try_from(number).map_err(io::Error::other)?];
            from.read_exact(&mut bytes)?;
            Item::Bytes(bytes)
        }
    }))
}

fn get_pages(group: u64, from: &mut impl Read) -> io::Result<Change> {
    let (mut zeros, mut count) = ([0; 2], [0; 1]);
    from.read_exact(&mut zeros)?;
    from.read_exact(&mut count)?;
    let mut slots = vec![0; usize::from(count[0])];
    from.read_exact(&mut slots)?;
    let mut data = vec![0; slots.len() * PAGE];
    from.read_exact(&mut data)?;
    Ok(Change { group, zeros: u16::from_le_bytes(zeros), slots, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Log(Vec<String>);
    impl Place for Log {
        fn clear(&mut self, bytes: u64) -> io::Result<()> {
            self.0.push(format!("{bytes} zeros"));
            Ok(())
        }
        fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.push(format!("{bytes:?}"));
            Ok(())
        }
        fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
            self.0.push(format!("{}+{}:{}", offset / 4096, bytes.len() / 4096, bytes[0]));
            Ok(())
        }
        fn punch(&mut self, offset: u64, bytes: u64) -> io::Result<()> {
            self.0.push(format!("{}+{} zeros", offset / 4096, bytes / 4096));
            Ok(())
        }
    }

    #[test]
    fn neighbours_are_written_at_once() {
        let mut log = Log::default();
        let data = [[5; PAGE], [3; PAGE], [4; PAGE]].concat();
        let change = Change { group: 1, zeros: 1 << 9, slots: vec![7, 3, 4], data };
        let items = [Item::Clear(65536), Item::Pages(change), Item::Bytes(vec![1, 2])];
        write(&items, &mut log).unwrap();
        let wanted = ["65536 zeros", "23+1:5", "19+2:3", "25+1 zeros", "[1, 2]"];
        assert_eq!(log.0, wanted);
        let mut bytes = Vec::new();
        items.iter().for_each(|item| put(&mut bytes, item).unwrap());
        assert_eq!(bytes.len() as u64, items.iter().map(size).sum::<u64>());
        let mut from = &bytes[..];
        for item in items {
            assert_eq!(get(&mut from).unwrap(), Some(item));
        }
        assert_eq!(get(&mut from).unwrap(), None);
    }
}
