//! Debian's sanoid with the Perl libraries that it needs, as package files in the cache: the tool that
//! ticks are measured beside. It is not installed, for its timer and `zfs-fuse` would come along.

use crate::apt::Apt;
use crate::download;
use crate::process::Failure;

const PACKAGES: [&str; 3] = ["sanoid", "libconfig-inifiles-perl", "libcapture-tiny-perl"];

/// Fetches the packages unless the cache has them.
///
/// # Errors
/// [`Failure`] that names the package and the command.
pub(crate) fn ensure(apt: &mut Option<Apt>) -> Result<(), Failure> {
    download::ensure(apt, "sanoid", "sanoid", |_| Ok(PACKAGES.map(str::to_owned).to_vec()))
}
