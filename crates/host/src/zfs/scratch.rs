//! The scratch dataset of a self-test, which carries the self-test's id.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use vitrify_core::name::GuestUuid;
use vitrify_core::ports::Answer;
use vitrify_core::problem::{Problem, ProblemKind};

use super::{change, check_pool, properties, with_permission, zfs, zvol};

/// Whose self-test a dataset is of.
pub(super) const SELF_TEST: &str = "vitrify:self-test";
/// How long something may still use a dataset that nobody uses any more: udev, a mount that goes.
const BUSY_LIMIT: Duration = Duration::from_secs(20);

/// Makes a dataset for the self-test `id`. Other tools that snapshot everything leave it alone.
pub(crate) fn create_scratch(name: &str, id: &GuestUuid, mountpoint: &Path) -> Answer<()> {
    check_pool(name)?;
    let above = name.rsplit_once('/').map_or(name, |it| it.0);
    let command = zfs("create")
        .args(["-o", &format!("{SELF_TEST}={id}"), "-o", "com.sun:auto-snapshot=false"])
        .args(["-o", "canmount=on", "-o", &format!("mountpoint={}", mountpoint.display())]);
    change(&command.arg(name))
        .map_err(|problem| with_permission(problem, "create,mount,userprop", &[above]))
}

/// Makes a dataset below it, mounted below it.
pub(crate) fn create_scratch_child(name: &str) -> Answer<()> {
    change(&zfs("create").arg(name))
}

/// Makes a sparse zvol below it, and waits for its device.
pub(crate) fn create_scratch_zvol(name: &str, size_mib: u64) -> Answer<()> {
    let size = format!("{size_mib}M");
    change(&zfs("create").args(["-s", "-o", "volmode=dev", "-V", &size, name]))?;
    zvol::await_device(name).map(drop)
}

/// Destroys the dataset with all that depends on it, if it is there and this self-test's.
pub(crate) fn destroy_scratch(name: &str, id: &GuestUuid) -> Answer<()> {
    check_pool(name)?;
    let known = properties::of(&[name.to_owned()], SELF_TEST)?;
    let Some(found) = known.get(name) else { return Ok(()) };
    if found.own(SELF_TEST) != Some(id.as_str()) {
        return Err(Problem::refused(format!("{name} is not the dataset that we made")));
    }
    let deadline = Instant::now() + BUSY_LIMIT;
    loop {
        match change(&zfs("destroy").args(["-R", name])) {
            Err(problem) if problem.message.contains("busy") && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(100));
            }
            Err(problem) if problem.kind == ProblemKind::NotFound => return Ok(()),
            result => return result,
        }
    }
}
