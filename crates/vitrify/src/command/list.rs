//! `vitrify list`.

use jiff::tz::TimeZone;
use serde_json::json;
use vitrify_core::manifest::Manifest;
use vitrify_core::ports::{Answer, FoundPoint};

use crate::args::ListArgs;
use crate::command::snapshot::found_json;
use crate::context::Context;
use crate::exit::{DONE, Status};
use crate::output::{self, milliseconds};

const HEADER: [&str; 7] = ["GUEST", "POINT", "TIME", "CONSISTENCY", "ENGINE", "MEMORY", "PAUSE"];

pub(crate) fn run(context: &Context, args: &ListArgs) -> Answer<Status> {
    let points = context.points()?;
    let mut status = DONE;
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    for point in &points {
        match &point.manifest {
            Ok(manifest) if args.guest.as_ref().is_some_and(|it| *it != manifest.guest) => {}
            Ok(manifest) => {
                rows.push(row(args, &context.zone, point, manifest));
                let mut value = found_json(point, manifest);
                value["published"] = json!(point.published);
                values.push(value);
            }
            Err(problem) => status = status.and(output::problem(&problem.note().into())),
        }
    }
    if context.json {
        output::json(&json!({ "version": 1, "points": values }));
    } else if !rows.is_empty() {
        output::table(&HEADER, rows, args.no_header);
    }
    Ok(status)
}

fn row(args: &ListArgs, zone: &TimeZone, point: &FoundPoint, manifest: &Manifest) -> Vec<String> {
    let name = manifest.name().map_or("", |name| name.as_str());
    let time = match args.parsable {
        true => manifest.time.as_second().to_string(),
        false => {
            manifest.time.to_zoned_datetime(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
        }
    };
    let memory = match (&manifest.memory, args.parsable) {
        (Some(_), false) if point.expired => "expired".to_owned(),
        (_, true) if point.expired => "0".to_owned(),
        (None, true) => "0".to_owned(),
        (None, false) => "-".to_owned(),
        (Some(image), true) => image.bytes.0.to_string(),
        (Some(image), false) => image.bytes.to_string(),
    };
    let pause = match (manifest.pause_us, args.parsable) {
        (None, _) => "-".to_owned(),
        (Some(pause), true) => pause.to_string(),
        (Some(pause), false) => milliseconds(pause),
    };
    let consistency = match point.published {
        true => point.promises(manifest).to_string(),
        false => "unpublished".to_owned(),
    };
    let (guest, engine) = (manifest.guest.to_string(), manifest.engine.to_string());
    vec![guest, name.to_owned(), time, consistency, engine, memory, pause]
}
