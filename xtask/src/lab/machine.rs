//! A running ZFS machine: QEMU without KVM, ssh on a port of the loopback.
//!
//! It writes into an overlay in a folder of its own, which goes when the machine goes, however that
//! comes about; or which is kept, for somebody to look at what went wrong.

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::image::Image;
use crate::debian::{run_in, runs_in};
use crate::keeper::{self, Kept};
use crate::payload::Payload;
use crate::process::{Failure, command, must, output, tell};

/// How long a boot may take; half a minute as a rule, minutes on a host that is busy.
const BOOT_LIMIT: Duration = Duration::from_secs(600);
/// In the machine: which tests must run, where their programs are, and where there is room.
const ENVIRONMENT: [&str; 6] = [
    "PATH=/payload/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "VITRIFY_LAB=zfs",
    "VITRIFY_BIN=/payload/bin/vitrify",
    "VITRIFY_WITNESS=/payload/witness",
    "TMPDIR=/scratch",
    "HOME=/root",
];
/// AppArmor's parser compiles a guest's profile several times at each start and each block job, a second
/// each time here, and less than half of that without an optimisation that changes nothing about what
/// the profile says: a test that took 35 s takes 18.
const SETTLE: &str = "echo Optimize=no-expr-simplify >>/etc/apparmor/parser.conf && mount /payload";
/// The name of the folder of the world that was kept last.
const KEPT: &str = "failed";

/// A machine that has booted. Dropped, it is stopped without ceremony, and what it wrote is gone.
pub(crate) struct Machine {
    image: Image,
    folder: PathBuf,
    port: u16,
    /// Stops QEMU and removes the folder.
    keeper: Kept,
}

impl Machine {
    /// Boots it with a payload; or, without one, boots the world that was kept last, with its own
    /// payload. That world does not change.
    ///
    /// # Errors
    /// [`Failure`], with the end of what the machine said on its serial port.
    pub(crate) fn boot(image: Image, payload: Option<&Payload>) -> Result<Self, Failure> {
        let cannot = |error| Failure::new(format!("cannot boot the lab's machine: {error}"));
        // The keepers of these were killed too, or are at it.
        for (run, _) in runs_in(&image.folder).filter(|(_, alive)| !alive) {
            let _ = fs::remove_dir_all(run);
        }
        let folder = run_in(&image.folder);
        fs::create_dir(&folder).map_err(cannot)?;
        let started = prepare(&folder, payload).and_then(|()| start(&folder).map_err(cannot));
        let (keeper, port) = match started {
            Ok(started) => started,
            Err(failure) => {
                let _ = fs::remove_dir_all(&folder);
                return Err(failure);
            }
        };
        let mut machine = Self { image, folder, port, keeper };
        let begun = Instant::now();
        tell("lab machine: booting");
        if let Err(failure) = machine.wait_until_ready() {
            // A world that was kept needs no second keeping, and lies below this one.
            let kept = payload.map(|_| machine.keep()).unwrap_or_default();
            return Err(Failure::new(format!("{failure}\n{kept}")));
        }
        tell(&format!("lab machine: ready after {:.0} s", begun.elapsed().as_secs_f64()));
        Ok(machine)
    }

    /// Pulls its power cord, and boots it again with its disks as they were.
    ///
    /// # Errors
    /// As [`Self::boot`].
    pub(crate) fn lose_power(&mut self) -> Result<(), Failure> {
        let cannot = |error| Failure::new(format!("cannot boot the lab's machine again: {error}"));
        // The keeper removes the folder of what it stops.
        let aside = self.folder.with_extension("off");
        fs::rename(&self.folder, &aside).map_err(cannot)?;
        self.keeper.stop();
        fs::rename(&aside, &self.folder).map_err(cannot)?;
        (self.keeper, self.port) = start(&self.folder).map_err(cannot)?;
        self.wait_until_ready()
    }

    /// A command that runs in the machine as root, with the streams that it is given here; exit
    /// status 255 if there is no connection.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let remote = [&["env"], &ENVIRONMENT[..], words].concat();
        let remote: Vec<String> = remote.iter().map(|word| quoted(word)).collect();
        let mut ssh = self.ssh();
        ssh.arg(remote.join(" "));
        ssh
    }

    /// A shell for a person, with a terminal.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn shell(&self) -> io::Result<ExitStatus> {
        let remote = [&["cd", "/scratch;", "exec", "env"], &ENVIRONMENT[..], &["bash", "-i"]];
        let mut ssh = self.ssh();
        ssh.stdin(Stdio::inherit())
            .env_remove("LC_ALL")
            .args(["-t", "--"])
            .arg(remote.concat().join(" "));
        ssh.status()
    }

    /// Runs a command with its output passed on, line by line, to `line` too.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn follow(
        &self,
        words: &[&str],
        mut line: impl FnMut(&str),
    ) -> io::Result<ExitStatus> {
        let mut child = self.command(words).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().map(BufReader::new);
        for bytes in output.into_iter().flat_map(|output| output.split(b'\n')) {
            line(&String::from_utf8_lossy(&bytes?));
        }
        child.wait()
    }

    /// Keeps the machine's disk, its journal and what its pools and guests are, instead of the world
    /// that was kept before, and stops it. Says where.
    pub(crate) fn keep(self) -> String {
        let asked = [
            ("journal.txt", "journalctl --boot --no-pager -o short-precise"),
            ("state.txt", "zpool status -v; zfs list -t all; virsh list --all; ps axf; df -h"),
        ];
        for (name, question) in asked {
            let answer = output(&mut self.command(&["timeout", "60", "sh", "-c", question]));
            let _ = answer.map(|answer| fs::write(self.folder.join(name), answer));
        }
        let _ = output(&mut self.command(&["timeout", "60", "sh", "-c", "sync; zpool sync"]));
        let kept = self.image.folder.join(KEPT);
        let _ = fs::remove_dir_all(&kept);
        match fs::rename(&self.folder, &kept) {
            Ok(()) => format!(
                "the machine's world is kept until the next one fails: {}\n\
                 `cargo xtask lab shell failed` boots it",
                kept.display()
            ),
            Err(error) => format!("the machine's world could not be kept: {error}"),
        }
    }

    fn ssh(&self) -> Command {
        let mut ssh = command("ssh", &["-F", "none", "-p", &self.port.to_string()]);
        for (option, file) in [("IdentityFile", "key"), ("UserKnownHostsFile", "known_hosts")] {
            // The quotes are ssh's own, for a folder with a space in its name.
            ssh.arg("-o").arg(format!("{option}=\"{}\"", self.image.folder.join(file).display()));
        }
        for option in [
            "IdentitiesOnly=yes",
            "BatchMode=yes",
            "HostKeyAlias=lab",
            "ConnectTimeout=5",
            "ServerAliveInterval=20",
            "ServerAliveCountMax=6",
            "LogLevel=ERROR",
        ] {
            ssh.args(["-o", option]);
        }
        ssh.arg("root@127.0.0.1");
        ssh
    }

    fn wait_until_ready(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + BOOT_LIMIT;
        while output(&mut self.command(&["true"])).is_none() {
            if let Some(status) = self.keeper.ended() {
                let said = tail(&self.folder.join("qemu.log"));
                return Err(self.failure(&format!("QEMU ended ({status}): {said}")));
            }
            if Instant::now() > deadline {
                return Err(self.failure(&format!("ssh does not answer within {BOOT_LIMIT:?}")));
            }
            thread::sleep(Duration::from_millis(250));
        }
        let limit = deadline.saturating_duration_since(Instant::now()).as_secs().max(1).to_string();
        let ask = ["timeout", &limit, "systemctl", "is-system-running", "--wait"];
        let mut state = self.command(&ask);
        let state = state.output().map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned());
        match state.as_deref() {
            Ok("running") => {}
            Ok("degraded") => {
                let failed = ["systemctl", "list-units", "--failed", "--plain", "--no-legend"];
                let failed = output(&mut self.command(&failed)).unwrap_or_default();
                tell(&format!("lab machine: some units failed:\n{}", failed.trim_end()));
            }
            Ok(state) => return Err(self.failure(&format!("systemd says '{state}'"))),
            Err(error) => return Err(self.failure(&error.to_string())),
        }
        let settled = output(&mut self.command(&["sh", "-c", SETTLE]));
        settled.map(drop).ok_or_else(|| self.failure("its payload cannot be mounted"))
    }

    fn failure(&self, why: &str) -> Failure {
        let said = tail(&self.folder.join("serial.log"));
        Failure::new(format!(
            "the lab's machine did not boot: {why}\nits console ends with:\n{said}"
        ))
    }
}

/// Makes the machine's disks in `folder`. The overlay names its base by a relative path, so that the
/// folder can be renamed.
fn prepare(folder: &Path, payload: Option<&Payload>) -> Result<(), Failure> {
    let disk = folder.join("payload.ext4");
    let (base, format) = if let Some(payload) = payload {
        payload.write(&disk)?;
        ("../disk.ext4".to_owned(), "raw")
    } else {
        let kept = folder.with_file_name(KEPT);
        fs::copy(kept.join("payload.ext4"), disk).map_err(|error| {
            Failure::new(format!("no world is kept in {}: {error}", kept.display()))
        })?;
        (format!("../{KEPT}/disk.qcow2"), "qcow2")
    };
    let create = ["create", "-q", "-f", "qcow2", "-b", &base, "-F", format, "disk.qcow2"];
    must(command("qemu-img", &create).current_dir(folder))
}

/// Starts QEMU in `folder`.
fn start(folder: &Path) -> io::Result<(Kept, u16)> {
    // Somebody could take the port between here and QEMU's start; then QEMU ends and says so.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let place = folder.display().to_string();
    let qemu = qemu(port);
    let qemu: Vec<&str> = qemu.iter().map(String::as_str).collect();
    let mut shell = command("sh", &keeper::arguments(&place, &qemu));
    let keeper = Kept::logged(shell.current_dir(folder), &folder.join("qemu.log"))?;
    Ok((keeper, port))
}

/// QEMU's command line. A world does not outlive a crash of the host, so nothing is flushed.
fn qemu(port: u16) -> Vec<String> {
    let words = "qemu-system-x86_64 -nodefaults -nographic -no-reboot \
        -accel tcg,thread=multi -cpu max -smp 2 -m 6144 \
        -kernel ../vmlinuz -initrd ../initrd \
        -drive file=disk.qcow2,if=virtio,format=qcow2,cache=unsafe,discard=unmap \
        -drive file=payload.ext4,if=virtio,format=raw,readonly=on \
        -device virtio-net-pci,netdev=net -serial file:serial.log -append";
    let mut words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    words.push("root=/dev/vda rw console=ttyS0 apparmor=1 security=apparmor panic=-1".to_owned());
    words.push("-netdev".to_owned());
    words.push(format!("user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22"));
    words
}

/// A word for a shell, whatever is in it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The last lines of a file.
fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_emulates_and_listens_on_the_loopback_only() {
        let words = qemu(2222);
        let after = |option: &str| {
            let place = words.iter().position(|word| word == option);
            place.and_then(|place| words.get(place + 1)).cloned().unwrap_or_default()
        };
        assert_eq!(after("-accel"), "tcg,thread=multi");
        assert_eq!(after("-netdev"), "user,id=net,hostfwd=tcp:127.0.0.1:2222-:22");
        assert!(after("-append").starts_with("root=/dev/vda rw console=ttyS0 apparmor=1 "));
        assert!(!words.iter().any(|word| word.contains("kvm")), "{words:?}");
    }

    #[test]
    fn a_quoted_word_reaches_its_program_as_it_is() {
        for word in ["plain", "two words", "it's", "$HOME `id` \"x\" \\ ; *", ""] {
            let printed =
                output(&mut command("sh", &["-c", &format!("printf %s {}", quoted(word))]));
            assert_eq!(printed.as_deref(), Some(word));
        }
    }
}
