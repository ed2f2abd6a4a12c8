//! The boot-sector witness on its disk: the code that the product carries for its self-test.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use vitrify_host::witness::{self, Settings};

use crate::guest::Witness;

/// A boot sector's last bytes.
const SIGNATURE: [u8; 2] = [0x55, 0xaa];
const SIGNATURE_AT: u64 = 510;

/// The code for this witness.
pub(crate) fn code(witness: &Witness) -> Vec<u8> {
    let Witness { fill_mib, dirty_mbps, step, .. } = *witness;
    witness::code(&Settings { fill_mib, dirty_mbps, step })
}

/// Writes the code onto a raw disk that holds no boot sector yet.
///
/// # Errors
/// What the file system says.
pub(crate) fn install(witness: &Witness, disk: &Path) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(disk)?;
    let mut found = [0; SIGNATURE.len()];
    file.read_exact_at(&mut found, SIGNATURE_AT)?;
    if found == SIGNATURE {
        return Ok(());
    }
    file.write_all_at(&code(witness), 0)?;
    file.sync_all()
}
