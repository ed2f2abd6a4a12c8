//! Block devices: writes what differs of one into another.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use vitrify_core::name::Bytes;
use vitrify_core::ports::Answer;
use vitrify_core::problem::Problem;

use crate::files::at;

/// How many bytes of each device are compared at a time.
const STEP: usize = 1 << 20;
/// How finely differences are told apart: a zvol's usual block.
const BLOCK: usize = 16 << 10;

/// Makes the second device hold what the first holds, by writing the blocks that differ; durable.
/// Needs 2 MiB of memory.
///
/// # Errors
/// `Refused` where one is no block device, where they differ in size, or where somebody has the
/// target for himself: a mount, a device mapper, a pool.
pub(crate) fn overwrite(source: &Path, target: &Path) -> Answer<()> {
    let from = File::open(source).map_err(at("cannot open", source))?;
    let exclusive = i32::try_from(OFlags::EXCL.bits()).unwrap_or_default();
    let opened = OpenOptions::new().read(true).write(true).custom_flags(exclusive).open(target);
    let to = match opened {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            return Err(Problem::refused(format!("{} is in use", target.display()))
                .hint("unmount it, or stop what uses it: 'lsblk' shows the latter"));
        }
        opened => opened.map_err(at("cannot open", target))?,
    };
    let (length, other) = (size(&from, source)?, size(&to, target)?);
    if length != other {
        let (source, target) = (source.display(), target.display());
        let (length, other) = (Bytes(length), Bytes(other));
        let message = format!("{target} has {other}, and {source} has {length}");
        return Err(Problem::refused(message));
    }
    write_differences(&from, &to, length)
        .and_then(|_| to.sync_data())
        .map_err(at("cannot write to", target))
}

fn size(mut device: &File, path: &Path) -> Answer<u64> {
    let failed = at("cannot look at", path);
    match device.metadata() {
        Ok(found) if found.file_type().is_block_device() => {
            device.seek(SeekFrom::End(0)).map_err(failed)
        }
        Ok(_) => Err(Problem::refused(format!("{} is no block device", path.display()))),
        Err(error) => Err(failed(error)),
    }
}

/// Says how many bytes were written.
fn write_differences(from: &File, to: &File, length: u64) -> io::Result<u64> {
    let (mut wanted, mut found) = (vec![0; STEP], vec![0; STEP]);
    let (mut position, mut written) = (0, 0);
    while position < length {
        let step = usize::try_from(length - position).unwrap_or(STEP).min(STEP);
        let (wanted, found) = (&mut wanted[..step], &mut found[..step]);
        from.read_exact_at(wanted, position)?;
        to.read_exact_at(found, position)?;
        for run in differing(wanted, found) {
            to.write_all_at(&wanted[run.clone()], position + run.start as u64)?;
            written += run.len() as u64;
        }
        position += step as u64;
    }
    Ok(written)
}

/// The runs of blocks that differ, in order.
fn differing(one: &[u8], other: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    if one == other {
        return runs;
    }
    for (index, (a, b)) in one.chunks(BLOCK).zip(other.chunks(BLOCK)).enumerate() {
        if a == b {
            continue;
        }
        let (start, end) = (index * BLOCK, index * BLOCK + a.len());
        match runs.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use vitrify_core::problem::ProblemKind;

    use super::*;
    use crate::files::create;

    #[test]
    fn runs_of_blocks() {
        let one = vec![0; 10 * BLOCK + 7];
        let mut other = one.clone();
        assert_eq!(differing(&one, &other), []);
        for index in [0, BLOCK, 2 * BLOCK - 1, 5 * BLOCK, 10 * BLOCK + 6] {
            other[index] = 1;
        }
        let end = 10 * BLOCK..10 * BLOCK + 7;
        assert_eq!(differing(&one, &other), [0..2 * BLOCK, 5 * BLOCK..6 * BLOCK, end]);
    }

    #[test]
    fn only_what_differs_is_written() {
        let scratch = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| create(&scratch.path().join(name)).unwrap());
        let length = 3 * STEP as u64 + 512;
        for file in [&from, &to] {
            file.set_len(length).unwrap();
            file.write_all_at(&[7; STEP], STEP as u64).unwrap();
        }
        from.write_all_at(b"new", 100).unwrap();
        to.write_all_at(b"old", length - 3).unwrap();
        assert_eq!(write_differences(&from, &to, length).unwrap(), BLOCK as u64 + 512);
        assert_eq!(write_differences(&from, &to, length).unwrap(), 0);
    }

    #[test]
    fn a_file_is_no_block_device() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("file");
        create(&path).unwrap();
        assert_eq!(overwrite(&path, &path).unwrap_err().kind, ProblemKind::Refused);
    }
}
