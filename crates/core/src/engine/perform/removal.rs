//! What each effect of a removal is in terms of the ports.

use std::collections::BTreeMap;

use super::misplaced;
use crate::inventory::Snapshot;
use crate::name::PointId;
use crate::operation::{Effect, Fact, History};
use crate::ports::{Answer, World};
use crate::removal::RemovalPlan;

/// A removal in progress.
pub(super) struct Removal<'a> {
    pub(super) world: &'a World<'a>,
    pub(super) plan: &'a RemovalPlan,
    pub(super) history: History<'a>,
}

impl Removal<'_> {
    pub(super) fn perform(&self, effect: &Effect) -> Answer<Fact> {
        let (homes, guest) = (self.world.homes, &self.plan.guest_uuid);
        match effect {
            Effect::RemovePoint { point } => homes.discard(guest, point)?,
            Effect::ExpireMemory { point } => homes.expire_memory(guest, point)?,
            Effect::DestroySnapshots => {
                let free = self.plan.free_snapshots(&self.history);
                self.release(&free)?;
                self.world.storage.destroy(&free)?;
            }
            _ => return Err(misplaced(effect)),
        }
        Ok(Fact::Done)
    }

    /// No point needs these any more: what still holds them for one was left by a `hold` or a `release`
    /// that died.
    fn release(&self, free: &[Snapshot]) -> Answer<()> {
        let storage = self.world.storage;
        // What cannot be looked at says so when it is to be destroyed.
        let found = storage.snapshots(&self.plan.volumes()).unwrap_or_default();
        let mut left: BTreeMap<PointId, Vec<Snapshot>> = BTreeMap::new();
        for it in found.into_iter().filter(|it| free.contains(&it.snapshot)) {
            for point in it.held_for.into_iter().flatten() {
                left.entry(point).or_default().push(it.snapshot.clone());
            }
        }
        left.into_iter().try_for_each(|(point, snapshots)| storage.release(&snapshots, &point))
    }
}
