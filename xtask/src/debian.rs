//! A Debian of the lab's own, built once per recipe into the cache.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::apt::{self, Definitions};
use crate::cache;
use crate::keeper::{self, Kept};
use crate::process::{Failure, as_root, must, tell};

/// A registry that says nothing is out of reach sooner than apt thinks. No part of the recipe: what
/// is built does not depend on it.
const PATIENCE: [&str; 3] = [
    "--aptopt=Acquire::Retries \"1\"",
    "--aptopt=Acquire::http::Timeout \"15\"",
    "--aptopt=Acquire::https::Timeout \"15\"",
];

/// What the folder of a build is called, before the number of its process.
const DRAFT: &str = "draft-";

/// What a Debian is made of, and what it is for.
pub(crate) struct Recipe {
    /// Its folder in the cache.
    pub(crate) home: &'static str,
    /// What people call it.
    pub(crate) what: &'static str,
    /// How long it takes to build, in words.
    pub(crate) takes: &'static str,
    /// The script that builds it, as root.
    pub(crate) script: &'static str,
    /// What it is made of, beside the smallest Debian.
    pub(crate) packages: &'static [&'static str],
    /// What a built one holds, by which it is known.
    pub(crate) mark: &'static str,
    /// Where its packages come from.
    pub(crate) definitions: fn() -> Result<Definitions, Failure>,
    /// Puts into the folder of a build what the script expects there.
    pub(crate) prepare: fn(&Path) -> Result<(), Failure>,
}

impl Recipe {
    /// The folder of today's recipe, built if the cache does not have it. Those of older recipes are
    /// removed, unless something runs in them.
    ///
    /// # Errors
    /// [`Failure`] that says what to do, and where the build's log lies.
    pub(crate) fn ensure(&self) -> Result<PathBuf, Failure> {
        let home = cache::subfolder(self.home)?;
        let place = home.join(self.key(&apt::codename()?));
        if place.is_dir() {
            return Ok(place);
        }
        let _lock = locked(&home.join("lock"), &format!("another build of the {}", self.what))?;
        // Somebody may have built it while we waited.
        if !place.is_dir() {
            self.build(&home, &place, &(self.definitions)()?)?;
        }
        self.remove_others(&home, &place)?;
        Ok(place)
    }

    /// Names what is built: everything that it is made of is in it.
    fn key(&self, codename: &str) -> String {
        let parts = [&[self.script, codename], self.packages].concat();
        format!("{codename}-{:016x}", fnv1a(&parts))
    }

    fn build(&self, home: &Path, place: &Path, definitions: &Definitions) -> Result<(), Failure> {
        let (what, log) = (self.what, home.join("build.log"));
        // Of builds whose keepers were killed too: the lock is ours.
        for draft in drafts(home) {
            remove(&draft)?;
        }
        let draft = home.join(format!("{DRAFT}{}", std::process::id()));
        let [draft_word, place_word] = [&draft, place].map(|it| it.display().to_string());
        let cannot = |error| Failure::new(format!("cannot build the {what}: {error}"));
        fs::create_dir(&draft).map_err(cannot)?;
        (self.prepare)(&draft)?;
        let takes = self.takes;
        tell(&format!("{what}: building it, once; {takes}; log: {}", log.display()));
        let begun = Instant::now();
        let packages = self.packages.join(",");
        let prefer = definitions.suite.as_deref().unwrap_or_default();
        // mmdebstrap mounts /proc and more in what it makes: in a namespace, they cannot stay behind.
        let shell = ["unshare", "--mount", "sh", "-c", self.script, "build"];
        let given = [&*draft_word, &place_word, &definitions.codename, prefer, &packages];
        let mut program = [&shell[..], &given].concat();
        let files: Vec<String> =
            definitions.files.iter().map(|file| file.display().to_string()).collect();
        program.extend(files.iter().map(String::as_str).chain(PATIENCE));
        let mut shell = as_root("sh", &keeper::arguments(&draft_word, &program))?;
        let ended = Kept::logged(&mut shell, &log).and_then(|mut kept| kept.wait());
        if !ended.map_err(cannot)?.success() {
            return Err(why(what, &fs::read_to_string(&log).unwrap_or_default(), &log));
        }
        tell(&format!("{what}: built in {:.0} s", begun.elapsed().as_secs_f64()));
        Ok(())
    }

    /// Removes what was built by other recipes, but not under what runs there.
    fn remove_others(&self, home: &Path, current: &Path) -> Result<(), Failure> {
        for entry in fs::read_dir(home).into_iter().flatten().flatten() {
            let path = entry.path();
            let other = path.join(self.mark).exists() && path != current;
            if other && runs_in(&path).all(|(_, alive)| !alive) {
                tell(&format!("{}: removing {}, of an older recipe", self.what, path.display()));
                remove(&path)?;
            }
        }
        Ok(())
    }
}

/// FNV-1a of the parts, each closed by a byte that no text has. Unlike the standard library's
/// hashers it is the same in every build.
fn fnv1a(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

fn drafts(home: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(home).into_iter().flatten().flatten();
    let drafts = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(DRAFT));
    drafts.map(|entry| entry.path())
}

/// Removes a folder, as root if it holds files of root's.
fn remove(folder: &Path) -> Result<(), Failure> {
    fs::remove_dir_all(folder).or_else(|_| {
        let folder = folder.display().to_string();
        must(&mut as_root("rm", &["-rf", "--one-file-system", &folder])?)
    })
}

/// Why a build failed: a registry that does not answer is told apart from all else.
fn why(what: &str, said: &str, log: &Path) -> Failure {
    let log = log.display();
    let unreachable = unreachable(said);
    if unreachable.is_empty() {
        let lines: Vec<&str> = said.lines().collect();
        let tail = lines[lines.len().saturating_sub(10)..].join("\n  ");
        return Failure::new(format!(
            "the {what} could not be built; the log is {log}, and ends with:\n  {tail}"
        ));
    }
    Failure::new(format!(
        "the {what} was not built: a package registry is out of reach:\n  {}\n\
         Look at the network, the proxy (http_proxy, /etc/apt/apt.conf.d) and the registries that \
         /etc/apt names, then run this again. The log is {log}.",
        unreachable.join("\n  ")
    ))
}

/// apt's lines about what it could not fetch, each once.
fn unreachable(said: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = said
        .lines()
        .filter(|line| {
            ["E: Failed to fetch", "W: Failed to fetch"].iter().any(|it| line.starts_with(it))
        })
        .collect();
    lines.dedup();
    lines
}

/// Locks a file, which is made, until what is returned is dropped. `other` is whom we wait for.
///
/// # Errors
/// [`Failure`] that names the file.
pub(crate) fn locked(file: &Path, other: &str) -> Result<File, Failure> {
    let cannot = |error| Failure::new(format!("cannot lock {}: {error}", file.display()));
    let lock = File::create(file).map_err(cannot)?;
    if lock.try_lock().is_err() {
        tell(&format!("waiting for {other}"));
        lock.lock().map_err(cannot)?;
    }
    Ok(lock)
}

/// The folder of a run of ours in what was built.
pub(crate) fn run_in(folder: &Path) -> PathBuf {
    folder.join(format!("{RUN}{}", std::process::id()))
}

/// The folders of what runs in `folder`, and whether who started it lives.
pub(crate) fn runs_in(folder: &Path) -> impl Iterator<Item = (PathBuf, bool)> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let name = entry.file_name();
        let process: u32 = name.to_str()?.strip_prefix(RUN)?.parse().ok()?;
        Some((entry.path(), Path::new(&format!("/proc/{process}")).exists()))
    })
}

/// What the folder of a run is called, before the number of its process.
const RUN: &str = "run-";

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    const RECIPE: Recipe = Recipe {
        home: "machine",
        what: "machine",
        takes: "a while",
        script: "make it",
        packages: &["one", "two"],
        mark: "disk",
        definitions: apt::definitions,
        prepare: |_| Ok(()),
    };

    #[test]
    fn the_key_is_the_hash_that_fnv_defines() {
        // The test values of draft-eastlake-fnv for no byte, and for one part of it.
        assert_eq!(fnv1a(&[]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(&["a"]), (0xaf63_dc4c_8601_ec8c_u64 ^ 0xff).wrapping_mul(0x100_0000_01b3));
    }

    #[test]
    fn the_key_changes_with_every_part_and_where_parts_end() {
        let key = RECIPE.key("bookworm");
        assert_ne!(key, RECIPE.key("trixie"));
        assert_ne!(key, Recipe { script: "make it so", ..RECIPE }.key("bookworm"));
        assert_ne!(key, Recipe { packages: &["onetwo"], ..RECIPE }.key("bookworm"));
        assert_ne!(fnv1a(&["ab", "c"]), fnv1a(&["a", "bc"]));
    }

    #[test]
    fn older_recipes_go_unless_something_runs_there() -> Result<(), Box<dyn Error>> {
        let home = std::env::temp_dir().join(format!("vitrify-debians-{}", std::process::id()));
        let alive = run_in(Path::new("used")).display().to_string();
        // No process has a number as high as that of the other run.
        for folder in ["today", "old/run-99999999", &alive, "else"] {
            fs::create_dir_all(home.join(folder))?;
        }
        for built in ["today", "old", "used"] {
            fs::write(home.join(built).join(RECIPE.mark), "")?;
        }
        let removed = RECIPE.remove_others(&home, &home.join("today"));
        let left = ["today", "old", "used", "else"].map(|name| home.join(name).exists());
        fs::remove_dir_all(&home)?;
        assert!(removed.is_ok());
        assert_eq!(left, [true, false, true, true]);
        Ok(())
    }

    #[test]
    fn a_registry_out_of_reach_is_told_apart() {
        let said = "\
I: running apt-get update...
Err:1 http://mirror.test/debian bookworm InRelease
  Could not connect to proxy.test:3128
E: Failed to fetch http://mirror.test/debian/dists/bookworm/InRelease  Could not connect
E: Some index files failed to download.
E: apt-get update failed
";
        let log = Path::new("/cache/build.log");
        let failure = why("machine", said, log).to_string();
        let (head, rest) = failure.split_once('\n').unwrap_or_default();
        assert!(head.ends_with("a package registry is out of reach:"), "{failure}");
        assert!(rest.starts_with("  E: Failed to fetch http://mirror.test/"), "{failure}");
        assert!(rest.contains("http_proxy") && rest.contains("/cache/build.log"), "{failure}");
        let other = why("machine", "E: zfs-dkms does not compile\n", log).to_string();
        assert!(!other.contains("registry") && other.contains("zfs-dkms"), "{other}");
        assert!(other.contains("/cache/build.log"), "{other}");
    }
}
