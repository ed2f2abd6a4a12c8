use std::collections::BTreeSet;

use super::*;

fn rounds(ground: Ground) -> impl Iterator<Item = Round> {
    (0..2000).map(move |number| Round::draw(ground, 1, number))
}

#[test]
fn a_round_follows_from_seed_and_number_alone() {
    let lines: BTreeSet<String> = rounds(Ground::Btrfs).map(|it| it.to_string()).collect();
    assert!(lines.len() > 1900, "only {} different ones", lines.len());
    assert_eq!(Round::draw(Ground::Btrfs, 1, 7), Round::draw(Ground::Btrfs, 1, 7));
    assert_ne!(Round::draw(Ground::Btrfs, 1, 7), Round::draw(Ground::Btrfs, 2, 7));
}

#[test]
fn a_round_reads_in_a_line() {
    let round = Round {
        ground: Ground::Zfs,
        machine: Machine {
            program: Program::BootSector,
            memory_mib: 64,
            fill_mib: 16,
            dirty_mbps: 20,
            disks: vec![Disk::Raw, Disk::Qcow2],
            together: true,
        },
        impatient: true,
        spool: true,
        history: vec![Engine::Instant, Engine::Plain],
        operation: Operation::Restore { point: 1, cold: true, safety: true },
        trouble: Trouble::Signal(Signal::KillWithGuard, Moment::Record(7)),
        repair_killed: Some(3),
        decision: Decision::Discard,
        restored: 1,
        restored_cold: true,
    };
    assert_eq!(
        round.to_string(),
        "boot sector, 64 MiB (16 filled, 20 MB/s), raw+qcow2 on one volume, spool, pause limit 1 ms; \
         points: instant, plain; restore of point 1, cold, safety point first; SIGKILL with guard at \
         record 7; a repair killed at record 3; discard if asked; at last restore newest-1, cold"
    );
}

/// What the storage and the guest can do, and no more.
#[test]
fn what_is_drawn_can_be_done() {
    for round in rounds(Ground::Btrfs).chain(rounds(Ground::Zfs)) {
        let Round { machine, history, operation, .. } = &round;
        let mut engines = history.clone();
        match *operation {
            Operation::Snapshot(engine) => engines.push(engine),
            Operation::Restore { point, .. } => assert!(point < history.len(), "{round}"),
        }
        let has_agent = machine.program == Program::Agent;
        assert!(has_agent || !engines.contains(&Engine::Freeze), "{round}");
        let overlays = engines.contains(&Engine::Overlay) || round.impatient;
        assert!(!(machine.has_zvol() && overlays), "{round}");
        assert!(round.ground == Ground::Zfs || !machine.has_zvol(), "{round}");
        assert!(round.ground == Ground::Btrfs || machine.program == Program::BootSector, "{round}");
        let restarts = matches!(round.trouble, Trouble::Hand(Hand::RestartLibvirt, _));
        assert!(round.ground == Ground::Zfs || !restarts, "{round}");
        assert!((1..=2).contains(&history.len()) && (1..=2).contains(&machine.disks.len()));
    }
}

/// Two hundred rounds meet every kind of trouble.
#[test]
fn each_kind_of_trouble_is_drawn_often_enough() {
    let troubles = (0..200).map(|number| Round::draw(Ground::Btrfs, 1, number).trouble);
    let kind = |trouble| match trouble {
        Trouble::Nothing => "nothing".to_owned(),
        Trouble::Signal(signal, Moment::Share(_)) => format!("{signal:?} at a time"),
        Trouble::Signal(signal, Moment::Record(_)) => format!("{signal:?} at a record"),
        Trouble::Hand(hand, _) => format!("{hand:?}"),
        Trouble::Full(place, ..) => format!("{place:?}"),
    };
    let kinds: BTreeSet<String> = troubles.map(kind).collect();
    assert_eq!(kinds.len(), 1 + 4 * 2 + 8 + 3, "{kinds:?}");
}
