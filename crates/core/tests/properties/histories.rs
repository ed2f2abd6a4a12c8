//! Whatever the journal holds, an operation comes to an end, and on the way there it never does
//! what cannot be made good again.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use vitrify_core::capture::{CapturePlan, Consistency};
use vitrify_core::engine::{plan_capture, plan_restore, run};
use vitrify_core::fake::{Fake, Nobody, capture_request, guest_request, restore_request};
use vitrify_core::inventory::{GuestState, ObjectId};
use vitrify_core::manifest::MemoryImage;
use vitrify_core::name::Bytes;
use vitrify_core::operation::{Effect, Fact, History, Next, Outcome, Plan, Record, Settle, next};
use vitrify_core::ports::{Homes, Published};
use vitrify_core::problem::{ProblemKind, ProblemNote};
use vitrify_core::removal::RemovalPlan;

/// More steps than any plan here has, there and back.
const BOUND: usize = 100;

/// One plan of each shape.
fn plans() -> Vec<Plan> {
    let capture = |disks, change: &dyn Fn(&Fake), wanted| {
        let fake = Fake::with_guest(disks);
        change(&fake);
        let mut request = capture_request(1);
        request.guests[0].consistency = wanted;
        let plan = plan_capture(&fake.world(), &request).unwrap().plan.unwrap();
        (fake, plan)
    };
    let with_agent = |fake: &Fake| fake.change_guest(|guest| guest.agent = true);
    let set = || {
        let fake = Fake::with_guest(2);
        let mut request = capture_request(1);
        request.guests.push(guest_request(fake.add_neighbour(), 2));
        (plan_capture(&fake.world(), &request).unwrap().plan.unwrap(), fake)
    };
    // Which of the two ways a capture takes is found out only by the flush.
    let quick = |mut plan: CapturePlan| {
        plan.pause_limit_ms = 10_000;
        plan
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
        capture(2, &with_agent, Some(Consistency::Frozen)),
        capture(2, &|fake| off(fake, None), None),
        capture(1, &|fake| off(fake, Some(100)), None),
    ]
    .into_iter()
    .map(|(_, plan)| Plan::Capture(plan))
    .collect();
    plans.push(Plan::Capture(set().0));
    plans.push(Plan::Capture(quick(capture(2, &|_| {}, None).1)));
    plans.push(Plan::Capture(quick(set().0)));
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
    plans.push(Plan::Removal(removal()));
    plans
}

/// A removal of two points, and of the image of a third.
fn removal() -> RemovalPlan {
    let fake = Fake::with_guest(2);
    for number in 1..4 {
        let plan = plan_capture(&fake.world(), &capture_request(number)).unwrap().plan.unwrap();
        run(&fake.world(), Plan::Capture(plan), &Nobody).unwrap();
    }
    let points = fake.points().unwrap();
    let all: Vec<_> = points.iter().filter_map(|it| it.manifest.as_ref().ok()).collect();
    let doomed = all[..2].iter().map(|it| it.id.clone()).collect();
    let id = "00000000-0000-4000-8000-00000000abcd".parse().unwrap();
    let of = (fake.guest().name, fake.guest_uuid());
    RemovalPlan::new(id, of, &doomed, vec![all[2].id.clone()], &all)
}

/// Every effect that a plan can come to, those of its way back included.
fn effects(plan: &Plan) -> Vec<Effect> {
    match plan {
        Plan::Capture(plan) => {
            let slow = Effect::FlushVolumes;
            let flushed = Record::Done { fact: fact(&slow), effect: slow };
            let mut effects = plan.steps(&History::of(&[flushed]));
            for member in &plan.members {
                let guest = || member.guest.clone();
                for disk in &member.disks {
                    let target = || disk.target.clone();
                    let settle =
                        |how| Effect::SettleOverlay { guest: guest(), target: target(), how };
                    effects.extend([Settle::CommitOffline, Settle::Discard].map(settle));
                }
                effects.push(Effect::AbortSnapshotJob { guest: guest() });
                effects.push(Effect::DiscardPoint { guest: guest() });
            }
            effects.push(Effect::DestroySnapshots);
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
        Plan::Removal(plan) => {
            let points = plan.points.iter().map(|it| it.point.clone());
            let mut effects: Vec<_> = points.map(|point| Effect::RemovePoint { point }).collect();
            let images = plan.images.iter().cloned();
            effects.extend(images.map(|point| Effect::ExpireMemory { point }));
            effects.push(Effect::DestroySnapshots);
            effects
        }
    }
}

fn fact(effect: &Effect) -> Fact {
    let published = Published { stored: Bytes(1), home_snapshot: None };
    let memory = MemoryImage { bytes: Bytes(1), blake3: String::new() };
    match effect {
        Effect::Publish { .. } => Fact::Published(published),
        Effect::SealMemory { .. } => Fact::Sealed { memory },
        Effect::FlushVolumes => Fact::Flushed { took: Duration::from_secs(1) },
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
        (Plan::Removal(_), true) => "the same".into(),
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

/// What came after the last removal of a point.
fn since_removal(records: &[Record]) -> &[Record] {
    let removed = records
        .iter()
        .rposition(|it| matches!(it, Record::Done { effect: Effect::RemovePoint { .. }, .. }));
    &records[removed.map_or(0, |index| index + 1)..]
}

/// Whether the agent was asked to freeze, or QEMU to stream.
fn possibly_done(records: &[Record], held: &Effect) -> bool {
    History::of(records).possibly_done(held, &[ProblemKind::Refused, ProblemKind::Lacking])
}

/// What must hold whenever an effect is proposed.
fn check(plan: &Plan, records: &[Record], effect: &Effect) -> Result<(), TestCaseError> {
    prop_assert!(effects(plan).contains(effect), "{effect} is no step of this plan");
    // Before a commit another process looks again; a point that goes later frees more snapshots.
    let again = match effect {
        Effect::ListSnapshots { .. } => true,
        Effect::DestroySnapshots => {
            matches!(plan, Plan::Removal(_)) && !done(since_removal(records), effect)
        }
        _ => false,
    };
    prop_assert!(!done(records, effect) || again, "{effect} is done already");
    match effect {
        Effect::DiscardPoint { guest } => {
            let publish = Effect::Publish { guest: guest.clone() };
            prop_assert!(!done(records, &publish), "{effect} after it is published");
        }
        Effect::SwapFile { .. } => {
            prop_assert!(done(records, &Effect::Stop), "{effect} before the guest is stopped");
            prop_assert!(done(records, &Effect::Bar), "{effect} while the guest can be started");
        }
        _ => {}
    }
    let clears = matches!(
        effect,
        Effect::DestroySnapshots
            | Effect::DiscardPoint { .. }
            | Effect::RemoveOverlay { .. }
            | Effect::Retry { .. }
            | Effect::MarkTorn { .. }
    );
    if let (true, Plan::Capture(plan)) = (clears, plan) {
        for guest in plan.members.iter().map(|it| it.guest.clone()) {
            let (suspend, resume) =
                (Effect::Suspend { guest: guest.clone() }, Effect::Resume { guest: guest.clone() });
            let (freeze, thaw) = (Effect::Freeze { guest: guest.clone() }, Effect::Thaw { guest });
            let held = [begun(records, &suspend), possibly_done(records, &freeze)];
            for (held, release) in held.into_iter().zip([resume, thaw]) {
                let released = !held || done(records, &release);
                prop_assert!(released, "{effect} before {release}");
            }
        }
    }
    Ok(())
}

/// What must hold when it is over and nothing is left to repair.
fn check_over(plan: &Plan, records: &[Record], outcome: &Outcome) -> Result<(), TestCaseError> {
    let undone = |begin: Effect, end: Effect| !begun(records, &begin) || done(records, &end);
    match (plan, outcome) {
        (_, Outcome::Unsettled { .. }) => {}
        (Plan::Capture(plan), outcome) => {
            for member in &plan.members {
                let guest = || member.guest.clone();
                let (suspend, resume) =
                    (Effect::Suspend { guest: guest() }, Effect::Resume { guest: guest() });
                prop_assert!(undone(suspend, resume), "a guest is left suspended");
                let (freeze, thaw) =
                    (Effect::Freeze { guest: guest() }, Effect::Thaw { guest: guest() });
                let thawed = !possibly_done(records, &freeze) || done(records, &thaw);
                prop_assert!(thawed, "a guest is left frozen");
                let (open, close) =
                    (Effect::OpenStream { guest: guest() }, Effect::CloseStream { guest: guest() });
                let closed = !possibly_done(records, &open) || done(records, &close);
                prop_assert!(closed, "a stream is left open");
                for disk in &member.disks {
                    let remove =
                        Effect::RemoveOverlay { guest: guest(), target: disk.target.clone() };
                    for put in [
                        Effect::ExternalSnapshot { guest: guest() },
                        Effect::PutOverlays { guest: guest() },
                    ] {
                        prop_assert!(undone(put, remove.clone()), "an overlay is left");
                    }
                }
                if !done(records, &Effect::Publish { guest: guest() }) {
                    let (stage, discard) = (
                        Effect::StagePoint { guest: guest() },
                        Effect::DiscardPoint { guest: guest() },
                    );
                    prop_assert!(undone(stage, discard), "a point is left");
                }
            }
            let published = |it: &vitrify_core::capture::Member| {
                done(records, &Effect::Publish { guest: it.guest.clone() })
            };
            if matches!(outcome, Outcome::Abandoned { .. }) {
                let snapshots = undone(Effect::SnapshotVolumes, Effect::DestroySnapshots);
                prop_assert!(snapshots, "snapshots are left");
                prop_assert!(!plan.members.iter().any(published), "something is published");
            } else {
                prop_assert!(plan.members.iter().any(published), "nothing is published");
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
        (Plan::Removal(plan), _) => {
            for point in plan.points.iter().map(|it| it.point.clone()) {
                let remove = Effect::RemovePoint { point };
                prop_assert!(undone(remove.clone(), remove.clone()), "a point is half gone");
            }
            let none_freed = plan.free_snapshots(&History::of(records)).is_empty();
            let tried = since_removal(records).iter().any(|it| match it {
                Record::Done { effect, .. } | Record::Failed { effect, .. } => {
                    *effect == Effect::DestroySnapshots
                }
                _ => false,
            });
            prop_assert!(none_freed || tried, "a point's snapshots are left");
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
