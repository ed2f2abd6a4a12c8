//! Whatever comes is taken apart without panicking, the same however it is cut, and comes together
//! again to a stream that means the same. The first byte says how it is cut.

#![no_main]

use std::convert::Infallible;

use libfuzzer_sys::fuzz_target;
use vitrify_core::stream::{Joint, PAGE, Parser, Piece, Place, RamBlock, Writer};

#[derive(Debug, Default, PartialEq)]
struct Parts {
    head: Vec<u8>,
    blocks: Vec<RamBlock>,
    pages: Vec<(usize, u64, Vec<u8>)>,
    rest: Vec<u8>,
    joint: Option<Joint>,
}

fn parse(stream: &[u8], step: usize) -> Parts {
    let (mut parts, mut parser) = (Parts::default(), Parser::new());
    for bytes in stream.chunks(step) {
        let mut each = |piece: Piece<'_>| -> Result<(), Infallible> {
            match piece {
                Piece::Head(bytes) => parts.head.extend(bytes),
                Piece::Blocks(blocks) => parts.blocks.extend_from_slice(blocks),
                Piece::Page { block, offset, data } => {
                    parts.pages.push((block, offset, data.to_vec()));
                }
                Piece::Filled { block, offset, byte } => {
                    parts.pages.push((block, offset, vec![byte]));
                }
                Piece::Rest(bytes) => parts.rest.extend(bytes),
            }
            Ok(())
        };
        let Ok(()) = parser.feed(bytes, &mut each);
    }
    parts.joint = parser.finish().ok();
    parts
}

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

fuzz_target!(|input: &[u8]| {
    let Some((step, stream)) = input.split_first() else { return };
    let whole = parse(stream, stream.len().max(1));
    assert_eq!(parse(stream, usize::from(*step) + 1), whole);
    for (block, offset, _) in &whole.pages {
        assert!(offset % PAGE as u64 == 0 && *offset < whole.blocks[*block].bytes);
    }
    if let Some(joint) = &whole.joint {
        let again = join(&whole, joint);
        assert_eq!(parse(&again, again.len().max(1)), whole);
    }
});
