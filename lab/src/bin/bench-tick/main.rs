//! The benchmark of ticks with nothing to do: many datasets with many snapshots, behind a `zfs` that
//! answers from files, and what the present tool and vitrify need to find out that nothing is due.
//!
//! It states figures and judges none. Debian's sanoid runs from its unpacked package, with its caches
//! in a scratch folder; the only change to it is where it looks for its defaults.

mod options;
mod stage;

use std::error::Error;
use std::process::ExitCode;

use serde_json::json;
use vitrify_lab::figures::{aligned, median};
use vitrify_lab::interrupt::Interrupt;
use vitrify_lab::program::{self, print};

use options::{HELP, Options};
use stage::{Stage, Way};

/// One run of one tool.
struct Row {
    way: Way,
    milliseconds: f64,
    started: usize,
}

fn main() -> ExitCode {
    program::bench("tick", program::options(Options::parse, HELP), measure, |rows| table(rows))
}

fn measure(options: &Options) -> Result<Vec<Row>, Box<dyn Error>> {
    let interrupt = Interrupt::listen()?;
    let stage = Stage::set(options)?;
    let mut rows = Vec::new();
    for _ in 0..options.rounds {
        for way in Way::ALL {
            let (took, started) = stage.run(way)?;
            interrupt.check()?;
            let row = Row { way, milliseconds: took.as_secs_f64() * 1e3, started };
            print(
                &json!({ "way": way.name(), "ms": row.milliseconds, "started": started })
                    .to_string(),
            );
            rows.push(row);
        }
    }
    Ok(rows)
}

/// Medians, and each beside sanoid's cold run.
fn table(rows: &[Row]) -> String {
    let of = |way: Way| {
        let its = || rows.iter().filter(move |it| it.way == way);
        let time = median(its().map(|it| it.milliseconds)).unwrap_or_default();
        (time, its().map(|it| it.started).max().unwrap_or_default())
    };
    let (cold, _) = of(Way::SanoidCold);
    let line = |way: Way| {
        let (time, started) = of(way);
        let ratio = if cold > 0.0 { time / cold } else { 0.0 };
        [way.name().to_owned(), format!("{time:.0}"), format!("{ratio:.3}"), started.to_string()]
    };
    aligned(&["way", "ms", "of sanoid's cold run", "programs started"], &Way::ALL.map(line))
}
