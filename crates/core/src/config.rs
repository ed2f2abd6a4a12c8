//! The configuration: from the text of one or several TOML files to a [`Config`], or to errors with
//! file, line and what to write instead.

mod explain;
mod layer;
mod named_policy;
mod rule;
mod values;
mod volume_rule;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use self::named_policy::NamedPolicy;
pub use self::rule::{GuestRule, Otherwise, Pattern, TwoRules};
pub use self::volume_rule::VolumeRule;

pub(crate) use self::explain::nearest;

use toml::Spanned;

use self::explain::explain;
use self::layer::Layer;
use self::values::{AbsolutePath, Limit, Percent, ShellLine, ShortLimit};
use crate::hooks::Hook;
use crate::problem::{Problem, ProblemKind};

/// The JSON schema of a configuration file.
pub const SCHEMA: &str = include_str!("config/schema.json");

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
    /// The name of the time zone that the policies' times are in, and where it is set; `None`: the
    /// system's. It looks like a name; whether there is such a zone, the system's database knows.
    pub time_zone: Option<(String, Place)>,
    /// The scripts around captures and removals.
    pub hooks: BTreeMap<Hook, CommandLine>,
    /// How long a script may take.
    pub script_limit: Duration,
    /// What is run at the end of a tick that is worth a word.
    pub notify: Option<CommandLine>,
    /// The policies, file by file.
    pub policies: Vec<NamedPolicy>,
    /// The rules that say which guests they hold for, in the order of the files.
    pub rules: Vec<GuestRule>,
    /// The rules for volumes without guests, in the order of the files.
    pub volumes: Vec<VolumeRule>,
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
            time_zone: None,
            hooks: BTreeMap::new(),
            script_limit: Duration::from_secs(30),
            notify: None,
            policies: Vec::new(),
            rules: Vec::new(),
            volumes: Vec::new(),
        }
    }
}

/// A command line for a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// What the shell is given.
    pub line: String,
    /// Where it stands.
    pub place: Place,
}

/// Where something stands in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
}

impl Place {
    /// What is wrong there.
    pub fn error(&self, message: impl Into<String>) -> ConfigError {
        ConfigError { file: self.file.clone(), line: self.line, message: message.into() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// A configuration file that cannot be believed.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct ConfigError {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there, and what to write instead.
    pub message: String,
}

impl From<ConfigError> for Problem {
    fn from(error: ConfigError) -> Self {
        Self::new(ProblemKind::NotFound, error.to_string())
    }
}

/// A file's text, by its name.
#[derive(Clone, Copy)]
struct Source<'a> {
    file: &'a str,
    text: &'a str,
}

impl Source<'_> {
    fn place(self, offset: usize) -> Place {
        let line = self.text.get(..offset).map_or(1, |before| before.matches('\n').count() + 1);
        Place { file: self.file.to_owned(), line }
    }
}

impl Config {
    /// Reads the files in order, given with their names. A later one overrides single values of an
    /// earlier one; rules add up, and a policy stands in one file only.
    ///
    /// # Errors
    /// By file and line, at least one: the first of each file that is not as it should be, or else
    /// what is wrong with each policy and each rule.
    pub fn parse<'a>(
        files: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, Vec<ConfigError>> {
        let (mut layers, mut errors) = (Vec::new(), Vec::new());
        for (file, text) in files {
            let source = Source { file, text };
            match toml::from_str::<Layer>(text) {
                Ok(layer) => layers.push((source, layer)),
                Err(error) => errors.push(explain(source, &error)),
            }
        }
        // A policy that is missed may be in the file that cannot be read.
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut config = Self::default();
        let (mut rules, mut volumes) = (Vec::new(), Vec::new());
        for (source, mut layer) in layers {
            rules.extend(layer.guest.drain(..).map(|rule| (source, rule)));
            volumes.extend(layer.volume.drain(..).map(|rule| (source, rule)));
            config.apply(source, layer, &mut errors);
        }
        for (source, rule) in rules {
            match GuestRule::new(source, rule, &config.policies) {
                Ok(rule) => config.rules.push(rule),
                Err(error) => errors.push(error),
            }
        }
        for (source, rule) in volumes {
            match VolumeRule::new(source, rule, &config.policies) {
                Ok(rule) => config.volumes.push(rule),
                Err(error) => errors.push(error),
            }
        }
        errors.extend(config.contradictions());
        errors.extend(config.volumes_named_twice());
        errors.sort();
        if errors.is_empty() { Ok(config) } else { Err(errors) }
    }

    fn apply(&mut self, source: Source<'_>, layer: Layer, errors: &mut Vec<ConfigError>) {
        let Layer { timezone, memory, overlay, capture, hooks, notify, policy, .. } = layer;
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
        if let Some(zone) = timezone {
            let place = source.place(zone.span().start);
            self.time_zone = Some((zone.into_inner().0, place));
        }
        let command = |it: Spanned<ShellLine>| {
            let place = source.place(it.span().start);
            CommandLine { line: it.into_inner().0, place }
        };
        let lines = [hooks.pre_snapshot, hooks.post_snapshot, hooks.pre_prune, hooks.post_prune];
        for (hook, line) in Hook::ALL.into_iter().zip(lines) {
            if let Some(line) = line {
                self.hooks.insert(hook, command(line));
            }
        }
        if let Some(Limit(limit)) = hooks.timeout {
            self.script_limit = limit;
        }
        if let Some(line) = notify.command {
            self.notify = Some(command(line));
        }
        for (name, policy) in policy {
            let policy = NamedPolicy::new(source, name, policy, errors);
            match self.policies.iter().find(|it| it.name == policy.name) {
                None => self.policies.push(policy),
                Some(first) => errors.push(policy.place.error(format!(
                    "policy '{}' is defined at {} already; rename or remove one of the two",
                    policy.name, first.place
                ))),
            }
        }
    }
}

#[cfg(test)]
mod tests;
