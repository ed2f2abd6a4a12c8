//! One guest's home: its folders, and the steps of publishing and removing a point.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use vitrify_core::inventory::AnySnapshot;
use vitrify_core::manifest::{Manifest, MemoryImage};
use vitrify_core::name::{Bytes, GuestUuid, PointId};
use vitrify_core::ports::{Answer, FileContent, NamedFile, Published, STAGED_PLAN, Unfinished};
use vitrify_core::problem::{Problem, ProblemKind};

use super::ground::{Ground, shares_blocks};
use crate::files::copy::copy;
use crate::files::{
    allocated, at, ensure_folder, exists, is_absence, lay, names, remove_tree, sync_folder,
    sync_parent, sync_tree, unlink,
};
use crate::memory::{self, Form};

/// A point's manifest.
pub(super) const MANIFEST: &str = "manifest.json";
/// The snapshots that others took in the middle of a commit.
const TORN: &str = "torn.json";
/// Says that a point's memory image was removed, and by whom.
const EXPIRED: &str = "memory-expired";
/// The tags under which a point is held, one on each line.
const HOLDS: &str = "holds";
/// A save image that libvirt wrote, before it is taken into the image.
const DUMP: &str = "memory.save";
/// An image by pages.
const PAGED: &str = "memory";
/// An image that is compressed as a whole.
const WHOLE: &str = "memory.zst";

/// A guest's home, which need not exist.
#[derive(Debug)]
pub(super) struct Home {
    store: PathBuf,
    guest: GuestUuid,
    path: PathBuf,
}

impl Home {
    /// A guest's home in a store.
    pub(super) fn new(store: &Path, guest: &GuestUuid) -> Self {
        Self { store: store.to_owned(), guest: guest.clone(), path: store.join(guest) }
    }

    fn ground(&self) -> Answer<Ground> {
        Ground::of(&self.store, &self.guest)
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

    /// Where libvirt writes a staged point's memory to.
    pub(super) fn dump(&self, id: &PointId) -> PathBuf {
        self.incoming(id).join(DUMP)
    }

    /// Where an operation may put a save image for libvirt.
    pub(super) fn save_image(&self, operation: &PointId) -> PathBuf {
        self.path.join("outgoing").join(format!("{operation}.save"))
    }

    /// What was begun in it.
    pub(super) fn unfinished(&self) -> Answer<Vec<Unfinished>> {
        let mut found = Vec::new();
        for (folder, suffix) in [("incoming", ""), ("outgoing", ".save")] {
            let folder = self.path.join(folder);
            for name in names(&folder)? {
                let id = name.strip_suffix(suffix).and_then(|id| id.parse().ok());
                let Some(id) = id else { continue };
                let path = folder.join(&name);
                let plan = fs::read_to_string(path.join(STAGED_PLAN)).ok();
                found.push(Unfinished { guest: self.guest.clone(), id, path, plan });
            }
        }
        Ok(found)
    }

    /// Adds to the snapshots that are noted as torn.
    pub(super) fn note_torn(&self, snapshots: &[AnySnapshot]) -> Answer<()> {
        let mut noted = self.torn()?;
        let new: Vec<_> = snapshots.iter().filter(|it| !noted.contains(it)).cloned().collect();
        noted.extend(new);
        let text = serde_json::to_string_pretty(&noted)
            .map_err(|error| Problem::failed("cannot write down what is torn").from(error))?;
        lay(&self.path, &NamedFile { name: TORN.into(), content: FileContent::Text(text) })?;
        sync_folder(&self.path)
    }

    /// The snapshots that are noted as torn.
    pub(super) fn torn(&self) -> Answer<Vec<AnySnapshot>> {
        let path = self.path.join(TORN);
        let text = match fs::read_to_string(&path) {
            Err(error) if is_absence(&error) => return Ok(Vec::new()),
            text => text.map_err(at("cannot read", &path))?,
        };
        serde_json::from_str(&text).map_err(|error| {
            Problem::failed(format!("{} cannot be believed", path.display())).from(error)
        })
    }

    /// Makes the home where it is missing.
    pub(super) fn ensure(&self) -> Answer<()> {
        Ground::make(&self.store, &self.guest)?;
        ensure_folder(&self.path)?;
        ["incoming", "outgoing", "points"]
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

    /// Whether the staged files are what these are now. They are small: firmware variables.
    pub(super) fn is_staged(&self, id: &PointId, files: &[NamedFile]) -> Answer<bool> {
        let read = |path: &Path| fs::read(path).map_err(at("cannot read", path));
        for file in files {
            let now = match &file.content {
                FileContent::Text(text) => text.clone().into_bytes(),
                FileContent::CopyOf(source) => read(source)?,
            };
            if read(&self.incoming(id).join(&file.name))? != now {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The image that a staged point has, if it has one.
    fn staged_form(&self, id: &PointId) -> Answer<Option<Form>> {
        if self.ground()?.is_snapshotted() {
            let folder = self.path.join(PAGED);
            return Ok(exists(&folder)?.then_some(Form::Paged { folder }));
        }
        form_in(&self.incoming(id))
    }

    /// Makes the place for a staged point's image: the home's one image where the home is
    /// snapshotted; else a copy that shares the newest point's blocks; else a file of its own.
    pub(super) fn make_form(&self, id: &PointId) -> Answer<Form> {
        if let Some(form) = self.staged_form(id)? {
            return Ok(form);
        }
        if self.ground()?.is_snapshotted() {
            let folder = self.path.join(PAGED);
            ensure_folder(&folder)?;
            return Ok(Form::Paged { folder });
        }
        let incoming = self.incoming(id);
        ensure_folder(&incoming)?;
        if !shares_blocks(&incoming)? {
            return Ok(Form::Whole { file: incoming.join(WHOLE) });
        }
        let folder = incoming.join(PAGED);
        if let Some(last) = self.newest_paged()? {
            // Only a whole copy bears the name.
            let draft = incoming.join("memory.draft");
            remove_tree(&draft)?;
            ensure_folder(&draft)?;
            for name in names(&last)? {
                let (from, to) = (last.join(&name), draft.join(&name));
                let source = File::open(&from).map_err(at("cannot read", &from))?;
                copy(&source, &to, &from)?;
            }
            fs::rename(&draft, &folder).map_err(at("cannot put in place", &folder))?;
        }
        ensure_folder(&folder)?;
        Ok(Form::Paged { folder })
    }

    /// The image by pages of the point that was published last.
    fn newest_paged(&self) -> Answer<Option<PathBuf>> {
        let mut newest = None;
        for name in names(&self.points())? {
            let folder = self.points().join(name).join(PAGED);
            if let Ok(found) = folder.metadata()
                && let Ok(changed) = found.modified()
            {
                newest = newest.max(Some((changed, folder)));
            }
        }
        Ok(newest.map(|(_, folder)| folder))
    }

    /// Makes a staged image whole and durable: what libvirt dumped is taken into it first.
    pub(super) fn seal(&self, id: &PointId) -> Answer<MemoryImage> {
        let dump = self.dump(id);
        if exists(&dump)? {
            let form = self.make_form(id)?;
            memory::ingest_save_image(&form, &dump, id)?;
            let sealed = memory::seal(&form, id)?;
            unlink(&dump)?;
            sync_parent(&dump)?;
            return Ok(sealed);
        }
        match self.staged_form(id)? {
            Some(form) if exists(&self.incoming(id))? => memory::seal(&form, id),
            _ => Err(Problem::not_found(format!("point {id} has no memory image"))),
        }
    }

    /// Publishes a staged point, or carries on with it wherever that was interrupted.
    pub(super) fn publish(&self, manifest: &Manifest) -> Answer<Published> {
        let (id, ground) = (&manifest.id, self.ground()?);
        if !exists(&self.point(id))? {
            self.complete(manifest)?;
        }
        if !ground.has_snapshot(&self.path, id)? && ground.is_snapshotted() {
            self.check_sealed(manifest)?;
        }
        let home_snapshot = ground.take(&self.path, &self.guest, id)?;
        let stored = allocated(&[self.point(id)]).unwrap_or(Bytes(0));
        Ok(Published { stored, home_snapshot })
    }

    /// Writes the manifest, makes all durable and moves the staged folder to its place.
    fn complete(&self, manifest: &Manifest) -> Answer<()> {
        let (id, incoming) = (&manifest.id, self.incoming(&manifest.id));
        self.check_sealed(manifest)?;
        unlink(&incoming.join(STAGED_PLAN))?;
        let content = FileContent::Text(manifest.to_text());
        lay(&incoming, &NamedFile { name: MANIFEST.into(), content })?;
        sync_tree(&incoming)?;
        let place = self.point(id);
        fs::rename(&incoming, &place).map_err(at("cannot put in place", &place))?;
        sync_parent(&place)?;
        sync_parent(&incoming)
    }

    /// Whether the image is the very one that the manifest names.
    fn check_sealed(&self, manifest: &Manifest) -> Answer<()> {
        let Some(wanted) = &manifest.memory else { return Ok(()) };
        let id = &manifest.id;
        let gone = || Problem::failed(format!("the memory image of point {id} is gone"));
        let form = match self.staged_form(id)? {
            Some(form) => form,
            None => form_in(&self.point(id))?.ok_or_else(gone)?,
        };
        if memory::seal(&form, id)? == *wanted { Ok(()) } else { Err(gone()) }
    }

    /// Where a published point's memory image lies. What a snapshot of the home holds is not looked at:
    /// ZFS would mount it, those of all points with each tick.
    pub(super) fn memory_of(&self, id: &PointId) -> Answer<Option<PathBuf>> {
        match self.ground()?.snapshot(&self.path, id) {
            Some(snapshot) => Ok(exists(&snapshot)?.then(|| snapshot.join(PAGED))),
            None => Ok(form_in(&self.point(id))?.map(|form| form.path().to_owned())),
        }
    }

    /// Whether a point's publishing came to its end.
    pub(super) fn is_published(&self, id: &PointId) -> Answer<bool> {
        Ok(exists(&self.point(id).join(MANIFEST))?
            && (self.is_expired(id)? || self.ground()?.has_snapshot(&self.path, id)?))
    }

    /// Whether a point's memory image was removed.
    pub(super) fn is_expired(&self, id: &PointId) -> Answer<bool> {
        exists(&self.point(id).join(EXPIRED))
    }

    /// Removes a point's memory image. First it is written down that it was to go.
    pub(super) fn expire_memory(&self, id: &PointId) -> Answer<()> {
        let folder = self.point(id);
        let content = FileContent::Text("removed by vitrify, as the guest's policy says\n".into());
        lay(&folder, &NamedFile { name: EXPIRED.into(), content })?;
        sync_folder(&folder)?;
        if let Some(form) = form_in(&folder)? {
            match form {
                Form::Paged { folder } => remove_tree(&folder),
                Form::Whole { file } => unlink(&file).map(drop),
            }?;
            sync_folder(&folder)?;
        }
        self.destroy_snapshot(id)
    }

    /// The tags under which a point is held.
    pub(super) fn holds(&self, id: &PointId) -> Answer<BTreeSet<String>> {
        let path = self.point(id).join(HOLDS);
        match fs::read_to_string(&path) {
            Err(error) if is_absence(&error) => Ok(BTreeSet::new()),
            text => {
                Ok(text.map_err(at("cannot read", &path))?.lines().map(str::to_owned).collect())
            }
        }
    }

    /// Holds a point under this tag, or lets it go.
    pub(super) fn hold(&self, id: &PointId, tag: &str, held: bool) -> Answer<()> {
        let folder = self.point(id);
        if !exists(&folder)? {
            return Err(Problem::not_found(format!("there is no point {id}")));
        }
        let mut holds = self.holds(id)?;
        let changed = match held {
            true => holds.insert(tag.to_owned()),
            false => holds.remove(tag),
        };
        let ground = self.ground()?;
        // It never says that it is held while its snapshot is not.
        if held {
            ground.hold(id)?;
        }
        if changed {
            let text = holds.iter().map(|it| format!("{it}\n")).collect();
            lay(&folder, &NamedFile { name: HOLDS.into(), content: FileContent::Text(text) })?;
            sync_folder(&folder)?;
        }
        if holds.is_empty() { ground.release(id) } else { Ok(()) }
    }

    fn destroy_snapshot(&self, id: &PointId) -> Answer<()> {
        let is_held = !self.holds(id)?.is_empty();
        match self.ground()?.destroy(&self.path, id, is_held) {
            Err(gone) if gone.kind == ProblemKind::NotFound => Ok(()),
            destroyed => destroyed,
        }
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
        if let Some(form) = self.staged_form(id)? {
            memory::forget(&form, id)?;
        }
        self.destroy_snapshot(id)
    }
}

/// The image at a path that [`Home::memory_of`] gave.
pub(super) fn form_at(path: &Path) -> Form {
    if path.file_name().is_some_and(|it| it == WHOLE) {
        return Form::Whole { file: path.to_owned() };
    }
    Form::Paged { folder: path.to_owned() }
}

/// The image that lies in a folder.
fn form_in(folder: &Path) -> Answer<Option<Form>> {
    let (paged, stream) = (folder.join(PAGED), folder.join(WHOLE));
    if exists(&paged)? {
        return Ok(Some(Form::Paged { folder: paged }));
    }
    Ok(exists(&stream)?.then_some(Form::Whole { file: stream }))
}
