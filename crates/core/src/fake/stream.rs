//! Small streams as QEMU writes them.

use crate::save_image::Header;
use crate::stream::{PAGE, Writer};

/// The blocks of these streams.
pub const SAMPLE_BLOCKS: [(&str, u64); 2] = [("pc.ram", 1 << 20), ("pc.bios", 128 << 10)];
const SECTION: u32 = 2;

/// What a page holds.
#[derive(Debug, Clone, Copy)]
pub enum SamplePage {
    /// One byte, everywhere; written as a record of that byte.
    Filled(u8),
    /// Bytes that count up from this one.
    Counting(u8),
}

impl SamplePage {
    /// The page.
    pub fn bytes(self) -> [u8; PAGE] {
        match self {
            Self::Filled(byte) => [byte; PAGE],
            Self::Counting(first) => {
                let mut page = [first; PAGE];
                for (byte, index) in page.iter_mut().zip(0_u8..=u8::MAX) {
                    *byte = first.wrapping_add(index);
                }
                page
            }
        }
    }
}

/// A stream with these pages, each given by its block's index and its own index in the block, in
/// as many parts as there are slices.
pub fn sample_stream(parts: &[&[(usize, u64, SamplePage)]]) -> Vec<u8> {
    let mut out = b"QEVM\0\0\0\x03\x07\0\0\0\x02pc".to_vec();
    out.push(1);
    out.extend_from_slice(&SECTION.to_be_bytes());
    out.extend_from_slice(b"\x03ram\0\0\0\0\0\0\0\x04");
    let total: u64 = SAMPLE_BLOCKS.iter().map(|it| it.1).sum();
    out.extend_from_slice(&(total | 4).to_be_bytes());
    for (name, bytes) in SAMPLE_BLOCKS {
        out.push(u8::try_from(name.len()).unwrap_or(0));
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&bytes.to_be_bytes());
    }
    out.extend_from_slice(&0x10_u64.to_be_bytes());
    out.push(0x7e);
    out.extend_from_slice(&SECTION.to_be_bytes());
    for part in parts {
        let mut writer = Writer::begin(&mut out, SECTION);
        for &(block, index, page) in *part {
            let (offset, name) = (index * PAGE as u64, SAMPLE_BLOCKS[block].0);
            match page {
                SamplePage::Filled(byte) => {
                    writer.filled(&mut out, (block, name), offset, byte);
                }
                SamplePage::Counting(_) => {
                    writer.page(&mut out, (block, name), offset, &page.bytes());
                }
            }
        }
        writer.end_records(&mut out);
        writer.end(&mut out);
    }
    // A device, the mark of the end, and the description.
    out.extend_from_slice(b"\x04\0\0\0\x03\x05timer\0\0\0\0\0\0\0\x02device state\x7e\0\0\0\x03");
    let description = br#"{"page_size": 4096, "devices": []}"#;
    out.extend_from_slice(&[0, 6]);
    out.extend_from_slice(&u32::try_from(description.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(description);
    out
}

/// A save image of libvirt's with a page of this content.
pub fn sample_save_image(content: u8) -> Vec<u8> {
    let xml = "<domain type='qemu'/>".to_owned();
    let mut bytes = Header { xml, cookie: None, running: true }.encode();
    bytes.extend(sample_stream(&[&[(0, 0, SamplePage::Counting(content))]]));
    bytes
}
