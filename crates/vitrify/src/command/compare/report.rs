//! How a comparison is told: a table and what follows from it, or JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use vitrify_core::name::GuestName;
use vitrify_core::sanoid::compare::{Care, Row};
use vitrify_core::sanoid::settings::Section;

use super::{Both, Deeds};
use crate::output;

/// How many names are told where there are more.
const FEW: usize = 3;

/// What sanoid is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum With {
    /// The configuration that holds.
    InForce,
    /// What would be imported: no rule is in force.
    Imported,
}

/// A comparison.
pub(super) struct Report<'a> {
    pub(super) with: With,
    /// sanoid's and ours, where they are not the same.
    pub(super) time_zones: Option<(String, String)>,
    pub(super) rows: Vec<(Row<'a>, Both)>,
    /// What cannot be carried over, a line each.
    pub(super) left_out: Vec<String>,
    /// The sections whose dataset does not exist.
    pub(super) unmatched: Vec<&'a Section>,
    /// The sections whose pool nobody could look at.
    pub(super) unseen: Vec<&'a Section>,
}

impl Report<'_> {
    pub(super) fn is_same(&self) -> bool {
        self.time_zones.is_none() && self.rows.iter().all(|(row, _)| row.differences.is_empty())
    }

    pub(super) fn print(&self) {
        output::result(match self.with {
            With::InForce => "sanoid, compared with the configuration of vitrify in force:\n\n",
            With::Imported => {
                "No rule of vitrify is in force: sanoid, compared with what 'config import' would \
                 write:\n\n"
            }
        });
        if !self.rows.is_empty() {
            let rows = self.rows.iter().map(|(row, _)| line(row)).collect();
            output::table(&["DATASET", "GUEST", "SANOID", "VITRIFY", ""], rows, false);
        }
        output::result(&self.below());
    }

    /// What stands below the table.
    fn below(&self) -> String {
        let mut differences: Vec<_> =
            self.rows.iter().flat_map(|(row, _)| of(row, &row.differences)).collect();
        differences.extend(self.time_zones.as_ref().map(|(theirs, ours)| {
            format!("preferred times are in {theirs} with sanoid; with vitrify in {ours}")
        }));
        let unmatched = self.unmatched.iter().map(|it| {
            format!("line {}: there is no dataset '{}': sanoid does nothing", it.line, it.dataset)
        });
        let unseen = self.unseen.iter().map(|it| {
            format!(
                "line {}: which datasets lie below '{}', and their snapshots",
                it.line, it.dataset
            )
        });
        let now = self.rows.iter().flat_map(|(row, both)| of(row, &now(both)));
        let parts = [
            ("Differences:", differences),
            ("Not carried over:", self.left_out.clone()),
            ("Without a dataset:", unmatched.collect()),
            ("Not known:", unseen.collect()),
            ("At this moment:", now.collect()),
        ];
        let mut text = String::new();
        for (title, lines) in parts.into_iter().filter(|it| !it.1.is_empty()) {
            text += &format!("\n{title}\n");
            lines.iter().for_each(|it| text += &format!("  {it}\n"));
        }
        if self.is_same() {
            text += "\nBoth do the same.\n";
        }
        text
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "version": 1,
            "with": match self.with {
                With::InForce => "in-force",
                With::Imported => "imported",
            },
            "same": self.is_same(),
            "time_zones": self.time_zones.as_ref().map(|(theirs, ours)| {
                json!({ "sanoid": theirs, "vitrify": ours })
            }),
            "rows": self.rows.iter().map(|(row, both)| row_json(row, both)).collect::<Vec<_>>(),
            "not_carried_over": self.left_out,
            "unmatched": self.unmatched.iter().map(|it| section_json(it)).collect::<Vec<_>>(),
            "not_known": self.unseen.iter().map(|it| section_json(it)).collect::<Vec<_>>(),
        })
    }
}

fn line(row: &Row<'_>) -> Vec<String> {
    let verdict = match row.differences.len() {
        0 => "the same".to_owned(),
        1 => "1 difference".to_owned(),
        count => format!("{count} differences"),
    };
    let guest = row.guest.map_or("-", GuestName::as_str).to_owned();
    vec![row.dataset.to_string(), guest, row.sanoid.to_string(), row.ours.to_string(), verdict]
}

/// Lines about a dataset and its guest.
fn of<T: ToString>(row: &Row<'_>, what: &[T]) -> Vec<String> {
    let guest = row.guest.map(|it| format!(" ({it})")).unwrap_or_default();
    what.iter().map(|it| format!("{}{guest}: {}", row.dataset, it.to_string())).collect()
}

/// What each would do; nothing of one that would do nothing.
fn now((sanoid, ours): &Both) -> Vec<String> {
    let both = [("sanoid", sanoid), ("vitrify", ours)].into_iter();
    let some = both.filter(|(_, deeds)| deeds.as_ref() != Some(&Deeds::default()));
    some.map(|(who, deeds)| match deeds {
        None => format!("what {who} would do is not known"),
        Some(Deeds { takes, prunes }) => {
            format!("{who} would take {}, and prune {}", few(takes), few(prunes))
        }
    })
    .collect()
}

/// How many, and the first of them.
fn few(names: &[String]) -> String {
    let first = names.iter().take(FEW).cloned().collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "none".to_owned(),
        count if count <= FEW => format!("{count} ({first})"),
        count => format!("{count} ({first}, ...)"),
    }
}

fn row_json(row: &Row<'_>, (sanoid, ours): &Both) -> Value {
    let of_guest = row.rule.as_ref().ok().copied().flatten().map(|it| (&it.place, &it.policy));
    let rule = of_guest.or_else(|| row.volume_rule.map(|it| (&it.place, &it.policy)));
    let differences =
        row.differences.iter().map(|it| json!({ "what": it.kind(), "text": it.to_string() }));
    json!({
        "dataset": row.dataset,
        "guest": row.guest,
        "section": row.section.map(section_json),
        "rule": rule.map(|(place, policy)| json!({
            "file": place.file, "line": place.line, "policy": policy.name,
        })),
        "sanoid": care_json(&row.sanoid),
        "vitrify": care_json(&row.ours),
        "differences": differences.collect::<Vec<_>>(),
        "now": { "sanoid": deeds_json(sanoid.as_ref()), "vitrify": deeds_json(ours.as_ref()) },
    })
}

fn section_json(section: &Section) -> Value {
    json!({ "name": section.name, "line": section.line })
}

fn care_json(care: &Care<'_>) -> Value {
    let takes = care
        .takes
        .iter()
        .map(|(period, it)| (period.as_str(), json!({ "kept": it.kept, "when": it.when })));
    let hooks = care.hooks.iter().map(|(hook, line)| (hook.as_str().replace('-', "_"), line));
    json!({
        "takes": takes.collect::<BTreeMap<_, _>>(),
        "hooks": hooks.collect::<BTreeMap<_, _>>(),
    })
}

fn deeds_json(deeds: Option<&Deeds>) -> Value {
    json!(deeds.map(|it| json!({ "takes": it.takes, "prunes": it.prunes })))
}

#[cfg(test)]
mod tests {
    use vitrify_core::config::Config;
    use vitrify_core::sanoid::compare::compare;
    use vitrify_core::sanoid::datasets::targets;
    use vitrify_core::sanoid::settings::read;

    use super::*;

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|it| (*it).to_owned()).collect()
    }

    #[test]
    fn the_first_of_many_names() {
        for (all, wanted) in [
            (&[][..], "none"),
            (&["a"], "1 (a)"),
            (&["a", "b", "c"], "3 (a, b, c)"),
            (&["a", "b", "c", "d"], "4 (a, b, c, ...)"),
        ] {
            assert_eq!(few(&names(all)), wanted);
        }
    }

    #[test]
    fn what_stands_below_the_table() {
        let text = "[t/a]\nhourly=1\ndaily=0\nmonthly=0\n[t/gone]\n";
        let sections = read("s", text).unwrap().sections;
        let datasets = ["t/a".parse().unwrap()];
        let found = targets(&sections, &datasets);
        let config = "[policy.p]\nhourly=2\n[[guest]]\nmatch='a'\npolicy='p'\nadopt=true";
        let config = Config::parse([("v", config)]).unwrap();
        let guests = [("a".parse().unwrap(), datasets.iter().cloned().collect())];
        let rows = compare(&found.targets, &guests, &config, &|_| None);
        let deeds = Deeds { takes: names(&["x"]), prunes: Vec::new() };
        let mut report = Report {
            with: With::InForce,
            time_zones: None,
            rows: rows.into_iter().map(|it| (it, (None, Some(Deeds::default())))).collect(),
            left_out: names(&["line 9: no"]),
            unmatched: found.unmatched,
            unseen: vec![&sections[0]],
        };
        report.rows[0].1.1 = Some(deeds);
        assert_eq!(
            report.below(),
            "\nDifferences:\n  \
             t/a (a): hourly: sanoid keeps 1, taken at minute 0; vitrify keeps 2, taken at minute 0\n\
             \nNot carried over:\n  line 9: no\n\
             \nWithout a dataset:\n  line 5: there is no dataset 't/gone': sanoid does nothing\n\
             \nNot known:\n  \
             line 1: which datasets lie below 't/a', and their snapshots\n\
             \nAt this moment:\n  \
             t/a (a): what sanoid would do is not known\n  \
             t/a (a): vitrify would take 1 (x), and prune none\n"
        );
        assert_eq!(line(&report.rows[0].0)[4], "1 difference");
        assert!(!report.is_same());
        report.rows[0].0.differences.clear();
        assert!(report.is_same());
        report.time_zones = Some(("UTC".to_owned(), "Europe/Vienna".to_owned()));
        assert!(!report.is_same());
    }
}
