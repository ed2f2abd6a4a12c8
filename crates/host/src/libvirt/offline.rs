//! Committing the overlay of a guest that is shut off, with `qemu-img`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use vitrify_core::ports::Answer;
use vitrify_core::problem::Problem;

use crate::command::Command;

/// How long `qemu-img commit` may take. It copies what the overlay holds, which the capture bounds.
const OFFLINE_LIMIT: Duration = Duration::from_secs(6 * 3600);
/// How long `qemu-img info` may take: it reads two headers.
const INFO_LIMIT: Duration = Duration::from_secs(60);

/// Commits an overlay file into its base and empties it, so that doing it again changes nothing.
/// `qemu-img` refuses an image that a running QEMU has locked.
pub(super) fn commit_file(overlay: &Path, base: &Path) -> Answer<()> {
    if let Err(error) = overlay.symlink_metadata() {
        return Err(Problem::io(format!("overlay {}", overlay.display()), error));
    }
    let info = Command::new("qemu-img")
        .arg("info")
        .arg("--output=json")
        .args(["-f", "qcow2"])
        .arg(overlay)
        .limit(INFO_LIMIT)
        .run()?;
    check_backing(&info.stdout, overlay, base)?;
    Command::new("qemu-img")
        .arg("commit")
        .args(["-f", "qcow2"])
        .arg("-b")
        .arg(base)
        .arg(overlay)
        .limit(OFFLINE_LIMIT)
        .run()
        .map(drop)
}

/// What `qemu-img info --output=json` says of an overlay.
#[derive(Deserialize)]
struct ImageInfo {
    format: String,
    #[serde(rename = "full-backing-filename")]
    backing: Option<PathBuf>,
    #[serde(rename = "backing-filename-format")]
    backing_format: Option<String>,
}

/// Only an overlay that lies directly on the base, and names the base's format, may be committed:
/// a format that is guessed from a raw disk's content is the guest's to choose.
fn check_backing(info: &[u8], overlay: &Path, base: &Path) -> Answer<()> {
    let overlay = overlay.display();
    let info: ImageInfo = serde_json::from_slice(info).map_err(|error| {
        Problem::failed(format!("qemu-img's description of overlay {overlay}")).from(error)
    })?;
    if info.format != "qcow2" || info.backing.as_deref() != Some(base) {
        return Err(Problem::refused(format!(
            "overlay {overlay} is not on top of {}",
            base.display()
        )));
    }
    if info.backing_format.is_none() {
        return Err(Problem::refused(format!("overlay {overlay} does not name its base's format")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_overlay_of_this_base_is_committed() {
        let info = |format, backing, backing_format| {
            format!(
                r#"{{"format": "{format}", "full-backing-filename": "{backing}"
                    {backing_format}}}"#
            )
        };
        let raw = r#", "backing-filename-format": "raw""#;
        for (info, allowed) in [
            (info("qcow2", "/base", raw), true),
            (info("qcow2", "/base", ""), false),
            (info("qcow2", "/golden", raw), false),
            (info("raw", "/base", raw), false),
            (r#"{"format": "qcow2"}"#.to_owned(), false),
            ("not JSON".to_owned(), false),
        ] {
            let answer = check_backing(info.as_bytes(), Path::new("/ov"), Path::new("/base"));
            assert_eq!(answer.is_ok(), allowed, "{info}");
        }
    }
}
