//! Files that others may read: the status and the metrics of a host.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use vitrify_core::ports::Answer;
use vitrify_core::problem::Problem;

use crate::files::{at, parent, replace, sync_parent};

/// Makes a folder, mode 0755 whatever the umask is, in one that exists. One that exists is kept as it is.
///
/// # Errors
/// Where it cannot be made.
pub fn ensure_folder(path: &Path) -> Answer<()> {
    match DirBuilder::new().create(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(0o755))
            .map_err(at("cannot open to all", path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(at("cannot make the folder", path)(error)),
    }
}

/// Writes a file, mode 0644 whatever the umask is, in one step: a reader sees the old one or the new
/// one. What it is written to first lies beside it and begins with a dot. Durable.
///
/// # Errors
/// Where it cannot be written; the old one is still there then.
pub fn write(path: &Path, text: &str) -> Answer<()> {
    let path = &std::path::absolute(path).map_err(at("cannot find", path))?;
    let name = path.file_name().map(|it| it.to_string_lossy()).ok_or_else(|| {
        Problem::not_found(format!("{} is not the name of a file", path.display()))
    })?;
    replace(parent(path)?, &name, |new, beside| {
        let written = new
            .write_all(text.as_bytes())
            .and_then(|()| new.set_permissions(Permissions::from_mode(0o644)))
            .and_then(|()| new.sync_all());
        written.map_err(at("cannot write", beside))
    })?;
    sync_parent(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_can_be_read_by_all() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("run");
        for _ in 0..2 {
            ensure_folder(&folder).unwrap();
        }
        let file = folder.join("status.json");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        for text in ["one", "two"] {
            write(&file, text).unwrap();
            assert_eq!((fs::read_to_string(&file).unwrap().as_str(), mode(&file)), (text, 0o644));
        }
        assert_eq!(mode(&folder), 0o755);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        assert!(write(&folder.join("absent/file"), "").is_err());
        assert!(write(Path::new("/"), "").is_err());
    }
}
