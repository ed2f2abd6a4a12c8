//! Runs the scripts of an administrator.

use std::time::Duration;

use vitrify_core::hooks::Ended;

use crate::command::Command;

/// A script that has run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// How it ended.
    pub ended: Ended,
    /// What it wrote, standard output before standard error, and, where it did not succeed, what
    /// became of it; a line each.
    pub said: Vec<String>,
}

/// Runs a command line in a shell, with these variables beside our own, no standard input, and in a
/// process group of its own: all of it is killed at the limit (`None`: there is none).
pub fn run(line: &str, variables: &[(&'static str, String)], limit: Option<Duration>) -> Ran {
    let (status, out, err) = match Command::shell(line, variables).limit(limit).finish() {
        Ok(finished) => finished,
        Err(problem) => {
            return Ran { ended: Ended::Failed, said: vec![problem.chain()] };
        }
    };
    let text = [out, err].map(|it| String::from_utf8_lossy(&it).into_owned());
    let mut said: Vec<_> = text.iter().flat_map(|it| it.lines()).map(str::to_owned).collect();
    let (ended, fate) = match (status, limit) {
        (Some(status), _) if status.success() => return Ran { ended: Ended::Succeeded, said },
        (Some(status), _) => (Ended::Failed, format!("it failed ({status})")),
        (None, limit) => {
            let limit = limit.unwrap_or_default().as_secs_f64();
            (Ended::TimedOut, format!("it was killed after {limit} s"))
        }
    };
    said.push(fate);
    Ran { ended, said }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Columns: the line, its limit in milliseconds, how it ends, what is said.
    #[test]
    fn how_scripts_end() {
        for (line, limit, ended, said) in [
            ("echo out; echo err >&2", None, Ended::Succeeded, &["out", "err"][..]),
            ("echo $SANOID_TARGET", Some(60_000), Ended::Succeeded, &["tank/vm"]),
            ("echo no; exit 3", None, Ended::Failed, &["no", "it failed (exit status: 3)"]),
            (
                "echo begun; sleep 600",
                Some(300),
                Ended::TimedOut,
                &["begun", "it was killed after 0.3 s"],
            ),
        ] {
            let begun = Instant::now();
            let variables = [("SANOID_TARGET", "tank/vm".to_owned())];
            let found = run(line, &variables, limit.map(Duration::from_millis));
            assert_eq!(found.ended, ended, "{line}");
            assert_eq!(found.said, said, "{line}");
            assert!(begun.elapsed() < Duration::from_secs(60), "{line}");
        }
    }
}
