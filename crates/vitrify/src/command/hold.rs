//! `vitrify hold` and `vitrify release`.

use vitrify_core::ports::{Answer, Homes};
use vitrify_core::problem::Problem;

use crate::args::HoldArgs;
use crate::context::Context;
use crate::exit::{DONE, Status};

/// What is held by hand.
const TAG: &str = "vitrify:user";

/// Holds a point, or lets it go.
pub(crate) fn run(context: &Context, args: &HoldArgs, held: bool) -> Answer<Status> {
    let point = context.point(&args.point)?;
    let _lock = context.lock(&[&point.guest], &[])?;
    if !held && !point.holds.iter().any(|it| it == TAG) {
        let others = match point.holds.join(", ") {
            tags if tags.is_empty() => String::new(),
            tags => format!("; others hold it: {tags}"),
        };
        let message = format!("the point {} is not held by hand{others}", point.id);
        return Err(Problem::not_found(message));
    }
    context.homes.hold(&point.guest, &point.id, TAG, held)?;
    Ok(DONE)
}
