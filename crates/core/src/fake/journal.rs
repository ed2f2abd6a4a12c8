//! A journal that keeps text, so that what it gives back has been through the file's grammar; and
//! the clock.

use jiff::Timestamp;

use super::{Fake, State};
use crate::name::PointId;
use crate::operation::{JournalEntry, Plan, Record};
use crate::ports::{Answer, Clock, Journal};
use crate::problem::Problem;

impl Journal for Fake {
    fn open(&self, plan: &Plan) -> Answer<()> {
        self.change(
            "open journal",
            |_| {},
            |state| {
                if state.entry(plan.id()).is_ok() {
                    return Err(Problem::refused(format!("entry {} is open", plan.id())));
                }
                let text = to_text(plan)?;
                state.entries.push((plan.id().clone(), text, Vec::new()));
                Ok(())
            },
        )
    }

    fn append(&self, plan: &Plan, records: &[Record]) -> Answer<()> {
        self.change(
            "append to journal",
            |_| {},
            |state| {
                let lines: Vec<_> = records.iter().map(to_text).collect::<Answer<_>>()?;
                state.entry(plan.id())?.extend(lines);
                Ok(())
            },
        )
    }

    fn close(&self, plan: &Plan) -> Answer<()> {
        self.change(
            "close journal",
            |_| {},
            |state| {
                state.entries.retain(|(id, _, _)| id != plan.id());
                Ok(())
            },
        )
    }

    fn entries(&self) -> Answer<Vec<JournalEntry>> {
        self.look(|state| {
            let read = |(_, plan, records): &(PointId, String, Vec<String>)| {
                let records = records.iter().map(|line| from_text::<Record>(line));
                Ok(JournalEntry {
                    plan: from_text(plan)?,
                    records: records.collect::<Answer<_>>()?,
                })
            };
            state.entries.iter().map(read).collect()
        })
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
        self.entries.iter_mut().find(|it| it.0 == *id).map(|it| &mut it.2).ok_or_else(missing)
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
