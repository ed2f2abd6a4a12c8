//! Receiving a stream, on three threads.
//!
//! While a stream runs, a guest's first write to each page waits until QEMU has sent that page, and
//! QEMU's monitor waits with it. So the **reader** does nothing but read into memory: it never
//! touches storage, and where no buffer is free for too long it drops the stream, which lets the
//! guest go. The **hasher** takes the stream apart and drops what did not change, or compresses it. The
//! **writer** writes the rest. Either may hang in the store for ever; nobody joins them.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::setpriority_process;
use vitrify_core::definition::Definition;
use vitrify_core::name::{Bytes, PointId};
use vitrify_core::ports::{Answer, MemoryStream};
use vitrify_core::problem::{Problem, ProblemKind};
use vitrify_core::save_image::Header;
use vitrify_core::stream::{PAGE, Parser, Piece};

use super::backlog::{Backlog, Item, Place};
use super::collect::{Collector, Seen};
use super::paged::{Before, Head, Paged, REST};
use super::pages::{Layout, PageHash, hash};
use super::whole::Whole;
use super::{Form, Limits};
use crate::files::at;

/// The reader's buffers.
const BUFFERS: usize = 24;
const BUFFER: usize = 1 << 20;
/// How many bytes of pages the hasher collects.
const COLLECTED: usize = 48 << 20;
/// The longest head of a stream; some hundred bytes as a rule.
const LONGEST_HEAD: usize = 1 << 20;
/// How many bytes of RAM a guest may have beside what its definition says, and twice that.
const BESIDE_RAM: u64 = 16 << 30;
/// The niceness of the threads that a guest waits for; that of its own CPUs is 0.
const URGENT: i32 = -10;
/// How often a wait looks whether somebody gave up.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What a stream brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received {
    /// How long the guest waited for us, in all.
    pub(crate) stalled: Duration,
}

/// A stream that is being received. Dropped, it ends the stream.
#[derive(Debug)]
pub(crate) struct Ingest {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
    /// A page of RAM came.
    first_page: AtomicBool,
    /// Whoever wanted the stream gave it up.
    stopped: AtomicBool,
}

#[derive(Debug, Default)]
struct Progress {
    stalled: Duration,
    ended: bool,
    complete: bool,
    failed: Option<Problem>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// The first failure is the one to tell.
    fn fail(&self, problem: Problem) {
        self.update(|it| it.failed = it.failed.take().or(Some(problem)));
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Waits until something is so, something failed, or somebody gave up.
    fn wait(
        &self,
        limit: Option<Duration>,
        is_so: impl Fn(&Progress) -> bool,
        gave_up: &dyn Fn() -> bool,
    ) -> Answer<MutexGuard<'_, Progress>> {
        let end = limit.map(|it| Instant::now() + it);
        let mut progress = self.lock();
        loop {
            if let Some(problem) = progress.failed.take() {
                return Err(problem);
            }
            if is_so(&progress) {
                return Ok(progress);
            }
            if gave_up() {
                return Err(Problem::failed("cancelled"));
            }
            if end.is_some_and(|it| Instant::now() >= it) {
                let message = "no RAM of the guest arrived in time";
                return Err(Problem::new(ProblemKind::TimedOut, message));
            }
            let waited = self.changed.wait_timeout(progress, LOOK_AGAIN);
            progress = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Ingest {
    /// Makes an image ready to be rewritten, and reads from now on.
    pub(crate) fn start(
        form: &Form,
        header: Header,
        point: &PointId,
        stream: MemoryStream,
        limits: Limits,
    ) -> Answer<Self> {
        let backlog = Arc::new(Backlog::new(limits.spool.as_ref())?);
        match form {
            Form::Paged { folder } => {
                let image = Paged::at(folder);
                let (place, before) = image.begin(point)?;
                let rest = image.create_rest()?;
                let sorter = Sorter {
                    point: point.clone(),
                    header,
                    before,
                    spaced: place.spaced,
                    seen: Vec::new(),
                    layout: Layout::of(&[]),
                    hashes: Vec::new(),
                    head: Vec::new(),
                    collector: Collector::new(COLLECTED),
                    rest: Box::new(rest),
                    backlog: Arc::clone(&backlog),
                    image,
                };
                Self::run(stream, limits, sorter, (backlog, Box::new(place)))
            }
            Form::Whole { file } => {
                let (sink, place) = Whole::at(file).create(&header, &backlog)?;
                Self::run(stream, limits, sink, (backlog, Box::new(place)))
            }
        }
    }

    /// The same into another place than the image's own file: a slow one, in tests.
    pub(super) fn run(
        stream: MemoryStream,
        limits: Limits,
        sink: impl Sink + 'static,
        (backlog, place): (Arc<Backlog>, Box<dyn Place>),
    ) -> Answer<Self> {
        let shared = Arc::new(Shared::default());
        let (full, filled) = mpsc::channel();
        let (empty, emptied) = mpsc::channel();
        for _ in 0..BUFFERS {
            // Its receiver is in the next line.
            let _ = empty.send(vec![0; BUFFER]);
        }
        let reader = Reader { stream, limits, full, emptied, shared: Arc::clone(&shared) };
        let writer = write(Arc::clone(&backlog), place, Arc::clone(&shared))?;
        spawn("reader", move || {
            hurry();
            reader.read();
        })?;
        let told = Arc::clone(&shared);
        spawn("hasher", move || {
            hurry();
            let done = take_apart(sink, &filled, &empty, &told, writer);
            if let Err(problem) = done {
                backlog.abandon();
                told.fail(problem);
            }
        })?;
        Ok(Self { shared })
    }

    /// Waits for the first page of RAM.
    pub(crate) fn await_first_page(&self, limit: Duration) -> Answer<()> {
        let is_there = |_: &Progress| self.shared.first_page.load(Ordering::Relaxed);
        self.shared.wait(Some(limit), is_there, &|| false).map(drop)
    }

    /// Waits for the end of the stream. What came may still wait to be written.
    pub(crate) fn await_end(&self, gave_up: &dyn Fn() -> bool) -> Answer<Received> {
        let progress = self.shared.wait(None, |it| it.ended, gave_up)?;
        Ok(Received { stalled: progress.stalled })
    }

    /// Waits until all of it was written.
    pub(crate) fn complete(&self) -> Answer<()> {
        self.shared.wait(None, |it| it.complete, &|| false).map(drop)
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Answer<JoinHandle<T>> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map_err(|error| Problem::io("cannot start a thread", error))
}

/// The guest waits for this thread: a busy host, or whoever started us with `nice`, must not slow it down.
/// Where that is forbidden we do without.
fn hurry() {
    setpriority_process(None, URGENT).ok();
}

fn write(
    backlog: Arc<Backlog>,
    mut place: Box<dyn Place>,
    shared: Arc<Shared>,
) -> Answer<JoinHandle<bool>> {
    spawn("writer", move || match backlog.write_all(&mut *place) {
        Ok(()) => true,
        Err(error) => {
            backlog.abandon();
            shared.fail(Problem::io("cannot write the memory image", error));
            false
        }
    })
}

/// Reads, and touches nothing else.
struct Reader {
    stream: MemoryStream,
    limits: Limits,
    full: Sender<(Vec<u8>, usize)>,
    emptied: Receiver<Vec<u8>>,
    shared: Arc<Shared>,
}

impl Reader {
    fn read(mut self) {
        let (mut stalled, mut came, mut begun) = (Duration::ZERO, 0, None);
        while let Some(mut buffer) = self.buffer(&mut stalled, came, begun) {
            let (filled, ended) = match self.fill(&mut buffer) {
                Ok(read) => read,
                Err(error) => {
                    let message = "cannot read the stream of the guest's memory";
                    return self.shared.fail(Problem::io(message, error));
                }
            };
            came += filled as u64;
            begun = begun.or_else(|| Some(Instant::now()));
            if filled > 0 && self.full.send((buffer, filled)).is_err() {
                return;
            }
            if ended {
                // Told by the hasher when it has taken in everything.
                self.shared.update(|it| it.stalled = stalled);
                return;
            }
        }
    }

    /// Reads until the buffer is full, and says whether that was all. Until the first page was seen,
    /// for which a guest stands still, whatever comes is enough.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<(usize, bool)> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.stream.0.read(&mut buffer[filled..]) {
                Ok(0) => return Ok((filled, true)),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.shared.is_stopped() {
                        return Err(io::ErrorKind::Interrupted.into());
                    }
                    continue;
                }
                Err(error) => return Err(error),
            }
            if !self.shared.first_page.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok((filled, false))
    }

    /// A free buffer, when so many bytes have come since then. `None` when nobody wants it, or it took
    /// too long.
    fn buffer(&self, stalled: &mut Duration, came: u64, since: Option<Instant>) -> Option<Vec<u8>> {
        if self.shared.is_stopped() {
            return None;
        }
        match self.emptied.try_recv() {
            Ok(buffer) => return Some(buffer),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => {}
        }
        let began = Instant::now();
        let took = since.map_or(Duration::ZERO, |it| it.elapsed());
        let limit = self.limits.stall.left(*stalled, came, took);
        loop {
            let left = limit.saturating_sub(began.elapsed());
            match self.emptied.recv_timeout(left.min(LOOK_AGAIN)) {
                Ok(buffer) => {
                    *stalled += began.elapsed();
                    return Some(buffer);
                }
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) if self.shared.is_stopped() => return None,
                Err(RecvTimeoutError::Timeout) if began.elapsed() >= limit => {
                    let waited = *stalled + began.elapsed();
                    self.shared.fail(too_slow(waited));
                    return None;
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

fn too_slow(waited: Duration) -> Problem {
    let message = format!(
        "the memory store is too slow: the guest would have waited for it ({} ms so far)",
        waited.as_millis()
    );
    Problem::new(ProblemKind::TimedOut, message)
        .hint("name a folder on a fast drive as [memory] spool")
}

/// What becomes of a stream.
pub(super) trait Sink: Send {
    /// The next bytes, as they are.
    fn bytes(&mut self, bytes: &[u8]) -> Answer<()>;
    /// The next piece.
    fn piece(&mut self, piece: Piece<'_>) -> Answer<()>;
    /// Nothing more comes. What is still to be written goes on its way.
    fn ended(&mut self) -> Answer<()>;
    /// Everything was written; how the pieces join.
    fn complete(self, joint: vitrify_core::stream::Joint) -> Answer<()>;
}

fn take_apart(
    mut sink: impl Sink,
    filled: &Receiver<(Vec<u8>, usize)>,
    empty: &Sender<Vec<u8>>,
    shared: &Shared,
    writer: JoinHandle<bool>,
) -> Answer<()> {
    let (mut parser, mut first) = (Parser::new(), true);
    for (buffer, length) in filled {
        let bytes = &buffer[..length];
        sink.bytes(bytes)?;
        parser.feed(bytes, &mut |piece| {
            if first && matches!(piece, Piece::Page { .. } | Piece::Filled { .. }) {
                first = false;
                shared.first_page.store(true, Ordering::Relaxed);
                shared.update(|_| ());
            }
            sink.piece(piece)
        })?;
        // The reader may have come to its end.
        let _ = empty.send(buffer);
    }
    if shared.is_stopped() {
        return Err(Problem::failed("the stream of the guest's memory was given up"));
    }
    let joint = parser
        .finish()
        .map_err(|error| Problem::failed("the guest's memory did not arrive").from(error))?;
    sink.ended()?;
    shared.update(|it| it.ended = true);
    if !writer.join().unwrap_or(false) {
        // It has said why.
        return Err(Problem::failed("the memory image could not be written"));
    }
    sink.complete(joint)?;
    shared.update(|it| it.complete = true);
    Ok(())
}

/// More RAM than a guest of this definition has, in bytes: graphics memory and ROMs are not in it. What
/// is kept of each page is kept for as many as the stream says that there are, so that a damaged
/// stream must not say anything it likes.
fn most_ram(header: &Header) -> u64 {
    let defined = Definition::parse(&header.xml).map_or(0, |it| it.memory_kib);
    defined.saturating_mul(2 << 10).saturating_add(BESIDE_RAM)
}

/// Sorts the changed pages of a stream out, for an image by pages.
pub(super) struct Sorter {
    pub(super) image: Paged,
    pub(super) point: PointId,
    pub(super) header: Header,
    pub(super) before: Option<Before>,
    pub(super) spaced: bool,
    /// One bit for each page that came.
    pub(super) seen: Vec<u64>,
    pub(super) layout: Layout,
    pub(super) hashes: Vec<PageHash>,
    pub(super) head: Vec<u8>,
    pub(super) collector: Collector,
    pub(super) rest: Box<dyn Write + Send>,
    pub(super) backlog: Arc<Backlog>,
}

impl Sorter {
    fn page(&mut self, block: usize, offset: u64, data: &[u8; PAGE]) -> Answer<()> {
        let page = self.layout.page(block, offset);
        self.seen[page / 64] |= 1 << (page % 64);
        let new = hash(data);
        let old = std::mem::replace(&mut self.hashes[page], new);
        let seen = if new == old {
            Seen::Same
        } else if new == PageHash::default() {
            Seen::Zero
        } else {
            Seen::New(data)
        };
        let change = self.collector.see(page, &seen);
        change.map_or(Ok(()), |it| self.hand_on(Item::Pages(it)))
    }

    fn hand_on(&self, item: Item) -> Answer<()> {
        match self.backlog.push(item) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Problem::failed("the memory image could not be written")),
            Err(error) => Err(Problem::io("cannot write to the spool", error)),
        }
    }

    /// The image itself is the writer's: a store that hangs must not keep the first page from being
    /// seen, for the guest stands still until then.
    fn begin(&mut self, layout: Layout) -> Answer<()> {
        let most = most_ram(&self.header);
        if layout.bytes > most {
            let claimed = Bytes(layout.bytes);
            let message = format!(
                "the stream of the guest's memory claims {claimed} of RAM, where {most} would be much",
                most = Bytes(most)
            );
            return Err(Problem::failed(message));
        }
        self.hashes = match self.before.take() {
            Some(before) if before.layout == layout => before.hashes,
            _ => {
                self.hand_on(Item::Clear(layout.bytes))?;
                vec![PageHash::default(); layout.pages()]
            }
        };
        self.seen = vec![0; layout.pages().div_ceil(64)];
        self.layout = layout;
        Ok(())
    }
}

impl Sink for Sorter {
    fn bytes(&mut self, _: &[u8]) -> Answer<()> {
        Ok(())
    }

    fn piece(&mut self, piece: Piece<'_>) -> Answer<()> {
        match piece {
            Piece::Head(bytes) => {
                self.head.extend_from_slice(bytes);
                match self.head.len() <= LONGEST_HEAD {
                    true => Ok(()),
                    false => Err(Problem::failed("the head of the stream of RAM does not end")),
                }
            }
            Piece::Blocks(blocks) => self.begin(Layout::of(blocks)),
            Piece::Page { block, offset, data } => self.page(block, offset, data),
            Piece::Filled { block, offset, byte } => self.page(block, offset, &[byte; PAGE]),
            Piece::Rest(bytes) => {
                self.rest.write_all(bytes).map_err(at("cannot write", &self.image.file(REST)))
            }
        }
    }

    fn ended(&mut self) -> Answer<()> {
        // A stream without RAM that is understood replaces what was there, too.
        if self.layout.pages() == 0 {
            self.begin(Layout::of(&[]))?;
        }
        for page in 0..self.layout.pages() {
            let seen = self.seen[page / 64] & (1 << (page % 64)) != 0;
            if seen || self.hashes[page] == PageHash::default() {
                continue;
            }
            self.hashes[page] = PageHash::default();
            if let Some(change) = self.collector.see(page, &Seen::Zero) {
                self.hand_on(Item::Pages(change))?;
            }
        }
        while let Some(change) = self.collector.next() {
            self.hand_on(Item::Pages(change))?;
        }
        self.backlog.close();
        self.rest.flush().map_err(at("cannot write", &self.image.file(REST)))
    }

    fn complete(self, joint: vitrify_core::stream::Joint) -> Answer<()> {
        let head = Head::new(self.header, &self.layout, self.spaced, joint, self.head);
        self.image.written(&head, &self.hashes, &self.point)
    }
}
