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
    /// `witness.scattered`: 1 to make it dirty in a scattered order, not from its beginning to its
    /// end.
    pub scattered: bool,
    /// `witness.files`: 1 if the last disk holds an ext4 to count on.
    pub files: bool,
    /// `witness.agent`: how the guest agent behaves, where there is such a disk.
    pub agent: Agent,
    /// `witness.variable`: 1 to count the boots in a UEFI variable.
    pub variable: bool,
    /// `witness.step_ms`: the time from one step to the next.
    pub step: Duration,
}

/// How the guest agent behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent {
    /// It is not started.
    Absent,
    /// It does its work.
    Works,
    /// Stopped (SIGSTOP) as soon as it listens.
    Hangs,
    /// It freezes only after 12 s, which is longer than libvirt waits for a sign of life.
    Slow,
    /// Stopped as soon as the file system is frozen.
    HangsFrozen,
    /// Killed (SIGKILL) as soon as the file system is frozen.
    DiesFrozen,
    /// Killed then, and started anew, as a service manager does.
    RestartsFrozen,
}

impl Agent {
    const ALL: [(&'static str, Self); 7] = [
        ("absent", Self::Absent),
        ("works", Self::Works),
        ("hangs", Self::Hangs),
        ("slow", Self::Slow),
        ("hangs-frozen", Self::HangsFrozen),
        ("dies-frozen", Self::DiesFrozen),
        ("restarts-frozen", Self::RestartsFrozen),
    ];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, agent)| *agent == self).map_or("", |(name, _)| name)
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(it, _)| *it == name).map(|(_, agent)| *agent)
    }
}

impl Default for Params {
    fn default() -> Self {
        Self {
            fill_mib: 0,
            dirty_mbps: 0,
            scattered: false,
            files: false,
            agent: Agent::Absent,
            variable: false,
            step: Duration::from_millis(20),
        }
    }
}

/// A parameter of ours whose value is not a whole number, or not a way to behave.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("witness.{key}={value} cannot be understood")]
pub struct BadParam {
    key: String,
    value: String,
}

impl Params {
    /// Reads a kernel command line.
    ///
    /// # Errors
    /// [`BadParam`].
    pub fn parse(command_line: &str) -> Result<Self, BadParam> {
        let mut params = Self::default();
        for word in command_line.split_whitespace() {
            let Some((key, value)) =
                word.strip_prefix("witness.").and_then(|it| it.split_once('='))
            else {
                continue;
            };
            let bad = || BadParam { key: key.to_owned(), value: value.to_owned() };
            if key == "agent" {
                params.agent = Agent::named(value).ok_or_else(bad)?;
                continue;
            }
            let number = value.parse().map_err(|_| bad())?;
            match key {
                "fill_mib" => params.fill_mib = number,
                "dirty_mbps" => params.dirty_mbps = number,
                "scattered" => params.scattered = number != 0,
                "files" => params.files = number != 0,
                "variable" => params.variable = number != 0,
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
        let all = Params {
            fill_mib: 64,
            dirty_mbps: 100,
            step: Duration::from_millis(5),
            ..Params::default()
        };
        let more = Params {
            scattered: true,
            files: true,
            agent: Agent::DiesFrozen,
            variable: true,
            ..Params::default()
        };
        let table = [
            ("", Ok(Params::default())),
            ("console=ttyS0 panic=-1", Ok(Params::default())),
            ("quiet witness.fill_mib=64 witness.step_ms=5 witness.dirty_mbps=100", Ok(all)),
            (
                "witness.files=1 witness.agent=dies-frozen witness.variable=1 witness.scattered=1",
                Ok(more),
            ),
        ];
        for (text, expected) in table {
            assert_eq!(Params::parse(text), expected, "{text}");
        }
        for bad in ["witness.fill_mib=lots", "witness.agent=odd"] {
            let error = Params::parse(bad).map_err(|error| error.to_string());
            assert_eq!(error, Err(format!("{bad} cannot be understood")));
        }
    }
}
