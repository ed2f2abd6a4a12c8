//! The kernel that the lab's guests boot: Debian's for clouds, as a package file in the cache. The
//! lab unpacks it.

use crate::apt::Apt;
use crate::download;
use crate::process::Failure;

/// Stands for the newest kernel with few drivers, which boots fast.
const METAPACKAGE: &str = "linux-image-cloud-amd64";

/// Fetches the kernel package unless the cache has one.
///
/// # Errors
/// [`Failure`] that names the package and the command.
pub(crate) fn ensure(apt: &mut Option<Apt>) -> Result<(), Failure> {
    download::ensure(apt, "guest kernel", "kernel", |apt| {
        let package = apt.first_dependency(METAPACKAGE).ok_or_else(|| {
            Failure::new(format!("no package {METAPACKAGE} in this release's lists"))
        })?;
        Ok(vec![package])
    })
}
