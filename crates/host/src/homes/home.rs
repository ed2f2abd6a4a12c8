//! One guest's home: staging, publishing and removing points. Every step may be repeated after a
//! crash anywhere.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use vitrify_core::manifest::Manifest;
use vitrify_core::name::{Bytes, GuestUuid, PointId, SnapshotId};
use vitrify_core::ports::{Answer, FileContent, NamedFile, Published};
use vitrify_core::problem::Problem;

use crate::btrfs::subvolume;
use crate::files::{
    allocated, at, ensure_folder, exists, lay, remove_if_empty, remove_tree, sync_folder,
    sync_parent, sync_tree, unlink,
};

/// A point's manifest, in the point's folder.
pub(super) const MANIFEST: &str = "manifest.json";
/// A point's memory image, in the point's folder.
const MEMORY: &str = "memory.save";
/// The folder, beside the homes, that holds their snapshots.
const SNAPSHOTS: &str = ".vitrify";

/// A guest's home, which need not exist.
#[derive(Debug)]
pub(super) struct Home {
    store: PathBuf,
    path: PathBuf,
    snapshots: PathBuf,
}

impl Home {
    /// A guest's home in a store.
    pub(super) fn new(store: &Path, guest: &GuestUuid) -> Self {
        Self {
            store: store.to_owned(),
            path: store.join(guest),
            snapshots: store.join(SNAPSHOTS).join(guest),
        }
    }

    /// The folder of its points.
    pub(super) fn points(&self) -> PathBuf {
        self.path.join("points")
    }

    /// A point's folder.
    pub(super) fn point(&self, id: &PointId) -> PathBuf {
        self.points().join(id)
    }

    fn incoming(&self, id: &PointId) -> PathBuf {
        self.path.join("incoming").join(id)
    }

    /// Where a staged point's memory image is written.
    pub(super) fn staged_memory(&self, id: &PointId) -> PathBuf {
        self.incoming(id).join(MEMORY)
    }

    /// Where a subvolume's memory image waits for the snapshot. By its point's id, so that it is
    /// never taken for another's.
    fn passing_memory(&self, id: &PointId) -> PathBuf {
        self.path.join("memory").join(format!("{id}.save"))
    }

    fn snapshot(&self, id: &PointId) -> PathBuf {
        self.snapshots.join(id)
    }

    fn is_subvolume(&self) -> Answer<bool> {
        subvolume::is_subvolume(&self.path)
    }

    /// Makes the home where it is missing: a subvolume where the store lies on a Btrfs. A home that
    /// exists is kept as what it is.
    pub(super) fn ensure(&self) -> Answer<()> {
        if !exists(&self.path)? && subvolume::is_btrfs(&self.store)? {
            subvolume::create(&self.path)?;
            fs::set_permissions(&self.path, Permissions::from_mode(0o700))
                .map_err(at("cannot make private", &self.path))?;
            sync_parent(&self.path)?;
        }
        ensure_folder(&self.path)?;
        ["incoming", "points", "memory"]
            .iter()
            .try_for_each(|folder| ensure_folder(&self.path.join(folder)))
    }

    /// Adds files to a point's staging folder, which is made where it is missing.
    pub(super) fn stage(&self, id: &PointId, files: &[NamedFile]) -> Answer<()> {
        let folder = self.incoming(id);
        ensure_folder(&folder)?;
        files.iter().try_for_each(|file| lay(&folder, file))?;
        sync_folder(&folder)
    }

    /// Publishes a staged point, or carries on with it wherever that was interrupted.
    pub(super) fn publish(&self, manifest: &Manifest) -> Answer<Published> {
        let id = &manifest.id;
        let with_memory = manifest.memory.is_some();
        let snapshots = self.is_subvolume()?;
        if !exists(&self.point(id))? {
            self.complete(manifest, with_memory && snapshots)?;
        }
        let home_snapshot = if snapshots { Some(self.keep(id, with_memory)?) } else { None };
        let mut added = vec![self.point(id)];
        if with_memory && snapshots {
            added.push(self.kept_memory(id));
        }
        let stored = allocated(&added).unwrap_or(Bytes(0));
        Ok(Published { stored, home_snapshot })
    }

    /// Writes the manifest, makes all durable and moves the staged folder to its place.
    fn complete(&self, manifest: &Manifest, move_memory: bool) -> Answer<()> {
        let (id, incoming) = (&manifest.id, self.incoming(&manifest.id));
        let (staged, passing) = (self.staged_memory(id), self.passing_memory(id));
        let has_staged = exists(&staged)?;
        if manifest.memory.is_some() && !has_staged && !(move_memory && exists(&passing)?) {
            return Err(Problem::failed(format!("the memory image {} is gone", staged.display())));
        }
        let content = FileContent::Text(manifest.to_text());
        lay(&incoming, &NamedFile { name: MANIFEST.into(), content })?;
        sync_tree(&incoming)?;
        if move_memory && has_staged {
            fs::rename(&staged, &passing).map_err(at("cannot move the memory image", &staged))?;
            sync_parent(&passing)?;
        }
        let place = self.point(id);
        fs::rename(&incoming, &place).map_err(at("cannot put in place", &place))?;
        sync_parent(&place)?;
        sync_parent(&incoming)
    }

    /// The last act: the home's snapshot under the point's id, and then the image out of the home.
    fn keep(&self, id: &PointId, with_memory: bool) -> Answer<SnapshotId> {
        let (place, passing) = (self.snapshot(id), self.passing_memory(id));
        let kept = match subvolume::find(&place)? {
            Some(kept) => kept,
            None => {
                if with_memory && !exists(&passing)? {
                    let message = format!("the memory image {} is gone", passing.display());
                    return Err(Problem::failed(message));
                }
                ensure_folder(&self.store.join(SNAPSHOTS))?;
                ensure_folder(&self.snapshots)?;
                subvolume::snapshot(&self.path, &place)?;
                subvolume::show(&place)?
            }
        };
        if unlink(&passing)? {
            sync_parent(&passing)?;
        }
        kept.uuid.parse().map_err(|error| Problem::failed("a home's snapshot").from(error))
    }

    fn kept_memory(&self, id: &PointId) -> PathBuf {
        self.snapshot(id).join("memory").join(format!("{id}.save"))
    }

    /// Where a published point's memory image lies.
    pub(super) fn memory_of(&self, id: &PointId) -> Answer<Option<PathBuf>> {
        let places = [self.kept_memory(id), self.point(id).join(MEMORY), self.passing_memory(id)];
        for place in places {
            if exists(&place)? {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// Whether a point's publishing came to its end.
    pub(super) fn is_published(&self, id: &PointId) -> Answer<bool> {
        Ok(exists(&self.point(id).join(MANIFEST))?
            && (!self.is_subvolume()? || subvolume::is_subvolume(&self.snapshot(id))?))
    }

    /// Removes whatever there is of a point. It stops being published with the first step.
    pub(super) fn discard(&self, id: &PointId) -> Answer<()> {
        let (place, incoming) = (self.point(id), self.incoming(id));
        if exists(&place)? {
            ensure_folder(&self.path.join("incoming"))?;
            remove_tree(&incoming)?;
            fs::rename(&place, &incoming).map_err(at("cannot remove", &place))?;
            sync_parent(&place)?;
        }
        remove_tree(&incoming)?;
        if unlink(&self.passing_memory(id))? {
            sync_parent(&self.passing_memory(id))?;
        }
        self.discard_snapshot(id)
    }

    fn discard_snapshot(&self, id: &PointId) -> Answer<()> {
        let place = self.snapshot(id);
        let Some(found) = subvolume::find(&place)? else { return Ok(()) };
        let home = subvolume::find(&self.path)?.map(|home| home.uuid);
        if home.is_some() && found.parent_uuid != home {
            let message = format!("{} is not a snapshot of this home", place.display());
            return Err(Problem::refused(message).hint("who put it there may remove it"));
        }
        subvolume::delete(&place)?;
        remove_if_empty(&self.snapshots)
    }
}
