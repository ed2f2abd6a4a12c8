//! What is measured.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use vitrify_core::ports::{Homes as _, MemoryStream};
use vitrify_core::problem::Problem;
use vitrify_core::save_image::{FIXED, Header};
use vitrify_host::homes::{Reserve, StallLimits, Store, StoreConfig};
use vitrify_host::ram_socket;
use vitrify_lab::figures::median;
use vitrify_lab::run::{Running, must};

use crate::Failure;
use crate::row::Ingest;
use crate::stage::text;

/// Nobody's, for a home that is thrown away.
const GUEST: &str = "00000000-0000-4000-8000-000000000001";
const POINT: &str = "00000000-0000-4000-9000-000000000001";
/// Bytes of a page's hash, and pages of a block of 64 KiB.
const HASH: usize = 16;
const GROUP: usize = 16;

/// The most memory that a program has resident, in bytes; looked at until it ends.
pub(crate) fn peak_while_running(process: &Running) -> u64 {
    let path = format!("/proc/{}/status", process.id());
    let mut peak = 0;
    while !process.has_ended() {
        let status = fs::read_to_string(&path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|it| it.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        peak = kib.map_or(peak, |kib| kib << 10);
        thread::park_timeout(Duration::from_millis(5));
    }
    peak
}

/// What two images differ in, in whole blocks.
pub(crate) fn changed_bytes(old: &[u8], new: &[u8]) -> u64 {
    let size = HASH * GROUP;
    let differs = |(index, block): &(usize, &[u8])| {
        old.get(index * size..index * size + block.len()) != Some(*block)
            && block.iter().any(|byte| *byte != 0)
    };
    let blocks = new.chunks(size).enumerate().filter(differs).count();
    (blocks as u64) << 16
}

/// The same stream, through a socket: into a file by `cat`, and into a new home by us, in turn.
pub(crate) fn ingest(raw: &Path, store: &Path, rounds: u64) -> Result<Ingest, Failure> {
    let (mut cats, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        // Warm for both.
        io::copy(&mut File::open(raw)?, &mut io::sink())?;
        cats.push(cat(raw, store)?);
        ours.push(receive(raw, store)?);
    }
    let [cat, cat_durable] = medians(&cats);
    let [ours, ours_durable] = medians(&ours);
    Ok(Ingest { cat, cat_durable, ours, ours_durable })
}

fn cat(raw: &Path, store: &Path) -> Result<[Duration; 2], Failure> {
    let place = store.join("bench.cat");
    let took = thread::scope(|scope| -> Result<[Duration; 2], Failure> {
        let (ours, theirs) = ram_socket::pair()?;
        let begun = Instant::now();
        let feeder = scope.spawn(move || feed(raw, theirs));
        let mut cat = Command::new("cat");
        cat.stdin(Stdio::from(OwnedFd::from(ours)));
        let file = File::create(&place)?;
        let status = cat.stdout(file.try_clone()?).status()?;
        let took = begun.elapsed();
        file.sync_all()?;
        let durable = begun.elapsed();
        feeder.join().map_err(|_| "the feeder died")??;
        if status.success() { Ok([took, durable]) } else { Err("cat failed".into()) }
    })?;
    fs::remove_file(&place)?;
    must("sync", &["--file-system", &text(store)])?;
    Ok(took)
}

fn receive(raw: &Path, store: &Path) -> Result<[Duration; 2], Failure> {
    let homes = homes_at(store);
    let (guest, point) = (GUEST.parse()?, POINT.parse()?);
    homes.stage(&guest, &point, &[]).map_err(said)?;
    let took = thread::scope(|scope| -> Result<[Duration; 2], Failure> {
        let (ours, theirs) = ram_socket::pair()?;
        let begun = Instant::now();
        let stream = MemoryStream(Box::new(ours));
        homes.receive_memory(&guest, &point, "<domain/>", stream).map_err(said)?;
        let feeder = scope.spawn(move || feed(raw, theirs));
        homes.await_memory(&guest, &point).map_err(said)?;
        let took = begun.elapsed();
        feeder.join().map_err(|_| "the feeder died")??;
        homes.seal_memory(&guest, &point).map_err(said)?;
        Ok([took, begun.elapsed()])
    })?;
    homes.discard(&guest, &point).map_err(said)?;
    // With the image, so that the next round finds none.
    must("btrfs", &["subvolume", "delete", &text(&store.join(GUEST))])?;
    must("btrfs", &["subvolume", "sync", &text(store)])?;
    Ok(took)
}

/// The stream that a save image holds.
fn feed(raw: &Path, mut socket: UnixStream) -> io::Result<()> {
    let mut file = File::open(raw)?;
    let mut fixed = [0; FIXED];
    file.read_exact(&mut fixed)?;
    let header = Header::length(&fixed).map_err(io::Error::other)?;
    file.seek(SeekFrom::Start(header as u64))?;
    io::copy(&mut file, &mut socket).map(drop)
}

/// A file copied, warm. Leaves it warm.
pub(crate) fn cp(file: &Path, folder: &Path) -> Result<Duration, Failure> {
    let place = folder.join("bench.copy");
    io::copy(&mut File::open(file)?, &mut io::sink())?;
    let begun = Instant::now();
    must("cp", &["--reflink=never", "--sparse=never", &text(file), &text(&place)])?;
    let copied = begun.elapsed();
    fs::remove_file(&place)?;
    Ok(copied)
}

/// Of each column.
fn medians(rows: &[[Duration; 2]]) -> [Duration; 2] {
    [0, 1].map(|column| median(rows.iter().map(|row| row[column])).unwrap_or_default())
}

fn homes_at(store: &Path) -> Store {
    let (path, reserve) = (store.to_owned(), Reserve::default());
    // The stream comes as fast as it can be taken in, which no guest would wait for.
    let stall = StallLimits::NONE;
    Store::new(StoreConfig { path, reserve, on_root: true, spool: None, stall }, Arc::default())
}

fn said(problem: Problem) -> Failure {
    problem.chain().into()
}
