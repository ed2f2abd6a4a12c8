//! What was built here and is brought into the lab's Debians: the release binary, some of the lab's
//! test programs, and the witness's kernel and initramfs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::process::{Failure, command, must, output};
use crate::steps::{build, cargo, target_folder, vitrify};

/// What is in it.
pub(crate) struct Payload {
    vitrify: PathBuf,
    /// The witness's kernel and initramfs.
    witness: Vec<PathBuf>,
    /// The test programs' names and files, in the order of their names.
    tests: Vec<(String, PathBuf)>,
    programs: Vec<PathBuf>,
}

impl Payload {
    /// Builds all of it, with the test programs whose names begin with one of `tests`, and with these
    /// programs of the lab.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) fn build(tests: &[&str], programs: &[&str]) -> Result<Self, Failure> {
        build()?;
        let vitrify = vitrify()?;
        let lab = ["--quiet", "--locked", "--package", "vitrify-lab"];
        let witness = [&["run"], &lab[..], &["--bin", "witness-image"]].concat();
        let witness = output(cargo(&witness).stderr(Stdio::inherit()));
        let witness = witness.ok_or_else(|| Failure::new("cannot build the witness"))?;
        let patterns: Vec<String> = tests.iter().map(|name| format!("--test={name}*")).collect();
        let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
        let compile = [&["test"], &lab[..], &["--no-run"], &patterns].concat();
        must(&mut cargo(&compile))?;
        let messages = output(&mut cargo(&[&compile[..], &["--message-format=json"]].concat()));
        let mut tests = executables(&messages.unwrap_or_default(), tests);
        tests.sort();
        let names: Vec<String> = programs.iter().map(|name| format!("--bin={name}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        if !programs.is_empty() {
            must(&mut cargo(&[&["build"], &lab[..], &names].concat()))?;
        }
        let built = target_folder()?.join("debug");
        let programs = programs.iter().map(|name| built.join(name)).collect();
        Ok(Self { vitrify, witness: witness.lines().map(PathBuf::from).collect(), tests, programs })
    }

    /// The test programs' names.
    pub(crate) fn tests(&self) -> impl Iterator<Item = &str> {
        self.tests.iter().map(|(name, _)| name.as_str())
    }

    /// Writes it as the disk image `disk`, with the help of a folder beside it.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) fn write(&self, disk: &Path) -> Result<(), Failure> {
        let cannot = |error| Failure::new(format!("cannot write {}: {error}", disk.display()));
        let folder = disk.with_extension("");
        let size = self.fill(&folder).map_err(cannot)?;
        // Room for the file system's own tables.
        let size = format!("{}k", (size + size / 8) / 1024 + 8192);
        let [from, to] = [&folder, &disk.to_owned()].map(|path| path.display().to_string());
        let options = ["-q", "-L", "payload", "-m", "0", "-O", "^has_journal"];
        let rest = ["-E", "root_owner=0:0", "-d", &from, &to, &size];
        must(command("mkfs.ext4", &[&options[..], &rest].concat()).stdout(Stdio::null()))?;
        fs::remove_dir_all(&folder).map_err(cannot)
    }

    /// Copies all of it into the new `folder`; how many bytes that is.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn fill(&self, folder: &Path) -> io::Result<u64> {
        let (bin, witness) = (folder.join("bin"), folder.join("witness"));
        fs::create_dir_all(&bin)?;
        fs::create_dir(&witness)?;
        let mut size = fs::copy(&self.vitrify, bin.join("vitrify"))?;
        for (name, file) in &self.tests {
            size += fs::copy(file, bin.join(name))?;
        }
        for file in &self.programs {
            size += fs::copy(file, bin.join(file.file_name().unwrap_or_default()))?;
        }
        for file in &self.witness {
            size += fs::copy(file, witness.join(file.file_name().unwrap_or_default()))?;
        }
        Ok(size)
    }
}

/// The programs that cargo's messages name whose names begin so, without the hash in them.
fn executables(messages: &str, tests: &[&str]) -> Vec<(String, PathBuf)> {
    const KEY: &str = "\"executable\":\"";
    let paths = messages.lines().filter_map(|line| line.split_once(KEY)?.1.split_once('"'));
    let named = paths.filter_map(|(path, _)| {
        let path = PathBuf::from(path);
        let (name, _) = path.file_name()?.to_str()?.rsplit_once('-')?;
        tests.iter().any(|it| name.starts_with(it)).then(|| (name.to_owned(), path.clone()))
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_found_among_cargos_messages() {
        let messages = r#"
{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"vitrify_lab"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"demo"},"executable":"/t/debug/demo"}
{"reason":"compiler-artifact","target":{"kind":["test"]},"executable":"/t/debug/deps/points-0f"}
{"reason":"compiler-artifact","target":{"kind":["test"]},"executable":"/t/debug/deps/zfs_a-b-1f","fresh":true}
{"reason":"build-finished","success":true}
"#;
        let expected = ("zfs_a-b".to_owned(), PathBuf::from("/t/debug/deps/zfs_a-b-1f"));
        assert_eq!(executables(messages, &["zfs_"]), [expected]);
    }
}
