//! Properties of datasets and snapshots, any number of them by one process.

use std::collections::HashMap;

use vitrify_core::ports::Answer;

use super::{problem, zfs};
use crate::command::{Command, Ended};

/// How many names one command line takes. The kernel allows 2 MiB, and a name has 255 bytes at most.
pub(super) const MANY: usize = 1000;

/// The properties of one dataset or snapshot.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Properties(HashMap<String, (String, String)>);

impl Properties {
    /// A property's value; `None` where it has none.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|(value, _)| value.as_str()).filter(|value| *value != "-")
    }

    /// The value that was set on this very object, here or where it was received from. What is
    /// inherited says nothing about the object.
    pub(super) fn own(&self, name: &str) -> Option<&str> {
        let (value, source) = self.0.get(name)?;
        matches!(source.as_str(), "local" | "received").then_some(value)
    }
}

/// The properties of these datasets and snapshots, those that exist.
pub(super) fn of(names: &[String], wanted: &str) -> Answer<HashMap<String, Properties>> {
    let mut found = HashMap::new();
    for names in names.chunks(MANY) {
        found.extend(read(&get(wanted).args(names))?);
    }
    Ok(found)
}

/// The beginning of a command for [`read`].
pub(super) fn get(wanted: &str) -> Command {
    zfs("get").args(["-H", "-p", "-o", "name,property,value,source"]).arg(wanted)
}

/// Runs such a command. What does not exist is left out.
pub(super) fn read(command: &Command) -> Answer<Vec<(String, Properties)>> {
    let ended = command.end()?;
    if !ended.success && !only_absences(&ended) {
        return Err(problem(command, &ended));
    }
    Ok(parse(&ended.output.text()))
}

fn only_absences(ended: &Ended) -> bool {
    let mut lines = ended.complaints.lines().filter(|line| !line.trim().is_empty()).peekable();
    lines.peek().is_some() && lines.all(|line| line.ends_with(": dataset does not exist"))
}

/// Consecutive lines of one name belong together.
fn parse(text: &str) -> Vec<(String, Properties)> {
    let mut found: Vec<(String, Properties)> = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, '\t');
        let (Some(name), Some(property), Some(rest)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        // A value that somebody set may hold a tab.
        let (value, source) = rest.rsplit_once('\t').unwrap_or((rest, "-"));
        if found.last().is_none_or(|(last, _)| last != name) {
            found.push((name.to_owned(), Properties::default()));
        }
        if let Some((_, properties)) = found.last_mut() {
            properties.0.insert(property.to_owned(), (value.to_owned(), source.to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_sources() {
        let text = "tank/a@p\tguid\t12\t-\n\
                    tank/a@p\tvitrify:point\tone,two\tlocal\n\
                    tank/a@q\tguid\t13\t-\n\
                    tank/a@q\tvitrify:point\tthree\tinherited from tank/a\n\
                    tank/a@r\tguid\t14\t-\n\
                    tank/a@r\tvitrify:point\tfour\treceived\n";
        let found = parse(text);
        let seen: Vec<_> = found
            .iter()
            .map(|(name, it)| (name.as_str(), it.get("guid"), it.own("vitrify:point")))
            .collect();
        assert_eq!(
            seen,
            [
                ("tank/a@p", Some("12"), Some("one,two")),
                ("tank/a@q", Some("13"), None),
                ("tank/a@r", Some("14"), Some("four")),
            ]
        );
    }
}
