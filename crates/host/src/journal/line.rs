//! The grammar of a journal file. Touches nothing.

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use vitrify_core::operation::{Plan, Record};
use vitrify_core::problem::{Problem, ProblemKind};

/// The version that is written, and the only one that is read.
pub(super) const VERSION: u32 = 1;
/// How many hexadecimal digits begin a line.
const DIGITS: usize = 16;

/// The first line.
#[derive(Debug, Deserialize)]
pub(super) struct Header {
    /// When the entry was opened.
    pub(super) opened: Timestamp,
    /// What is to be done.
    pub(super) plan: Plan,
}

/// What a file holds.
#[derive(Debug)]
pub(super) struct Content {
    /// The first line.
    pub(super) header: Header,
    /// The others.
    pub(super) records: Vec<Record>,
    /// How many bytes these lines are; what follows is a torn line.
    pub(super) valid_bytes: u64,
}

/// A file that cannot be believed.
#[derive(Debug)]
pub(super) enum Bad {
    /// A line that others follow is not as it was written. The first may be.
    Line(usize, Option<Box<Plan>>),
    /// It was written by another version.
    Version(u64),
}

impl Bad {
    /// The plan, where that can be read.
    pub(super) fn plan(self) -> Option<Plan> {
        match self {
            Self::Line(_, plan) => plan.map(|it| *it),
            Self::Version(_) => None,
        }
    }

    /// What to tell about the file.
    pub(super) fn problem(&self, path: &Path) -> Problem {
        let path = path.display();
        match self {
            Self::Line(number, _) => {
                let message = format!("line {} of the journal entry {path} is damaged", number + 1);
                Problem::new(ProblemKind::Refused, message).hint(
                    "what was being done to that guest must be judged by hand; \
                     then move the file away",
                )
            }
            Self::Version(version) => Problem::refused(format!(
                "the journal entry {path} has version {version}, and this vitrify reads {VERSION}"
            ))
            .hint("run 'vitrify repair' of the version that wrote it"),
        }
    }
}

/// A line, with its line feed.
pub(super) fn line(number: u64, content: &impl Serialize) -> Result<String, std::io::Error> {
    let json = serde_json::to_string(content)?;
    Ok(format!("{} {json}\n", digits(number, json.as_bytes())))
}

/// Reads a file. `None` where not even the first line is whole and nothing follows it. The last
/// line counts only if it is whole; a bad line before it is an error.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Content>, Bad> {
    let mut content: Option<Content> = None;
    let mut start = 0;
    for (number, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
        start += line.len();
        let Some(json) = checked(number, line) else {
            return if start == bytes.len() { Ok(content) } else { Err(bad_line(number, content)) };
        };
        let valid_bytes = start as u64;
        content = Some(match content {
            None => Content { header: header(json)?, records: Vec::new(), valid_bytes },
            Some(mut content) => {
                let Ok(record) = serde_json::from_slice(json) else {
                    return Err(bad_line(number, Some(content)));
                };
                content.records.push(record);
                Content { valid_bytes, ..content }
            }
        });
    }
    Ok(content)
}

fn bad_line(number: usize, content: Option<Content>) -> Bad {
    Bad::Line(number, content.map(|it| Box::new(it.header.plan)))
}

fn header(json: &[u8]) -> Result<Header, Bad> {
    let value: serde_json::Value = serde_json::from_slice(json).map_err(|_| Bad::Line(0, None))?;
    let version = value.get("version").and_then(serde_json::Value::as_u64).unwrap_or(0);
    if version != u64::from(VERSION) {
        return Err(Bad::Version(version));
    }
    serde_json::from_value(value).map_err(|_| Bad::Line(0, None))
}

/// The line's JSON, if the line is whole.
fn checked(number: usize, line: &[u8]) -> Option<&[u8]> {
    let (found, json) = line.strip_suffix(b"\n")?.split_at_checked(DIGITS)?;
    let json = json.strip_prefix(b" ")?;
    (digits(number as u64, json).as_bytes() == found).then_some(json)
}

fn digits(number: u64, json: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(json);
    let mut digits = hasher.finalize().to_hex().to_string();
    digits.truncate(DIGITS);
    digits
}
