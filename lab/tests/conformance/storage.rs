//! Two subvolumes of a small Btrfs.

use std::error::Error;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use vitrify_core::conformance::Verdict;
use vitrify_core::conformance::storage::Fixture;
use vitrify_core::name::Volume;
use vitrify_core::ports::Storage;
use vitrify_host::storage::HostStorage;
use vitrify_lab::pool::Pool;
use vitrify_lab::run::must;
use vitrify_lab::scratch::Scratch;

/// Size of the file system, in MiB; sparse.
const POOL_MIB: u64 = 256;
/// Size of a file, so that it has blocks of its own.
const FILE_BYTES: usize = 64 << 10;

pub(super) struct OnBtrfs {
    volumes: [Volume; 2],
    elsewhere: Scratch,
    // Unmounted last.
    _pool: Pool,
}

impl OnBtrfs {
    pub(super) fn new() -> Result<Self, Box<dyn Error>> {
        let pool = Pool::btrfs(POOL_MIB)?;
        let volume = |name| -> Result<Volume, Box<dyn Error>> {
            Ok(pool.subvolume(name)?.display().to_string().parse()?)
        };
        let volumes = [volume("one")?, volume("other")?];
        Ok(Self { volumes, elsewhere: Scratch::new()?, _pool: pool })
    }
}

impl Fixture for OnBtrfs {
    fn storage(&self) -> &dyn Storage {
        &HostStorage
    }

    fn volumes(&self) -> [Volume; 2] {
        self.volumes.clone()
    }

    fn root(&self, volume: &Volume) -> PathBuf {
        volume.as_str().into()
    }

    fn elsewhere(&self) -> PathBuf {
        self.elsewhere.path().to_owned()
    }

    fn write(&mut self, path: &Path, content: u8) -> Verdict {
        fs::write(path, vec![content; FILE_BYTES]).map_err(|error| error.to_string())
    }

    fn read(&self, path: &Path) -> Result<Option<u8>, String> {
        match fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
            Ok(bytes) => match bytes[..] {
                [first, ..] if bytes == vec![first; FILE_BYTES] => Ok(Some(first)),
                _ => Err(format!("{} is torn", path.display())),
            },
        }
    }

    /// The last step fails, after all that can be looked up: nothing can be made in a folder that
    /// is immutable.
    fn obstruct(&mut self, volume: &Volume) -> Verdict {
        let volume = Path::new(volume.as_str());
        let beside = volume.parent().ok_or("the volume has no parent")?.join(".vitrify");
        let folder = beside.join(volume.file_name().unwrap_or_default());
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let done = must("chattr", &["+i", &folder.display().to_string()]);
        done.map(drop).map_err(|error| error.to_string())
    }

    fn is_one_group(&self) -> bool {
        false
    }
}
