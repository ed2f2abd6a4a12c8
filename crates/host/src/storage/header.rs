//! The header of a qcow2 image, as far as it tells what the image lies on.
//!
//! Format: <https://www.qemu.org/docs/master/interop/qcow2.html>.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use vitrify_core::ports::Answer;

use crate::files::{at, is_absence};

/// Where the header names the place and the length of the backing file's name, big-endian.
const PLACE: u64 = 8;
const LENGTH: u64 = 16;
/// The longest such name.
const LONGEST: usize = 1023;

/// The image that this one lies on. A name that is relative is so to the image's own folder.
pub(super) fn backing(image: &Path) -> Answer<Option<PathBuf>> {
    let file = match File::open(image) {
        Err(error) if is_absence(&error) => return Ok(None),
        file => file.map_err(at("cannot read", image))?,
    };
    let name = match name(&file) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => None,
        name => name.map_err(at("cannot read the header of", image))?,
    };
    Ok(name.map(|name| image.parent().unwrap_or(image).join(name)))
}

fn name(file: &File) -> io::Result<Option<String>> {
    let (mut magic, mut place, mut length) = ([0; 4], [0; 8], [0; 4]);
    file.read_exact_at(&mut magic, 0)?;
    file.read_exact_at(&mut place, PLACE)?;
    file.read_exact_at(&mut length, LENGTH)?;
    let (place, length) = (u64::from_be_bytes(place), u32::from_be_bytes(length) as usize);
    if magic != *b"QFI\xfb" || place == 0 || length > LONGEST {
        return Ok(None);
    }
    let mut name = vec![0; length];
    file.read_exact_at(&mut name, place)?;
    Ok(Some(String::from_utf8_lossy(&name).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(magic: &[u8; 4], place: u64, name: &str) -> Vec<u8> {
        let mut bytes = [&magic[..], &3_u32.to_be_bytes(), &place.to_be_bytes()].concat();
        bytes.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
        bytes.resize(104, 0);
        bytes.extend(name.as_bytes());
        bytes
    }

    #[test]
    fn what_a_header_says() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("image");
        assert_eq!(backing(&path).unwrap(), None);
        let beside = scratch.path().join("base.raw");
        for (bytes, wanted) in [
            (image(b"QFI\xfb", 104, "/v/base.raw"), Some(PathBuf::from("/v/base.raw"))),
            (image(b"QFI\xfb", 104, "base.raw"), Some(beside)),
            (image(b"QFI\xfb", 0, ""), None),
            (image(b"RAW\xfb", 104, "/v/base.raw"), None),
            (image(b"QFI\xfb", 4000, "/v/base.raw"), None),
            (b"QFI\xfb".to_vec(), None),
            (Vec::new(), None),
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(backing(&path).unwrap(), wanted);
        }
    }
}
