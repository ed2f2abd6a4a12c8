//! The container of libvirt's save images: a header before QEMU's migration stream.
//!
//! Layout (libvirt 9.0 and 11.3, looked at in images that they wrote): a magic of 16 bytes; numbers
//! of 4 bytes in the host's order: version 2, the length of the data that follows the header, whether
//! the guest was running, the stream's format, where in the data the cookie begins or 0; padding to
//! 92 bytes; the definition with a zero byte, the cookie with one, padding.

/// Bytes before the definition.
pub const FIXED: usize = 92;

const MAGIC: &[u8; 16] = b"LibvirtQemudSave";
const UNFINISHED: &[u8; 16] = b"LibvirtQemudPart";
const VERSION: u32 = 2;
/// A definition is some KiB long.
const LONGEST: usize = 16 << 20;
/// libvirt's formats, by number.
const FORMATS: [&str; 7] = ["raw", "gzip", "bzip2", "xz", "lzop", "zstd", "sparse"];

/// What a save image says of its guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The guest's definition.
    pub xml: String,
    /// What else libvirt wanted to remember.
    pub cookie: Option<String>,
    /// Whether the guest was running.
    pub running: bool,
}

/// Why something is no save image that can be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SaveImageError {
    /// It begins otherwise.
    #[error("it is not a save image of libvirt's")]
    Magic,
    /// It was never finished.
    #[error("it is a save image that was not written to its end")]
    Unfinished,
    /// From another time.
    #[error("its version is {0}, and version 2 is known")]
    Version(u32),
    /// Its stream is compressed.
    #[error("its format is {0}, and only raw images can be read")]
    Format(&'static str),
    /// It is too short, or its lengths make no sense.
    #[error("its header is damaged")]
    Damaged,
}

impl Header {
    /// The bytes before the stream.
    pub fn encode(&self) -> Vec<u8> {
        let mut data = self.xml.clone().into_bytes();
        data.push(0);
        let mut cookie_at = 0;
        if let Some(cookie) = &self.cookie {
            cookie_at = data.len();
            data.extend_from_slice(cookie.as_bytes());
            data.push(0);
        }
        let number = |it: usize| u32::try_from(it).unwrap_or(u32::MAX);
        let numbers = [VERSION, number(data.len()), u32::from(self.running), 0, number(cookie_at)];
        let mut bytes = MAGIC.to_vec();
        bytes.extend(numbers.iter().flat_map(|it| it.to_ne_bytes()));
        bytes.resize(FIXED, 0);
        bytes.extend_from_slice(&data);
        bytes
    }

    /// How long the header is in all, from its first [`FIXED`] bytes.
    pub fn length(fixed: &[u8; FIXED]) -> Result<usize, SaveImageError> {
        if fixed.starts_with(UNFINISHED) {
            return Err(SaveImageError::Unfinished);
        }
        if !fixed.starts_with(MAGIC) {
            return Err(SaveImageError::Magic);
        }
        match number(fixed, 0) {
            Some(VERSION) => {}
            other => return Err(SaveImageError::Version(other.unwrap_or(0))),
        }
        let format = number(fixed, 3).and_then(|it| FORMATS.get(usize::try_from(it).ok()?));
        match format {
            Some(&"raw") => {}
            other => return Err(SaveImageError::Format(other.unwrap_or(&"unknown"))),
        }
        let data = number(fixed, 1).and_then(|it| usize::try_from(it).ok());
        match data {
            Some(data) if (1..=LONGEST).contains(&data) => Ok(FIXED + data),
            _ => Err(SaveImageError::Damaged),
        }
    }

    /// Reads a whole header, of the length that [`Header::length`] says.
    pub fn decode(bytes: &[u8]) -> Result<Self, SaveImageError> {
        let damaged = SaveImageError::Damaged;
        let fixed = bytes.first_chunk::<FIXED>().ok_or(SaveImageError::Damaged)?;
        let length = Self::length(fixed)?;
        let data = bytes.get(FIXED..length).ok_or(SaveImageError::Damaged)?;
        let cookie_at = number(fixed, 4).and_then(|it| usize::try_from(it).ok()).ok_or(damaged)?;
        let text = |bytes: &[u8]| {
            let text = bytes.split(|it| *it == 0).next().filter(|it| it.len() < bytes.len());
            let text = text.and_then(|it| std::str::from_utf8(it).ok());
            text.map(str::to_owned).ok_or(SaveImageError::Damaged)
        };
        let cookie = match cookie_at {
            0 => None,
            at => Some(text(data.get(at..).ok_or(SaveImageError::Damaged)?)?),
        };
        Ok(Self { xml: text(data)?, cookie, running: number(fixed, 2) == Some(1) })
    }
}

/// The number of this index after the magic.
fn number(fixed: &[u8; FIXED], index: usize) -> Option<u32> {
    let at = MAGIC.len() + 4 * index;
    fixed.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_is_decoded() {
        for (cookie, running) in [(None, true), (Some("<cookie/>"), false)] {
            let header =
                Header { xml: "<domain/>".into(), cookie: cookie.map(str::to_owned), running };
            let mut bytes = header.encode();
            let fixed = *bytes.first_chunk().unwrap();
            assert_eq!(Header::length(&fixed).unwrap(), bytes.len());
            bytes.extend_from_slice(b"QEVM");
            assert_eq!(Header::decode(&bytes).unwrap(), header);
        }
    }

    #[test]
    fn what_is_no_save_image_says_why() {
        let good = Header { xml: "<domain/>".into(), cookie: None, running: true }.encode();
        let changed = |at: usize, to: &[u8]| {
            let mut bytes = good.clone();
            bytes[at..at + to.len()].copy_from_slice(to);
            Header::decode(&bytes).unwrap_err()
        };
        for (at, to, wanted) in [
            (0, &b"X"[..], SaveImageError::Magic),
            (0, UNFINISHED, SaveImageError::Unfinished),
            (16, &3_u32.to_ne_bytes(), SaveImageError::Version(3)),
            (20, &0_u32.to_ne_bytes(), SaveImageError::Damaged),
            (20, &u32::MAX.to_ne_bytes(), SaveImageError::Damaged),
            (20, &100_u32.to_ne_bytes(), SaveImageError::Damaged),
            (28, &1_u32.to_ne_bytes(), SaveImageError::Format("gzip")),
            (28, &6_u32.to_ne_bytes(), SaveImageError::Format("sparse")),
            (28, &7_u32.to_ne_bytes(), SaveImageError::Format("unknown")),
            (32, &5000_u32.to_ne_bytes(), SaveImageError::Damaged),
            (good.len() - 1, b"x", SaveImageError::Damaged),
        ] {
            assert_eq!(changed(at, to), wanted, "{to:?} at {at}");
        }
        for length in 0..good.len() {
            assert!(Header::decode(&good[..length]).is_err(), "{length}");
        }
    }
}
