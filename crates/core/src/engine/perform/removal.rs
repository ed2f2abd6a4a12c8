//! What each effect of a removal is in terms of the ports.

use super::misplaced;
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
                self.world.storage.destroy(&self.plan.free_snapshots(&self.history))?;
            }
            _ => return Err(misplaced(effect)),
        }
        Ok(Fact::Done)
    }
}
