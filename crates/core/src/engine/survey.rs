//! Looks around for the planners: gathers through the ports what a plan is made from.

use std::collections::{BTreeMap, BTreeSet};

use crate::capture::{self, CapturePlan};
use crate::engine::definition_of;
use crate::inventory::{Guest, Snapshot};
use crate::name::{GuestUuid, PointName, Volume};
use crate::ports::{Answer, FoundPoint, World};
use crate::problem::{Problem, ProblemKind};
use crate::restore::{self, RestorePlan};

/// Plans a capture of a guest as it is now.
pub fn plan_capture(
    world: &World<'_>,
    request: &capture::Request,
    guest: &GuestUuid,
) -> Answer<CapturePlan> {
    let guest = world.hypervisor.inspect(guest)?;
    let definition = definition_of(&guest)?;
    let mut locations = BTreeMap::new();
    let mut volumes = Vec::new();
    for disk in &definition.disks {
        let Some(path) = disk.source.path() else { continue };
        let located = world.storage.locate(path);
        volumes.extend(located.as_ref().ok().map(|it| it.volume.clone()));
        locations.insert(disk.target.clone(), located.map_err(|problem| problem.note()));
    }
    let overlay_volume = world.storage.locate(&request.overlay_folder).ok().map(|it| it.volume);
    let managed_save_image = match guest.managed_save {
        true => world.hypervisor.managed_save_image(&guest.name)?,
        false => None,
    };
    let facts = capture::Facts {
        guest: &guest,
        definition: &definition,
        locations,
        snapshots: snapshots_of(world, volumes)?,
        overlay_volume,
        store: world.homes.store()?,
        managed_save_image,
        boot: world.clock.boot()?,
        kernel: world.clock.kernel()?,
        hypervisor: world.hypervisor.version()?,
    };
    Ok(capture::plan(request, &facts)?)
}

/// The names that the snapshots of a guest's volumes have.
pub fn snapshot_names(world: &World<'_>, guest: &Guest) -> Answer<BTreeSet<PointName>> {
    let disks = definition_of(guest)?.disks;
    let paths = disks.iter().filter_map(|disk| disk.source.path());
    let located = paths.filter_map(|path| world.storage.locate(path).ok());
    let snapshots = snapshots_of(world, located.map(|it| it.volume).collect())?;
    Ok(snapshots.into_iter().map(|snapshot| snapshot.name).collect())
}

/// Plans a restore of a point. That its memory image is whole is for the caller to check.
pub fn plan_restore(
    world: &World<'_>,
    request: &restore::Request,
    overlay_folder: &std::path::Path,
    point: &FoundPoint,
) -> Answer<RestorePlan> {
    let manifest = match &point.manifest {
        Ok(manifest) => manifest,
        Err(problem) => return Err(problem.note().into()),
    };
    let inactive_xml = world.homes.read_text(point, "domain.inactive.xml")?;
    let transient = inactive_xml.is_none();
    let definition_xml = match inactive_xml {
        Some(xml) => xml,
        None => world.homes.read_text(point, "domain.xml")?.ok_or_else(|| {
            Problem::refused(format!("point {} holds no definition of its guest", point.id))
        })?,
    };
    let guest = match world.hypervisor.inspect(&manifest.guest_uuid) {
        Ok(guest) => Some(guest),
        Err(problem) if problem.kind == ProblemKind::NotFound => {
            let guests = world.hypervisor.guests()?;
            guests.into_iter().find(|guest| guest.name == manifest.guest)
        }
        Err(problem) => return Err(problem),
    };
    let volumes = manifest.volumes.iter().map(|snapshot| snapshot.volume.clone()).collect();
    let mut real_paths = BTreeMap::new();
    for path in manifest.disks.iter().map(|disk| &disk.path).chain(&manifest.nvram) {
        real_paths.insert(path.clone(), world.storage.resolve(path)?);
    }
    let facts = restore::Facts {
        manifest,
        folder: &point.folder,
        memory: point.memory.as_deref(),
        definition_xml: &definition_xml,
        transient,
        guest: guest.as_ref(),
        snapshots: &snapshots_of(world, volumes)?,
        overlay_folder,
        real_paths,
        boot: world.clock.boot()?,
    };
    let plan = restore::plan(request, &facts)?;
    manifest.volumes.iter().try_for_each(|it| world.storage.check_read_only(it))?;
    Ok(plan)
}

fn snapshots_of(world: &World<'_>, mut volumes: Vec<Volume>) -> Answer<Vec<Snapshot>> {
    volumes.sort();
    volumes.dedup();
    let mut snapshots = Vec::new();
    for volume in &volumes {
        snapshots.extend(world.storage.snapshots(volume)?);
    }
    Ok(snapshots)
}
