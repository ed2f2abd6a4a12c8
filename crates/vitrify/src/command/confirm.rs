//! Asking before what has no way back.

use std::io::{BufRead, IsTerminal};

use vitrify_core::name::GuestName;
use vitrify_core::ports::Answer;
use vitrify_core::problem::{Problem, ProblemKind};

use crate::context::Context;
use crate::progress::note;

/// The same of so many points that nobody's policy means it: without an answer that is refused. A
/// rehearsal says that it would ask.
pub(crate) fn confirm_drastic(
    context: &Context,
    dry_run: bool,
    (what, name): (&str, &str),
    loss: &str,
) -> Answer<()> {
    if dry_run {
        note(&format!("warning: {loss}, more than half: that needs --yes"));
        return Ok(());
    }
    match ask(context, what, name, loss) {
        Err(problem) if problem.kind == ProblemKind::NotFound => {
            Err(Problem::refused(format!("{loss}, more than half: nothing was pruned"))
                .hint("look at 'vitrify prune --dry-run'; with --yes it goes"))
        }
        answered => answered,
    }
}

/// Goes on only if the user typed the guest's name, or said `--yes`.
pub(crate) fn confirm(context: &Context, guest: &GuestName, loss: &str) -> Answer<()> {
    ask(context, "guest", guest.as_str(), loss)
}

fn ask(context: &Context, what: &str, name: &str, loss: &str) -> Answer<()> {
    if context.yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Problem::new(ProblemKind::NotFound, format!("{loss}: this needs --yes")));
    }
    note(&format!("{loss}. Type the {what}'s name to go on:"));
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|error| Problem::io("cannot read the answer", error))?;
    match line.trim() == name {
        true => Ok(()),
        false => Err(Problem::refused(format!("that is not the {what}'s name; nothing was done"))),
    }
}
