//! `vitrify snapshot`.

use serde_json::{Value, json};
use vitrify_core::manifest::Manifest;
use vitrify_core::name::Bytes;
use vitrify_core::point::Purpose;
use vitrify_core::ports::{Answer, FoundPoint};

use crate::args::SnapshotArgs;
use crate::command::capture::{Taken, Wanted, take};
use crate::context::Context;
use crate::exit::{DONE, Status};
use crate::output::{self, milliseconds};
use crate::pause::Parts;
use crate::progress::note;

pub(crate) fn run(context: &Context, args: &SnapshotArgs) -> Answer<Status> {
    let host = context.host()?;
    let wanted = Wanted {
        consistency: args.consistency.map(Into::into),
        engine: args.engine.into(),
        name: args.name.clone(),
        ..Wanted::best(Purpose::Manual)
    };
    let mut status = DONE;
    let (mut points, mut failures) = (Vec::new(), Vec::new());
    let mut hook_failures = Vec::new();
    let results = take(context, &host, &args.guests, &wanted, &mut hook_failures);
    for problem in &hook_failures {
        status = status.and(output::problem(problem));
    }
    for (guest, result) in results? {
        match result {
            Ok(taken) => {
                for problem in &taken.problems {
                    status = status.and(output::problem(&problem.clone().into()));
                }
                if context.json {
                    points.push(to_json(&taken));
                } else {
                    print(context, &taken);
                }
            }
            Err(problem) => {
                failures.push(json!({ "guest": guest.as_str(), "error": problem.chain() }));
                status = status.and(output::problem(&problem));
            }
        }
    }
    if context.json {
        match (args.guests.len(), points.pop()) {
            (1, Some(mut point)) => {
                point["version"] = json!(1);
                output::json(&point);
            }
            (_, last) => {
                points.extend(last);
                output::json(&json!({ "version": 1, "points": points, "failures": failures }));
            }
        }
    }
    Ok(status)
}

fn print(context: &Context, taken: &Taken) {
    let manifest = &taken.manifest;
    let memory = match &manifest.memory {
        Some(image) => format!(", memory {}", image.bytes),
        None => String::new(),
    };
    let pause = match manifest.pause_us {
        Some(pause) => format!(", paused for {}", milliseconds(pause)),
        None => String::new(),
    };
    output::result(&format!(
        "{}@{}: {}{memory}{pause}, {:.1} s in all\n",
        manifest.guest,
        manifest.name().map_or("", |name| name.as_str()),
        manifest.consistency,
        taken.duration.as_secs_f64(),
    ));
    let less = ["not instant", "no memory image"].iter().any(|it| manifest.reason.contains(it));
    if less && !context.is_quiet() {
        note(&format!("warning: {}: {}", manifest.guest, manifest.reason));
    }
}

fn to_json(taken: &Taken) -> Value {
    let mut value = point_json(&taken.manifest);
    value["duration_ms"] = json!(u64::try_from(taken.duration.as_millis()).unwrap_or(u64::MAX));
    value["stored_bytes"] = json!(taken.published.stored);
    value["pause_parts_ms"] = json!(taken.pause.map(Parts::to_json));
    value
}

/// A point's fields as every command with `--json` names them.
pub(crate) fn point_json(manifest: &Manifest) -> Value {
    json!({
        "guest": manifest.guest,
        "point": manifest.name(),
        "names": manifest.names,
        "id": manifest.id,
        "time": manifest.time,
        "consistency": manifest.consistency,
        "engine": manifest.engine,
        "reason": manifest.reason,
        "pause_ms": manifest.pause_us.map(in_ms),
        "stalled_ms": in_ms(manifest.stalled_us),
        "memory_bytes": manifest.memory.as_ref().map_or(Bytes(0), |image| image.bytes),
        "volumes": manifest.volumes,
        "uncovered": manifest.uncovered,
    })
}

/// The same of a point in its home, and what became of it there.
pub(crate) fn found_json(point: &FoundPoint, manifest: &Manifest) -> Value {
    let mut value = point_json(manifest);
    value["consistency"] = json!(point.promises(manifest));
    value["memory_expired"] = json!(point.expired);
    value["holds"] = json!(point.holds);
    value
}

/// Milliseconds with three decimals.
fn in_ms(microseconds: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a pause is far below 2^52 microseconds")]
    let milliseconds = microseconds as f64 / 1000.0;
    milliseconds
}
