//! Zvols as block devices: which dataset a device is, and a snapshot shown as one by way of a clone.
//! Reads `/dev/zvol`, which udev keeps, and `/sys/dev/block`.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use vitrify_core::inventory::{ObjectId, Snapshot};
use vitrify_core::name::PointId;
use vitrify_core::ports::Answer;
use vitrify_core::problem::Problem;

use super::properties::{self, Properties};
use super::snapshots::{check_identity, full_name};
use super::{change, check_pool, dataset, datasets, with_permission, zfs};
use crate::command::Command;

/// Where udev links each zvol's device under its name.
const LINKS: &str = "/dev/zvol";
/// Tells a device's zvol; a part of zfsutils-linux for udev's rules.
const ZVOL_ID: &str = "/lib/udev/zvol_id";
/// Whose restore a clone is for.
const RESTORE: &str = "vitrify:restore";
/// How long udev may take to show a new device, and to let go of one.
const UDEV_LIMIT: Duration = Duration::from_secs(10);

/// What a block device is to ZFS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    /// A whole zvol.
    Whole,
    /// A partition of one.
    Partition,
    /// No zvol.
    Other,
}

/// What the block device of this number is.
pub(crate) fn device(number: u64) -> Device {
    let link = format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
    let link = Path::new("/sys/dev/block").join(link);
    let name = fs::read_link(&link).ok().and_then(|it| it.file_name()?.to_str().map(str::to_owned));
    match name.as_deref().and_then(|name| name.strip_prefix("zd")) {
        Some(rest) if rest.bytes().all(|byte| byte.is_ascii_digit()) => Device::Whole,
        Some(_) if link.join("partition").exists() => Device::Partition,
        _ => Device::Other,
    }
}

/// The name of every zvol that udev shows, by its device's number.
pub(crate) fn names() -> HashMap<u64, String> {
    let mut found = HashMap::new();
    collect(Path::new(LINKS), &mut found);
    found
}

fn collect(folder: &Path, found: &mut HashMap<u64, String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|it| it.is_dir()) {
            collect(&path, found);
        } else if let (Ok(device), Ok(name)) = (fs::metadata(&path), path.strip_prefix(LINKS))
            && device.file_type().is_block_device()
            // A dataset's name may hold a blank and never a plus.
            && let Some(name) = name.to_str().map(|name| name.replace('+', " "))
        {
            found.insert(device.rdev(), name);
        }
    }
}

/// The name of the zvol behind a device; without udev's links the device is asked.
pub(crate) fn name_of(real: &Path, number: u64, names: &HashMap<u64, String>) -> Answer<String> {
    match names.get(&number) {
        Some(name) => Ok(name.clone()),
        None => Ok(Command::new(ZVOL_ID).arg(real).run()?.text().trim().to_owned()),
    }
}

/// Which object a zvol's device is.
pub(crate) fn object_of(real: &Path, number: u64) -> Answer<ObjectId> {
    let name = name_of(real, number, &names())?;
    check_pool(&name)?;
    let known = properties::of(std::slice::from_ref(&name), "guid")?;
    let guid = known.get(&name).and_then(|it| it.get("guid"));
    let guid = guid.ok_or_else(|| Problem::not_found(format!("there is no zvol {name}")))?;
    Ok(datasets::object_of(guid))
}

/// A snapshot of a zvol, and the clone that shows it.
struct Shown {
    volume: String,
    snapshot: String,
    clone: String,
    known: HashMap<String, Properties>,
}

impl Shown {
    fn look(wanted: &Snapshot, owner: &PointId) -> Answer<Self> {
        let volume = dataset(&wanted.volume)?.to_owned();
        check_pool(&volume)?;
        let snapshot = full_name(&wanted.volume, &wanted.name)?;
        let clone = format!("{volume}.vitrify-{owner}-{}", wanted.id);
        let names = [volume.clone(), snapshot.clone(), clone.clone()];
        let known = properties::of(&names, &format!("guid,volsize,origin,{RESTORE}"))?;
        Ok(Self { volume, snapshot, clone, known })
    }

    /// Whether the clone is there. Another dataset of its name is `Refused`.
    fn is_there(&self, owner: &PointId) -> Answer<bool> {
        let Some(found) = self.known.get(&self.clone) else { return Ok(false) };
        let is_ours = found.own(RESTORE) == Some(owner.as_str());
        if is_ours && found.get("origin") == Some(self.snapshot.as_str()) {
            return Ok(true);
        }
        let (clone, snapshot) = (&self.clone, &self.snapshot);
        Err(Problem::refused(format!("{clone} is not our clone of {snapshot}")))
    }

    fn size(&self, name: &str) -> Answer<Option<&str>> {
        let found = self.known.get(name);
        let found = found.ok_or_else(|| Problem::not_found(format!("there is no zvol {name}")))?;
        Ok(found.get("volsize"))
    }
}

/// Clones a snapshot of a zvol, read-only and out of reach of whoever looks for partitions, and says
/// where its device is. What was cloned before is found again.
pub(crate) fn expose(wanted: &Snapshot, owner: &PointId) -> Answer<PathBuf> {
    let shown = Shown::look(wanted, owner)?;
    check_identity(shown.known.get(&shown.snapshot), &shown.snapshot, wanted)?;
    let (Some(then), now) = (shown.size(&shown.snapshot)?, shown.size(&shown.volume)?) else {
        return Err(Problem::lacking(format!("{} is no zvol", shown.volume)));
    };
    if now != Some(then) {
        let (volume, now) = (&shown.volume, now.unwrap_or("-"));
        return Err(Problem::refused(format!(
            "{volume} has {now} bytes, and its snapshot {} has {then}",
            shown.snapshot
        ))
        .hint(format!("'zfs set volsize={then} {volume}' gives it its old size")));
    }
    if !shown.is_there(owner)? {
        let command = zfs("clone")
            .args(["-o", "volmode=dev", "-o", "readonly=on"])
            .args(["-o", "com.sun:auto-snapshot=false", "-o", &format!("{RESTORE}={owner}")])
            .args([&shown.snapshot, &shown.clone]);
        change(&command).map_err(|problem| {
            let permissions = "clone,create,mount,readonly,userprop,volmode";
            with_permission(problem, permissions, &[&shown.volume])
        })?;
    }
    await_device(&shown.clone)
}

/// Destroys the clone, if it is there and ours.
pub(crate) fn conceal(wanted: &Snapshot, owner: &PointId) -> Answer<()> {
    let shown = Shown::look(wanted, owner)?;
    if !shown.is_there(owner)? {
        return Ok(());
    }
    let deadline = Instant::now() + UDEV_LIMIT;
    loop {
        match change(&zfs("destroy").arg(&shown.clone)) {
            // udev may still be looking at it.
            Err(problem) if problem.message.contains("busy") && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(100));
            }
            Err(problem) if problem.message.contains("does not exist") => return Ok(()),
            result => {
                return result.map_err(|problem| {
                    with_permission(problem, "destroy,mount", &[&shown.volume])
                });
            }
        }
    }
}

/// The device of a zvol: under udev's link, or, where udev shows none, under its own name.
///
/// udev first finishes what it has in hand: a device's number is used again at once, and the late
/// end of the one before would take the new one's link with it.
pub(super) fn await_device(name: &str) -> Answer<PathBuf> {
    let timeout = format!("--timeout={}", UDEV_LIMIT.as_secs());
    // Without udev there are no links to wait for.
    Command::new("udevadm").args(["settle", &timeout]).run().ok();
    let link = Path::new(LINKS).join(name.replace(' ', "+"));
    let is_device = || fs::metadata(&link).is_ok_and(|it| it.file_type().is_block_device());
    let deadline = Instant::now() + UDEV_LIMIT;
    while Instant::now() < deadline {
        if is_device() {
            return Ok(link);
        }
        thread::sleep(Duration::from_millis(20));
    }
    for entry in fs::read_dir("/dev").into_iter().flatten().flatten() {
        let path = entry.path();
        let number = fs::metadata(&path).map_or(0, |it| it.rdev());
        if device(number) == Device::Whole
            && Command::new(ZVOL_ID).arg(&path).run().is_ok_and(|it| it.text().trim() == name)
        {
            return Ok(path);
        }
    }
    Err(Problem::failed(format!("no device of the zvol {name} came up"))
        .hint("udev makes it: 'udevadm settle', then 'ls /dev/zvol'"))
}
