//! apt-get with package lists of our own, so that bookworm's backports can be used without touching
//! how the host's apt is configured. The hosts to ask are taken from the machine's own source
//! definitions.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache;
use crate::process::{Failure, as_root, command, must, output};

mod dependencies;
mod sources;

/// The release whose own QEMU and libvirt are old enough that backports are preferred.
pub(crate) const BACKPORTED: &str = "bookworm";

/// An apt that is ready to install and download.
pub(crate) struct Apt {
    options: Vec<String>,
    /// The suite to prefer, if there is one.
    suite: Option<String>,
}

impl Apt {
    /// Prepares lists of our own on a release with backports, and brings the lists up to date.
    ///
    /// # Errors
    /// [`Failure`], also if the registry is out of reach.
    pub(crate) fn prepare() -> Result<Self, Failure> {
        let codename = codename()?;
        let mut apt = Self { options: common_options(), suite: None };
        if codename == BACKPORTED {
            apt.use_our_definitions()?;
            must(&mut apt.command("apt-get", &["-q", "update"]))?;
        } else {
            let words = apt.words(&["-q", "update"]);
            must(&mut as_root("apt-get", &words)?)?;
        }
        Ok(apt)
    }

    /// Installs packages, from the preferred suite where there is one.
    ///
    /// # Errors
    /// [`Failure`] that names the packages and the command.
    pub(crate) fn install(&self, packages: &[&str]) -> Result<(), Failure> {
        let mut arguments = vec!["-q", "-y", "--no-install-recommends", "install"];
        if let Some(suite) = &self.suite {
            arguments.extend(["-t", suite]);
        }
        arguments.extend(packages);
        let words = self.words(&arguments);
        let environment = ["DEBIAN_FRONTEND=noninteractive", "apt-get"];
        let result = must(&mut as_root("env", &[&environment[..], &words].concat())?);
        let named = packages.join(" ");
        result.map_err(|failure| Failure::new(format!("cannot install {named}: {failure}")))
    }

    /// The package that a metapackage stands for: the first that it depends on.
    pub(crate) fn first_dependency(&self, package: &str) -> Option<String> {
        let wanted = match &self.suite {
            Some(suite) => format!("{package}/{suite}"),
            None => package.to_owned(),
        };
        let record = output(&mut self.command("apt-cache", &["show", &wanted]))?;
        let depends = record.lines().find_map(|line| line.strip_prefix("Depends:"))?;
        depends.split_whitespace().next().map(|name| name.trim_end_matches(',').to_owned())
    }

    /// The libraries that a package's programs need, and those that these need.
    ///
    /// # Errors
    /// [`Failure`] that names the package.
    pub(crate) fn libraries_of(&self, package: &str) -> Result<Vec<String>, Failure> {
        let arguments = ["depends", "--recurse", "--important", package];
        let tree = output(&mut self.command("apt-cache", &arguments));
        let tree =
            tree.ok_or_else(|| Failure::new(format!("no package {package} in this release")))?;
        Ok(dependencies::libraries(&tree, package))
    }

    /// Downloads the files of packages into `folder`.
    ///
    /// # Errors
    /// [`Failure`] that names the packages and the command.
    pub(crate) fn download(&self, packages: &[&str], folder: &Path) -> Result<(), Failure> {
        let arguments = [&["-q", "download"], packages].concat();
        let named = packages.join(" ");
        must(self.command("apt-get", &arguments).current_dir(folder))
            .map_err(|failure| Failure::new(format!("cannot download {named}: {failure}")))
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        command(program, &self.words(arguments))
    }

    fn words<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        self.options.iter().map(String::as_str).chain(arguments.iter().copied()).collect()
    }

    fn use_our_definitions(&mut self) -> Result<(), Failure> {
        let definitions = definitions()?;
        let lists = cache::subfolder("apt/lists/partial")?;
        let lists = lists.parent().unwrap_or(&lists).display().to_string();
        self.options.extend(option("Dir::Etc::sourcelist", "/dev/null"));
        let folder = definitions.folder.display().to_string();
        self.options.extend(option("Dir::Etc::sourceparts", &folder));
        self.options.extend(option("Dir::State::lists", &lists));
        if let Some(suite) = &definitions.suite {
            self.options.extend(option("APT::Default-Release", suite));
        }
        self.suite = definitions.suite;
        Ok(())
    }
}

/// The host's own definitions of where its release comes from, with contrib, and with backports
/// where we prefer them.
pub(crate) struct Definitions {
    /// The release.
    pub(crate) codename: String,
    /// The suite to prefer, if there is one.
    pub(crate) suite: Option<String>,
    /// One file or more.
    pub(crate) files: Vec<PathBuf>,
    /// Where they lie, and nothing else.
    folder: PathBuf,
}

/// Writes them into the cache, in the order of their names.
///
/// # Errors
/// [`Failure`], also if the host does not say where its release comes from.
pub(crate) fn definitions() -> Result<Definitions, Failure> {
    let codename = codename()?;
    let suite = (codename == BACKPORTED).then(|| format!("{codename}-backports"));
    written(codename, suite, "sources")
}

/// The same of the release alone, without the backports.
///
/// # Errors
/// As [`definitions`].
pub(crate) fn stock_definitions() -> Result<Definitions, Failure> {
    written(codename()?, None, "stock-sources")
}

fn written(codename: String, suite: Option<String>, folder: &str) -> Result<Definitions, Failure> {
    let folder = fresh(&cache::subfolder("apt")?.join(folder))?;
    let mut files = Vec::new();
    for path in source_definitions() {
        let (Ok(text), Some(name)) = (fs::read_to_string(&path), path.file_name()) else {
            continue;
        };
        let deb822 = path.extension() == Some(OsStr::new("sources"));
        let extended = sources::extended(&text, deb822, &codename, suite.as_deref());
        if !extended.is_empty() {
            let file = folder.join(name);
            write(&file, &extended)?;
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(Failure::new(format!(
            "no definition of Debian {codename} in /etc/apt: cannot tell which host to ask"
        )));
    }
    files.sort();
    Ok(Definitions { codename, suite, files, folder })
}

/// apt's own caches of parsed lists are the host's, downloads lie in folders that only we may read,
/// another apt may be at work, and no bar of progress belongs in a log.
fn common_options() -> Vec<String> {
    let options = [
        option("Dir::Cache::pkgcache", ""),
        option("Dir::Cache::srcpkgcache", ""),
        option("APT::Sandbox::User", "root"),
        option("DPkg::Lock::Timeout", "120"),
        option("Dpkg::Use-Pty", "0"),
    ];
    options.into_iter().flatten().collect()
}

fn option(key: &str, value: &str) -> [String; 2] {
    ["-o".to_owned(), format!("{key}={value}")]
}

/// The codename of a release that has apt.
///
/// # Errors
/// [`Failure`] if this is no such release.
pub(crate) fn codename() -> Result<String, Failure> {
    let known = || {
        output(&mut command("apt-get", &["--version"]))?;
        let release = fs::read_to_string("/etc/os-release").ok()?;
        let value = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
        Some(value.trim_matches('"').to_owned())
    };
    known().ok_or_else(|| {
        Failure::new("this is not Debian or a relative; install by hand what `packages.rs` names")
    })
}

/// The host's files that say where packages come from.
fn source_definitions() -> Vec<PathBuf> {
    let entries = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    let known = ["list", "sources"].map(OsStr::new);
    paths.retain(|path| path.extension().is_some_and(|end| known.contains(&end)));
    paths.push(PathBuf::from("/etc/apt/sources.list"));
    paths
}

fn fresh(folder: &Path) -> Result<PathBuf, Failure> {
    let _ = fs::remove_dir_all(folder);
    let made = fs::create_dir_all(folder);
    made.map_err(|error| Failure::new(format!("cannot make {}: {error}", folder.display())))?;
    Ok(folder.to_owned())
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let written = fs::write(path, text);
    written.map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))
}
