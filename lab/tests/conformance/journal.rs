//! A journal in a folder.

use std::error::Error;
use std::path::Path;

use vitrify_core::conformance::Verdict;
use vitrify_core::conformance::journal::Fixture;
use vitrify_core::name::GuestUuid;
use vitrify_core::ports::Journal;
use vitrify_host::journal::FileJournal;
use vitrify_lab::hook;
use vitrify_lab::scratch::Scratch;

pub(super) struct OnDisk {
    journal: FileJournal,
    scratch: Scratch,
}

impl OnDisk {
    pub(super) fn new() -> Result<Self, Box<dyn Error>> {
        let scratch = Scratch::new()?;
        Ok(Self { journal: open(&scratch)?, scratch })
    }
}

fn open(scratch: &Scratch) -> Result<FileJournal, String> {
    FileJournal::open(scratch.path().join("journal")).map_err(|problem| problem.chain())
}

impl Fixture for OnDisk {
    fn journal(&self) -> &dyn Journal {
        &self.journal
    }

    fn another_process(&mut self) -> Verdict {
        self.journal = open(&self.scratch)?;
        Ok(())
    }

    /// The hook is asked as libvirt asks it.
    fn is_barred(&self, guest: &GuestUuid) -> Result<bool, String> {
        let journal = self.scratch.path().join("journal");
        let definition = format!("<domain type='kvm'>\n  <name>w</name>\n  <uuid>{guest}</uuid>\n");
        let ask = |program: &str, operation: &str| {
            let script = hook::script(Path::new(program), &journal);
            let said = hook::ask(&script, "w", operation, &definition);
            said.map_err(|error| error.to_string())
        };
        // What has happened cannot be refused, and without vitrify nothing is.
        for (program, operation) in [("/bin/true", "started"), ("/nonexistent", "prepare")] {
            let passed = ask(program, operation)?;
            if !passed.status.success() {
                return Err(format!("{program}, {operation}: {passed:?}"));
            }
        }
        let said = ask("/bin/true", "prepare")?;
        match (said.status.code(), String::from_utf8_lossy(&said.stderr)) {
            (Some(0), text) if text.is_empty() => Ok(false),
            (Some(1), text) if text.contains("vitrify repair w") => Ok(true),
            (code, text) => Err(format!("{code:?}: {text}")),
        }
    }
}
