//! The fault sweep: every single failure and every crash of a capture and of a restore, and every
//! pair of them, ends in a settled world after one undisturbed repair.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use vitrify_core::capture::{Consistency, Engine};
use vitrify_core::engine::{Observer, plan_capture, plan_restore, run, take_over};
use vitrify_core::fake::{
    Fake, FakeGuest, FakeStream, Fault, FaultKind, Nobody, capture_request, guest_request,
    restore_request,
};
use vitrify_core::inventory::GuestState;
use vitrify_core::operation::{Effect, Fact, Outcome, Plan, Settle};
use vitrify_core::ports::{Answer, Homes, Journal};
use vitrify_core::problem::Problem;

#[derive(Debug, Clone, Copy)]
enum Scenario {
    CaptureMemory { disks: usize },
    CaptureOverlay { disks: usize },
    CaptureSlow { disks: usize },
    CaptureSuspended,
    CaptureOff,
    CaptureManagedSave,
    CaptureFrozen,
    CaptureSet,
    CaptureMemorySet,
    CaptureSlowSet,
    RestoreMemory { disks: usize },
    RestoreCold,
    RestoreDevice,
    RestoreChangedDefinition,
}

impl Scenario {
    const ALL: [Self; 18] = [
        Self::CaptureMemory { disks: 1 },
        Self::CaptureMemory { disks: 2 },
        Self::CaptureOverlay { disks: 1 },
        Self::CaptureOverlay { disks: 2 },
        Self::CaptureSlow { disks: 1 },
        Self::CaptureSlow { disks: 2 },
        Self::CaptureSuspended,
        Self::CaptureOff,
        Self::CaptureManagedSave,
        Self::CaptureFrozen,
        Self::CaptureSet,
        Self::CaptureMemorySet,
        Self::CaptureSlowSet,
        Self::RestoreMemory { disks: 1 },
        Self::RestoreMemory { disks: 2 },
        Self::RestoreCold,
        Self::RestoreDevice,
        Self::RestoreChangedDefinition,
    ];

    fn is_restore(self) -> bool {
        !matches!(
            self,
            Self::CaptureMemory { .. }
                | Self::CaptureOverlay { .. }
                | Self::CaptureSlow { .. }
                | Self::CaptureSuspended
                | Self::CaptureOff
                | Self::CaptureManagedSave
                | Self::CaptureFrozen
                | Self::CaptureSet
                | Self::CaptureMemorySet
                | Self::CaptureSlowSet
        )
    }

    /// A world before the operation, without faults yet.
    fn set_up(self) -> (Fake, Plan) {
        let disks = match self {
            Self::CaptureMemory { disks }
            | Self::CaptureOverlay { disks }
            | Self::CaptureSlow { disks }
            | Self::RestoreMemory { disks } => disks,
            _ => 2,
        };
        let fake = match self {
            Self::RestoreDevice => Fake::with_disks(1, 1),
            _ => Fake::with_guest(disks),
        };
        let shut_off = matches!(self, Self::CaptureOff | Self::CaptureManagedSave);
        fake.change_guest(|guest| {
            if shut_off {
                guest.state = GuestState::ShutOff;
                guest.session = None;
                guest.live.clear();
            }
            if matches!(self, Self::CaptureManagedSave) {
                guest.managed_save = Some(100);
            }
        });
        let mut request = capture_request(1);
        request.guests[0].consistency = match self {
            Self::CaptureSuspended => Some(Consistency::Crash),
            Self::CaptureFrozen => Some(Consistency::Frozen),
            _ => None,
        };
        fake.change_guest(|guest| guest.agent = matches!(self, Self::CaptureFrozen));
        if matches!(self, Self::CaptureOverlay { .. }) {
            request.guests[0].engine = Some(Engine::Overlay);
        }
        if matches!(self, Self::CaptureSlow { .. } | Self::CaptureSlowSet) {
            fake.slow_down(Duration::from_secs(1));
        }
        if matches!(self, Self::CaptureSet | Self::CaptureMemorySet | Self::CaptureSlowSet) {
            let mut neighbour = guest_request(fake.add_neighbour(), 2);
            if matches!(self, Self::CaptureSet) {
                neighbour.consistency = Some(Consistency::Crash);
            }
            request.guests.push(neighbour);
        }
        let plan = plan_capture(&fake.world(), &request).unwrap().plan.unwrap();
        if !self.is_restore() {
            return (fake, Plan::Capture(plan));
        }
        let captured = run(&fake.world(), Plan::Capture(plan), &Nobody);
        assert!(matches!(captured, Ok(Outcome::Captured { .. })));
        if matches!(self, Self::RestoreChangedDefinition) {
            fake.put_file(Path::new("/pool/w0/moved.img"), 5);
            fake.change_guest(|guest| {
                guest.inactive.insert("vda".into(), "/pool/w0/moved.img".into());
            });
        }
        let mut request = restore_request();
        request.cold = matches!(self, Self::RestoreCold);
        let point = fake.points().unwrap().remove(0);
        let plan = plan_restore(&fake.world(), &request, Path::new("/overlays"), &point).unwrap();
        (fake, Plan::Restore(plan))
    }
}

/// Runs the operation and, after each death, a repair; then one undisturbed repair, and where the
/// host lost its power, the operator's word: the one tried, else the one that is always possible.
fn live_through(fake: &Fake, plan: Plan, word: Settle) {
    let _ = run(&fake.world(), plan, &Nobody);
    while fake.is_dead() {
        fake.revive();
        let _ = repair(fake, Settle::Commit);
    }
    fake.schedule(&[]);
    repair(fake, Settle::Commit).unwrap();
    for word in [word, Settle::CommitOffline] {
        if !fake.entries().unwrap().is_empty() {
            repair(fake, word).unwrap();
        }
    }
}

fn repair(fake: &Fake, settle: Settle) -> Answer<()> {
    for entry in fake.entries()? {
        take_over(&fake.world(), entry, settle, &Nobody)?;
    }
    Ok(())
}

fn check(fake: &Fake, scenario: Scenario, before: &Fake) -> Result<(), String> {
    let ensure = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
    ensure(fake.entries().unwrap().is_empty(), "a journal entry is left")?;
    for path in fake.files().keys() {
        let known = path.starts_with("/pool") && !path.to_string_lossy().contains(".vitrify-");
        ensure(known, &format!("{} is left", path.display()))?;
    }
    ensure(fake.save_images().is_empty(), "a save image is left")?;
    for (guest, was) in fake.all_guests().iter().zip(before.all_guests()) {
        check_guest(fake, scenario, guest, &was)
            .map_err(|what| format!("guest {}: {what}", guest.name))?;
    }
    check_points(fake)
}

fn check_guest(
    fake: &Fake,
    scenario: Scenario,
    guest: &FakeGuest,
    was: &FakeGuest,
) -> Result<(), String> {
    let ensure = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
    let lost_power = guest.state == GuestState::ShutOff;
    for path in guest.live.values().chain(guest.inactive.values()) {
        ensure(path.starts_with("/pool"), "it is on an overlay")?;
    }
    ensure(!guest.frozen, "it is frozen")?;
    ensure(guest.stream.is_none(), "a stream of its RAM is open")?;
    ensure(
        guest.state == was.state || lost_power || guest.state == GuestState::Running,
        &format!("it is {:?}", guest.state),
    )?;
    if !scenario.is_restore() && !lost_power {
        ensure(guest.session == was.session, "it was restarted")?;
    }
    // Whatever was restored was restored whole: the guest could start from its disks.
    let files = fake.files();
    let mut contents: Vec<u64> =
        guest.inactive.values().filter_map(|path| files.get(path)).map(|it| it.content).collect();
    contents.dedup();
    let moved = guest.inactive.values().any(|path| path.ends_with("moved.img"));
    ensure(contents.len() == 1 || moved, &format!("its disks are torn: {contents:?}"))
}

fn check_points(fake: &Fake) -> Result<(), String> {
    let mut bound = BTreeSet::new();
    let snapshots = fake.all_snapshots();
    for point in fake.all_points() {
        let manifest = point.manifest.as_ref().ok_or("an unpublished point is left")?;
        let mut contents: Vec<u64> = Vec::new();
        bound.extend(manifest.volumes.iter().map(|volume| volume.id.clone()));
        for disk in &manifest.disks {
            let volume = manifest.snapshot_of(disk).ok_or("a disk's snapshot is not bound")?;
            let found = snapshots.iter().find(|it| it.snapshot == *volume);
            let files = &found.ok_or("a published point has lost a snapshot")?.files;
            let inside = disk.path_in_volume.clone().unwrap_or_default();
            contents.push(*files.get(&inside).ok_or("a snapshot does not hold its disk")?);
        }
        contents.dedup();
        if contents.len() != 1 {
            return Err(format!("a published point is torn: {contents:?}"));
        }
        let whole = point.memory == contents.first().copied();
        if manifest.consistency == Consistency::Memory && !whole {
            return Err("memory and disks of a published point differ".into());
        }
    }
    match snapshots.iter().find(|it| !bound.contains(&it.snapshot.id)) {
        Some(it) => Err(format!("snapshot {} is left", it.snapshot.name)),
        None => Ok(()),
    }
}

/// Lives through the operation with these faults, counted from its beginning, and answers how many
/// calls that took.
fn try_case(
    scenario: Scenario,
    (before, plan): &(Fake, Plan),
    faults: &[Fault],
    word: Settle,
) -> usize {
    let fake = before.clone();
    let offset = fake.calls();
    let shifted: Vec<_> =
        faults.iter().map(|fault| Fault { at: fault.at + offset, ..*fault }).collect();
    fake.schedule(&shifted);
    live_through(&fake, plan.clone(), word);
    if let Err(problem) = check(&fake, scenario, before) {
        panic!("{scenario:?} with {faults:?}: {problem}");
    }
    fake.calls() - offset
}

#[test]
fn every_fault_and_every_pair_of_faults_ends_settled() {
    let calls =
        |scenario: Scenario| try_case(scenario, &scenario.set_up(), &[], Settle::CommitOffline);
    let places: Vec<_> = Scenario::ALL
        .into_iter()
        .flat_map(|scenario| (0..calls(scenario)).map(move |at| (scenario, at)))
        .collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut cases = 0;
        while let Some(&(scenario, at)) = places.get(next.fetch_add(1, Ordering::Relaxed)) {
            cases += sweep(scenario, at);
        }
        cases
    };
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let cases: u64 = thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|it| it.join().unwrap()).sum()
    });
    // Past the test runner, which keeps what a passing test prints to itself.
    writeln!(std::io::stderr(), "fault sweep: {cases} cases, all settled").unwrap();
    assert!(cases > 100_000, "only {cases} cases");
}

/// Every fault at this call, alone and before every other; how many cases that was.
fn sweep(scenario: Scenario, at: usize) -> u64 {
    let mut cases = 0_u64;
    let start = scenario.set_up();
    for kind in FaultKind::ALL {
        let first = Fault { at, kind };
        let after = try_case(scenario, &start, &[first], Settle::CommitOffline);
        cases += 1;
        for second_at in at + 1..after {
            for kind in FaultKind::ALL {
                let even = cases.is_multiple_of(2);
                let word = if even { Settle::CommitOffline } else { Settle::Discard };
                let second = Fault { at: second_at, kind };
                try_case(scenario, &start, &[first, second], word);
                cases += 1;
            }
        }
    }
    cases
}

#[test]
fn undisturbed_operations_do_what_they_say() {
    for scenario in Scenario::ALL {
        let (fake, plan) = scenario.set_up();
        let outcome = run(&fake.world(), plan, &Nobody).unwrap();
        match outcome {
            Outcome::Captured { failures, .. } => {
                assert!(
                    !scenario.is_restore() && failures.is_empty(),
                    "{scenario:?}: {failures:?}"
                );
            }
            Outcome::Restored => {
                assert!(scenario.is_restore());
                assert_eq!(fake.guest().state, GuestState::Running, "{scenario:?}");
            }
            other => panic!("{scenario:?}: {other:?}"),
        }
    }
}

/// Somebody else's hand, at one moment of an operation.
struct Hand<'a> {
    fake: &'a Fake,
    before: fn(&Effect) -> bool,
    does: fn(&mut FakeGuest),
}

impl Observer for Hand<'_> {
    fn begins(&self, effect: &Effect) {
        if (self.before)(effect) {
            self.fake.change_guest(self.does);
        }
    }

    fn ended(&self, _: &Effect, _: &Result<Fact, Problem>) {}

    fn cancelled(&self) -> bool {
        false
    }
}

#[test]
fn a_stream_that_is_somebody_elses_is_left_alone() {
    let (fake, plan) = Scenario::CaptureMemory { disks: 1 }.set_up();
    let theirs = Some(FakeStream::Begun { ram: 7, whole: true });
    fake.change_guest(|guest| guest.stream = theirs);
    let outcome = run(&fake.world(), plan, &Nobody).unwrap();
    assert!(matches!(outcome, Outcome::Abandoned { failure: Some(_) }), "{outcome:?}");
    assert_eq!(fake.guest().stream, theirs);
}

/// Columns: the scenario, before which step somebody else does what, what the failure says.
#[test]
fn what_others_do_meanwhile_spoils_the_point() {
    type Row = (Scenario, fn(&Effect) -> bool, fn(&mut FakeGuest), &'static str);
    let rows: [Row; 6] = [
        (
            Scenario::CaptureFrozen,
            |it| matches!(it, Effect::Thaw { .. }),
            |guest| guest.frozen = false,
            "thawed by somebody else",
        ),
        (
            Scenario::CaptureFrozen,
            |it| matches!(it, Effect::SnapshotVolumes),
            |guest| guest.frozen = false,
            "were thawed while",
        ),
        (
            Scenario::CaptureMemory { disks: 2 },
            |it| matches!(it, Effect::SaveMemory { .. }),
            |guest| guest.resumes += 1,
            "somebody else resumed",
        ),
        (
            Scenario::CaptureMemory { disks: 1 },
            |it| matches!(it, Effect::SnapshotVolumes),
            |guest| {
                guest.state = GuestState::Running;
                guest.resumes += 1;
            },
            "somebody else resumed",
        ),
        (
            Scenario::CaptureSlow { disks: 1 },
            |it| matches!(it, Effect::PutOverlays { .. }),
            |guest| guest.state = GuestState::Running,
            "is not suspended",
        ),
        (
            Scenario::CaptureSlow { disks: 2 },
            |it| matches!(it, Effect::SaveMemory { .. }),
            |guest| guest.resumes += 1,
            "somebody else resumed",
        ),
    ];
    for (scenario, before, does, wanted) in rows {
        let (fake, plan) = scenario.set_up();
        let start = fake.clone();
        let hand = Hand { fake: &fake, before, does };
        match run(&fake.world(), plan, &hand).unwrap() {
            Outcome::Abandoned { failure: Some(failure) } => {
                let message = &failure.problem.message;
                assert!(message.contains(wanted), "{scenario:?}: {message}");
            }
            other => panic!("{scenario:?}: {other:?}"),
        }
        check(&fake, scenario, &start).unwrap();
    }
}
