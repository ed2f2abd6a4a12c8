//! libvirt's daemons, where no init system runs them.
//!
//! A keeper, a shell in a process group of its own, starts them and waits for the end of its input,
//! which we hold. However we end (done, failed, Ctrl-C, killed), that end comes, and it stops
//! exactly what it started.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::cache;
use crate::process::{Failure, as_root, command, output, say};

const KEEPER: &str = r#"
virtlogd & log=$!
libvirtd & daemon=$!
read -r _
kill "$daemon"; wait "$daemon"
kill "$log"; wait "$log"
"#;
/// How long the daemons may take to answer.
const START_LIMIT: Duration = Duration::from_secs(30);

/// libvirt, running. Dropped, it is stopped if we started it.
pub(crate) struct Libvirt {
    keeper: Option<Child>,
}

impl Libvirt {
    /// Starts libvirt unless it answers.
    ///
    /// # Errors
    /// [`Failure`] with what the daemons said.
    pub(crate) fn ensure() -> Result<Self, Failure> {
        if answers() {
            return Ok(Self { keeper: None });
        }
        if Path::new("/run/systemd/system").is_dir() {
            return Err(Failure::new(
                "libvirt does not answer (`virsh -c qemu:///system version`); \
                 start it: systemctl start libvirtd",
            ));
        }
        say("libvirt: starting virtlogd and libvirtd; they are stopped at the end");
        let log = cache::subfolder("")?.join("libvirtd.log");
        let failed = |error| Failure::new(format!("cannot start libvirt: {error}"));
        let said = File::create(&log).map_err(failed)?;
        let mut keeper = as_root("sh", &["-c", KEEPER])?;
        keeper.process_group(0).stdin(Stdio::piped());
        keeper.stdout(said.try_clone().map_err(failed)?).stderr(said);
        let libvirt = Self { keeper: Some(keeper.spawn().map_err(failed)?) };
        let deadline = Instant::now() + START_LIMIT;
        while !answers() {
            if Instant::now() > deadline {
                let said = fs::read_to_string(&log).unwrap_or_default();
                return Err(Failure::new(format!("libvirt does not answer; it said:\n{said}")));
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(libvirt)
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            say("libvirt: stopping what was started");
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }
}

fn answers() -> bool {
    output(&mut command("virsh", &["-q", "-c", "qemu:///system", "version"])).is_some()
}
