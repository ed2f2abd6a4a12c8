//! The benchmark of memory images: what they cost the host, the store and the guest.
//!
//! For each size of a guest: captures while it writes to its RAM, what they add to the store beside
//! what changed, and how much the guest gets done meanwhile; then the same stream received by us and
//! by `cat`, and the point restored by us and by libvirt. It states figures and judges none.

mod measure;
mod options;
mod row;
mod stage;
mod table;

use std::error::Error;
use std::process::ExitCode;

use vitrify_lab::interrupt::Interrupt;
use vitrify_lab::program::{self, note, print};

use options::{HELP, Options};
use row::Rows;
use stage::Stage;

/// Why the benchmark ends early.
type Failure = Box<dyn Error>;

fn main() -> ExitCode {
    program::bench("memory", program::options(Options::parse, HELP), measure_all, table::of)
}

fn measure_all(options: &Options) -> Result<Rows, Failure> {
    let interrupt = Interrupt::listen()?;
    let mut rows = Rows::default();
    for &memory_mib in &options.sizes_mib {
        for (place, writer) in options.writers.iter().enumerate() {
            note(&format!(
                "a guest of {memory_mib} MiB, half of it filled, a {} writer: booting",
                writer.name()
            ));
            let mut stage = Stage::set(memory_mib, *writer, options.mbps(*writer))?;
            for round in 1..=options.rounds {
                let row = stage.capture(round);
                interrupt.check()?;
                let row = row?;
                print(&row.to_json().to_string());
                rows.captures.push(row);
            }
            if place == 0 {
                let row = stage.image(options.rounds);
                interrupt.check()?;
                let row = row?;
                print(&row.to_json().to_string());
                rows.images.push(row);
            }
        }
    }
    Ok(rows)
}
