//! ZFS: datasets as volumes, a file system's or a zvol's, and their snapshots; all volumes of a pool
//! are snapshotted at one instant.
//!
//! Starts the program `zfs`, and `zvol_id` where udev makes no links. On a snapshot it writes whom
//! that was taken for: `vitrify:guest` and `vitrify:point`, the latter alone for a volume by itself.

mod datasets;
mod files;
mod homes;
mod properties;
pub mod sanoid;
mod scratch;
mod snapshots;
pub(crate) mod zvol;

use std::fs;
use std::path::Path;
use std::time::Duration;

use vitrify_core::name::Volume;
use vitrify_core::ports::Answer;
use vitrify_core::problem::{Problem, ProblemKind};

pub(crate) use self::datasets::{Datasets, volumes};
pub(crate) use self::files::{annotate, open_in_snapshot};
pub(crate) use self::homes::{create_home, name_of_home_snapshot, snapshot_of_home};
pub(crate) use self::scratch::{
    create_scratch, create_scratch_child, create_scratch_zvol, destroy_scratch,
};
pub(crate) use self::snapshots::{
    check_read_only, destroy, hold, list, list_all, release, release_command, take,
};
use crate::command::{Command, Ended};

/// `f_type` of a ZFS, `ZFS_SUPER_MAGIC` of include/sys/zfs_vfsops.h.
pub(crate) const MAGIC: u32 = 0x2fc1_2fc1;
/// A snapshot waits for a transaction group, which a busy pool writes for long.
const SLOW: Duration = Duration::from_secs(300);
/// The longest list of snapshots that is taken, in bytes: `zfs list` has some 150 for each, `zfs get` some
/// 600.
const LIST_BOUND: u64 = 256 << 20;
/// Where the module shows each imported pool.
const POOLS: &str = "/proc/spl/kstat/zfs";
/// The state of a pool whose devices do not answer: who asks it for anything waits.
const SUSPENDED: &str = "SUSPENDED";

fn zfs(verb: &str) -> Command {
    Command::new("zfs").arg(verb).limit(SLOW)
}

/// Runs a command that changes something.
fn change(command: &Command) -> Answer<()> {
    let ended = command.end()?;
    if ended.success { Ok(()) } else { Err(problem(command, &ended)) }
}

/// What follows from what `zfs` complained of. Its words are the interface: its exit status is 1 for
/// nearly everything.
fn problem(command: &Command, ended: &Ended) -> Problem {
    let lines = ended.complaints.lines().map(str::trim);
    let lines = lines.take_while(|line| *line != "usage:").filter(|line| !line.is_empty());
    let said = lines.collect::<Vec<_>>().join("; ");
    let has = |text: &str| said.contains(text);
    let kind = if has("out of space") || has("quota exceeded") || has("No space left") {
        ProblemKind::NoSpace
    } else if has("does not exist") || has("no such pool") {
        ProblemKind::NotFound
    } else if has("already exists") || has("being held") || has("dependent clones") {
        ProblemKind::Refused
    } else if has("permission denied")
        || has("read-only")
        || has("suspended")
        || has("modules are not loaded")
    {
        ProblemKind::Lacking
    } else {
        ProblemKind::Failed
    };
    let short: String = command.to_string().chars().take(200).collect();
    Problem::new(kind, format!("'{short}' failed: {said}"))
}

/// Adds to a refusal for want of permission what root would have to allow. Found by trial with ZFS
/// 2.3: `snapshot` alone cannot write properties, `destroy` alone cannot destroy, and listing needs
/// nothing.
fn with_permission(problem: Problem, permissions: &str, datasets: &[&str]) -> Problem {
    if problem.kind != ProblemKind::Lacking || !problem.message.contains("permission denied") {
        return problem;
    }
    let user = rustix::process::geteuid().as_raw();
    let lines = datasets.iter().map(|name| format!("'zfs allow -u {user} {permissions} {name}'"));
    problem.hint(format!("as root: {}", lines.collect::<Vec<_>>().join(", ")))
}

/// The name of a volume as `zfs` may be given it: a dataset, and nothing that it would read as an
/// option, a snapshot or a list.
fn dataset(volume: &Volume) -> Answer<&str> {
    let name = volume.as_str();
    let fine = |c: char| c.is_ascii_alphanumeric() || "_-:. /".contains(c);
    if name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(fine) {
        Ok(name)
    } else {
        Err(Problem::lacking(format!("'{name}' is not the name of a ZFS dataset")))
    }
}

/// Has the pools of these volumes write out what they hold.
pub(crate) fn flush(volumes: &[&Volume]) -> Answer<()> {
    let mut pools =
        volumes.iter().map(|it| dataset(it).map(pool_of)).collect::<Answer<Vec<_>>>()?;
    pools.sort_unstable();
    pools.dedup();
    pools.iter().try_for_each(|pool| check_pool(pool))?;
    match pools.is_empty() {
        true => Ok(()),
        false => change(&Command::new("zpool").arg("sync").limit(SLOW).args(pools)),
    }
}

/// The pool of a dataset or a snapshot.
pub(crate) fn pool_of(dataset: &str) -> &str {
    dataset.split(['/', '@']).next().unwrap_or(dataset)
}

/// Whether any pool is imported.
pub(crate) fn has_pools() -> bool {
    !imported().is_empty()
}

/// The names of the imported pools, as the module shows them.
fn imported() -> Vec<String> {
    let entries = fs::read_dir(POOLS).into_iter().flatten().flatten();
    let pools = entries.filter(|entry| entry.path().is_dir());
    pools.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// A pool's state: `ONLINE`, `DEGRADED`, `SUSPENDED`; `None` where it is not imported. Asks the
/// kernel in a way that never waits for the pool.
fn pool_state(pool: &str) -> Option<String> {
    let state = fs::read_to_string(Path::new(POOLS).join(pool).join("state")).ok()?;
    Some(state.trim().to_owned())
}

/// Says what is wrong with a pool that is not there or does not answer: what it holds is not known
/// to be gone.
pub(crate) fn check_pool(dataset: &str) -> Answer<()> {
    let pool = pool_of(dataset);
    match pool_state(pool).as_deref() {
        None => Err(not_imported(pool)),
        Some(SUSPENDED) => Err(suspended(pool)),
        Some(_) => Ok(()),
    }
}

fn not_imported(pool: &str) -> Problem {
    Problem::lacking(format!("the pool {pool} is not imported"))
        .hint(format!("'zpool import {pool}'"))
}

fn suspended(pool: &str) -> Problem {
    Problem::lacking(format!("the pool {pool} is suspended: its devices do not answer"))
        .hint(format!("'zpool status {pool}' says why; then 'zpool clear {pool}' lets it go on"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Output;

    #[test]
    fn dataset_names() {
        for (name, valid) in [
            ("tank/vm/web", true),
            ("tank", true),
            ("tank/a b:c.d-e_f", true),
            ("tank/a@b", false),
            ("tank/a,b", false),
            ("tank/a#b", false),
            ("-r", false),
            ("/srv/vm", false),
            ("tank/%recv", false),
        ] {
            assert_eq!(dataset(&name.parse().unwrap()).is_ok(), valid, "{name}");
        }
    }

    #[test]
    fn complaints_of_zfs_2_3() {
        use ProblemKind::{Failed, Lacking, NoSpace, NotFound, Refused};
        for (said, kind) in [
            ("cannot open 'tank/x': dataset does not exist\nusage:\n\tsnapshot …\n", NotFound),
            ("cannot create snapshot 'tank/a@p': dataset already exists\n", Refused),
            ("cannot create snapshots : out of space\nno snapshots were created\n", NoSpace),
            ("cannot create snapshots : permission denied\n", Lacking),
            ("cannot create snapshots : pool is read-only\n", Lacking),
            ("cannot open 'tank/a': pool I/O is currently suspended\n", Lacking),
            ("cannot destroy snapshot tank/a@p: it's being held. Run …\n", Refused),
            ("cannot destroy 'tank/a': dataset is busy\n", Failed),
        ] {
            let output = Output { stdout: Vec::new() };
            let ended = Ended { success: false, output, complaints: said.to_owned() };
            let problem = problem(&zfs("snapshot"), &ended);
            assert_eq!(problem.kind, kind, "{said}");
            assert!(!problem.message.contains("usage"), "{problem}");
        }
    }

    #[test]
    fn the_permission_that_is_missing() {
        let denied = Problem::lacking("'zfs snapshot' failed: permission denied");
        let hint = with_permission(denied, "snapshot,userprop", &["tank/a"]).hint.unwrap();
        assert!(hint.contains("snapshot,userprop tank/a'"), "{hint}");
        let other = Problem::lacking("pool is read-only");
        assert_eq!(with_permission(other, "x", &["tank/a"]).hint, None);
    }
}
