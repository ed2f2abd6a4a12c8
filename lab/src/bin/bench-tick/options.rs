//! What to measure, from the command line.

use vitrify_lab::program;

/// The options, for people.
pub(crate) const HELP: &str = "\
cargo xtask bench tick [--datasets N] [--snapshots N] [--rounds N]

  --datasets N   datasets of the pool [1000]
  --snapshots N  snapshots of each, nothing due and nothing to prune [100]
  --rounds N     runs of each tool [3]

A JSON line for each run, then a table, on stdout. Programs started are zfs, zpool and ps.";

/// What to measure.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) datasets: u64,
    pub(crate) snapshots: u64,
    pub(crate) rounds: u64,
}

impl Options {
    /// Reads the command line; none if help is wanted.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(crate) fn parse(arguments: &[String]) -> Result<Option<Self>, String> {
        let mut options = Self { datasets: 1000, snapshots: 100, rounds: 3 };
        let wanted = program::read(arguments, &[], |name, value| {
            let number = program::whole_number(name, value)?;
            match name {
                "--datasets" => options.datasets = number.max(1),
                "--snapshots" => options.snapshots = number.max(3),
                "--rounds" => options.rounds = number.max(1),
                _ => return Err(format!("unknown: {name}")),
            }
            Ok(())
        })?;
        Ok(wanted.then_some(options))
    }
}
