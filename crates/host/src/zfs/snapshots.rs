//! Takes, lists and destroys snapshots.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use vitrify_core::inventory::{AnySnapshot, FoundSnapshot, Need, Owner, Snapshot};
use vitrify_core::name::{PointId, PointName, SnapshotId, Volume};
use vitrify_core::ports::Answer;
use vitrify_core::problem::{Problem, ProblemKind};

use super::properties::{self, MANY, Properties};
use super::{LIST_BOUND, change, check_pool, dataset, pool_of, problem, with_permission, zfs};

/// The points that a snapshot was taken for, separated by commas.
const POINT: &str = "vitrify:point";
/// Their guests, in the same order.
const GUEST: &str = "vitrify:guest";
/// The longest value of a property, `ZAP_MAXVALUELEN` less its end.
const LONGEST: usize = 8191;
/// The tag under which a snapshot is held for a point begins so, and ends with the point's id.
const HOLD: &str = "vitrify:hold:";
/// How many snapshots of one dataset are destroyed by one command.
const TOGETHER: usize = 200;

/// The name that `zfs` has for a snapshot.
pub(super) fn full_name(volume: &Volume, name: &PointName) -> Answer<String> {
    Ok(format!("{}@{name}", dataset(volume)?))
}

/// Takes one snapshot of each volume, all of one pool: ZFS takes either all of them, in one
/// transaction group, or none.
pub(crate) fn take(
    volumes: &[Volume],
    name: &PointName,
    owners: &[Owner],
) -> Answer<Vec<Snapshot>> {
    let names: Vec<_> = volumes.iter().map(|it| full_name(it, name)).collect::<Answer<_>>()?;
    let datasets: Vec<_> = volumes.iter().map(Volume::as_str).collect();
    datasets.first().map_or(Ok(()), |first| check_pool(first))?;
    let guests = list_of(owners.iter().filter_map(|it| Some(it.guest.as_ref()?.as_str())))?;
    let points = list_of(owners.iter().map(|it| it.point.as_str()))?;
    let mut command = zfs("snapshot");
    for (property, value) in [(GUEST, guests), (POINT, points)] {
        if !value.is_empty() {
            command = command.args(["-o", &format!("{property}={value}")]);
        }
    }
    change(&command.args(&names)).map_err(|problem| not_taken(problem, &datasets))?;
    let known = properties::of(&names, "guid")?;
    let identified = volumes.iter().zip(&names).map(|(volume, full)| {
        let guid = known.get(full).and_then(|it| it.get("guid"));
        let guid = guid.ok_or_else(|| Problem::failed(format!("{full} vanished")))?;
        Ok(Snapshot { volume: volume.clone(), name: name.clone(), id: identity(guid)? })
    });
    identified.collect()
}

fn list_of<'a>(items: impl Iterator<Item = &'a str>) -> Answer<String> {
    let list = items.collect::<Vec<_>>().join(",");
    if list.len() > LONGEST {
        return Err(Problem::lacking("more points than a ZFS property can name share a snapshot")
            .hint("capture fewer guests together"));
    }
    Ok(list)
}

fn not_taken(problem: Problem, datasets: &[&str]) -> Problem {
    match problem.kind {
        ProblemKind::NoSpace => problem.hint(
            "free space; a zvol with a refreservation needs as much again as it holds for each \
             snapshot",
        ),
        ProblemKind::Refused => problem.hint("choose another name"),
        _ => with_permission(problem, "snapshot,userprop", datasets),
    }
}

fn identity(guid: &str) -> Answer<SnapshotId> {
    guid.parse().map_err(|error| Problem::failed("a snapshot's guid").from(error))
}

/// The snapshots of these datasets whose names a point could have.
pub(crate) fn list(volumes: &[Volume]) -> Answer<Vec<FoundSnapshot>> {
    let (mut found, mut held) = (Vec::new(), Vec::new());
    for (volume, full, properties) in
        read(volumes, &format!("guid,createtxg,creation,userrefs,clones,{POINT}"))?
    {
        let name = full.split_once('@').and_then(|(_, name)| name.parse::<PointName>().ok());
        if let (Some(name), Some(guid)) = (name, properties.get("guid")) {
            let snapshot = Snapshot { volume, name, id: identity(guid)? };
            let clones = properties.get("clones").unwrap_or_default().split(',');
            let needed = clones.filter(|it| !it.is_empty()).map(|it| Need::Cloned(it.to_owned()));
            if properties.get("userrefs").is_some_and(|count| count != "0") {
                held.push((found.len(), full));
            }
            found.push(FoundSnapshot {
                snapshot,
                points: Some(points(&properties)),
                order: properties.get("createtxg").and_then(|it| it.parse().ok()),
                created: properties
                    .get("creation")
                    .and_then(|it| Timestamp::from_second(it.parse().ok()?).ok()),
                needed: needed.collect(),
                held_for: Some(Vec::new()),
            });
        }
    }
    // One process must do, however many are held: of the rest it is not asked who holds them.
    let untold = held.split_off(held.len().min(MANY));
    for (full, tag) in tags(held.iter().map(|(_, full)| full.as_str()))? {
        for (place, _) in held.iter().filter(|it| it.1 == full) {
            let it = &mut found[*place];
            match point_of(&tag).filter(|point| it.may_be_of(point)) {
                Some(point) => it.held_for.get_or_insert_default().push(point),
                None => it.needed.push(Need::Held(tag.clone())),
            }
        }
    }
    untold.iter().for_each(|(place, _)| found[*place].needed.push(Need::Held(String::new())));
    Ok(found)
}

/// The tags under which snapshots are held, [`MANY`] at most, each with its snapshot's full name.
fn tags<'a>(held: impl Iterator<Item = &'a str>) -> Answer<Vec<(String, String)>> {
    let mut held = held.peekable();
    if held.peek().is_none() {
        return Ok(Vec::new());
    }
    let listed = zfs("holds").arg("-H").args(held).run()?.text();
    let pairs = listed.lines().filter_map(|line| {
        let mut fields = line.split('\t');
        Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
    });
    Ok(pairs.collect())
}

/// The point that a tag of ours names.
fn point_of(tag: &str) -> Option<PointId> {
    tag.strip_prefix(HOLD)?.parse().ok()
}

/// Holds snapshots for a point, those that are held for it already included.
pub(crate) fn hold(snapshots: &[Snapshot], point: &PointId) -> Answer<()> {
    let names = identified(snapshots)?.into_iter().collect::<Answer<Vec<_>>>()?;
    change_holds("hold", &names, point, "tag already exists on this dataset")
}

/// Releases what is held for a point. What is not there, or is another by now, is not looked for.
pub(crate) fn release(snapshots: &[Snapshot], point: &PointId) -> Answer<()> {
    let found = identified(snapshots)?.into_iter();
    let is_there = |it: &Answer<String>| {
        !it.as_ref()
            .is_err_and(|it| matches!(it.kind, ProblemKind::NotFound | ProblemKind::Refused))
    };
    let names = found.filter(is_there).collect::<Answer<Vec<_>>>()?;
    change_holds("release", &names, point, "no such tag on this dataset")
}

/// The command by which an administrator releases a snapshot.
pub(crate) fn release_command(snapshot: &Snapshot, point: &PointId) -> String {
    format!("zfs release {HOLD}{point} {}@{}", snapshot.volume, snapshot.name)
}

/// The full names of snapshots, or why one is not the one that is meant.
fn identified(snapshots: &[Snapshot]) -> Answer<Vec<Answer<String>>> {
    for snapshot in snapshots {
        check_pool(dataset(&snapshot.volume)?)?;
    }
    let full = |it: &Snapshot| full_name(&it.volume, &it.name);
    let names: Vec<_> = snapshots.iter().map(full).collect::<Answer<_>>()?;
    let known = properties::of(&names, "guid")?;
    let check = |(snapshot, full): (&Snapshot, String)| {
        check_identity(known.get(&full), &full, snapshot).map(|()| full)
    };
    Ok(snapshots.iter().zip(names).map(check).collect())
}

/// Each name is tried, whatever becomes of the others; a complaint that ends so says that there is
/// nothing to be done.
fn change_holds(verb: &str, names: &[String], point: &PointId, is_so: &str) -> Answer<()> {
    for names in names.chunks(MANY) {
        let command = zfs(verb).arg(format!("{HOLD}{point}")).args(names);
        let ended = command.end()?;
        let complaints = ended.complaints.lines().filter(|line| !line.trim().is_empty());
        let is_fine = ended.success || only(complaints, is_so);
        if !is_fine {
            let datasets = names.iter().filter_map(|it| it.split_once('@')).map(|it| it.0);
            let datasets: Vec<_> = datasets.collect();
            return Err(with_permission(problem(&command, &ended), verb, &datasets));
        }
    }
    Ok(())
}

/// Whether there are complaints, and all of them end so.
fn only<'a>(complaints: impl Iterator<Item = &'a str>, end: &str) -> bool {
    let mut complaints = complaints.peekable();
    complaints.peek().is_some() && complaints.all(|line| line.ends_with(end))
}

/// Every snapshot of these datasets.
pub(crate) fn list_all(volumes: &[Volume]) -> Answer<Vec<AnySnapshot>> {
    let mut found = Vec::new();
    for (volume, name, properties) in read(volumes, "guid")? {
        if let Some(guid) = properties.get("guid") {
            found.push(AnySnapshot { volume, name, id: identity(guid)? });
        }
    }
    Ok(found)
}

/// These properties of each snapshot of these datasets, with its full name, by one process: given by
/// name, or, where they are too many for a command line, with all others of their pools.
fn read(volumes: &[Volume], wanted_of_each: &str) -> Answer<Vec<(Volume, String, Properties)>> {
    let mut wanted = HashSet::new();
    for volume in volumes {
        wanted.insert(dataset(volume)?);
    }
    let mut pools: Vec<_> = wanted.iter().map(|it| pool_of(it)).collect();
    pools.sort_unstable();
    pools.dedup();
    pools.iter().try_for_each(|pool| check_pool(pool))?;
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let command = properties::get(wanted_of_each).args(["-t", "snapshot"]).output_bound(LIST_BOUND);
    let command = if wanted.len() <= MANY {
        command.args(["-d", "1"]).args(volumes.iter().map(Volume::as_str))
    } else {
        command.arg("-r").args(pools)
    };
    let mut found = Vec::new();
    for (full, properties) in properties::read(&command)? {
        let Some((holder, _)) = full.split_once('@') else { continue };
        if let (true, Ok(volume)) = (wanted.contains(holder), holder.parse()) {
            found.push((volume, full, properties));
        }
    }
    Ok(found)
}

fn points(properties: &Properties) -> Vec<PointId> {
    let listed = properties.own(POINT).unwrap_or_default().split(',');
    listed.filter_map(|id| id.parse().ok()).collect()
}

/// A ZFS snapshot cannot be written; it has only to be the one that was taken.
pub(crate) fn check_read_only(snapshot: &Snapshot) -> Answer<()> {
    check_pool(dataset(&snapshot.volume)?)?;
    let full = full_name(&snapshot.volume, &snapshot.name)?;
    let known = properties::of(std::slice::from_ref(&full), "guid")?;
    check_identity(known.get(&full), &full, snapshot)
}

/// `NotFound` or `Refused` where a snapshot is not the one that is meant.
pub(super) fn check_identity(
    found: Option<&Properties>,
    full: &str,
    wanted: &Snapshot,
) -> Answer<()> {
    match found.and_then(|it| it.get("guid")) {
        None => Err(Problem::not_found(format!("there is no snapshot {full}"))),
        Some(guid) if guid == wanted.id.as_str() => Ok(()),
        Some(guid) => Err(Problem::refused(format!(
            "the snapshot {full} is {guid}, not {}: it is another one than was taken then",
            wanted.id
        ))),
    }
}

/// Destroys snapshots, looked up by name and identity; the first problem.
pub(crate) fn destroy(snapshots: &[Snapshot]) -> Answer<()> {
    let (mut checked, mut within_reach) = (Ok(()), Vec::new());
    for snapshot in snapshots {
        match check_pool(dataset(&snapshot.volume)?) {
            Ok(()) => within_reach.push(snapshot.clone()),
            Err(problem) => checked = checked.and(Err(problem)),
        }
    }
    checked.and(destroy_each(&within_reach, &|| false)?.into_iter().collect())
}

/// The same with an answer for each, in pools that answer. Those of one dataset go together, and one
/// by one where that fails, so that one which cannot be destroyed does not keep the others. One that
/// is gone already is no problem. Between datasets it stops where `is_over` says so: the rest is
/// `Dying`.
pub(super) fn destroy_each(
    snapshots: &[Snapshot],
    is_over: &dyn Fn() -> bool,
) -> Answer<Vec<Answer<()>>> {
    let mut results: Vec<Answer<()>> = snapshots.iter().map(|_| Ok(())).collect();
    let full = |it: &Snapshot| full_name(&it.volume, &it.name);
    let asked: Vec<_> = snapshots.iter().map(full).collect::<Answer<_>>()?;
    let known = properties::of(&asked, "guid")?;
    let mut by_dataset: BTreeMap<&str, Vec<(usize, &str)>> = BTreeMap::new();
    for (place, (full, snapshot)) in asked.iter().zip(snapshots).enumerate() {
        match check_identity(known.get(full), full, snapshot) {
            Err(problem) if problem.kind == ProblemKind::NotFound => {}
            Err(problem) => results[place] = Err(problem),
            Ok(()) => {
                let its = by_dataset.entry(snapshot.volume.as_str()).or_default();
                its.push((place, snapshot.name.as_str()));
            }
        }
    }
    for (holder, its) in by_dataset {
        if is_over() {
            for (place, name) in its {
                let message = format!("{holder}@{name} was not destroyed: we were told to end");
                results[place] = Err(Problem::new(ProblemKind::Dying, message));
            }
            continue;
        }
        for its in its.chunks(TOGETHER) {
            let names: Vec<_> = its.iter().map(|it| it.1).collect();
            if names.len() == 1 || destroy_named(holder, &names).is_err() {
                its.iter().for_each(|(place, name)| {
                    results[*place] = destroy_named(holder, &[name]);
                });
            }
        }
    }
    Ok(results)
}

/// Destroys snapshots of one dataset: never anything below it, never its clones, never later.
fn destroy_named(holder: &str, names: &[&str]) -> Answer<()> {
    let command = zfs("destroy").arg(format!("{holder}@{}", names.join(",")));
    let ended = command.end()?;
    // Somebody else was quicker.
    if ended.success || ended.complaints.contains("could not find any snapshots to destroy") {
        return Ok(());
    }
    let problem = problem(&command, &ended);
    let [name] = names else { return Err(problem) };
    let full = format!("{holder}@{name}");
    if ended.complaints.contains("being held") {
        return Err(held(&full));
    }
    if let Some((_, clones)) = ended.complaints.split_once("following datasets:") {
        let clones = clones.split_whitespace().collect::<Vec<_>>().join(", ");
        let message = format!("the snapshot {full} has clones: {clones}");
        return Err(Problem::refused(message)
            .hint("destroy them, or make them independent with 'zfs promote'"));
    }
    Err(with_permission(problem, "destroy,mount", &[holder]))
}

fn held(full: &str) -> Problem {
    let tags = tags(std::iter::once(full)).unwrap_or_default();
    let tags: Vec<_> = tags.into_iter().map(|it| it.1).collect();
    Problem::refused(format!("the snapshot {full} is held: {}", tags.join(", "))).hint(format!(
        "'zfs holds {full}' shows who wants to keep it; 'zfs release TAG {full}' lets it go"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_ours_name_a_point() {
        let id = "00000000-0000-4000-9000-000000000001";
        for (tag, point) in [
            (format!("{HOLD}{id}"), Some(id)),
            (format!("{HOLD}{id}x"), None),
            (HOLD.to_owned(), None),
            ("vitrify:user".to_owned(), None),
            (format!("backup:{HOLD}{id}"), None),
        ] {
            assert_eq!(point_of(&tag).as_ref().map(PointId::as_str), point, "{tag}");
        }
        let snapshot = Snapshot {
            volume: "tank/vm".parse().unwrap(),
            name: "p1".parse().unwrap(),
            id: "1".parse().unwrap(),
        };
        let command = release_command(&snapshot, &id.parse().unwrap());
        assert_eq!(command, format!("zfs release vitrify:hold:{id} tank/vm@p1"));
    }
}
