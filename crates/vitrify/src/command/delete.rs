//! `vitrify delete`.

use std::collections::BTreeSet;

use serde_json::json;
use vitrify_core::ports::Answer;

use crate::args::DeleteArgs;
use crate::command::confirm::confirm;
use crate::command::removal::{Guest, Wanted, remove};
use crate::context::Context;
use crate::exit::{DONE, Status};
use crate::output;

pub(crate) fn run(context: &Context, args: &DeleteArgs) -> Answer<Status> {
    let point = context.point(&args.point)?;
    let manifest = match &point.manifest {
        Ok(manifest) => manifest,
        Err(problem) => return Err(problem.note().into()),
    };
    let host = context.host()?;
    let name = manifest.name().map_or_else(|| manifest.id.to_string(), ToString::to_string);
    let loss = format!("the point {}@{name} will be gone for good", manifest.guest);
    confirm(context, &manifest.guest, &loss)?;
    let guest = Guest { name: &manifest.guest, uuid: &manifest.guest_uuid };
    let wanted = Wanted { points: BTreeSet::from([manifest.id.clone()]), images: Vec::new() };
    let removed = remove(context, &host, guest, &wanted)?;
    if let Some(failure) = removed.failures.into_iter().next() {
        return Err(failure.into());
    }
    if context.json {
        output::json(&json!({
            "version": 1,
            "guest": manifest.guest,
            "point": name,
            "id": manifest.id,
            "destroyed": removed.destroyed,
        }));
    } else {
        let kept = manifest.volumes.len() - removed.destroyed.len();
        let kept = match kept {
            0 => String::new(),
            kept => format!("; {kept} of its snapshots serve other points and stay"),
        };
        output::result(&format!("{}@{name}: deleted{kept}\n", manifest.guest));
    }
    Ok(DONE)
}
