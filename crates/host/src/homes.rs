//! The homes: `<store>/<guest uuid>/`, with every point's files in `points/<id>/`.
//!
//! A home is a subvolume where the store lies on a Btrfs, else a folder. In a folder, a memory image
//! is `points/<id>/memory.save`. In a subvolume it is `memory/<id>.save` just while the home is
//! snapshotted as `<store>/.vitrify/<guest uuid>/<id>`; from then on it lies in that snapshot only,
//! so that deleting the snapshot frees exactly it. Starts the program `btrfs`.

mod home;
mod image;
mod store;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use vitrify_core::manifest::{Manifest, MemoryImage};
use vitrify_core::name::{Bytes, GuestUuid, PointId};
use vitrify_core::ports::{Answer, FoundPoint, Homes, NamedFile, Published, StoreFacts};
use vitrify_core::problem::Problem;

use self::home::Home;
pub use self::store::{Reserve, StoreConfig};
use crate::files::copy::copy;
use crate::files::{at, is_absence, names};

/// The memory store. Holds no state but where it is and how much of it may be used.
#[derive(Debug, Clone)]
pub struct Store {
    config: StoreConfig,
}

impl Store {
    /// The store that this configuration describes. Nothing is touched yet.
    pub fn new(config: StoreConfig) -> Self {
        Self { config }
    }

    /// Where the store is.
    pub fn path(&self) -> &Path {
        &self.config.path
    }

    fn home(&self, guest: &GuestUuid) -> Home {
        Home::new(&self.config.path, guest)
    }
}

impl Homes for Store {
    fn store(&self) -> Answer<StoreFacts> {
        store::facts(&self.config)
    }

    fn stage(&self, guest: &GuestUuid, point: &PointId, files: &[NamedFile]) -> Answer<()> {
        store::check(&self.config.path)?;
        let home = self.home(guest);
        home.ensure()?;
        home.stage(point, files)
    }

    fn staged_memory(&self, guest: &GuestUuid, point: &PointId) -> PathBuf {
        self.home(guest).staged_memory(point)
    }

    fn seal_memory(&self, guest: &GuestUuid, point: &PointId) -> Answer<MemoryImage> {
        image::seal(&self.staged_memory(guest, point))
    }

    fn stage_memory_copy(&self, guest: &GuestUuid, point: &PointId, image: &Path) -> Answer<()> {
        let place = self.staged_memory(guest, point);
        let source = File::open(image).map_err(at("cannot read", image))?;
        // Private from the start, and sealing it makes it root's.
        copy(&source, &place, &place)
    }

    fn publish(&self, manifest: &Manifest) -> Answer<Published> {
        self.home(&manifest.guest_uuid).publish(manifest)
    }

    fn discard(&self, guest: &GuestUuid, point: &PointId) -> Answer<()> {
        self.home(guest).discard(point)
    }

    /// Points that are still being staged are not among them.
    fn points(&self) -> Answer<Vec<FoundPoint>> {
        let mut points = Vec::new();
        for name in names(&self.config.path)? {
            let Ok(guest) = name.parse::<GuestUuid>() else { continue };
            let home = self.home(&guest);
            for name in names(&home.points())? {
                let Ok(id) = name.parse::<PointId>() else { continue };
                points.push(found(&home, &guest, id)?);
            }
        }
        Ok(points)
    }

    fn read_text(&self, point: &FoundPoint, name: &str) -> Answer<Option<String>> {
        let path = point.folder.join(name);
        match fs::read_to_string(&path) {
            Err(error) if is_absence(&error) => Ok(None),
            text => text.map(Some).map_err(at("cannot read", &path)),
        }
    }

    /// `progress` is told how many bytes have been read so far.
    fn check_memory(&self, point: &FoundPoint, progress: &dyn Fn(Bytes)) -> Answer<()> {
        let Ok(manifest) = &point.manifest else {
            let folder = point.folder.display();
            return Err(Problem::refused(format!("the manifest in {folder} cannot be believed")));
        };
        let Some(wanted) = &manifest.memory else { return Ok(()) };
        let Some(path) = &point.memory else {
            let message =
                format!("the memory image of the point in {} is gone", point.folder.display());
            return Err(Problem::refused(message));
        };
        image::check(path, wanted, progress)
    }
}

fn found(home: &Home, guest: &GuestUuid, id: PointId) -> Answer<FoundPoint> {
    let folder = home.point(&id);
    let file = folder.join(home::MANIFEST);
    let manifest = read_manifest(&file, guest, &id);
    let memory = match &manifest {
        Ok(Manifest { memory: Some(_), .. }) => home.memory_of(&id)?,
        _ => None,
    };
    let published = home.is_published(&id)?;
    Ok(FoundPoint { guest: guest.clone(), id, manifest, published, folder, memory })
}

fn read_manifest(file: &Path, guest: &GuestUuid, id: &PointId) -> Result<Manifest, Problem> {
    let text = fs::read_to_string(file).map_err(|error| {
        Problem::refused(format!("cannot read the manifest {}", file.display())).from(error)
    })?;
    let manifest = Manifest::parse(&text).map_err(|error| {
        Problem::refused(format!("the manifest {} cannot be believed", file.display())).from(error)
    })?;
    if manifest.id == *id && manifest.guest_uuid == *guest {
        Ok(manifest)
    } else {
        let message = format!("the manifest {} is of another point", file.display());
        Err(Problem::refused(message))
    }
}

#[cfg(test)]
mod tests;
