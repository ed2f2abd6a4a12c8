//! libvirt's hook as packages install it, for one world's `vitrify`.

use std::error::Error;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::run::must;
use crate::scratch::complain;
use crate::vitrify::Vitrify;

const HOOK: &str = include_str!("../../packaging/libvirt/vitrify");
/// The program and the journal that it names.
const PACKAGED: [&str; 2] = ["/usr/bin/vitrify", "/var/lib/vitrify/journal"];
/// Where libvirt looks for such; one of a name of our own stands beside one that is installed.
const PLACE: &str = "/etc/libvirt/hooks/qemu.d/vitrify-lab";

/// The script, for this program and this journal.
pub fn script(program: &Path, journal: &Path) -> String {
    let [packaged_program, packaged_journal] = PACKAGED;
    HOOK.replace(packaged_program, &program.to_string_lossy())
        .replace(packaged_journal, &journal.to_string_lossy())
}

/// Asks a script as libvirt does, about a guest of this name and definition.
///
/// # Errors
/// Where there is no shell.
pub fn ask(script: &str, guest: &str, operation: &str, definition: &str) -> io::Result<Output> {
    let mut command = Command::new("sh");
    command.args(["-c", script, "hook", guest, operation, "begin", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut asked = command.spawn()?;
    // It need not read it.
    asked.stdin.take().map(|mut stdin| stdin.write_all(definition.as_bytes()));
    asked.wait_with_output()
}

/// The hook, installed. Dropped, it is gone.
#[derive(Debug)]
pub struct Hook(PathBuf);

impl Hook {
    /// Installs it, and has libvirt look for it anew. For a machine that is thrown away.
    ///
    /// # Errors
    /// What the file system or systemd says.
    pub fn install(vitrify: &Vitrify) -> Result<Self, Box<dyn Error>> {
        let hook = Self(PLACE.into());
        fs::create_dir_all(hook.0.parent().ok_or("no folder")?)?;
        fs::write(&hook.0, script(vitrify.program(), &vitrify.state().join("journal")))?;
        fs::set_permissions(&hook.0, fs::Permissions::from_mode(0o755))?;
        must("systemctl", &["restart", "libvirtd.service"])?;
        Ok(hook)
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            complain("the hook", &error);
        }
    }
}
