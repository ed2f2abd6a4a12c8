//! Homes whose memory images are numbers.

use std::path::{Path, PathBuf};

use super::{Fake, FakePoint, State};
use crate::manifest::{Manifest, MemoryImage};
use crate::name::{Bytes, GuestUuid, PointId};
use crate::ports::{Answer, FileContent, FoundPoint, Homes, NamedFile, Published, StoreFacts};
use crate::problem::Problem;

impl Homes for Fake {
    fn store(&self) -> Answer<StoreFacts> {
        Ok(StoreFacts {
            path: "/mem".into(),
            kind: "folder",
            no_memory: None,
            free: Bytes(1 << 40),
            reserve: Bytes(0),
        })
    }

    fn stage(&self, guest: &GuestUuid, point: &PointId, files: &[NamedFile]) -> Answer<()> {
        self.change(
            "stage",
            |_| {},
            |state| {
                let (_, staged) = state
                    .points
                    .entry(point.clone())
                    .or_insert_with(|| (guest.clone(), FakePoint::default()));
                for file in files {
                    let text = match &file.content {
                        FileContent::Text(text) => text.clone(),
                        FileContent::CopyOf(path) => path.display().to_string(),
                    };
                    staged.files.insert(file.name.clone(), text);
                }
                Ok(())
            },
        )
    }

    fn staged_memory(&self, guest: &GuestUuid, point: &PointId) -> PathBuf {
        folder(guest, point).join("memory")
    }

    fn seal_memory(&self, _: &GuestUuid, point: &PointId) -> Answer<MemoryImage> {
        self.change(
            "seal memory",
            |_| {},
            |state| {
                let memory = state.point(point)?.memory;
                let count = memory.ok_or_else(|| Problem::not_found("no memory image"))?;
                Ok(MemoryImage { bytes: Bytes(count), blake3: format!("ram-{count}") })
            },
        )
    }

    fn stage_memory_copy(&self, guest: &GuestUuid, point: &PointId, _: &Path) -> Answer<()> {
        self.change(
            "copy memory",
            |_| {},
            |state| {
                let saved = state.guest(guest)?.managed_save;
                state.point(point)?.memory = saved;
                Ok(())
            },
        )
    }

    fn publish(&self, manifest: &Manifest) -> Answer<Published> {
        self.change(
            "publish",
            |_| {},
            |state| {
                state.point(&manifest.id)?.manifest = Some(manifest.clone());
                Ok(Published { stored: Bytes(1), home_snapshot: None })
            },
        )
    }

    fn discard(&self, _: &GuestUuid, point: &PointId) -> Answer<()> {
        self.change(
            "discard point",
            |_| {},
            |state| {
                state.points.remove(point);
                Ok(())
            },
        )
    }

    fn points(&self) -> Answer<Vec<FoundPoint>> {
        self.look(|state| {
            let found = state.points.iter().filter_map(|(id, (guest, point))| {
                let manifest = point.manifest.clone()?;
                let folder = folder(guest, id);
                Some(FoundPoint {
                    guest: guest.clone(),
                    id: id.clone(),
                    memory: manifest.memory.as_ref().map(|_| folder.join("memory")),
                    manifest: Ok(manifest),
                    published: true,
                    folder,
                })
            });
            Ok(found.collect())
        })
    }

    fn read_text(&self, point: &FoundPoint, name: &str) -> Answer<Option<String>> {
        self.look(|state| {
            let (_, point) = state.points.get(&point.id).ok_or_else(|| no_point(&point.id))?;
            Ok(point.files.get(name).cloned())
        })
    }

    fn check_memory(&self, point: &FoundPoint, _: &dyn Fn(Bytes)) -> Answer<()> {
        self.look(|state| {
            let wanted = point.manifest.as_ref().ok().and_then(|it| it.memory.as_ref());
            let found = state.point(&point.id)?.memory.map(|count| format!("ram-{count}"));
            if wanted.map(|it| &it.blake3) == found.as_ref() {
                Ok(())
            } else {
                Err(Problem::refused("the memory image differs"))
            }
        })
    }
}

fn folder(guest: &GuestUuid, point: &PointId) -> PathBuf {
    Path::new("/mem").join(guest).join(point)
}

impl State {
    fn point(&mut self, id: &PointId) -> Answer<&mut FakePoint> {
        self.points.get_mut(id).map(|(_, point)| point).ok_or_else(|| no_point(id))
    }
}

fn no_point(id: &PointId) -> Problem {
    Problem::not_found(format!("no point {id}"))
}
