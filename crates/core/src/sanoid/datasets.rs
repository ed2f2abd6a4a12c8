//! Which dataset of the host has the settings of which section.

use std::collections::BTreeMap;

use super::settings::{Recursive, Section};
use crate::name::Volume;

/// A dataset that is taken care of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<'a> {
    /// The dataset.
    pub dataset: &'a Volume,
    /// The section whose settings hold for it.
    pub section: &'a Section,
    /// With `recursive = zfs`, the dataset that decides for it (itself, at the top): what is due
    /// there is taken of all targets with that top in one command, and the scripts around it run once.
    /// Pruned it is for itself.
    pub top: Option<&'a Volume>,
}

/// What the sections mean on this host.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Targets<'a> {
    /// What is taken care of, in the order of the datasets.
    pub targets: Vec<Target<'a>>,
    /// The sections whose dataset does not exist.
    pub unmatched: Vec<&'a Section>,
}

/// Finds them among all datasets of the host. A dataset has the settings of its own section, or else
/// of the nearest recursive one above, wherever they stand in the file.
pub fn targets<'a>(sections: &'a [Section], datasets: &'a [Volume]) -> Targets<'a> {
    let by_dataset: BTreeMap<_, _> = sections.iter().map(|it| (it.dataset.as_str(), it)).collect();
    let held: BTreeMap<_, _> = datasets
        .iter()
        .filter_map(|it| Some((it.as_str(), (it, section_of(it.as_str(), &by_dataset)?))))
        .collect();
    let top = |dataset: &str, section: &'a Section| {
        let same = |it: &str| {
            let (found, of) = held.get(it)?;
            std::ptr::eq(*of, section).then_some(*found)
        };
        // From itself upwards, so the last is the outermost.
        upwards(dataset).filter_map(same).last()
    };
    let target = |dataset: &'a Volume| {
        let (_, section) = held.get(dataset.as_str())?;
        let top = match section.settings.recursive {
            Recursive::Zfs => top(dataset.as_str(), section),
            Recursive::Yes | Recursive::No => None,
        };
        Some(Target { dataset, section, top })
    };
    let unmatched = |it: &&Section| !datasets.contains(&it.dataset);
    Targets {
        targets: datasets.iter().filter_map(target).collect(),
        unmatched: sections.iter().filter(unmatched).collect(),
    }
}

/// The section that holds for a dataset.
fn section_of<'a>(dataset: &str, by_dataset: &BTreeMap<&str, &'a Section>) -> Option<&'a Section> {
    for place in upwards(dataset) {
        let Some(&section) = by_dataset.get(place) else { continue };
        let settings = &section.settings;
        if place == dataset {
            return Some(section).filter(|_| !settings.process_children_only);
        }
        if settings.skip_children {
            return None;
        }
        if settings.recursive != Recursive::No {
            return Some(section);
        }
    }
    None
}

/// The dataset, and those above it up to its pool.
fn upwards(dataset: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(dataset), |it| it.rsplit_once('/').map(|(above, _)| above))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sanoid::settings::read;

    const HOST: [&str; 8] = ["t", "t/a", "t/a/b", "t/a/b/c", "t/a/d", "t/ab", "u", "u/v"];

    /// Each target as `dataset=section`, behind it its top.
    fn shown(found: &Targets<'_>) -> String {
        let target = |it: &Target<'_>| {
            let top = it.top.map(|top| format!("<{top}")).unwrap_or_default();
            format!("{}={}{top}", it.dataset, it.section.name)
        };
        let mut all: Vec<_> = found.targets.iter().map(target).collect();
        all.extend(found.unmatched.iter().map(|it| format!("!{}", it.name)));
        all.join(" ")
    }

    /// Columns: the configuration, what holds for which dataset.
    #[test]
    fn what_holds_for_which_dataset() {
        for (text, wanted) in [
            ("", ""),
            ("[t/a]", "t/a=t/a"),
            ("[t/x]\nrecursive=yes", "!t/x"),
            ("[x]\npath=t/ab", "t/ab=x"),
            ("[t/a]\nrecursive=yes", "t/a=t/a t/a/b=t/a t/a/b/c=t/a t/a/d=t/a"),
            ("[t/a]\nrecursive=yes\nprocess_children_only=yes", "t/a/b=t/a t/a/b/c=t/a t/a/d=t/a"),
            ("[t/a]\nprocess_children_only=yes", ""),
            ("[t/a]\nrecursive=yes\nskip_children=yes", "t/a=t/a"),
            // The more specific one, wherever it stands.
            (
                "[t]\nrecursive=yes\n[t/a]\nrecursive=yes",
                "t=t t/a=t/a t/a/b=t/a t/a/b/c=t/a t/a/d=t/a t/ab=t",
            ),
            (
                "[t/a]\nrecursive=yes\n[t]\nrecursive=yes",
                "t=t t/a=t/a t/a/b=t/a t/a/b/c=t/a t/a/d=t/a t/ab=t",
            ),
            ("[t/a/b]\n[t/a]\nrecursive=yes", "t/a=t/a t/a/b=t/a/b t/a/b/c=t/a t/a/d=t/a"),
            // The sections above do not reach what is skipped; one below still counts.
            ("[t/a]\nrecursive=yes\n[t/a/b]\nskip_children=yes", "t/a=t/a t/a/b=t/a/b t/a/d=t/a"),
            (
                "[t]\nrecursive=yes\n[t/a]\nskip_children=yes\n[t/a/b]\nrecursive=yes",
                "t=t t/a=t/a t/a/b=t/a/b t/a/b/c=t/a/b t/ab=t",
            ),
            (
                "[t/a]\nrecursive=yes\n[t/a/b]\nprocess_children_only=yes",
                "t/a=t/a t/a/b/c=t/a t/a/d=t/a",
            ),
            // At once.
            ("[t/a]\nrecursive=zfs", "t/a=t/a<t/a t/a/b=t/a<t/a t/a/b/c=t/a<t/a t/a/d=t/a<t/a"),
            (
                "[t/a]\nrecursive=zfs\n[t/a/b]",
                "t/a=t/a<t/a t/a/b=t/a/b t/a/b/c=t/a<t/a t/a/d=t/a<t/a",
            ),
            (
                "[t/a]\nrecursive=zfs\nprocess_children_only=yes",
                "t/a/b=t/a<t/a/b t/a/b/c=t/a<t/a/b t/a/d=t/a<t/a/d",
            ),
            (
                "[t]\nrecursive=yes\n[t/a/b]\nrecursive=zfs\n[u]",
                "t=t t/a=t t/a/b=t/a/b<t/a/b t/a/b/c=t/a/b<t/a/b t/a/d=t t/ab=t u=u",
            ),
        ] {
            let sections = read("f", text).unwrap().sections;
            let host = HOST.map(|it| it.parse().unwrap());
            assert_eq!(shown(&targets(&sections, &host)), wanted, "{text}");
        }
    }
}
