//! Puts the RAM of a guest back into huge pages, before QEMU protects it against writing.
//!
//! QEMU's background snapshot takes its protection off page by page, and that leaves every huge page
//! in pieces. The next one then protects the pieces one by one while the guest stands still: measured,
//! 1 GiB of which 512 MiB are filled takes 63 ms instead of 6. The kernel's own thread that puts huge
//! pages together looks at 16 MiB in 10 s: <https://docs.kernel.org/admin-guide/mm/transhuge.html>.
//!
//! A guest grows by nothing: only what lies in RAM entirely and is no other process's, neither the
//! kernel's page of zeros nor one that KSM merged, is put together, and only where QEMU asked for huge
//! pages and the administrator did not switch them off.

#![expect(unsafe_code, reason = "neither std nor rustix has process_madvise(2)")]

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;
use std::time::{Duration, Instant};

use rustix::param::page_size;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

const SETTING: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
const SIZE: &str = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size";
/// A word of `/proc/PID/pagemap` for each page: it lies in RAM, and is mapped once.
/// <https://docs.kernel.org/admin-guide/mm/pagemap.html>.
const PRESENT: u64 = 1 << 63;
const EXCLUSIVE: u64 = 1 << 56;
/// How long a capture may wait for it; 1 GiB took 0.2 s. What is left stays in pieces.
const LIMIT: Duration = Duration::from_secs(10);

/// Puts together what can be. The process runs on meanwhile.
///
/// # Errors
/// Where the kernel (before 6.1), its settings or our rights do not allow it: the process is as it was,
/// or a part of its RAM is put together.
pub(crate) fn gather(pid: Pid) -> io::Result<()> {
    if fs::read_to_string(SETTING)?.contains("[never]") {
        return Err(io::Error::other("transparent huge pages are switched off"));
    }
    let huge = fs::read_to_string(SIZE)?.trim().parse().map_err(io::Error::other)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let folder = format!("/proc/{}", pid.as_raw_nonzero());
    let areas = willing(&fs::read_to_string(format!("{folder}/smaps"))?);
    let mut pages = File::open(format!("{folder}/pagemap"))?;
    let end = Instant::now() + LIMIT;
    for at in areas.into_iter().flat_map(|area| whole(area, huge)) {
        if Instant::now() >= end {
            break;
        }
        if is_full(&mut pages, at, huge)? {
            match collapse(process.as_fd(), at, huge) {
                // Busy, or not to be had just now.
                Err(error) if !is_final(&error) => {}
                done => done?,
            }
        }
    }
    Ok(())
}

/// The areas of a process's `smaps` for which it asked for huge pages.
fn willing(smaps: &str) -> Vec<Range<u64>> {
    let mut area = None;
    let mut found = Vec::new();
    for line in smaps.lines() {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        if first == "VmFlags:" && rest.split_whitespace().any(|flag| flag == "hg") {
            found.extend(area.take());
        } else if let Some((from, to)) = first.split_once('-') {
            let address = |text| u64::from_str_radix(text, 16).ok();
            area = address(from).zip(address(to)).map(|(from, to)| from..to);
        }
    }
    found
}

/// The addresses of the huge pages that lie in an area as a whole.
fn whole(area: Range<u64>, huge: u64) -> impl Iterator<Item = u64> {
    let from = area.start.next_multiple_of(huge);
    (from..area.end)
        .step_by(usize::try_from(huge).unwrap_or(usize::MAX))
        .filter(move |at| at + huge <= area.end)
}

/// Whether all of it lies in RAM and belongs to the process alone.
fn is_full(pages: &mut File, at: u64, huge: u64) -> io::Result<bool> {
    let page = page_size() as u64;
    let mut words = vec![0; usize::try_from(huge / page * 8).map_err(io::Error::other)?];
    pages.seek(SeekFrom::Start(at / page * 8))?;
    pages.read_exact(&mut words)?;
    let (words, _) = words.as_chunks();
    Ok(words
        .iter()
        .all(|it| u64::from_ne_bytes(*it) & (PRESENT | EXCLUSIVE) == PRESENT | EXCLUSIVE))
}

/// Whether there is no use in asking for the next one: no such call, no right to it, no such process.
fn is_final(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EACCES | libc::ESRCH))
}

/// `MADV_COLLAPSE`: the kernel copies the pieces into one page.
fn collapse(process: BorrowedFd<'_>, at: u64, huge: u64) -> io::Result<()> {
    let length = usize::try_from(huge).map_err(io::Error::other)?;
    let start = usize::try_from(at).map_err(io::Error::other)?;
    let range = libc::iovec { iov_base: ptr::without_provenance_mut(start), iov_len: length };
    // SAFETY: the kernel reads the one range, and moves another process's pages without changing what
    // they hold.
    let done = unsafe {
        libc::syscall(
            libc::SYS_process_madvise,
            process.as_raw_fd(),
            &raw const range,
            1_usize,
            libc::MADV_COLLAPSE,
            0_u32,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::ffi::c_void;

    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
    use rustix::process::getpid;

    use super::*;

    #[test]
    fn areas_that_asked_for_huge_pages() {
        let smaps = "\
            7f0000000000-7f0040000000 rw-p 00000000 00:00 0 \n\
            Size:            1048576 kB\n\
            VmFlags: rd wr mr mw me ac sd hg \n\
            7f0050000000-7f0050001000 r--p 00000000 fe:00 12                         /lib/a-b\n\
            VmFlags: rd mr mw me sd \n\
            7f0060000000-7f0060400000 rw-p 00000000 00:00 0 [anon: a b]\n\
            THPeligible:           1\n\
            VmFlags: rd wr mr mw me hg um\n";
        let expected = [0x7f00_0000_0000..0x7f00_4000_0000, 0x7f00_6000_0000..0x7f00_6040_0000];
        assert_eq!(willing(smaps), expected);
        assert_eq!(willing("VmFlags: hg\n"), []);
    }

    #[test]
    fn huge_pages_that_lie_in_an_area_as_a_whole() {
        for (area, expected) in [
            (0..4, vec![0]),
            (0..9, vec![0, 4]),
            (1..9, vec![4]),
            (1..8, vec![4]),
            (1..7, vec![]),
            (5..5, vec![]),
        ] {
            assert_eq!(whole(area.clone(), 4).collect::<Vec<_>>(), expected, "{area:?}");
        }
    }

    /// Bytes of this process's area that begins at `at` and lie in huge pages.
    fn in_huge_pages(at: *mut c_void) -> u64 {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let area = smaps.split_once(&format!("{:x}-", at.addr())).unwrap().1;
        let line = area.lines().find_map(|line| line.strip_prefix("AnonHugePages:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "it says why it was skipped")]
    fn pieces_are_put_together_and_holes_stay() {
        let Ok(size) = fs::read_to_string(SIZE) else {
            return eprintln!("skipped: this kernel has no transparent huge pages");
        };
        let huge: usize = size.trim().parse().unwrap();
        let (length, page) = (5 * huge, page_size());
        // SAFETY: the area is this test's own, and is unmapped at its end.
        let (at, first) = unsafe {
            let flags = MapFlags::PRIVATE;
            let at =
                mmap_anonymous(ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, flags);
            let at = at.unwrap();
            madvise(at, length, Advice::LinuxHugepage).unwrap();
            (at, at.addr().next_multiple_of(huge) - at.addr())
        };
        let whole: *mut u8 = at.cast::<u8>().wrapping_add(first);
        // SAFETY: all of it lies in the area.
        unsafe {
            whole.write_bytes(7, 3 * huge);
            // The first is in pieces and full, the second has a hole, the third is as it was.
            for (index, is_filled) in [(0, true), (1, false)] {
                let piece = whole.add(index * huge + page);
                madvise(piece.cast(), page, Advice::LinuxDontNeed).unwrap();
                if is_filled {
                    piece.write(9);
                }
            }
        }
        let before = in_huge_pages(at);
        let gathered = gather(getpid());
        let after = in_huge_pages(at);
        // SAFETY: as above.
        let (kept, changed, hole) = unsafe {
            let read = |place| whole.add(place).read();
            (read(0), read(page), read(huge + page))
        };
        // SAFETY: nothing refers to it any more.
        unsafe { munmap(at, length).unwrap() };
        match gathered {
            Err(error) if is_final(&error) || error.kind() == io::ErrorKind::Other => {
                eprintln!("skipped: {error}");
            }
            gathered => {
                gathered.unwrap();
                assert_eq!((before, after), (huge as u64, 2 * huge as u64));
            }
        }
        assert_eq!((kept, changed, hole), (7, 9, 0));
    }
}
