//! Package files that the lab unpacks, fetched once into a folder of the cache.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use crate::apt::Apt;
use crate::cache;
use crate::process::{Failure, tell};

/// Fetches what `packages` names, the one that is wanted first and then those that it needs, into
/// the cache's folder of this name, unless that has packages. `what` is said of it.
///
/// # Errors
/// [`Failure`] that names the package and the command.
pub(crate) fn ensure(
    apt: &mut Option<Apt>,
    what: &str,
    folder: &str,
    packages: impl FnOnce(&Apt) -> Result<Vec<String>, Failure>,
) -> Result<(), Failure> {
    let place = cache::subfolder(folder)?;
    if has_packages(&place) {
        tell(&format!("{what}: in the cache"));
        return Ok(());
    }
    let apt = match apt {
        Some(apt) => apt,
        None => apt.insert(Apt::prepare()?),
    };
    let packages = packages(apt)?;
    let names: Vec<_> = packages.iter().map(String::as_str).collect();
    let wanted = names.first().copied().unwrap_or_default();
    tell(&format!("{what}: downloading {wanted} into {}", place.display()));
    let draft = cache::subfolder(&format!("{folder}-draft"))?;
    apt.download(&names, &draft)?;
    move_packages(&draft, &place)
        .map_err(|error| Failure::new(format!("cannot fill {}: {error}", place.display())))
}

fn has_packages(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| is_package(&path))
}

/// Moves the package files of a folder, which is removed.
fn move_packages(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        if is_package(&path) {
            fs::rename(&path, to.join(path.file_name().unwrap_or_default()))?;
        }
    }
    fs::remove_dir_all(from)
}

fn is_package(path: &Path) -> bool {
    path.extension() == Some(OsStr::new("deb"))
}
