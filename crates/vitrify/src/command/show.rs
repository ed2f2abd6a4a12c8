//! `vitrify show`.

use std::fmt::Write as _;

use serde_json::json;
use vitrify_core::ports::Answer;

use crate::args::ShowArgs;
use crate::command::snapshot::found_json;
use crate::context::Context;
use crate::exit::{DONE, Status};
use crate::output::{self, milliseconds};

pub(crate) fn run(context: &Context, args: &ShowArgs) -> Answer<Status> {
    let point = context.point(&args.point)?;
    let manifest = match &point.manifest {
        Ok(manifest) => manifest,
        Err(problem) => return Err(problem.note().into()),
    };
    if context.json {
        let mut value = found_json(&point, manifest);
        value["version"] = json!(1);
        value["guest_uuid"] = json!(manifest.guest_uuid);
        value["state"] = json!(manifest.state);
        value["disks"] = json!(manifest.disks);
        value["folder"] = json!(point.folder);
        value["memory_image"] = json!(point.memory);
        value["memory_blake3"] = json!(manifest.memory.as_ref().map(|image| &image.blake3));
        value["machine_files"] = json!(manifest.machine_files);
        value["machine"] = json!(manifest.machine);
        value["hypervisor"] = json!(manifest.hypervisor);
        value["kernel"] = json!(manifest.kernel);
        output::json(&value);
        return Ok(DONE);
    }
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key:<13}{value}");
    };
    line("guest", format!("{} ({})", manifest.guest, manifest.guest_uuid));
    line("point", manifest.name().map_or_else(String::new, ToString::to_string));
    for name in manifest.names.iter().skip(1) {
        line("", format!("also {name}"));
    }
    line("id", manifest.id.to_string());
    if !point.holds.is_empty() {
        line("held", point.holds.join(", "));
    }
    line("time", manifest.time.to_zoned_datetime(context.zone.clone()).to_string());
    line("consistency", point.promises(manifest).to_string());
    line("engine", format!("{} ({})", manifest.engine, manifest.reason));
    if let Some(pause) = manifest.pause_us {
        line("pause", milliseconds(pause));
    }
    for disk in &manifest.disks {
        let snapshot = manifest.snapshot_of(disk);
        let shown = snapshot.map_or_else(String::new, |it| format!("{} {}", it.name, it.id));
        line("disk", format!("{} {} ({})", disk.target, disk.path.display(), disk.format));
        line("", format!("on {}: snapshot {shown}", disk.volume));
    }
    for disk in &manifest.uncovered {
        line("not captured", format!("{}: {}", disk.target, disk.reason));
    }
    if let (Some(image), Some(path)) = (&manifest.memory, &point.memory) {
        line("memory", format!("{} in {}", image.bytes, path.display()));
        line("", format!("BLAKE3 {}", image.blake3));
    }
    if point.expired {
        line("memory", "removed, as the policy says; restore the disks with --cold".to_owned());
    }
    for file in &manifest.machine_files {
        line("file", format!("{} ({})", file.name, file.path.display()));
    }
    line("files", point.folder.display().to_string());
    line("taken with", format!("{}, Linux {}", manifest.hypervisor, manifest.kernel));
    line("machine", manifest.machine.clone());
    output::result(&text);
    Ok(DONE)
}
