//! What to measure, from the command line.

use std::time::Duration;

/// The options, for people.
pub(crate) const HELP: &str = "\
cargo xtask bench pause [--rounds N] [--rates R,R,…] [--limit S] [--memory MIB] [--fill MIB]

  --rounds N    captures of each kind at each rate [3]
  --rates R,…   MB/s of the guest's RAM to be made dirty [0,100,1000]
  --limit S     seconds that a dump of RAM may take before it is given up [120]
  --memory MIB  the guest's RAM [1024]
  --fill MIB    how much of it is filled with data that does not compress [512]

A JSON line for each capture, then a table, on stdout.";

/// What to measure.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) rounds: u64,
    pub(crate) rates: Vec<u64>,
    pub(crate) limit: Duration,
    pub(crate) memory_mib: u64,
    pub(crate) fill_mib: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rounds: 3,
            rates: vec![0, 100, 1000],
            limit: Duration::from_secs(120),
            memory_mib: 1024,
            fill_mib: 512,
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
        let mut arguments = arguments.iter();
        while let Some(name) = arguments.next() {
            if matches!(name.as_str(), "--help" | "-h") {
                return Ok(None);
            }
            let value = arguments.next().ok_or_else(|| format!("{name} wants a value"))?;
            let number = |text: &str| {
                text.parse::<u64>().map_err(|_| format!("{name}: '{text}' is not a whole number"))
            };
            match name.as_str() {
                "--rounds" => options.rounds = number(value)?,
                "--rates" => {
                    options.rates = value.split(',').map(number).collect::<Result<_, _>>()?;
                }
                "--limit" => options.limit = Duration::from_secs(number(value)?.max(1)),
                "--memory" => options.memory_mib = number(value)?,
                "--fill" => options.fill_mib = number(value)?,
                _ => return Err(format!("unknown: {name}")),
            }
        }
        Ok(Some(options))
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
        let some = Options { rounds: 1, rates: vec![5, 70], ..Options::default() };
        assert_eq!(parse(""), Ok(Some(Options::default())));
        assert_eq!(parse("--rounds 1 --rates 5,70"), Ok(Some(some)));
        assert_eq!(parse("--rounds 1 --help"), Ok(None));
        for (line, wrong) in [
            ("--rounds", "--rounds wants a value"),
            ("--rates 5,x", "--rates: 'x' is not a whole number"),
            ("--speed 3", "unknown: --speed"),
        ] {
            assert_eq!(parse(line), Err(wrong.to_owned()));
        }
    }
}
