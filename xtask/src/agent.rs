//! The guest agent that the lab's guests run: Debian's, with the libraries that it needs, as package
//! files in the cache. The lab unpacks them.

use crate::apt::Apt;
use crate::download;
use crate::process::Failure;

const PACKAGE: &str = "qemu-guest-agent";

/// Fetches the agent's package and those it depends on, unless the cache has them.
///
/// # Errors
/// [`Failure`] that names the package and the command.
pub(crate) fn ensure(apt: &mut Option<Apt>) -> Result<(), Failure> {
    download::ensure(apt, "guest agent", "agent", |apt| {
        let mut packages = vec![PACKAGE.to_owned()];
        packages.extend(apt.libraries_of(PACKAGE)?);
        Ok(packages)
    })
}
