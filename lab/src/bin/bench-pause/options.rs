//! What to measure, from the command line.

use std::time::Duration;

use vitrify_lab::program;

use crate::ways::How;

/// The options, for people.
pub(crate) const HELP: &str = "\
cargo xtask bench pause [--ways W,W,…] [--rounds N] [--rates R,R,…] [--limit S] [--memory MIB]
                        [--fill MIB]

  --ways W,…    what to compare [recipe,recipe-live,overlay,instant]: the shell recipe as it is found
                in many a script, the same with --live, and vitrify with either engine
  --rounds N    captures of each kind at each rate [3]
  --rates R,…   MB/s of the guest's RAM to be made dirty [0,100,1000]
  --limit S     seconds that a dump of RAM may take before it is given up [60]
  --memory MIB  the guest's RAM [1024]
  --fill MIB    how much of it is filled with data that does not compress [half of it]

A JSON line for each capture, then tables, on stdout. Ten minutes as it stands; a guest of 8 GiB takes
ten more: --memory 8192 --rates 0,200 --ways recipe,instant.";

/// What to measure.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) ways: Vec<How>,
    pub(crate) rounds: u64,
    pub(crate) rates: Vec<u64>,
    pub(crate) limit: Duration,
    pub(crate) memory_mib: u64,
    fill_mib: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ways: How::ALL.to_vec(),
            rounds: 3,
            rates: vec![0, 100, 1000],
            limit: Duration::from_secs(60),
            memory_mib: 1024,
            fill_mib: None,
        }
    }
}

impl Options {
    /// Reads the command line; none if help is wanted.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(crate) fn parse(arguments: &[String]) -> Result<Option<Self>, String> {
        let mut options = Self::default();
        let wanted = program::read(arguments, &[], |name, value| {
            let number = |text: &str| program::whole_number(name, text);
            let way = |text: &str| {
                How::named(text).ok_or_else(|| format!("{name}: '{text}' is no way to capture"))
            };
            match name {
                "--ways" => options.ways = value.split(',').map(way).collect::<Result<_, _>>()?,
                "--rounds" => options.rounds = number(value)?,
                "--rates" => {
                    options.rates = value.split(',').map(number).collect::<Result<_, _>>()?;
                }
                "--limit" => options.limit = Duration::from_secs(number(value)?.max(1)),
                "--memory" => options.memory_mib = number(value)?,
                "--fill" => options.fill_mib = Some(number(value)?),
                _ => return Err(format!("unknown: {name}")),
            }
            Ok(())
        })?;
        Ok(wanted.then_some(options))
    }

    /// How much of the RAM is filled.
    pub(crate) fn fill_mib(&self) -> u64 {
        self.fill_mib.unwrap_or(self.memory_mib / 2)
    }

    /// The ways, each round beginning with another, so that none always follows the same.
    pub(crate) fn ways_in_round(&self, round: u64) -> Vec<How> {
        let mut ways = self.ways.clone();
        let by = round as usize % ways.len().max(1);
        ways.rotate_left(by);
        ways
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
        let some = Options {
            ways: vec![How::Instant, How::Recipe],
            rounds: 1,
            rates: vec![5, 70],
            ..Options::default()
        };
        assert_eq!(some.ways_in_round(1), [How::Recipe, How::Instant]);
        assert_eq!(some.fill_mib(), 512);
        assert_eq!(parse(""), Ok(Some(Options::default())));
        assert_eq!(parse("--rounds 1 --rates 5,70 --ways instant,recipe"), Ok(Some(some)));
        assert_eq!(parse("--rounds 1 --help"), Ok(None));
        for (line, wrong) in [
            ("--rounds", "--rounds wants a value"),
            ("--rates 5,x", "--rates: 'x' is not a whole number"),
            ("--ways instant,fast", "--ways: 'fast' is no way to capture"),
            ("--speed 3", "unknown: --speed"),
        ] {
            assert_eq!(parse(line), Err(wrong.to_owned()));
        }
    }
}
