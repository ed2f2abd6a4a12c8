//! Whatever the journal holds, an operation comes to an end, and on the way there it never does
//! what cannot be made good again.

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use vitrify_core::capture::Consistency;
use vitrify_core::engine::{plan_capture, plan_restore, run};
use vitrify_core::fake::{Fake, Nobody, capture_request, restore_request};
use vitrify_core::inventory::{GuestState, ObjectId};
use vitrify_core::manifest::MemoryImage;
use vitrify_core::name::Bytes;
use vitrify_core::operation::{Effect, Fact, Next, Outcome, Plan, Record, Settle, next};
use vitrify_core::ports::{Homes, Published};
use vitrify_core::problem::{ProblemKind, ProblemNote};

/// More steps than any plan here has, there and back.
const BOUND: usize = 100;

/// One plan of each shape.
fn plans() -> Vec<Plan> {
    let capture = |disks, change: &dyn Fn(&Fake), wanted| {
        let fake = Fake::with_guest(disks);
        change(&fake);
        let request = vitrify_core::capture::Request { consistency: wanted, ..capture_request(1) };
        let plan = plan_capture(&fake.world(), &request, &fake.guest_uuid()).unwrap();
        (fake, plan)
    };
    let off = |fake: &Fake, managed_save| {
        fake.change_guest(|guest| {
            guest.state = GuestState::ShutOff;
            guest.session = None;
            guest.live.clear();
            guest.managed_save = managed_save;
        });
    };
    let mut plans: Vec<Plan> = [
        capture(1, &|_| {}, None),
        capture(2, &|_| {}, None),
        capture(2, &|_| {}, Some(Consistency::Crash)),
        capture(2, &|fake| off(fake, None), None),
        capture(1, &|fake| off(fake, Some(100)), None),
    ]
    .into_iter()
    .map(|(_, plan)| Plan::Capture(plan))
    .collect();
    for (cold, moved) in [(false, false), (true, false), (false, true)] {
        let (fake, plan) = capture(2, &|_| {}, None);
        run(&fake.world(), Plan::Capture(plan), &Nobody).unwrap();
        if moved {
            let elsewhere = |guest: &mut vitrify_core::fake::FakeGuest| {
                guest.inactive.insert("vda".into(), "/pool/w0/moved.img".into());
            };
            fake.change_guest(elsewhere);
        }
        let request = vitrify_core::restore::Request { cold, ..restore_request() };
        let point = fake.points().unwrap().remove(0);
        let overlays = Path::new("/overlays");
        plans.push(Plan::Restore(plan_restore(&fake.world(), &request, overlays, &point).unwrap()));
    }
    plans
}

/// Every effect that a plan can come to, those of its way back included.
fn effects(plan: &Plan) -> Vec<Effect> {
    match plan {
        Plan::Capture(plan) => {
            let mut effects = plan.steps();
            for disk in &plan.disks {
                let settle = |how| Effect::SettleOverlay { target: disk.target.clone(), how };
                effects.extend([Settle::CommitOffline, Settle::Discard].map(settle));
            }
            effects.extend([
                Effect::AbortSnapshotJob,
                Effect::DestroySnapshots,
                Effect::DiscardPoint,
            ]);
            effects
        }
        Plan::Restore(plan) => {
            let mut effects = plan.steps();
            let unswap = |file: &vitrify_core::restore::RestoreFile| Effect::UnswapFile {
                file: file.label.clone(),
            };
            effects.extend(plan.files.iter().map(unswap));
            effects.push(Effect::Redefine);
            effects
        }
    }
}

fn fact(effect: &Effect) -> Fact {
    let published = Published { stored: Bytes(1), home_snapshot: None };
    let memory = MemoryImage { bytes: Bytes(1), blake3: String::new() };
    match effect {
        Effect::Publish => Fact::Published(published),
        Effect::SealMemory => Fact::Sealed { memory },
        Effect::SnapshotVolumes => {
            Fact::Snapshots { snapshots: Vec::new(), time: jiff::Timestamp::UNIX_EPOCH }
        }
        Effect::PrepareFile { file } => Fact::Prepared { object: ObjectId(file.clone()) },
        _ => Fact::Done,
    }
}

/// How one step ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Well,
    Badly(ProblemKind),
    /// The process dies before it can say how, and another takes over.
    Death {
        same_boot: bool,
        settle: Settle,
    },
}

fn settle() -> impl Strategy<Value = Settle> {
    select(vec![Settle::Commit, Settle::CommitOffline, Settle::Discard])
}

fn end() -> impl Strategy<Value = End> {
    use ProblemKind::{Failed, NoSpace, NotFound, Refused, TimedOut};
    prop_oneof![
        6 => Just(End::Well),
        2 => select(vec![Failed, NoSpace, NotFound, Refused, TimedOut]).prop_map(End::Badly),
        1 => (any::<bool>(), settle()).prop_map(|(same_boot, settle)| End::Death { same_boot, settle }),
    ]
}

fn boot(plan: &Plan, same: bool) -> String {
    match (plan, same) {
        (Plan::Capture(plan), true) => plan.boot.clone(),
        (Plan::Restore(plan), true) => plan.boot.clone(),
        (_, false) => "another".into(),
    }
}

fn record_end(records: &mut Vec<Record>, plan: &Plan, effect: Effect, end: End) {
    records.push(match end {
        End::Well => Record::Done { fact: fact(&effect), effect },
        End::Badly(kind) => {
            let problem = ProblemNote { kind, message: "no".into(), hint: None };
            Record::Failed { effect, problem }
        }
        End::Death { same_boot, settle } => {
            Record::TakenOver { boot: boot(plan, same_boot), settle }
        }
    });
}

/// Records in any order, of any effects, whether they can come about or not.
fn arbitrary(plan: &Plan, picks: &[(Index, u8, End)]) -> Vec<Record> {
    let effects = effects(plan);
    let mut records = Vec::new();
    for (index, kind, end) in picks {
        let effect = effects[index.index(effects.len())].clone();
        if kind % 2 == 0 {
            records.push(Record::Begun { effect: effect.clone() });
        }
        if kind % 3 != 0 {
            record_end(&mut records, plan, effect, *end);
        }
    }
    records
}

fn done(records: &[Record], wanted: &Effect) -> bool {
    records.iter().any(|it| matches!(it, Record::Done { effect, .. } if effect == wanted))
}

fn begun(records: &[Record], wanted: &Effect) -> bool {
    records.iter().any(|it| matches!(it, Record::Begun { effect } if effect == wanted))
}

/// What must hold whenever an effect is proposed.
fn check(plan: &Plan, records: &[Record], effect: &Effect) -> Result<(), TestCaseError> {
    prop_assert!(effects(plan).contains(effect), "{effect} is no step of this plan");
    prop_assert!(!done(records, effect), "{effect} is done already");
    match effect {
        Effect::DestroySnapshots | Effect::DiscardPoint => {
            prop_assert!(!done(records, &Effect::Publish), "{effect} after the point is published");
        }
        Effect::SwapFile { .. } => {
            prop_assert!(done(records, &Effect::Stop), "{effect} before the guest is stopped");
        }
        _ => {}
    }
    let clears = matches!(
        effect,
        Effect::DestroySnapshots | Effect::DiscardPoint | Effect::RemoveOverlay { .. }
    );
    if clears && begun(records, &Effect::Suspend) {
        prop_assert!(done(records, &Effect::Resume), "{effect} before the guest is resumed");
    }
    Ok(())
}

/// What must hold when it is over and nothing is left to repair.
fn check_over(plan: &Plan, records: &[Record], outcome: &Outcome) -> Result<(), TestCaseError> {
    let undone = |begin: Effect, end: Effect| !begun(records, &begin) || done(records, &end);
    match (plan, outcome) {
        (_, Outcome::Unsettled { .. }) => {}
        (Plan::Capture(plan), outcome) => {
            prop_assert!(undone(Effect::Suspend, Effect::Resume), "the guest is left suspended");
            for disk in &plan.disks {
                let remove = Effect::RemoveOverlay { target: disk.target.clone() };
                prop_assert!(undone(Effect::ExternalSnapshot, remove), "an overlay is left");
            }
            if matches!(outcome, Outcome::Abandoned { .. }) {
                let snapshots = undone(Effect::SnapshotVolumes, Effect::DestroySnapshots);
                prop_assert!(snapshots, "snapshots are left");
                prop_assert!(undone(Effect::StagePoint, Effect::DiscardPoint), "a point is left");
            } else {
                prop_assert!(done(records, &Effect::Publish), "it is not published");
            }
        }
        (Plan::Restore(plan), Outcome::Abandoned { .. }) => {
            for file in plan.files.iter().map(|file| file.label.clone()) {
                let (swap, prepare, unswap, drop) = (
                    Effect::SwapFile { file: file.clone() },
                    Effect::PrepareFile { file: file.clone() },
                    Effect::UnswapFile { file: file.clone() },
                    Effect::DropFile { file },
                );
                prop_assert!(undone(swap, unswap), "a file is left in place");
                prop_assert!(undone(prepare, drop), "a spare is left");
            }
            prop_assert!(undone(Effect::Define, Effect::Redefine), "a definition is left");
        }
        (Plan::Restore(plan), _) => {
            prop_assert!(plan.steps().iter().all(|step| done(records, step)), "a step is left");
        }
    }
    Ok(())
}

/// Goes on from the records, each step ending as it is drawn and well when nothing more is, until
/// it is over.
fn live(plan: &Plan, records: &mut Vec<Record>, ends: &[End]) -> Result<(), TestCaseError> {
    let mut ends = ends.iter().copied();
    for _ in 0..BOUND {
        match next(plan, records) {
            Next::Finished(outcome) => {
                prop_assert_eq!(next(plan, records), Next::Finished(outcome.clone()));
                return check_over(plan, records, &outcome);
            }
            Next::Perform(effect) => {
                check(plan, records, &effect)?;
                records.push(Record::Begun { effect: effect.clone() });
                record_end(records, plan, effect, ends.next().unwrap_or(End::Well));
            }
        }
    }
    Err(TestCaseError::fail(format!("no end after {BOUND} steps: {records:?}")))
}

/// Histories that came about, with every kind of failure and death on the way, and repairs after
/// them until nothing is left unsettled or the operator gives up.
#[test]
fn every_life_ends_in_order() {
    let plans = plans();
    let lives = prop::collection::vec(prop::collection::vec(end(), 0..30), 1..4);
    proptest!(ProptestConfig::with_cases(4000), |(index: Index, lives in lives, how in settle())| {
        let plan = index.get(&plans);
        let mut records = Vec::new();
        for ends in &lives {
            live(plan, &mut records, ends)?;
            if !matches!(next(plan, &records), Next::Finished(Outcome::Unsettled { .. })) {
                break;
            }
            records.push(Record::TakenOver { boot: boot(plan, true), settle: how });
        }
    });
}

/// One undisturbed repair settles whatever a life has left behind.
#[test]
fn an_undisturbed_repair_settles() {
    let plans = plans();
    let ends = prop::collection::vec(end(), 0..30);
    proptest!(ProptestConfig::with_cases(4000), |(index: Index, ends in ends, same_boot: bool)| {
        let plan = index.get(&plans);
        let mut records = Vec::new();
        live(plan, &mut records, &ends)?;
        let boot = boot(plan, same_boot);
        records.push(Record::TakenOver { boot, settle: Settle::Commit });
        live(plan, &mut records, &[])?;
        let end = next(plan, &records);
        prop_assert!(!matches!(end, Next::Finished(Outcome::Unsettled { .. })), "{end:?}");
    });
}

/// Histories that nobody has lived through: damaged by hand, or written by another version.
#[test]
fn every_history_comes_to_an_end() {
    let plans = plans();
    let picks = prop::collection::vec((any::<Index>(), any::<u8>(), end()), 0..25);
    let ends = prop::collection::vec(end(), 0..30);
    proptest!(ProptestConfig::with_cases(4000), |(index: Index, picks in picks, ends in ends)| {
        let plan = index.get(&plans);
        let mut records = arbitrary(plan, &picks);
        live(plan, &mut records, &ends)?;
    });
}
