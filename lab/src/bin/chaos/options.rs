//! Which rounds to play, from the command line.

use std::ops::Range;

use vitrify_lab::chaos::Ground;
use vitrify_lab::program;

/// The options, for people.
pub(crate) const HELP: &str = "\
cargo xtask chaos [--rounds N] [--seed S] [--round K] [--on btrfs|zfs]

  --rounds N  how many rounds [10]
  --seed S    what they follow from [1]
  --round K   this one alone: it depends on seed and number only
  --on WHERE  btrfs, on this machine [btrfs]; or zfs, in the lab's ZFS machine

Each round boots a random guest, takes points of it, and then a snapshot or a restore meets trouble:
vitrify killed, the guest stopped by somebody else, no room. After one repair all must be well.";

/// Which rounds to play.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) ground: Ground,
    pub(crate) seed: u64,
    rounds: u64,
    round: Option<u64>,
}

impl Options {
    /// Reads the command line; none if help is wanted.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(crate) fn parse(arguments: &[String]) -> Result<Option<Self>, String> {
        let mut options = Self { ground: Ground::Btrfs, seed: 1, rounds: 10, round: None };
        let wanted = program::read(arguments, &[], |name, value| {
            let number = || program::whole_number(name, value);
            match name {
                "--rounds" => options.rounds = number()?,
                "--seed" => options.seed = number()?,
                "--round" => options.round = Some(number()?),
                "--on" => options.ground = ground(value)?,
                _ => return Err(format!("unknown: {name}")),
            }
            Ok(())
        })?;
        Ok(wanted.then_some(options))
    }

    /// The numbers of the rounds.
    pub(crate) fn numbers(&self) -> Range<u64> {
        self.round.map_or(0..self.rounds, |round| round..round + 1)
    }

    /// The command that plays one round again.
    pub(crate) fn again(&self, number: u64) -> String {
        let on = if self.ground == Ground::Zfs { " --on zfs" } else { "" };
        format!("cargo xtask chaos --seed {} --round {number}{on}", self.seed)
    }
}

fn ground(name: &str) -> Result<Ground, String> {
    match name {
        "btrfs" => Ok(Ground::Btrfs),
        "zfs" => Ok(Ground::Zfs),
        _ => Err(format!("--on: '{name}' is neither btrfs nor zfs")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Options>, String> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_command_line_is_read() {
        let some = Options { ground: Ground::Zfs, seed: 3, rounds: 10, round: Some(7) };
        assert_eq!(some.numbers(), 7..8);
        assert_eq!(some.again(7), "cargo xtask chaos --seed 3 --round 7 --on zfs");
        assert_eq!(parse("--on zfs --seed 3 --round 7"), Ok(Some(some)));
        assert_eq!(parse("--rounds 3").map(|it| it.map(|it| it.numbers())), Ok(Some(0..3)));
        assert_eq!(parse("--rounds 1 --help"), Ok(None));
        for (line, wrong) in [
            ("--rounds", "--rounds wants a value"),
            ("--seed x", "--seed: 'x' is not a whole number"),
            ("--on ext4", "--on: 'ext4' is neither btrfs nor zfs"),
            ("--speed 3", "unknown: --speed"),
        ] {
            assert_eq!(parse(line), Err(wrong.to_owned()));
        }
    }
}
