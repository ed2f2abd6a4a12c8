use std::os::unix::fs::MetadataExt;

use serde_json::json;
use tempfile::TempDir;
use vitrify_core::name::GuestName;
use vitrify_core::operation::{Effect, Fact, Settle};
use vitrify_core::problem::ProblemKind;

use super::*;

fn plan(number: u8) -> Plan {
    serde_json::from_value(json!({
        "operation": "capture",
        "id": format!("{number:08x}-7d4e-4c0e-9b3c-0d1f5f0e2a11"),
        "name": "before-upgrade",
        "boot": "b00f",
        "members": [{
            "point": format!("{number:08x}-7d4e-4c0e-9b3c-0d1f5f0e2a12"),
            "guest": "web",
            "guest_uuid": "0b6c9c52-7d4e-4c0e-9b3c-0d1f5f0e2a11",
            "state": "shut-off",
            "session": null,
            "engine": "plain",
            "reason": "it is shut off",
            "consistency": "off",
            "memory": { "from": "none" },
            "suspend": false,
            "no_overlays": null,
            "disks": [],
            "uncovered": [],
            "warnings": [],
            "live_xml": null,
            "inactive_xml": "<domain>\n<name>web</name>\n</domain>",
            "machine_files": [],
            "machine": "pc-q35-7.2",
        }],
        "volumes": ["/srv/vm/web"],
        "known_snapshots": [],
        "hypervisor": "libvirt 9.0.0, QEMU 7.2.0",
        "kernel": "6.1.0",
        "dump_limit_s": 60,
        "commit_limit_s": 60,
        "freeze_limit_s": 10,
        "pause_limit_ms": 1000,
    }))
    .unwrap()
}

fn records() -> Vec<Record> {
    let guest: GuestName = "web".parse().unwrap();
    let stage = Effect::StagePoint { guest: guest.clone() };
    vec![
        Record::Begun { effect: stage.clone() },
        Record::Done { effect: stage, fact: Fact::Done },
        Record::TakenOver { boot: "b01f".into(), settle: Settle::Commit },
        Record::Begun {
            effect: Effect::SettleOverlay { guest, target: "vda".into(), how: Settle::Commit },
        },
        Record::Failed {
            effect: Effect::SnapshotVolumes,
            problem: Problem::failed("a line\nfeed").note(),
        },
    ]
}

/// A journal, the file of its one entry, and where each line of it ends.
fn written() -> (TempDir, PathBuf, Vec<usize>) {
    let scratch = tempfile::tempdir().unwrap();
    let journal = FileJournal::open(scratch.path().join("journal")).unwrap();
    let plan = plan(1);
    Journal::open(&journal, &plan, &[]).unwrap();
    let path = journal.path(plan.id());
    let length = || usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
    let mut ends = vec![length()];
    for record in records() {
        journal.append(&plan, &[record]).unwrap();
        ends.push(length());
    }
    (scratch, path, ends)
}

fn entries(path: &Path) -> Answer<Vec<JournalEntry>> {
    FileJournal::open(path.parent().unwrap()).unwrap().entries()
}

/// The one entry that cannot be believed.
fn damaged(path: &Path) -> DamagedEntry {
    assert!(entries(path).unwrap().is_empty());
    let found = FileJournal::open(path.parent().unwrap()).unwrap().damaged().unwrap();
    assert_eq!(found.len(), 1);
    found.into_iter().next().unwrap()
}

#[test]
fn entries_are_read_as_they_were_written() {
    let (_scratch, path, _) = written();
    let found = entries(&path).unwrap();
    assert_eq!(found, [JournalEntry { plan: plan(1), records: records() }]);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn oldest_first_and_gone_when_closed() {
    let scratch = tempfile::tempdir().unwrap();
    let journal = FileJournal::open(scratch.path()).unwrap();
    for number in [3, 1, 2] {
        Journal::open(&journal, &plan(number), &[]).unwrap();
    }
    let again = Journal::open(&journal, &plan(3), &[]).unwrap_err();
    assert_eq!(again.kind, ProblemKind::Refused);
    let order = |journal: &FileJournal| -> Vec<_> {
        journal.entries().unwrap().into_iter().map(|entry| entry.plan).collect()
    };
    assert_eq!(order(&journal), [plan(3), plan(1), plan(2)]);
    journal.close(&plan(1)).unwrap();
    journal.close(&plan(1)).unwrap();
    assert_eq!(order(&journal), [plan(3), plan(2)]);
    let gone = journal.append(&plan(1), &records()[..1]).unwrap_err();
    assert_eq!(gone.kind, ProblemKind::NotFound);
}

/// Whatever was cut off: the records before it, or nothing.
#[test]
fn cut_at_each_byte() {
    let (_scratch, path, ends) = written();
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let lines = ends.iter().filter(|end| **end <= length).count();
        let found = entries(&path).unwrap();
        if lines == 0 {
            assert!(found.is_empty() && !path.exists(), "{length}");
        } else {
            assert_eq!(found[0].records, records()[..lines - 1], "{length}");
        }
    }
}

/// What comes after a torn line is appended in its place.
#[test]
fn a_torn_line_is_replaced() {
    let (_scratch, path, ends) = written();
    let whole = fs::read(&path).unwrap();
    for length in [ends[2], ends[2] + 1, ends[3] - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let journal = FileJournal::open(path.parent().unwrap()).unwrap();
        journal.append(&plan(1), &records()[2..4]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), whole[..ends[4]], "{length}");
    }
}

/// A changed byte is an error that names the line, or costs the last line; it never becomes another
/// record. (The line feed before the last line joins the last two into one.)
#[test]
fn one_changed_byte() {
    let (_scratch, path, ends) = written();
    let whole = fs::read(&path).unwrap();
    for place in 0..whole.len() {
        let mut changed = whole.clone();
        changed[place] ^= 0x04;
        fs::write(&path, &changed).unwrap();
        let line = ends.iter().filter(|end| **end <= place).count();
        if place + 1 >= ends[ends.len() - 2] {
            assert_eq!(entries(&path).unwrap()[0].records, records()[..line - 1], "{place}");
        } else {
            let DamagedEntry { id, plan: read, problem } = damaged(&path);
            assert_eq!((&id, problem.kind), (plan(1).id(), ProblemKind::Refused));
            assert_eq!(read, (line > 0).then(|| plan(1)), "{place}");
            let wanted = format!("line {} of the journal entry {}", line + 1, path.display());
            assert!(problem.message.starts_with(&wanted), "{place}: {problem}");
        }
    }
}

#[test]
fn lines_cannot_change_places() {
    let (_scratch, path, ends) = written();
    let whole = fs::read(&path).unwrap();
    let swapped =
        [&whole[..ends[0]], &whole[ends[1]..ends[2]], &whole[ends[0]..ends[1]], &whole[ends[2]..]];
    fs::write(&path, swapped.concat()).unwrap();
    damaged(&path);
    fs::write(&path, &whole).unwrap();
    let renamed = path.with_file_name("00000002-7d4e-4c0e-9b3c-0d1f5f0e2a11.jsonl");
    fs::rename(&path, &renamed).unwrap();
    let found = damaged(&path);
    assert!(found.plan.is_none() && found.problem.message.contains("of another operation"));
}

#[test]
fn one_damaged_entry_keeps_no_other_and_can_be_set_aside() {
    let (_scratch, path, ends) = written();
    let mut torn = fs::read(&path).unwrap();
    torn[ends[1]] ^= 0x04;
    fs::write(&path, &torn).unwrap();
    let journal = FileJournal::open(path.parent().unwrap()).unwrap();
    Journal::open(&journal, &plan(2), &[]).unwrap();
    assert_eq!(journal.entries().unwrap().len(), 1);
    let found = journal.damaged().unwrap();
    journal.set_aside(&found[0]).unwrap();
    assert!(journal.damaged().unwrap().is_empty());
    assert_eq!(fs::read(path.with_extension("damaged")).unwrap(), torn);
    Journal::open(&journal, &plan(1), &[]).unwrap();
}

#[test]
fn another_version_is_refused() {
    let (_scratch, path, _) = written();
    let later = line(0, &json!({ "version": 2, "what": "ever" })).unwrap();
    fs::write(&path, later).unwrap();
    let problem = damaged(&path).problem;
    assert_eq!(problem.kind, ProblemKind::Refused);
    assert!(problem.message.contains("version 2") && problem.hint.is_some(), "{problem}");
}

#[test]
fn what_was_never_begun_is_no_entry() {
    let (_scratch, path, _) = written();
    let fresh = path.with_file_name("00000002-7d4e-4c0e-9b3c-0d1f5f0e2a11.new");
    fs::write(&fresh, "a writer may be at it").unwrap();
    assert_eq!(entries(&path).unwrap().len(), 1);
    assert!(fresh.exists());
    let long_ago = std::time::SystemTime::now() - 2 * LITTER_AGE;
    File::options().write(true).open(&fresh).unwrap().set_modified(long_ago).unwrap();
    assert_eq!(entries(&path).unwrap().len(), 1);
    assert!(!fresh.exists());
}
