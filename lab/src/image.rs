//! The witness's kernel and initramfs: built once per recipe from the witness's sources and the
//! packages that `cargo xtask setup` fetched, and kept in the user's cache.

mod agent;

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::cpio::Archive;
use crate::run::{Finished, RunError, must, run};

/// Modules that a guest may need for its disks, in the order to load them. A kernel has those that
/// are not built in; Debian's 6.12 has the last one only, its 6.1 has all.
const MODULES: [&str; 6] = [
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
];
const TARGET: &str = "x86_64-unknown-linux-gnu";
const RUSTFLAGS: &str = "-C target-feature=+crt-static -C strip=symbols";
const BUILD_LIMIT: Duration = Duration::from_secs(300);
/// These files are a part of the recipe that names the cached image.
const RECIPE: [&str; 2] = [include_str!("image.rs"), include_str!("image/agent.rs")];

/// A kernel and its initramfs, with and without the guest agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The kernel, as the distribution ships it.
    pub kernel: PathBuf,
    /// The witness as `/init`, with the modules that it loads.
    pub initramfs: PathBuf,
    /// The same with QEMU's guest agent and its libraries.
    pub initramfs_with_agent: PathBuf,
}

/// What setup fetched.
struct Packages {
    kernel: PathBuf,
    agent: Vec<PathBuf>,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Neither `XDG_CACHE_HOME` nor `HOME` is set.
    #[error("no cache folder: set HOME or XDG_CACHE_HOME")]
    NoCache,
    /// The kernel package was not fetched.
    #[error("no kernel package in {}: run `cargo xtask setup`", .0.display())]
    NoKernel(PathBuf),
    /// The agent's packages were not fetched.
    #[error("no guest agent in {}: run `cargo xtask setup`", .0.display())]
    NoAgent(PathBuf),
    /// The packages do not hold what they should.
    #[error("the packages hold no {0}")]
    Missing(&'static str),
    /// The witness does not compile.
    #[error("cannot build the witness: {0}")]
    Build(String),
    /// A file could not be read or written.
    #[error("cannot use {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A tool failed.
    #[error(transparent)]
    Run(#[from] RunError),
}

static BUILDING: Mutex<()> = Mutex::new(());

impl Image {
    /// The image of today's recipe, built if the cache does not have it. In the lab's machine, which
    /// has no compiler, the image that was built on the host: `VITRIFY_WITNESS` names its folder.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn cached() -> Result<Self, ImageError> {
        if let Some(folder) = std::env::var_os("VITRIFY_WITNESS") {
            return Ok(Self::in_directory(Path::new(&folder)));
        }
        let cache = cache()?;
        let packages = Packages { kernel: kernel_package()?, agent: agent_packages()? };
        let home = cache.join(format!("witness-{:016x}", recipe(&packages)?));
        // Tests of one process run side by side, and its draft has one name.
        let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
        if !home.is_dir() {
            build(&cache, &packages, &home)?;
        }
        Ok(Self::in_directory(&home))
    }

    /// The same, copied into `folder`, readable for all, unless it is there already. libvirt gives
    /// the files that a guest boots from to QEMU's user and takes them back when it stops, so the
    /// cached ones are not lent.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn in_folder(folder: &Path) -> Result<Self, ImageError> {
        let copy = Self::in_directory(folder);
        if copy.initramfs.exists() {
            return Ok(copy);
        }
        let image = Self::cached()?;
        for (from, to) in [
            (&image.kernel, &copy.kernel),
            (&image.initramfs_with_agent, &copy.initramfs_with_agent),
            (&image.initramfs, &copy.initramfs),
        ] {
            at(to, fs::copy(from, to))?;
            at(to, fs::set_permissions(to, Permissions::from_mode(0o644)))?;
        }
        Ok(copy)
    }

    fn in_directory(directory: &Path) -> Self {
        Self {
            kernel: directory.join("vmlinuz"),
            initramfs: directory.join("initramfs"),
            initramfs_with_agent: directory.join("initramfs-agent"),
        }
    }
}

/// The kernel package that setup fetched; the last one by name if there are several.
///
/// # Errors
/// [`ImageError::NoKernel`] if it did not, [`ImageError::NoCache`].
pub fn kernel_package() -> Result<PathBuf, ImageError> {
    let folder = cache()?.join("kernel");
    packages_in(&folder).pop().ok_or(ImageError::NoKernel(folder))
}

fn agent_packages() -> Result<Vec<PathBuf>, ImageError> {
    let folder = cache()?.join("agent");
    let packages = packages_in(&folder);
    if packages.is_empty() { Err(ImageError::NoAgent(folder)) } else { Ok(packages) }
}

/// The package files that xtask fetched into a folder of the cache, sorted.
///
/// # Errors
/// [`ImageError::NoCache`].
pub fn packages_in_cache(folder: &str) -> Result<Vec<PathBuf>, ImageError> {
    Ok(packages_in(&cache()?.join(folder)))
}

/// The package files of a folder, sorted.
fn packages_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let packages = entries.map(|entry| entry.path());
    let mut packages: Vec<_> =
        packages.filter(|path| path.extension() == Some(OsStr::new("deb"))).collect();
    packages.sort();
    packages
}

/// The folder that xtask and the lab share.
fn cache() -> Result<PathBuf, ImageError> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    Ok(base.ok_or(ImageError::NoCache)?.join("vitrify"))
}

fn witness_crate() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("witness")
}

/// A number that changes with everything the image is made of.
fn recipe(packages: &Packages) -> Result<u64, ImageError> {
    let mut parts = Vec::from(RECIPE.concat());
    for package in packages.agent.iter().chain([&packages.kernel]) {
        parts.extend_from_slice(package.as_os_str().as_encoded_bytes());
    }
    let mut open = vec![witness_crate().join("Cargo.toml"), witness_crate().join("src")];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = at(&path, fs::read_dir(&path))?;
            let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
            paths.sort();
            open.extend(paths);
        } else {
            parts.extend(at(&path, fs::read(&path))?);
        }
    }
    Ok(witness::checksum(&parts))
}

/// Builds into a folder beside `home` and moves it there in one piece.
fn build(cache: &Path, packages: &Packages, home: &Path) -> Result<(), ImageError> {
    let draft = cache.join(format!("draft-{}", std::process::id()));
    let built = build_in(&draft, cache, packages);
    if built.is_ok() && fs::rename(&draft, home).is_ok() {
        return Ok(());
    }
    // Whoever came first has built the same.
    let _ = fs::remove_dir_all(&draft);
    built?;
    if home.is_dir() { Ok(()) } else { at(home, Err(io::Error::other("the image vanished"))) }
}

fn build_in(draft: &Path, cache: &Path, packages: &Packages) -> Result<(), ImageError> {
    let unpacked = draft.join("unpacked");
    at(draft, fs::create_dir_all(&unpacked))?;
    let [from, to] = [&packages.kernel, &unpacked].map(|path| path.display().to_string());
    must("dpkg-deb", &["--extract", &from, &to])?;
    let files = files_below(&unpacked)?;
    let named = |wanted: &str| files.iter().find(|path| stem(path) == wanted);
    let kernel = files.iter().find(|path| stem(path).starts_with("vmlinuz-"));
    let kernel = kernel.ok_or(ImageError::Missing("kernel"))?;
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys", "modules", "modules-uefi"] {
        archive.directory(directory);
    }
    for (number, module) in MODULES.iter().enumerate() {
        if let Some(path) = named(module) {
            archive
                .file(&format!("modules/{number}-{}", file_name(path)), &at(path, fs::read(path))?);
        }
    }
    let efivarfs = named("efivarfs").ok_or(ImageError::Missing("efivarfs module"))?;
    let place = format!("modules-uefi/{}", file_name(efivarfs));
    archive.file(&place, &at(efivarfs, fs::read(efivarfs))?);
    named("virtio_blk").ok_or(ImageError::Missing("virtio_blk module"))?;
    archive.file("init", &witness_program(&cache.join("witness-build"))?);
    let image = Image::in_directory(draft);
    at(&image.initramfs, fs::write(&image.initramfs, archive.clone().finish()))?;
    agent::add(&mut archive, &packages.agent, &unpacked.join("agent"))?;
    at(&image.initramfs_with_agent, fs::write(&image.initramfs_with_agent, archive.finish()))?;
    at(&image.kernel, fs::rename(kernel, &image.kernel))?;
    at(&unpacked, fs::remove_dir_all(&unpacked))
}

/// Compiles the witness so that it needs no library in its guest.
fn witness_program(build: &Path) -> Result<Vec<u8>, ImageError> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--locked", "--release", "--package", "witness"]);
    command.args(["--target", TARGET, "--target-dir"]).arg(build).current_dir(witness_crate());
    command.env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", RUSTFLAGS);
    let Finished { status, stderr, .. } = run(&mut command, BUILD_LIMIT)?;
    if !status.success() {
        return Err(ImageError::Build(stderr));
    }
    let program = build.join(TARGET).join("release/witness");
    at(&program, fs::read(&program))
}

fn files_below(directory: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let (mut files, mut open) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in at(&directory, fs::read_dir(&directory))?.flatten() {
            let kind = at(&entry.path(), entry.file_type())?;
            if kind.is_dir() { &mut open } else { &mut files }.push(entry.path());
        }
    }
    Ok(files)
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(OsStr::to_str).unwrap_or_default()
}

/// A file's name without `.ko` and the compression after it.
fn stem(path: &Path) -> &str {
    let name = file_name(path);
    name.split_once(".ko").map_or(name, |(stem, _)| stem)
}

fn at<T>(path: &Path, result: io::Result<T>) -> Result<T, ImageError> {
    result.map_err(|source| ImageError::Io { path: path.to_owned(), source })
}
