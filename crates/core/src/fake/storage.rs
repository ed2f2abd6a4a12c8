//! Volumes whose snapshots are copies of numbers.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::{Fake, State};
use crate::inventory::{Location, ObjectId, Snapshot};
use crate::name::{PointName, Volume};
use crate::ports::{Answer, NamedFile, Storage};
use crate::problem::Problem;

impl Storage for Fake {
    fn locate(&self, image: &Path) -> Answer<Location> {
        self.look(|state| {
            let object = state.object_of(image).ok_or_else(|| missing(image))?;
            let Some((volume, path_in_volume)) = state.volume_of(image) else {
                return Err(Problem::lacking(format!("{} is on tmpfs", image.display())));
            };
            Ok(Location { volume, path_in_volume, object })
        })
    }

    fn resolve(&self, path: &Path) -> Answer<PathBuf> {
        Ok(path.to_owned())
    }

    fn object(&self, path: &Path) -> Answer<Option<ObjectId>> {
        self.look(|state| Ok(state.object_of(path)))
    }

    fn snapshot(&self, volumes: &[Volume], name: &PointName) -> Answer<Vec<Snapshot>> {
        let half = |state: &mut State| {
            if let Some(volume) = volumes.first() {
                state.take_snapshot(volume, name);
            }
        };
        self.change("snapshot", half, |state| {
            let taken = state
                .snapshots
                .iter()
                .any(|(it, _)| volumes.contains(&it.volume) && it.name == *name);
            if taken {
                return Err(Problem::refused(format!("a snapshot {name} exists")));
            }
            if let Some(absent) = volumes.iter().find(|it| !state.volumes.contains_key(it)) {
                return Err(Problem::not_found(format!("there is no volume {absent}")));
            }
            if let Some(broken) = volumes.iter().find(|it| state.broken.contains(it)) {
                return Err(Problem::failed(format!("no snapshot of {broken} can be taken")));
            }
            Ok(volumes.iter().map(|volume| state.take_snapshot(volume, name)).collect())
        })
    }

    fn snapshots(&self, volume: &Volume) -> Answer<Vec<Snapshot>> {
        self.look(|state| {
            let of_volume = state.snapshots.iter().filter(|(it, _)| it.volume == *volume);
            Ok(of_volume.map(|(it, _)| it.clone()).collect())
        })
    }

    fn check_read_only(&self, _: &Snapshot) -> Answer<()> {
        // Nothing here can make a snapshot writable.
        Ok(())
    }

    fn destroy(&self, snapshot: &Snapshot) -> Answer<()> {
        self.change(
            "destroy",
            |_| {},
            |state| {
                let named =
                    |it: &Snapshot| it.volume == snapshot.volume && it.name == snapshot.name;
                if state.snapshots.iter().any(|(it, _)| named(it) && it.id != snapshot.id) {
                    return Err(Problem::refused(format!("{} is another snapshot", snapshot.name)));
                }
                state.snapshots.retain(|(it, _)| it != snapshot);
                Ok(())
            },
        )
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
            let named = |it: &Snapshot| it.volume == snapshot.volume && it.name == snapshot.name;
            let found = state.snapshots.iter().find(|(it, _)| named(it));
            let (found, files) = found.ok_or_else(|| missing(snapshot.name.as_ref()))?;
            if found.id != snapshot.id {
                return Err(Problem::refused(format!("{} is another snapshot", snapshot.name)));
            }
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
                Ok(())
            },
        )
    }
}

pub(super) fn missing(path: &Path) -> Problem {
    Problem::not_found(format!("{} does not exist", path.display()))
}

impl State {
    fn object_of(&self, path: &Path) -> Option<ObjectId> {
        self.files.get(path).map(|file| ObjectId(format!("object-{}", file.object)))
    }

    fn take_snapshot(&mut self, volume: &Volume, name: &PointName) -> Snapshot {
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
        self.snapshots.push((snapshot.clone(), files));
        snapshot
    }
}
