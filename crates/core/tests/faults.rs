//! The fault sweep: every single failure and every crash of a capture and of a restore, and every
//! pair of them, ends in a settled world after one undisturbed repair.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;

use vitrify_core::capture::Consistency;
use vitrify_core::engine::{plan_capture, plan_restore, run, take_over};
use vitrify_core::fake::{Fake, Fault, FaultKind, Nobody, capture_request, restore_request};
use vitrify_core::inventory::GuestState;
use vitrify_core::operation::{Outcome, Plan, Settle};
use vitrify_core::ports::{Answer, Homes, Journal};

#[derive(Debug, Clone, Copy)]
enum Scenario {
    CaptureMemory { disks: usize },
    CaptureSuspended,
    CaptureOff,
    CaptureManagedSave,
    RestoreMemory { disks: usize },
    RestoreCold,
    RestoreChangedDefinition,
}

impl Scenario {
    const ALL: [Self; 9] = [
        Self::CaptureMemory { disks: 1 },
        Self::CaptureMemory { disks: 2 },
        Self::CaptureSuspended,
        Self::CaptureOff,
        Self::CaptureManagedSave,
        Self::RestoreMemory { disks: 1 },
        Self::RestoreMemory { disks: 2 },
        Self::RestoreCold,
        Self::RestoreChangedDefinition,
    ];

    fn is_restore(self) -> bool {
        matches!(
            self,
            Self::RestoreMemory { .. } | Self::RestoreCold | Self::RestoreChangedDefinition
        )
    }

    /// A world before the operation, without faults yet.
    fn set_up(self) -> (Fake, Plan) {
        let disks = match self {
            Self::CaptureMemory { disks } | Self::RestoreMemory { disks } => disks,
            _ => 2,
        };
        let fake = Fake::with_guest(disks);
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
        if matches!(self, Self::CaptureSuspended) {
            request.consistency = Some(Consistency::Crash);
        }
        let plan = plan_capture(&fake.world(), &request, &fake.guest_uuid()).unwrap();
        if !self.is_restore() {
            return (fake, Plan::Capture(plan));
        }
        let captured = run(&fake.world(), Plan::Capture(plan), &Nobody);
        assert!(matches!(captured, Ok(Outcome::Published(_))));
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
    let (guest, was) = (fake.guest(), before.guest());
    let lost_power = guest.state == GuestState::ShutOff;

    ensure(fake.entries().unwrap().is_empty(), "a journal entry is left")?;
    for path in guest.live.values().chain(guest.inactive.values()) {
        ensure(path.starts_with("/pool"), "the guest is on an overlay")?;
    }
    for path in fake.files().keys() {
        let known = path.starts_with("/pool") && !path.to_string_lossy().contains(".vitrify-");
        ensure(known, &format!("{} is left", path.display()))?;
    }
    ensure(
        guest.state == was.state || lost_power || guest.state == GuestState::Running,
        &format!("the guest is {:?}", guest.state),
    )?;
    if !scenario.is_restore() && !lost_power {
        ensure(guest.session == was.session, "the guest was restarted")?;
    }
    check_points(fake)?;

    // Whatever was restored was restored whole: the guest could start from its disks.
    let files = fake.files();
    let mut contents: Vec<u64> =
        guest.inactive.values().filter_map(|path| files.get(path)).map(|it| it.content).collect();
    contents.dedup();
    let moved = guest.inactive.values().any(|path| path.ends_with("moved.img"));
    ensure(contents.len() == 1 || moved, &format!("the disks are torn: {contents:?}"))
}

fn check_points(fake: &Fake) -> Result<(), String> {
    let mut bound = BTreeSet::new();
    let snapshots = fake.all_snapshots();
    for point in fake.all_points() {
        let manifest = point.manifest.as_ref().ok_or("an unpublished point is left")?;
        let mut contents: Vec<u64> = Vec::new();
        for volume in &manifest.volumes {
            bound.insert(volume.id.clone());
            let found = snapshots.iter().find(|(it, _)| it == volume);
            let (_, files) = found.ok_or("a published point has lost a snapshot")?;
            let disks = files.iter().filter(|(path, _)| path.ends_with("disk.img"));
            contents.extend(disks.map(|(_, content)| content));
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
    match snapshots.iter().find(|(it, _)| !bound.contains(&it.id)) {
        Some((snapshot, _)) => Err(format!("snapshot {} is left", snapshot.id)),
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
    let mut cases = 0_u64;
    for scenario in Scenario::ALL {
        let start = scenario.set_up();
        let calls = try_case(scenario, &start, &[], Settle::CommitOffline);
        for at in 0..calls {
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
        }
    }
    // Past the test runner, which keeps what a passing test prints to itself.
    writeln!(std::io::stderr(), "fault sweep: {cases} cases, all settled").unwrap();
    assert!(cases > 10_000, "only {cases} cases");
}

#[test]
fn undisturbed_operations_do_what_they_say() {
    for scenario in Scenario::ALL {
        let (fake, plan) = scenario.set_up();
        let outcome = run(&fake.world(), plan, &Nobody).unwrap();
        match outcome {
            Outcome::Published(_) => assert!(!scenario.is_restore()),
            Outcome::Restored => {
                assert!(scenario.is_restore());
                assert_eq!(fake.guest().state, GuestState::Running, "{scenario:?}");
            }
            other => panic!("{scenario:?}: {other:?}"),
        }
    }
}
