//! The fault sweep: every single failure and every crash of a capture and of a restore, and every
//! pair of them, ends in a settled world after one undisturbed repair.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use vitrify_core::capture::{Consistency, Engine};
use vitrify_core::engine::{
    Observer, lost_captures, plan_capture, plan_restore, rebuild, reopen, run, take_over,
};
use vitrify_core::fake::{
    Fake, FakeGuest, FakeSnapshot, FakeStream, Fault, FaultKind, Nobody, capture_request,
    guest_request, restore_request,
};
use vitrify_core::inventory::{FoundSnapshot, GuestState};
use vitrify_core::name::PointId;
use vitrify_core::operation::{Effect, Fact, Outcome, Plan, Record, Settle};
use vitrify_core::ports::{Answer, Homes, Hypervisor, Journal, Storage};
use vitrify_core::problem::{Problem, ProblemKind};
use vitrify_core::removal::RemovalPlan;

#[derive(Debug, Clone, Copy)]
enum Scenario {
    CaptureMemory { disks: usize },
    CaptureOverlay { disks: usize },
    CaptureSlow { disks: usize },
    CaptureSuspended,
    CaptureOff,
    CaptureManagedSave,
    CaptureFrozen { disks: usize },
    CaptureSet,
    CaptureMemorySet,
    CaptureSlowSet,
    RestoreMemory { disks: usize },
    RestoreCold,
    RestoreDevice,
    RestoreChangedDefinition,
    RemovePoint,
    RemoveShared,
    RemoveBesideUnreadable,
    RemoveUnreadable,
    ExpireMemory,
}

impl Scenario {
    const ALL: [Self; 24] = [
        Self::CaptureMemory { disks: 1 },
        Self::CaptureMemory { disks: 2 },
        Self::CaptureOverlay { disks: 1 },
        Self::CaptureOverlay { disks: 2 },
        Self::CaptureSlow { disks: 1 },
        Self::CaptureSlow { disks: 2 },
        Self::CaptureSuspended,
        Self::CaptureOff,
        Self::CaptureManagedSave,
        Self::CaptureFrozen { disks: 1 },
        Self::CaptureFrozen { disks: 2 },
        Self::CaptureSet,
        Self::CaptureMemorySet,
        Self::CaptureSlowSet,
        Self::RestoreMemory { disks: 1 },
        Self::RestoreMemory { disks: 2 },
        Self::RestoreCold,
        Self::RestoreDevice,
        Self::RestoreChangedDefinition,
        Self::RemovePoint,
        Self::RemoveShared,
        Self::RemoveBesideUnreadable,
        Self::RemoveUnreadable,
        Self::ExpireMemory,
    ];

    fn is_restore(self) -> bool {
        matches!(
            self,
            Self::RestoreMemory { .. }
                | Self::RestoreCold
                | Self::RestoreDevice
                | Self::RestoreChangedDefinition
        )
    }

    fn is_removal(self) -> bool {
        matches!(
            self,
            Self::RemovePoint
                | Self::RemoveShared
                | Self::RemoveBesideUnreadable
                | Self::RemoveUnreadable
                | Self::ExpireMemory
        )
    }

    fn is_capture(self) -> bool {
        !self.is_restore() && !self.is_removal()
    }

    /// A world before the operation, without faults yet.
    fn set_up(self) -> (Fake, Plan) {
        let disks = match self {
            Self::CaptureMemory { disks }
            | Self::CaptureOverlay { disks }
            | Self::CaptureSlow { disks }
            | Self::CaptureFrozen { disks }
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
            Self::CaptureFrozen { .. } => Some(Consistency::Frozen),
            _ => None,
        };
        fake.change_guest(|guest| guest.agent = matches!(self, Self::CaptureFrozen { .. }));
        if matches!(self, Self::CaptureOverlay { .. }) {
            request.guests[0].engine = Some(Engine::Overlay);
        }
        if matches!(self, Self::CaptureSlow { .. } | Self::CaptureSlowSet) {
            fake.slow_down(Duration::from_secs(1));
        }
        if matches!(
            self,
            Self::CaptureSet
                | Self::CaptureMemorySet
                | Self::CaptureSlowSet
                | Self::RemoveShared
                | Self::RemoveBesideUnreadable
        ) {
            let mut neighbour = guest_request(fake.add_neighbour(), 2);
            if matches!(self, Self::CaptureSet) {
                neighbour.consistency = Some(Consistency::Crash);
            }
            request.guests.push(neighbour);
        }
        let plan = plan_capture(&fake.world(), &request).unwrap().plan.unwrap();
        if self.is_capture() {
            return (fake, Plan::Capture(plan));
        }
        let captured = run(&fake.world(), Plan::Capture(plan), &Nobody);
        assert!(matches!(captured, Ok(Outcome::Captured { .. })));
        if self.is_removal() {
            let plan = self.removal(&fake);
            return (fake, Plan::Removal(plan));
        }
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

impl Scenario {
    /// Of three points of a guest the first two go, or the first one's memory image, or the first as one
    /// that cannot be read. The first may share its snapshots with a neighbour's point; where that one
    /// cannot be read, the second goes alone.
    fn removal(self, fake: &Fake) -> RemovalPlan {
        for number in [8, 9] {
            let plan = plan_capture(&fake.world(), &capture_request(number)).unwrap().plan.unwrap();
            run(&fake.world(), Plan::Capture(plan), &Nobody).unwrap();
        }
        let guest = fake.guest();
        let id: PointId = "00000000-0000-4000-8000-00000000abcd".parse().unwrap();
        let of = (guest.name, fake.guest_uuid());
        let all: Vec<_> =
            fake.points().unwrap().into_iter().map(|it| it.manifest.unwrap()).collect();
        let mut its: Vec<_> = all.iter().filter(|it| it.guest_uuid == fake.guest_uuid()).collect();
        its.sort_by_key(|it| it.time);
        let [first, second] = [0, 1].map(|place: usize| its[place].id.clone());
        if matches!(self, Self::RemoveUnreadable) {
            fake.damage_point(&first);
            return RemovalPlan::of_unreadable(id, of, first);
        }
        let readable: Vec<_> = match self {
            Self::RemoveBesideUnreadable => its.clone(),
            _ => all.iter().collect(),
        };
        let (doomed, images) = match self {
            Self::ExpireMemory => (BTreeSet::new(), vec![first.clone()]),
            Self::RemoveBesideUnreadable => (BTreeSet::from([second]), Vec::new()),
            _ => (BTreeSet::from([first.clone(), second]), Vec::new()),
        };
        let plan = RemovalPlan::new(id.clone(), of.clone(), &doomed, images, &readable);
        if matches!(self, Self::RemoveBesideUnreadable) {
            let theirs = all.iter().find(|it| it.guest_uuid != fake.guest_uuid()).unwrap();
            fake.damage_point(&theirs.id);
            let (points, snapshots) = (fake.points().unwrap(), found_snapshots(fake));
            assert!(plan.obstacle(&points, &snapshots).is_none());
            // The first shares its snapshot with the one that cannot be read.
            let refused = RemovalPlan::new(id, of, &BTreeSet::from([first]), Vec::new(), &readable);
            let obstacle = refused.obstacle(&points, &snapshots);
            assert_eq!(obstacle.map(|it| &it.id), Some(&theirs.id));
        }
        plan
    }
}

/// The snapshots of all volumes.
fn found_snapshots(fake: &Fake) -> Vec<FoundSnapshot> {
    let volumes: BTreeSet<_> =
        fake.all_snapshots().into_iter().map(|it| it.snapshot.volume).collect();
    fake.snapshots(&volumes.into_iter().collect::<Vec<_>>()).unwrap()
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

/// The same, and of captures that the journal has lost.
fn repair_all(fake: &Fake, settle: Settle) -> Answer<()> {
    repair(fake, settle)?;
    for plan in lost_captures(&fake.world())? {
        let entry = rebuild(&fake.world(), plan)?;
        reopen(&fake.world(), &entry)?;
        take_over(&fake.world(), entry, settle, &Nobody)?;
    }
    Ok(())
}

fn ensure(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

/// That nothing of ours is left, and that the guests are as nobody but us left them.
fn check(fake: &Fake, scenario: Scenario, before: &Fake) -> Result<(), String> {
    check_settled(fake)?;
    if matches!(scenario, Scenario::RemoveUnreadable) {
        let count = |fake: &Fake| (fake.all_points().len(), fake.all_snapshots().len());
        let (points, snapshots) = count(before);
        ensure(count(fake).1 == snapshots, "a snapshot went that nobody knows")?;
        ensure(count(fake).0 + 1 >= points, "a point went that was to stay")?;
    }
    for (guest, was) in fake.all_guests().iter().zip(before.all_guests()) {
        let lost_power = guest.state == GuestState::ShutOff;
        ensure(
            guest.state == was.state || lost_power || guest.state == GuestState::Running,
            &format!("guest {} is {:?}", guest.name, guest.state),
        )?;
        let is_same = scenario.is_restore() || lost_power || guest.session == was.session;
        ensure(is_same, &format!("guest {} was restarted", guest.name))?;
    }
    Ok(())
}

/// That nothing of ours is left, whatever others did.
fn check_settled(fake: &Fake) -> Result<(), String> {
    ensure(fake.entries().unwrap().is_empty(), "a journal entry is left")?;
    ensure(fake.damaged().unwrap().is_empty(), "a damaged journal entry is left")?;
    for path in fake.files().keys() {
        let known = path.starts_with("/pool") && !path.to_string_lossy().contains(".vitrify-");
        ensure(known, &format!("{} is left", path.display()))?;
    }
    ensure(fake.save_images().is_empty(), "a save image is left")?;
    ensure(!fake.is_barred(&fake.guest_uuid()), "the guest cannot be started")?;
    for guest in fake.all_guests() {
        check_guest(fake, &guest).map_err(|what| format!("guest {}: {what}", guest.name))?;
    }
    check_points(fake)
}

fn check_guest(fake: &Fake, guest: &FakeGuest) -> Result<(), String> {
    for path in guest.live.values().chain(guest.inactive.values()) {
        ensure(path.starts_with("/pool"), "it is on an overlay")?;
    }
    ensure(!guest.frozen, "it is frozen")?;
    ensure(guest.state != GuestState::PausedOnError, "it was not let go on")?;
    ensure(guest.stream.is_none(), "a stream of its RAM is open")?;
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
        let whole = point.expired || point.memory == contents.first().copied();
        if manifest.consistency == Consistency::Memory && !whole {
            return Err("memory and disks of a published point differ".into());
        }
    }
    // Those of a point that could not be read when it went are known by nobody.
    let unreadable = fake.unreadable();
    let ours = |it: &&FakeSnapshot| {
        !it.points.is_empty() && it.points.iter().all(|point| !unreadable.contains(point))
    };
    match snapshots.iter().filter(ours).find(|it| !bound.contains(&it.snapshot.id)) {
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

/// Death before a call is death after the one before.
const SWEPT: [FaultKind; 5] = [
    FaultKind::FailBefore,
    FaultKind::FailAfter,
    FaultKind::DieDuring,
    FaultKind::DieAfter,
    FaultKind::PowerLoss,
];

/// Does work for each call of each scenario, on every core, and adds up the cases.
fn sweep(scenarios: &[Scenario], work: fn(Scenario, usize) -> usize) -> usize {
    let calls_of = |it: Scenario| try_case(it, &it.set_up(), &[], Settle::CommitOffline);
    let jobs: Vec<_> =
        scenarios.iter().flat_map(|&it| (0..calls_of(it)).map(move |at| (it, at))).collect();
    let (taken, cases) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let worker = || {
        while let Some(&(scenario, at)) = jobs.get(taken.fetch_add(1, Relaxed)) {
            cases.fetch_add(work(scenario, at), Relaxed);
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(worker))));
    cases.into_inner()
}

#[test]
fn every_fault_and_what_comes_with_it_ends_settled() {
    let captures: Vec<_> = Scenario::ALL.into_iter().filter(|it| it.is_capture()).collect();
    let pairs = sweep(&Scenario::ALL, try_pairs);
    let lost = sweep(&captures, try_without_journal);
    let hands = sweep(&captures, try_hands);
    let cases = pairs + lost + hands;
    // Past the test runner, which keeps what a passing test prints to itself.
    writeln!(
        std::io::stderr(),
        "fault sweep: {cases} cases, all settled: {pairs} of one fault or two, {lost} without a \
         journal, {hands} with others' hands"
    )
    .unwrap();
    assert!(cases > 100_000, "only {cases} cases");
}

/// Every fault at one call, alone and with every other after it; how many cases that are.
fn try_pairs(scenario: Scenario, at: usize) -> usize {
    let start = scenario.set_up();
    let mut cases = 0;
    for kind in SWEPT {
        let first = Fault { at, kind };
        let after = try_case(scenario, &start, &[first], Settle::CommitOffline);
        cases += 1;
        for second_at in at + 1..after {
            for kind in SWEPT {
                let even = cases % 2 == 0;
                let word = if even { Settle::CommitOffline } else { Settle::Discard };
                let second = Fault { at: second_at, kind };
                try_case(scenario, &start, &[first, second], word);
                cases += 1;
            }
        }
    }
    cases
}

/// A repair that meets a fault at one of its calls, and then undisturbed ones; whether it was met.
fn repair_with_fault(
    fake: &Fake,
    repair: fn(&Fake, Settle) -> Answer<()>,
    (at, kind): (usize, FaultKind),
) -> bool {
    let fault = Fault { at: fake.calls() + at, kind };
    fake.schedule(&[fault]);
    let _ = repair(fake, Settle::Commit);
    let was_met = fake.calls() > fault.at;
    fake.schedule(&[]);
    fake.revive();
    for word in [Settle::Commit, Settle::CommitOffline] {
        repair(fake, word).unwrap();
    }
    was_met
}

/// A world in which the operation has died at that call, unless it does not die of that.
fn dead(start: &(Fake, Plan), at: usize, kind: FaultKind) -> Option<Fake> {
    let fake = start.0.clone();
    fake.schedule(&[Fault { at: at + fake.calls(), kind }]);
    let _ = run(&fake.world(), start.1.clone(), &Nobody);
    fake.schedule(&[]);
    fake.is_dead().then(|| {
        fake.revive();
        fake
    })
}

/// After a death at one call the journal is gone, or cannot be believed, and the repair meets one
/// fault of each call.
fn try_without_journal(scenario: Scenario, at: usize) -> usize {
    let start = scenario.set_up();
    let mut cases = 0;
    for kind in SWEPT {
        let Some(left) = dead(&start, at, kind) else { continue };
        for second_at in 0.. {
            let (fake, second) = (left.clone(), SWEPT[(at + second_at) % SWEPT.len()]);
            match cases % 2 {
                0 => fake.lose_journal(),
                _ => fake.damage_journal(),
            }
            let was_met = repair_with_fault(&fake, repair_all, (second_at, second));
            check(&fake, scenario, &start.0).unwrap_or_else(|what| {
                panic!("{scenario:?}: {kind:?} at {at}, {second:?} at {second_at}: {what}")
            });
            cases += 1;
            if !was_met {
                break;
            }
        }
    }
    cases
}

/// Whether a commit into the first volume has begun and not ended, and whether any commit has begun.
fn commits_first_volume(fake: &Fake) -> (bool, bool) {
    let entries = fake.entries().unwrap();
    let records: Vec<_> = entries.iter().flat_map(|it| &it.records).collect();
    let is_commit = |effect: &Effect| {
        matches!(effect, Effect::SettleOverlay { how: Settle::Commit | Settle::CommitOffline, .. })
    };
    let begun = records.iter().filter_map(|it| match it {
        Record::Begun { effect } if is_commit(effect) => Some(effect),
        _ => None,
    });
    let begun: Vec<_> = begun.collect();
    let ended = |wanted: &Effect| {
        records.iter().any(|it| matches!(it, Record::Done { effect, .. } if effect == wanted))
    };
    // A guest's first disk lies on the first volume.
    let is_first =
        |it: &Effect| matches!(it, Effect::SettleOverlay { target, .. } if target == "vda");
    (begun.iter().any(|it| is_first(it) && !ended(it)), !begun.is_empty())
}

/// After a death at one call somebody else does something to the guest before it is repaired, and the
/// repair meets one fault of every other call.
fn try_hands(scenario: Scenario, at: usize) -> usize {
    type Hand = (&'static str, fn(&Fake));
    let hands: [Hand; 7] = [
        ("leaves an overlay no room", |fake| {
            fake.change_guest(|it| {
                if it.state == GuestState::Running
                    && it.live.values().any(|it| it.starts_with("/overlays"))
                {
                    it.set_state(GuestState::PausedOnError);
                }
            });
        }),
        ("suspends", |fake| fake.change_guest(|it| it.set_state(GuestState::PausedByUser))),
        ("resumes", |fake| fake.change_guest(|it| it.set_state(GuestState::Running))),
        ("thaws", |fake| fake.change_guest(|it| it.frozen = false)),
        ("shuts off", |fake| fake.change_guest(FakeGuest::shut_off)),
        ("restarts", |fake| {
            fake.change_guest(FakeGuest::shut_off);
            let _ = fake.start(&fake.guest_uuid(), false);
        }),
        ("takes a snapshot", |fake| {
            let (volume, name) = ("/pool/w0".parse().unwrap(), "theirs".parse().unwrap());
            fake.snapshot(&[volume], &name, &[]).unwrap();
        }),
    ];
    let start = scenario.set_up();
    let mut cases = 0;
    for kind in [FaultKind::DieDuring, FaultKind::DieAfter, FaultKind::PowerLoss] {
        let Some(left) = dead(&start, at, kind) else { continue };
        let (is_torn, may_be_torn) = commits_first_volume(&left);
        let is_off = left.guest().state == GuestState::ShutOff;
        for (what, hand) in hands.into_iter().filter(|it| !is_off || it.0 == "restarts") {
            for second_at in (at % 2..).step_by(2) {
                let (fake, second) = (left.clone(), SWEPT[(at + second_at) % SWEPT.len()]);
                hand(&fake);
                let theirs = |fake: &Fake| {
                    let all = fake.all_snapshots().into_iter();
                    all.filter(|it| it.points.is_empty()).map(|it| it.snapshot).collect::<Vec<_>>()
                };
                let before = theirs(&fake);
                let takes = what == "takes a snapshot";
                let was_met = repair_with_fault(&fake, repair, (second_at, second));
                let marked = !fake.torn().unwrap().is_empty();
                let settled = check_settled(&fake).and_then(|()| {
                    ensure(theirs(&fake) == before, "somebody's snapshot is gone")?;
                    ensure(!takes || marked || !is_torn, "their torn snapshot is not marked")?;
                    ensure(!marked || takes && may_be_torn, "a whole snapshot is marked")
                });
                settled.unwrap_or_else(|problem| {
                    panic!(
                        "{scenario:?}: {kind:?} at {at}, somebody {what}, {second:?} at \
                         {second_at}: {problem}"
                    )
                });
                cases += 1;
                if !was_met {
                    break;
                }
            }
        }
    }
    cases
}

/// With both disks on their overlays the base of one is rolled back by hand, the guest running on or
/// shut off: whatever the operator says, no base is written to and no overlay goes.
#[test]
fn nothing_is_committed_when_a_base_was_replaced() {
    let base = Path::new("/pool/w1/disk.img");
    for shut_off in [false, true] {
        let (fake, plan) = Scenario::CaptureOverlay { disks: 2 }.set_up();
        let on_overlays =
            |fake: &Fake| fake.guest().live.values().all(|it| it.starts_with("/overlays"));
        let at = (fake.calls()..)
            .find(|&at| {
                let fake = fake.clone();
                fake.schedule(&[Fault { at, kind: FaultKind::DieAfter }]);
                let _ = run(&fake.world(), plan.clone(), &Nobody);
                on_overlays(&fake)
            })
            .unwrap();
        fake.schedule(&[Fault { at, kind: FaultKind::DieAfter }]);
        let _ = run(&fake.world(), plan, &Nobody);
        fake.revive();
        if shut_off {
            fake.change_guest(|guest| guest.state = GuestState::ShutOff);
        }
        fake.replace_file(base, 7);
        let bases = |fake: &Fake| -> Vec<_> {
            let files = fake.files().into_iter();
            files.filter(|(path, _)| path.starts_with("/pool")).collect()
        };
        let before = bases(&fake);
        for word in [Settle::Commit, Settle::CommitOffline] {
            let entry = fake.entries().unwrap().remove(0);
            let outcome = take_over(&fake.world(), entry, word, &Nobody).unwrap();
            let Outcome::Unsettled { failures, .. } = outcome else { panic!("{outcome:?}") };
            assert!(failures.iter().all(|it| it.problem.kind == ProblemKind::Refused));
            assert_eq!((failures.len(), bases(&fake)), (2, before.clone()), "{failures:?}");
            let overlays = fake.files().into_keys().filter(|it| it.starts_with("/overlays"));
            assert_eq!(overlays.count(), 2);
        }
    }
}

#[test]
fn undisturbed_operations_do_what_they_say() {
    for scenario in Scenario::ALL {
        let (fake, plan) = scenario.set_up();
        let outcome = run(&fake.world(), plan, &Nobody).unwrap();
        match outcome {
            Outcome::Captured { failures, .. } => {
                assert!(scenario.is_capture() && failures.is_empty(), "{scenario:?}: {failures:?}");
            }
            Outcome::Removed { failures } => {
                assert!(scenario.is_removal() && failures.is_empty(), "{scenario:?}: {failures:?}");
                let (points, images) = match scenario {
                    Scenario::RemovePoint => (1, 1),
                    Scenario::RemoveShared | Scenario::RemoveUnreadable => (2, 2),
                    Scenario::RemoveBesideUnreadable => (3, 3),
                    _ => (3, 2),
                };
                let left = fake.all_points();
                assert_eq!(left.len(), points, "{scenario:?}");
                assert_eq!(left.iter().filter(|it| it.memory.is_some()).count(), images);
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
    let rows: [Row; 7] = [
        (
            Scenario::CaptureFrozen { disks: 2 },
            |it| matches!(it, Effect::Thaw { .. }),
            |guest| guest.frozen = false,
            "thawed by somebody else",
        ),
        (
            Scenario::CaptureFrozen { disks: 1 },
            |it| matches!(it, Effect::SnapshotVolumes),
            |guest| guest.frozen = false,
            "were thawed while",
        ),
        (
            Scenario::CaptureFrozen { disks: 2 },
            |it| matches!(it, Effect::SnapshotVolumes),
            |guest| guest.state = GuestState::Running,
            "somebody else changed",
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
