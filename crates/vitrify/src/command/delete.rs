//! `vitrify delete`.

use std::collections::BTreeSet;

use serde_json::json;
use vitrify_core::name::{GuestName, PointId};
use vitrify_core::ports::{Answer, FoundPoint};
use vitrify_core::problem::Problem;

use crate::args::DeleteArgs;
use crate::command::confirm::confirm;
use crate::command::removal::{Guest, Removed, Wanted, remove, remove_unreadable};
use crate::context::{Context, Host};
use crate::exit::{DONE, Status};
use crate::output;

pub(crate) fn run(context: &Context, args: &DeleteArgs) -> Answer<Status> {
    let point = context.point(&args.point)?;
    let manifest = match &point.manifest {
        Ok(manifest) => manifest,
        Err(problem) => return delete_unreadable(context, &args.point.guest, &point, problem),
    };
    let host = context.host()?;
    let name = manifest.name().map_or_else(|| manifest.id.to_string(), ToString::to_string);
    let loss = format!("the point {}@{name} will be gone for good", manifest.guest);
    confirm(context, &manifest.guest, &loss)?;
    let guest = Guest { name: &manifest.guest, uuid: &manifest.guest_uuid };
    let wanted = Wanted { points: BTreeSet::from([manifest.id.clone()]), images: Vec::new() };
    let removed = remove(context, &host, guest, &wanted)?;
    let kept = match manifest.volumes.len() - removed.destroyed.len() {
        0 => String::new(),
        kept => format!("; {kept} of its snapshots serve other points and stay"),
    };
    tell(context, &manifest.guest, (&name, &manifest.id), removed, &kept)
}

/// Says what became of a point, and of its snapshots.
fn tell(
    context: &Context,
    guest: &GuestName,
    (point, id): (&str, &PointId),
    removed: Removed,
    of_snapshots: &str,
) -> Answer<Status> {
    if let Some(failure) = removed.failures.into_iter().next() {
        return Err(failure.into());
    }
    if context.json {
        output::json(&json!({
            "version": 1,
            "guest": guest,
            "point": point,
            "id": id,
            "destroyed": removed.destroyed,
        }));
    } else {
        output::result(&format!("{guest}@{point}: deleted{of_snapshots}\n"));
    }
    Ok(DONE)
}

/// Gives a point up whose manifest cannot be read.
fn delete_unreadable(
    context: &Context,
    guest: &GuestName,
    point: &FoundPoint,
    problem: &Problem,
) -> Answer<Status> {
    let host = context.host()?;
    check_home(context, &host, guest, point)?;
    let id = &point.id;
    let loss = format!(
        "{}. What the home has of the point {id} of '{guest}' will be gone for good, with its memory image; \
         the snapshots of its disks stay, because only the manifest tells which they are",
        problem.chain()
    );
    confirm(context, guest, &loss)?;
    let removed = remove_unreadable(context, &host, Guest { name: guest, uuid: &point.guest }, id)?;
    let left = "; 'vitrify repair' names the snapshots that it left";
    tell(context, guest, (id.as_str(), id), removed, left)
}

/// Whether a point lies in the home of this guest, which may be named by its uuid.
fn check_home(
    context: &Context,
    host: &Host<'_>,
    guest: &GuestName,
    point: &FoundPoint,
) -> Answer<()> {
    let home = &point.guest;
    let is_its = |it: &FoundPoint| {
        it.guest == *home && it.manifest.as_ref().is_ok_and(|it| it.guest == *guest)
    };
    if guest.as_str() == home.as_str()
        || host.guest(guest).is_ok_and(|it| it.uuid == *home)
        || context.points()?.iter().any(is_its)
    {
        return Ok(());
    }
    let message =
        format!("the point {} lies in another guest's home, not in one of '{guest}'", point.id);
    Err(Problem::not_found(message).hint(format!("'vitrify delete {home}@{}' means it", point.id)))
}
