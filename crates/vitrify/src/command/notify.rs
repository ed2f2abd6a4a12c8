//! Tells whoever is to know how a tick ended: runs the command of `[notify]`.

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
/// could not be told is told by the next one.
pub(crate) fn tell(context: &Context, found: &Findings) -> Answer<()> {
    let file = context.tick_file();
    let was_in_order = file.was_in_order()?;
    let notice = Notice::of(&found.failures, &found.shortfalls, was_in_order, found.is_still_short);
    let Some(notice) = notice else { return Ok(()) };
    if notice.event != Event::Recovery {
        file.remember_trouble(Some(&notice.message))?;
    }
    if let Some(command) = &context.config.notify
        && let (_, Some(fate)) = perform(context, command, "notify", &notice.environment())
    {
        let message = format!("nobody was told of the {}: {fate}", notice.event.as_str());
        return Err(
            Problem::failed(message).hint(format!("the command stands at {}", command.place))
        );
    }
    if notice.event == Event::Recovery {
        file.remember_trouble(None)?;
    }
    Ok(())
}
