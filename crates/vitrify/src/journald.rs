//! Messages for systemd's journal, with fields that `journalctl GUEST=web` finds.
//!
//! <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// What a message is, and which guest and which point it is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) text: &'a str,
    pub(crate) guest: Option<&'a str>,
    pub(crate) point: Option<&'a str>,
}

impl Message<'_> {
    /// Sends it to the journal, if that is what this stream leads to. Whether it went: one that did not,
    /// because it is too long for a datagram for example, belongs on the stream.
    pub(crate) fn send_instead_of(&self, stream: impl AsFd) -> bool {
        let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
        is_of(&named, stream) && self.send(Path::new(SOCKET)).is_ok()
    }

    fn send(&self, socket: &Path) -> io::Result<()> {
        UnixDatagram::unbound()?.send_to(&self.encode(), socket).map(drop)
    }

    fn encode(&self) -> Vec<u8> {
        let fields = [
            ("MESSAGE", Some(self.text)),
            ("PRIORITY", Some(self.priority())),
            ("SYSLOG_IDENTIFIER", Some("vitrify")),
            ("GUEST", self.guest),
            ("POINT", self.point),
        ];
        let mut entry = Vec::new();
        for (name, value) in fields.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            entry.extend(name.as_bytes());
            if value.contains('\n') {
                entry.push(b'\n');
                entry.extend((value.len() as u64).to_le_bytes());
            } else {
                entry.push(b'=');
            }
            entry.extend(value.as_bytes());
            entry.push(b'\n');
        }
        entry
    }

    /// syslog(3)'s: error, warning, information.
    fn priority(&self) -> &'static str {
        match self.text {
            text if text.starts_with("vitrify: ") => "3",
            text if text.starts_with("warning: ") => "4",
            _ => "6",
        }
    }
}

/// Whether the stream is what systemd named in `JOURNAL_STREAM`: device and inode.
fn is_of(named: &str, stream: impl AsFd) -> bool {
    rustix::fs::fstat(stream)
        .is_ok_and(|found| named == format!("{}:{}", found.st_dev, found.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_read_so() {
        let plain = |text, guest, point| Message { text, guest, point };
        for (message, expected) in [
            (
                plain("web: resume", Some("web"), Some("before-upgrade")),
                &b"MESSAGE=web: resume\nPRIORITY=6\nSYSLOG_IDENTIFIER=vitrify\nGUEST=web\n\
                   POINT=before-upgrade\n"[..],
            ),
            (
                plain("vitrify: cannot", None, None),
                b"MESSAGE=vitrify: cannot\nPRIORITY=3\nSYSLOG_IDENTIFIER=vitrify\n",
            ),
            (
                plain("warning: a=b\nc", Some("a=b"), None),
                b"MESSAGE\n\x0e\0\0\0\0\0\0\0warning: a=b\nc\nPRIORITY=4\n\
                  SYSLOG_IDENTIFIER=vitrify\nGUEST=a=b\n",
            ),
        ] {
            let found = message.encode();
            assert_eq!(found, expected, "{}", String::from_utf8_lossy(&found));
        }
    }

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let of = |stream: &UnixDatagram| {
            let found = rustix::fs::fstat(stream).unwrap();
            format!("{}:{}", found.st_dev, found.st_ino)
        };
        assert!(is_of(&of(&ours), &ours));
        assert!(!is_of(&of(&theirs), &ours));
        assert!(!is_of("", &ours) && !is_of("1", &ours));
    }

    #[test]
    fn a_message_reaches_the_socket() {
        let folder = std::env::temp_dir().join(format!("vitrify-journald-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let place = folder.join("socket");
        let journal = UnixDatagram::bind(&place).unwrap();
        let message = Message { text: "hello", guest: Some("web"), point: None };
        let sent = message.send(&place);
        std::fs::remove_dir_all(&folder).unwrap();
        sent.unwrap();
        let mut received = [0; 256];
        let length = journal.recv(&mut received).unwrap();
        assert_eq!(received[..length], message.encode());
        assert!(message.send(&place).is_err());
    }
}
