//! The configuration's files, found and read, and the time zone that they name.

use std::fs;
use std::path::Path;

use jiff::tz::TimeZone;
use vitrify_core::config::{Config, ConfigError};
use vitrify_core::ports::Answer;
use vitrify_core::problem::{Problem, ProblemKind};

/// Where the configuration is looked for.
const DEFAULT_CONFIG: &str = "/etc/vitrify/vitrify.toml";

/// What holds on this host.
pub(crate) fn load(wanted: Option<&Path>) -> Answer<Config> {
    parse(&read(wanted)?).map_err(|errors| {
        let first = errors.first().map_or_else(String::new, ToString::to_string);
        let problem = Problem::new(ProblemKind::NotFound, first);
        match errors.len() {
            0 | 1 => problem,
            several => problem.hint(format!("'vitrify config check' shows all {several} errors")),
        }
    })
}

/// What the files say.
pub(crate) fn parse(files: &[(String, String)]) -> Result<Config, Vec<ConfigError>> {
    Config::parse(files.iter().map(|(name, text)| (name.as_str(), text.as_str())))
}

/// The zone that the policies' times are in. Only what goes by them asks for it: a guest is restored
/// where the system's database of time zones is missing, too.
pub(crate) fn time_zone(config: &Config) -> Result<TimeZone, ConfigError> {
    let Some((name, place)) = &config.time_zone else { return Ok(TimeZone::system()) };
    TimeZone::get(name).map_err(|_| {
        place.error(format!(
            "this system knows no time zone '{name}'; 'timedatectl list-timezones' shows those \
             that it knows"
        ))
    })
}

/// The configuration file, and what lies in `conf.d` beside it, each with its name. A file that was
/// asked for must be there.
pub(crate) fn read(wanted: Option<&Path>) -> Answer<Vec<(String, String)>> {
    let file = wanted.unwrap_or(Path::new(DEFAULT_CONFIG));
    let mut texts = Vec::new();
    match fs::read_to_string(file) {
        Ok(text) => texts.push((file.display().to_string(), text)),
        Err(error) if wanted.is_none() && error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(unreadable(file, error)),
    }
    let folder = file.with_file_name("conf.d");
    let mut parts = Vec::new();
    if let Ok(entries) = fs::read_dir(&folder) {
        parts.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    parts.retain(|path| path.extension().is_some_and(|it| it == "toml"));
    parts.sort();
    for path in parts {
        let text = fs::read_to_string(&path).map_err(|error| unreadable(&path, error))?;
        texts.push((path.display().to_string(), text));
    }
    Ok(texts)
}

/// A file that cannot be read is a wrong configuration.
pub(crate) fn unreadable(file: &Path, error: std::io::Error) -> Problem {
    let mut problem =
        Problem::io(format!("cannot read the configuration {}", file.display()), error);
    problem.kind = ProblemKind::NotFound;
    problem
}
