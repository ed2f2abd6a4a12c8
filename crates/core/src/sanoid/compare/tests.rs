use super::*;
use crate::sanoid::datasets::targets;
use crate::sanoid::import::import;
use crate::sanoid::settings::read;

const GUESTS: [(&str, &[&str]); 4] = [
    ("web", &["t/web"]),
    ("db", &["t/db", "t/log"]),
    ("twin", &["t/log"]),
    ("far", &["/pool/far"]),
];

fn placed() -> Vec<Placed> {
    let placed = |(guest, volumes): (&str, &[&str])| {
        (guest.parse().unwrap(), volumes.iter().map(|it| it.parse().unwrap()).collect())
    };
    GUESTS.into_iter().map(placed).collect()
}

/// Snapshots that sanoid took, one of each of these periods.
fn sanoids(periods: &str) -> Vec<Snapshot> {
    let snapshot = |period: &str| Snapshot {
        name: format!("autosnap_2026-11-27_12:00:00_{period}").parse().unwrap(),
        id: "1".parse().unwrap(),
        time: "2026-11-27T12:00:00Z".parse().unwrap(),
        createtxg: 1,
        needed: None,
    };
    periods.split_whitespace().map(snapshot).collect()
}

/// Every row as `dataset guest: sanoid's | ours`, the differences in lines below it. Each dataset has
/// these snapshots; `None`: nobody could look.
fn compared(sanoid: &str, ours: &str, snapshots: Option<&str>) -> String {
    let sections = read("sanoid.conf", sanoid).unwrap().sections;
    let config = Config::parse([("v.toml", ours)]).unwrap();
    let (guests, datasets) = (placed(), ["t", "t/db", "t/log", "t/media", "t/web"]);
    let datasets = datasets.map(|it| it.parse().unwrap());
    let targets = targets(&sections, &datasets).targets;
    let snapshots = snapshots.map(sanoids);
    let rows = compare(&targets, &guests, &config, &|_| snapshots.as_deref());
    let lines = rows.iter().flat_map(|row| {
        let guest = row.guest.map_or("-", GuestName::as_str);
        let line = format!("{} {guest}: {} | {}", row.dataset, row.sanoid, row.ours);
        std::iter::once(line).chain(row.differences.iter().map(|it| format!("  {it}")))
    });
    lines.collect::<Vec<_>>().join("\n")
}

const SANOID: &str = "[t/web]\nhourly=36\ndaily=30\nmonthly=3\n";
const POLICY: &str = "[policy.p]\nhourly=36\ndaily=30\nmonthly=3\n";
const RULE: &str = "[[guest]]\nmatch='web'\npolicy='p'\n";

/// Columns: what sanoid's section says further, our configuration, what sanoid took, the differences
/// of the one row.
#[test]
fn a_dataset_with_its_guest() {
    let same = format!("{POLICY}{RULE}adopt=true");
    let with = |more: &str| format!("{POLICY}{more}\n{RULE}adopt=true");
    let hooks = |more: &str| format!("{same}\n[hooks]\n{more}");
    for (sanoid, ours, snapshots, wanted) in [
        ("", same.clone(), Some("hourly daily"), ""),
        ("", same.clone(), None, ""),
        // Only what exists counts where somebody could look.
        ("", format!("{POLICY}{RULE}"), Some(""), ""),
        (
            "",
            format!("{POLICY}{RULE}"),
            Some("hourly daily"),
            "2 of sanoid's snapshots stay for good, unless every guest there has a rule with adopt = true",
        ),
        (
            "",
            format!("{POLICY}{RULE}"),
            None,
            "sanoid's snapshots stay for good, unless every guest there has a rule with adopt = true",
        ),
        (
            "",
            same.clone(),
            Some("hourly weekly"),
            "1 of sanoid's snapshots stay for good: no policy names their period",
        ),
        ("", with("weekly=0"), Some("hourly weekly"), ""),
        (
            "hourly=48",
            same.clone(),
            None,
            "hourly: sanoid keeps 48, taken at minute 0; vitrify keeps 36, taken at minute 0",
        ),
        (
            "yearly=1",
            same.clone(),
            None,
            "yearly: sanoid keeps 1, taken on 01-01 at 00:00; vitrify takes none",
        ),
        (
            "",
            with("weekly=2\nweekly-on='sunday'"),
            None,
            "weekly: sanoid takes none; vitrify keeps 2, taken on sunday at 23:30",
        ),
        (
            "daily_hour=2\ndaily_min=30",
            same.clone(),
            None,
            "daily: sanoid keeps 30, taken at 02:30; vitrify keeps 30, taken at 23:59",
        ),
        ("daily_hour=2\ndaily_min=30", with("daily-at='02:30'"), None, ""),
        // A day that there is not is the last one for both.
        ("yearly=1\nyearly_mon=2\nyearly_mday=31", with("yearly=1\nyearly-on='02-29'"), None, ""),
        (
            "prune_defer=60",
            same.clone(),
            None,
            "sanoid prunes only while more than 60% of the pool are used; vitrify prunes however full \
             it is",
        ),
        ("prune_defer=60\nautoprune=no\nautosnap=no", "".into(), Some("hourly"), ""),
        (
            "pre_snapshot_script=/a b",
            same.clone(),
            None,
            "pre-snapshot: sanoid runs '/a b'; vitrify runs nothing",
        ),
        (
            "pruning_script=/a",
            hooks("post-prune='/b'\ntimeout='5s'"),
            None,
            "post-prune: sanoid runs '/a'; vitrify runs '/b'",
        ),
        (
            "pre_snapshot_script=/a",
            hooks("pre-snapshot='/a'"),
            None,
            "hooks may take 5 s with sanoid; with vitrify 30 s",
        ),
        (
            "pre_snapshot_script=/a\nscript_timeout=0",
            hooks("pre-snapshot='/a'"),
            None,
            "hooks may take as long as they like with sanoid; with vitrify 30 s",
        ),
        (
            "pre_snapshot_script=/a\nno_inconsistent_snapshot=yes",
            hooks("pre-snapshot='/a'\ntimeout='5s'"),
            None,
            "sanoid takes no snapshot where its pre_snapshot_script fails; vitrify takes the point, \
             and its exit status says so",
        ),
        ("no_inconsistent_snapshot=yes", same.clone(), None, ""),
        ("", "".into(), Some("hourly"), "only sanoid: no rule matches the guest"),
        ("autosnap=no", "".into(), Some(""), ""),
        (
            "autosnap=no",
            "".into(),
            Some("hourly"),
            "1 of sanoid's snapshots stay for good, unless every guest there has a rule with adopt = true",
        ),
        (
            "autosnap=no\ndaily=0\nmonthly=0",
            "[policy.p]\nhourly=36\n".to_owned() + RULE,
            Some(""),
            "hourly: sanoid takes none; vitrify keeps 36, taken at minute 0",
        ),
        // What sanoid never prunes.
        (
            "autoprune=no\ndaily=0\nmonthly=0",
            format!("[policy.p]\nhourly=100000\n{RULE}"),
            Some("hourly"),
            "",
        ),
        (
            "autoprune=no\ndaily=0\nmonthly=0",
            format!("[policy.p]\nhourly=100000\nweekly=0\n{RULE}adopt=true"),
            Some("hourly weekly"),
            "sanoid prunes nothing; 1 of sanoid's snapshots go by the policy, because of adopt = true",
        ),
        (
            "autoprune=no\ndaily=0\nmonthly=0",
            format!("[policy.p]\nhourly=36\n{RULE}"),
            Some("hourly"),
            "hourly: sanoid keeps all, taken at minute 0; vitrify keeps 36, taken at minute 0",
        ),
    ] {
        // The first of a key twice is what counts.
        let text = format!("[t/web]\n{sanoid}\nhourly=36\ndaily=30\nmonthly=3\n");
        let said = compared(&text, &ours, snapshots);
        let differences: Vec<_> = said.lines().filter_map(|it| it.strip_prefix("  ")).collect();
        assert_eq!(differences.join("\n"), wanted, "{sanoid}\n{ours}");
        assert!(said.starts_with("t/web web: "), "{said}");
    }
}

#[test]
fn what_only_one_of_them_covers() {
    let two =
        format!("{POLICY}[[guest]]\nmatch='*b'\npolicy='p'\n[[guest]]\nmatch='we?'\npolicy='p'");
    for (sanoid, ours, wanted) in [
        ("", "", ""),
        (
            "[t]\nrecursive=yes\nhourly=1\ndaily=0\nmonthly=0",
            "[policy.p]\nhourly=1\n[[guest]]\nmatch=['db', 'far']\npolicy='p'",
            "t -: hourly 1 | nothing\n  \
             only sanoid: no guest has a disk there, and no [[volume]] covers it\n\
             /pool/far far: nothing | hourly 1\n  \
             only vitrify: no section covers the dataset\n\
             t/db db: hourly 1 | hourly 1\n\
             t/log db: hourly 1 | hourly 1\n\
             t/log twin: hourly 1 | nothing\n  \
             only sanoid: no rule matches the guest\n\
             t/media -: hourly 1 | nothing\n  \
             only sanoid: no guest has a disk there, and no [[volume]] covers it\n\
             t/web web: hourly 1 | nothing\n  \
             only sanoid: no rule matches the guest",
        ),
        (
            "[t/media]\nhourly=36\ndaily=30\nmonthly=3",
            "[policy.p]\nhourly=36\ndaily=30\n[[volume]]\nmatch='t'\nrecursive=true\npolicy='p'",
            "t -: nothing | hourly 36, daily 30\n  \
             only vitrify: no section covers the dataset\n\
             t/media -: hourly 36, daily 30, monthly 3 | hourly 36, daily 30\n  \
             monthly: sanoid keeps 3, taken on day 1 at 00:00; vitrify takes none",
        ),
        (
            SANOID,
            &two,
            "t/db db: nothing | hourly 36, daily 30, monthly 3\n  \
             only vitrify: no section covers the dataset\n\
             t/log db: nothing | hourly 36, daily 30, monthly 3\n  \
             only vitrify: no section covers the dataset\n\
             t/web web: hourly 36, daily 30, monthly 3 | nothing\n  \
             only sanoid: guest 'web' has two rules, at v.toml:5 and at v.toml:8; let only one match \
             it",
        ),
    ] {
        let mut said: Vec<_> = Vec::new();
        let text = compared(sanoid, ours, Some(""));
        // In any order of the rows.
        for line in text.lines() {
            match (line.starts_with("  "), said.last_mut()) {
                (true, Some(row)) => *row = format!("{row}\n{line}"),
                _ => said.push(line.to_owned()),
            }
        }
        let count = wanted.lines().filter(|it| !it.starts_with("  ")).count();
        assert_eq!(said.len(), count, "{text}");
        assert!(said.iter().all(|row| wanted.contains(row.as_str())), "{text}");
    }
}

/// Rules for volumes adopt nothing.
#[test]
fn what_sanoid_took_of_a_volume_stays() {
    let ours = format!("{POLICY}[[volume]]\nmatch='t/media'\npolicy='p'");
    let text = SANOID.replace("t/web", "t/media");
    let said = compared(&text, &ours, Some("hourly daily"));
    assert!(said.contains("2 of sanoid's snapshots stay for good: a [[volume]] never"), "{said}");
    assert!(!compared(&text, &ours, Some("")).contains("\n  "), "{said}");
}

/// A guest on a dataset that is another's as well: sanoid's snapshots are both guests'.
#[test]
fn all_guests_of_a_dataset_have_to_adopt() {
    let rule = |guest: &str, adopt: bool| {
        format!("[[guest]]\nmatch='{guest}'\npolicy='p'\nadopt={adopt}\n")
    };
    for (db, twin, stay) in [(true, true, 0), (true, false, 2), (false, false, 2)] {
        let ours = format!("{POLICY}{}{}", rule("db", db), rule("twin", twin));
        let text = "[t/log]\nhourly=36\ndaily=30\nmonthly=3\n[t/db]\nautosnap=no\nautoprune=no";
        let said = compared(text, &ours, Some("hourly"));
        let count = said.lines().filter(|it| it.contains("stay for good")).count();
        assert_eq!(count, stay, "{said}");
    }
}

/// What is imported does the same, but for what the import says it cannot carry over.
#[test]
fn an_import_does_the_same() {
    for text in [
        SANOID,
        "[t]\nrecursive=yes\nprocess_children_only=yes\nuse_template=x\n[t/media]\nautosnap=no\n\
         [template_x]\nfrequently=4\nfrequent_period=20\nhourly=3\nhourly_min=7\ndaily_hour=2\n\
         weekly=5\nweekly_wday=0\nmonthly_mday=31\nyearly=2\nyearly_mon=2\nyearly_mday=31",
        "[t/web]\npre_snapshot_script=/a 'b'\npruning_script=/c\nscript_timeout=9",
        "[t/web]\nautoprune=no",
    ] {
        let ours = import("sanoid.conf", text, Some(&placed())).unwrap();
        let said = compared(text, &ours, Some(""));
        assert!(!said.lines().any(|it| it.starts_with("  ")), "{said}\n{ours}");
    }
}
