//! Streams are taken apart the same however they come, and come together again to what means the
//! same: real ones, and those with damage.

use std::collections::BTreeMap;
use std::convert::Infallible;

use proptest::prelude::*;
use proptest::sample::Index;
use vitrify_core::fake::{SamplePage, sample_stream};
use vitrify_core::save_image::Header;
use vitrify_core::stream::{Joint, PAGE, Parser, Piece, Place, RamBlock, StreamError, Writer};

/// What a stream was taken apart into; pieces of the head and of the rest are joined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Parts {
    head: Vec<u8>,
    blocks: Vec<RamBlock>,
    pages: Vec<(usize, u64, Vec<u8>)>,
    rest: Vec<u8>,
}

type Parsed = (Parts, Result<Joint, StreamError>);

/// Takes a stream apart that is cut at these places.
fn parse(stream: &[u8], cuts: &[usize]) -> Parsed {
    let (mut parts, mut parser) = (Parts::default(), Parser::new());
    let mut each = |piece: Piece<'_>| -> Result<(), Infallible> {
        match piece {
            Piece::Head(bytes) => parts.head.extend_from_slice(bytes),
            Piece::Blocks(blocks) => parts.blocks.extend_from_slice(blocks),
            Piece::Page { block, offset, data } => parts.pages.push((block, offset, data.to_vec())),
            Piece::Filled { block, offset, byte } => parts.pages.push((block, offset, vec![byte])),
            Piece::Rest(bytes) => parts.rest.extend_from_slice(bytes),
        }
        Ok(())
    };
    let mut cuts = cuts.to_vec();
    cuts.sort_unstable();
    let mut from = 0;
    for to in cuts.into_iter().chain([stream.len()]) {
        let Ok(()) = parser.feed(&stream[from..to], &mut each);
        from = to;
    }
    (parts, parser.finish())
}

/// The last content of each page.
fn memory(parts: &Parts) -> BTreeMap<(usize, u64), Vec<u8>> {
    let whole = |data: &Vec<u8>| if data.len() == 1 { vec![data[0]; PAGE] } else { data.clone() };
    parts.pages.iter().map(|(block, offset, data)| ((*block, *offset), whole(data))).collect()
}

/// The stream that the parts come together to: each page once, by address, and at last one of the
/// block that what follows may mean.
fn join(parts: &Parts, joint: &Joint) -> Vec<u8> {
    let mut out = parts.head.clone();
    if let Some(section) = joint.section {
        let memory = memory(parts);
        let again = memory.iter().find(|((block, _), _)| Some(*block) == joint.last);
        let mut writer = Writer::begin(&mut out, section);
        for ((block, offset), data) in memory.iter().chain(again) {
            let named = (*block, parts.blocks[*block].name.as_str());
            if data.iter().all(|byte| *byte == data[0]) {
                writer.filled(&mut out, named, *offset, data[0]);
            } else {
                writer.page(&mut out, named, *offset, data.first_chunk().unwrap());
            }
        }
        if joint.place != Place::Records {
            writer.end_records(&mut out);
        }
        if joint.place == Place::Section {
            writer.end(&mut out);
        }
    }
    out.extend_from_slice(&parts.rest);
    out
}

/// What comes together again has the same head, memory, rest and joint.
fn comes_together((parts, joint): &Parsed) {
    let Ok(joint) = joint else { return };
    let (again, found) = parse(&join(parts, joint), &[]);
    assert_eq!(found.as_ref(), Ok(joint));
    assert_eq!((&again.head, &again.blocks), (&parts.head, &parts.blocks));
    assert_eq!(memory(&again), memory(parts));
    assert_eq!(again.rest, parts.rest);
}

const STREAMS: [(&str, &[u8]); 5] = [
    ("10.0 ordinary", include_bytes!("../fixtures/stream/qemu-10.0-ordinary.zst")),
    ("10.0 background", include_bytes!("../fixtures/stream/qemu-10.0-background.zst")),
    ("10.0 240 cpus", include_bytes!("../fixtures/stream/qemu-10.0-240-cpus.zst")),
    ("7.2 ordinary", include_bytes!("../fixtures/stream/qemu-7.2-ordinary.zst")),
    ("7.2 background", include_bytes!("../fixtures/stream/qemu-7.2-background.zst")),
];

fn real(index: usize) -> Vec<u8> {
    zstd::decode_all(STREAMS[index].1).unwrap()
}

/// Columns: KiB of pc.ram, the section, the last block; whole pages, filled ones; bytes of the rest.
#[test]
fn real_streams_are_understood() {
    let wanted = [
        (4096, 1, 5, 124, 1030, 129_647),
        (4096, 1, 5, 124, 1030, 113_201),
        (2048, 1, 5, 57, 585, 2_403_180),
        (4096, 2, 0, 126, 1032, 112_932),
        (4096, 2, 0, 122, 1032, 112_932),
    ];
    for (index, (ram, section, last, whole, filled, rest)) in wanted.into_iter().enumerate() {
        let name = STREAMS[index].0;
        let stream = real(index);
        let parsed = parse(&stream, &[]);
        let (parts, joint) = &parsed;
        let (place, last) = (Place::Section, Some(last));
        assert_eq!(*joint, Ok(Joint { section: Some(section), place, last }), "{name}");
        let blocks: Vec<_> =
            parts.blocks.iter().map(|it| (it.name.as_str(), it.bytes >> 10)).collect();
        let table = [
            ("pc.ram", ram),
            ("/rom@etc/acpi/tables", 128),
            ("pc.bios", 256),
            ("pc.rom", 128),
            ("/rom@etc/table-loader", 4),
            ("/rom@etc/acpi/rsdp", 4),
        ];
        assert_eq!(blocks, table, "{name}");
        let wholes = parts.pages.iter().filter(|it| it.2.len() == PAGE).count();
        let found = (wholes, parts.pages.len() - wholes, parts.rest.len());
        assert_eq!(found, (whole, filled, rest), "{name}");
        let pages = blocks.iter().map(|it| it.1).sum::<u64>() / 4;
        assert_eq!(memory(parts).len() as u64, pages, "{name}: every page comes");
        comes_together(&parsed);
        for step in [1, 4096] {
            let cuts: Vec<_> = (0..stream.len()).step_by(step).collect();
            assert_eq!(parse(&stream, &cuts), parsed, "{name} {step}");
        }
    }
}

fn page() -> impl Strategy<Value = (usize, u64, SamplePage)> {
    let pages = prop_oneof![(Just(0_usize), 0..256_u64), (Just(1_usize), 0..32_u64)];
    let content = prop_oneof![
        any::<u8>().prop_map(SamplePage::Filled),
        any::<u8>().prop_map(SamplePage::Counting),
    ];
    (pages, content).prop_map(|((block, index), content)| (block, index, content))
}

fn sample() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::collection::vec(page(), 0..8), 0..4).prop_map(|parts| {
        let parts: Vec<_> = parts.iter().map(Vec::as_slice).collect();
        sample_stream(&parts)
    })
}

fn cuts(stream: &[u8], cuts: &[Index]) -> Vec<usize> {
    cuts.iter().map(|it| it.index(stream.len() + 1)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_cutting_gives_the_same(
        stream in sample(),
        places in prop::collection::vec(any::<Index>(), 0..200),
    ) {
        let whole = parse(&stream, &[]);
        prop_assert!(whole.1.is_ok());
        prop_assert_eq!(&parse(&stream, &cuts(&stream, &places)), &whole);
        comes_together(&whole);
    }

    #[test]
    fn what_was_cut_off_is_never_whole(stream in sample(), at in any::<Index>()) {
        prop_assert!(parse(&stream[..at.index(stream.len())], &[]).1.is_err());
    }

    /// Damage is understood the same however it comes, and nothing is lost by it.
    #[test]
    fn damage_is_kept(
        stream in sample(),
        damage in prop::collection::vec((any::<Index>(), 0..8_u32), 1..4),
        early in any::<bool>(),
        places in prop::collection::vec(any::<Index>(), 0..50),
    ) {
        let mut damaged = stream;
        // Half of the time where the table and the first records lie, which are most sensitive.
        let reach = if early { damaged.len().min(160) } else { damaged.len() };
        for (at, bit) in damage {
            damaged[at.index(reach)] ^= 1 << bit;
        }
        let whole = parse(&damaged, &[]);
        prop_assert_eq!(&parse(&damaged, &cuts(&damaged, &places)), &whole);
        for (block, offset, _) in &whole.0.pages {
            prop_assert!(offset % PAGE as u64 == 0 && *offset < whole.0.blocks[*block].bytes);
        }
        if whole.1.as_ref().is_ok_and(|joint| joint.section.is_none()) {
            prop_assert_eq!([&whole.0.head[..], &whole.0.rest].concat(), damaged);
        }
        comes_together(&whole);
    }

    #[test]
    fn noise_is_kept(
        noise in prop::collection::vec(any::<u8>(), 0..20_000),
        prefix in 0..200_usize,
        places in prop::collection::vec(any::<Index>(), 0..20),
    ) {
        let mut stream = sample_stream(&[]);
        stream.truncate(prefix);
        stream.extend(noise);
        let whole = parse(&stream, &[]);
        prop_assert_eq!(&parse(&stream, &cuts(&stream, &places)), &whole);
        comes_together(&whole);
    }

    #[test]
    fn a_real_stream_that_was_cut_off_is_never_whole(which in 0..5_usize, at in any::<Index>()) {
        let stream = real(which);
        prop_assert!(parse(&stream[..at.index(stream.len())], &[]).1.is_err());
    }

    #[test]
    fn a_save_images_header_comes_back(
        xml in "[^\0]{0,200}",
        cookie in prop::option::of("[^\0]{0,50}"),
        running in any::<bool>(),
        after in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let header = Header { xml, cookie, running };
        let mut bytes = header.encode();
        let length = bytes.len();
        prop_assert_eq!(Header::length(bytes.first_chunk().unwrap()), Ok(length));
        bytes.extend(after);
        prop_assert_eq!(Header::decode(&bytes), Ok(header));
    }

    #[test]
    fn a_damaged_save_image_never_panics(
        at in any::<Index>(),
        byte in any::<u8>(),
        length in any::<Index>(),
    ) {
        let (xml, cookie) = ("<domain/>".to_owned(), Some("<cookie/>".to_owned()));
        let mut bytes = Header { xml, cookie, running: true }.encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(header) = Header::decode(&bytes) {
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        }
        prop_assert!(Header::decode(&bytes[..length.index(bytes.len())]).is_err());
    }
}
