//! Where images lie: each is looked at once, and all datasets are listed by one process, if any image
//! needs it.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use vitrify_core::inventory::Location;
use vitrify_core::ports::Answer;
use vitrify_core::problem::{Problem, ProblemKind, ProblemNote};

use super::object_of;
use crate::btrfs;
use crate::files::at;
use crate::mounts::{self, Mount};
use crate::zfs::zvol::{self, Device};
use crate::zfs::{self, Datasets};

/// What is seen of an image before any program is asked.
enum Seen<'a> {
    OnBtrfs { real: PathBuf },
    OnZfs { real: PathBuf, mount: &'a Mount },
    Zvol { real: PathBuf, number: u64 },
    OtherDevice { message: String, hint: &'static str },
    Elsewhere { real: PathBuf, mount: &'a Mount },
    Absent { nearest: PathBuf, mount: &'a Mount, problem: Problem },
}

/// Where each image lies, in their order.
pub(super) fn locate(images: &[PathBuf]) -> Vec<Answer<Location>> {
    let mounts = match mounts::table() {
        Ok(mounts) => mounts,
        Err(problem) => return images.iter().map(|_| Err(again(&problem.note()))).collect(),
    };
    let seen: Vec<_> = images.iter().map(|image| look(image, &mounts)).collect();
    let datasets = seen
        .iter()
        .flatten()
        .any(needs_datasets)
        .then(|| Datasets::look().map_err(|problem| problem.note()));
    let has_zvols = seen.iter().flatten().any(|it| matches!(it, Seen::Zvol { .. }));
    let zvols = if has_zvols { zvol::names() } else { Default::default() };
    let judge = |(image, seen): (&PathBuf, Answer<Seen<'_>>)| {
        let datasets = || match &datasets {
            Some(Ok(datasets)) => Ok(datasets),
            Some(Err(note)) => Err(again(note)),
            None => Err(Problem::failed("no datasets were listed")),
        };
        match seen? {
            Seen::OnBtrfs { real } => btrfs::locate(image, &real),
            Seen::OnZfs { real, mount } => {
                let datasets = datasets()?;
                match datasets.unmounted(&real, true, mount, &mounts) {
                    Some(problem) => Err(problem),
                    None => datasets.locate_file(image, &real, mount, object_of(&real)?),
                }
            }
            Seen::Zvol { real, number } => {
                let name = zvol::name_of(&real, number, &zvols)?;
                let mut location = datasets()?.locate_zvol(&name)?;
                if *image == real {
                    location.warnings.push(format!(
                        "{} is another zvol after a boot: let the definition name /dev/zvol/{name}",
                        image.display()
                    ));
                }
                Ok(location)
            }
            Seen::OtherDevice { message, hint } => Err(Problem::lacking(message).hint(hint)),
            Seen::Elsewhere { real, mount } => {
                let hidden = datasets().ok();
                let hidden = hidden.and_then(|it| it.unmounted(&real, true, mount, &mounts));
                Err(hidden.unwrap_or_else(|| elsewhere(image, mount)))
            }
            Seen::Absent { nearest, mount, problem } => {
                let hidden = datasets().ok();
                let hidden = hidden.and_then(|it| it.unmounted(&nearest, false, mount, &mounts));
                Err(hidden.unwrap_or(problem))
            }
        }
    };
    images.iter().zip(seen).map(judge).collect()
}

/// A dataset that is not mounted may be what is amiss with an image that is not where it should be.
fn needs_datasets(seen: &Seen<'_>) -> bool {
    match seen {
        Seen::OnZfs { .. } | Seen::Zvol { .. } => true,
        Seen::Elsewhere { .. } | Seen::Absent { .. } => zfs::has_pools(),
        Seen::OnBtrfs { .. } | Seen::OtherDevice { .. } => false,
    }
}

fn look<'a>(image: &Path, mounts: &'a [Mount]) -> Answer<Seen<'a>> {
    // A pool that does not answer would keep us waiting.
    let over = mounts.iter().filter(|mount| image.starts_with(&mount.point));
    if let Some(mount) = over.max_by_key(|mount| mount.point.components().count())
        && mount.kind == "zfs"
    {
        zfs::check_pool(&mount.source)?;
    }
    let real = match fs::canonicalize(image).map_err(at("cannot find", image)) {
        Err(problem) if problem.kind == ProblemKind::NotFound => {
            return absent(image, mounts, problem);
        }
        real => real?,
    };
    let found = fs::metadata(&real).map_err(at("cannot look at", &real))?;
    if found.file_type().is_block_device() {
        return Ok(device(image, real, found.rdev()));
    }
    let mount = mounts::mount_among(mounts, &real)?;
    Ok(match mount.kind.as_str() {
        "btrfs" => Seen::OnBtrfs { real },
        "zfs" => Seen::OnZfs { real, mount },
        _ => Seen::Elsewhere { real, mount },
    })
}

fn device<'a>(image: &Path, real: PathBuf, number: u64) -> Seen<'a> {
    let shown = image.display();
    let (message, hint) = match zvol::device(number) {
        Device::Whole => return Seen::Zvol { real, number },
        Device::Partition => (
            format!("{shown} is a partition of a zvol, and only whole zvols can be restored"),
            "let the guest's definition name the zvol, or give this disk a zvol of its own",
        ),
        Device::Other => (
            format!("{shown} is a block device and no zvol, so it cannot be snapshotted"),
            "put the disk on a zvol, or into a file on ZFS or Btrfs",
        ),
    };
    Seen::OtherDevice { message, hint }
}

/// Follows an absent image's path as far as it leads.
fn absent<'a>(image: &Path, mounts: &'a [Mount], problem: Problem) -> Answer<Seen<'a>> {
    for folder in image.ancestors().skip(1) {
        if let Ok(real) = fs::canonicalize(folder) {
            let mount = mounts::mount_among(mounts, &real)?;
            let nearest = real.join(image.strip_prefix(folder).unwrap_or(image));
            return Ok(Seen::Absent { nearest, mount, problem });
        }
    }
    Err(problem)
}

fn elsewhere(image: &Path, mount: &Mount) -> Problem {
    let message =
        format!("{} lies on {}, which cannot be snapshotted", image.display(), mount.kind);
    Problem::lacking(message).hint(
        "put it on ZFS or Btrfs, into a dataset or subvolume of its own for this guest's disks",
    )
}

fn again(note: &ProblemNote) -> Problem {
    note.clone().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_snapshotted_is_named() {
        let problems = locate(&["/proc/self/status".into(), "/no/such/image".into()]);
        let [Err(proc), Err(absent)] = &problems[..] else { unreachable!("{problems:?}") };
        assert_eq!(proc.kind, ProblemKind::Lacking);
        assert_eq!(proc.message, "/proc/self/status lies on proc, which cannot be snapshotted");
        assert_eq!(absent.kind, ProblemKind::NotFound);
    }
}
