//! What every implementation of a port must satisfy, stated once. The same rules are run on
//! [`crate::fake`] in this crate's tests and on real storage, homes, journals and guests in the
//! lab, so that the fake cannot lie.
//!
//! Each port has a module with a `Fixture`, which prepares the little that a rule needs, and with
//! `RULES`: each a name and a check on a fresh fixture. A check names the rule that was broken.

pub mod homes;
pub mod hypervisor;
pub mod journal;
pub mod storage;

use std::fmt::Debug;

use crate::ports::Answer;
use crate::problem::ProblemKind;

/// What a check comes to: nothing, or what was broken.
pub type Verdict = Result<(), String>;

/// Gives a module's rules their list, each under its function's name.
macro_rules! rules {
    ($($rule:ident),* $(,)?) => {
        &[$((stringify!($rule), $rule)),*]
    };
}
use rules;

fn ensure(holds: bool, otherwise: &str) -> Verdict {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}

fn same<T: PartialEq + Debug>(what: &str, found: T, wanted: T) -> Verdict {
    ensure(found == wanted, &format!("{what}: found {found:?}, wanted {wanted:?}"))
}

fn differ<T: PartialEq + Debug>(what: &str, one: T, other: T) -> Verdict {
    ensure(one != other, &format!("{what}: both are {one:?}"))
}

/// The value of a call that must go well.
fn ok<T>(what: &str, answer: Answer<T>) -> Result<T, String> {
    answer.map_err(|problem| format!("{what} must go well: {}", problem.chain()))
}

/// A call that must fail, and what must follow from it.
fn fails<T: Debug>(what: &str, answer: Answer<T>, kind: ProblemKind) -> Verdict {
    match answer {
        Ok(value) => Err(format!("{what} must be {kind:?}, and it gave {value:?}")),
        Err(problem) if problem.kind == kind => Ok(()),
        Err(problem) => {
            Err(format!("{what} must be {kind:?}, not {:?}: {}", problem.kind, problem.chain()))
        }
    }
}

/// A call that must fail, in whatever way.
fn is_error<T: Debug>(what: &str, answer: Answer<T>) -> Verdict {
    match answer {
        Ok(value) => Err(format!("{what} must fail, and it gave {value:?}")),
        Err(_) => Ok(()),
    }
}

/// A name that is valid.
fn name<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("'{text}' is not a valid name"))
}
