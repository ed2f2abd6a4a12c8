//! Waits for something to happen to the files of a folder: the kernel says so, nobody asks again
//! and again.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::run::Running;

/// A folder that is watched from its making on.
#[derive(Debug)]
pub(crate) struct Watch(OwnedFd);

impl Watch {
    /// Watches a folder, which must exist, but not the folders in it.
    pub(crate) fn on(folder: &Path) -> io::Result<Self> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let events =
            WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE;
        inotify::add_watch(&watch, folder, events)?;
        Ok(Self(watch))
    }

    /// Waits until something happened, or `process` ended. False when the deadline has passed.
    /// Which event it was does not matter: the caller looks again.
    pub(crate) fn wait(&self, process: Option<&Running>, deadline: Instant) -> io::Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut watched = vec![PollFd::new(&self.0, PollFlags::IN)];
        watched.extend(process.map(Running::ends));
        let events = poll(&mut watched, Some(&left))?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.0, &mut buffer);
        while reader.next().is_ok() {}
        Ok(events > 0)
    }
}
