//! All datasets of the host at one look, and where an image lies among them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use vitrify_core::inventory::{FoundVolume, Location, ObjectId};
use vitrify_core::name::{Bytes, PointId, Volume};
use vitrify_core::ports::Answer;
use vitrify_core::problem::Problem;

use super::scratch::SELF_TEST;
use super::{check_pool, dataset, pool_of, pool_state, problem, zfs};
use crate::mounts::Mount;

const COLUMNS: &str = "name,type,guid,mountpoint,canmount,keystatus,used,available,usedbydataset,quota,refreservation";
/// From which fill of a pool on an administrator should know it, and from which on it is urgent.
const FULL_PERCENT: [u64; 2] = [80, 90];

/// A file system or a zvol.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Dataset {
    is_zvol: bool,
    guid: String,
    mountpoint: String,
    canmount: String,
    keystatus: String,
    used: u64,
    available: u64,
    used_by_dataset: u64,
    quota: u64,
    refreservation: u64,
}

/// Every dataset of every imported pool by its name. Those of a suspended pool are missing.
#[derive(Debug, Default)]
pub(crate) struct Datasets(HashMap<String, Dataset>);

impl Datasets {
    /// Looks, by one process.
    pub(crate) fn look() -> Answer<Self> {
        let command = zfs("list").args(["-H", "-p", "-t", "filesystem,volume", "-o", COLUMNS]);
        let ended = command.end()?;
        if !ended.success {
            return Err(problem(&command, &ended));
        }
        Ok(Self::parse(&ended.output.text()))
    }

    fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(parse_line).collect())
    }

    fn find(&self, name: &str) -> Answer<&Dataset> {
        self.0.get(name).ok_or_else(|| match check_pool(name) {
            Err(problem) => problem,
            Ok(()) => Problem::not_found(format!("there is no dataset {name}")),
        })
    }

    /// Where a file lies on a mounted dataset; `real` is its path without symbolic links.
    pub(crate) fn locate_file(
        &self,
        image: &Path,
        real: &Path,
        mount: &Mount,
        object: ObjectId,
    ) -> Answer<Location> {
        let (name, shown) = (mount.source.as_str(), image.display());
        if name.contains('@') {
            return Err(Problem::lacking(format!("{shown} lies in the snapshot {name}")));
        }
        let dataset = self.find(name)?;
        let below = real.strip_prefix(&mount.point).unwrap_or(real);
        let root = mount.root.strip_prefix("/").unwrap_or(&mount.root);
        // A file that is mounted itself has nothing below its mount.
        let path = if below == Path::new("") { root.to_owned() } else { root.join(below) };
        self.location(name, dataset, Some(path), object)
    }

    /// Where the zvol of this name lies.
    pub(crate) fn locate_zvol(&self, name: &str) -> Answer<Location> {
        let dataset = self.find(name)?;
        self.location(name, dataset, None, object_of(&dataset.guid))
    }

    fn location(
        &self,
        name: &str,
        dataset: &Dataset,
        path_in_volume: Option<PathBuf>,
        object: ObjectId,
    ) -> Answer<Location> {
        check_pool(name)?;
        let volume = name.parse().map_err(|error| Problem::failed("a dataset").from(error))?;
        let warnings = self.warnings(name, dataset);
        Ok(Location { volume, path_in_volume, object, group: pool_of(name).to_owned(), warnings })
    }

    /// A dataset that belongs between a path and the mount that is found there, and is not mounted.
    /// Whoever writes to the path would write to another than the administrator believes.
    ///
    /// One with `canmount=noauto` counts only where there is no file: the other boot environments
    /// of a host whose root is on ZFS are such datasets, and theirs are the same paths.
    pub(crate) fn unmounted(
        &self,
        path: &Path,
        is_there: bool,
        actual: &Mount,
        mounts: &[Mount],
    ) -> Option<Problem> {
        let hides = |(name, it): &(&String, &Dataset)| {
            let point = Path::new(&it.mountpoint);
            let counts = it.canmount == "on" || (it.canmount == "noauto" && !is_there);
            let deeper = path.starts_with(point)
                && point != actual.point
                && point.starts_with(&actual.point);
            let mounted = || mounts.iter().any(|it| it.kind == "zfs" && it.source == **name);
            !it.is_zvol && point.is_absolute() && counts && deeper && !mounted()
        };
        let (name, found) =
            self.0.iter().filter(hides).max_by_key(|(_, it)| it.mountpoint.len())?;
        let with_key = if found.keystatus == "unavailable" { "-l " } else { "" };
        let message = format!(
            "the dataset {name} belongs at {} and is not mounted, so {} is not what it should be",
            found.mountpoint,
            path.display()
        );
        Some(Problem::lacking(message).hint(format!("'zfs mount {with_key}{name}'")))
    }

    fn warnings(&self, name: &str, dataset: &Dataset) -> Vec<String> {
        let mut warnings = Vec::new();
        let pool = pool_of(name);
        if let Some(state) = pool_state(pool).filter(|state| state != "ONLINE") {
            warnings.push(format!("the pool {pool} is {state} ('zpool status {pool}' says why)"));
        }
        let [full, urgent] = FULL_PERCENT;
        match self.0.get(pool).map(Dataset::percent) {
            Some(percent) if percent >= urgent => warnings.push(format!(
                "the pool {pool} is {percent} % full: snapshots and guests may soon fail"
            )),
            Some(percent) if percent >= full => {
                warnings.push(format!("the pool {pool} is {percent} % full"));
            }
            _ => {}
        }
        for (name, it) in self.upwards(name) {
            if it.quota > 0 && it.used.saturating_mul(10) >= it.quota.saturating_mul(9) {
                let (used, quota) = (Bytes(it.used), Bytes(it.quota));
                warnings.push(format!(
                    "the dataset {name} has used {used} of its quota of {quota}, in which \
                     snapshots count"
                ));
            }
        }
        // What a snapshot holds is not covered by the reservation any more, so it must be free.
        let needed = dataset.used_by_dataset.min(dataset.refreservation);
        let free = self.upwards(name).nth(1).map_or(u64::MAX, |(_, parent)| parent.available);
        if needed > free {
            let (needed, free) = (Bytes(needed), Bytes(free));
            warnings.push(format!(
                "a snapshot of {name} needs {needed} free beside its refreservation, and {free} \
                 are"
            ));
        }
        warnings
    }

    /// A dataset and those above it.
    fn upwards<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, &'a Dataset)> {
        let parent = |name: &&'a str| name.rsplit_once('/').map(|(parent, _)| parent);
        std::iter::successors(Some(name), parent)
            .filter_map(|name| self.0.get(name).map(|it| (name, it)))
    }
}

impl Dataset {
    /// How full it is, of all that it could have: for a pool's top, of what ZFS lets be used.
    fn percent(&self) -> u64 {
        let whole = u128::from(self.used) + u128::from(self.available);
        let percent = (u128::from(self.used) * 100).checked_div(whole).unwrap_or(0);
        u64::try_from(percent).unwrap_or(100)
    }
}

/// A dataset and, with `below`, those under it, by one process. Left out is what a self-test made, the
/// clones of a restore, and what is just being received.
pub(crate) fn volumes(top: &Volume, below: bool) -> Answer<Vec<FoundVolume>> {
    let name = dataset(top)?;
    check_pool(name)?;
    let columns = format!("name,guid,{SELF_TEST}");
    let command = zfs("list").args(["-H", "-p", "-t", "filesystem,volume", "-o", &columns]);
    let command = if below { command.arg("-r") } else { command }.arg(name);
    let ended = command.end()?;
    if !ended.success {
        return Err(problem(&command, &ended));
    }
    Ok(ended.output.text().lines().filter_map(parse_volume).collect())
}

fn parse_volume(line: &str) -> Option<FoundVolume> {
    let mut fields = line.split('\t');
    let volume = fields.next()?.parse().ok()?;
    let name = dataset(&volume).ok()?;
    let guid = fields.next()?;
    let is_clone = name
        .rsplit_once(".vitrify-")
        .is_some_and(|(_, rest)| rest.get(..36).is_some_and(|id| id.parse::<PointId>().is_ok()));
    if is_clone || fields.next()? != "-" {
        return None;
    }
    Some(FoundVolume { object: ObjectId(format!("zfs:{guid}")), volume })
}

/// A zvol's identity.
pub(super) fn object_of(guid: &str) -> ObjectId {
    ObjectId(format!("zvol:{guid}"))
}

fn parse_line(line: &str) -> Option<(String, Dataset)> {
    let fields: Vec<_> = line.split('\t').collect();
    let &[name, kind, guid, mountpoint, canmount, keystatus, ref numbers @ ..] = &fields[..] else {
        return None;
    };
    let number = |index: usize| numbers.get(index).and_then(|it| it.parse().ok()).unwrap_or(0);
    let dataset = Dataset {
        is_zvol: kind == "volume",
        guid: guid.to_owned(),
        mountpoint: mountpoint.to_owned(),
        canmount: canmount.to_owned(),
        keystatus: keystatus.to_owned(),
        used: number(0),
        available: number(1),
        used_by_dataset: number(2),
        quota: number(3),
        refreservation: number(4),
    };
    Some((name.to_owned(), dataset))
}

#[cfg(test)]
mod tests {
    use vitrify_core::problem::ProblemKind;

    use super::*;

    const LISTED: &str = "\
tank\tfilesystem\t1\t/tank\ton\t-\t850\t150\t24\t0\t0
tank/a\tfilesystem\t2\t/tank/a\ton\t-\t95\t5\t90\t100\t0
tank/a/vol\tvolume\t3\t-\t-\t-\t70\t150\t60\t-\t70
tank/key\tfilesystem\t4\t/tank/key\ton\tunavailable\t1\t150\t1\t0\t0
tank/be\tfilesystem\t5\t/srv\tnoauto\t-\t1\t150\t1\t0\t0
tank/legacy\tfilesystem\t6\tlegacy\ton\t-\t1\t150\t1\t0\t0
";

    fn mount(point: &str, source: &str) -> Mount {
        let line = format!("43 27 0:39 / {point} rw - zfs {source} rw");
        Mount::parse(line.as_bytes()).unwrap()
    }

    #[test]
    fn volumes_without_guests() {
        let id = "00000000-0000-4000-8000-000000000001";
        for (line, object) in [
            ("tank/a\t5\t-", Some("zfs:5")),
            ("tank/a b\t5\t-", Some("zfs:5")),
            ("tank/a.vitrify-notes\t5\t-", Some("zfs:5")),
            (&format!("tank/vol.vitrify-{id}-77\t5\t-"), None),
            (&format!("tank/vitrify-self-test-{id}\t5\t{id}"), None),
            ("tank/a/%recv\t5\t-", None),
            ("tank/a", None),
        ] {
            let found = parse_volume(line).map(|it| it.object.0);
            assert_eq!(found.as_deref(), object, "{line}");
        }
    }

    #[test]
    fn warnings_name_what_is_short() {
        let datasets = Datasets::parse(LISTED);
        let warnings = |name: &str| datasets.warnings(name, &datasets.0[name]).join("\n");
        let found = warnings("tank/a/vol");
        assert!(found.contains("the pool tank is 85 % full"), "{found}");
        assert!(found.contains("tank/a has used 95 B of its quota of 100 B"), "{found}");
        assert!(found.contains("a snapshot of tank/a/vol needs 60 B free"), "{found}");
        let found = warnings("tank/legacy");
        assert!(!found.contains("quota") && !found.contains("needs"), "{found}");
    }

    #[test]
    fn what_is_not_mounted_is_named() {
        let datasets = Datasets::parse(LISTED);
        let top = mount("/tank", "tank");
        let named = |path: &str, is_there, mounts: &[Mount]| {
            let found = datasets.unmounted(Path::new(path), is_there, &mounts[0], mounts)?;
            assert_eq!(found.kind, ProblemKind::Lacking);
            found.hint
        };
        let hint = |text: &str| Some(text.to_owned());
        let only_top = [top.clone()];
        assert_eq!(named("/tank/a/x", true, &only_top), hint("'zfs mount tank/a'"));
        assert_eq!(named("/tank/key/x", false, &only_top), hint("'zfs mount -l tank/key'"));
        assert_eq!(named("/tank/abc", true, &only_top), None);
        assert_eq!(named("/tank/a/x", true, &[top, mount("/elsewhere", "tank/a")]), None);
        let root = [mount("/", "other")];
        assert_eq!(named("/srv/x", true, &root), None);
        assert_eq!(named("/srv/x", false, &root), hint("'zfs mount tank/be'"));
    }
}
