//! Results on stdout, problems on stderr: the one place that prints them.

use std::io::{IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;
use vitrify_core::problem::Problem;

use crate::exit::Status;
use crate::journald::Message;
use crate::progress::note_of;

/// Writes a result. A reader that went away (`| head`) is no error.
pub(crate) fn result(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// The same of one about a guest or its point, without the end of its line.
pub(crate) fn result_of(guest: Option<&str>, point: Option<&str>, text: &str) {
    if !(Message { text, guest, point }).send_instead_of(std::io::stdout()) {
        result(&format!("{text}\n"));
    }
}

/// Writes a result as one compact JSON document.
pub(crate) fn json(value: &Value) {
    result(&format!("{value}\n"));
}

/// Prints a problem with its causes and what to do, and gives the status for it.
pub(crate) fn problem(problem: &Problem) -> Status {
    problem_of(None, problem)
}

/// The same of one about a guest.
pub(crate) fn problem_of(guest: Option<&str>, problem: &Problem) -> Status {
    note_of(guest, None, &format!("vitrify: {}", problem.chain()));
    if let Some(hint) = &problem.hint {
        note_of(guest, None, &format!("  hint: {hint}"));
    }
    Status::of(problem.kind)
}

/// A table for people; `bare`: no header, fields separated by tabs.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>, bare: bool) {
    if bare {
        let lines: String = rows.iter().map(|row| row.join("\t") + "\n").collect();
        return result(&lines);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if std::io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table.set_header(header.to_vec()).add_rows(rows);
    let lines: String = table
        .lines()
        .map(|line| line.trim_end().trim_start_matches(' ').to_owned() + "\n")
        .collect();
    result(&lines);
}

/// Microseconds as a person reads them.
pub(crate) fn milliseconds(microseconds: u64) -> String {
    format!("{}.{} ms", microseconds / 1000, microseconds % 1000 / 100)
}
