//! AppArmor's profile of a guest, where libvirt confines it: the one line that keeps a guest which
//! restarted on an overlay from being committed. Writes that file and starts `apparmor_parser`.
//!
//! libvirt denies a guest writing to what lies below its overlay, and a deny rule wins over every
//! other. QEMU has a base open since before the overlay; after a restart it has not, and the commit
//! is refused ("Could not open …: Permission denied"; measured with libvirt 11.3.0 on Debian). libvirt
//! writes the file anew with the guest's next block operation.

use std::fs;
use std::path::{Path, PathBuf};

use vitrify_core::name::GuestUuid;
use vitrify_core::ports::Answer;

use crate::command::Command;
use crate::files::{at, is_absence};

/// Where libvirt keeps the guests' profiles.
const PROFILES: &str = "/etc/apparmor.d/libvirt";

/// Lets the guest's QEMU write to the base of an overlay. Answers whether that was denied before.
///
/// # Errors
/// Where the profile cannot be written or loaded.
pub(super) fn allow_base(guest: &GuestUuid, base: &Path) -> Answer<bool> {
    let profile = Path::new(PROFILES).join(format!("libvirt-{guest}"));
    let mut files = profile.clone().into_os_string();
    files.push(".files");
    let files = PathBuf::from(files);
    let text = match fs::read_to_string(&files) {
        Err(error) if is_absence(&error) => return Ok(false),
        text => text.map_err(at("cannot read", &files))?,
    };
    // libvirt follows links before it writes a path down.
    let real = fs::canonicalize(base).map_err(at("cannot find", base))?;
    let Some(mended) = mended(&text, &real) else { return Ok(false) };
    fs::write(&files, mended).map_err(at("cannot write", &files))?;
    Command::new("apparmor_parser").arg("-r").arg(&profile).run()?;
    Ok(true)
}

/// The rules with writing to `base` allowed; `None` where nothing denies it.
fn mended(text: &str, base: &Path) -> Option<String> {
    let quoted = format!("\"{}\"", base.display());
    let denial = format!("deny {quoted} w,");
    let mut denied = false;
    let mut lines: Vec<&str> = text.lines().collect();
    lines.retain(|line| {
        let is_denial = line.trim() == denial;
        denied |= is_denial;
        !is_denial
    });
    let rule = format!("  {quoted} rwk,");
    denied.then(|| lines.join("\n") + "\n" + &rule + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_denial_of_this_base_goes() {
        let text = "# managed by libvirt\n  \"/ov/a.qcow2\" rwk,\n  \"/vm/a.raw\" rk,\n  \
                    # don't audit writes to readonly files\n  deny \"/vm/a.raw\" w,\n  \
                    deny \"/vm/b.raw\" w,\n";
        let wanted = "# managed by libvirt\n  \"/ov/a.qcow2\" rwk,\n  \"/vm/a.raw\" rk,\n  \
                      # don't audit writes to readonly files\n  deny \"/vm/b.raw\" w,\n  \
                      \"/vm/a.raw\" rwk,\n";
        assert_eq!(mended(text, Path::new("/vm/a.raw")).as_deref(), Some(wanted));
        assert_eq!(mended(text, Path::new("/vm/c.raw")), None);
        assert_eq!(mended(text, Path::new("/vm/a")), None);
    }
}
