//! What holds of a guest and its world when nothing is wrong.

use std::error::Error;

use serde_json::Value;

use super::stage::Stage;
use crate::dump::has_job;
use crate::files::is_frozen;
use crate::leftovers::entries;
use crate::run::must;
use crate::scene::Scene;

/// The capability that `instant` sets.
const CAPABILITY: &str = "background-snapshot";

/// The guest counts on, its memory and disks agree, and nothing is left of what was done.
pub(super) fn hold(stage: &mut Stage) -> Result<(), Box<dyn Error>> {
    stage.scene.is_well()?;
    let mut wrong = Vec::new();
    if stage.disks < stage.scene.disks.len() && is_frozen(&stage.scene.guest)? {
        wrong.push("the guest's file systems are frozen".to_owned());
    }
    if has_job(&stage.scene.guest)? {
        wrong.push("libvirt has a job on the guest".to_owned());
    }
    if is_capable(&stage.scene)? {
        wrong.push(format!("the capability {CAPABILITY} is on"));
    }
    wrong.extend(guards(&stage.scene)?);
    if let Some(spool) = &stage.spool {
        wrong.extend(entries(spool)?.iter().map(|path| format!("spooled {}", path.display())));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

fn is_capable(scene: &Scene) -> Result<bool, Box<dyn Error>> {
    let ask = r#"{"execute":"query-migrate-capabilities"}"#;
    let said: Value = serde_json::from_str(&scene.guest.virsh("qemu-monitor-command", &[ask])?)?;
    let capabilities = said["return"].as_array().ok_or("QEMU names no capabilities")?;
    let it = capabilities.iter().find(|it| it["capability"] == CAPABILITY);
    Ok(it.is_some_and(|it| it["state"] == true))
}

/// Guards of this world's program that live on.
fn guards(scene: &Scene) -> Result<Vec<String>, Box<dyn Error>> {
    let guard = format!("{} guard", scene.world.vitrify.program().display());
    let all = must("ps", &["-e", "-o", "args="])?;
    let left = all.lines().filter(|it| it.starts_with(&guard));
    Ok(left.map(|it| format!("a guard lives: {it}")).collect())
}
