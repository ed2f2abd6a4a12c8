use std::convert::Infallible;

use super::*;
use crate::fake::{SAMPLE_BLOCKS, SamplePage, sample_stream};

/// What a stream was taken apart into; pieces of the head and of the rest are joined.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parts {
    head: Vec<u8>,
    blocks: Vec<RamBlock>,
    pages: Vec<(usize, u64, Vec<u8>)>,
    rest: Vec<u8>,
}

fn parse(stream: &[u8], step: usize) -> (Parts, Result<Joint, StreamError>) {
    let (mut parts, mut parser) = (Parts::default(), Parser::new());
    for bytes in stream.chunks(step) {
        let mut each = |piece: Piece<'_>| -> Result<(), Infallible> {
            match piece {
                Piece::Head(bytes) => parts.head.extend_from_slice(bytes),
                Piece::Blocks(blocks) => parts.blocks.extend_from_slice(blocks),
                Piece::Page { block, offset, data } => {
                    parts.pages.push((block, offset, data.to_vec()));
                }
                Piece::Filled { block, offset, byte } => {
                    parts.pages.push((block, offset, vec![byte]));
                }
                Piece::Rest(bytes) => parts.rest.extend_from_slice(bytes),
            }
            Ok(())
        };
        match parser.feed(bytes, &mut each) {
            Ok(()) => {}
            Err(never) => match never {},
        }
    }
    (parts, parser.finish())
}

/// The stream that the parts come together to.
fn join(parts: &Parts, joint: &Joint) -> Vec<u8> {
    let mut out = parts.head.clone();
    if let Some(section) = joint.section {
        let mut writer = Writer::begin(&mut out, section);
        for (block, offset, data) in &parts.pages {
            let named = (*block, parts.blocks[*block].name.as_str());
            match <&[u8; PAGE]>::try_from(data.as_slice()) {
                Ok(data) => writer.page(&mut out, named, *offset, data),
                Err(_) => writer.filled(&mut out, named, *offset, data[0]),
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

fn sample() -> Vec<u8> {
    use SamplePage::{Counting, Filled};
    sample_stream(&[
        &[(0, 0, Counting(1)), (0, 1, Filled(0)), (1, 31, Counting(2))],
        &[],
        &[(1, 30, Filled(7)), (0, 255, Counting(3)), (0, 0, Counting(4))],
    ])
}

#[test]
fn however_it_is_cut_a_stream_gives_the_same_pieces() {
    let stream = sample();
    let (whole, joint) = parse(&stream, stream.len());
    let joint = joint.unwrap();
    assert_eq!(joint, Joint { section: Some(2), place: Place::Section, last: Some(0) });
    let blocks: Vec<_> = whole.blocks.iter().map(|it| (it.name.as_str(), it.bytes)).collect();
    assert_eq!(blocks, SAMPLE_BLOCKS);
    let pages: Vec<_> = whole.pages.iter().map(|it| (it.0, it.1 / 4096, it.2.len())).collect();
    let wanted = [(0, 0, PAGE), (0, 1, 1), (1, 31, PAGE), (1, 30, 1), (0, 255, PAGE), (0, 0, PAGE)];
    assert_eq!(pages, wanted);
    assert_eq!(whole.pages[5].2, SamplePage::Counting(4).bytes());
    assert!(whole.rest.starts_with(b"\x04\0\0\0\x03\x05timer"));
    for step in [1, 2, 3, 7, 64, 1000, 4096, 4097, 5000, 9000] {
        let (parts, again) = parse(&stream, step);
        assert_eq!((parts, again.unwrap()), (Parts { ..parse(&stream, 1).0 }, joint.clone()));
    }
    assert_eq!(parse(&stream, 1).0, whole);
}

#[test]
fn a_stream_that_is_cut_off_says_so() {
    let stream = sample();
    for length in 0..stream.len() {
        assert!(parse(&stream[..length], 5000).1.is_err(), "{length}");
    }
}

/// Columns: what is written where, counted from the first occurrence of a text; where the rest
/// begins; how many pages came before.
#[test]
fn what_is_not_understood_is_kept_from_its_beginning() {
    let stream = sample();
    let find = |wanted: &[u8]| stream.windows(wanted.len()).position(|it| it == wanted).unwrap();
    let part = find(b"\x02\0\0\0\x02");
    let start = find(b"\x01\0\0\0\x02");
    let second = part + 5 + 8 + 7 + PAGE;
    for (what, at, byte, rest, place, pages) in [
        ("magic", 0, b'X', 0, Place::Section, 0),
        ("version", 7, 4, 0, Place::Section, 0),
        ("configuration", 8, 5, 8, Place::Section, 0),
        ("another section", start + 6, b'x', start, Place::Section, 0),
        ("ram's version", start + 16, 5, start, Place::Section, 0),
        ("flags of the table", start + 24, 8, start, Place::Section, 0),
        ("a block's size", start + 25 + 7 + 7, 1, start, Place::Section, 0),
        ("a part of another section", part + 4, 9, part, Place::Section, 0),
        ("an unknown flag", part + 5 + 6, 1, part + 5, Place::Records, 0),
        ("a compressed page", part + 5 + 6, 1, part + 5, Place::Records, 0),
        ("an address beyond the block", part + 5 + 4, 9, part + 5, Place::Records, 0),
        ("an unknown block", part + 5 + 9, b'x', part + 5, Place::Records, 0),
        ("a second record", second + 6, 8, second, Place::Records, 1),
    ] {
        let mut changed = stream.clone();
        changed[at] = byte;
        for step in [1, 4096, changed.len()] {
            let (parts, joint) = parse(&changed, step);
            let joint = joint.unwrap();
            assert_eq!((joint.place, parts.pages.len()), (place, pages), "{what}");
            assert_eq!(parts.rest, changed[rest..], "{what}");
            let again = parse(&join(&parts, &joint), step);
            assert_eq!(again, (parts, Ok(joint)), "{what}");
        }
    }
}

#[test]
fn a_part_without_its_footer_is_kept_so() {
    let mut stream = sample();
    let footer = stream.windows(5).rposition(|it| it == b"\x7e\0\0\0\x02").unwrap();
    stream[footer] = 0x7d;
    let (parts, joint) = parse(&stream, 100);
    let joint = joint.unwrap();
    assert_eq!((joint.place, parts.rest.as_slice()), (Place::Footer, &stream[footer..]));
    assert_eq!(parse(&join(&parts, &joint), 100), (parts, Ok(joint)));
}

/// A sample whose table has so many blocks more, of a page each.
fn with_blocks(count: u64) -> Vec<u8> {
    let mut stream = sample();
    let table = stream.windows(3).position(|it| it == b"ram").unwrap() + 11;
    let total = SAMPLE_BLOCKS.iter().map(|it| it.1).sum::<u64>() + count * PAGE as u64;
    stream[table..table + 8].copy_from_slice(&(total | MEM_SIZE).to_be_bytes());
    let more = (0..count).flat_map(|number| {
        let name = format!("{number:08}");
        [&[8], name.as_bytes(), &(PAGE as u64).to_be_bytes()].concat()
    });
    stream.splice(table + 8..table + 8, more);
    stream
}

/// The bounds of what is held must not show: a table is understood or not, however it comes.
#[test]
fn a_long_table_is_the_same_however_it_is_cut() {
    for (count, understood) in [(3000, true), (3851, true), (3852, false), (5000, false)] {
        let stream = with_blocks(count);
        for step in [997, 8192, 65_536, stream.len()] {
            let (parts, joint) = parse(&stream, step);
            let joint = joint.unwrap();
            assert_eq!(joint.section.is_some(), understood, "{count} {step}");
            assert_eq!(parts.pages.len(), if understood { 6 } else { 0 }, "{count} {step}");
        }
    }
}

/// QEMU describes a guest of 240 CPUs in 1.8 MiB.
#[test]
fn a_description_may_be_long() {
    let mut stream = sample();
    let end = stream.iter().rposition(|it| *it == 6).unwrap() - 1;
    stream.truncate(end);
    for length in [2_u32, 255, 256, 0xff00, 0x10_000, 3 << 20, 1 << 24] {
        let mut whole = stream.clone();
        whole.extend_from_slice(&[0, 6]);
        whole.extend_from_slice(&length.to_be_bytes());
        whole.push(b'{');
        whole.resize(end + 5 + length as usize, b' ');
        whole.push(b'}');
        for step in [1 << 20, 4099, whole.len()] {
            assert!(parse(&whole, step).1.is_ok(), "{length} {step}");
            assert!(parse(&whole[..whole.len() - 1], step).1.is_err(), "{length} {step}");
            let longer = [&whole[..], b"}"].concat();
            assert!(parse(&longer, step).1.is_err(), "{length} {step}");
        }
    }
}
