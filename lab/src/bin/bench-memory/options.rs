//! What to measure, from the command line.

use vitrify_lab::program;

/// The options, for people.
pub(crate) const HELP: &str = "\
cargo xtask bench memory [--full] [--sizes MIB,…] [--writers W,…] [--rounds N] [--rate MBPS]
                         [--busy MBPS]

  --full         guests of 256, 1024, 4096 and 8192 MiB
  --sizes MIB,…  the guest's RAM, half of it filled with data that does not compress [256,1024,4096]
  --writers W,…  how it writes to its RAM [sequential,scattered,busy]: slowly from one page to the
                 next, slowly in a scattered order, or much
  --rounds N     captures of each guest, and times that a stream is received [3]
  --rate MBPS    MB/s that the slow writers make dirty [20]
  --busy MBPS    MB/s that the busy one makes dirty [200]

For each guest a JSON line for each capture, for each size one for its last image, then tables, on
stdout. The disks lie on one Btrfs and the store on another.

Of a capture:
  pause, stalled  as vitrify tells them
  total           from its start to its end
  growth          what the store's file system uses more afterwards, with a sync
  changed         what the hashes of the image and the last one differ in, in blocks of 64 KiB
  resident        the most memory that vitrify had in RAM
  work            pages that the guest made dirty from the command's start to its end, per second,
                  beside the same of the seconds before
Of an image, everything in the page cache:
  ingest          its stream received into a new home: until the guest would be free, and until it is
                  durable; beside it cat of the same stream into a file, and with a sync
  restore         'vitrify restore' of a guest that is off; beside it 'virsh restore' of the image as a
                  save image, and cp of that";

/// How a guest writes to its RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    /// Slowly, from one page to the next.
    Sequential,
    /// Slowly, in a scattered order.
    Scattered,
    /// Much, from one page to the next.
    Busy,
}

impl Writer {
    const ALL: [Self; 3] = [Self::Sequential, Self::Scattered, Self::Busy];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::Scattered => "scattered",
            Self::Busy => "busy",
        }
    }
}

/// What to measure.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) sizes_mib: Vec<u64>,
    pub(crate) writers: Vec<Writer>,
    pub(crate) rounds: u64,
    rate_mbps: u64,
    busy_mbps: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sizes_mib: vec![256, 1024, 4096],
            writers: Writer::ALL.to_vec(),
            rounds: 3,
            rate_mbps: 20,
            busy_mbps: 200,
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
        let wanted = program::read(arguments, &["--full"], |name, value| {
            let number = |text: &str| program::whole_number(name, text);
            let writer = |text: &str| {
                let found = Writer::ALL.into_iter().find(|it| it.name() == text);
                found.ok_or_else(|| format!("{name}: no guest writes '{text}'"))
            };
            let values = value.split(',');
            match name {
                "--full" => options.sizes_mib = vec![256, 1024, 4096, 8192],
                "--sizes" => options.sizes_mib = values.map(number).collect::<Result<_, _>>()?,
                "--writers" => options.writers = values.map(writer).collect::<Result<_, _>>()?,
                "--rounds" => options.rounds = number(value)?.max(1),
                "--rate" => options.rate_mbps = number(value)?,
                "--busy" => options.busy_mbps = number(value)?,
                _ => return Err(format!("unknown: {name}")),
            }
            Ok(())
        })?;
        Ok(wanted.then_some(options))
    }

    /// MB/s that a writer makes dirty.
    pub(crate) fn mbps(&self, writer: Writer) -> u64 {
        match writer {
            Writer::Sequential | Writer::Scattered => self.rate_mbps,
            Writer::Busy => self.busy_mbps,
        }
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
            sizes_mib: vec![256, 1024, 4096, 8192],
            writers: vec![Writer::Scattered],
            rounds: 1,
            busy_mbps: 500,
            ..Options::default()
        };
        assert_eq!((some.mbps(Writer::Scattered), some.mbps(Writer::Busy)), (20, 500));
        assert_eq!(parse(""), Ok(Some(Options::default())));
        assert_eq!(parse("--full --writers scattered --rounds 0 --busy 500"), Ok(Some(some)));
        assert_eq!(parse("--rounds 1 --help"), Ok(None));
        for (line, wrong) in [
            ("--rounds", "--rounds wants a value"),
            ("--sizes 5,x", "--sizes: 'x' is not a whole number"),
            ("--writers often", "--writers: no guest writes 'often'"),
            ("--speed 3", "unknown: --speed"),
        ] {
            assert_eq!(parse(line), Err(wrong.to_owned()));
        }
    }
}
