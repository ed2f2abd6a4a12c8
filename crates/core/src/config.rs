//! The configuration: from the text of one or several TOML files to a [`Config`], or to an error
//! with file, line and the nearest valid key.

use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

/// What an administrator can set. [`Config::default`] is what holds without any file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where the homes are; `None`: the default place, `memory` below the state folder.
    pub store: Option<PathBuf>,
    /// How much of the store stays free, in percent.
    pub reserve_percent: u64,
    /// Whether memory images may lie on the root file system.
    pub on_root: bool,
    /// A folder on a fast drive, where RAM may wait that the store is too slow for.
    pub spool: Option<PathBuf>,
    /// Where overlay files go during a capture; `None`: `overlays` below the state folder.
    pub overlay_folder: Option<PathBuf>,
    /// How long libvirt's dump of RAM may take.
    pub dump_limit: Duration,
    /// How long the commit of a disk may take.
    pub commit_limit: Duration,
    /// How long a guest should stand still at most. Chooses how the volumes are snapshotted, and when
    /// the guard lets a guest go.
    pub pause_limit: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            store: None,
            reserve_percent: 10,
            on_root: false,
            spool: None,
            overlay_folder: None,
            dump_limit: Duration::from_secs(600),
            commit_limit: Duration::from_secs(600),
            pause_limit: Duration::from_secs(1),
        }
    }
}

/// A configuration file that cannot be believed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct ConfigError {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there, and the nearest valid key where one is near.
    pub message: String,
}

impl Config {
    /// Reads the files in order, given with their names; a later one overrides an earlier one.
    pub fn parse<'a>(
        files: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for (file, text) in files {
            let layer: Layer = toml::from_str(text).map_err(|error| explain(file, text, &error))?;
            config.apply(layer);
        }
        Ok(config)
    }

    fn apply(&mut self, layer: Layer) {
        let Layer { memory, overlay, capture } = layer;
        let set = |place: &mut Option<PathBuf>, path: Option<AbsolutePath>| {
            if let Some(AbsolutePath(path)) = path {
                *place = Some(path);
            }
        };
        set(&mut self.store, memory.store);
        set(&mut self.spool, memory.spool);
        set(&mut self.overlay_folder, overlay.path);
        if let Some(Percent(percent)) = memory.reserve {
            self.reserve_percent = percent;
        }
        self.on_root = memory.on_root.unwrap_or(self.on_root);
        if let Some(Limit(limit)) = overlay.dump_limit {
            self.dump_limit = limit;
        }
        if let Some(Limit(limit)) = overlay.commit_limit {
            self.commit_limit = limit;
        }
        if let Some(ShortLimit(limit)) = capture.pause_limit {
            self.pause_limit = limit;
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Layer {
    memory: MemoryLayer,
    overlay: OverlayLayer,
    capture: CaptureLayer,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case", expecting = "the table [memory]")]
struct MemoryLayer {
    store: Option<AbsolutePath>,
    reserve: Option<Percent>,
    spool: Option<AbsolutePath>,
    on_root: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case", expecting = "the table [overlay]")]
struct OverlayLayer {
    path: Option<AbsolutePath>,
    dump_limit: Option<Limit>,
    commit_limit: Option<Limit>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case", expecting = "the table [capture]")]
struct CaptureLayer {
    pause_limit: Option<ShortLimit>,
}

/// Parses a value from its text, the error being the sentence that the administrator reads.
trait FromText: Sized {
    /// What is wanted, for a value that is no text at all.
    const WANTED: &'static str;

    fn from_text(text: &str) -> Result<Self, String>;
}

struct TextVisitor<T>(PhantomData<T>);

impl<T: FromText> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::WANTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).map_err(E::custom)
    }
}

macro_rules! deserialize_from_text {
    ($($name:ty),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(TextVisitor(PhantomData))
            }
        }
    )*};
}

#[derive(Debug)]
struct AbsolutePath(PathBuf);
#[derive(Debug)]
struct Percent(u64);
#[derive(Debug)]
struct Limit(Duration);
#[derive(Debug)]
struct ShortLimit(Duration);
deserialize_from_text!(AbsolutePath, Percent, Limit, ShortLimit);

impl FromText for AbsolutePath {
    const WANTED: &'static str = "a path in quotes";

    fn from_text(text: &str) -> Result<Self, String> {
        match text.starts_with('/') {
            true => Ok(Self(text.into())),
            false => Err(format!("'{text}' is not an absolute path")),
        }
    }
}

impl FromText for Percent {
    const WANTED: &'static str = "a share such as \"10%\"";

    fn from_text(text: &str) -> Result<Self, String> {
        text.strip_suffix('%')
            .and_then(|number| number.trim().parse().ok())
            .filter(|percent| *percent < 100)
            .map(Self)
            .ok_or_else(|| format!("'{text}' is not a share below 100%, such as \"10%\""))
    }
}

impl FromText for Limit {
    const WANTED: &'static str = "a time such as \"90s\"";

    fn from_text(text: &str) -> Result<Self, String> {
        time(text, &[("s", 1000), ("min", 60_000), ("h", 3_600_000)])
            .map(Self)
            .ok_or_else(|| format!("'{text}' is not a time such as \"90s\", \"10min\" or \"1h\""))
    }
}

impl FromText for ShortLimit {
    const WANTED: &'static str = "a time such as \"500ms\"";

    fn from_text(text: &str) -> Result<Self, String> {
        time(text, &[("ms", 1), ("s", 1000)])
            .map(Self)
            .ok_or_else(|| format!("'{text}' is not a time such as \"500ms\" or \"2s\""))
    }
}

/// A number of one of these units, each given with its milliseconds; not nothing.
fn time(text: &str, units: &[(&str, u64)]) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, milliseconds) = units.iter().find(|(name, _)| *name == unit.trim())?;
    let milliseconds = number.parse::<u64>().ok()?.checked_mul(*milliseconds)?;
    (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
}

fn explain(file: &str, text: &str, error: &toml::de::Error) -> ConfigError {
    let span = error.span().unwrap_or_default();
    let line = text.get(..span.start).map_or(1, |before| before.matches('\n').count() + 1);
    let found = text.get(span).unwrap_or_default();
    let message = match error.message() {
        unknown if unknown.starts_with("unknown field `") => explain_unknown(unknown),
        "duplicate key" => format!("the key '{found}' is there twice"),
        _ if found.starts_with("[[") => {
            "a table is written with single brackets: [memory], [overlay], [capture]".to_owned()
        }
        other => other.to_owned(),
    };
    ConfigError { file: file.to_owned(), line, message }
}

/// serde says: unknown field `key`, expected one of `this`, `that`.
fn explain_unknown(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let key = quoted.next().unwrap_or_default();
    let known: Vec<&str> = quoted.collect();
    let near = known.iter().filter(|it| distance(key, it) <= 2);
    match near.min_by_key(|it| distance(key, it)) {
        Some(near) => format!("unknown key '{key}'; did you mean '{near}'?"),
        None => format!("unknown key '{key}'; what can stand here is {}", known.join(", ")),
    }
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_files_override() {
        let first = "[memory]\nstore = '/mem'\nreserve = '5%'\n";
        let second = "[memory]\nstore = '/big'\n[overlay]\ndump-limit = '90s'\n\
                      [capture]\npause-limit = '250ms'\n";
        let config = Config::parse([("a", first), ("b", second)]).unwrap();
        assert_eq!(config.store, Some("/big".into()));
        assert_eq!(config.reserve_percent, 5);
        assert_eq!(config.dump_limit, Duration::from_secs(90));
        assert_eq!(config.commit_limit, Config::default().commit_limit);
        assert_eq!(config.pause_limit, Duration::from_millis(250));
    }

    #[test]
    fn errors_say_where_and_what_instead() {
        for (text, line, message) in [
            ("[memory]\nstroe = '/mem'", 2, "unknown key 'stroe'; did you mean 'store'?"),
            ("[memroy]\nstore = '/mem'", 1, "unknown key 'memroy'; did you mean 'memory'?"),
            ("[memory]\nstore = 'mem'", 2, "'mem' is not an absolute path"),
            ("\n[memory]\nreserve = 'ten'", 3, "'ten' is not a share below 100%, such as \"10%\""),
            (
                "[overlay]\ndump-limit = '0s'",
                2,
                "'0s' is not a time such as \"90s\", \"10min\" or \"1h\"",
            ),
            (
                "[capture]\npause-limit = '1min'",
                2,
                "'1min' is not a time such as \"500ms\" or \"2s\"",
            ),
            ("[memory]\non-root = 'yes'", 2, "invalid type: string \"yes\", expected a boolean"),
            ("memory = 3", 1, "invalid type: integer `3`, expected the table [memory]"),
            (
                "[overlay]\nstore = '/mem'",
                2,
                "unknown key 'store'; what can stand here is path, dump-limit, commit-limit",
            ),
            (
                "[overlay]\ndump-limit = 90",
                2,
                "invalid type: integer `90`, expected a time such as \"90s\"",
            ),
            ("[memory]\nstore = '/a'\nstore = '/b'", 3, "the key 'store' is there twice"),
            (
                "\n[[memory]]\nstore = '/a'",
                2,
                "a table is written with single brackets: [memory], [overlay], [capture]",
            ),
        ] {
            let error = Config::parse([("v.toml", text)]).unwrap_err();
            assert_eq!((error.line, error.message.as_str()), (line, message), "{text}");
        }
        assert!(Config::parse([("v.toml", "[memory")]).is_err());
    }
}
