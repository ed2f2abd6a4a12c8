//! A journal in a folder.

use std::error::Error;

use vitrify_core::conformance::Verdict;
use vitrify_core::conformance::journal::Fixture;
use vitrify_core::ports::Journal;
use vitrify_host::journal::FileJournal;
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
}
