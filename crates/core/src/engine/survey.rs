//! Looks around for the planners: gathers through the ports what a plan is made from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::capture::{self, CapturePlan, MachineFile, NVRAM};
use crate::definition::Definition;
use crate::engine::definition_of;
use crate::inventory::{Guest, Snapshot};
use crate::name::{GuestUuid, Volume};
use crate::ports::{Answer, FoundPoint, Storage, World};
use crate::problem::{Problem, ProblemKind};
use crate::restore::{self, RestorePlan};

/// What was planned of a capture, and why some guests are not in it.
#[derive(Debug)]
pub struct Planned {
    /// The plan; `None` where it would have no guest.
    pub plan: Option<CapturePlan>,
    /// Why a guest is not in it.
    pub refused: Vec<(GuestUuid, Problem)>,
}

/// Plans a capture of these guests as they are now. One that cannot be captured does not keep the
/// others.
///
/// # Errors
/// What stands against the capture of any of them.
pub fn plan_capture(world: &World<'_>, request: &capture::Request) -> Answer<Planned> {
    let (mut wanted, mut found, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for it in &request.guests {
        match look_at(world, &it.guest) {
            Ok(guest) => {
                wanted.push(it.clone());
                found.push(guest);
            }
            Err(problem) => refused.push((it.guest.clone(), problem)),
        }
    }
    let mut paths: Vec<_> = found.iter().flat_map(|it| paths(&it.definition)).cloned().collect();
    paths.push(request.overlay_folder.clone());
    let mut located = world.storage.locate(&paths);
    let overlay_volume = located.pop().and_then(Result::ok).map(|it| it.volume);
    let volumes = located.iter().flatten().map(|it| it.volume.clone()).collect();
    let mut located = located.into_iter();
    let guests = found.iter().map(|it| {
        let local = it.definition.disks.iter().filter(|disk| disk.source.path().is_some());
        let here = located.by_ref().map(|it| it.map_err(|problem| problem.note()));
        capture::GuestFacts {
            guest: &it.guest,
            definition: &it.definition,
            locations: local.map(|disk| disk.target.clone()).zip(here).collect(),
            machine_files: it.machine_files.clone(),
            managed_save_image: it.managed_save_image.clone(),
        }
    });
    let facts = capture::Facts {
        guests: guests.collect(),
        snapshots: snapshots_of(world, volumes)?,
        overlay_volume,
        store: world.homes.store()?,
        boot: world.clock.boot()?,
        kernel: world.clock.kernel()?,
        hypervisor: world.hypervisor.version()?,
    };
    let planned = capture::plan(&capture::Request { guests: wanted, ..request.clone() }, &facts)?;
    refused.extend(planned.refused.into_iter().map(|(guest, error)| (guest, error.into())));
    Ok(Planned { plan: planned.plan, refused })
}

/// The volumes that each guest's disks lie on, as far as they can be found.
pub fn volumes_of(storage: &dyn Storage, guests: &[Guest]) -> Answer<Vec<BTreeSet<Volume>>> {
    let definitions = guests.iter().map(definition_of).collect::<Answer<Vec<_>>>()?;
    let all: Vec<_> = definitions.iter().flat_map(paths).cloned().collect();
    let mut located = storage.locate(&all).into_iter();
    let volumes = |it: &Definition| -> BTreeSet<_> {
        let here = located.by_ref().take(paths(it).count());
        here.filter_map(Result::ok).map(|it| it.volume).collect()
    };
    Ok(definitions.iter().map(volumes).collect())
}

/// A guest and what else can be seen of it.
struct Seen {
    guest: Guest,
    definition: Definition,
    machine_files: Vec<MachineFile>,
    managed_save_image: Option<PathBuf>,
}

fn look_at(world: &World<'_>, guest: &GuestUuid) -> Answer<Seen> {
    let guest = world.hypervisor.inspect(guest)?;
    let definition = definition_of(&guest)?;
    let managed_save_image = match guest.managed_save {
        true => world.hypervisor.managed_save_image(&guest.name)?,
        false => None,
    };
    // A guest that was never started has none of these yet.
    let mut machine_files = Vec::new();
    let state = definition.tpm.as_ref().and_then(|path| Some((path.file_name()?.to_str()?, path)));
    for (name, path) in definition.nvram.iter().map(|path| (NVRAM, path)).chain(state) {
        if world.storage.object(path)?.is_some() {
            machine_files.push(MachineFile { name: name.to_owned(), path: path.clone() });
        }
    }
    Ok(Seen { guest, definition, machine_files, managed_save_image })
}

fn paths(definition: &Definition) -> impl Iterator<Item = &PathBuf> {
    definition.disks.iter().filter_map(|disk| disk.source.path())
}

/// Plans a restore of a point. Whether its memory image is whole is found out before the guest is
/// stopped.
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
    for path in manifest
        .disks
        .iter()
        .map(|disk| &disk.path)
        .chain(manifest.machine_files.iter().map(|it| &it.path))
    {
        real_paths.insert(path.clone(), world.storage.resolve(path)?);
    }
    let facts = restore::Facts {
        manifest,
        folder: &point.folder,
        save_image: point
            .memory
            .as_ref()
            .map(|_| world.homes.save_image(&manifest.guest_uuid, &request.id)),
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
    let found = world.storage.snapshots(&volumes)?;
    Ok(found.into_iter().map(|it| it.snapshot).collect())
}
