//! Each `sanoid.conf` that is imported is read by our own reader as well.

use super::*;
use crate::config::{Config, GuestRule, VolumeRule};

const GUESTS: [(&str, &[&str]); 5] = [
    ("web", &["t/vm/web"]),
    ("db", &["t/vm/db", "t/log"]),
    ("mail", &["t/mail"]),
    ("apart", &["t/vm/apart", "u/apart"]),
    ("elsewhere", &["/pool/elsewhere"]),
];

fn placed() -> Vec<Placed> {
    let placed = |(guest, volumes): (&str, &[&str])| {
        (guest.parse().unwrap(), volumes.iter().map(|it| it.parse().unwrap()).collect())
    };
    GUESTS.into_iter().map(placed).collect()
}

/// What our own reader makes of an import, and the import itself.
fn imported(text: &str) -> (Config, String) {
    let said = import("sanoid.conf", text, Some(&placed())).unwrap();
    let config = Config::parse([("v.toml", said.as_str())]);
    (config.unwrap_or_else(|errors| panic!("{errors:?} in\n{said}")), said)
}

/// Columns: the file, what is kept and when by which policy, which guests it holds for, and which volumes
/// without guests (`+`: recursive).
#[test]
fn policies_and_rules() {
    for (text, policies, rules, volumes) in [
        ("", "", "", ""),
        ("[t/vm/web]", "t-vm-web: hourly 48, daily 90, monthly 6", "web: t-vm-web", ""),
        ("[t/data]\nhourly=1\ndaily=0\nmonthly=0", "t-data: hourly 1", "", "t/data: t-data"),
        (
            "[t/data]\nrecursive=zfs\nhourly=1\ndaily=0\nmonthly=0\n[t/data/a]\nautosnap=no",
            "t-data: hourly 1",
            "",
            "t/data+: t-data",
        ),
        // Sections that say the same share a policy, called by the template.
        (
            "[t/vm]\nuse_template=production\nrecursive=yes\n[t/mail]\nuse_template=production\n\
             [template_production]\nhourly=36\ndaily=30\nmonthly=3",
            "production: hourly 36, daily 30, monthly 3",
            "web db mail apart: production",
            "t/vm+: production",
        ),
        // One that says more has its own name.
        (
            "[t/vm]\nuse_template=p,s\nrecursive=yes\n[t/mail]\nuse_template=p\nhourly=1\n\
             [template_p]\nhourly=2\ndaily=0\nmonthly=0\n[template_s]\nscript_timeout=9",
            "p: hourly 2; t-mail: hourly 1",
            "web db apart: p, mail: t-mail",
            "t/vm+: p",
        ),
        // Names that would be the same.
        (
            "[t/mail]\nhourly=1\n[t-mail]\npath=t/vm/web\nhourly=2",
            "t-mail: hourly 1, daily 90, monthly 6; t-mail-2: hourly 2, daily 90, monthly 6",
            "mail: t-mail, web: t-mail-2",
            "",
        ),
        // Volumes of one guest with several policies.
        (
            "[t/vm]\nrecursive=yes\ndaily=1\nmonthly=0\n[t/log]\nhourly=1\ndaily=0\nmonthly=0",
            "t-vm: hourly 48, daily 1; t-log: hourly 1",
            "web apart: t-vm",
            "t/vm+: t-vm",
        ),
        ("[t/mail]\nautosnap=no", "", "", ""),
        ("[t/mail]\nautoprune=no\ndaily=0\nmonthly=0", "t-mail: hourly 100000", "mail: t-mail", ""),
        (
            "[t/mail]\nhourly=4000000000\ndaily=0\nmonthly=0",
            "t-mail: hourly 100000",
            "mail: t-mail",
            "",
        ),
    ] {
        let (config, said) = imported(text);
        let kept = config.policies.iter().map(|it| {
            let keep = it.policy.keep.iter().map(|(period, count)| format!("{period} {count}"));
            format!("{}: {}", it.name, keep.collect::<Vec<_>>().join(", "))
        });
        // By the file, not by the name.
        let mut kept: Vec<_> = kept.collect();
        kept.sort_by_key(|it| said.find(&format!("[policy.{}]", it.split(':').next().unwrap())));
        assert_eq!(kept.join("; "), policies, "{text}\n{said}");
        let rule = |it: &GuestRule| {
            let names: Vec<_> = it.patterns.iter().map(ToString::to_string).collect();
            format!("{}: {}", names.join(" "), it.policy.name)
        };
        let found: Vec<_> = config.rules.iter().map(rule).collect();
        assert_eq!(found.join(", "), rules, "{text}\n{said}");
        let volume = |it: &VolumeRule| {
            let sign = if it.recursive { "+" } else { "" };
            format!("{}{sign}: {}", it.volume, it.policy.name)
        };
        let found: Vec<_> = config.volumes.iter().map(volume).collect();
        assert_eq!(found.join(", "), volumes, "{text}\n{said}");
    }
}

/// Every time that sanoid can be told is what our reader has.
#[test]
fn preferred_times() {
    for lines in [
        "",
        "frequent_period=5\nhourly_min=7",
        "daily_hour=2\ndaily_min=30",
        "weekly_wday=0\nweekly_hour=12\nweekly_min=1",
        "monthly_mday=31\nmonthly_hour=4",
        "yearly_mon=12\nyearly_mday=24\nyearly_hour=18",
        "yearly_mon=2\nyearly_mday=29",
    ] {
        let text =
            format!("[t]\nfrequently=1\nhourly=1\ndaily=1\nweekly=1\nmonthly=1\nyearly=1\n{lines}");
        let (config, said) = imported(&text);
        let theirs = &read("f", &text).unwrap().sections[0].settings.policy.times;
        assert_eq!(&config.policies[0].policy.times, theirs, "{lines}\n{said}");
    }
    // The last day of a month is written as one.
    let (config, _) = imported("[t]\nyearly=1\nyearly_mon=2\nyearly_mday=31");
    assert_eq!(config.policies[0].policy.times.yearly.1, 29);
}

/// Columns: the file, the hooks and their limit in seconds.
#[test]
fn scripts() {
    for (text, hooks) in [
        ("[t]", "30"),
        ("[t]\npre_snapshot_script=/a b\n[u]\npre_snapshot_script=/a b", "pre-snapshot=/a b 5"),
        ("[t]\npre_snapshot_script=/a\n[u]", "30"),
        // Where nothing is taken, no script runs.
        ("[t]\npre_snapshot_script=/a\n[u]\nautosnap=no", "pre-snapshot=/a 5"),
        (
            "[t]\npost_snapshot_script=/a \"$b\" 'c' \\d\nscript_timeout=90",
            "post-snapshot=/a \"$b\" 'c' \\d 90",
        ),
        (
            "[t]\npre_pruning_script=/a\npruning_script=/b\nscript_timeout=0",
            "pre-prune=/a post-prune=/b 30",
        ),
    ] {
        let (config, said) = imported(text);
        let lines = config.hooks.iter().map(|(hook, it)| format!("{hook}={} ", it.line));
        let found = lines.collect::<String>() + &config.script_limit.as_secs().to_string();
        assert_eq!(found, hooks, "{text}\n{said}");
    }
}

/// Columns: the file, what is said of it.
#[test]
fn what_is_not_carried_over_is_said() {
    for (text, wanted) in [
        (
            "[t/mail]\n\nprune_defer = 60",
            "# line 3: prune_defer = 60: what has served goes however full the pool is\n",
        ),
        (
            "[t/mail]\nno_inconsistent_snapshot=yes",
            "# line 2: no_inconsistent_snapshot = yes: a point is taken also where",
        ),
        (
            "[t/mail]\ndaily_warn=28h",
            "# line 2: daily_warn = 28h: 'vitrify status --nagios' judges by the policies\n",
        ),
        (
            "[t/mail]\nautosnap=no",
            "# Guest mail: nothing is taken of it, because autosnap is off in [t/mail] (line 1).\n",
        ),
        (
            "[t/mail]\nhourly=1\nhourly=2",
            "# line 3: 'hourly' is set in line 2 already, and that counts\n",
        ),
        (
            "[t]\nrecursive=yes\n[t/data]\nautosnap=no",
            "# t/data (line 3): autosnap is off, and the rule for t holds for it. Write",
        ),
        (
            "[t]\nrecursive=yes\n[t/data]\nskip_children=yes",
            "# t/data (line 3): skip_children has no like here: the rule for t holds for what",
        ),
        (
            "[t]\nrecursive=yes\nprocess_children_only=yes",
            "# t (line 1): process_children_only has no like here. Write a rule for each",
        ),
        (
            "[t/mail]\nrecursive=zfs",
            "# t/mail (line 1): a guest has a disk there, and its rule holds. Datasets below",
        ),
        (
            "[t/log]\n[t/vm/db]\nhourly=1",
            "# Guest db has no rule, because its volumes have several policies, and a guest has one: t/log (line\n#   1): t-log; t/vm/db (line 2): t-vm-db. Write a rule for it.\n",
        ),
        (
            "[t/vm]\nrecursive=yes",
            "# Guest apart: its volume u/apart is in no section; it is captured as well.\n",
        ),
        ("[t/mail]", "# Guests on which no section has any bearing: web, db, apart, elsewhere.\n"),
        (
            "[t]\npre_snapshot_script=/a\n[u]",
            "# pre_snapshot_script is not the same everywhere, and pre-snapshot holds for all: t (line 1): /a;",
        ),
    ] {
        let (_, said) = imported(text);
        assert!(said.contains(wanted), "{text}\n{said}");
    }
}

#[test]
fn where_nobody_knows_the_guests() {
    let said = import("sanoid.conf", "[t/mail]\n[u]\nautosnap=no", None).unwrap();
    let config = Config::parse([("v.toml", said.as_str())]).unwrap();
    assert_eq!((config.policies.len(), config.rules.len()), (1, 0));
    assert!(
        said.contains("#   t/mail (line 1): policy t-mail\n#   u (line 2): autosnap is off\n"),
        "{said}"
    );
}

#[test]
fn what_is_wrong_is_not_imported() {
    let error = import("sanoid.conf", "[t]\nhuorly = 1", None).unwrap_err();
    assert_eq!(error.to_string(), "sanoid.conf:2: unknown key 'huorly'; did you mean 'hourly'?");
}
