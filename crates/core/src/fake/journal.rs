//! A journal that keeps text, so that what it gives back has been through the file's grammar; and
//! the clock.

use jiff::Timestamp;

use super::{Fake, State};
use crate::name::{GuestUuid, PointId};
use crate::operation::{JournalEntry, Plan, Record};
use crate::ports::{Answer, Clock, DamagedEntry, Journal};
use crate::problem::Problem;

impl Journal for Fake {
    fn open(&self, plan: &Plan, records: &[Record]) -> Answer<()> {
        self.change(
            "open journal",
            |_| {},
            |state| {
                if state.entry(plan.id()).is_ok() {
                    return Err(Problem::refused(format!("entry {} is open", plan.id())));
                }
                let plan = from_text(&to_text(plan)?)?;
                let lines = records.iter().map(to_text).collect::<Answer<_>>()?;
                state.entries.push((plan, lines));
                Ok(())
            },
        )
    }

    fn append(&self, plan: &Plan, records: &[Record]) -> Answer<()> {
        let write = |state: &mut State, records: &[Record]| -> Answer<()> {
            let lines: Vec<_> = records.iter().map(to_text).collect::<Answer<_>>()?;
            state.entry(plan.id())?.extend(lines);
            Ok(())
        };
        let half = |state: &mut State| {
            // The last line is torn, and counts as not written.
            let whole = records.split_last().map_or(records, |(_, whole)| whole);
            write(state, whole).ok();
        };
        self.change("append to journal", half, |state| write(state, records))
    }

    fn close(&self, plan: &Plan) -> Answer<()> {
        self.change(
            "close journal",
            |_| {},
            |state| {
                state.entries.retain(|it| it.0.id() != plan.id());
                Ok(())
            },
        )
    }

    fn entries(&self) -> Answer<Vec<JournalEntry>> {
        self.look(|state| {
            let read = |(plan, records): &(Plan, Vec<String>)| {
                let records = records.iter().map(|line| from_text::<Record>(line));
                Ok(JournalEntry { plan: plan.clone(), records: records.collect::<Answer<_>>()? })
            };
            let sound = state.entries.iter().filter(|it| !state.damaged.contains(it.0.id()));
            sound.map(read).collect()
        })
    }

    fn damaged(&self) -> Answer<Vec<DamagedEntry>> {
        self.look(|state| {
            let damaged = |(plan, _): &(Plan, Vec<String>)| DamagedEntry {
                id: plan.id().clone(),
                plan: Some(plan.clone()),
                problem: Problem::refused(format!("entry {} is damaged", plan.id())),
            };
            let entries = state.entries.iter().filter(|it| state.damaged.contains(it.0.id()));
            Ok(entries.map(damaged).collect())
        })
    }

    fn bar(&self, operation: &PointId, guest: &GuestUuid) -> Answer<()> {
        let bar = |state: &mut State| {
            state.barred.insert(guest.clone(), operation.clone());
            Ok(())
        };
        self.change("bar", |_| {}, bar)
    }

    fn unbar(&self, guest: &GuestUuid) -> Answer<()> {
        let unbar = |state: &mut State| {
            state.barred.remove(guest);
            Ok(())
        };
        self.change("unbar", |_| {}, unbar)
    }

    fn set_aside(&self, entry: &DamagedEntry) -> Answer<()> {
        self.change(
            "set entry aside",
            |_| {},
            |state| {
                state.entries.retain(|it| *it.0.id() != entry.id);
                state.damaged.remove(&entry.id);
                Ok(())
            },
        )
    }
}

fn to_text(value: &impl serde::Serialize) -> Answer<String> {
    serde_json::to_string(value).map_err(|error| Problem::failed("journal").from(error))
}

fn from_text<T: serde::de::DeserializeOwned>(text: &str) -> Answer<T> {
    serde_json::from_str(text).map_err(|error| Problem::failed("journal").from(error))
}

impl State {
    fn entry(&mut self, id: &PointId) -> Answer<&mut Vec<String>> {
        let missing = || Problem::not_found(format!("no entry {id}"));
        self.entries.iter_mut().find(|it| it.0.id() == id).map(|it| &mut it.1).ok_or_else(missing)
    }
}

impl Fake {
    /// Whether libvirt would refuse to start the guest.
    pub fn is_barred(&self, guest: &GuestUuid) -> bool {
        self.state.borrow().check_not_barred(guest).is_err()
    }
}

impl State {
    /// What libvirt's hook does.
    pub(super) fn check_not_barred(&self, guest: &GuestUuid) -> Answer<()> {
        let operation = self.barred.get(guest);
        match operation.filter(|id| self.entries.iter().any(|it| it.0.id() == *id)) {
            Some(_) => Err(Problem::refused("a restore of the guest is not finished")),
            None => Ok(()),
        }
    }
}

impl Clock for Fake {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn boot(&self) -> Answer<String> {
        self.look(|state| Ok(format!("boot-{}", state.boot)))
    }

    fn kernel(&self) -> Answer<String> {
        Ok("fake".into())
    }
}
