//! The benchmark of pauses: the same guest, at several rates of making its RAM dirty, captured in
//! turn by the plain shell recipe, the same with `--live`, and vitrify with either engine.
//!
//! Pauses are measured in one way for all of them, from QEMU's STOP and RESUME events. It states
//! figures and judges none. Everything happens in a world of its own, which is gone at the end.

mod options;
mod row;
mod stage;
mod table;
mod ways;

use std::error::Error;
use std::process::ExitCode;

use vitrify_lab::interrupt::Interrupt;
use vitrify_lab::program::{self, note, print};

use options::{HELP, Options};
use row::Row;
use stage::Stage;

/// Why the benchmark ends early.
type Failure = Box<dyn Error>;

fn main() -> ExitCode {
    program::bench("pause", program::options(Options::parse, HELP), measure, |rows| table::of(rows))
}

fn measure(options: &Options) -> Result<Vec<Row>, Failure> {
    let interrupt = Interrupt::listen()?;
    let mut rows = Vec::new();
    for &asked_mbps in &options.rates {
        note(&format!(
            "a guest of {} MiB, {} of them filled, {asked_mbps} MB/s to be made dirty: booting",
            options.memory_mib,
            options.fill_mib()
        ));
        let mut stage = Stage::set(options, asked_mbps)?;
        for round in 1..=options.rounds {
            for how in options.ways_in_round(round) {
                let row = stage.capture(how, round);
                interrupt.check()?;
                let row = row?;
                print(&row.to_json().to_string());
                rows.push(row);
            }
        }
    }
    Ok(rows)
}
