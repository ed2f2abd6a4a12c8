//! Rules for [`Journal`]: what is in flight.

use super::{Verdict, fails, name, ok, rules, same};
use crate::fake::{sample_capture, sample_restore};
use crate::inventory::ObjectId;
use crate::name::GuestUuid;
use crate::operation::{Effect, Fact, JournalEntry, Plan, Record, Settle};
use crate::ports::Journal;
use crate::problem::{Problem, ProblemKind};

/// What the rules need: an empty journal.
pub trait Fixture {
    /// The port.
    fn journal(&self) -> &dyn Journal;

    /// From here on, the journal is another process's.
    fn another_process(&mut self) -> Verdict;

    /// Whether libvirt's hook would refuse to start the guest.
    fn is_barred(&self, guest: &GuestUuid) -> Result<bool, String>;
}

/// A rule.
pub type Check = fn(&mut dyn Fixture) -> Verdict;

/// The rules.
pub const RULES: &[(&str, Check)] = rules![
    an_entry_comes_back_as_it_was_written,
    an_entry_is_opened_with_its_records,
    another_process_reads_and_continues_an_entry,
    two_entries_are_kept_apart,
    entries_are_listed_oldest_first,
    a_closed_entry_is_gone,
    an_open_entry_is_not_opened_again,
    a_record_needs_an_open_entry,
    a_guest_is_barred_for_as_long_as_the_entry_is_there,
];

fn capture(number: u32) -> Result<Plan, String> {
    let mut plan = sample_capture();
    plan.id = name(&format!("{number:08x}-0000-4000-9000-000000000000"))?;
    plan.members[0].reason =
        "a 'quoted' \"reason\"\nof two lines, with \u{2028} and ünïcode".into();
    Ok(Plan::Capture(plan))
}

fn restore(number: u32) -> Result<Plan, String> {
    let mut plan = sample_restore();
    plan.id = name(&format!("{number:08x}-0000-4000-a000-000000000000"))?;
    plan.files[0].place = "/v\u{e4}rs/a 'place'".into();
    Ok(Plan::Restore(plan))
}

fn records() -> Vec<Record> {
    let prepare = Effect::PrepareFile { file: "nvram".into() };
    let settle = Effect::SettleOverlay {
        guest: sample_capture().members[0].guest.clone(),
        target: "vda".into(),
        how: Settle::Discard,
    };
    let problem = Problem::refused("a line\nfeed").hint("a \"hint\"").note();
    let object = ObjectId("btrfs:1:257".into());
    vec![
        Record::Begun { effect: prepare.clone() },
        Record::Done { effect: prepare, fact: Fact::Prepared { object } },
        Record::TakenOver { boot: "b00f".into(), settle: Settle::CommitOffline },
        Record::Begun { effect: settle.clone() },
        Record::Failed { effect: settle, problem },
    ]
}

fn write(fixture: &dyn Fixture, plan: &Plan, records: &[Record]) -> Verdict {
    ok("open", fixture.journal().open(plan, &[]))?;
    append(fixture, plan, records)
}

fn append(fixture: &dyn Fixture, plan: &Plan, records: &[Record]) -> Verdict {
    ok("append", fixture.journal().append(plan, records))
}

fn is_there(fixture: &dyn Fixture, wanted: &[(&Plan, &[Record])]) -> Verdict {
    let entry = |&(plan, records): &(&Plan, &[Record])| JournalEntry {
        plan: plan.clone(),
        records: records.to_vec(),
    };
    let wanted: Vec<_> = wanted.iter().map(entry).collect();
    same("the entries", ok("entries", fixture.journal().entries())?, wanted)
}

fn an_entry_comes_back_as_it_was_written(fixture: &mut dyn Fixture) -> Verdict {
    is_there(fixture, &[])?;
    for plan in [capture(1)?, restore(2)?] {
        ok("open", fixture.journal().open(&plan, &[]))?;
        is_there(fixture, &[(&plan, &[])])?;
        append(fixture, &plan, &records())?;
        for _ in 0..2 {
            is_there(fixture, &[(&plan, &records())])?;
        }
        ok("close", fixture.journal().close(&plan))?;
    }
    is_there(fixture, &[])
}

fn an_entry_is_opened_with_its_records(fixture: &mut dyn Fixture) -> Verdict {
    let (plan, records) = (capture(1)?, records());
    ok("open", fixture.journal().open(&plan, &records[..2]))?;
    append(fixture, &plan, &records[2..])?;
    fixture.another_process()?;
    is_there(fixture, &[(&plan, &records)])
}

fn another_process_reads_and_continues_an_entry(fixture: &mut dyn Fixture) -> Verdict {
    let (plan, records) = (capture(1)?, records());
    write(fixture, &plan, &records[..2])?;
    fixture.another_process()?;
    is_there(fixture, &[(&plan, &records[..2])])?;
    append(fixture, &plan, &records[2..])?;
    fixture.another_process()?;
    is_there(fixture, &[(&plan, &records)])?;
    ok("close", fixture.journal().close(&plan))?;
    fixture.another_process()?;
    is_there(fixture, &[])
}

fn two_entries_are_kept_apart(fixture: &mut dyn Fixture) -> Verdict {
    let (one, two, records) = (capture(2)?, restore(1)?, records());
    write(fixture, &one, &records[..1])?;
    write(fixture, &two, &records[..2])?;
    append(fixture, &one, &records[1..3])?;
    append(fixture, &two, &records[2..])?;
    is_there(fixture, &[(&one, &records[..3]), (&two, &records)])
}

fn entries_are_listed_oldest_first(fixture: &mut dyn Fixture) -> Verdict {
    let plans = [capture(3)?, capture(1)?, restore(2)?];
    plans.iter().try_for_each(|plan| write(fixture, plan, &[]))?;
    let all: Vec<(&Plan, &[Record])> = plans.iter().map(|plan| (plan, &[][..])).collect();
    is_there(fixture, &all)?;
    fixture.another_process()?;
    is_there(fixture, &all)
}

fn a_closed_entry_is_gone(fixture: &mut dyn Fixture) -> Verdict {
    let (one, two) = (capture(1)?, capture(2)?);
    write(fixture, &one, &records())?;
    write(fixture, &two, &records()[..1])?;
    for _ in 0..2 {
        ok("close", fixture.journal().close(&one))?;
        is_there(fixture, &[(&two, &records()[..1])])?;
    }
    write(fixture, &one, &[])?;
    is_there(fixture, &[(&two, &records()[..1]), (&one, &[])])
}

fn an_open_entry_is_not_opened_again(fixture: &mut dyn Fixture) -> Verdict {
    let plan = capture(1)?;
    write(fixture, &plan, &records()[..1])?;
    fails("opening it again", fixture.journal().open(&plan, &[]), ProblemKind::Refused)?;
    fixture.another_process()?;
    fails("opening another's", fixture.journal().open(&plan, &[]), ProblemKind::Refused)?;
    is_there(fixture, &[(&plan, &records()[..1])])
}

fn a_record_needs_an_open_entry(fixture: &mut dyn Fixture) -> Verdict {
    let plan = capture(1)?;
    let append = |fixture: &dyn Fixture| fixture.journal().append(&plan, &records()[..1]);
    fails("appending to what was never opened", append(fixture), ProblemKind::NotFound)?;
    write(fixture, &plan, &[])?;
    ok("close", fixture.journal().close(&plan))?;
    fails("appending to what is closed", append(fixture), ProblemKind::NotFound)?;
    is_there(fixture, &[])
}

fn a_guest_is_barred_for_as_long_as_the_entry_is_there(fixture: &mut dyn Fixture) -> Verdict {
    let guest = sample_capture().members[0].guest_uuid.clone();
    let is_barred = |fixture: &dyn Fixture, wanted: bool| {
        same("whether it is barred", fixture.is_barred(&guest)?, wanted)
    };
    let plan = restore(1)?;
    ok("unbar what is not barred", fixture.journal().unbar(&guest))?;
    write(fixture, &plan, &[])?;
    for _ in 0..2 {
        ok("bar", fixture.journal().bar(plan.id(), &guest))?;
        is_barred(fixture, true)?;
    }
    fixture.another_process()?;
    is_barred(fixture, true)?;
    for _ in 0..2 {
        ok("unbar", fixture.journal().unbar(&guest))?;
        is_barred(fixture, false)?;
    }
    ok("bar", fixture.journal().bar(plan.id(), &guest))?;
    is_there(fixture, &[(&plan, &[])])?;
    ok("close", fixture.journal().close(&plan))?;
    is_barred(fixture, false)
}
