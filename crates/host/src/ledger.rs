//! The ledger of what was taken of volumes without guests: one file in the state folder.

use std::fs;
use std::path::PathBuf;

use vitrify_core::ports::{Answer, FileContent, NamedFile};
use vitrify_core::problem::Problem;
use vitrify_core::volumes::ledger::Ledger;

use crate::files::{at, is_absence, lay, parent, sync_parent};

/// The file.
#[derive(Debug)]
pub struct LedgerFile(PathBuf);

impl LedgerFile {
    /// At this path.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Reads it; one that is not there yet is empty.
    ///
    /// # Errors
    /// Where nobody can say what was taken: then nothing may be taken or pruned.
    pub fn read(&self) -> Answer<Ledger> {
        let text = match fs::read_to_string(&self.0) {
            Err(error) if is_absence(&error) => return Ok(Ledger::default()),
            text => text.map_err(at("cannot read", &self.0))?,
        };
        Ledger::parse(&text).map_err(|error| {
            let path = self.0.display();
            let message = format!("cannot tell from {path} which snapshots of volumes are ours");
            Problem::failed(message).from(error).hint(format!(
                "nothing is taken or pruned of volumes without guests; 'mv {path} {path}.damaged' \
                 begins anew, and what was taken until now is nobody's then"
            ))
        })
    }

    /// Writes it, in one step and durably.
    ///
    /// # Errors
    /// Where that fails; the old one is still there then.
    pub fn write(&self, ledger: &Ledger) -> Answer<()> {
        let text = ledger
            .to_text()
            .map_err(|error| Problem::failed("cannot write down the snapshots").from(error))?;
        let name = self.0.file_name().unwrap_or_default().to_string_lossy().into_owned();
        lay(parent(&self.0)?, &NamedFile { name, content: FileContent::Text(text) })?;
        sync_parent(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_damaged_is_not_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = LedgerFile::new(folder.path().join("volumes.json"));
        assert_eq!(file.read().unwrap(), Ledger::default());
        file.write(&Ledger::default()).unwrap();
        assert_eq!(file.read().unwrap(), Ledger::default());
        for text in ["", "{", "{\"version\":1}", "{\"version\":2,\"begun\":[],\"taken\":[]}"] {
            fs::write(folder.path().join("volumes.json"), text).unwrap();
            let problem = file.read().unwrap_err();
            assert!(problem.message.ends_with("are ours"), "{text}: {problem}");
        }
    }
}
