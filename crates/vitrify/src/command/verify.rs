//! `vitrify verify`.

use serde_json::json;
use vitrify_core::name::Bytes;
use vitrify_core::ports::{Answer, FoundPoint, Homes};
use vitrify_core::problem::Problem;

use crate::args::{VerifyArgs, VerifyWhat};
use crate::context::Context;
use crate::exit::{DONE, Status};
use crate::output;

/// Reads memory images and compares them with their manifests.
pub(crate) fn run(context: &Context, args: &VerifyArgs) -> Answer<Status> {
    let points = match &args.what {
        Some(VerifyWhat::Point(point)) => vec![context.point(point)?],
        what => {
            let mut points = context.points()?;
            if let Some(VerifyWhat::Guest(wanted)) = what {
                points.retain(|it| it.manifest.as_ref().is_ok_and(|it| it.guest == *wanted));
                if points.is_empty() {
                    return Err(Problem::not_found(format!("there are no points of '{wanted}'"))
                        .hint("'vitrify list' shows every guest's points"));
                }
            }
            points
        }
    };
    let (mut good, mut failures) = (Vec::new(), Vec::new());
    for point in &points {
        let label = label(point);
        match verify(context, point, &label) {
            Ok(true) => good.push(label),
            Ok(false) => {}
            Err(problem) => failures.push((label, problem)),
        }
    }
    if context.json {
        let failures: Vec<_> = failures
            .iter()
            .map(|(point, problem)| json!({ "point": point, "problem": problem.chain() }))
            .collect();
        output::json(&json!({ "version": 1, "verified": good, "failures": failures }));
    } else if failures.is_empty() {
        output::result(&format!("{} memory images are as they were captured\n", good.len()));
    }
    let mut status = DONE;
    for (point, problem) in failures {
        let mut named = Problem::new(problem.kind, format!("{point}: {}", problem.chain()));
        named.hint = problem.hint;
        status = status.and(output::problem(&named));
    }
    Ok(status)
}

/// Whether a point has memory that was found whole.
fn verify(context: &Context, point: &FoundPoint, label: &str) -> Answer<bool> {
    let manifest = match &point.manifest {
        Ok(manifest) => manifest,
        Err(problem) => return Err(problem.note().into()),
    };
    let Some(image) = manifest.memory.as_ref().filter(|_| !point.expired) else { return Ok(false) };
    let progress = context.progress(label);
    context.homes.check_memory(point, &|Bytes(read)| {
        progress.show(&format!("compare the memory image ({} of {})", Bytes(read), image.bytes));
    })?;
    Ok(true)
}

/// What a point is called.
fn label(point: &FoundPoint) -> String {
    match &point.manifest {
        Ok(manifest) => {
            let name = manifest.name().map_or_else(|| point.id.to_string(), ToString::to_string);
            format!("{}@{name}", manifest.guest)
        }
        Err(_) => point.folder.display().to_string(),
    }
}
