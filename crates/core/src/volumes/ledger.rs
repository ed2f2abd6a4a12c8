//! What was taken of volumes without guests, by identity: what is not written down here is not ours.
//!
//! Before a snapshot it is written down as begun, so that what a crash left is known; a snapshot is
//! there as a whole or not at all.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::inventory::{FoundSnapshot, Snapshot};
use crate::name::{PointId, PointName, Volume};
use crate::policy::retention::PointFacts;

/// The version of the format.
const VERSION: u32 = 1;

/// Snapshots of volumes that are about to be taken together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// What is written on them where the storage can.
    pub id: PointId,
    /// What they are called, and for what else they are taken. No snapshot of these volumes was called
    /// so before.
    pub names: Vec<PointName>,
    /// The instant.
    pub time: Timestamp,
    /// Of which volumes.
    pub volumes: Vec<Volume>,
}

/// A snapshot that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// What is written on it where the storage can.
    pub id: PointId,
    /// What it is called, and for what else it was taken.
    pub names: Vec<PointName>,
    /// The instant.
    pub time: Timestamp,
    /// The snapshot.
    #[serde(flatten)]
    pub snapshot: Snapshot,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    version: u32,
    begun: Vec<Begun>,
    taken: Vec<Taken>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { version: VERSION, begun: Vec::new(), taken: Vec::new() }
    }
}

/// Why a text is no ledger.
#[derive(Debug, thiserror::Error)]
pub enum BadLedger {
    /// It is damaged.
    #[error("it is damaged")]
    Damaged(#[from] serde_json::Error),
    /// A later vitrify wrote it.
    #[error("it has version {0}, and this vitrify knows version {VERSION}")]
    Version(u32),
}

impl Ledger {
    /// Reads it.
    ///
    /// # Errors
    /// Where nobody can say what was taken.
    pub fn parse(text: &str) -> Result<Self, BadLedger> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        match serde_json::from_str::<Head>(text)?.version {
            VERSION => Ok(serde_json::from_str(text)?),
            other => Err(BadLedger::Version(other)),
        }
    }

    /// As it is written.
    ///
    /// # Errors
    /// Where it has no text.
    pub fn to_text(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }

    /// Writes down what is about to be taken.
    pub fn begin(&mut self, begun: Begun) {
        self.begun.push(begun);
    }

    /// Writes down what was taken of what was begun.
    pub fn finish(&mut self, id: &PointId, snapshots: Vec<Snapshot>) {
        let Some(place) = self.begun.iter().position(|it| it.id == *id) else { return };
        let begun = self.begun.remove(place);
        self.taken.extend(snapshots.into_iter().map(|it| begun.taken(it)));
    }

    /// The volumes of what was begun and never came to its end.
    pub fn unsettled(&self) -> Vec<&Volume> {
        self.begun.iter().flat_map(|it| &it.volumes).collect()
    }

    /// Decides what became of that where the volumes are `there`, by the snapshots that they have: what
    /// is called so, and may have been taken for it, was taken. The rest waits for its volume.
    pub fn settle(&mut self, there: &[Volume], found: &[FoundSnapshot]) {
        for begun in &mut self.begun {
            let (here, away): (Vec<_>, _) =
                begun.volumes.drain(..).partition(|it| there.contains(it));
            begun.volumes = away;
            let is_of = |it: &&FoundSnapshot| {
                here.contains(&it.snapshot.volume)
                    && Some(&it.snapshot.name) == begun.names.first()
                    && it.may_be_of(&begun.id)
            };
            let its: Vec<_> =
                found.iter().filter(is_of).map(|it| begun.taken(it.snapshot.clone())).collect();
            self.taken.extend(its);
        }
        self.begun.retain(|it| !it.volumes.is_empty());
    }

    /// What was taken and is not known to be gone.
    pub fn taken(&self) -> &[Taken] {
        &self.taken
    }

    /// The snapshot of this identity, if it is ours.
    fn find(&self, snapshot: &Snapshot) -> Option<&Taken> {
        self.taken.iter().find(|it| it.snapshot == *snapshot)
    }

    /// Whether a snapshot was taken of a volume by itself, or may just be.
    pub fn knows(&self, found: &FoundSnapshot) -> bool {
        let is_begun = |it: &Begun| {
            it.volumes.contains(&found.snapshot.volume)
                && it.names.first() == Some(&found.snapshot.name)
                && found.may_be_of(&it.id)
        };
        self.find(&found.snapshot).is_some() || self.begun.iter().any(is_begun)
    }

    /// Whether something that was taken of this volume is not among the snapshots that were `found`.
    pub fn misses(&self, volume: &Volume, found: &[FoundSnapshot]) -> bool {
        self.taken.iter().any(|it| it.is_gone(volume, found))
    }

    /// Forgets what is not among all the snapshots that this volume has.
    pub fn forget(&mut self, volume: &Volume, found: &[FoundSnapshot]) {
        self.taken.retain(|it| !it.is_gone(volume, found));
    }

    /// What a policy judges of this volume: ours among the snapshots that were `found`. Nothing of it
    /// could have reached more.
    pub fn facts(&self, volume: &Volume, found: &[FoundSnapshot]) -> Vec<PointFacts> {
        let of_it = found.iter().filter(|it| it.snapshot.volume == *volume);
        let ours = of_it.filter_map(|it| Some((it, self.find(&it.snapshot)?)));
        let facts = ours.map(|(found, taken)| PointFacts {
            id: taken.id.clone(),
            names: taken.names.clone(),
            time: taken.time,
            order: found.order,
            has_memory: false,
            reached: true,
            drilled: false,
            needed: found.needed.clone(),
        });
        facts.collect()
    }

    /// The snapshot of this volume that was taken under this id.
    pub fn snapshot(&self, volume: &Volume, id: &PointId) -> Option<&Taken> {
        self.taken.iter().find(|it| it.snapshot.volume == *volume && it.id == *id)
    }
}

impl Begun {
    fn taken(&self, snapshot: Snapshot) -> Taken {
        Taken { id: self.id.clone(), names: self.names.clone(), time: self.time, snapshot }
    }
}

impl Taken {
    fn is_gone(&self, volume: &Volume, found: &[FoundSnapshot]) -> bool {
        self.snapshot.volume == *volume && !found.iter().any(|it| it.snapshot == self.snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOURLY: &str = "vitrify_2026-11-27_12:00:00_hourly";

    fn id(number: u32) -> PointId {
        format!("00000000-0000-4000-8000-{number:012}").parse().unwrap()
    }

    fn begun(volumes: &[&str]) -> Begun {
        Begun {
            id: id(1),
            names: vec![HOURLY.parse().unwrap()],
            time: "2026-11-27T12:00:00Z".parse().unwrap(),
            volumes: volumes.iter().map(|it| it.parse().unwrap()).collect(),
        }
    }

    /// A snapshot, and the point that is written on it; `None`: nothing can be written.
    fn found(volume: &str, name: &str, guid: &str, point: Option<&[u32]>) -> FoundSnapshot {
        FoundSnapshot {
            snapshot: Snapshot {
                volume: volume.parse().unwrap(),
                name: name.parse().unwrap(),
                id: guid.parse().unwrap(),
            },
            points: point.map(|it| it.iter().copied().map(id).collect()),
            order: None,
            created: None,
            needed: Vec::new(),
            held_for: None,
        }
    }

    /// A crash between the beginning and the end. Columns: what is found, which volumes are there, the
    /// guids that are ours then, how many volumes are not known of yet.
    #[test]
    fn what_a_crash_left_is_settled() {
        let ours = |volume| found(volume, HOURLY, "1", Some(&[1]));
        for (snapshots, there, wanted, open) in [
            (vec![], "t/a t/b", "", 0),
            (vec![ours("t/a")], "t/a t/b", "1", 0),
            (vec![ours("t/a")], "t/a", "1", 1),
            // A drive that is away is not known to have none.
            (vec![], "", "", 2),
            // Nothing can be written there: the name tells.
            (vec![found("t/b", HOURLY, "2", None)], "t/a t/b", "2", 0),
            // Somebody else's.
            (vec![found("t/a", HOURLY, "3", Some(&[]))], "t/a t/b", "", 0),
            (vec![found("t/a", HOURLY, "3", Some(&[2]))], "t/a t/b", "", 0),
            (vec![found("t/a", "other", "3", None)], "t/a t/b", "", 0),
            (vec![found("t/c", HOURLY, "3", Some(&[1]))], "t/a t/b t/c", "", 0),
        ] {
            let mut ledger = Ledger::default();
            ledger.begin(begun(&["t/a", "t/b"]));
            let there: Vec<_> = there.split_whitespace().map(|it| it.parse().unwrap()).collect();
            let known = |ledger: &Ledger| snapshots.iter().filter(|it| ledger.knows(it)).count();
            let before = known(&ledger);
            for _ in 0..2 {
                ledger.settle(&there, &snapshots);
            }
            let guids: Vec<_> = ledger.taken.iter().map(|it| it.snapshot.id.as_str()).collect();
            assert_eq!(guids.join(" "), wanted, "{snapshots:?}");
            assert_eq!(ledger.unsettled().len(), open, "{snapshots:?}");
            assert_eq!(known(&ledger), before, "{snapshots:?}");
        }
    }

    #[test]
    fn only_what_has_name_and_identity_is_ours() {
        let mut ledger = Ledger::default();
        ledger.begin(begun(&["t/a"]));
        ledger.finish(&id(1), vec![found("t/a", HOURLY, "1", None).snapshot]);
        let volume = "t/a".parse().unwrap();
        for (snapshot, is_ours) in [
            (found("t/a", HOURLY, "1", None), true),
            (found("t/a", HOURLY, "2", None), false),
            (found("t/a", "other", "1", None), false),
            // A replica has the guid as well.
            (found("backup/a", HOURLY, "1", None), false),
        ] {
            let all = [snapshot];
            assert_eq!(ledger.facts(&volume, &all).len(), usize::from(is_ours), "{all:?}");
            assert_eq!((ledger.knows(&all[0]), ledger.misses(&volume, &all)), (is_ours, !is_ours));
            let mut later = ledger.clone();
            later.forget(&volume, &all);
            assert_eq!(later.taken.len(), usize::from(is_ours));
            later = ledger.clone();
            later.forget(&"t/b".parse().unwrap(), &[]);
            assert_eq!(later, ledger);
        }
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let mut ledger = Ledger::default();
        ledger.begin(begun(&["t/a"]));
        ledger.finish(&id(1), vec![found("t/a", HOURLY, "1", None).snapshot]);
        ledger.begin(begun(&["t/b"]));
        let text = ledger.to_text().unwrap();
        assert_eq!(Ledger::parse(&text).unwrap(), ledger);
        assert!(text.contains("\"volume\":\"t/a\",\"snapshot\":\"vitrify_2026"), "{text}");
        assert!(matches!(Ledger::parse(&text[..20]), Err(BadLedger::Damaged(_))));
        assert!(matches!(Ledger::parse("{\"version\":2}"), Err(BadLedger::Version(2))));
    }
}
