//! Homes that are datasets of their own.

use vitrify_core::inventory::FoundSnapshot;
use vitrify_core::name::{GuestUuid, PointId, PointName, Volume};
use vitrify_core::ports::Answer;
use vitrify_core::problem::Problem;

use super::{change, check_pool, dataset, list, with_permission, zfs};

/// What a home's dataset is made with. Pages are written in blocks of 64 KiB; other tools that
/// snapshot or replicate everything leave it alone, because its snapshots are the points.
const PROPERTIES: [&str; 4] =
    ["recordsize=64K", "compression=on", "com.sun:auto-snapshot=false", "syncoid:sync=false"];

/// Makes a guest's home below the store's dataset, mounted below the store.
pub(crate) fn create_home(store: &Volume, guest: &GuestUuid) -> Answer<()> {
    let above = dataset(store)?;
    check_pool(above)?;
    let mut command = zfs("create");
    for property in PROPERTIES {
        command = command.args(["-o", property]);
    }
    change(&command.arg(format!("{above}/{guest}")))
        .map_err(|problem| with_permission(problem, "create,mount", &[above]))
}

/// A home's snapshots are named by their points.
pub(crate) fn name_of_home_snapshot(point: &PointId) -> Answer<PointName> {
    let name = point.as_str().parse();
    name.map_err(|error| Problem::failed("the name of a home's snapshot").from(error))
}

/// The snapshot of a home that was taken for a point, if it is there.
///
/// # Errors
/// `Refused` where one of that name is not the point's.
pub(crate) fn snapshot_of_home(home: &Volume, point: &PointId) -> Answer<Option<FoundSnapshot>> {
    let name = name_of_home_snapshot(point)?;
    let found = list(std::slice::from_ref(home))?.into_iter().find(|it| it.snapshot.name == name);
    match found {
        Some(found) if !found.may_be_of(point) => {
            Err(Problem::refused(format!("the snapshot {home}@{name} is not the point's"))
                .hint("who made it may destroy it"))
        }
        found => Ok(found),
    }
}
