//! What a history of memory costs: captures of a guest's RAM that changes in places, and the room that
//! comes back when all but one are removed. The streams are made up, so that what changes is known to
//! the block; the homes and their file systems are real.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use vitrify_core::manifest::Manifest;
use vitrify_core::name::{GuestUuid, PointId};
use vitrify_core::ports::{FoundPoint, Homes as _};
use vitrify_core::problem::Problem;
use vitrify_core::save_image::Header;
use vitrify_core::stream::{PAGE, Writer};
use vitrify_host::homes::{Reserve, StallLimits, Store, StoreConfig};
use vitrify_lab::draw::Draw;
use vitrify_lab::harness::{self, Outcome};
use vitrify_lab::pool::{Kind, Pool};
use vitrify_lab::run::must;

/// Size of the store, in MiB; sparse.
const STORE_MIB: u64 = 8192;
const GUEST: &str = "0b6c9c52-7d4e-4c0e-9b3c-0d1f5f0e2a11";
const BLOCK: usize = 64 << 10;
/// RAM that holds something.
const BLOCKS: usize = 1536;
/// What changes from one capture to the next.
const CHANGED: usize = 800;
const CAPTURES: usize = 36;
const MIB: u64 = 1 << 20;
/// What a capture may add on average: 1.2 of what changed.
const EACH: u64 = 60 * MIB;

fn main() -> ExitCode {
    harness::run(&[
        ("a_history_on_btrfs", || history(&Pool::btrfs(STORE_MIB)?, harness::rounds(CAPTURES))),
        ("a_history_on_xfs", || history(&Pool::xfs(STORE_MIB)?, harness::rounds(CAPTURES / 3))),
    ])
}

/// A figure for the reader of the test's output.
#[expect(clippy::print_stderr, reason = "figures are part of what these tests are for")]
fn say(text: &str) {
    eprintln!("{text}");
}

fn said(problem: Problem) -> Box<dyn Error> {
    problem.chain().into()
}

/// RAM of random bytes.
struct Ram {
    bytes: Vec<u8>,
    draw: Draw,
}

impl Ram {
    fn new() -> Self {
        let mut ram = Self { bytes: vec![0; BLOCKS * BLOCK], draw: Draw(7) };
        (0..BLOCKS).for_each(|block| ram.rewrite(block));
        ram
    }

    fn rewrite(&mut self, block: usize) {
        let Self { bytes, draw } = self;
        for word in bytes[block * BLOCK..(block + 1) * BLOCK].as_chunks_mut::<8>().0 {
            draw.below(1);
            *word = draw.0.to_le_bytes();
        }
    }

    /// Rewrites so many blocks, each once, anywhere.
    fn change(&mut self, count: usize) {
        let mut blocks: Vec<_> = (0..BLOCKS).collect();
        for at in 0..count {
            let other = at + self.draw.below(BLOCKS - at);
            blocks.swap(at, other);
        }
        blocks[..count].iter().for_each(|block| self.rewrite(*block));
    }

    /// As QEMU writes it: the table of one block of RAM, a part with every page, a device, the end.
    fn save_image(&self) -> Vec<u8> {
        let xml = "<domain type='qemu'/>".to_owned();
        let mut out = Header { xml, cookie: None, running: true }.encode();
        out.extend(b"QEVM\0\0\0\x03\x07\0\0\0\x02pc\x01\0\0\0\x02\x03ram\0\0\0\0\0\0\0\x04");
        let total = self.bytes.len() as u64;
        out.extend((total | 4).to_be_bytes());
        out.extend(b"\x06pc.ram");
        out.extend(total.to_be_bytes());
        out.extend(0x10_u64.to_be_bytes());
        out.extend(b"\x7e\0\0\0\x02");
        let mut writer = Writer::begin(&mut out, 2);
        for (number, page) in self.bytes.as_chunks::<PAGE>().0.iter().enumerate() {
            writer.page(&mut out, (0, "pc.ram"), (number * PAGE) as u64, page);
        }
        writer.end_records(&mut out);
        writer.end(&mut out);
        out.extend(b"\x04\0\0\0\x03\x05timer\0\0\0\0\0\0\0\x02device state\x7e\0\0\0\x03\0\x06\0\0\0\x02{}");
        out
    }
}

fn history(pool: &Pool, captures: usize) -> Outcome {
    let folder = pool.subvolume("mem")?;
    let (path, reserve) = (folder.clone(), Reserve::default());
    let config =
        StoreConfig { path, reserve, on_root: true, spool: None, stall: StallLimits::default() };
    let homes = Store::new(config, Arc::default());
    let (mut ram, began) = (Ram::new(), Instant::now());
    let empty = used(pool)?;
    capture(&homes, &ram, 0)?;
    let image = used(pool)? - empty;
    let (mut grown, mut most) = (0, 0);
    for number in 1..=captures {
        ram.change(CHANGED);
        let before = used(pool)?;
        capture(&homes, &ram, number)?;
        let growth = used(pool)?.saturating_sub(before);
        (grown, most) = (grown + growth, most.max(growth));
    }
    let mut points = homes.points().map_err(said)?;
    let kept =
        points.iter().position(|it| it.id == id(captures)).ok_or("the last point is gone")?;
    let kept = points.swap_remove(kept);
    for point in &points {
        remove(pool, &folder, point)?;
    }
    let left = used(pool)? - empty;
    say(&format!(
        "{:?}: an image of {} MiB takes {} MiB; {captures} captures of {CHANGED} changed blocks ({} MiB) \
         add {} MiB on average, {} MiB at most, {} MiB in all; pruned to one, the home holds {} MiB, \
         {:.2} of the image; {:.0} s",
        pool.kind(),
        ram.bytes.len() >> 20,
        image >> 20,
        (CHANGED * BLOCK) >> 20,
        (grown / captures as u64) >> 20,
        most >> 20,
        (image + grown) >> 20,
        left >> 20,
        left as f64 / ram.bytes.len() as f64,
        began.elapsed().as_secs_f64(),
    ));
    assert!(image + grown < captures as u64 * EACH + image, "{} MiB", grown >> 20);
    assert!(left as f64 <= 1.3 * ram.bytes.len() as f64, "{} MiB are left", left >> 20);
    homes.check_memory(&kept, &|_| ()).map_err(said)
}

fn id(number: usize) -> PointId {
    let text = format!("{number:08x}-7d4e-4c0e-9b3c-0d1f5f0e2a11");
    text.parse().unwrap_or_else(|_| unreachable!("{text} is an id"))
}

/// A point with nothing but this memory.
fn capture(homes: &Store, ram: &Ram, number: usize) -> Outcome {
    let (guest, point): (GuestUuid, _) = (GUEST.parse()?, id(number));
    homes.stage(&guest, &point, &[]).map_err(said)?;
    // As libvirt leaves it: a stream that nobody waits for.
    fs::write(homes.staged_memory(&guest, &point), ram.save_image())?;
    let memory = homes.seal_memory(&guest, &point).map_err(said)?;
    let manifest: Manifest = serde_json::from_value(json!({
        "version": 1, "id": point, "names": [format!("p{number}")], "guest": "web",
        "guest_uuid": guest, "time": "2026-11-23T12:00:00Z", "state": "running",
        "consistency": "memory", "engine": "instant", "reason": "as asked", "pause_us": null,
        "stalled_us": 0, "volumes": [], "disks": [], "uncovered": [], "memory": memory,
        "machine_files": [], "machine": "pc", "hypervisor": "none", "kernel": "6.1",
    }))?;
    homes.publish(&manifest).map(drop).map_err(said)
}

/// By hand, as the README says: the home's snapshot and the point's folder.
fn remove(pool: &Pool, store: &Path, point: &FoundPoint) -> Outcome {
    if pool.kind() == Kind::Btrfs {
        let snapshot = store.join(".vitrify").join(GUEST).join(&point.id);
        must("btrfs", &["subvolume", "delete", &snapshot.display().to_string()])?;
    }
    Ok(fs::remove_dir_all(&point.folder)?)
}

/// Bytes that the file system uses when all that is on its way, or being removed, is done.
fn used(pool: &Pool) -> Result<u64, Box<dyn Error>> {
    let place = pool.path().display().to_string();
    match pool.kind() {
        Kind::Btrfs => drop(must("btrfs", &["subvolume", "sync", &place])?),
        // XFS removes later what was unlinked, and keeps room beside what was copied on write, until
        // it is remounted.
        _ => {
            must("mount", &["-o", "remount,ro", &place])?;
            must("mount", &["-o", "remount,rw", &place])?;
        }
    }
    must("sync", &["--file-system", &place])?;
    let used = must("df", &["--block-size=1", "--output=used", &place])?;
    Ok(used.lines().last().unwrap_or_default().trim().parse()?)
}
