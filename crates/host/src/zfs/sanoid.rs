//! What `vitrify sanoid` sees and does of ZFS: every dataset and snapshot of some pools, snapshots of
//! many datasets at once, and the end of snapshots.
//!
//! Starts `zpool list`, `zfs list`, `zfs get`, `zfs snapshot` and `zfs destroy`, and reads the command
//! lines in `/proc`. A look takes two processes, however many datasets there are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use jiff::Timestamp;
use vitrify_core::inventory::{Need, Snapshot as Identified};
use vitrify_core::name::Volume;
use vitrify_core::ports::Answer;
use vitrify_core::problem::{Problem, ProblemKind};
use vitrify_core::sanoid::decide::Snapshot;
use vitrify_core::sanoid::monitor::Pool;
use vitrify_core::sanoid::plan::Wanted;
use vitrify_core::sanoid::transfer::transfers;

use super::properties::MANY;
use super::snapshots::{destroy_each, full_name};
use super::{
    LIST_BOUND, SUSPENDED, change, dataset, imported, not_imported, pool_of, pool_state, problem,
    suspended, with_permission, zfs,
};
use crate::command::Command;

/// What some pools hold.
#[derive(Debug, Default)]
pub struct Found {
    /// Those that answer.
    pub pools: Vec<Pool>,
    /// The names of the others, and what is wrong with each.
    pub unfit: Vec<(String, Problem)>,
    /// Every file system and volume.
    pub datasets: Vec<Volume>,
    /// The snapshots of each that has any, as far as a tool could have named them.
    pub snapshots: BTreeMap<Volume, Vec<Snapshot>>,
}

/// Looks at these pools and at all that they hold. A pool that does not answer is not asked for
/// anything.
///
/// # Errors
/// Where the programs of ZFS are not there or fail.
pub fn look(names: &BTreeSet<String>) -> Answer<Found> {
    let known = pools(Some(names))?;
    let mut found = Found::default();
    for name in names {
        match known.iter().find(|it| it.name == *name) {
            Some(pool) if pool.answers() => found.pools.push(pool.clone()),
            Some(pool) if pool.state == SUSPENDED => {
                found.unfit.push((name.clone(), suspended(name)));
            }
            Some(pool) => {
                let problem = Problem::lacking(format!("the pool {name} is {}", pool.state));
                let problem = problem.hint(format!("'zpool status {name}' says why"));
                found.unfit.push((name.clone(), problem));
            }
            None => found.unfit.push((name.clone(), not_imported(name))),
        }
    }
    if found.pools.is_empty() {
        return Ok(found);
    }
    let command = zfs("list")
        .args(["-H", "-p", "-t", "filesystem,volume,snapshot"])
        .args(["-o", "name,guid,creation,createtxg,userrefs,clones", "-r"])
        .args(found.pools.iter().map(|it| it.name.as_str()))
        .output_bound(LIST_BOUND);
    let output = command.run()?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        match parse(line) {
            Some(Line::Dataset(volume)) => found.datasets.push(volume),
            Some(Line::Snapshot(volume, snapshot)) => {
                found.snapshots.entry(volume).or_default().push(snapshot);
            }
            None => {}
        }
    }
    Ok(found)
}

/// A line of the list.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Dataset(Volume),
    Snapshot(Volume, Snapshot),
}

/// `None` for what has a name that is not ours to use.
fn parse(line: &str) -> Option<Line> {
    let mut fields = line.split('\t');
    let name = fields.next()?;
    let Some((holder, name)) = name.split_once('@') else {
        let volume = name.parse().ok()?;
        return dataset(&volume).is_ok().then_some(Line::Dataset(volume));
    };
    let id = fields.next()?.parse().ok()?;
    let time = Timestamp::from_second(fields.next()?.parse().ok()?).ok()?;
    let createtxg = fields.next()?.parse().ok()?;
    let is_held = fields.next().is_some_and(|count| !matches!(count, "0" | "-"));
    let clones = fields.next().filter(|it| !matches!(*it, "" | "-"));
    let needed = match (is_held, clones) {
        (true, _) => Some(Need::Held(String::new())),
        (false, clones) => clones.map(|it| Need::Cloned(it.to_owned())),
    };
    let snapshot = Snapshot { name: name.parse().ok()?, id, time, createtxg, needed };
    Some(Line::Snapshot(holder.parse().ok()?, snapshot))
}

/// How these pools are, or all that are imported; one that is not is left out. A suspended one is
/// known by the module's own word and not asked.
///
/// # Errors
/// Where `zpool` is not there or fails.
pub fn pools(wanted: Option<&BTreeSet<String>>) -> Answer<Vec<Pool>> {
    let imported = imported();
    let asked = wanted.map_or(imported, |it| it.iter().cloned().collect());
    let (silent, asked): (Vec<_>, Vec<_>) = asked.into_iter().partition(|it| is_suspended(it));
    let mut found: Vec<_> = silent
        .into_iter()
        .map(|name| Pool { name, state: SUSPENDED.to_owned(), used: None })
        .collect();
    if asked.is_empty() && (wanted.is_some() || !found.is_empty()) {
        return Ok(found);
    }
    let command =
        Command::new("zpool").args(["list", "-H", "-p", "-o", "name,health,capacity"]).args(&asked);
    let ended = command.end()?;
    let mut complaints = ended.complaints.lines().filter(|line| !line.trim().is_empty());
    if !ended.success && !complaints.all(|line| line.ends_with(": no such pool")) {
        return Err(problem(&command, &ended));
    }
    found.extend(ended.output.text().lines().filter_map(parse_pool));
    Ok(found)
}

fn is_suspended(pool: &str) -> bool {
    pool_state(pool).as_deref() == Some(SUSPENDED)
}

fn parse_pool(line: &str) -> Option<Pool> {
    let mut fields = line.split('\t');
    let (name, state) = (fields.next()?.to_owned(), fields.next()?.to_owned());
    let used = fields.next().and_then(|it| it.trim_end_matches('%').parse().ok());
    Some(Pool { name, state, used })
}

/// Takes these snapshots of one pool, with an answer for each; no dataset may be there twice. As many
/// as fit are taken by one command, in one transaction group. Where that fails they are tried in
/// halves, down to the one that cannot be taken.
///
/// A pool that was suspended since it was looked at is not asked.
pub fn take(wanted: &[Wanted<'_>]) -> Vec<Answer<()>> {
    let first = wanted.first().and_then(|it| it.datasets.first());
    if let Some(pool) = first.map(|it| pool_of(it.as_str()))
        && is_suspended(pool)
    {
        return wanted.iter().map(|_| Err(suspended(pool))).collect();
    }
    let attempt = |these: &[Wanted<'_>]| change(&command_for(these)?);
    let halves = |it| in_halves(it, &attempt);
    let mut results: Vec<_> = batches(wanted, MANY).into_iter().flat_map(halves).collect();
    for (it, result) in wanted.iter().zip(&mut results) {
        let datasets: Vec<_> = it.datasets.iter().map(|it| it.as_str()).collect();
        let taken = std::mem::replace(result, Ok(()));
        *result = taken.map_err(|it| with_permission(it, "snapshot,mount", &datasets));
    }
    results
}

/// Parts of at most so many names; what belongs together is not parted, however many it is.
fn batches<'w, 'a>(wanted: &'w [Wanted<'a>], most: usize) -> Vec<&'w [Wanted<'a>]> {
    let (mut parts, mut rest) = (Vec::new(), wanted);
    while !rest.is_empty() {
        let mut names = 0;
        let fitting = rest.iter().take_while(|it| {
            names += it.datasets.len();
            names <= most
        });
        let (these, later) = rest.split_at(fitting.count().max(1));
        parts.push(these);
        rest = later;
    }
    parts
}

fn in_halves<'a>(
    wanted: &[Wanted<'a>],
    attempt: &dyn Fn(&[Wanted<'a>]) -> Answer<()>,
) -> Vec<Answer<()>> {
    let problem = match attempt(wanted) {
        Ok(()) => return wanted.iter().map(|_| Ok(())).collect(),
        Err(problem) if wanted.len() == 1 => return vec![Err(problem)],
        Err(problem) => problem,
    };
    if problem.kind == ProblemKind::TimedOut {
        // Whoever does not answer will not answer the next time.
        let again = || Problem::new(ProblemKind::TimedOut, problem.message.clone());
        return wanted.iter().map(|_| Err(again())).collect();
    }
    let (first, second) = wanted.split_at(wanted.len() / 2);
    let mut results = in_halves(first, attempt);
    results.extend(in_halves(second, attempt));
    results
}

fn command_for(wanted: &[Wanted<'_>]) -> Answer<Command> {
    let names = wanted.iter().flat_map(|it| it.datasets.iter().map(|volume| (volume, it.name)));
    let names = names.map(|(volume, name)| full_name(volume, name));
    Ok(zfs("snapshot").args(names.collect::<Answer<Vec<_>>>()?))
}

/// Destroys these snapshots, each only if it has still this guid, with an answer for each. Never
/// anything below, never a clone. Between datasets it stops where `is_over` says so: the rest is
/// `Dying`.
///
/// # Errors
/// Where nobody can say which snapshots they are; then none was destroyed.
pub fn destroy(
    snapshots: &[(&Volume, &Snapshot)],
    is_over: &dyn Fn() -> bool,
) -> Answer<Vec<Answer<()>>> {
    let pools: BTreeSet<_> = snapshots.iter().map(|it| pool_of(it.0.as_str())).collect();
    if let Some(pool) = pools.iter().find(|it| is_suspended(it)) {
        return Err(suspended(pool));
    }
    let identified = snapshots.iter().map(|(volume, it)| Identified {
        volume: (*volume).clone(),
        name: it.name.clone(),
        id: it.id.clone(),
    });
    destroy_each(&identified.collect::<Vec<_>>(), is_over)
}

/// Those of these datasets that a `zfs send` or `zfs receive` of this host is at work on.
pub fn in_transfer<'a>(datasets: &[&'a Volume]) -> Vec<&'a Volume> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = processes.filter_map(|it| fs::read(it.path().join("cmdline")).ok());
    let words = |line: Vec<u8>| -> Vec<String> {
        line.split(|byte| *byte == 0).map(|it| String::from_utf8_lossy(it).into_owned()).collect()
    };
    let lines: Vec<_> = lines.map(words).filter(|it| it.len() > 1).collect();
    let is_busy = |it: &&Volume| lines.iter().any(|line| transfers(line, it));
    datasets.iter().copied().filter(is_busy).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use vitrify_core::name::PointName;

    use super::*;

    fn volumes(text: &str) -> Vec<Vec<Volume>> {
        let group = |it: &str| it.split('+').map(|it| it.parse().unwrap()).collect();
        text.split(' ').map(group).collect()
    }

    fn shown(wanted: &[Wanted<'_>]) -> String {
        let names = |it: &Wanted<'_>| {
            it.datasets.iter().map(|it| it.as_str()).collect::<Vec<_>>().join("+")
        };
        wanted.iter().map(names).collect::<Vec<_>>().join(" ")
    }

    /// Hands what is wanted of these groups of datasets to a test.
    fn with<T>(groups: &str, test: impl FnOnce(&[Wanted<'_>]) -> T) -> T {
        let (groups, name): (_, PointName) = (volumes(groups), "p".parse().unwrap());
        let groups: Vec<Vec<&Volume>> = groups.iter().map(|it| it.iter().collect()).collect();
        let wanted: Vec<_> = groups.iter().map(|it| Wanted { datasets: it, name: &name }).collect();
        test(&wanted)
    }

    /// Columns: what is wanted, what is taken together where three names fit.
    #[test]
    fn long_command_lines_are_parted() {
        for (groups, parts) in [
            ("a", "a"),
            ("a b c", "a b c"),
            ("a b c d", "a b c|d"),
            ("a b+c d", "a b+c|d"),
            ("a b c+d e", "a b|c+d e"),
            ("a b+c+d+e f", "a|b+c+d+e|f"),
        ] {
            let found = with(groups, |wanted| {
                let parts = batches(wanted, 3);
                parts.into_iter().map(shown).collect::<Vec<_>>().join("|")
            });
            assert_eq!(found, parts);
        }
    }

    /// Columns: what is wanted, what cannot be taken, what is tried, how often that is refused.
    #[test]
    fn one_that_fails_does_not_keep_the_others() {
        for (groups, bad, tried, refused) in [
            ("a b c d", "", "a b c d", 0),
            ("a", "a", "a", 1),
            ("a b c d", "c", "a b c d|a b|c d|c|d", 1),
            ("a b+c d", "c", "a b+c d|a|b+c d|b+c|d", 1),
            ("a b", "ab", "a b|a|b", 2),
        ] {
            let log = RefCell::new(Vec::new());
            let results = with(groups, |wanted| {
                in_halves(wanted, &|these| {
                    log.borrow_mut().push(shown(these));
                    match shown(these).contains(|c: char| bad.contains(c)) {
                        true => Err(Problem::failed("no")),
                        false => Ok(()),
                    }
                })
            });
            assert_eq!(log.into_inner().join("|"), tried);
            assert_eq!(results.len(), groups.split(' ').count());
            assert_eq!(results.iter().filter(|it| it.is_err()).count(), refused, "{groups}");
        }
    }

    #[test]
    fn a_pool_that_does_not_answer_is_not_asked_again() {
        let tried = RefCell::new(0);
        let results = with("a b c", |wanted| {
            in_halves(wanted, &|_| {
                *tried.borrow_mut() += 1;
                Err(Problem::new(ProblemKind::TimedOut, "too long"))
            })
        });
        assert_eq!(tried.into_inner(), 1);
        assert!(results.iter().all(Result::is_err));
        assert_eq!(results.len(), 3);
    }

    #[test]
    fn lines_of_the_list() {
        let snapshot = |needed| {
            Some(Line::Snapshot(
                "tank/vm".parse().unwrap(),
                Snapshot {
                    name: "p".parse().unwrap(),
                    id: "12".parse().unwrap(),
                    time: Timestamp::from_second(1_795_000_000).unwrap(),
                    createtxg: 77,
                    needed,
                },
            ))
        };
        let dataset = |name: &str| Some(Line::Dataset(name.parse().unwrap()));
        for (line, wanted) in [
            ("tank/vm\t5\t1790000000\t3\t-\t-", dataset("tank/vm")),
            ("tank/a b\t5\t1790000000\t3\t-\t-", dataset("tank/a b")),
            ("tank/vm@p\t12\t1795000000\t77\t0\t", snapshot(None)),
            ("tank/vm@p\t12\t1795000000\t77\t0\t-", snapshot(None)),
            ("tank/vm@p\t12\t1795000000\t77\t2\t", snapshot(Some(Need::Held(String::new())))),
            (
                "tank/vm@p\t12\t1795000000\t77\t0\ttank/c,tank/d",
                snapshot(Some(Need::Cloned("tank/c,tank/d".to_owned()))),
            ),
            ("tank/vm@a b\t12\t1795000000\t77\t0\t", None),
            ("tank/vm/%recv\t5\t1790000000\t3\t-\t-", None),
            ("tank/vm@p\t12", None),
            ("", None),
        ] {
            assert_eq!(parse(line), wanted, "{line:?}");
        }
    }

    #[test]
    fn lines_of_the_pools() {
        for (line, state, used) in [
            ("tank\tONLINE\t45", "ONLINE", Some(45)),
            ("tank\tDEGRADED\t45%", "DEGRADED", Some(45)),
            ("tank\tUNAVAIL\t-", "UNAVAIL", None),
        ] {
            let wanted = Pool { name: "tank".to_owned(), state: state.to_owned(), used };
            assert_eq!(parse_pool(line), Some(wanted));
        }
    }
}
