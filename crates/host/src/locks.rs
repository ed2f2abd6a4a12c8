//! Locks on guests and volumes between processes: `flock` on files in a private folder.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use vitrify_core::ports::Answer;
use vitrify_core::problem::{Problem, ProblemKind};

use crate::files::{at, ensure_folder};

/// The longest file name that is made from a key as it is.
const LONGEST: usize = 200;

/// Locks that are held until they are dropped, or the process ends.
#[derive(Debug)]
pub struct Locks {
    held: Vec<File>,
}

impl Locks {
    /// Takes one lock for each key, such as `guest web` or `volume /srv/vm/web`, or none.
    ///
    /// All processes take them in the keys' order, so that none waits for another in a circle; and
    /// nobody waits at all. The files stay where they are: a file that was removed could be held by
    /// one process and made anew by another.
    ///
    /// # Errors
    /// `Locked`, naming the process that holds one of them.
    pub fn acquire(folder: &Path, keys: &[String]) -> Answer<Self> {
        ensure_folder(folder)?;
        let mut keys: Vec<_> = keys.iter().collect();
        keys.sort();
        keys.dedup();
        let held = keys.into_iter().map(|key| take(folder, key)).collect::<Answer<_>>()?;
        Ok(Self { held })
    }
}

impl Drop for Locks {
    fn drop(&mut self) {
        for file in &self.held {
            // Closing the file releases it; until then it says nothing about us any more.
            file.set_len(0).ok();
        }
    }
}

fn take(folder: &Path, key: &str) -> Answer<File> {
    let path = folder.join(escaped(key));
    let failed = at("cannot lock", &path);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(at("cannot open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(busy(key, &path)),
        Err(error) => return Err(failed(error)),
    }
    let holder = format!("{} {}\n", std::process::id(), command_line());
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(holder.as_bytes()))
        .map_err(at("cannot write", &path))?;
    Ok(file)
}

fn busy(key: &str, path: &Path) -> Problem {
    let text = fs::read_to_string(path).unwrap_or_default();
    let who = match text.trim().split_once(' ') {
        Some((pid, command)) => format!("process {pid} ({command})"),
        None => "another vitrify".into(),
    };
    Problem::new(ProblemKind::Locked, format!("{key} is in use by {who}"))
        .hint("try again when it has ended")
}

fn command_line() -> String {
    let bytes = fs::read("/proc/self/cmdline").unwrap_or_default();
    let words: Vec<_> = bytes.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
    words.join(" ").trim_end().replace(char::is_control, "?")
}

/// A file name that no other key has: what is not a letter, a digit or `._-` becomes `%` and two
/// hexadecimal digits; a long one ends in its hash.
fn escaped(key: &str) -> String {
    let mut name = String::new();
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric()
            || b"_-".contains(&byte)
            || (byte == b'.' && !name.is_empty())
        {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02x}"));
        }
    }
    if name.len() > LONGEST {
        name.truncate(LONGEST);
        name.push('%');
        name.push_str(&blake3::hash(key.as_bytes()).to_hex());
        name.truncate(LONGEST + 33);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(keys: &[&str]) -> Vec<String> {
        keys.iter().map(|&key| key.to_owned()).collect()
    }

    #[test]
    fn one_holder_at_a_time() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("locks");
        let web = Locks::acquire(&folder, &keys(&["volume /srv/web", "guest web"])).unwrap();
        let mail = Locks::acquire(&folder, &keys(&["guest mail"])).unwrap();
        let problem = Locks::acquire(&folder, &keys(&["guest db", "volume /srv/web"])).unwrap_err();
        assert_eq!(problem.kind, ProblemKind::Locked);
        let me = format!("volume /srv/web is in use by process {} (", std::process::id());
        assert!(problem.message.starts_with(&me), "{problem}");
        // What was taken before the busy one is free again.
        drop(Locks::acquire(&folder, &keys(&["guest db", "guest db"])).unwrap());
        drop(web);
        drop(Locks::acquire(&folder, &keys(&["volume /srv/web", "guest web"])).unwrap());
        drop(mail);
    }

    #[test]
    fn a_holder_that_died_left_nothing_behind() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("guest%20web"), "4711 vitrify snapshot web with more\n")
            .unwrap();
        let locks = Locks::acquire(scratch.path(), &keys(&["guest web"])).unwrap();
        let text = fs::read_to_string(scratch.path().join("guest%20web")).unwrap();
        assert!(text.starts_with(&format!("{} ", std::process::id())), "{text}");
        drop(locks);
    }

    #[test]
    fn file_names() {
        let long = "x".repeat(300);
        for (key, wanted) in [
            ("guest web-1_a.b", "guest%20web-1_a.b"),
            ("volume /srv/vm", "volume%20%2fsrv%2fvm"),
            ("..", "%2e."),
            ("ä", "%c3%a4"),
            ("%41", "%2541"),
        ] {
            assert_eq!(escaped(key), wanted);
        }
        assert!(escaped(&long).len() < 255);
        assert_ne!(escaped(&long), escaped(&format!("{long}y")));
    }
}
