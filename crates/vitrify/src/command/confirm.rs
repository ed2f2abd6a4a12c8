//! Asking before what has no way back.

use std::io::{BufRead, IsTerminal};

use vitrify_core::name::GuestName;
use vitrify_core::ports::Answer;
use vitrify_core::problem::{Problem, ProblemKind};

use crate::context::Context;
use crate::progress::note;

/// Goes on only if the user typed the guest's name, or said `--yes`.
pub(crate) fn confirm(context: &Context, guest: &GuestName, loss: &str) -> Answer<()> {
    if context.yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Problem::new(ProblemKind::NotFound, format!("{loss}: this needs --yes")));
    }
    note(&format!("{loss}. Type the guest's name to go on:"));
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|error| Problem::io("cannot read the answer", error))?;
    match line.trim() == guest.as_str() {
        true => Ok(()),
        false => Err(Problem::refused("that is not the guest's name; nothing was done")),
    }
}
