//! What of Debian's guest agent goes into an initramfs: the program, its libraries, and the loader
//! that joins them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cpio::Archive;
use crate::run::must;

use super::{ImageError, at, file_name, files_below};

/// Where the witness runs it from.
const PROGRAM: &str = "usr/sbin/qemu-ga";
/// Where a program of this architecture names its loader.
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

/// Unpacks the packages into `folder` and adds what is needed of them to the archive.
pub(super) fn add(
    archive: &mut Archive,
    packages: &[PathBuf],
    folder: &Path,
) -> Result<(), ImageError> {
    at(folder, fs::create_dir_all(folder))?;
    let to = folder.display().to_string();
    for package in packages {
        must("dpkg-deb", &["--extract", &package.display().to_string(), &to])?;
    }
    let program = folder.join(PROGRAM);
    let name = |path: &str| path.rsplit('/').next().map(str::to_owned).unwrap_or_default();
    let loader = files_below(folder)?.into_iter().find(|it| file_name(it) == name(LOADER));
    let loader = loader.ok_or(ImageError::Missing("loader"))?;
    for directory in ["lib", "lib64", "usr", "usr/sbin"] {
        archive.directory(directory);
    }
    archive.file(PROGRAM, &at(&program, fs::read(&program))?);
    archive.file(LOADER, &at(&loader, fs::read(&loader))?);
    for library in libraries(folder, &loader, &program)? {
        let place = format!("lib/{}", file_name(&library));
        archive.file(&place, &at(&library, fs::read(&library))?);
    }
    Ok(())
}

/// The libraries that the loader itself would join with the program, all of them in `folder`.
fn libraries(folder: &Path, loader: &Path, program: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let places = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"].map(|it| folder.join(it));
    let places = places.map(|it| it.display().to_string()).join(":");
    let [loader, program] = [loader, program].map(|path| path.display().to_string());
    let listed = must(&loader, &["--library-path", &places, "--list", &program])?;
    let paths = listed.lines().filter_map(|line| line.split_once(" => ")?.1.split(' ').next());
    let (paths, others): (Vec<_>, Vec<_>) =
        paths.map(PathBuf::from).partition(|path| path.starts_with(folder));
    if others.is_empty() { Ok(paths) } else { Err(ImageError::Missing("library of the agent")) }
}
