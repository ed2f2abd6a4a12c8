//! Chooses the engine for a guest, and says why not a better one.

use super::error::CaptureError;
use super::plan::{GuestFacts, GuestRequest, is_written};
use crate::capture::{Consistency, CoveredDisk, Engine, MemorySource};
use crate::definition::{Agent, Definition};
use crate::inventory::{DiskSource, GuestState};
use crate::manifest::UncoveredDisk;
use crate::name::Bytes;
use crate::ports::StoreFacts;
use crate::problem::ProblemKind;

/// What was chosen.
pub(super) struct Chosen {
    pub(super) engine: Engine,
    pub(super) consistency: Consistency,
    pub(super) memory: MemorySource,
    pub(super) reason: String,
}

/// What the store has to give to the guests of one plan.
pub(super) struct Room<'a> {
    store: &'a StoreFacts,
    usable: Bytes,
}

impl<'a> Room<'a> {
    pub(super) fn of(store: &'a StoreFacts) -> Self {
        Self { store, usable: Bytes(store.free.0.saturating_sub(store.reserve.0)) }
    }

    /// A guest's memory image will take this much at most.
    pub(super) fn promise(&mut self, definition: &Definition) {
        self.usable.0 = self.usable.0.saturating_sub(needed(definition).0);
    }
}

fn needed(definition: &Definition) -> Bytes {
    Bytes(definition.memory_kib * 1024)
}

/// Why an engine cannot be had.
struct Obstacle {
    kind: ProblemKind,
    text: String,
}

fn lacking(text: impl Into<String>) -> Option<Obstacle> {
    Some(Obstacle { kind: ProblemKind::Lacking, text: text.into() })
}

/// What each engine reaches with a guest that is active, the best first.
const ENGINES: [(Engine, Consistency); 4] = [
    (Engine::Instant, Consistency::Memory),
    (Engine::Overlay, Consistency::Memory),
    (Engine::Freeze, Consistency::Frozen),
    (Engine::Plain, Consistency::Crash),
];

/// Chooses the best engine that fits what is asked for.
pub(super) fn choose(
    wanted: &GuestRequest,
    facts: &GuestFacts<'_>,
    disks: &[CoveredDisk],
    uncovered: &[UncoveredDisk],
    room: &Room<'_>,
) -> Result<Chosen, CaptureError> {
    if facts.guest.state == GuestState::ShutOff {
        return shut_off(wanted, facts, uncovered, room);
    }
    let fits = |(engine, consistency): &&(Engine, Consistency)| {
        wanted.engine.is_none_or(|it| it == *engine)
            && wanted.consistency.is_none_or(|it| it == *consistency)
    };
    let mut passed_over: Vec<String> = Vec::new();
    let mut kind = ProblemKind::Lacking;
    for &(engine, consistency) in ENGINES.iter().filter(fits) {
        let Some(obstacle) = obstacle(engine, wanted, facts, disks, uncovered, room) else {
            let memory = match engine {
                Engine::Instant => MemorySource::Stream,
                Engine::Overlay => MemorySource::Dump,
                Engine::Freeze | Engine::Plain => MemorySource::None,
            };
            let reason = match (passed_over.is_empty(), engine) {
                (false, _) => passed_over.join("; "),
                (true, Engine::Instant) => "the guest runs and its memory can be kept".to_owned(),
                (true, _) => "as asked for".to_owned(),
            };
            return Ok(Chosen { engine, consistency, memory, reason });
        };
        kind = obstacle.kind;
        let without = match engine {
            Engine::Instant => "not instant",
            Engine::Overlay => "no memory image",
            Engine::Freeze | Engine::Plain => "not frozen",
        };
        // What keeps both of the engines that keep memory from it is said once.
        passed_over.retain(|it| engine != Engine::Overlay || !it.ends_with(&obstacle.text));
        passed_over.push(format!("{without}: {}", obstacle.text));
    }
    let reason = if !passed_over.is_empty() {
        passed_over.join("; ")
    } else if wanted.consistency == Some(Consistency::Off) {
        "it is not shut off".to_owned()
    } else {
        "that engine gives another consistency".to_owned()
    };
    Err(cannot(wanted, facts, reason, kind))
}

fn cannot(
    wanted: &GuestRequest,
    facts: &GuestFacts<'_>,
    reason: String,
    kind: ProblemKind,
) -> CaptureError {
    let engine = wanted.engine.map(|it| format!("engine {it}"));
    let consistency = wanted.consistency.map(|it| format!("consistency {it}"));
    let words: Vec<_> = engine.into_iter().chain(consistency).collect();
    CaptureError::CannotReach {
        guest: facts.guest.name.clone(),
        wanted: words.join(" and "),
        reason,
        kind,
    }
}

fn obstacle(
    engine: Engine,
    wanted: &GuestRequest,
    facts: &GuestFacts<'_>,
    disks: &[CoveredDisk],
    uncovered: &[UncoveredDisk],
    room: &Room<'_>,
) -> Option<Obstacle> {
    if let Some((_, how)) = wanted.failed.iter().find(|(failed, _)| *failed == engine) {
        return lacking(how);
    }
    if engine != Engine::Plain && facts.guest.state == GuestState::PausedByUser {
        return lacking("the guest is suspended, and stays so");
    }
    match engine {
        Engine::Plain => None,
        Engine::Freeze => match facts.definition.agent {
            Agent::Connected => None,
            Agent::Silent => lacking("no guest agent answers (install qemu-guest-agent)"),
            Agent::Absent => lacking("the guest has no channel for a guest agent"),
        },
        Engine::Instant => shared_ram(facts.definition)
            .or_else(|| facts.guest.no_stream.as_ref().and_then(lacking))
            .or_else(|| {
                let unasked = facts.guest.frail_stream.as_ref().filter(|_| wanted.engine.is_none());
                unasked.and_then(lacking)
            })
            .or_else(|| memory_obstacle(facts.definition, uncovered, room)),
        Engine::Overlay => unseen_writer(facts.definition)
            .or_else(|| confinement(facts.definition, disks))
            .or_else(|| memory_obstacle(facts.definition, uncovered, room)),
    }
}

/// QEMU does not refuse such a guest, and the image would be torn without a word (measured with
/// another process that wrote to a shared page).
fn shared_ram(definition: &Definition) -> Option<Obstacle> {
    let what = definition.shares_ram_with?.what;
    lacking(format!("{what} writes to its RAM behind QEMU's back"))
}

/// What QEMU is not told of, libvirt's dump misses as well.
fn unseen_writer(definition: &Definition) -> Option<Obstacle> {
    let sharer = definition.shares_ram_with?;
    shared_ram(definition).filter(|_| !sharer.is_known_to_qemu)
}

/// AppArmor's profile of a guest denies writing to what lies below an overlay. QEMU has a file open
/// since before; a block device it opens again for the commit, and is refused (measured with
/// libvirt 11.3.0 on Debian's AppArmor).
fn confinement(definition: &Definition, disks: &[CoveredDisk]) -> Option<Obstacle> {
    let is_device = |disk: &&CoveredDisk| {
        let source = definition.disk(&disk.target).map(|it| &it.source);
        matches!(source, Some(DiskSource::Block(_)))
    };
    let disk = disks.iter().find(is_device).filter(|_| definition.apparmor)?;
    lacking(format!(
        "disk {} is the block device {}, and AppArmor would refuse to commit an overlay into it",
        disk.target,
        disk.path.display()
    ))
}

/// Why the disks cannot be put on overlays, in words.
pub(super) fn overlay_obstacle(definition: &Definition, disks: &[CoveredDisk]) -> Option<String> {
    confinement(definition, disks).map(|it| it.text)
}

/// Why the point cannot have a memory image, whatever takes it.
fn memory_obstacle(
    definition: &Definition,
    uncovered: &[UncoveredDisk],
    room: &Room<'_>,
) -> Option<Obstacle> {
    if let Some(disk) = uncovered.first() {
        return lacking(format!("disk {} is not captured ({})", disk.target, disk.reason));
    }
    let ignores_flushes =
        definition.disks.iter().find(|it| is_written(it) && it.cache.as_deref() == Some("unsafe"));
    if let Some(disk) = ignores_flushes {
        let target = &disk.target;
        return lacking(format!("disk {target} has cache='unsafe', which ignores flushes"));
    }
    if let Some(reason) = &room.store.no_memory {
        return lacking(reason);
    }
    let (needed, usable) = (needed(definition), room.usable);
    (usable < needed).then(|| Obstacle {
        kind: ProblemKind::NoSpace,
        text: format!(
            "the store {} has {usable} to give above its reserve of {}, and RAM may need {needed}",
            room.store.path.display(),
            room.store.reserve,
        ),
    })
}

fn plain(consistency: Consistency, reason: String) -> Chosen {
    Chosen { engine: Engine::Plain, consistency, memory: MemorySource::None, reason }
}

fn shut_off(
    wanted: &GuestRequest,
    facts: &GuestFacts<'_>,
    uncovered: &[UncoveredDisk],
    room: &Room<'_>,
) -> Result<Chosen, CaptureError> {
    if wanted.engine.is_some_and(|it| it != Engine::Plain) {
        let reason = "the guest is shut off".to_owned();
        return Err(cannot(wanted, facts, reason, ProblemKind::Lacking));
    }
    let chosen = if facts.guest.managed_save {
        saved(wanted, facts, uncovered, room)
    } else {
        plain(Consistency::Off, "the guest is shut off".into())
    };
    match wanted.consistency {
        // What a guest that is shut off has is more than the crash that was asked for.
        Some(Consistency::Crash) => Ok(chosen),
        Some(demanded) if demanded != chosen.consistency => {
            Err(cannot(wanted, facts, chosen.reason, ProblemKind::Lacking))
        }
        _ => Ok(chosen),
    }
}

/// A guest that libvirt saved: its image is its memory.
fn saved(
    wanted: &GuestRequest,
    facts: &GuestFacts<'_>,
    uncovered: &[UncoveredDisk],
    room: &Room<'_>,
) -> Chosen {
    let without = |why: &str| {
        plain(Consistency::Crash, format!("the guest is saved by libvirt, and its image {why}"))
    };
    let lower = wanted.engine == Some(Engine::Plain)
        || wanted.consistency.is_some_and(|it| it != Consistency::Memory);
    if lower {
        return without("was not asked for");
    }
    let Some(path) = &facts.managed_save_image else { return without("could not be read") };
    match memory_obstacle(facts.definition, uncovered, room) {
        Some(obstacle) => without(&format!("is not kept: {}", obstacle.text)),
        None => Chosen {
            engine: Engine::Plain,
            consistency: Consistency::Memory,
            memory: MemorySource::ManagedSave { path: path.clone() },
            reason: "the guest is saved by libvirt, and the point keeps its image".into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::capture::{Facts, GuestFacts, Naming, Planned, Request, plan};
    use crate::fake::{Fake, capture_request};
    use crate::inventory::{Guest, Location, ObjectId};
    use crate::ports::{Homes as _, Hypervisor as _};

    const AGENT: &str = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' \
                         state='connected'/></channel>";
    const CONFINED: &str = "<seclabel model='apparmor'><label>libvirt-1</label></seclabel>";

    /// A disk of some kind; those with a path lie on one volume.
    fn disk(letter: char, kind: &str) -> String {
        let (device, kind, source, more) = match kind {
            "file" => ("disk", "file", format!("<source file='/vm/{letter}'/>"), ""),
            "block" => ("disk", "block", format!("<source dev='/dev/zvol/p/{letter}'/>"), ""),
            "unsafe" => {
                let source = format!("<driver cache='unsafe'/><source file='/vm/{letter}'/>");
                ("disk", "file", source, "")
            }
            "network" => ("disk", "network", "<source protocol='nbd'/>".to_owned(), ""),
            "shareable" => ("disk", "file", "<source file='/s'/>".to_owned(), "<shareable/>"),
            "lun" => ("lun", "block", "<source dev='/dev/sdx'/>".to_owned(), ""),
            "cdrom" => ("cdrom", "file", "<source file='/iso'/>".to_owned(), "<readonly/>"),
            "empty" => ("cdrom", "file", String::new(), "<readonly/>"),
            "floppy" => ("floppy", "file", "<source file='/fd'/>".to_owned(), ""),
            _ => ("disk", "file", format!("<source file='/golden/{letter}'/>"), "<readonly/>"),
        };
        format!(
            "<disk type='{kind}' device='{device}'>{source}<target dev='vd{letter}'/>{more}</disk>"
        )
    }

    /// What is planned for a running guest with these disks and devices.
    fn planned(
        disks: &str,
        more: &str,
        ask: impl FnOnce(&mut GuestRequest, &mut Guest),
    ) -> Planned {
        let fake = Fake::with_guest(1);
        let mut request: Request = capture_request(1);
        let mut guest = fake.inspect(&fake.guest_uuid()).unwrap();
        ask(&mut request.guests[0], &mut guest);
        let disks: String =
            disks.split_whitespace().zip('a'..).map(|(kind, letter)| disk(letter, kind)).collect();
        let (devices, label) = more.split_once("<seclabel").unwrap_or((more, ""));
        let label = if label.is_empty() { String::new() } else { format!("<seclabel{label}") };
        let definition = Definition::parse(&format!(
            "<domain><memory>1024</memory><os><type machine='pc'>hvm</type></os>\
             <devices>{disks}{devices}</devices>{label}</domain>"
        ))
        .unwrap();
        let location = |disk: &crate::inventory::Disk| {
            let path = disk.source.path()?;
            let location = Location {
                volume: "pool/vm".parse().ok()?,
                path_in_volume: path.file_name().map(Into::into),
                object: ObjectId(path.display().to_string()),
                group: "pool".into(),
                warnings: Vec::new(),
            };
            Some((disk.target.clone(), Ok(location)))
        };
        let facts = Facts {
            guests: vec![GuestFacts {
                guest: &guest,
                definition: &definition,
                locations: definition.disks.iter().filter_map(location).collect::<BTreeMap<_, _>>(),
                machine_files: Vec::new(),
                managed_save_image: None,
            }],
            snapshots: Vec::new(),
            overlay_volume: None,
            store: fake.store().unwrap(),
            boot: "b".into(),
            kernel: "k".into(),
            hypervisor: "h".into(),
        };
        assert!(matches!(request.name, Naming::Given(_)));
        plan(&request, &facts).unwrap()
    }

    fn shown(planned: &Planned) -> String {
        match &planned.plan {
            Some(plan) => {
                let it = &plan.members[0];
                let targets: Vec<_> = it.disks.iter().map(|disk| disk.target.as_str()).collect();
                format!("{} of {}: {}", it.engine, targets.join(" "), it.reason)
            }
            None => format!("no: {}", planned.refused[0].1),
        }
    }

    /// Columns: disks, devices and labels, what is planned begins so.
    #[test]
    fn each_kind_of_disk() {
        let both = format!("{AGENT}{CONFINED}");
        let shared = "<filesystem><driver type='virtiofs'/></filesystem>";
        let confined = format!("{shared}{CONFINED}");
        for (disks, more, wanted) in [
            ("file", "", "instant of vda: the guest runs"),
            ("file file", "", "instant of vda vdb: the guest runs"),
            ("block", "", "instant of vda: the guest runs"),
            ("file", CONFINED, "instant of vda: the guest runs"),
            ("file block", &both, "instant of vda vdb: the guest runs"),
            ("file", shared, "overlay of vda: not instant: a shared folder by virtiofs writes"),
            ("block", &confined, "plain of vda: not instant: a shared folder by virtiofs writes"),
            ("file", "<shmem name='s'/>", "plain of vda: no memory image: shared memory (ivshmem)"),
            ("file cdrom empty floppy golden", "", "instant of vda: the guest runs"),
            ("file network", "", "plain of vda: no memory image: disk vdb is not captured"),
            ("file shareable", "", "plain of vda: no memory image: disk vdb is not captured"),
            ("file lun", AGENT, "freeze of vda: no memory image: disk vdb is not captured"),
            ("unsafe", "", "plain of vda: no memory image: disk vda has cache='unsafe'"),
            ("network cdrom", "", "no: guest 'w' has no writable disk on local storage"),
        ] {
            let found = shown(&planned(disks, more, |_, _| ()));
            assert!(found.starts_with(wanted), "{disks} {more}: {found}, not {wanted}");
        }
    }

    #[test]
    fn a_qemu_that_cannot_stream_is_not_tried() {
        let forbid = |guest: &mut Guest| guest.no_stream = Some("it may not".to_owned());
        let found = shown(&planned("file", "", |_, guest| forbid(guest)));
        assert!(found.starts_with("overlay of vda: not instant: it may not"), "{found}");
        let refused = planned("file", "", |request, guest| {
            forbid(guest);
            request.engine = Some(Engine::Instant);
        });
        assert!(shown(&refused).ends_with("it may not"), "{}", shown(&refused));
    }

    #[test]
    fn a_stream_that_is_frail_must_be_asked_for() {
        let frail = |guest: &mut Guest| guest.frail_stream = Some("it is old".to_owned());
        let found = shown(&planned("file", "", |_, guest| frail(guest)));
        assert!(found.starts_with("overlay of vda: not instant: it is old"), "{found}");
        let asked = planned("file", "", |request, guest| {
            frail(guest);
            request.engine = Some(Engine::Instant);
        });
        assert!(shown(&asked).starts_with("instant of vda"), "{}", shown(&asked));
    }

    /// Columns: disks, labels, why there are no overlays inside the pause begins so.
    #[test]
    fn what_keeps_overlays_out_of_the_pause() {
        for (disks, labels, wanted) in [
            ("file", "", None),
            ("file", CONFINED, None),
            ("file block", "", None),
            ("file block", CONFINED, Some("disk vdb is the block device /dev/zvol/p/b, and")),
        ] {
            let plan = planned(disks, labels, |_, _| ()).plan.unwrap();
            let (member, case) = (&plan.members[0], format!("{disks} {labels}"));
            assert_eq!(member.engine, Engine::Instant, "{case}");
            match (&member.no_overlays, wanted) {
                (Some(found), Some(wanted)) => {
                    assert!(found.starts_with(wanted), "{case}: {found}");
                }
                (found, wanted) => assert_eq!(found.as_deref(), wanted, "{case}"),
            }
        }
    }

    /// Columns: state, agent, engine and consistency asked for, engines that failed, what is planned.
    #[test]
    fn each_demand() {
        use Consistency as C;
        use Engine::{Freeze, Instant, Overlay, Plain};
        use GuestState::{PausedByUser, Running, ShutOff};
        for (state, agent, engine, consistency, failed, wanted) in [
            (Running, false, None, None, vec![], "instant of vda"),
            (Running, false, Some(Overlay), None, vec![], "overlay of vda: as asked for"),
            (Running, true, None, None, vec![Instant], "overlay of vda: not instant: it failed"),
            (Running, true, None, Some(C::Frozen), vec![], "freeze of vda: as asked for"),
            (Running, true, Some(Freeze), None, vec![], "freeze of vda: as asked for"),
            (Running, true, None, Some(C::Crash), vec![], "plain of vda: as asked for"),
            (
                Running,
                true,
                None,
                None,
                vec![Instant, Overlay],
                "freeze of vda: no memory image: it",
            ),
            (Running, true, None, None, vec![Instant, Overlay, Freeze], "plain of vda: no memory"),
            (
                Running,
                false,
                None,
                Some(C::Frozen),
                vec![],
                "no: guest 'w' cannot be captured with",
            ),
            (Running, true, Some(Freeze), Some(C::Memory), vec![], "no: guest 'w' cannot"),
            (Running, true, Some(Plain), Some(C::Memory), vec![], "no: guest 'w' cannot"),
            (Running, true, None, Some(C::Off), vec![], "no: guest 'w' cannot be captured with"),
            (PausedByUser, true, None, None, vec![], "plain of vda: no memory image: the guest is"),
            (PausedByUser, true, None, Some(C::Frozen), vec![], "no: guest 'w' cannot"),
            (ShutOff, false, None, None, vec![], "plain of vda: the guest is shut off"),
            (ShutOff, false, None, Some(C::Crash), vec![], "plain of vda: the guest is shut off"),
            (ShutOff, false, Some(Overlay), None, vec![], "no: guest 'w' cannot"),
            (ShutOff, false, None, Some(C::Memory), vec![], "no: guest 'w' cannot"),
        ] {
            let case = format!("{state:?} {agent} {engine:?} {consistency:?} {failed:?}");
            let planned = planned("file", if agent { AGENT } else { "" }, |request, guest| {
                guest.state = state;
                (request.engine, request.consistency) = (engine, consistency);
                request.failed =
                    failed.into_iter().map(|engine| (engine, "it failed".to_owned())).collect();
            });
            let found = shown(&planned);
            assert!(found.starts_with(wanted), "{case}: {found}, not {wanted}");
        }
    }
}
