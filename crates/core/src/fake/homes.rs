//! Homes whose memory images are numbers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::storage::missing;
use super::{Fake, FakePoint, FakeStream, State, managed_save_image};
use crate::inventory::AnySnapshot;
use crate::manifest::{Manifest, MemoryImage};
use crate::name::{Bytes, GuestUuid, PointId};
use crate::ports::{
    Answer, FileContent, FoundPoint, Homes, MemoryStream, NamedFile, Published, STAGED_PLAN,
    StoreFacts, Unfinished,
};
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
                let text =
                    |file: &NamedFile| Ok((file.name.clone(), state.text_of(&file.content)?));
                let texts = files.iter().map(text).collect::<Answer<Vec<_>>>()?;
                let (_, staged) = state
                    .points
                    .entry(point.clone())
                    .or_insert_with(|| (guest.clone(), FakePoint::default()));
                staged.files.extend(texts);
                Ok(())
            },
        )
    }

    fn is_staged(&self, _: &GuestUuid, point: &PointId, files: &[NamedFile]) -> Answer<bool> {
        self.look(|state| {
            let staged = state.point(point)?.files.clone();
            let same = |file: &NamedFile| {
                Ok(staged.get(&file.name) == Some(&state.text_of(&file.content)?))
            };
            let same = files.iter().map(same).collect::<Answer<Vec<_>>>()?;
            Ok(same.into_iter().all(|it| it))
        })
    }

    fn staged_memory(&self, guest: &GuestUuid, point: &PointId) -> PathBuf {
        folder(guest, point).join("memory")
    }

    fn receive_memory(
        &self,
        _: &GuestUuid,
        point: &PointId,
        _: &str,
        _: MemoryStream,
    ) -> Answer<()> {
        self.change(
            "receive memory",
            |_| {},
            |state| {
                state.point(point)?;
                self.receiving.borrow_mut().insert(point.clone());
                Ok(())
            },
        )
    }

    fn await_first_page(&self, guest: &GuestUuid, point: &PointId) -> Answer<()> {
        self.look(|state| self.streamed(state, guest, point).map(drop))
    }

    fn await_memory(&self, guest: &GuestUuid, point: &PointId) -> Answer<Duration> {
        self.change(
            "await memory",
            |_| {},
            |state| {
                let ram = self.streamed(state, guest, point)?;
                state.point(point)?.memory = Some(ram);
                Ok(Duration::from_millis(1))
            },
        )
    }

    fn seal_memory(&self, _: &GuestUuid, point: &PointId) -> Answer<MemoryImage> {
        self.change(
            "seal memory",
            |_| {},
            |state| {
                let point = state.point(point)?;
                let count = point.memory.ok_or_else(|| Problem::not_found("no memory image"))?;
                point.sealed = true;
                Ok(MemoryImage { bytes: Bytes(count), blake3: format!("ram-{count}") })
            },
        )
    }

    fn stage_memory_copy(&self, _: &GuestUuid, point: &PointId, image: &Path) -> Answer<()> {
        self.change(
            "copy memory",
            |_| {},
            |state| {
                let mut guests = state.guests.values();
                let saved = guests.find(|it| managed_save_image(&it.name) == image);
                let saved = saved.and_then(|it| it.managed_save).ok_or_else(|| missing(image))?;
                state.point(point)?.memory = Some(saved);
                Ok(())
            },
        )
    }

    fn publish(&self, manifest: &Manifest) -> Answer<Published> {
        self.change(
            "publish",
            |_| {},
            |state| {
                let point = state.point(&manifest.id)?;
                if manifest.memory.is_some() && point.memory.is_none() {
                    return Err(Problem::failed("the memory image is gone"));
                }
                point.files.remove(STAGED_PLAN);
                point.manifest = Some(manifest.clone());
                Ok(Published { stored: Bytes(1), home_snapshot: None })
            },
        )
    }

    fn discard(&self, guest: &GuestUuid, point: &PointId) -> Answer<()> {
        self.change(
            "discard point",
            |_| {},
            |state| {
                if state.points.get(point).is_some_and(|(owner, _)| owner == guest) {
                    state.points.remove(point);
                }
                Ok(())
            },
        )
    }

    fn expire_memory(&self, _: &GuestUuid, point: &PointId) -> Answer<()> {
        self.change(
            "expire memory",
            |_| {},
            |state| {
                let point = state.point(point)?;
                point.memory = None;
                point.expired = true;
                Ok(())
            },
        )
    }

    fn hold(&self, _: &GuestUuid, point: &PointId, tag: &str, held: bool) -> Answer<()> {
        self.change(
            "hold",
            |_| {},
            |state| {
                let holds = &mut state.point(point)?.holds;
                match held {
                    true => holds.insert(tag.to_owned()),
                    false => holds.remove(tag),
                };
                Ok(())
            },
        )
    }

    fn points(&self) -> Answer<Vec<FoundPoint>> {
        self.look(|state| {
            let found = state.points.iter().filter_map(|(id, (guest, point))| {
                let manifest = point.manifest.clone()?;
                let folder = folder(guest, id);
                let manifest = match state.unreadable.contains(id) {
                    true => Err(Problem::refused(format!("the manifest of {id} is damaged"))),
                    false => Ok(manifest),
                };
                let has_image = manifest.as_ref().is_ok_and(|it| it.memory.is_some());
                Some(FoundPoint {
                    guest: guest.clone(),
                    id: id.clone(),
                    memory: point.memory.filter(|_| has_image).map(|_| folder.join("memory")),
                    expired: point.expired,
                    holds: point.holds.iter().cloned().collect(),
                    manifest,
                    published: true,
                    folder,
                })
            });
            Ok(found.collect())
        })
    }

    fn unfinished(&self) -> Answer<Vec<Unfinished>> {
        self.look(|state| {
            let staged = state.points.iter().filter(|(_, (_, point))| point.manifest.is_none());
            let unfinished =
                |(id, (guest, point)): (&PointId, &(GuestUuid, FakePoint))| Unfinished {
                    guest: guest.clone(),
                    id: id.clone(),
                    path: folder(guest, id),
                    plan: point.files.get(STAGED_PLAN).cloned(),
                };
            Ok(staged.map(unfinished).collect())
        })
    }

    fn note_torn(&self, guest: &GuestUuid, snapshots: &[AnySnapshot]) -> Answer<()> {
        self.change(
            "note what is torn",
            |_| {},
            |state| {
                for it in snapshots {
                    let noted = (guest.clone(), it.clone());
                    if !state.torn.contains(&noted) {
                        state.torn.push(noted);
                    }
                }
                Ok(())
            },
        )
    }

    fn torn(&self) -> Answer<Vec<(GuestUuid, AnySnapshot)>> {
        self.look(|state| Ok(state.torn.clone()))
    }

    fn read_text(&self, point: &FoundPoint, name: &str) -> Answer<Option<String>> {
        self.look(|state| {
            let (_, point) = state.points.get(&point.id).ok_or_else(|| no_point(&point.id))?;
            Ok(point.files.get(name).cloned())
        })
    }

    fn save_image(&self, guest: &GuestUuid, operation: &PointId) -> PathBuf {
        folder(guest, operation).join("save")
    }

    fn write_save_image(
        &self,
        point: &FoundPoint,
        target: &Path,
        progress: &dyn Fn(Bytes),
    ) -> Answer<()> {
        self.check_memory(point, progress)?;
        self.change(
            "write save image",
            |_| {},
            |state| {
                let memory = state.point(&point.id)?.memory;
                let ram = memory.ok_or_else(|| Problem::not_found("no memory image"))?;
                state.save_images.insert(target.to_owned(), ram);
                Ok(())
            },
        )
    }

    fn check_memory(&self, point: &FoundPoint, progress: &dyn Fn(Bytes)) -> Answer<()> {
        self.look(|state| {
            let manifest = point.manifest.as_ref().map_err(|it| -> Problem { it.note().into() })?;
            let Some(wanted) = &manifest.memory else { return Ok(()) };
            if state.point(&point.id)?.expired {
                return Err(Problem::not_found("the memory image was removed"));
            }
            let found = state.point(&point.id)?.memory.map(|count| format!("ram-{count}"));
            progress(wanted.bytes);
            if found.as_ref() == Some(&wanted.blake3) {
                Ok(())
            } else {
                Err(Problem::refused("the memory image differs"))
            }
        })
    }
}

impl Fake {
    /// What a stream of a guest's RAM has brought for a point.
    fn streamed(&self, state: &mut State, guest: &GuestUuid, point: &PointId) -> Answer<u64> {
        match state.guest(guest)?.stream {
            Some(FakeStream::Begun { ram, .. }) if self.receiving.borrow().contains(point) => {
                Ok(ram)
            }
            _ => Err(Problem::failed("no stream came")),
        }
    }
}

fn folder(guest: &GuestUuid, point: &PointId) -> PathBuf {
    Path::new("/mem").join(guest).join(point)
}

impl State {
    fn point(&mut self, id: &PointId) -> Answer<&mut FakePoint> {
        self.points.get_mut(id).map(|(_, point)| point).ok_or_else(|| no_point(id))
    }

    /// A small file's text: a file of the world reads as its number.
    pub(super) fn text_of(&self, content: &FileContent) -> Answer<String> {
        match content {
            FileContent::Text(text) => Ok(text.clone()),
            FileContent::CopyOf(path) => {
                let file = self.files.get(path).ok_or_else(|| missing(path))?;
                Ok(file.content.to_string())
            }
        }
    }

    /// The number in a small file of a point.
    pub(super) fn number_in_point(&self, path: &Path) -> Option<u64> {
        let name = path.file_name()?.to_str()?;
        self.points.iter().find_map(|(id, (guest, point))| {
            (path.parent()? == folder(guest, id)).then(|| point.files.get(name)?.parse().ok())?
        })
    }
}

fn no_point(id: &PointId) -> Problem {
    Problem::not_found(format!("no point {id}"))
}
