//! Streams that QEMU wrote, kept for ever: a PC with 2 MiB of RAM and an empty BIOS, saved live and
//! by a background snapshot. What a later version writes gets a fixture of its own.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::BTreeSet;
use std::convert::Infallible;

use vitrify_core::stream::{Joint, PAGE, Parser, Piece, Place, StreamError};

struct Found {
    blocks: Vec<(String, u64)>,
    pages: BTreeSet<(usize, u64)>,
    records: usize,
    rest: Vec<u8>,
    joint: Result<Joint, StreamError>,
}

fn parse(stream: &[u8], step: usize) -> Found {
    let (mut blocks, mut pages, mut records) = (Vec::new(), BTreeSet::new(), 0);
    let (mut rest, mut parser) = (Vec::new(), Parser::new());
    for bytes in stream.chunks(step) {
        let fed = parser.feed(bytes, &mut |piece| -> Result<(), Infallible> {
            match piece {
                Piece::Blocks(all) => {
                    blocks.extend(all.iter().map(|it| (it.name.clone(), it.bytes)));
                }
                Piece::Page { block, offset, .. } | Piece::Filled { block, offset, .. } => {
                    pages.insert((block, offset));
                    records += 1;
                }
                Piece::Rest(bytes) => rest.extend_from_slice(bytes),
                Piece::Head(_) => {}
            }
            Ok(())
        });
        match fed {
            Ok(()) => {}
            Err(never) => match never {},
        }
    }
    Found { blocks, pages, records, rest, joint: parser.finish() }
}

macro_rules! fixtures {
    ($($name:literal),*) => {
        [$(($name, include_bytes!(concat!("fixtures/stream/", $name, ".zst")).as_slice())),*]
    };
}

const FIXTURES: [(&str, &[u8]); 4] = fixtures![
    "qemu-7.2.22-live",
    "qemu-7.2.22-background",
    "qemu-10.0.2-live",
    "qemu-10.0.2-background"
];

fn streams() -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    FIXTURES.into_iter().map(|(name, packed)| (name, zstd::decode_all(packed).unwrap()))
}

#[test]
fn real_streams_are_understood_to_the_first_device() {
    for (name, stream) in streams() {
        let found = parse(&stream, 1 << 20);
        let joint = found.joint.unwrap();
        assert_eq!((joint.section.is_some(), joint.place), (true, Place::Section), "{name}");
        let ram = found.blocks.iter().find(|(block, _)| block == "pc.ram");
        assert_eq!(ram.map(|it| it.1), Some(2 << 20), "{name}");
        // Every page of every block comes.
        let total: u64 = found.blocks.iter().map(|it| it.1).sum();
        assert_eq!(found.pages.len() as u64, total / PAGE as u64, "{name}: {:?}", found.blocks);
        if name.ends_with("background") {
            assert_eq!(found.records, found.pages.len(), "{name}: a page came twice");
        }
        // A device; or, in a live stream of QEMU 10, the command (8) that the guest was stopped, after
        // which the last pages come: they are kept with the rest.
        let first = if name == "qemu-10.0.2-live" { 8 } else { 4 };
        assert_eq!(found.rest[0], first, "{name}");
        for step in [1, 4096, 10_000] {
            let again = parse(&stream, step);
            assert_eq!((again.pages, again.rest), (found.pages.clone(), found.rest.clone()));
            assert_eq!(again.joint, Ok(joint.clone()));
        }
    }
}

#[test]
fn real_streams_that_were_cut_off_are_refused() {
    for (name, stream) in streams() {
        let ends = (0..stream.len()).step_by(97).chain(stream.len() - 300..stream.len());
        for end in ends {
            assert!(parse(&stream[..end], 1 << 20).joint.is_err(), "{name} cut at {end}");
        }
    }
}
