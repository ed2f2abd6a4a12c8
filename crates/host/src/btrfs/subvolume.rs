//! Subvolumes through the program `btrfs`, whose text is the interface: its JSON does not cover
//! subvolumes (btrfs-progs 6.14), and the ioctls would need `unsafe`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use vitrify_core::ports::Answer;
use vitrify_core::problem::Problem;

use crate::command::Command;
use crate::files::{at, is_absence, is_of_kind};
use crate::mounts::mount_of;

/// `f_type` of a Btrfs, `BTRFS_SUPER_MAGIC` of linux/magic.h.
const MAGIC: u32 = 0x9123_683e;
/// The inode of every subvolume's root, `BTRFS_FIRST_FREE_OBJECTID` of linux/btrfs_tree.h.
const ROOT_INODE: u64 = 256;
/// A snapshot waits for the file system to write out what the volume has in flight.
const SLOW: Duration = Duration::from_secs(300);

/// What `btrfs subvolume show` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subvolume {
    /// Its path below the file system's top, without a leading `/`; empty for the top itself.
    pub(crate) path: String,
    /// Its identity.
    pub(crate) uuid: String,
    /// The identity of what it is a snapshot of.
    pub(crate) parent_uuid: Option<String>,
    /// Whether it cannot be written.
    pub(crate) read_only: bool,
}

/// What `btrfs subvolume list` tells of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Its path below the file system's top.
    pub(crate) path: String,
    /// Its identity.
    pub(crate) uuid: String,
    /// The identity of what it is a snapshot of.
    pub(crate) parent_uuid: Option<String>,
}

/// Whether an existing path lies on a Btrfs.
pub(crate) fn is_btrfs(path: &Path) -> Answer<bool> {
    is_of_kind(path, MAGIC)
}

/// Whether there is a subvolume at this very path.
pub(crate) fn is_subvolume(path: &Path) -> Answer<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(found.is_dir() && found.ino() == ROOT_INODE && is_btrfs(path)?),
        Err(error) if is_absence(&error) => Ok(false),
        Err(error) => Err(at("cannot look at", path)(error)),
    }
}

/// The root of the subvolume that holds a path on a Btrfs; `None` where a bind mount hides it.
pub(crate) fn root_of(path: &Path) -> Answer<Option<&Path>> {
    for folder in path.ancestors() {
        if is_subvolume(folder)? {
            return Ok((mount_of(folder)? == mount_of(path)?).then_some(folder));
        }
    }
    Ok(None)
}

/// Looks at the subvolume at this path.
pub(crate) fn show(path: &Path) -> Answer<Subvolume> {
    let output = Command::new("btrfs").args(["subvolume", "show"]).arg(path).run()?;
    parse_show(&output.text()).ok_or_else(|| {
        Problem::failed(format!("'btrfs subvolume show {}' gives no uuid", path.display()))
            .hint("a file system's top made before 2018 has none; use a subvolume below it")
    })
}

/// Looks at the subvolume at this path, if there is one; somebody may delete it meanwhile.
pub(crate) fn find(path: &Path) -> Answer<Option<Subvolume>> {
    if !is_subvolume(path)? {
        return Ok(None);
    }
    match show(path) {
        Err(_) if !is_subvolume(path)? => Ok(None),
        found => found.map(Some),
    }
}

/// Each subvolume that is directly below this one.
pub(crate) fn list_below(subvolume: &Path) -> Answer<Vec<Listed>> {
    listed(&["-o"], subvolume)
}

/// Every subvolume of the file system that holds `path`.
pub(crate) fn list(path: &Path) -> Answer<Vec<Listed>> {
    listed(&[], path)
}

/// Those of them that cannot be written.
pub(crate) fn list_read_only(path: &Path) -> Answer<Vec<Listed>> {
    listed(&["-r"], path)
}

fn listed(which: &[&str], path: &Path) -> Answer<Vec<Listed>> {
    let list = Command::new("btrfs").args(["subvolume", "list", "-q", "-u"]).args(which);
    Ok(list.arg(path).run()?.text().lines().filter_map(parse_listed).collect())
}

/// Makes an empty subvolume.
pub(crate) fn create(path: &Path) -> Answer<()> {
    Command::new("btrfs").args(["subvolume", "create"]).arg(path).run().map(drop)
}

/// Makes a read-only snapshot. The kernel commits the file system's transaction before it answers
/// (fs/btrfs/ioctl.c, `create_snapshot`), so it is durable with all that it holds; so are the
/// folders on the way to it.
pub(crate) fn snapshot(source: &Path, place: &Path) -> Answer<()> {
    Command::new("btrfs")
        .args(["subvolume", "snapshot", "-r"])
        .args([source, place])
        .limit(SLOW)
        .run()
        .map(drop)
}

/// Deletes a subvolume; durable when it returns, while its space is freed later.
pub(crate) fn delete(path: &Path) -> Answer<()> {
    Command::new("btrfs").args(["subvolume", "delete", "-c"]).arg(path).limit(SLOW).run().map(drop)
}

fn parse_show(text: &str) -> Option<Subvolume> {
    let path = text.lines().next()?.trim_matches('/').to_owned();
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.trim_start().strip_prefix(name))?.trim();
        (!value.is_empty() && value != "-").then(|| value.to_owned())
    };
    let read_only = field("Flags:").is_some_and(|flags| flags.contains("readonly"));
    Some(Subvolume { path, uuid: field("UUID:")?, parent_uuid: field("Parent UUID:"), read_only })
}

/// A line such as
/// `ID 258 gen 9 top level 256 parent_uuid 7b60… uuid 58ce… path guests/.vitrify/web/p1`.
fn parse_listed(line: &str) -> Option<Listed> {
    let (before, path) = line.split_once(" path ")?;
    let (before, uuid) = before.rsplit_once(" uuid ")?;
    let (_, parent) = before.rsplit_once(" parent_uuid ")?;
    let parent_uuid = Some(parent.trim()).filter(|it| *it != "-").map(str::to_owned);
    Some(Listed { path: path.to_owned(), uuid: uuid.trim().to_owned(), parent_uuid })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNAPSHOT: &str = "guests/.vitrify/web/p1\n\
        \tName: \t\t\tp1\n\
        \tUUID: \t\t\t58ce4ced-5eb0-4a46-afb0-3dcf6f481049\n\
        \tParent UUID: \t\t7b6035ce-5d6e-8a46-98be-d3bbbb8d8711\n\
        \tReceived UUID: \t\t-\n\
        \tCreation time: \t\t2026-11-23 12:34:13 +0000\n\
        \tSubvolume ID: \t\t258\n\
        \tFlags: \t\t\treadonly\n\
        \tSnapshot(s):\n";

    #[test]
    fn show_of_a_snapshot_and_of_the_top() {
        let snapshot = parse_show(SNAPSHOT).unwrap();
        assert_eq!(
            snapshot,
            Subvolume {
                path: "guests/.vitrify/web/p1".into(),
                uuid: "58ce4ced-5eb0-4a46-afb0-3dcf6f481049".into(),
                parent_uuid: Some("7b6035ce-5d6e-8a46-98be-d3bbbb8d8711".into()),
                read_only: true,
            }
        );
        let top = "/\n\tName: \t\t\t<FS_TREE>\n\tUUID: \t\t\t5c37\n\tParent UUID: \t\t-\n\
                   \tFlags: \t\t\t-\n";
        let top = parse_show(top).unwrap();
        assert_eq!((top.path.as_str(), top.parent_uuid, top.read_only), ("", None, false));
    }

    #[test]
    fn a_subvolume_without_identity_is_none() {
        for text in ["", "/\n\tName: \t<FS_TREE>\n\tUUID: \t\t\t-\n\tParent UUID: \t\tabc\n"] {
            assert_eq!(parse_show(text), None);
        }
    }

    #[test]
    fn listed_lines() {
        let found = |path: &str, uuid: &str, parent: Option<&str>| {
            let parent_uuid = parent.map(str::to_owned);
            Some(Listed { path: path.to_owned(), uuid: uuid.to_owned(), parent_uuid })
        };
        for (line, wanted) in [
            (
                "ID 258 gen 9 top level 256 parent_uuid 7b-0 uuid 58ce-1 path a/.vitrify/b/p1",
                found("a/.vitrify/b/p1", "58ce-1", Some("7b-0")),
            ),
            (
                "ID 258 gen 9 top level 5 parent_uuid -       uuid 58ce-1 path with path in it",
                found("with path in it", "58ce-1", None),
            ),
            (
                "ID 258 gen 9 top level 5 parent_uuid -       uuid -       path x",
                found("x", "-", None),
            ),
            ("", None),
        ] {
            assert_eq!(parse_listed(line), wanted);
        }
    }
}
