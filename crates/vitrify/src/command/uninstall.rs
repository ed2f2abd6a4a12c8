//! `vitrify uninstall --dry-run`: what of Vitrify is on this host, and what removes each of it. It removes
//! nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vitrify_core::engine::look_around;
use vitrify_core::foreign::Kind;
use vitrify_core::name::Volume;
use vitrify_core::ports::{Answer, FoundPoint, Homes, Storage as _};
use vitrify_core::problem::Problem;
use vitrify_core::userfault;
use vitrify_core::volumes::ledger::Ledger;
use vitrify_host::storage::HostStorage;

use crate::context::Context;
use crate::exit::{DONE, Status};
use crate::output;

/// Where `cargo xtask install` and packages put things.
const PREFIXES: [&str; 2] = ["/usr", "/usr/local"];
/// Where vitrify may stand in sanoid's place.
const SANOID: &str = "/usr/sbin/sanoid";
/// What keeps a guest from starting that is half restored.
const HOOK: &str = "/etc/libvirt/hooks/qemu.d/vitrify";
/// Below these.
const FILES: [(&str, &str); 8] = [
    ("service", "lib/systemd/system/vitrify.service"),
    ("timer", "lib/systemd/system/vitrify.timer"),
    ("completions", "share/bash-completion/completions/vitrify"),
    ("completions", "share/zsh/vendor-completions/_vitrify"),
    ("completions", "share/zsh/site-functions/_vitrify"),
    ("completions", "share/fish/vendor_completions.d/vitrify.fish"),
    ("manual", "share/man/man8/vitrify.8"),
    ("program", "bin/vitrify"),
];
/// What of repair's findings was made by us.
const OURS: [Kind; 6] = [
    Kind::Capability,
    Kind::Hold,
    Kind::Snapshot,
    Kind::Unfinished,
    Kind::SpareFile,
    Kind::OverlayFile,
];

/// Something that is here.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    what: &'static str,
    place: String,
    /// A command, or what else is to be done.
    remove: String,
}

/// Without `--dry-run` nothing is done either.
pub(crate) fn refusal() -> Problem {
    Problem::not_found("uninstall only lists what is here, and what removes it: say --dry-run")
}

pub(crate) fn run(context: &Context) -> Answer<Status> {
    let mut status = DONE;
    let mut found = Vec::new();
    if Path::new("/etc/systemd/system/timers.target.wants/vitrify.timer").is_symlink() {
        found.push(Found {
            what: "timer",
            place: "vitrify.timer is enabled".to_owned(),
            remove: "systemctl disable --now vitrify.timer".to_owned(),
        });
    }
    let is_us = |it: PathBuf| it.file_name().is_some_and(|name| name == "vitrify");
    if fs::read_link(SANOID).is_ok_and(is_us) {
        found.push(Found {
            what: "sanoid",
            place: format!("{SANOID} is vitrify"),
            remove: format!("rm {SANOID}, and put sanoid's own back"),
        });
    }
    // What was never made is not made for this either.
    if context.state().is_dir() {
        match left_over(context) {
            Ok(more) => found.extend(more),
            Err(problem) => status = status.and(output::problem(&problem)),
        }
    }
    match context.ledger_file().read() {
        Ok(ledger) => found.extend(of_volumes(&ledger)),
        Err(problem) => status = status.and(output::problem(&problem)),
    }
    match context.points() {
        Ok(points) => {
            found.extend(points.iter().filter_map(held));
            found.extend(of_guests(&points));
        }
        Err(problem) => status = status.and(output::problem(&problem)),
    }
    found.extend(homes(context));
    let folders = [
        // Whoever made these may keep other things in them.
        ("overlays", context.overlay_folder.clone(), "rmdir"),
        ("memory store", context.homes.path().to_owned(), "rmdir"),
        ("status", context.status_file(), "rm"),
        ("state", context.state().to_owned(), "rm -r"),
        ("configuration", PathBuf::from("/etc/vitrify"), "rm -r"),
        ("AppArmor's drop-in", userfault::DROP_IN.into(), "rm"),
        ("sysctl", userfault::SYSCTL_FILE.into(), "rm"),
        ("hook", HOOK.into(), "rm"),
    ];
    let exists = |path: &Path| fs::symlink_metadata(path).is_ok();
    found.extend(existing(&folders, exists));
    found.extend(installed(exists));
    if context.json {
        let values: Vec<Value> = found.iter().map(to_json).collect();
        output::json(&json!({ "version": 1, "found": values }));
    } else {
        let line = |it: &Found| format!("{}: {}\n  {}\n", it.what, it.place, it.remove);
        output::result(&found.iter().map(line).collect::<String>());
    }
    Ok(status)
}

fn to_json(found: &Found) -> Value {
    json!({ "what": found.what, "where": found.place, "remove": found.remove })
}

/// What is unfinished, and what bears our marks but belongs to no point.
fn left_over(context: &Context) -> Answer<Vec<Found>> {
    let host = context.host()?;
    let mut found = Vec::new();
    for entry in host.world().journal.entries()? {
        let guests: Vec<_> = entry.plan.guests().into_iter().map(|it| it.0.as_str()).collect();
        found.push(Found {
            what: "unfinished",
            place: format!("an operation on {}", guests.join(", ")),
            remove: "vitrify repair".to_owned(),
        });
    }
    let spared = context.self_test(&host).guests().unwrap_or_default();
    let look =
        look_around(&host.world(), &context.overlay_folder, None, &spared, Vec::new(), &|| {
            context.ledger_file().read()
        })?;
    let ours = look.findings.into_iter().filter(|it| OURS.contains(&it.kind)).map(|it| {
        let guest = it.guest.map(|guest| format!("{guest}: ")).unwrap_or_default();
        Found { what: "left over", place: format!("{guest}{}", it.what), remove: it.remedy }
    });
    found.extend(ours);
    for problem in look.problems {
        output::problem(&problem);
    }
    Ok(found)
}

/// A point that is held, and has to be let go before it can be deleted.
fn held(point: &FoundPoint) -> Option<Found> {
    let manifest = point.manifest.as_ref().ok().filter(|_| !point.holds.is_empty())?;
    let name = format!("{}@{}", manifest.guest, point.id);
    Some(Found {
        what: "hold",
        place: format!("{name}, on ZFS with the tag vitrify:hold:{} of its snapshots", point.id),
        remove: format!("vitrify release {}", quoted(&name)),
    })
}

/// What was taken of each volume without guests.
fn of_volumes(ledger: &Ledger) -> Vec<Found> {
    let mut volumes: BTreeMap<&Volume, Vec<String>> = BTreeMap::new();
    for it in ledger.taken() {
        let command = HostStorage.destroy_command(&it.snapshot);
        volumes.entry(&it.snapshot.volume).or_default().push(command);
    }
    let line = |(volume, commands): (&Volume, Vec<String>)| Found {
        what: "volume",
        place: format!("{} snapshots of {volume}", commands.len()),
        remove: commands.join("; "),
    };
    volumes.into_iter().map(line).collect()
}

/// Each guest's points.
fn of_guests(points: &[FoundPoint]) -> Vec<Found> {
    let mut guests: BTreeMap<&str, usize> = BTreeMap::new();
    for manifest in points.iter().filter_map(|it| it.manifest.as_ref().ok()) {
        *guests.entry(manifest.guest.as_str()).or_default() += 1;
    }
    let line = |(guest, count): (&str, usize)| {
        let guest = quoted(guest);
        Found {
            what: "points",
            place: format!("{count} of {guest}, with their snapshots"),
            remove: format!(
                "vitrify list -Hp {guest} | cut -f2 | while read -r it; do vitrify delete --yes \
                 {guest}@\"$it\" </dev/null; done"
            ),
        }
    };
    guests.into_iter().map(line).collect()
}

/// The guests' homes, which are made with the first point and stay.
fn homes(context: &Context) -> Vec<Found> {
    let store = context.homes.path();
    let kind = context.homes.store().map_or("folder", |it| it.kind);
    let entries = fs::read_dir(store).into_iter().flatten().filter_map(Result::ok);
    let names = entries.filter_map(|it| it.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|it| uuid::Uuid::try_parse(it).is_ok()).collect();
    names.sort();
    names.into_iter().map(|name| home(&store.join(name), kind)).collect()
}

fn home(path: &Path, kind: &str) -> Found {
    let place = path.display().to_string();
    let shown = quoted(&place);
    let remove = match kind {
        // By its name below the store: what is not mounted is not mistaken for the store.
        "zfs" => {
            let (store, name) = (path.parent().unwrap_or(path), path.file_name());
            let (store, name) = (store.display().to_string(), name.unwrap_or_default());
            let (store, name) = (quoted(&store), name.to_string_lossy());
            format!("zfs destroy \"$(zfs list -Ho name {store})/{name}\"")
        }
        "btrfs" => format!("btrfs subvolume delete {shown}"),
        _ => format!("rm -r {shown}"),
    };
    Found { what: "home", place, remove }
}

/// Those of these that exist, each with what removes it.
fn existing(all: &[(&'static str, PathBuf, &str)], exists: impl Fn(&Path) -> bool) -> Vec<Found> {
    let found = all.iter().filter(|it| exists(&it.1)).map(|(what, path, command)| {
        let place = path.display().to_string();
        Found { what, remove: format!("{command} {}", quoted(&place)), place }
    });
    found.collect()
}

/// What is installed; the program last, because it removes the points.
fn installed(exists: impl Fn(&Path) -> bool) -> Vec<Found> {
    let places = FILES.iter().flat_map(|(what, file)| {
        PREFIXES.map(|prefix| (*what, Path::new(prefix).join(file), "rm")).into_iter()
    });
    let mut found = existing(&places.collect::<Vec<_>>(), exists);
    // One page stands for all.
    for it in found.iter_mut().filter(|it| it.what == "manual") {
        it.remove = it.remove.replace("vitrify.8", "vitrify*.8");
    }
    found
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || "@%+=:,./_-".contains(it);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exists_is_listed_with_what_removes_it() {
        let there = [
            "/usr/bin/vitrify",
            "/usr/local/share/man/man8/vitrify.8",
            "/usr/lib/systemd/system/vitrify.timer",
        ];
        let found = installed(|path| there.iter().any(|it| path == Path::new(it)));
        let lines: Vec<_> = found.iter().map(|it| (it.what, it.remove.as_str())).collect();
        let expected = [
            ("timer", "rm /usr/lib/systemd/system/vitrify.timer"),
            ("manual", "rm /usr/local/share/man/man8/vitrify*.8"),
            ("program", "rm /usr/bin/vitrify"),
        ];
        assert_eq!(lines, expected);
        assert_eq!(installed(|_| false), []);
    }

    #[test]
    fn homes_go_by_what_they_are() {
        for (path, kind, remove) in [
            ("/mem/a", "zfs", "zfs destroy \"$(zfs list -Ho name /mem)/a\""),
            ("/mem/a", "btrfs", "btrfs subvolume delete /mem/a"),
            ("/my mem/a", "folder", "rm -r '/my mem/a'"),
        ] {
            assert_eq!(home(Path::new(path), kind).remove, remove);
        }
    }

    #[test]
    fn words_are_quoted_where_a_shell_would_read_them() {
        for (word, expected) in [
            ("web-1@a:b", "web-1@a:b"),
            ("two words", "'two words'"),
            ("it's", r"'it'\''s'"),
            ("$(reboot)", "'$(reboot)'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(word), expected);
        }
    }
}
