//! The lines that a witness says on its serial port: written by the guest, read by the lab, both
//! with this code.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use crate::slot::BootId;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// The witness is up and about to take its first step.
    Ready {
        /// This boot.
        boot: BootId,
        /// Writable disks found.
        disks: usize,
        /// What was on them.
        from: From,
        /// The last count that every disk held.
        count: u64,
    },
    /// How far it has come; several a second.
    Status {
        /// This boot.
        boot: BootId,
        /// Steps done.
        count: u64,
        /// Differences found since the boot, in all.
        mismatches: u64,
        /// Rate at which RAM was made dirty in the last second, in MB/s.
        dirty_mbps: u64,
        /// Pages made dirty since the boot, in all.
        dirty_pages: u64,
    },
    /// Memory and disks are not of one instant.
    Mismatch {
        /// Where: `disk=vda slot=12`, `ram page=7` or `disks`.
        place: String,
        /// What should have been there.
        expected: String,
        /// What was.
        found: String,
    },
    /// Something that happened beside the counting.
    Note {
        /// On what: `agent`, `files`, `boots-found`.
        what: String,
        /// What happened, or a number.
        value: String,
    },
    /// The witness cannot work and switches the guest off.
    Fatal {
        /// Why.
        reason: String,
    },
}

/// What a witness found on its disks when it booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// Empty rings.
    Fresh,
    /// The rings of an earlier boot.
    Cold,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready { boot, disks, from, count } => {
                let from = if *from == From::Fresh { "fresh" } else { "cold" };
                write!(f, "WITNESS ready boot={boot} disks={disks} from={from} count={count}")
            }
            Self::Status { boot, count, mismatches, dirty_mbps, dirty_pages } => {
                write!(f, "WITNESS boot={boot} count={count} mismatches={mismatches} ")?;
                write!(f, "dirty_mbps={dirty_mbps} dirty_pages={dirty_pages}")
            }
            Self::Mismatch { place, expected, found } => {
                write!(f, "WITNESS MISMATCH {place} expected={expected} found={found}")
            }
            Self::Note { what, value } => write!(f, "WITNESS note {what}={value}"),
            Self::Fatal { reason } => write!(f, "WITNESS fatal {reason}"),
        }
    }
}

/// The text is not a witness's line: the kernel's, or half a line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a witness's line")]
pub struct NotALine;

impl FromStr for Line {
    type Err = NotALine;

    /// What was being said when a guest's power was cut has no end: the next boot goes on in the same
    /// line of the log, and it is the next boot's words that count.
    fn from_str(text: &str) -> Result<Self, NotALine> {
        let at = text.rfind("WITNESS ").ok_or(NotALine)?;
        let said = text[at..].trim_end().strip_prefix("WITNESS ").ok_or(NotALine)?;
        if let Some(reason) = said.strip_prefix("fatal ") {
            return Ok(Self::Fatal { reason: reason.to_owned() });
        }
        if let Some(note) = said.strip_prefix("note ") {
            let (what, value) = note.split_once('=').ok_or(NotALine)?;
            let [what, value] = [what, value].map(str::to_owned);
            return Ok(Self::Note { what, value });
        }
        if let Some(difference) = said.strip_prefix("MISMATCH ") {
            let (place, rest) = difference.split_once(" expected=").ok_or(NotALine)?;
            let (expected, found) = rest.split_once(" found=").ok_or(NotALine)?;
            let [place, expected, found] = [place, expected, found].map(str::to_owned);
            return Ok(Self::Mismatch { place, expected, found });
        }
        match said.strip_prefix("ready ") {
            Some(rest) => ready(&fields(rest)),
            None => status(&fields(said)),
        }
        .ok_or(NotALine)
    }
}

fn ready(fields: &HashMap<&str, &str>) -> Option<Line> {
    let from = match *fields.get("from")? {
        "fresh" => From::Fresh,
        "cold" => From::Cold,
        _ => return None,
    };
    let disks = fields.get("disks")?.parse().ok()?;
    Some(Line::Ready { boot: boot(fields)?, disks, from, count: number(fields, "count")? })
}

fn status(fields: &HashMap<&str, &str>) -> Option<Line> {
    Some(Line::Status {
        boot: boot(fields)?,
        count: number(fields, "count")?,
        mismatches: number(fields, "mismatches")?,
        dirty_mbps: number(fields, "dirty_mbps")?,
        dirty_pages: number(fields, "dirty_pages")?,
    })
}

fn fields(text: &str) -> HashMap<&str, &str> {
    text.split_whitespace().filter_map(|word| word.split_once('=')).collect()
}

fn number(fields: &HashMap<&str, &str>, key: &str) -> Option<u64> {
    fields.get(key)?.parse().ok()
}

fn boot(fields: &HashMap<&str, &str>) -> Option<BootId> {
    let text = fields.get("boot").filter(|text| text.len() == 16)?;
    u64::from_str_radix(text, 16).ok().map(BootId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_and_read() {
        let boot = BootId(0xab);
        let mismatch = Line::Mismatch {
            place: "disk=vda slot=12".to_owned(),
            expected: "12@00000000000000ab".to_owned(),
            found: "empty".to_owned(),
        };
        let table = [
            (
                Line::Ready { boot, disks: 2, from: From::Fresh, count: 0 },
                "WITNESS ready boot=00000000000000ab disks=2 from=fresh count=0",
            ),
            (
                Line::Ready { boot, disks: 1, from: From::Cold, count: 71 },
                "WITNESS ready boot=00000000000000ab disks=1 from=cold count=71",
            ),
            (
                Line::Status { boot, count: 9, mismatches: 0, dirty_mbps: 100, dirty_pages: 7 },
                "WITNESS boot=00000000000000ab count=9 mismatches=0 dirty_mbps=100 dirty_pages=7",
            ),
            (
                mismatch,
                "WITNESS MISMATCH disk=vda slot=12 expected=12@00000000000000ab found=empty",
            ),
            (
                Line::Note { what: "agent".to_owned(), value: "killed".to_owned() },
                "WITNESS note agent=killed",
            ),
            (Line::Fatal { reason: "no disk".to_owned() }, "WITNESS fatal no disk"),
        ];
        for (line, text) in table {
            assert_eq!(line.to_string(), text);
            assert_eq!(format!("[    1.2] kernel words {text}\r").parse(), Ok(line));
        }
    }

    #[test]
    fn a_line_begins_where_the_power_was_cut() {
        let status =
            "WITNESS boot=00000000000000ab count=9 mismatches=0 dirty_mbps=0 dirty_pages=7";
        let ready = "WITNESS ready boot=00000000000000ac disks=1 from=cold count=8";
        let expected = ready.parse::<Line>();
        assert!(matches!(expected, Ok(Line::Ready { count: 8, .. })));
        for end in 0..=status.len() {
            assert_eq!(format!("{}{ready}", &status[..end]).parse(), expected);
        }
    }

    #[test]
    fn other_text_is_not_a_line() {
        let table = [
            "",
            "[    0.0] Linux version 6.12",
            "WITNESS",
            "WITNESS boot=00000000000000ab count=9 mismatches=0 dirty_mbps=0",
            "WITNESS boot=00ab count=9 mismatches=0 dirty_mbps=0 dirty_pages=0",
            "WITNESS ready boot=00000000000000ab disks=2 from=else count=0",
            "WITNESS MISMATCH disk=vda slot=1 expected=1",
            "WITNESS note agent",
        ];
        for text in table {
            assert_eq!(text.parse::<Line>(), Err(NotALine), "{text}");
        }
    }
}
