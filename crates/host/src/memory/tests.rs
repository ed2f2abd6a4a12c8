use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Cursor, Read};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use vitrify_core::fake::{SamplePage, sample_save_image, sample_stream};
use vitrify_core::ports::MemoryStream;
use vitrify_core::stream::{PAGE, Parser, Piece};

use super::backlog::{Backlog, Place};
use super::collect::Collector;
use super::image_file::ImageFile;
use super::ingest::Sorter;
use super::pages::Layout;
use super::*;

type Pages<'a> = &'a [(usize, u64, SamplePage)];

struct World {
    scratch: TempDir,
}

fn point(number: u8) -> PointId {
    format!("{number:08x}-7d4e-4c0e-9b3c-0d1f5f0e2a11").parse().unwrap()
}

fn header() -> Header {
    Header { xml: "<domain type='qemu'/>".into(), cookie: Some("<c/>".into()), running: true }
}

fn limits() -> Limits {
    let stall = StallLimits { once: Duration::from_millis(200), budget: Duration::from_secs(2) };
    Limits { stall, spool: None }
}

impl World {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("memory")).unwrap();
        Self { scratch }
    }

    fn forms(&self) -> [Form; 2] {
        let path = self.scratch.path();
        [Form::Paged { folder: path.join("memory") }, Form::Whole { file: path.join("memory.zst") }]
    }

    fn paged(&self) -> Form {
        self.forms()[0].clone()
    }

    fn take(&self, form: &Form, number: u8, stream: Vec<u8>) -> Answer<MemoryImage> {
        let stream = MemoryStream(Box::new(Cursor::new(stream)));
        let ingest = Ingest::start(form, header(), &point(number), stream, limits())?;
        ingest.await_end(&|| false)?;
        ingest.complete()?;
        seal(form, &point(number))
    }

    /// The save image that an image is written out to: its header, and its pages.
    fn written(&self, form: &Form, wanted: &MemoryImage) -> Answer<(Header, Ram)> {
        let target = self.scratch.path().join("out.save");
        write_save_image(form, wanted, &target, &|_| ())?;
        let mut file = File::open(&target).unwrap();
        let header = read_header(&mut file, &target).unwrap();
        let mut stream = Vec::new();
        file.read_to_end(&mut stream).unwrap();
        Ok((header, ram(&stream)))
    }
}

/// The last content of each page that is not zeros, and the rest.
#[derive(Debug, PartialEq, Eq)]
struct Ram {
    pages: BTreeMap<(usize, u64), Vec<u8>>,
    rest: Vec<u8>,
}

fn ram(stream: &[u8]) -> Ram {
    let (mut found, mut parser) = (Ram { pages: BTreeMap::new(), rest: Vec::new() }, Parser::new());
    let fed = parser.feed(stream, &mut |piece| -> Answer<()> {
        match piece {
            Piece::Page { block, offset, data } => {
                found.pages.insert((block, offset), data.to_vec());
            }
            Piece::Filled { block, offset, byte } => {
                found.pages.insert((block, offset), vec![byte; PAGE]);
            }
            Piece::Rest(bytes) => found.rest.extend_from_slice(bytes),
            Piece::Head(_) | Piece::Blocks(_) => {}
        }
        Ok(())
    });
    fed.unwrap();
    parser.finish().unwrap();
    found.pages.retain(|_, page| page.iter().any(|byte| *byte != 0));
    found
}

use SamplePage::{Counting, Filled};

const FIRST: Pages<'_> = &[
    (0, 0, Counting(1)),
    (0, 1, Filled(0)),
    (0, 17, Counting(2)),
    (0, 40, Filled(9)),
    (1, 31, Counting(3)),
];

#[test]
fn what_was_received_is_written_out_again() {
    let world = World::new();
    let again: Pages<'_> = &[(0, 17, Counting(7)), (0, 0, Filled(0)), (0, 2, Counting(8))];
    for form in world.forms() {
        let stream = sample_stream(&[FIRST, again]);
        let sealed = world.take(&form, 1, stream.clone()).unwrap();
        assert_eq!(seal(&form, &point(1)).unwrap(), sealed);
        verify(&form, &sealed, &|_| ()).unwrap();
        let (found, pages) = world.written(&form, &sealed).unwrap();
        assert_eq!((found, pages), (header(), ram(&stream)), "{form:?}");
    }
}

#[test]
fn a_stream_that_is_not_understood_is_kept() {
    let world = World::new();
    let stream = sample_stream(&[FIRST]);
    for at in [0, 20, 70, 71, 72, 90, 9000] {
        let mut changed = stream.clone();
        changed[at] ^= 0x55;
        for form in world.forms() {
            let sealed = world.take(&form, 1, changed.clone()).unwrap();
            let (_, pages) = world.written(&form, &sealed).unwrap();
            assert_eq!(pages, ram(&changed), "{at} {form:?}");
        }
    }
}

macro_rules! real_streams {
    ($($name:literal),*) => {
        [$(($name, include_bytes!(concat!("../../../core/tests/fixtures/stream/", $name, ".zst"))
            .as_slice())),*]
    };
}

/// Streams that QEMU wrote.
const REAL: [(&str, &[u8]); 4] = real_streams![
    "qemu-7.2.22-live",
    "qemu-7.2.22-background",
    "qemu-10.0.2-live",
    "qemu-10.0.2-background"
];

/// Numbers that look random and are the same each time (xorshift).
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

/// A section that nobody knows, as its own kind of thing that goes on while the guest runs.
fn unknown_section(draw: &mut Draw) -> Vec<u8> {
    let mut section = b"\x01\0\0\0\x63\x0cdirty-bitmap\0\0\0\0\0\0\0\x01".to_vec();
    section.extend((0..draw.below(9000)).map(|byte| byte as u8));
    section.extend(b"\x7e\0\0\0\x63");
    section
}

/// What happens to a stream, in words.
fn damage(stream: &mut Vec<u8>, draw: &mut Draw) -> String {
    // Half of the time where the table and the first records lie, which are most sensitive.
    let reach = if draw.below(2) == 0 { 400 } else { stream.len() };
    let at = draw.below(reach.min(stream.len()));
    match draw.below(4) {
        0 => {
            stream.truncate(at);
            format!("cut at {at}")
        }
        1 => {
            let ends: Vec<_> = (5..stream.len()).filter(|at| stream[at - 5] == 0x7e).collect();
            let end = ends[draw.below(ends.len())];
            stream.splice(end..end, unknown_section(draw));
            format!("unknown section at {end}")
        }
        bits => {
            for _ in 1..bits {
                let at = draw.below(reach.min(stream.len()));
                stream[at] ^= 1 << draw.below(8);
            }
            stream[at] ^= 1 << draw.below(8);
            format!("{bits} bits flipped near {at}")
        }
    }
}

/// From the stream to the save image: what was done to it is refused, or kept as it came.
#[test]
fn damage_is_refused_or_kept_as_it_came() {
    const SEED: u64 = 0x5ea1;
    let (mut draw, mut kept, mut refused) = (Draw(SEED), 0, 0);
    for (name, packed) in REAL {
        let whole = zstd::decode_all(packed).unwrap();
        for round in 0..12 {
            // What was there before is sometimes the same guest's, sometimes nothing.
            let world = World::new();
            if round % 2 == 0 {
                world.take(&world.paged(), 1, whole.clone()).unwrap();
            }
            let mut stream = whole.clone();
            let what = format!("{name}, round {round}: {}", damage(&mut stream, &mut draw));
            let form = &world.forms()[usize::from(round % 6 == 5)];
            let sealed = match world.take(form, 2, stream.clone()) {
                Ok(sealed) => sealed,
                Err(_) => {
                    refused += 1;
                    let left = seal(form, &point(2)).unwrap_err();
                    assert_eq!(left.kind, ProblemKind::NotFound, "{what}");
                    continue;
                }
            };
            kept += 1;
            verify(form, &sealed, &|_| ()).unwrap();
            let (_, pages) = world.written(form, &sealed).unwrap();
            assert!(pages == ram(&stream), "{what}: it is another one now");
        }
    }
    assert!(kept > 15 && refused > 5, "{kept} kept, {refused} refused");
}

/// A table with more RAM than there can be is refused before anything is kept for each of its pages.
#[test]
fn a_table_that_claims_too_much_is_refused() {
    let world = World::new();
    let stream = sample_stream(&[FIRST]);
    let total = stream.windows(4).position(|it| it == b"\x03ram").unwrap() + 12;
    let block = stream.windows(7).position(|it| it == b"\x06pc.ram").unwrap() + 7;
    for (byte, bit) in [(0, 7), (0, 5), (1, 0), (2, 3), (3, 4)] {
        let mut damaged = stream.clone();
        // Both, or else they would not add up.
        for at in [total, block] {
            damaged[at + byte] ^= 1 << bit;
        }
        let problem = world.take(&world.paged(), 1, damaged).unwrap_err();
        assert!(problem.message.contains("claims"), "{byte} {bit}: {problem}");
    }
}

#[test]
fn a_stream_that_was_cut_off_is_no_image() {
    let world = World::new();
    let stream = sample_stream(&[FIRST]);
    for form in world.forms() {
        for length in [0, 5, 60, 4000, stream.len() - 1] {
            let cut = stream[..length].to_vec();
            assert!(world.take(&form, 1, cut).is_err(), "{length} {form:?}");
            let sealed = seal(&form, &point(1)).unwrap_err();
            assert_eq!(sealed.kind, ProblemKind::NotFound);
        }
    }
}

#[test]
fn save_images_of_libvirt_are_taken_in() {
    let world = World::new();
    let path = world.scratch.path().join("in.save");
    fs::write(&path, sample_save_image(5)).unwrap();
    for form in world.forms() {
        ingest_save_image(&form, &path, &point(1)).unwrap();
        let sealed = seal(&form, &point(1)).unwrap();
        let (found, pages) = world.written(&form, &sealed).unwrap();
        assert_eq!(found.xml, "<domain type='qemu'/>");
        assert_eq!(pages.pages[&(0, 0)], Counting(5).bytes());
    }
    for bytes in
        [&b"no save image at all, but long enough for a header of one, which is 92"[..], b""]
    {
        fs::write(&path, bytes).unwrap();
        let problem = ingest_save_image(&world.paged(), &path, &point(2)).unwrap_err();
        assert!(problem.chain().contains("in.save"), "{}", problem.chain());
    }
}

#[test]
fn whatever_was_changed_is_refused() {
    let world = World::new();
    for form in world.forms() {
        let sealed = world.take(&form, 1, sample_stream(&[FIRST])).unwrap();
        let other = MemoryImage { bytes: Bytes(sealed.bytes.0 + 1), ..sealed.clone() };
        assert_eq!(verify(&form, &other, &|_| ()).unwrap_err().kind, ProblemKind::Refused);
        let files = match &form {
            Form::Paged { folder } => ["memory.img", "pages.b3", "machine.head", "machine.rest"]
                .map(|name| folder.join(name))
                .to_vec(),
            Form::Whole { file } => vec![file.clone()],
        };
        for file in files {
            let good = fs::read(&file).unwrap();
            // Page 17 is kept; in the other files, any byte matters.
            for at in [17 * PAGE + 5, good.len() / 2, 0] {
                let at = if file.ends_with("memory.img") { 17 * PAGE + 5 } else { at };
                let mut bad = good.clone();
                let at = at.min(good.len() - 1);
                bad[at] ^= 1;
                refused(&world, &form, &sealed, &file, &bad);
            }
            refused(&world, &form, &sealed, &file, &good[..good.len() - 1]);
            refused(&world, &form, &sealed, &file, &[]);
            fs::remove_file(&file).unwrap();
            assert_eq!(verify(&form, &sealed, &|_| ()).unwrap_err().kind, ProblemKind::Refused);
            fs::write(&file, good).unwrap();
        }
        verify(&form, &sealed, &|_| ()).unwrap();
    }
}

fn refused(world: &World, form: &Form, sealed: &MemoryImage, file: &Path, bytes: &[u8]) {
    fs::write(file, bytes).unwrap();
    let problem = verify(form, sealed, &|_| ()).unwrap_err();
    assert_eq!(problem.kind, ProblemKind::Refused, "{}: {problem}", file.display());
    assert!(problem.message.contains("memory"), "{problem}");
    let problem = world.written(form, sealed).unwrap_err();
    assert_eq!(problem.kind, ProblemKind::Refused, "{}: {problem}", file.display());
    assert!(!world.scratch.path().join("out.save").exists());
}

/// A place that keeps what is written, counts it, and can be told to wait.
struct Slow {
    written: Arc<Mutex<Vec<u64>>>,
    /// One write for each message; without a sender, no waiting.
    allowed: Option<Receiver<()>>,
}

impl Slow {
    fn wait(&self) -> io::Result<()> {
        let Some(allowed) = &self.allowed else { return Ok(()) };
        allowed.recv().map_err(|_| io::Error::other("the store is gone"))
    }
}

impl Place for Slow {
    fn clear(&mut self, _: u64) -> io::Result<()> {
        self.wait()
    }

    fn append(&mut self, _: &[u8]) -> io::Result<()> {
        self.wait()
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.wait()?;
        let pages = (0..bytes.len() / PAGE).map(|it| offset / PAGE as u64 + it as u64);
        self.written.lock().unwrap().extend(pages);
        Ok(())
    }

    fn punch(&mut self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}

/// Receives into such a place.
fn into_slow(
    world: &World,
    number: u8,
    stream: MemoryStream,
    limits: Limits,
    allowed: Option<Receiver<()>>,
) -> (Ingest, Arc<Mutex<Vec<u64>>>) {
    let Form::Paged { folder } = world.paged() else { unreachable!() };
    let image = super::paged::Paged::at(&folder);
    let backlog = Arc::new(Backlog::new(limits.spool.as_ref()).unwrap());
    let written = Arc::new(Mutex::new(Vec::new()));
    let place = Box::new(Slow { written: Arc::clone(&written), allowed });
    let sorter = Sorter {
        before: image.begin(&point(number)).unwrap().1,
        spaced: false,
        rest: Box::new(image.create_rest().unwrap()),
        image,
        point: point(number),
        header: header(),
        seen: Vec::new(),
        layout: Layout::of(&[]),
        hashes: Vec::new(),
        head: Vec::new(),
        collector: Collector::new(1 << 20),
        backlog: Arc::clone(&backlog),
    };
    (Ingest::run(stream, limits, sorter, (backlog, place)).unwrap(), written)
}

#[test]
fn only_what_changed_is_written() {
    let world = World::new();
    world.take(&world.paged(), 1, sample_stream(&[FIRST])).unwrap();
    let second: Pages<'_> = &[
        (0, 0, Counting(1)),
        (0, 17, Counting(5)),
        (0, 18, Counting(6)),
        (0, 40, Filled(9)),
        (1, 31, Counting(3)),
    ];
    let stream = MemoryStream(Box::new(Cursor::new(sample_stream(&[second]))));
    let (ingest, written) = into_slow(&world, 2, stream, limits(), None);
    ingest.await_end(&|| false).unwrap();
    ingest.complete().unwrap();
    assert_eq!(*written.lock().unwrap(), [17, 18]);
}

#[test]
fn an_image_that_was_left_half_written_is_read_again() {
    let world = World::new();
    let form = world.paged();
    world.take(&form, 1, sample_stream(&[FIRST])).unwrap();
    let other: Pages<'_> = &[(0, 0, Counting(4)), (0, 17, Counting(5))];
    let mut cut = sample_stream(&[other]);
    cut.truncate(cut.len() - 3);
    assert!(world.take(&form, 2, cut).is_err());
    let sealed = world.take(&form, 3, sample_stream(&[FIRST])).unwrap();
    verify(&form, &sealed, &|_| ()).unwrap();
    assert_eq!(world.written(&form, &sealed).unwrap().1, ram(&sample_stream(&[FIRST])));
}

#[test]
fn another_guest_s_ram_replaces_what_was_there() {
    let world = World::new();
    let form = world.paged();
    let first = world.take(&form, 1, sample_stream(&[FIRST])).unwrap();
    // A block of another name: the layout is another one.
    let renamed = sample_stream(&[FIRST]);
    let at = renamed.windows(7).position(|it| it == b"pc.bios").unwrap();
    let renamed: Vec<u8> = {
        let mut bytes = renamed;
        bytes[at] = b'q';
        // The records name it, too.
        while let Some(at) = bytes.windows(7).position(|it| it == b"pc.bios") {
            bytes[at] = b'q';
        }
        bytes
    };
    let second = world.take(&form, 2, renamed.clone()).unwrap();
    assert_ne!(first, second);
    assert_eq!(world.written(&form, &second).unwrap().1, ram(&renamed));
}

/// A stream without an end: pages that all differ, round after round.
struct Endless {
    head: Cursor<Vec<u8>>,
    round: u8,
    dropped: Sender<()>,
}

impl Endless {
    fn stream() -> (MemoryStream, Receiver<()>) {
        let (dropped, receiver) = mpsc::channel();
        let mut head = sample_stream(&[]);
        let footer = head.windows(5).position(|it| it == b"\x7e\0\0\0\x02").unwrap();
        head.truncate(footer + 5);
        let stream = Self { head: Cursor::new(head), round: 0, dropped };
        (MemoryStream(Box::new(stream)), receiver)
    }
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.head.read(buffer)?;
        if read > 0 {
            return Ok(read);
        }
        self.round = self.round.wrapping_add(1);
        let pages: Vec<_> = (0..256).map(|page| (0, page, Counting(self.round))).collect();
        let whole = sample_stream(&[&pages]);
        let from = whole.windows(5).position(|it| it == b"\x7e\0\0\0\x02").unwrap() + 5;
        let to = whole.windows(5).rposition(|it| it == b"\x7e\0\0\0\x02").unwrap() + 5;
        self.head = Cursor::new(whole[from..to].to_vec());
        self.head.read(buffer)
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        // Whoever waits may be gone.
        let _ = self.dropped.send(());
    }
}

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_store_that_hangs_lets_the_guest_go() {
    let world = World::new();
    let (stream, dropped) = Endless::stream();
    let (allow, allowed) = mpsc::channel();
    let (ingest, _) = into_slow(&world, 1, stream, limits(), Some(allowed));
    ingest.await_first_page(SOON).unwrap();
    let problem = ingest.await_end(&|| false).unwrap_err();
    assert_eq!(problem.kind, ProblemKind::TimedOut, "{problem}");
    assert!(problem.hint.is_some_and(|it| it.contains("spool")));
    dropped.recv_timeout(SOON).unwrap();
    drop((ingest, allow));
}

#[test]
fn a_store_that_fails_ends_the_stream() {
    let world = World::new();
    let (stream, dropped) = Endless::stream();
    let (allow, allowed) = mpsc::channel::<()>();
    drop(allow);
    let (ingest, _) = into_slow(&world, 1, stream, limits(), Some(allowed));
    let problem = ingest.await_end(&|| false).unwrap_err();
    assert!(problem.chain().contains("the store is gone"), "{}", problem.chain());
    dropped.recv_timeout(SOON).unwrap();
}

#[test]
fn giving_up_ends_the_stream() {
    let world = World::new();
    let (stream, dropped) = Endless::stream();
    let (allow, allowed) = mpsc::channel();
    let limits = Limits { stall: StallLimits { once: SOON, budget: SOON }, spool: None };
    let (ingest, _) = into_slow(&world, 1, stream, limits, Some(allowed));
    ingest.await_first_page(SOON).unwrap();
    assert_eq!(ingest.await_end(&|| true).unwrap_err().message, "cancelled");
    drop(ingest);
    dropped.recv_timeout(SOON).unwrap();
    drop(allow);
}

/// Far more than waits in memory: 80 MiB in rounds of 1 MiB.
fn eighty_rounds() -> Vec<u8> {
    let rounds: Vec<Vec<_>> = (0..80_u8)
        .map(|round| (0..256).map(|page| (0, page, Counting(round + 1))).collect())
        .collect();
    sample_stream(&rounds.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

#[test]
fn with_a_spool_a_store_that_hangs_for_a_while_is_not_felt() {
    let world = World::new();
    let spool = Spool { folder: world.scratch.path().to_owned(), bytes: Bytes(1 << 30) };
    let limits = Limits { stall: StallLimits { once: SOON, budget: SOON }, spool: Some(spool) };
    let stream = MemoryStream(Box::new(Cursor::new(eighty_rounds())));
    let (allow, allowed) = mpsc::channel();
    let (ingest, written) = into_slow(&world, 1, stream, limits, Some(allowed));
    // The store has not written a single page.
    ingest.await_end(&|| false).unwrap();
    assert!(written.lock().unwrap().is_empty());
    for _ in 0..10_000 {
        // It may have been written in fewer, longer runs.
        let _ = allow.send(());
    }
    ingest.complete().unwrap();
    assert!(written.lock().unwrap().len() >= 256);
}

/// What comes after what is spooled may be a later content of the same page: it does not go past it.
#[test]
fn a_spool_that_is_full_ends_the_stream() {
    let world = World::new();
    let spool = Spool { folder: world.scratch.path().to_owned(), bytes: Bytes(4 << 20) };
    let limits = Limits { stall: StallLimits { once: SOON, budget: SOON }, spool: Some(spool) };
    let stream = MemoryStream(Box::new(Cursor::new(eighty_rounds())));
    let (allow, allowed) = mpsc::channel();
    let (ingest, _) = into_slow(&world, 1, stream, limits, Some(allowed));
    let problem = ingest.await_end(&|| false).unwrap_err();
    assert_eq!(problem.kind, ProblemKind::NoSpace, "{}", problem.chain());
    assert!(problem.message.contains("spool"), "{problem}");
    drop(allow);
}

/// The compressed file is written in its order, through the spool or not.
#[test]
fn a_whole_image_goes_through_the_spool() {
    let world = World::new();
    let [_, form] = world.forms();
    let Form::Whole { file } = &form else { unreachable!() };
    let spool = Spool { folder: world.scratch.path().to_owned(), bytes: Bytes(1 << 30) };
    let backlog = Arc::new(Backlog::new(Some(&spool)).unwrap());
    let (sink, place) = super::whole::Whole::at(file).create(&header(), &backlog).unwrap();
    let (allow, allowed) = mpsc::channel();
    let place = Box::new(Late { place, allowed: Some(allowed) });
    // Pages that do not compress.
    let (mut noise, mut draw) = (sample_stream(&[FIRST]), Draw(3));
    for _ in 0..96 << 17 {
        draw.below(1);
        noise.extend_from_slice(&draw.0.to_le_bytes());
    }
    noise.extend_from_slice(&sample_stream(&[])[60..]);
    let limits = Limits { stall: StallLimits { once: SOON, budget: SOON }, spool: Some(spool) };
    let stream = MemoryStream(Box::new(Cursor::new(noise.clone())));
    let ingest = Ingest::run(stream, limits, sink, (backlog, place)).unwrap();
    ingest.await_end(&|| false).unwrap();
    drop(allow);
    ingest.complete().unwrap();
    let sealed = seal(&form, &point(1)).unwrap();
    let target = world.scratch.path().join("out.save");
    write_save_image(&form, &sealed, &target, &|_| ()).unwrap();
    let mut out = File::open(&target).unwrap();
    read_header(&mut out, &target).unwrap();
    let mut found = Vec::new();
    out.read_to_end(&mut found).unwrap();
    assert!(found == noise, "other bytes than came");
}

/// A place that writes nothing until it hears that it may.
struct Late {
    place: ImageFile,
    allowed: Option<Receiver<()>>,
}

impl Place for Late {
    fn clear(&mut self, bytes: u64) -> io::Result<()> {
        self.place.clear(bytes)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        // The sender's end is the word.
        self.allowed.take().map(|it| it.recv());
        self.place.append(bytes)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.place.write_at(bytes, offset)
    }

    fn punch(&mut self, offset: u64, bytes: u64) -> io::Result<()> {
        self.place.punch(offset, bytes)
    }
}

/// Columns: for how long the guest was held up, MB that came in 10 s, for how long it may be yet.
#[test]
fn a_slow_store_is_waited_for_until_its_budget_is_used_up() {
    let ms = Duration::from_millis;
    for (held_up, megabytes, left) in [
        (0, 200, 1000),
        (4500, 200, 500),
        (5000, 200, 0),
        (5000, 999, 0),
        (5000, 1000, 1000),
        (9000, 9000, 1000),
    ] {
        let bytes = megabytes * 1_000_000;
        let found = StallLimits::default().left(ms(held_up), bytes, ms(10_000));
        assert_eq!(found, ms(left), "{held_up} ms, {megabytes} MB");
    }
}
