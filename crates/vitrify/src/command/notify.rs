//! Tells whoever is to know how a tick ended: runs the command of `[notify]`.

use vitrify_core::config::CommandLine;
use vitrify_core::notice::{Event, Notice};
use vitrify_core::ports::Answer;
use vitrify_core::problem::Problem;

use crate::command::hooks::perform;
use crate::context::Context;

/// What a tick found, a line each.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) failures: Vec<String>,
    /// The points that are less than their rules demand.
    pub(crate) shortfalls: Vec<String>,
    /// Whether the newest point of some guest is less than its rule demands, whoever took it.
    pub(crate) is_still_short: bool,
}

/// Runs the command where there is something to tell, and remembers it for the next tick. A recovery that
/// could not be told is told by the next one. Where nothing can be remembered, everything else is told all
/// the same.
pub(crate) fn tell(context: &Context, found: &Findings) -> Answer<()> {
    let file = context.tick_file();
    let was_in_order = file.was_in_order();
    let notice = Notice::of(
        &found.failures,
        &found.shortfalls,
        *was_in_order.as_ref().unwrap_or(&true),
        found.is_still_short,
    );
    let Some(notice) = notice else { return was_in_order.map(drop) };
    let told = context.config.notify.as_ref().map_or(Ok(()), |it| run(context, it, &notice));
    match notice.event {
        Event::Recovery => told.and_then(|()| file.remember_trouble(None)),
        Event::Failure | Event::Degraded => told.and(file.remember_trouble(Some(&notice.message))),
    }
}

fn run(context: &Context, command: &CommandLine, notice: &Notice) -> Answer<()> {
    match perform(context, command, "notify", &notice.environment()) {
        (_, None) => Ok(()),
        (_, Some(fate)) => {
            let event = notice.event.as_str();
            Err(Problem::failed(format!("nobody was told of the {event}: {fate}")))
        }
    }
}
