//! What a `sanoid.conf` does of each dataset, beside what a configuration of ours does of the guests on
//! it. Both are brought into the same terms, and whatever is not the same is a difference.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::datasets::Target;
use super::decide::{Snapshot, period_of};
use super::import::{MOST, Placed, SCRIPTS, day_of_year};
use super::settings::{Section, Settings};
use crate::config::{Config, GuestRule, TwoRules, VolumeRule};
use crate::hooks::Hook;
use crate::name::{GuestName, Volume};
use crate::policy::{Period, Policy, PreferredTimes};

/// A dataset, and a guest that has a disk on it, where there is one.
#[derive(Debug)]
pub struct Row<'a> {
    /// The dataset, or another volume of the guest's.
    pub dataset: &'a Volume,
    /// The guest.
    pub guest: Option<&'a GuestName>,
    /// The section that covers the dataset, if one does.
    pub section: Option<&'a Section>,
    /// The rule that matches the guest, if one does.
    pub rule: Result<Option<&'a GuestRule>, TwoRules>,
    /// The rule that covers the dataset itself, if one does and no guest has a disk there.
    pub volume_rule: Option<&'a VolumeRule>,
    /// What the section means.
    pub sanoid: Care<'a>,
    /// What the rule means.
    pub ours: Care<'a>,
    /// The policies that prune what sanoid took there, all of them having to let it go; none: it stays.
    pub adopting: Vec<&'a Policy>,
    /// Where the two are not the same.
    pub differences: Vec<Difference<'a>>,
}

/// What is done for a dataset or a guest, by whomever.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Care<'a> {
    /// The periods that are taken.
    pub takes: BTreeMap<Period, Taken>,
    /// The command lines around that, as far as they ever run.
    pub hooks: BTreeMap<Hook, &'a str>,
    /// How long one of them may take; `None`: as long as it likes.
    pub limit: Option<Duration>,
}

/// A period that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// How many are kept; `None`: all.
    pub kept: Option<u32>,
    /// When it is due, in words.
    pub when: String,
}

impl Taken {
    fn of(policy: &Policy, period: Period, kept: Option<u32>) -> Self {
        let (month, day, time) = policy.times.yearly;
        let yearly = (month, day_of_year(month, day), time);
        let when = PreferredTimes { yearly, ..policy.times.clone() }.when(period);
        // So many are for ever: what is never pruned is imported as that.
        Self { kept: kept.filter(|it| *it < MOST), when }
    }
}

impl<'a> Care<'a> {
    fn sanoids(settings: &'a Settings) -> Self {
        let scripts = Hook::ALL.into_iter().zip(SCRIPTS);
        let hooks = scripts.filter(|(_, (_, _, runs))| runs(settings));
        let takes = taken(&settings.policy).filter(|_| settings.autosnap);
        let kept = |count| Some(count).filter(|_| settings.autoprune);
        Self {
            takes: takes.map(|(it, n)| (it, Taken::of(&settings.policy, it, kept(n)))).collect(),
            hooks: hooks
                .filter_map(|(hook, (_, of, _))| Some((hook, of(settings).as_deref()?)))
                .collect(),
            limit: settings.script_timeout,
        }
    }

    fn ours(policy: &'a Policy, config: &'a Config) -> Self {
        Self {
            takes: taken(policy).map(|(it, n)| (it, Taken::of(policy, it, Some(n)))).collect(),
            hooks: config.hooks.iter().map(|(hook, it)| (*hook, it.line.as_str())).collect(),
            limit: Some(config.script_limit),
        }
    }
}

/// What is taken, and how many of it are kept: `hourly 36, daily all`.
impl fmt::Display for Care<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.takes.iter().map(|(period, it)| match it.kept {
            Some(count) => format!("{period} {count}"),
            None => format!("{period} all"),
        });
        let kept: Vec<_> = kept.collect();
        f.write_str(if kept.is_empty() { "nothing" } else { "" })?;
        f.write_str(&kept.join(", "))
    }
}

/// Something that is not the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference<'a> {
    /// Only sanoid takes anything, or prunes what it took.
    OnlySanoid(Bare),
    /// Only we take anything: no section covers the dataset.
    OnlyOurs,
    /// A period is not kept alike, or not taken at the same time; `None`: it is not taken.
    Period {
        /// The period.
        period: Period,
        /// What sanoid does.
        sanoid: Option<Taken>,
        /// What we do.
        ours: Option<Taken>,
    },
    /// sanoid prunes only while more than this share of the pool is used, in percent.
    Deferred(u8),
    /// sanoid takes no snapshot where the script before it fails.
    Inconsistent,
    /// Not the same command line runs; `None`: none.
    Hook {
        /// The hook.
        hook: Hook,
        /// What sanoid runs.
        sanoid: Option<&'a str>,
        /// What we run.
        ours: Option<&'a str>,
    },
    /// Hooks are not given the same time; `None`: no limit.
    Limit {
        /// sanoid's.
        sanoid: Option<Duration>,
        /// Ours.
        ours: Option<Duration>,
    },
    /// sanoid prunes what it took, and we never would.
    Stay {
        /// How many snapshots that are; `None`: nobody could look.
        count: Option<usize>,
        /// Why.
        why: Stays,
    },
    /// sanoid prunes nothing of what it took, and we would, because the rules adopt it.
    Go {
        /// How many snapshots have such a period; `None`: nobody could look.
        count: Option<usize>,
    },
}

/// Why none of our rules prunes what sanoid took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stays {
    /// Not every guest there has a rule that adopts it.
    NotAdopted,
    /// No policy of the rules that adopt it names its period.
    NotNamed,
    /// Rules for volumes prune what we took alone.
    OfVolume,
}

/// Why nothing of ours takes care of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bare {
    /// No guest has a disk there, and no rule is for the dataset itself.
    NoGuest,
    /// No rule matches its guest.
    NoRule,
    /// Two rules match its guest.
    TwoRules(TwoRules),
}

impl Difference<'_> {
    /// What is not the same, in a word for programs.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::OnlySanoid(_) | Self::OnlyOurs => "coverage",
            Self::Period { period, .. } => period.as_str(),
            Self::Deferred(_) => "prune-defer",
            Self::Inconsistent => "no-inconsistent-snapshot",
            Self::Hook { hook, .. } => hook.as_str(),
            Self::Limit { .. } => "hooks-timeout",
            Self::Stay { .. } | Self::Go { .. } => "adopt",
        }
    }
}

impl fmt::Display for Difference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keeps = |it: &Option<Taken>| match it {
            None => "takes none".to_owned(),
            Some(Taken { kept: None, when }) => format!("keeps all, taken {when}"),
            Some(Taken { kept: Some(count), when }) => format!("keeps {count}, taken {when}"),
        };
        let runs = |it: &Option<&str>| it.map_or("nothing".to_owned(), |it| format!("'{it}'"));
        let limit = |it: &Option<Duration>| match it {
            None => "as long as they like".to_owned(),
            Some(limit) => format!("{} s", limit.as_secs_f64()),
        };
        let counted = |count: &Option<usize>| match count {
            None => "sanoid's snapshots".to_owned(),
            Some(count) => format!("{count} of sanoid's snapshots"),
        };
        match self {
            Self::OnlySanoid(Bare::NoGuest) => {
                f.write_str("only sanoid: no guest has a disk there, and no [[volume]] covers it")
            }
            Self::OnlySanoid(Bare::NoRule) => f.write_str("only sanoid: no rule matches the guest"),
            Self::OnlySanoid(Bare::TwoRules(two)) => write!(f, "only sanoid: {two}"),
            Self::OnlyOurs => f.write_str("only vitrify: no section covers the dataset"),
            Self::Period { period, sanoid, ours } => {
                write!(f, "{period}: sanoid {}; vitrify {}", keeps(sanoid), keeps(ours))
            }
            Self::Deferred(share) => write!(
                f,
                "sanoid prunes only while more than {share}% of the pool are used; vitrify prunes \
                 however full it is"
            ),
            Self::Inconsistent => f.write_str(
                "sanoid takes no snapshot where its pre_snapshot_script fails; vitrify takes the \
                 point, and its exit status says so",
            ),
            Self::Hook { hook, sanoid, ours } => {
                write!(f, "{hook}: sanoid runs {}; vitrify runs {}", runs(sanoid), runs(ours))
            }
            Self::Limit { sanoid, ours } => write!(
                f,
                "hooks may take {} with sanoid; with vitrify {}",
                limit(sanoid),
                limit(ours)
            ),
            Self::Stay { count, why: Stays::NotAdopted } => write!(
                f,
                "{} stay for good, unless every guest there has a rule with adopt = true",
                counted(count)
            ),
            Self::Stay { count, why: Stays::NotNamed } => {
                write!(f, "{} stay for good: no policy names their period", counted(count))
            }
            Self::Stay { count, why: Stays::OfVolume } => {
                write!(f, "{} stay for good: a [[volume]] never prunes them", counted(count))
            }
            Self::Go { count } => write!(
                f,
                "sanoid prunes nothing; {} go by the policy, because of adopt = true",
                counted(count)
            ),
        }
    }
}

/// Compares what sanoid does of these targets with what the configuration does of the guests: a row
/// for each dataset and each guest on it, but those that nobody takes care of. `sanoids` are the
/// snapshots of a dataset; `None` where nobody could look.
pub fn compare<'a>(
    targets: &'a [Target<'a>],
    guests: &'a [Placed],
    config: &'a Config,
    sanoids: &dyn Fn(&Volume) -> Option<&'a [Snapshot]>,
) -> Vec<Row<'a>> {
    let sections: BTreeMap<_, _> = targets.iter().map(|it| (it.dataset, it.section)).collect();
    let volumes = sections.keys().copied().chain(guests.iter().flat_map(|it| &it.1));
    let volumes = volumes.chain(config.volumes.iter().map(|it| &it.volume));
    let volumes: BTreeSet<_> = volumes.collect();
    let mut rows = Vec::new();
    for dataset in volumes {
        let section = sections.get(dataset).copied();
        let there = guests.iter().filter(|it| it.1.contains(dataset)).map(|it| &it.0);
        let there: Vec<_> = there.map(|guest| (guest, config.rule_for(guest))).collect();
        let volume_rule = config.volume_rule_for(dataset).filter(|_| there.is_empty());
        let adoption = Adoption { of_volume: volume_rule.is_some(), ..Adoption::of(&there) };
        let history = adoption.differences(section, sanoids(dataset));
        let bare = there.is_empty().then_some((None, Ok(None)));
        let covered = there.into_iter().map(|(guest, rule)| (Some(guest), rule));
        for (guest, rule) in covered.chain(bare) {
            let policy = match (&rule, volume_rule) {
                (Ok(Some(rule)), _) => Some(&rule.policy.policy),
                (_, volume) => volume.map(|it| &it.policy.policy),
            };
            if section.is_none() && matches!(rule, Ok(None)) && policy.is_none() {
                continue;
            }
            let sanoid = section.map(|it| Care::sanoids(&it.settings)).unwrap_or_default();
            let ours = policy.map(|it| Care::ours(it, config)).unwrap_or_default();
            let (adopting, differences) = (adoption.policies.clone(), Vec::new());
            let mut row = Row {
                dataset,
                guest,
                section,
                rule,
                volume_rule,
                sanoid,
                ours,
                adopting,
                differences,
            };
            row.differences = row.differences(&history);
            rows.push(row);
        }
    }
    rows
}

impl<'a> Row<'a> {
    fn differences(&self, history: &[Difference<'a>]) -> Vec<Difference<'a>> {
        let bare = match (&self.rule, self.guest) {
            (Ok(Some(_)), _) => None,
            (Ok(None), None) if self.volume_rule.is_some() => None,
            (Ok(None), None) => Some(Bare::NoGuest),
            (Ok(None), Some(_)) => Some(Bare::NoRule),
            (Err(two), _) => Some(Bare::TwoRules(two.clone())),
        };
        match (self.section, bare) {
            (Some(_), Some(why)) if !self.sanoid.takes.is_empty() => {
                vec![Difference::OnlySanoid(why)]
            }
            // Nothing is taken by either.
            (Some(_), Some(_)) => history.to_vec(),
            (None, Some(_)) => Vec::new(),
            (None, None) => vec![Difference::OnlyOurs],
            (Some(section), None) => {
                let mut all = self.periods();
                let settings = &section.settings;
                if settings.autoprune && settings.prune_defer > 0 {
                    all.push(Difference::Deferred(settings.prune_defer));
                }
                let pre = self.sanoid.hooks.contains_key(&Hook::PreSnapshot);
                if pre && settings.no_inconsistent_snapshot {
                    all.push(Difference::Inconsistent);
                }
                all.extend(self.hooks());
                all.extend_from_slice(history);
                all
            }
        }
    }

    fn periods(&self) -> Vec<Difference<'a>> {
        let pairs =
            Period::ALL.map(|it| (it, self.sanoid.takes.get(&it), self.ours.takes.get(&it)));
        let differing = pairs.into_iter().filter(|(_, sanoid, ours)| sanoid != ours);
        let difference = |(period, sanoid, ours): (Period, Option<&Taken>, Option<&Taken>)| {
            Difference::Period { period, sanoid: sanoid.cloned(), ours: ours.cloned() }
        };
        differing.map(difference).collect()
    }

    fn hooks(&self) -> Vec<Difference<'a>> {
        let (sanoid, ours) = (&self.sanoid, &self.ours);
        let of = |care: &Care<'a>, hook| care.hooks.get(&hook).copied();
        let pairs = Hook::ALL.map(|hook| (hook, of(sanoid, hook), of(ours, hook)));
        let differing = pairs.iter().filter(|(_, sanoid, ours)| sanoid != ours);
        let mut all: Vec<_> = differing
            .map(|&(hook, sanoid, ours)| Difference::Hook { hook, sanoid, ours })
            .collect();
        let is_common = pairs.iter().any(|(_, sanoid, ours)| sanoid.is_some() && ours.is_some());
        if is_common && sanoid.limit != ours.limit {
            all.push(Difference::Limit { sanoid: sanoid.limit, ours: ours.limit });
        }
        all
    }
}

/// Who would prune what sanoid took of a dataset.
struct Adoption<'a> {
    /// The policies of all guests there; none where one of them does not adopt.
    policies: Vec<&'a Policy>,
    /// Whether a rule is for the dataset itself.
    of_volume: bool,
}

impl<'a> Adoption<'a> {
    fn of(there: &[(&GuestName, Result<Option<&'a GuestRule>, TwoRules>)]) -> Self {
        let adopting = there.iter().map(|it| match it.1 {
            Ok(Some(rule)) if rule.adopt => Some(&rule.policy.policy),
            _ => None,
        });
        Self { policies: adopting.collect::<Option<_>>().unwrap_or_default(), of_volume: false }
    }

    /// Whether snapshots of this period ever go: every policy has to let them.
    fn prunes(&self, period: Period) -> bool {
        let goes = |it: &&Policy| it.keep.get(&period).is_some_and(|count| *count < MOST);
        !self.policies.is_empty() && self.policies.iter().all(goes)
    }

    fn differences(
        &self,
        section: Option<&Section>,
        sanoids: Option<&[Snapshot]>,
    ) -> Vec<Difference<'a>> {
        let Some(settings) = section.map(|it| &it.settings) else { return Vec::new() };
        let adopted = !self.policies.is_empty();
        let count = |prunes: bool| {
            let periods = sanoids?.iter().filter_map(|it| period_of(&it.name));
            Some(periods.filter(|it| self.prunes(*it) == prunes).count())
        };
        // Where nobody could look, what the rules say has to do.
        let said = Period::ALL.into_iter().any(|it| self.prunes(it));
        let (count, is_so) = match settings.autoprune {
            true => (count(false), !adopted),
            false => (count(true), said),
        };
        match (count.map_or(is_so, |it| it > 0), settings.autoprune) {
            (false, _) => Vec::new(),
            (true, true) => {
                let why = match (self.of_volume, adopted) {
                    (true, _) => Stays::OfVolume,
                    (false, true) => Stays::NotNamed,
                    (false, false) => Stays::NotAdopted,
                };
                vec![Difference::Stay { count, why }]
            }
            (true, false) => vec![Difference::Go { count }],
        }
    }
}

/// The periods that are taken, and how many of each are kept.
fn taken(policy: &Policy) -> impl Iterator<Item = (Period, u32)> {
    policy.keep.iter().filter(|it| *it.1 > 0).map(|(period, count)| (*period, *count))
}

#[cfg(test)]
mod tests;
