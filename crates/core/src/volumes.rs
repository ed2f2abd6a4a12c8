//! Volumes without guests: which rule holds for which of them. What is due and what has served is
//! [`crate::policy`]'s, of what the [`ledger`] knows as taken.

pub mod ledger;

use std::collections::BTreeMap;

use crate::config::{ConfigError, Place, VolumeRule};
use crate::inventory::{FoundVolume, ObjectId};
use crate::name::{GuestName, Volume};

/// A rule, and what there is of its volume: that itself first, then, where the rule is recursive, those
/// below.
#[derive(Debug, Clone)]
pub struct Seen<'a> {
    /// The rule.
    pub rule: &'a VolumeRule,
    /// The volumes.
    pub volumes: Vec<FoundVolume>,
}

/// A volume that is something else's.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Whose.
    pub by: Claimant,
    /// The volume.
    pub volume: Volume,
    /// Which object that is, where it may have several names.
    pub object: Option<ObjectId>,
}

/// Whose a volume is.
#[derive(Debug, Clone)]
pub enum Claimant {
    /// A guest with a disk there, and where its rule stands.
    Guest(GuestName, Place),
    /// The memory store, or a home in it.
    Store,
}

/// A volume, and the rule that holds for it.
#[derive(Debug, Clone)]
pub struct Covered<'a> {
    /// The volume.
    pub volume: Volume,
    /// The rule.
    pub rule: &'a VolumeRule,
}

/// What the rules mean on this host.
#[derive(Debug, Default)]
pub struct Assigned<'a> {
    /// The volumes that rules hold for, by name.
    pub covered: Vec<Covered<'a>>,
    /// What contradicts itself, each with its volume: nothing is done about it.
    pub refused: Vec<(Volume, ConfigError)>,
    /// The volumes below a rule's that are left alone, and why.
    pub left: Vec<(Volume, String)>,
}

/// Finds the rule of each volume: its own, or else the nearest recursive one above.
pub fn assign<'a>(seen: &[Seen<'a>], claims: &[Claim]) -> Assigned<'a> {
    let mut by_object: BTreeMap<&ObjectId, Vec<Candidate<'a, '_>>> = BTreeMap::new();
    for it in seen {
        for (place, found) in it.volumes.iter().enumerate() {
            let candidate = Candidate { rule: it.rule, volume: &found.volume, is_own: place == 0 };
            by_object.entry(&found.object).or_default().push(candidate);
        }
    }
    let mut found = Assigned::default();
    for (object, mut candidates) in by_object {
        candidates.sort_by_key(Candidate::distance);
        let Some(nearest) = candidates.first() else { continue };
        let (rule, volume) = (nearest.rule, nearest.volume.clone());
        if let Some(second) = candidates.get(1).filter(|it| it.is_own) {
            found.refused.push((volume, rule.second(second.rule)));
            continue;
        }
        let is_it = |it: &&Claim| {
            it.object.as_ref() == Some(object)
                || candidates.iter().any(|own| *own.volume == it.volume)
        };
        match claims.iter().find(is_it) {
            None => found.covered.push(Covered { volume, rule }),
            Some(claim) if nearest.is_own => {
                let error = rule.place.error(claim.by.contradiction(&volume));
                found.refused.push((volume, error));
            }
            Some(claim) => found.left.push((volume, claim.by.reason())),
        }
    }
    found.covered.sort_by(|a, b| a.volume.cmp(&b.volume));
    found
}

/// A rule that could hold for a volume.
struct Candidate<'a, 'b> {
    rule: &'a VolumeRule,
    volume: &'b Volume,
    is_own: bool,
}

impl Candidate<'_, '_> {
    /// How far below the rule's volume it lies.
    fn distance(&self) -> usize {
        let depth = |it: &Volume| it.as_str().matches('/').count();
        depth(self.volume).saturating_sub(depth(&self.rule.volume))
    }
}

impl Claimant {
    fn contradiction(&self, volume: &Volume) -> String {
        match self {
            Self::Guest(guest, place) => format!(
                "guest '{guest}' has a disk on volume '{volume}' and a rule of its own at {place}; \
                 remove one of the two rules"
            ),
            Self::Store => {
                format!(
                    "volume '{volume}' is the memory store, which is never snapshotted as a volume"
                )
            }
        }
    }

    fn reason(&self) -> String {
        match self {
            Self::Guest(guest, place) => {
                format!("guest '{guest}' has a disk there and a rule of its own at {place}")
            }
            Self::Store => "it is of the memory store".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// What there is: ZFS and Btrfs, one of whose subvolumes is mounted at a second place.
    const HOST: [(&str, &str); 11] = [
        ("t", "1"),
        ("t/a", "2"),
        ("t/a/b", "3"),
        ("t/a/b/c", "4"),
        ("t/ab", "5"),
        ("t/vm", "6"),
        ("t/vm/web", "7"),
        ("/p/d", "x"),
        ("/p/d/e", "y"),
        ("/p/d/e/f", "z"),
        ("/mnt/e", "y"),
    ];

    fn found((volume, object): (&str, &str)) -> FoundVolume {
        FoundVolume { volume: volume.parse().unwrap(), object: ObjectId(object.to_owned()) }
    }

    fn seen(rule: &VolumeRule) -> Seen<'_> {
        let top = rule.volume.as_str();
        let is_below = |it: &str| it.strip_prefix(top).is_some_and(|it| it.starts_with('/'));
        let of_it = |it: &&(&str, &str)| it.0 == top || (rule.recursive && is_below(it.0));
        let mut volumes: Vec<_> = HOST.iter().filter(of_it).copied().map(found).collect();
        if top == "/mnt/e" && rule.recursive {
            volumes.push(found(("/mnt/e/f", "z")));
        }
        Seen { rule, volumes }
    }

    /// Columns: the rules (`+`: recursive), the volumes of guests with a rule, what they mean.
    #[test]
    fn rules_and_the_volumes_that_there_are() {
        for (rules, guests, wanted) in [
            ("t/a", "", "t/a:1"),
            ("t/a+", "", "t/a:1 t/a/b:1 t/a/b/c:1"),
            // The nearest one counts, wherever it stands.
            ("t/a/b t/a+", "", "t/a:5 t/a/b:1 t/a/b/c:5"),
            ("t/a+ t/a/b+", "", "t/a:1 t/a/b:5 t/a/b/c:5"),
            // What guests have is left to their rules, and a contradiction is told.
            ("t+", "t/vm/web", "t:1 t/a:1 t/a/b:1 t/a/b/c:1 t/ab:1 t/vm:1 left:t/vm/web"),
            ("t/vm+", "t/vm", "t/vm/web:1 v:1:t/vm"),
            ("t/a", "t/vm", "t/a:1"),
            // One volume of two names.
            ("/p/d+", "/mnt/e", "/p/d:1 /p/d/e/f:1 left:/p/d/e"),
            ("/p/d/e /mnt/e", "", "v:5:/p/d/e"),
            ("/p/d+ /mnt/e+", "", "/mnt/e:5 /mnt/e/f:5 /p/d:1"),
            ("", "t/vm", ""),
        ] {
            let mut text = String::from("policy.a.hourly = 1\n");
            for rule in rules.split_whitespace() {
                let (name, recursive) = (rule.trim_end_matches('+'), rule.ends_with('+'));
                text += &format!("[[volume]]\nmatch = '{name}'\nrecursive = {recursive}\n");
                text += "policy = 'a'\n";
            }
            let config = Config::parse([("v", text.as_str())]).unwrap();
            let claims = guests.split_whitespace().map(|it| Claim {
                by: Claimant::Guest("web".parse().unwrap(), config.policies[0].place.clone()),
                volume: it.parse().unwrap(),
                object: HOST.iter().find(|known| known.0 == it).map(|it| ObjectId(it.1.into())),
            });
            let assigned = assign(
                &config.volumes.iter().map(seen).collect::<Vec<_>>(),
                &claims.collect::<Vec<_>>(),
            );
            // Each rule has four lines.
            let number = |line: usize| line - 1;
            let covered = assigned.covered.iter();
            let mut said: Vec<_> =
                covered.map(|it| format!("{}:{}", it.volume, number(it.rule.place.line))).collect();
            said.extend(assigned.left.iter().map(|it| format!("left:{}", it.0)));
            said.extend(
                assigned.refused.iter().map(|it| format!("v:{}:{}", number(it.1.line), it.0)),
            );
            assert_eq!(said.join(" "), wanted, "{rules} {guests}");
        }
    }

    #[test]
    fn the_memory_store_is_no_volume() {
        let text = "[policy.a]\n[[volume]]\nmatch = 't'\nrecursive = true\npolicy = 'a'\n\
                    [[volume]]\nmatch = 't/vm'\npolicy = 'a'\n";
        let config = Config::parse([("v", text)]).unwrap();
        let store =
            |it: &str| Claim { by: Claimant::Store, volume: it.parse().unwrap(), object: None };
        let assigned = assign(
            &config.volumes.iter().map(seen).collect::<Vec<_>>(),
            &[store("t/a/b"), store("t/vm")],
        );
        let covered: Vec<_> = assigned.covered.iter().map(|it| it.volume.as_str()).collect();
        assert_eq!(covered, ["t", "t/a", "t/a/b/c", "t/ab", "t/vm/web"]);
        assert_eq!(assigned.left.len(), 1);
        let refused = assigned.refused[0].1.to_string();
        assert!(refused.starts_with("v:6: volume 't/vm' is the memory store"), "{refused}");
    }
}
