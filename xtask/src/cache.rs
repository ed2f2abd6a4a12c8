//! The folder that keeps downloads and built tools between runs. The lab looks in the same place.

use std::env;
use std::fs;
use std::path::PathBuf;

use crate::process::Failure;

/// `$XDG_CACHE_HOME/vitrify`, else `~/.cache/vitrify`.
///
/// # Errors
/// [`Failure`] if neither variable is set.
pub(crate) fn folder() -> Result<PathBuf, Failure> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    let base = base.ok_or_else(|| Failure::new("set HOME or XDG_CACHE_HOME"))?;
    Ok(base.join("vitrify"))
}

/// A folder in it, made if it is not there.
///
/// # Errors
/// [`Failure`] that names the folder.
pub(crate) fn subfolder(name: &str) -> Result<PathBuf, Failure> {
    let path = folder()?.join(name);
    let made = fs::create_dir_all(&path);
    made.map_err(|error| Failure::new(format!("cannot make {}: {error}", path.display())))?;
    Ok(path)
}
