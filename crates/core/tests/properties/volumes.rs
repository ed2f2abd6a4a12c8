//! What the keeping of volumes promises: that nothing goes that was not written down as taken, whatever
//! else lies there, and that a crash at any point makes no difference to that.

use proptest::collection::vec;
use proptest::prelude::*;
use vitrify_core::inventory::{FoundSnapshot, Need, Snapshot};
use vitrify_core::name::PointId;
use vitrify_core::point::{Purpose, name_at};
use vitrify_core::policy::retention::retention;
use vitrify_core::policy::{Period, Policy};
use vitrify_core::volumes::ledger::{Begun, Ledger};

use crate::policies::at;

/// What happens to a volume.
#[derive(Debug, Clone)]
enum Step {
    /// A snapshot is written down as begun, perhaps taken, and perhaps written down as taken.
    Take { is_taken: bool, is_told: bool },
    /// Somebody else takes one under our kind of name.
    Foreign,
    /// The oldest of all is destroyed by somebody and made anew under its name.
    Exchange,
    /// Somebody destroys the oldest of all.
    Destroy,
    /// The oldest of all is held.
    Hold,
    /// A tick looks, while the volume is there or not.
    Look { is_there: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => any::<(bool, bool)>().prop_map(|(is_taken, is_told)| Step::Take { is_taken, is_told }),
        1 => Just(Step::Foreign),
        1 => Just(Step::Exchange),
        1 => Just(Step::Destroy),
        1 => Just(Step::Hold),
        2 => any::<bool>().prop_map(|is_there| Step::Look { is_there }),
    ];
    vec(step, 0..40)
}

fn id(number: usize) -> PointId {
    format!("00000000-0000-4000-8000-{number:012}").parse().unwrap()
}

proptest! {
    /// On storage that writes on snapshots, and on storage that does not.
    #[test]
    fn only_what_is_ours_goes(steps in steps(), can_write in any::<bool>(), keep in 0..4_u32) {
        let volume: vitrify_core::name::Volume = "tank/data".parse().unwrap();
        let start = at("2026-01-01T00:00:00Z");
        let (mut ledger, mut there) = (Ledger::default(), Vec::<FoundSnapshot>::new());
        // The guids of what we took.
        let mut ours = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            let time = start + jiff::SignedDuration::from_hours(i64::try_from(number).unwrap());
            let name = name_at(time, Purpose::Scheduled(Period::Hourly)).unwrap();
            let snapshot = |name, number: usize, point: Option<PointId>| FoundSnapshot {
                snapshot: Snapshot {
                    volume: volume.clone(),
                    name,
                    id: format!("guid-{number}").parse().unwrap(),
                },
                points: can_write.then(|| point.into_iter().collect()),
                order: None,
                created: None,
                needed: Vec::new(),
                held_for: None,
            };
            match step {
                Step::Take { is_taken, is_told } => {
                    ledger.begin(Begun {
                        id: id(number),
                        names: vec![name.clone()],
                        time,
                        volumes: vec![volume.clone()],
                    });
                    if is_taken {
                        let taken = snapshot(name, number, Some(id(number)));
                        ours.push(taken.snapshot.id.clone());
                        if is_told {
                            ledger.finish(&id(number), vec![taken.snapshot.clone()]);
                        }
                        prop_assert!(ledger.knows(&taken));
                        there.push(taken);
                    }
                }
                Step::Foreign => there.push(snapshot(name, number, None)),
                Step::Exchange if !there.is_empty() => {
                    // Nobody can do that between a crash and the next look where nothing is written.
                    ledger.settle(std::slice::from_ref(&volume), &there);
                    let gone = there.remove(0);
                    there.push(snapshot(gone.snapshot.name, number, None));
                }
                Step::Destroy if !there.is_empty() => drop(there.remove(0)),
                Step::Hold => {
                    if let Some(it) = there.first_mut() {
                        it.needed = vec![Need::Held("keep".to_owned())];
                    }
                }
                Step::Look { is_there } => {
                    let volumes: Vec<_> = is_there.then(|| volume.clone()).into_iter().collect();
                    let found = if is_there { there.clone() } else { Vec::new() };
                    ledger.settle(&volumes, &found);
                    if is_there {
                        ledger.forget(&volume, &found);
                    }
                }
                Step::Exchange | Step::Destroy => {}
            }
        }
        ledger.settle(std::slice::from_ref(&volume), &there);
        prop_assert!(ledger.unsettled().is_empty());
        // All of ours that are left are known, and nothing else.
        let facts = ledger.facts(&volume, &there);
        let left = there.iter().filter(|it| ours.contains(&it.snapshot.id));
        prop_assert_eq!(facts.len(), left.count());
        let policy = Policy { keep: [(Period::Hourly, keep)].into(), ..Policy::default() };
        let decided = retention(&policy, &facts, at("2027-01-01T00:00:00Z"));
        for doomed in decided.doomed() {
            let snapshot = &ledger.snapshot(&volume, doomed).unwrap().snapshot;
            let found = there.iter().find(|it| it.snapshot == *snapshot);
            prop_assert!(ours.contains(&snapshot.id));
            prop_assert!(found.is_some_and(|it| it.needed.is_empty()));
        }
        // One at least stays.
        prop_assert!(facts.is_empty() || decided.doomed().len() < facts.len());
    }
}
