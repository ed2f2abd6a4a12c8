//! Plain volumes without guests, kept by policies, on ZFS.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::process::ExitCode;

use serde_json::{Value, json};
use vitrify_lab::harness::{self, Machine, Outcome};
use vitrify_lab::pool::Pool;
use vitrify_lab::run::must;
use vitrify_lab::vitrify::Outcome as Said;
use vitrify_lab::world::World;

/// Size of the pool, in MiB; sparse.
const POOL_MIB: u64 = 512;

fn main() -> ExitCode {
    harness::run_on(
        Machine::Zfs,
        1,
        &[
            ("a_recursive_set_is_of_one_instant", one_instant),
            ("what_is_held_cloned_or_not_ours_stays", what_stays),
        ],
    )
}

fn vitrify(world: &World, code: i32, arguments: &[&str]) -> Result<Said, Box<dyn Error>> {
    let said = world.vitrify.run(arguments)?;
    assert_eq!(said.code, Some(code), "{arguments:?}: {}{}", said.stdout, said.stderr);
    Ok(said)
}

fn rules(world: &World, keep: &str, volumes: &[(&str, bool)]) -> Outcome {
    let rule = |(name, recursive): &(&str, bool)| {
        format!("[[volume]]\nmatch = \"{name}\"\npolicy = \"test\"\nrecursive = {recursive}\n")
    };
    let rules: String = volumes.iter().map(rule).collect();
    Ok(world.configure(&format!("\n[policy.test]\n{keep}\n{rules}"))?)
}

/// The snapshots of a dataset, what stands behind the `@`.
fn snapshots(dataset: &str) -> Result<BTreeSet<String>, Box<dyn Error>> {
    let listed = must("zfs", &["list", "-H", "-t", "snapshot", "-d", "1", "-o", "name", dataset])?;
    Ok(listed.lines().filter_map(|it| Some(it.split_once('@')?.1.to_owned())).collect())
}

fn property(of: &str, name: &str) -> Result<String, Box<dyn Error>> {
    Ok(must("zfs", &["get", "-H", "-p", "-o", "value", name, of])?.trim().to_owned())
}

/// Makes all that was taken years old.
fn age(world: &World) -> Outcome {
    let file = world.vitrify.state().join("volumes.json");
    let mut ledger: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
    for it in ledger["taken"].as_array_mut().into_iter().flatten() {
        it["time"] = json!("2020-01-01T12:00:00Z");
    }
    Ok(fs::write(file, ledger.to_string())?)
}

fn one_instant() -> Outcome {
    let pool = Pool::zfs(POOL_MIB)?;
    for name in ["data", "data/a", "data/a/b", "data/own"] {
        pool.subvolume(name)?;
    }
    pool.zvol("data/vol", 16)?;
    let world = World::on(pool)?;
    let [top, data, own] = ["", "data", "data/own"].map(|it| world.pool.dataset(it));
    let (top, data, own) = (top?, data?, own?);
    rules(&world, "daily = 1\nmonthly = 1", &[(&data, true), (&own, false)])?;
    let said = vitrify(&world, 0, &["run"])?.stdout;
    assert_eq!(said.lines().filter(|it| it.starts_with("took ")).count(), 5, "{said}");
    let set = ["", "/a", "/a/b", "/vol"].map(|it| format!("{data}{it}"));
    let mut instants = BTreeSet::new();
    for dataset in &set {
        let names = snapshots(dataset)?;
        assert_eq!(names.len(), 1, "{dataset}");
        let full = format!("{dataset}@{}", names.first().ok_or("none")?);
        instants.insert(property(&full, "createtxg")?);
        assert_ne!(property(&full, "vitrify:point")?, "-");
        assert_eq!(property(&full, "vitrify:guest")?, "-");
    }
    assert_eq!(instants.len(), 1, "{instants:?}");
    assert_eq!(snapshots(&own)?.len(), 1);
    assert_eq!(vitrify(&world, 0, &["run"])?.stdout, "");
    // The whole pool, but for the memory store.
    rules(&world, "daily = 1", &[(&top, true)])?;
    vitrify(&world, 0, &["run"])?;
    assert_eq!(snapshots(&world.pool.dataset("mem")?)?.len(), 0);
    assert_eq!((snapshots(&top)?.len(), snapshots(&own)?.len()), (1, 1));
    // One that is not there.
    rules(&world, "daily = 1", &[(&format!("{data}/absent"), false)])?;
    let said = vitrify(&world, 2, &["run"])?;
    assert!(said.stderr.contains("does not exist"), "{}", said.stderr);
    Ok(())
}

fn what_stays() -> Outcome {
    let pool = Pool::zfs(POOL_MIB)?;
    pool.subvolume("data")?;
    let world = World::on(pool)?;
    let (data, copy) = (world.pool.dataset("data")?, world.pool.dataset("copy")?);
    let clone = world.pool.dataset("clone")?;
    rules(&world, "daily = 1", &[(&data, false)])?;
    let mut names = Vec::new();
    for _ in 0..4 {
        let taken = vitrify(&world, 0, &["run", "--json"])?.json()?;
        let name = taken["volumes"][0]["snapshot"].as_str().ok_or("nothing was taken")?;
        names.push(name.to_owned());
        match names.len() {
            1 => drop(must("zfs", &["hold", "keep", &format!("{data}@{name}")])?),
            2 => drop(must("zfs", &["clone", &format!("{data}@{name}"), &clone])?),
            _ => {}
        }
        age(&world)?;
    }
    // The third had served when the fourth was taken.
    let [held, cloned, _, newest] = &names[..] else { return Err("not four".into()) };
    let wanted = BTreeSet::from([held, cloned, newest].map(Clone::clone));
    assert_eq!(snapshots(&data)?, wanted);
    // A copy has the same guids, and is nobody's.
    let send = format!("zfs send -p {data}@{held} | zfs receive {copy}");
    must("sh", &["-c", &send])?;
    rules(&world, "daily = 0", &[(&data, false), (&copy, false)])?;
    assert_eq!(vitrify(&world, 0, &["run"])?.stdout, "");
    assert_eq!(snapshots(&copy)?, BTreeSet::from([held.clone()]));
    assert_eq!(snapshots(&data)?, wanted);
    must("zfs", &["release", "keep", &format!("{data}@{held}")])?;
    let said = vitrify(&world, 0, &["run"])?.stdout;
    assert!(said.contains(&format!("pruned {data}@{held}: ")), "{said}");
    must("zfs", &["destroy", &clone])?;
    let said = vitrify(&world, 0, &["prune"])?.stdout;
    assert!(said.contains(&format!("pruned {data}@{cloned}: ")), "{said}");
    assert_eq!(snapshots(&data)?, BTreeSet::from([newest.clone()]));
    Ok(())
}
