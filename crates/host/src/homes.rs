//! The homes: `<store>/<guest uuid>/`, with every point's files in `points/<id>/`.
//!
//! A home is a dataset or a subvolume of its own where the store can have such, else a folder. As a
//! dataset or a subvolume it has one memory image by pages, in `memory/`, which each capture
//! rewrites where RAM changed, and is snapshotted with each point: as `<dataset>@<id>`, or as
//! `<store>/.vitrify/<guest uuid>/<id>`. In a folder each point has its own image: by pages, its
//! blocks shared with the one before, where the file system can do that (XFS), else compressed as a
//! whole. Starts the programs `zfs` and `btrfs`.

mod ground;
mod home;
mod store;

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vitrify_core::inventory::AnySnapshot;
use vitrify_core::manifest::{Manifest, MemoryImage};
use vitrify_core::name::{Bytes, GuestUuid, PointId};
use vitrify_core::ports::{
    Answer, FoundPoint, Homes, MemoryStream, NamedFile, Published, StoreFacts, Unfinished,
};
use vitrify_core::problem::Problem;
use vitrify_core::save_image::Header;

use self::home::Home;
pub use self::store::{Reserve, StoreConfig};
use crate::files::copy::copy;
use crate::files::{at, exists, is_absence, names};
pub use crate::memory::StallLimits;
use crate::memory::{self, Form, Ingest, Limits, Spool};

/// How long the first page of RAM may take: QEMU sets up 9 GiB in half a second. The guest stands
/// still meanwhile.
const FIRST_PAGE_LIMIT: Duration = Duration::from_secs(8);

/// The memory store.
#[derive(Debug)]
pub struct Store {
    config: StoreConfig,
    /// Whether somebody wants the work to be given up.
    cancelled: Arc<AtomicBool>,
    /// What this process receives at the moment.
    receiving: Mutex<HashMap<PointId, Ingest>>,
}

impl Store {
    /// The store that this configuration describes. Nothing is touched yet. While `cancelled` is
    /// set, memory that is being received is given up.
    pub fn new(config: StoreConfig, cancelled: Arc<AtomicBool>) -> Self {
        Self { config, cancelled, receiving: Mutex::default() }
    }

    fn receiving(&self) -> MutexGuard<'_, HashMap<PointId, Ingest>> {
        self.receiving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this process receives for a point, out of the list while something is done with it.
    fn with_ingest<T>(
        &self,
        point: &PointId,
        work: impl FnOnce(&Ingest) -> Answer<T>,
    ) -> Answer<T> {
        let ingest = self.receiving().remove(point);
        let ingest = ingest
            .ok_or_else(|| Problem::failed(format!("nothing is received for point {point}")))?;
        let done = work(&ingest)?;
        self.receiving().insert(point.clone(), ingest);
        Ok(done)
    }

    /// Where the store is.
    pub fn path(&self) -> &Path {
        &self.config.path
    }

    /// The guests that have a home.
    fn guests(&self) -> Answer<Vec<GuestUuid>> {
        let names = names(&self.config.path)?;
        Ok(names.into_iter().filter_map(|name| name.parse().ok()).collect())
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

    fn is_staged(&self, guest: &GuestUuid, point: &PointId, files: &[NamedFile]) -> Answer<bool> {
        self.home(guest).is_staged(point, files)
    }

    fn staged_memory(&self, guest: &GuestUuid, point: &PointId) -> PathBuf {
        self.home(guest).dump(point)
    }

    fn receive_memory(
        &self,
        guest: &GuestUuid,
        point: &PointId,
        definition: &str,
        stream: MemoryStream,
    ) -> Answer<()> {
        let form = self.home(guest).make_form(point)?;
        let spool = self.config.spool.as_deref().map(Spool::of);
        let limits = Limits { stall: self.config.stall, spool: spool.transpose()? };
        let header = Header { xml: definition.to_owned(), cookie: None, running: true };
        let ingest = Ingest::start(&form, header, point, stream, limits)?;
        self.receiving().insert(point.clone(), ingest);
        Ok(())
    }

    fn await_first_page(&self, _: &GuestUuid, point: &PointId) -> Answer<()> {
        self.with_ingest(point, |it| it.await_first_page(FIRST_PAGE_LIMIT))
    }

    fn await_memory(&self, _: &GuestUuid, point: &PointId) -> Answer<Duration> {
        let gave_up = || self.cancelled.load(Ordering::Relaxed);
        self.with_ingest(point, |it| it.await_end(&gave_up)).map(|it| it.stalled)
    }

    fn seal_memory(&self, guest: &GuestUuid, point: &PointId) -> Answer<MemoryImage> {
        let ingest = self.receiving().remove(point);
        ingest.map_or(Ok(()), |it| it.complete())?;
        self.home(guest).seal(point)
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
        drop(self.receiving().remove(point));
        self.home(guest).discard(point)
    }

    fn expire_memory(&self, guest: &GuestUuid, point: &PointId) -> Answer<()> {
        self.home(guest).expire_memory(point)
    }

    fn hold(&self, guest: &GuestUuid, point: &PointId, tag: &str, held: bool) -> Answer<()> {
        self.home(guest).hold(point, tag, held)
    }

    /// Points that are still being staged are not among them.
    fn points(&self) -> Answer<Vec<FoundPoint>> {
        let mut points = Vec::new();
        for guest in self.guests()? {
            let home = self.home(&guest);
            for name in names(&home.points())? {
                let Ok(id) = name.parse::<PointId>() else { continue };
                points.push(found(&home, &guest, id)?);
            }
        }
        Ok(points)
    }

    fn unfinished(&self) -> Answer<Vec<Unfinished>> {
        let mut found = Vec::new();
        for guest in self.guests()? {
            found.extend(self.home(&guest).unfinished()?);
        }
        Ok(found)
    }

    fn note_torn(&self, guest: &GuestUuid, snapshots: &[AnySnapshot]) -> Answer<()> {
        self.home(guest).note_torn(snapshots)
    }

    fn torn(&self) -> Answer<Vec<(GuestUuid, AnySnapshot)>> {
        let mut found = Vec::new();
        for guest in self.guests()? {
            let noted = self.home(&guest).torn()?;
            found.extend(noted.into_iter().map(|it| (guest.clone(), it)));
        }
        Ok(found)
    }

    fn read_text(&self, point: &FoundPoint, name: &str) -> Answer<Option<String>> {
        let path = point.folder.join(name);
        match fs::read_to_string(&path) {
            Err(error) if is_absence(&error) => Ok(None),
            text => text.map(Some).map_err(at("cannot read", &path)),
        }
    }

    fn save_image(&self, guest: &GuestUuid, operation: &PointId) -> PathBuf {
        self.home(guest).save_image(operation)
    }

    fn write_save_image(
        &self,
        point: &FoundPoint,
        target: &Path,
        progress: &dyn Fn(Bytes),
    ) -> Answer<()> {
        match image_of(point)? {
            Some((form, wanted)) => memory::write_save_image(&form, wanted, target, progress),
            None => Err(Problem::not_found(format!("point {} has no memory image", point.id))),
        }
    }

    /// `progress` is told how many bytes have been read so far.
    fn check_memory(&self, point: &FoundPoint, progress: &dyn Fn(Bytes)) -> Answer<()> {
        match image_of(point)? {
            Some((form, wanted)) => memory::verify(&form, wanted, progress),
            None => Ok(()),
        }
    }
}

/// Where a point's memory image lies, and what it must be.
fn image_of(point: &FoundPoint) -> Answer<Option<(Form, &MemoryImage)>> {
    let folder = point.folder.display();
    let Ok(manifest) = &point.manifest else {
        return Err(Problem::refused(format!("the manifest in {folder} cannot be believed")));
    };
    let Some(wanted) = &manifest.memory else { return Ok(None) };
    match &point.memory {
        Some(path) if exists(path)? => Ok(Some((home::form_at(path), wanted))),
        _ if point.expired => Err(Problem::not_found(format!(
            "the memory image of point {} was removed, as its policy says",
            point.id
        ))
        .hint("its disks can be restored with --cold")),
        _ => Err(Problem::refused(format!("the memory image of the point in {folder} is gone"))
            .hint("the disks of the point can still be restored with --cold")),
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
    let (published, expired) = (home.is_published(&id)?, home.is_expired(&id)?);
    let holds = home.holds(&id)?.into_iter().collect();
    let guest = guest.clone();
    Ok(FoundPoint { guest, id, manifest, published, folder, memory, expired, holds })
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
