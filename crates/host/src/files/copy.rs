//! A copy of an image file: its blocks shared where the file system can, else sparse.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{
    IFlags, SeekFrom, copy_file_range, ioctl_ficlone, ioctl_getflags, ioctl_setflags, seek,
};
use rustix::io::Errno;
use vitrify_core::ports::Answer;

use super::{at, create, sync_parent, unlink};

/// How many bytes are read at a time.
const STEP: usize = 1 << 20;

/// Copies an open file to `beside`, which is replaced if it exists. The copy has the source's mode,
/// and where `like` exists its owner and its no-copy-on-write attribute, else the source's. Durable
/// when it returns; nothing is left of a copy that failed.
///
/// # Errors
/// `NoSpace` where there is no room for it.
pub(crate) fn copy(source: &File, beside: &Path, like: &Path) -> Answer<()> {
    unlink(beside)?;
    let copied = create(beside)?;
    let result = fill(source, &copied, like)
        .and_then(|()| copied.sync_all())
        .map_err(at("cannot copy to", beside))
        .and_then(|()| sync_parent(beside));
    if result.is_err() {
        // The first problem is the one to tell.
        unlink(beside).ok();
    }
    result
}

fn fill(source: &File, copied: &File, like: &Path) -> io::Result<()> {
    let from = source.metadata()?;
    let model = match File::open(like) {
        Ok(model) => Some(model),
        Err(error) if super::is_absence(&error) => None,
        Err(error) => return Err(error),
    };
    let model = model.as_ref().unwrap_or(source);
    // Only an empty file can change it, and Btrfs clones only between files that agree in it.
    if is_nocow(model) {
        let flags = ioctl_getflags(copied)?;
        ioctl_setflags(copied, flags | IFlags::NOCOW)?;
    }
    if !share_blocks(source, copied)? {
        copied.set_len(from.len())?;
        copy_data(source, copied, from.len())?;
    }
    let owner = model.metadata()?;
    std::os::unix::fs::fchown(copied, Some(owner.uid()), Some(owner.gid()))?;
    copied.set_permissions(fs::Permissions::from_mode(from.mode() & 0o7777))
}

/// A file system without such attributes has none set.
fn is_nocow(file: &File) -> bool {
    ioctl_getflags(file).is_ok_and(|flags| flags.contains(IFlags::NOCOW))
}

fn share_blocks(source: &File, copied: &File) -> io::Result<bool> {
    match ioctl_ficlone(copied, source) {
        Ok(()) => Ok(true),
        // Another file system, one that cannot, or files that differ in an attribute.
        Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS | Errno::INVAL) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Copies what is not a hole. The kernel is asked first: ZFS shares blocks between a snapshot and its
/// pool's datasets in this way, and not by the ioctl that needs one mount.
fn copy_data(source: &File, copied: &File, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; STEP];
    let mut position = 0;
    while position < length {
        let (start, end) = match seek(source, SeekFrom::Data(position)) {
            Ok(start) => (start, seek(source, SeekFrom::Hole(start))?.min(length)),
            Err(Errno::NXIO) => return Ok(()),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => (position, length),
            Err(error) => return Err(error.into()),
        };
        position = start + share_range(source, copied, start, end)?;
        while position < end {
            let wanted = usize::try_from(end - position).unwrap_or(STEP).min(STEP);
            let read = source.read_at(&mut buffer[..wanted], position)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            copied.write_all_at(&buffer[..read], position)?;
            position += read as u64;
        }
    }
    Ok(())
}

/// Lets the kernel copy as much of a range as it can, and says how much that was.
fn share_range(source: &File, copied: &File, start: u64, end: u64) -> io::Result<u64> {
    let (mut from, mut to) = (start, start);
    while from < end {
        let wanted = usize::try_from(end - from).unwrap_or(usize::MAX).min(1 << 30);
        match copy_file_range(source, Some(&mut from), copied, Some(&mut to), wanted) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            // Another file system, or one that cannot.
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(from - start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_bytes_the_holes_and_the_mode() {
        let scratch = tempfile::tempdir().unwrap();
        let (from, beside) = (scratch.path().join("from"), scratch.path().join("beside"));
        let source = create(&from).unwrap();
        source.set_len(64 << 20).unwrap();
        source.write_all_at(b"begin", 0).unwrap();
        source.write_all_at(&vec![7; 3 << 20], 32 << 20).unwrap();
        source.write_all_at(b"end", (64 << 20) - 3).unwrap();
        source.set_permissions(fs::Permissions::from_mode(0o640)).unwrap();
        fs::write(&beside, "in the way").unwrap();
        copy(&source, &beside, &scratch.path().join("absent")).unwrap();
        assert!(fs::read(&from).unwrap() == fs::read(&beside).unwrap());
        let (from, copied) = (source.metadata().unwrap(), fs::metadata(&beside).unwrap());
        assert_eq!(copied.mode() & 0o7777, 0o640);
        assert!(copied.blocks() <= from.blocks() + 64, "{} blocks", copied.blocks());
    }

    #[test]
    fn an_empty_file() {
        let scratch = tempfile::tempdir().unwrap();
        let source = create(&scratch.path().join("from")).unwrap();
        let beside = scratch.path().join("beside");
        copy(&source, &beside, &beside).unwrap();
        assert_eq!(fs::metadata(beside).unwrap().len(), 0);
    }
}
