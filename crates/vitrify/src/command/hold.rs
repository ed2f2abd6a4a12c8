//! `vitrify hold` and `vitrify release`.

use vitrify_core::engine::{hold, is_held_for, release};
use vitrify_core::ports::Answer;
use vitrify_core::problem::Problem;
use vitrify_host::storage::HostStorage;

use crate::args::HoldArgs;
use crate::context::Context;
use crate::exit::{DONE, Status};

/// What is held by hand.
const TAG: &str = "vitrify:user";

/// Holds a point, or lets it go.
pub(crate) fn run(context: &Context, args: &HoldArgs, held: bool) -> Answer<Status> {
    let guest = context.point(&args.point)?.guest;
    let _lock = context.lock(&[&guest], &[])?;
    // It may have gone, or been held, before it was locked.
    let point = context.point(&args.point)?;
    if held {
        hold(&HostStorage, &context.homes, &point, TAG)?;
        return Ok(DONE);
    }
    let others: Vec<_> = point.holds.iter().filter(|it| *it != TAG).cloned().collect();
    let is_left = || Ok::<_, Problem>(others.is_empty() && is_held_for(&HostStorage, &point)?);
    let was_held = others.len() < point.holds.len() || is_left()?;
    release(&HostStorage, &context.homes, &point, TAG)?;
    if was_held {
        return Ok(DONE);
    }
    let others = match others.join(", ") {
        tags if tags.is_empty() => String::new(),
        tags => format!("; others hold it: {tags}"),
    };
    Err(Problem::not_found(format!("the point {} is not held by hand{others}", point.id)))
}
