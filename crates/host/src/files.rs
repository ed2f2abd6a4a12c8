//! Files and folders that are durable and private. Everything here is for root's own use: what it
//! makes is readable by its owner only, and symbolic links are not followed where somebody else
//! could have laid them.

pub(crate) mod copy;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, openat2, statat, statfs};
use vitrify_core::name::Bytes;
use vitrify_core::ports::{Answer, FileContent, NamedFile};
use vitrify_core::problem::Problem;

/// The folder at a volume's root where administrators find definitions.
const ANNOTATIONS: &str = ".vitrify";

/// Turns an I/O error into a problem: `what` was attempted on `path`.
pub(crate) fn at<E: Into<io::Error>>(what: &str, path: &Path) -> impl FnOnce(E) -> Problem {
    move |error| Problem::io(format!("{what} {}", path.display()), error.into())
}

/// Whether something lies at the path, be it a dangling symbolic link. Mounts nothing there: ZFS would
/// start `mount` for a snapshot below `.zfs`.
pub(crate) fn exists(path: &Path) -> Answer<bool> {
    let found = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT);
    match found.map_err(io::Error::from) {
        Ok(_) => Ok(true),
        Err(error) if is_absence(&error) => Ok(false),
        Err(error) => Err(at("cannot look at", path)(error)),
    }
}

/// Whether an error means that there is nothing at that path.
pub(crate) fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Makes a folder, mode 0700, in one that exists; durable. One that exists is kept as it is; a
/// symbolic link or another kind of file in its place is `Refused`.
pub(crate) fn ensure_folder(path: &Path) -> Answer<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let found = fs::symlink_metadata(path).map_err(at("cannot look at", path))?;
            if found.is_dir() {
                Ok(())
            } else {
                Err(Problem::refused(format!("{} is not a folder", path.display())))
            }
        }
        Err(error) => Err(at("cannot make the folder", path)(error)),
    }
}

/// Makes what was created, renamed or removed in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> Answer<()> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(at("cannot sync", path))
}

/// The same for the folder that holds the path.
pub(crate) fn sync_parent(path: &Path) -> Answer<()> {
    sync_folder(parent(path)?)
}

/// The folder that holds a path.
pub(crate) fn parent(path: &Path) -> Answer<&Path> {
    match path.parent() {
        // A bare name lies in the working directory.
        Some(parent) if parent.as_os_str().is_empty() => Ok(Path::new(".")),
        Some(parent) => Ok(parent),
        None => Err(Problem::failed(format!("{} has no parent folder", path.display()))),
    }
}

/// The names in a folder, in no order; none where there is no such folder.
pub(crate) fn names(folder: &Path) -> Answer<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if is_absence(&error) => return Ok(Vec::new()),
        entries => entries.map_err(at("cannot list", folder))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        // A name that is not UTF-8 cannot be one of ours.
        names.extend(entry.map_err(at("cannot list", folder))?.file_name().into_string().ok());
    }
    Ok(names)
}

/// Lays a small file into a folder, mode 0600, in one step: a reader sees the old one or the new
/// one. The file's content is durable; its name is after [`sync_folder`].
pub(crate) fn lay(folder: &Path, file: &NamedFile) -> Answer<()> {
    let name = file.name.as_str();
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(Problem::refused(format!("'{name}' is not a file name")));
    }
    replace(folder, name, |new, beside| match &file.content {
        FileContent::Text(text) => new
            .write_all(text.as_bytes())
            .and_then(|()| new.sync_all())
            .map_err(at("cannot write", beside)),
        FileContent::CopyOf(source) => {
            let mut from = File::open(source).map_err(at("cannot read", source))?;
            let copied = io::copy(&mut from, new).and_then(|_| new.sync_all());
            copied.map_err(at("cannot copy", source))
        }
    })
}

/// Puts what `fill` writes and makes durable in the place of a file, in one step. It is written to a new
/// file beside it first, whose name begins with a dot.
pub(crate) fn replace(
    folder: &Path,
    name: &str,
    fill: impl FnOnce(&mut File, &Path) -> Answer<()>,
) -> Answer<()> {
    let (place, beside) = (folder.join(name), folder.join(format!(".{name}.new")));
    unlink(&beside)?;
    fill(&mut create(&beside)?, &beside)?;
    fs::rename(&beside, &place).map_err(at("cannot put in place", &place))
}

/// Opens a file of a snapshot whose root is at `root`. A symbolic link in it, which the guest's owner
/// may have laid, leads nowhere.
pub(crate) fn open_below(root: &Path, path: &Path) -> Answer<File> {
    let shown = root.join(path);
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(Problem::refused(format!("{} is not a path below a volume", path.display())));
    }
    let folder = File::open(root).map_err(at("cannot open", root))?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file =
        openat2(folder, path, flags, Mode::empty(), resolve).map_err(at("cannot open", &shown))?;
    Ok(File::from(file))
}

/// Lays the files that administrators look for into the folder `.vitrify` at a volume's root.
pub(crate) fn annotate(root: &Path, files: &[NamedFile]) -> Answer<()> {
    let folder = root.join(ANNOTATIONS);
    ensure_folder(&folder)?;
    files.iter().try_for_each(|file| lay(&folder, file))?;
    sync_folder(&folder)
}

/// Whether an existing path lies on a file system with this `f_type`.
pub(crate) fn is_of_kind(path: &Path, magic: u32) -> Answer<bool> {
    let found = statfs(path).map_err(at("cannot look at", path))?;
    // The field's width and sign differ between machines, its 32 bits do not.
    Ok(found.f_type as u32 == magic)
}

/// A new file, mode 0600.
pub(crate) fn create(path: &Path) -> Answer<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(at("cannot create", path))
}

/// Removes a file if it is there. Says whether it was.
pub(crate) fn unlink(path: &Path) -> Answer<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if is_absence(&error) => Ok(false),
        Err(error) => Err(at("cannot remove", path)(error)),
    }
}

/// Removes a folder with everything in it, if it is there; durable. Symbolic links are removed, not
/// followed.
pub(crate) fn remove_tree(path: &Path) -> Answer<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => sync_parent(path),
        Err(error) if is_absence(&error) => Ok(()),
        Err(error) => Err(at("cannot remove", path)(error)),
    }
}

/// Removes a folder if it is there and empty.
pub(crate) fn remove_if_empty(path: &Path) -> Answer<()> {
    match fs::remove_dir(path) {
        Ok(()) => sync_parent(path),
        Err(error) if is_absence(&error) || error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            Ok(())
        }
        Err(error) => Err(at("cannot remove", path)(error)),
    }
}

/// Makes the files in a folder, and the folder, durable.
pub(crate) fn sync_tree(folder: &Path) -> Answer<()> {
    for name in names(folder)? {
        let path = folder.join(name);
        if fs::symlink_metadata(&path).map_err(at("cannot look at", &path))?.is_dir() {
            sync_tree(&path)?;
        } else {
            File::open(&path).and_then(|file| file.sync_all()).map_err(at("cannot sync", &path))?;
        }
    }
    sync_folder(folder)
}

/// The space that the files at these paths, and below them, take up.
pub(crate) fn allocated(paths: &[PathBuf]) -> Answer<Bytes> {
    let mut sum = 0;
    for path in paths {
        let found = fs::symlink_metadata(path).map_err(at("cannot look at", path))?;
        sum += found.blocks() * 512;
        if found.is_dir() {
            let below: Vec<_> = names(path)?.into_iter().map(|name| path.join(name)).collect();
            sum += allocated(&below)?.0;
        }
    }
    Ok(Bytes(sum))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use vitrify_core::problem::ProblemKind;

    use super::*;

    fn text(name: &str, text: &str) -> NamedFile {
        NamedFile { name: name.into(), content: FileContent::Text(text.into()) }
    }

    #[test]
    fn a_laid_file_is_private_and_replaces() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("folder");
        ensure_folder(&folder).unwrap();
        ensure_folder(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o7777, 0o700);
        lay(&folder, &text("a.xml", "one")).unwrap();
        lay(&folder, &text("a.xml", "two")).unwrap();
        let place = folder.join("a.xml");
        let content = FileContent::CopyOf(place.clone());
        lay(&folder, &NamedFile { name: "b".into(), content }).unwrap();
        assert_eq!(fs::read_to_string(folder.join("b")).unwrap(), "two");
        assert_eq!(fs::metadata(place).unwrap().mode() & 0o7777, 0o600);
        let mut left = names(&folder).unwrap();
        left.sort();
        assert_eq!(left, ["a.xml", "b"]);
    }

    #[test]
    fn names_and_links_do_not_lead_elsewhere() {
        let scratch = tempfile::tempdir().unwrap();
        for name in ["", ".", "..", "a/b", "/etc/passwd"] {
            let problem = lay(scratch.path(), &text(name, "x")).unwrap_err();
            assert_eq!(problem.kind, ProblemKind::Refused, "{name:?}");
        }
        let link = scratch.path().join("link");
        symlink("/", &link).unwrap();
        assert_eq!(ensure_folder(&link).unwrap_err().kind, ProblemKind::Refused);
    }

    #[test]
    fn what_is_absent_is_removed_already() {
        let scratch = tempfile::tempdir().unwrap();
        let absent = scratch.path().join("absent");
        assert!(!unlink(&absent).unwrap());
        remove_tree(&absent).unwrap();
        remove_if_empty(&absent).unwrap();
        assert!(names(&absent).unwrap().is_empty());
        ensure_folder(&absent).unwrap();
        lay(&absent, &text("a", "b")).unwrap();
        remove_if_empty(&absent).unwrap();
        assert!(allocated(std::slice::from_ref(&absent)).unwrap() > Bytes(0));
        remove_tree(&absent).unwrap();
        assert!(!exists(&absent).unwrap());
    }
}
