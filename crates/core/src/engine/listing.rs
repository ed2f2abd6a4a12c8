//! The snapshots of many volumes at one look, for decisions on each guest alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::inventory::FoundSnapshot;
use crate::name::Volume;
use crate::ports::{Answer, Storage};

/// The snapshots that volumes had when they were listed together: good for decisions. What is to be
/// destroyed is looked at again under the locks.
pub struct Listing<'a> {
    storage: &'a dyn Storage,
    /// Those of each volume; nothing where not all of them could be listed together.
    seen: BTreeMap<Volume, Vec<FoundSnapshot>>,
}

impl<'a> Listing<'a> {
    /// Lists them by as few looks at the storage as can be.
    pub fn of(storage: &'a dyn Storage, volumes: BTreeSet<Volume>) -> Self {
        let volumes: Vec<_> = volumes.into_iter().collect();
        let mut seen = BTreeMap::new();
        // One volume out of reach must not stand for the others: each is asked for alone then.
        if let Ok(found) = storage.snapshots(&volumes) {
            seen.extend(volumes.into_iter().map(|it| (it, Vec::new())));
            for it in found {
                seen.entry(it.snapshot.volume.clone()).or_default().push(it);
            }
        }
        Self { storage, seen }
    }

    /// The snapshots that these volumes have.
    ///
    /// # Errors
    /// What stands against listing these alone.
    pub fn snapshots(&self, volumes: &BTreeSet<Volume>) -> Answer<Vec<FoundSnapshot>> {
        let seen: Option<Vec<_>> = volumes.iter().map(|it| self.seen.get(it)).collect();
        match seen {
            Some(seen) => Ok(seen.into_iter().flatten().cloned().collect()),
            None => self.storage.snapshots(&volumes.iter().cloned().collect::<Vec<_>>()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use crate::inventory::Snapshot;
    use crate::problem::ProblemKind;

    fn volumes(names: &[&str]) -> BTreeSet<Volume> {
        names.iter().map(|it| it.parse().unwrap()).collect()
    }

    /// Each of these volumes has a snapshot of that name.
    fn world(volumes: &BTreeSet<Volume>) -> Fake {
        let fake = Fake::with_guest(volumes.len());
        let all: Vec<_> = volumes.iter().cloned().collect();
        fake.world().storage.snapshot(&all, &"p1".parse().unwrap(), &[]).unwrap();
        fake
    }

    fn found(listing: &Listing<'_>, names: &[&str]) -> Vec<Snapshot> {
        let found = listing.snapshots(&volumes(names)).unwrap();
        found.into_iter().map(|it| it.snapshot).collect()
    }

    #[test]
    fn one_look_serves_any_number_of_guests() {
        for count in [1, 10, 100] {
            let names: Vec<_> = (0..count).map(|it| format!("/pool/w{it}")).collect();
            let all: BTreeSet<Volume> = names.iter().map(|it| it.parse().unwrap()).collect();
            let fake = world(&all);
            let listing = Listing::of(&fake, all);
            for name in &names {
                let its = found(&listing, &[name]);
                assert_eq!((its.len(), its[0].volume.as_str()), (1, name.as_str()));
            }
            assert_eq!(fake.listings(), 1, "{count} volumes");
        }
    }

    #[test]
    fn one_volume_out_of_reach_fails_only_its_own() {
        let all = volumes(&["/pool/w0", "/pool/w1", "/pool/w2"]);
        let fake = world(&all);
        fake.lose_volume(&"/pool/w1".parse().unwrap());
        let listing = Listing::of(&fake, all);
        assert_eq!(found(&listing, &["/pool/w0", "/pool/w2"]).len(), 2);
        let problem = listing.snapshots(&volumes(&["/pool/w0", "/pool/w1"])).unwrap_err();
        assert_eq!(
            (problem.kind, problem.message.contains("/pool/w1")),
            (ProblemKind::Lacking, true)
        );
    }

    /// What was not looked at is not known to have none.
    #[test]
    fn a_volume_that_was_not_listed_is_asked_for() {
        let all = volumes(&["/pool/w0", "/pool/w1"]);
        let fake = world(&all);
        let listing = Listing::of(&fake, volumes(&["/pool/w0"]));
        assert_eq!(found(&listing, &["/pool/w0", "/pool/w1"]).len(), 2);
        assert_eq!(fake.listings(), 2);
        assert_eq!(found(&listing, &["/pool/gone"]), []);
    }
}
