//! Runs the real `vitrify` against one world.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::run::{RunError, Running, run};

/// How long a command may take, unless said otherwise. One that carries out the engines' self-test first
/// takes minutes in a machine that is emulated itself.
const LIMIT: Duration = Duration::from_secs(600);

/// The binary with the configuration and state of one world.
#[derive(Clone, Debug)]
pub struct Vitrify {
    program: PathBuf,
    config: PathBuf,
    state: PathBuf,
}

/// What a command came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its exit status; none if a signal ended it.
    pub code: Option<i32>,
    /// Its result.
    pub stdout: String,
    /// Its messages.
    pub stderr: String,
}

/// A command's result is not JSON.
#[derive(Debug, thiserror::Error)]
#[error("not JSON (exit status {code:?}): {stdout}{stderr}")]
pub struct NotJson {
    code: Option<i32>,
    stdout: String,
    stderr: String,
    source: serde_json::Error,
}

impl Outcome {
    /// Its result as JSON.
    ///
    /// # Errors
    /// [`NotJson`] with all that it said.
    pub fn json(&self) -> Result<Value, NotJson> {
        let Self { code, stdout, stderr } = self.clone();
        serde_json::from_str(&stdout).map_err(|source| NotJson { code, stdout, stderr, source })
    }
}

impl Vitrify {
    /// The binary that `VITRIFY_BIN` names, else the one that was built beside this program.
    #[must_use]
    pub fn new(config: &Path, state: &Path) -> Self {
        let program = env::var_os("VITRIFY_BIN").map_or_else(beside_us, PathBuf::from);
        Self { program, config: config.to_owned(), state: state.to_owned() }
    }

    /// The binary.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The configuration file, to be written by whoever wants another.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Where it keeps its state.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// [`RunError`] if it does not start or does not end; an exit status other than 0 is an
    /// [`Outcome`].
    pub fn run(&self, arguments: &[&str]) -> Result<Outcome, RunError> {
        self.run_within(LIMIT, arguments)
    }

    /// As [`Self::run`], with a limit of one's own.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_within(&self, limit: Duration, arguments: &[&str]) -> Result<Outcome, RunError> {
        let finished = run(&mut self.command(arguments), limit)?;
        let (stdout, stderr) = (finished.stdout, finished.stderr);
        Ok(Outcome { code: finished.status.code(), stdout, stderr })
    }

    /// Starts a command, to be interrupted or killed in its middle.
    ///
    /// # Errors
    /// [`RunError::Start`].
    pub fn start(&self, arguments: &[&str]) -> Result<Running, RunError> {
        Running::start(&mut self.command(arguments))
    }

    /// The command, for those who want to spawn and kill it themselves.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(&self.config).arg("--state").arg(&self.state).args(arguments);
        command
    }
}

/// Test programs lie in `deps` below the folder of the binaries, other programs in it.
fn beside_us() -> PathBuf {
    let us = env::current_exe().unwrap_or_default();
    let folders = us.ancestors().skip(1).take(2);
    let candidates = folders.map(|folder| folder.join("vitrify"));
    candidates.into_iter().find(|path| path.is_file()).unwrap_or_else(|| "vitrify".into())
}
