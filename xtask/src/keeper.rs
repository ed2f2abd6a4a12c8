//! A program with a folder of its own, which both go when we go.
//!
//! A keeper, a shell in a process group of its own, starts the program and waits for the end of its
//! input, which we hold. However we end (done, failed, Ctrl-C, killed), that end comes: the keeper
//! stops the program and all that it started, and removes the folder. What is to stay is moved
//! elsewhere before.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

/// `$1` is the folder, the rest the program. The signal that stops the group interrupts `wait`, so
/// the program is waited for again.
const KEEPER: &str = r#"
folder=$1; shift
trap : TERM
exec 3<&0
"$@" 3<&- </dev/null & program=$!
{ read -r _; kill 0; } <&3 >/dev/null 2>&1 & watch=$!
wait "$program"; status=$?
while kill -0 "$program" 2>/dev/null; do wait "$program"; status=$?; done
kill "$watch" 2>/dev/null
rm -rf --one-file-system -- "$folder"
exit "$status"
"#;

/// What `sh` has to be given to keep `program`, which is a program and its arguments.
pub(crate) fn arguments<'a>(folder: &'a str, program: &[&'a str]) -> Vec<&'a str> {
    [&["-c", KEEPER, "keeper", folder], program].concat()
}

/// A program that runs. Dropped, it is stopped and its folder is gone.
pub(crate) struct Kept {
    keeper: Child,
    /// Its closing is what the keeper waits for.
    input: Option<ChildStdin>,
}

impl Kept {
    /// Starts `shell`, a `sh` with [`arguments`], whose words go into the file `said`.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn logged(shell: &mut Command, said: &Path) -> io::Result<Self> {
        let said = File::create(said)?;
        Self::start(shell.stdout(said.try_clone()?).stderr(said))
    }

    /// Starts `shell`, a `sh` with [`arguments`], whose words go where it says.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn start(shell: &mut Command) -> io::Result<Self> {
        let mut keeper = shell.process_group(0).stdin(Stdio::piped()).spawn()?;
        let input = keeper.stdin.take();
        Ok(Self { keeper, input })
    }

    /// How the program ended by itself, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.keeper.try_wait().ok().flatten()
    }

    /// Waits until the program ends by itself.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn wait(&mut self) -> io::Result<ExitStatus> {
        self.keeper.wait()
    }

    /// Stops it, and waits until its folder is gone.
    pub(crate) fn stop(&mut self) {
        drop(self.input.take());
        let _ = self.keeper.wait();
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use std::env::temp_dir;
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::process::command;

    fn folder(name: &str) -> io::Result<PathBuf> {
        let folder = temp_dir().join(format!("vitrify-keeper-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    fn keep(folder: &Path, script: &str) -> io::Result<Kept> {
        let place = folder.display().to_string();
        let said = folder.with_extension("log");
        Kept::logged(&mut command("sh", &arguments(&place, &["sh", "-c", script])), &said)
    }

    #[test]
    fn a_program_that_ends_by_itself_has_its_status_and_no_folder() -> io::Result<()> {
        let folder = folder("ends")?;
        let mut kept = keep(&folder, "echo done; exit 7")?;
        assert_eq!(kept.wait()?.code(), Some(7));
        assert!(!folder.exists());
        assert_eq!(fs::read_to_string(folder.with_extension("log"))?, "done\n");
        fs::remove_file(folder.with_extension("log"))
    }

    #[test]
    fn a_dropped_program_is_stopped_with_its_children() -> io::Result<()> {
        let folder = folder("dropped")?;
        let started = folder.with_extension("log");
        let mut kept = keep(&folder, "sleep 1000 & echo $!; wait")?;
        let child = loop {
            assert!(kept.ended().is_none());
            let said = fs::read_to_string(&started)?;
            if said.ends_with('\n') {
                break said.trim().to_owned();
            }
            std::thread::yield_now();
        };
        drop(kept);
        assert!(!folder.exists());
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
        fs::remove_file(started)
    }
}
