//! The socket that a guest's RAM comes through.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::{
    set_socket_send_buffer_size, set_socket_send_buffer_size_force, socket_send_buffer_size,
};

/// How far the sender may be ahead. The kernel's 208 KiB have it wait for us every 0.2 ms at 1 GB/s.
const AHEAD: usize = 4 << 20;
/// A read of less finds the socket empty.
const MUCH: usize = 64 << 10;
/// A sender of 10 GB/s is not as far ahead after so long.
const REST: Duration = Duration::from_micros(300);
/// What comes first is waited for: a guest stands still until its first page is here.
const FIRST: u64 = 1 << 20;
/// After so long without a byte, whoever reads looks up.
const READ_LIMIT: Duration = Duration::from_millis(100);

/// The reading end. What has been idle for 100 ms answers with
/// [`io::ErrorKind::WouldBlock`].
///
/// Woken for each piece that is sent, 8 KiB as a rule, a reader takes the sender's CPU away from it 24,000
/// times for 190 MiB (*measured*, two cores: 260 ms; with the rest that this end takes after it
/// found the socket empty, 210 to 235 ms).
#[derive(Debug)]
pub struct Receiver {
    socket: UnixStream,
    paced: bool,
    read: u64,
    was_empty: bool,
}

/// Both ends: for reading, and for the sender.
///
/// # Errors
/// The kernel's.
pub fn pair() -> io::Result<(Receiver, UnixStream)> {
    let (socket, theirs) = UnixStream::pair()?;
    socket.set_read_timeout(Some(READ_LIMIT))?;
    // What goes beyond the system's bound takes a right that root has as a rule.
    set_socket_send_buffer_size_force(&theirs, AHEAD)
        .or_else(|_| set_socket_send_buffer_size(&theirs, AHEAD))?;
    let paced = socket_send_buffer_size(&theirs)? >= AHEAD;
    Ok((Receiver { socket, paced, read: 0, was_empty: false }, theirs))
}

impl Read for Receiver {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.paced && self.was_empty && self.read > FIRST {
            thread::sleep(REST);
        }
        let read = self.socket.read(buffer)?;
        self.was_empty = read < MUCH.min(buffer.len());
        self.read += read as u64;
        Ok(read)
    }
}

impl From<Receiver> for OwnedFd {
    /// For a program that does not look up.
    fn from(receiver: Receiver) -> Self {
        // Without, an idle time is an error for it, and no more than that.
        receiver.socket.set_read_timeout(None).ok();
        receiver.socket.into()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn all_of_it_arrives_in_its_order() {
        let (mut ours, mut theirs) = pair().unwrap();
        let sent: Vec<u8> = (0..5_u32 << 20).map(|it| (it / 4096) as u8).collect();
        let expected = sent.clone();
        let sender =
            thread::spawn(move || sent.chunks(8192).try_for_each(|it| theirs.write_all(it)));
        let mut came = Vec::new();
        ours.read_to_end(&mut came).unwrap();
        assert!(came == expected, "other bytes than were sent");
        sender.join().unwrap().unwrap();
    }

    #[test]
    fn a_silent_sender_is_told_of() {
        let (mut ours, _theirs) = pair().unwrap();
        assert_eq!(ours.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
