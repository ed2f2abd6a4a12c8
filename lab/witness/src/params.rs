//! The witness's parameters, read from the kernel command line.

use std::time::Duration;

/// How a witness behaves. Unknown words of the command line belong to the kernel and are passed
/// over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// `witness.fill_mib`: MiB of RAM to fill with data that does not compress.
    pub fill_mib: u64,
    /// `witness.dirty_mbps`: MB/s (10^6 bytes) of that RAM to make dirty, in whole pages.
    pub dirty_mbps: u64,
    /// `witness.step_ms`: the time from one step to the next.
    pub step: Duration,
}

impl Default for Params {
    fn default() -> Self {
        Self { fill_mib: 0, dirty_mbps: 0, step: Duration::from_millis(20) }
    }
}

/// A parameter of ours whose value is not a whole number.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("witness.{key}={value} is not a whole number")]
pub struct BadParam {
    key: String,
    value: String,
}

impl Params {
    /// Reads a kernel command line.
    ///
    /// # Errors
    /// [`BadParam`] for a value that is not a whole number.
    pub fn parse(command_line: &str) -> Result<Self, BadParam> {
        let mut params = Self::default();
        for word in command_line.split_whitespace() {
            let Some((key, value)) =
                word.strip_prefix("witness.").and_then(|it| it.split_once('='))
            else {
                continue;
            };
            let number = value
                .parse()
                .map_err(|_| BadParam { key: key.to_owned(), value: value.to_owned() })?;
            match key {
                "fill_mib" => params.fill_mib = number,
                "dirty_mbps" => params.dirty_mbps = number,
                "step_ms" => params.step = Duration::from_millis(number),
                _ => {}
            }
        }
        Ok(params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_read() {
        let all = Params { fill_mib: 64, dirty_mbps: 100, step: Duration::from_millis(5) };
        let table = [
            ("", Ok(Params::default())),
            ("console=ttyS0 panic=-1", Ok(Params::default())),
            ("quiet witness.fill_mib=64 witness.step_ms=5 witness.dirty_mbps=100", Ok(all)),
        ];
        for (text, expected) in table {
            assert_eq!(Params::parse(text), expected, "{text}");
        }
        let error = Params::parse("witness.fill_mib=lots").map_err(|error| error.to_string());
        assert_eq!(error, Err("witness.fill_mib=lots is not a whole number".to_owned()));
    }
}
