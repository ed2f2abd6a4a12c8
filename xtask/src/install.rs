//! `cargo xtask install`: a release build and what belongs beside it, put where Debian looks for it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::process::{Failure, as_root, command, must, output, say};
use crate::steps::{build, target_folder, vitrify};

/// Where it goes unless told otherwise: what an administrator installs without a package.
const PREFIX: &str = "/usr/local";
/// The program as the service names it.
const PACKAGED: &str = "/usr/bin/vitrify";

const SERVICE: &str = include_str!("../../packaging/systemd/vitrify.service");
const TIMER: &str = include_str!("../../packaging/systemd/vitrify.timer");
const HOOK: &str = include_str!("../../packaging/libvirt/vitrify");
const APPARMOR: &str = include_str!("../../packaging/apparmor/vitrify");

/// Where things go.
struct Options {
    prefix: String,
    /// The root of what is to become a package.
    destdir: Option<String>,
}

/// A file that was made, where it goes, and its mode.
struct File {
    from: PathBuf,
    to: String,
    mode: &'static str,
}

/// Builds and installs.
///
/// # Errors
/// [`Failure`].
pub(crate) fn install(options: &[&str]) -> Result<(), Failure> {
    let options = parse(options)?;
    build()?;
    put(&vitrify()?, &target_folder()?.join("install"), &options)?;
    if options.destdir.is_none() {
        say("next:\n\
             \x20 systemctl daemon-reload\n\
             \x20 systemctl restart libvirtd                # guests run on; it looks for its hooks\n\
             \x20 vitrify doctor                            # what each guest can have\n\
             \x20 vitrify config check                      # policies and rules: see the README\n\
             \x20 systemctl enable --now vitrify.timer");
    }
    Ok(())
}

fn parse(words: &[&str]) -> Result<Options, Failure> {
    let mut options = Options { prefix: PREFIX.to_owned(), destdir: None };
    for pair in words.chunks(2) {
        match pair {
            ["--prefix", folder] if folder.starts_with('/') => {
                folder.trim_end_matches('/').clone_into(&mut options.prefix);
            }
            ["--destdir", folder] => options.destdir = Some((*folder).to_owned()),
            ["--prefix", folder] => {
                return Err(Failure::new(format!("--prefix: {folder} does not begin with '/'")));
            }
            _ => {
                return Err(Failure::new(format!(
                    "unknown: {}; cargo xtask install [--prefix DIR] [--destdir DIR]",
                    pair.join(" ")
                )));
            }
        }
    }
    Ok(options)
}

/// Puts the program and all that comes of it in place; `stage` is a folder for what is made.
fn put(program: &Path, stage: &Path, options: &Options) -> Result<(), Failure> {
    for File { from, to, mode } in make(program, stage, &options.prefix)? {
        let to = format!("{}{to}", options.destdir.as_deref().unwrap_or_default());
        let from = from.display().to_string();
        // It replaces a program that runs, and makes the folders.
        let words = ["-D", "-m", mode, "-T", &from, &to];
        must(&mut match options.destdir {
            Some(_) => command("install", &words),
            None => as_root("install", &words)?,
        })?;
        say(&format!("installed {to}"));
    }
    Ok(())
}

/// Makes what is not in the repository, and says where all of it goes.
fn make(program: &Path, stage: &Path, prefix: &str) -> Result<Vec<File>, Failure> {
    let cannot = |error| Failure::new(format!("cannot write to {}: {error}", stage.display()));
    let _ = fs::remove_dir_all(stage);
    fs::create_dir_all(stage).map_err(cannot)?;
    let mut files =
        vec![File { from: program.into(), to: format!("{prefix}/bin/vitrify"), mode: "755" }];
    let mut add = |name: &str, text: &str, to: String, mode: &'static str| {
        let from = stage.join(name);
        fs::write(&from, text).map_err(cannot)?;
        files.push(File { from, to, mode });
        Ok::<_, Failure>(())
    };
    let named = |text: &str| text.replace(PACKAGED, &format!("{prefix}/bin/vitrify"));
    let (data, script) = ("644", "755");
    let units = format!("{prefix}/lib/systemd/system");
    add("vitrify.service", &named(SERVICE), format!("{units}/vitrify.service"), data)?;
    add("vitrify.timer", TIMER, format!("{units}/vitrify.timer"), data)?;
    add("hook", &named(HOOK), "/etc/libvirt/hooks/qemu.d/vitrify".to_owned(), script)?;
    let abstractions = "/etc/apparmor.d/abstractions/libvirt-qemu.d";
    add("apparmor", APPARMOR, format!("{abstractions}/vitrify"), data)?;
    let shown = program.display().to_string();
    // Debian's zsh looks for what a package brings elsewhere.
    let zsh = if prefix == "/usr" { "vendor-completions" } else { "site-functions" };
    for (shell, place) in [
        ("bash", "bash-completion/completions/vitrify".to_owned()),
        ("zsh", format!("zsh/{zsh}/_vitrify")),
        ("fish", "fish/vendor_completions.d/vitrify.fish".to_owned()),
    ] {
        let words = output(&mut command(&shown, &["completions", shell]));
        let words = words.ok_or_else(|| Failure::new(format!("no completions for {shell}")))?;
        add(shell, &words, format!("{prefix}/share/{place}"), data)?;
    }
    let pages = stage.join("man");
    must(&mut command(&shown, &["man", &pages.display().to_string()]))?;
    let mut names: Vec<_> = fs::read_dir(&pages)
        .map_err(cannot)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    files.extend(names.into_iter().map(|name| File {
        from: pages.join(&name),
        to: format!("{prefix}/share/man/man8/{name}"),
        mode: "644",
    }));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn options_are_read() {
        for (words, expected) in [
            (&[][..], Some(("/usr/local", None))),
            (&["--prefix", "/usr/"], Some(("/usr", None))),
            (&["--prefix", "/opt/v", "--destdir", "out"], Some(("/opt/v", Some("out")))),
            (&["--prefix", "usr"], None),
            (&["--prefix"], None),
            (&["/usr"], None),
        ] {
            let found = parse(words).ok();
            let found = found.as_ref().map(|it| (it.prefix.as_str(), it.destdir.as_deref()));
            assert_eq!(found, expected, "{words:?}");
        }
    }

    /// Twice, because a second time replaces the first.
    #[test]
    fn everything_is_put_in_place() {
        let scratch = std::env::temp_dir().join(format!("xtask-install-{}", std::process::id()));
        fs::create_dir(&scratch).unwrap();
        let program = scratch.join("built");
        let script = "#!/bin/sh\ncase $1 in\n\
                      man) mkdir -p \"$2\" && echo page >\"$2/vitrify.8\" ;;\n\
                      completions) echo \"for $2\" ;;\nesac\n";
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let root = scratch.join("root");
        for prefix in ["/usr", "/usr/local", "/usr/local"] {
            let destdir = Some(root.display().to_string());
            let options = Options { prefix: prefix.to_owned(), destdir };
            put(&program, &scratch.join("stage"), &options).unwrap();
            let place = root.join(prefix.trim_start_matches('/'));
            let read = |path: &str| fs::read_to_string(place.join(path)).unwrap();
            let mode = |path: &str| place.join(path).metadata().unwrap().permissions().mode();
            assert_eq!(
                (read("bin/vitrify").as_str(), mode("bin/vitrify") & 0o777),
                (script, 0o755)
            );
            let service = "lib/systemd/system/vitrify.service";
            assert!(read(service).contains(&format!("\nExecStart={prefix}/bin/vitrify run\n")));
            assert_eq!(mode(service) & 0o777, 0o644);
            assert_eq!(read("lib/systemd/system/vitrify.timer"), TIMER);
            let hook = fs::read_to_string(root.join("etc/libvirt/hooks/qemu.d/vitrify")).unwrap();
            assert!(hook.contains(&format!("[ -x {prefix}/bin/vitrify ]")), "{hook}");
            assert_eq!(read("share/man/man8/vitrify.8"), "page\n");
            assert_eq!(read("share/bash-completion/completions/vitrify"), "for bash\n");
        }
        for file in [
            "etc/apparmor.d/abstractions/libvirt-qemu.d/vitrify",
            "usr/share/zsh/vendor-completions/_vitrify",
            "usr/local/share/zsh/site-functions/_vitrify",
        ] {
            assert!(root.join(file).is_file(), "{file}");
        }
        fs::remove_dir_all(&scratch).unwrap();
    }

    /// What is mounted in a namespace is not seen by the host, and keeps its dataset busy.
    #[test]
    fn the_service_shares_the_hosts_mounts() {
        const SEPARATE: [&str; 23] = [
            "BindPaths",
            "BindReadOnlyPaths",
            "DynamicUser",
            "ExecPaths",
            "InaccessiblePaths",
            "MountAPIVFS",
            "MountFlags",
            "NoExecPaths",
            "PrivateDevices",
            "PrivateMounts",
            "PrivateTmp",
            "PrivateUsers",
            "ProcSubset",
            "ProtectControlGroups",
            "ProtectHome",
            "ProtectKernelLogs",
            "ProtectKernelModules",
            "ProtectKernelTunables",
            "ProtectProc",
            "ProtectSystem",
            "ReadOnlyPaths",
            "ReadWritePaths",
            "TemporaryFileSystem",
        ];
        let keys = SERVICE.lines().filter_map(|line| line.split_once('=')).map(|it| it.0);
        let found: Vec<_> = keys.filter(|key| SEPARATE.contains(key)).collect();
        assert!(found.is_empty(), "{found:?}");
        assert!(SERVICE.contains(&format!("\nExecStart={PACKAGED} run\n")));
    }
}
