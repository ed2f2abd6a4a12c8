//! Volumes whose snapshots are copies of numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::{Fake, FakeSnapshot, State};
use crate::inventory::{
    AnySnapshot, FoundSnapshot, FoundVolume, Location, ObjectId, Owner, Snapshot,
};
use crate::name::{PointId, PointName, Volume};
use crate::ports::{Answer, NamedFile, Storage};
use crate::problem::{Problem, ProblemKind};

impl Storage for Fake {
    fn locate(&self, images: &[PathBuf]) -> Vec<Answer<Location>> {
        let locate = |image: &PathBuf| self.look(|state| state.location_of(image));
        images.iter().map(locate).collect()
    }

    fn volumes(&self, top: &Volume, below: bool) -> Answer<Vec<FoundVolume>> {
        let is_below = |it: &&Volume| {
            let rest = it.as_str().strip_prefix(top.as_str());
            below && rest.is_some_and(|rest| rest.starts_with('/'))
        };
        self.look(|state| {
            if !state.volumes.contains_key(top) {
                return Err(Problem::not_found(format!("there is no volume {top}")));
            }
            let all = std::iter::once(top).chain(state.volumes.keys().filter(is_below));
            let found = |it: &Volume| FoundVolume {
                volume: it.clone(),
                object: ObjectId(format!("volume-{it}")),
            };
            Ok(all.map(found).collect())
        })
    }

    fn resolve(&self, path: &Path) -> Answer<PathBuf> {
        Ok(path.to_owned())
    }

    fn object(&self, path: &Path) -> Answer<Option<ObjectId>> {
        self.look(|state| Ok(state.object_of(path)))
    }

    fn snapshot(
        &self,
        volumes: &[Volume],
        name: &PointName,
        owners: &[Owner],
    ) -> Answer<Vec<Snapshot>> {
        let half = |state: &mut State| {
            if let Some(volume) = volumes.first() {
                state.take_snapshot(volume, name, owners);
            }
        };
        self.change("snapshot", half, |state| {
            let taken = state
                .snapshots
                .iter()
                .any(|it| volumes.contains(&it.snapshot.volume) && it.snapshot.name == *name);
            if taken {
                return Err(Problem::refused(format!("a snapshot {name} exists")));
            }
            if let Some(absent) = volumes.iter().find(|it| !state.volumes.contains_key(it)) {
                return Err(Problem::not_found(format!("there is no volume {absent}")));
            }
            if let Some(broken) = volumes.iter().find(|it| state.broken.contains(it)) {
                return Err(Problem::failed(format!("no snapshot of {broken} can be taken")));
            }
            Ok(volumes.iter().map(|volume| state.take_snapshot(volume, name, owners)).collect())
        })
    }

    fn snapshots(&self, volumes: &[Volume]) -> Answer<Vec<FoundSnapshot>> {
        self.listings.set(self.listings.get() + 1);
        self.look(|state| {
            if let Some(lost) = volumes.iter().find(|it| state.lost.contains(it)) {
                return Err(Problem::lacking(format!("{lost} does not answer")));
            }
            let there = state.snapshots.iter().filter(|it| volumes.contains(&it.snapshot.volume));
            let found = there.map(|it| FoundSnapshot {
                snapshot: it.snapshot.clone(),
                points: Some(it.points.clone()),
                order: None,
                created: None,
                needed: Vec::new(),
                held_for: Some(it.held_for.iter().cloned().collect()),
            });
            Ok(found.collect())
        })
    }

    fn all_snapshots(&self, volumes: &[Volume]) -> Answer<Vec<AnySnapshot>> {
        let any = |it: Snapshot| AnySnapshot {
            name: format!("{}@{}", it.volume, it.name),
            volume: it.volume,
            id: it.id,
        };
        Ok(self.snapshots(volumes)?.into_iter().map(|it| any(it.snapshot)).collect())
    }

    fn flush(&self, _: &[Volume]) -> Answer<Duration> {
        self.change("flush", |_| {}, |state| Ok(state.flush_takes))
    }

    fn check_read_only(&self, _: &Snapshot) -> Answer<()> {
        // Nothing here can make a snapshot writable.
        Ok(())
    }

    fn hold(&self, snapshots: &[Snapshot], point: &PointId) -> Answer<()> {
        let half = |state: &mut State| {
            if let [first, _, ..] = snapshots {
                state.hold(first, point).ok();
            }
        };
        self.change("hold snapshots", half, |state| {
            snapshots.iter().try_for_each(|it| state.hold(it, point))
        })
    }

    fn release(&self, snapshots: &[Snapshot], point: &PointId) -> Answer<()> {
        let let_go = |state: &mut State, snapshots: &[Snapshot]| {
            let meant = |it: &&mut FakeSnapshot| snapshots.contains(&it.snapshot);
            for it in state.snapshots.iter_mut().filter(meant) {
                it.held_for.remove(point);
            }
        };
        let half = |state: &mut State| let_go(state, snapshots.split_at(snapshots.len() / 2).0);
        self.change("release snapshots", half, |state| {
            let_go(state, snapshots);
            Ok(())
        })
    }

    fn release_command(&self, snapshot: &Snapshot, point: &PointId) -> String {
        format!("release {point} {} of {}", snapshot.name, snapshot.volume)
    }

    fn destroy_command(&self, snapshot: &Snapshot) -> String {
        format!("destroy {} of {}", snapshot.name, snapshot.volume)
    }

    fn backing(&self, image: &Path) -> Answer<Option<PathBuf>> {
        self.look(|state| Ok(state.files.get(image).and_then(|it| it.backing.clone())))
    }

    fn list(&self, folder: &Path) -> Answer<Vec<PathBuf>> {
        self.look(|state| {
            let inside = state.files.keys().filter(|it| it.parent() == Some(folder));
            Ok(inside.cloned().collect())
        })
    }

    fn destroy(&self, snapshots: &[Snapshot]) -> Answer<()> {
        let half = |state: &mut State| {
            if let [first, _, ..] = snapshots {
                state.destroy(first).ok();
            }
        };
        self.change("destroy", half, |state| {
            let results: Vec<_> = snapshots.iter().map(|it| state.destroy(it)).collect();
            results.into_iter().collect()
        })
    }

    fn annotate(&self, volume: &Volume, files: &[NamedFile]) -> Answer<()> {
        self.change(
            "annotate",
            |_| {},
            |state| {
                let root = state.volumes.get(volume).cloned();
                let root = root.ok_or_else(|| Problem::not_found(format!("no volume {volume}")))?;
                for file in files {
                    let content = state.text_of(&file.content)?.parse().unwrap_or(0);
                    state.new_file(&root.join(".vitrify").join(&file.name), content, None);
                }
                Ok(())
            },
        )
    }

    fn copy_from_snapshot(
        &self,
        snapshot: &Snapshot,
        path_in_volume: &Path,
        beside: &Path,
        _like: &Path,
    ) -> Answer<ObjectId> {
        let half = |state: &mut State| {
            state.new_file(beside, 0, None);
        };
        self.change("copy from snapshot", half, |state| {
            let files = state.snapshot(snapshot)?.files.clone();
            if !path_in_volume.components().all(|part| matches!(part, Component::Normal(_))) {
                return Err(Problem::refused(format!("{} climbs", path_in_volume.display())));
            }
            let content = files.get(path_in_volume).copied();
            Ok(state.new_file(beside, content.ok_or_else(|| missing(path_in_volume))?, None))
        })
    }

    fn copy_file(&self, source: &Path, beside: &Path, _like: &Path) -> Answer<ObjectId> {
        self.change(
            "copy file",
            |_| {},
            |state| {
                let content = match state.files.get(source) {
                    Some(file) => file.content,
                    None => state.number_in_point(source).ok_or_else(|| missing(source))?,
                };
                Ok(state.new_file(beside, content, None))
            },
        )
    }

    fn expose(&self, snapshot: &Snapshot, owner: &PointId) -> Answer<PathBuf> {
        let device = device(snapshot, owner);
        self.change(
            "expose",
            |_| {},
            |state| {
                let content = state.snapshot(snapshot)?.files.get(Path::new("")).copied();
                let content =
                    content.ok_or_else(|| missing(Path::new(snapshot.volume.as_str())))?;
                if !state.files.contains_key(&device) {
                    state.new_file(&device, content, None);
                }
                Ok(device.clone())
            },
        )
    }

    fn conceal(&self, snapshot: &Snapshot, owner: &PointId) -> Answer<()> {
        self.remove_file(&device(snapshot, owner))
    }

    fn overwrite(&self, source: &Path, target: &Path) -> Answer<()> {
        // Half of the blocks are of the one and half of the other.
        let half = |state: &mut State| {
            if let Some(file) = state.files.get_mut(target) {
                file.content = u64::MAX;
            }
        };
        self.change("overwrite", half, |state| {
            let content = state.files.get(source).ok_or_else(|| missing(source))?.content;
            let file = state.files.get_mut(target).ok_or_else(|| missing(target))?;
            file.content = content;
            Ok(())
        })
    }

    fn exchange(&self, beside: &Path, target: &Path) -> Answer<()> {
        self.change(
            "exchange",
            |_| {},
            |state| {
                let spare = state.files.remove(beside).ok_or_else(|| missing(beside))?;
                if let Some(replaced) = state.files.insert(target.to_owned(), spare) {
                    state.files.insert(beside.to_owned(), replaced);
                }
                Ok(())
            },
        )
    }

    fn remove_file(&self, path: &Path) -> Answer<()> {
        self.change(
            "remove file",
            |_| {},
            |state| {
                state.files.remove(path);
                state.save_images.remove(path);
                Ok(())
            },
        )
    }
}

/// Where a snapshot is exposed.
fn device(snapshot: &Snapshot, owner: &PointId) -> PathBuf {
    format!("{}.vitrify-{}-{owner}", snapshot.volume, snapshot.name).into()
}

pub(super) fn missing(path: &Path) -> Problem {
    Problem::not_found(format!("{} does not exist", path.display()))
}

impl State {
    fn object_of(&self, path: &Path) -> Option<ObjectId> {
        self.files.get(path).map(|file| ObjectId(format!("object-{}", file.object)))
    }

    fn location_of(&self, image: &Path) -> Answer<Location> {
        let object = self.object_of(image).ok_or_else(|| missing(image))?;
        let Some((volume, rest)) = self.volume_of(image) else {
            return Err(Problem::lacking(format!("{} is on tmpfs", image.display())));
        };
        let path_in_volume = (rest != Path::new("")).then_some(rest);
        let (group, warnings) = (volume.to_string(), Vec::new());
        Ok(Location { volume, path_in_volume, object, group, warnings })
    }

    fn snapshot(&self, wanted: &Snapshot) -> Answer<&FakeSnapshot> {
        let named = |it: &Snapshot| it.volume == wanted.volume && it.name == wanted.name;
        let found = self.snapshots.iter().find(|it| named(&it.snapshot));
        match found.ok_or_else(|| missing(wanted.name.as_ref()))? {
            found if found.snapshot.id == wanted.id => Ok(found),
            _ => Err(Problem::refused(format!("{} is another snapshot", wanted.name))),
        }
    }

    fn hold(&mut self, snapshot: &Snapshot, point: &PointId) -> Answer<()> {
        self.snapshot(snapshot)?;
        for it in self.snapshots.iter_mut().filter(|it| it.snapshot == *snapshot) {
            it.held_for.insert(point.clone());
        }
        Ok(())
    }

    fn destroy(&mut self, snapshot: &Snapshot) -> Answer<()> {
        let found = match self.snapshot(snapshot) {
            Err(problem) if problem.kind == ProblemKind::NotFound => return Ok(()),
            found => found?,
        };
        if !found.held_for.is_empty() {
            return Err(Problem::refused(format!("the snapshot {} is held", snapshot.name)));
        }
        self.snapshots.retain(|it| it.snapshot != *snapshot);
        Ok(())
    }

    fn take_snapshot(&mut self, volume: &Volume, name: &PointName, owners: &[Owner]) -> Snapshot {
        let number = self.number();
        let files: BTreeMap<_, _> = self
            .files
            .iter()
            .filter_map(|(path, file)| {
                let (holder, rest) = self.volume_of(path)?;
                (holder == *volume).then_some((rest, file.content))
            })
            .collect();
        let snapshot = Snapshot {
            volume: volume.clone(),
            name: name.clone(),
            id: super::sample::snapshot_id(number),
        };
        let points = owners.iter().map(|it| it.point.clone()).collect();
        let held_for = BTreeSet::new();
        self.snapshots.push(FakeSnapshot { snapshot: snapshot.clone(), points, held_for, files });
        snapshot
    }
}
