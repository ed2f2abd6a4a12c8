//! The kernel that the lab's guests boot: Debian's for clouds, as a package file in the cache. The
//! lab unpacks it.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use crate::apt::Apt;
use crate::cache;
use crate::process::{Failure, say};

/// Stands for the newest kernel with few drivers, which boots fast.
const METAPACKAGE: &str = "linux-image-cloud-amd64";

/// Fetches the kernel package unless the cache has one.
///
/// # Errors
/// [`Failure`] that names the package and the command.
pub(crate) fn ensure(apt: &mut Option<Apt>) -> Result<(), Failure> {
    let folder = cache::subfolder("kernel")?;
    if package_in(&folder) {
        say("guest kernel: in the cache");
        return Ok(());
    }
    let apt = match apt {
        Some(apt) => apt,
        None => apt.insert(Apt::prepare()?),
    };
    let package = apt.first_dependency(METAPACKAGE);
    let package = package
        .ok_or_else(|| Failure::new(format!("no package {METAPACKAGE} in this release's lists")))?;
    say(&format!("guest kernel: downloading {package} into {}", folder.display()));
    let draft = cache::subfolder("kernel-draft")?;
    apt.download(&package, &draft)?;
    move_packages(&draft, &folder)
        .map_err(|error| Failure::new(format!("cannot fill {}: {error}", folder.display())))
}

fn package_in(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| is_package(&path))
}

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
