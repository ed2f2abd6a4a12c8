//! `/init` of the witness guest: steps through its counts for ever and says on the serial port
//! whether its disks and its RAM are of one instant. Runs as process 1 of a machine that is its
//! own; never on a host.

mod agent;
mod console;
mod dirty;
mod disk;
mod files;
mod machine;
mod steps;
mod variable;

use witness::line::Line;
use witness::params::Params;

use crate::console::Console;

fn main() {
    if std::process::id() != 1 {
        return agent::hook();
    }
    let console = Console::default();
    let Err(reason) = run(&console);
    console.say(&Line::Fatal { reason: reason.to_string() });
    console.drain();
    machine::power_off();
}

/// Why the witness cannot go on.
#[derive(Debug, thiserror::Error)]
enum Fatal {
    #[error("no disk")]
    NoDisk,
    #[error("cannot {what}: {source}")]
    Machine { what: String, source: std::io::Error },
    #[error(transparent)]
    Param(#[from] witness::params::BadParam),
    #[error("witness.fill_mib={fill_mib} leaves no room in {available_mib} MiB")]
    Fill { fill_mib: u64, available_mib: u64 },
}

fn run(console: &Console) -> Result<std::convert::Infallible, Fatal> {
    machine::mount_basics()?;
    console.open()?;
    machine::load_modules(machine::MODULES)?;
    let params = Params::parse(&machine::command_line()?)?;
    if params.variable {
        variable::count_boot(console)?;
    }
    let mut names = machine::writable_disks()?;
    if let Some(disk) = if params.files { names.pop() } else { None } {
        let files = files::start(console, &disk)?;
        agent::start(console, params.agent, files)?;
    }
    let disks = disk::open_all(names)?;
    if disks.is_empty() {
        return Err(Fatal::NoDisk);
    }
    let dirty = dirty::start(console, params)?;
    steps::run(console, disks, &dirty, params.step)
}
