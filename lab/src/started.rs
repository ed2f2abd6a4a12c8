//! Which programs of the storage a command starts: it finds programs in its path that write that down.

use std::env;
use std::error::Error;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::run::must;
use crate::vitrify::{Outcome, Vitrify};

/// What a tick could ask.
const PROGRAMS: [&str; 5] = ["zfs", "zpool", "btrfs", "qemu-img", "systemctl"];

/// Runs a command to its end; `folder` gets the programs. The answer has each that was started, with its
/// first argument, in turn.
///
/// # Errors
/// What the file system says.
pub fn started(
    vitrify: &Vitrify,
    folder: &Path,
    arguments: &[&str],
) -> Result<(Outcome, Vec<String>), Box<dyn Error>> {
    let (programs, log) = (folder.join("programs"), folder.join("started"));
    fs::create_dir_all(&programs)?;
    fs::write(&log, "")?;
    for program in PROGRAMS {
        let real = must("sh", &["-c", &format!("command -v {program} || echo false")])?;
        let text = format!(
            "#!/bin/sh\necho {program} \"$1\" >> {}\nexec {} \"$@\"\n",
            log.display(),
            real.trim()
        );
        let path = programs.join(program);
        fs::write(&path, text)?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    }
    let path = format!("{}:{}", programs.display(), env::var("PATH")?);
    let output = vitrify.command(arguments).env("PATH", path).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let outcome = Outcome {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    };
    Ok((outcome, fs::read_to_string(&log)?.lines().map(str::to_owned).collect()))
}
