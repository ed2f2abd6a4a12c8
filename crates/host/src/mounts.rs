//! Which file system a path lies on: reads `/proc/self/mountinfo` (see proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use vitrify_core::ports::Answer;
use vitrify_core::problem::Problem;

use crate::files::at;

/// A mount, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    id: u64,
    /// `major:minor` of the file system. All mounts of one Btrfs have the same, whatever subvolume
    /// they show, while `stat` gives each subvolume another.
    pub(crate) device: String,
    /// Where it is mounted.
    pub(crate) point: PathBuf,
    /// What of the file system is mounted there: `/` unless it is a bind mount.
    pub(crate) root: PathBuf,
    /// The file system's type: `btrfs`, `ext4`, `fuse.sshfs`.
    pub(crate) kind: String,
    /// What is mounted: a device, or the name of a ZFS dataset or snapshot.
    pub(crate) source: String,
}

/// Every mount that this process sees.
pub(crate) fn table() -> Answer<Vec<Mount>> {
    let table = Path::new("/proc/self/mountinfo");
    let bytes = fs::read(table).map_err(at("cannot read", table))?;
    Ok(bytes.split(|&byte| byte == b'\n').filter_map(Mount::parse).collect())
}

/// The mount that an existing path lies on. Symbolic links are followed.
pub(crate) fn mount_of(path: &Path) -> Answer<Mount> {
    mount_among(&table()?, path).cloned()
}

/// The same, looked up in a table.
pub(crate) fn mount_among<'a>(table: &'a [Mount], path: &Path) -> Answer<&'a Mount> {
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)
        .map_err(at("cannot look at", path))?;
    table
        .iter()
        .find(|mount| mount.id == found.stx_mnt_id)
        .ok_or_else(|| Problem::failed(format!("no mount is known for {}", path.display())))
}

/// Whether two existing paths lie on one file system.
pub(crate) fn same_file_system(one: &Path, other: &Path) -> Answer<bool> {
    Ok(mount_of(one)?.device == mount_of(other)?.device)
}

impl Mount {
    /// One line of the table.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ');
        let id = text(fields.next()?).parse().ok()?;
        let device = text(fields.nth(1)?);
        let root = path(fields.next()?);
        let point = path(fields.next()?);
        let mut rest = fields.skip_while(|field| *field != b"-");
        let kind = text(rest.nth(1)?);
        let source = path(rest.next()?).to_string_lossy().into_owned();
        Some(Self { id, device, point, root, kind, source })
    }
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescaped(field)))
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

/// The kernel writes blanks and backslashes as three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let code = (first == b'\\').then(|| tail.get(..3)).flatten();
        let value = code
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match value {
            Some(value) => {
                bytes.push(value);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let mount = |id, device: &str, [root, point]: [&str; 2], [kind, source]: [&str; 2]| {
            Some(Mount {
                id,
                device: device.into(),
                point: point.into(),
                root: root.into(),
                kind: kind.into(),
                source: source.into(),
            })
        };
        for (line, wanted) in [
            (
                "43 27 0:39 / /srv/vm rw,relatime - btrfs /dev/loop0 rw,subvolid=5,subvol=/",
                mount(43, "0:39", ["/", "/srv/vm"], ["btrfs", "/dev/loop0"]),
            ),
            (
                r"51 27 8:1 /a /mnt/my\040disk\134x rw shared:1 master:2 - ext4 /dev/sda1 rw",
                mount(51, "8:1", ["/a", r"/mnt/my disk\x"], ["ext4", "/dev/sda1"]),
            ),
            (
                r"130 29 0:43 / /tank/a rw shared:155 - zfs tank/a\040b rw,xattr",
                mount(130, "0:43", ["/", "/tank/a"], ["zfs", "tank/a b"]),
            ),
            (
                r"52 27 8:1 / /end\04 rw - xfs /dev/sdb rw",
                mount(52, "8:1", ["/", r"/end\04"], ["xfs", "/dev/sdb"]),
            ),
            ("", None),
            ("43 27 0:39 / /srv rw,relatime", None),
            ("x 27 0:39 / /srv rw - btrfs /dev/loop0 rw", None),
        ] {
            assert_eq!(Mount::parse(line.as_bytes()), wanted, "{line}");
        }
    }

    #[test]
    fn this_host() {
        assert_eq!(mount_of(Path::new("/proc/self")).unwrap().kind, "proc");
        assert!(!same_file_system(Path::new("/proc"), Path::new("/")).unwrap());
        assert!(same_file_system(Path::new("/"), Path::new("/.")).unwrap());
    }
}
