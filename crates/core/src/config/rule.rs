//! Which guests a policy holds for.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use toml::Spanned;

use super::explain::instead;
use super::layer::RuleLayer;
use super::{Config, ConfigError, NamedPolicy, Place, Source};
use crate::capture::Consistency;
use crate::name::GuestName;
use crate::problem::{Problem, ProblemKind};

/// What `[[guest]]` says of the guests that it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestRule {
    /// The guests; at least one pattern.
    pub patterns: Vec<Pattern>,
    /// When their points are taken, and for how long they are kept.
    pub policy: NamedPolicy,
    /// What a point must reach; `None`: the best that can be had will do.
    pub consistency: Option<Consistency>,
    /// What happens where it is not reached.
    pub otherwise: Otherwise,
    /// How long these guests should stand still at most, where that is not as [`Config::pause_limit`]
    /// has it.
    pub pause_limit: Option<Duration>,
    /// Whether the policy prunes the snapshots, too, that sanoid took of these guests' volumes.
    pub adopt: bool,
    /// Where the rule stands.
    pub place: Place,
}

/// What happens where a guest's point does not reach the consistency that is demanded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Otherwise {
    /// The next lower consistency that can be had, with a warning.
    #[default]
    Next,
    /// No point.
    Fail,
}

impl Otherwise {
    /// The word for it in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Fail => "fail",
        }
    }
}

/// A guest's name in which `*` stands for any characters, none included, and `?` for any one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(pub(super) GuestName);

impl Pattern {
    /// Whether this guest is meant.
    pub fn matches(&self, guest: &GuestName) -> bool {
        let pattern: Vec<char> = self.0.as_str().chars().collect();
        let text: Vec<char> = guest.as_str().chars().collect();
        let (mut at, mut seen) = (0, 0);
        // Behind the last `*`, and how much of the text was read when that takes in nothing more.
        let mut star = None;
        while seen < text.len() {
            match (pattern.get(at), star) {
                (Some('*'), _) => {
                    at += 1;
                    star = Some((at, seen));
                }
                (Some(c), _) if *c == '?' || *c == text[seen] => {
                    at += 1;
                    seen += 1;
                }
                (_, Some((behind, taken))) => {
                    at = behind;
                    seen = taken + 1;
                    star = Some((behind, seen));
                }
                (_, None) => return false,
            }
        }
        pattern[at..].iter().all(|c| *c == '*')
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Two rules match one guest, and none of them is the better.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("guest '{guest}' has two rules, at {first} and at {second}; let only one match it")]
pub struct TwoRules {
    /// The guest.
    pub guest: GuestName,
    /// Where the first stands.
    pub first: Place,
    /// Where the second stands.
    pub second: Place,
}

impl TwoRules {
    /// What is wrong with the second.
    pub fn error(&self) -> ConfigError {
        let Self { guest, first, second } = self;
        second.error(format!(
            "guest '{guest}' has two rules, this one and that at {first}; let only one match it"
        ))
    }
}

impl From<TwoRules> for Problem {
    fn from(two: TwoRules) -> Self {
        Self::new(ProblemKind::NotFound, two.to_string())
    }
}

impl Config {
    /// The rule that matches a guest; `None` where it is unprotected.
    ///
    /// # Errors
    /// Where several match.
    pub fn rule_for(&self, guest: &GuestName) -> Result<Option<&GuestRule>, TwoRules> {
        let mut rules =
            self.rules.iter().filter(|it| it.patterns.iter().any(|it| it.matches(guest)));
        let first = rules.next();
        match (first, rules.next()) {
            (Some(first), Some(second)) => Err(TwoRules {
                guest: guest.clone(),
                first: first.place.clone(),
                second: second.place.clone(),
            }),
            _ => Ok(first),
        }
    }

    /// The guests that two rules match, as far as one of them names the guest: no host need be asked.
    pub(super) fn contradictions(&self) -> Vec<ConfigError> {
        let patterns = self.rules.iter().flat_map(|it| &it.patterns);
        let names = patterns.map(|it| &it.0).filter(|it| !it.as_str().contains(['*', '?']));
        let names: BTreeSet<_> = names.collect();
        names.into_iter().filter_map(|it| self.rule_for(it).err()).map(|it| it.error()).collect()
    }

    /// The patterns that match none of the host's `guests`, each with its rule.
    pub fn unmatched(&self, guests: &[GuestName]) -> Vec<(&GuestRule, &Pattern)> {
        let patterns =
            self.rules.iter().flat_map(|rule| rule.patterns.iter().map(move |it| (rule, it)));
        patterns.filter(|(_, pattern)| !guests.iter().any(|it| pattern.matches(it))).collect()
    }
}

impl GuestRule {
    /// An error where it matches nothing, demands what makes no sense, or has none of these policies.
    pub(super) fn new(
        source: Source<'_>,
        layer: Spanned<RuleLayer>,
        policies: &[NamedPolicy],
    ) -> Result<Self, ConfigError> {
        let place = source.place(layer.span().start);
        let layer = layer.into_inner();
        if layer.r#match.0.is_empty() {
            return Err(place.error("the rule matches no guest; write match = \"GUEST\""));
        }
        let policy = named_policy(source, &place, layer.policy.as_ref(), policies)?;
        if let (None, Some(otherwise)) = (&layer.consistency, &layer.otherwise) {
            return Err(source.place(otherwise.span().start).error(
                "'otherwise' needs a consistency that may not be reached; write \
                 consistency = \"memory\", or leave it out",
            ));
        }
        Ok(Self {
            patterns: layer.r#match.0,
            policy,
            consistency: layer.consistency.map(|it| it.0),
            otherwise: layer.otherwise.map(Spanned::into_inner).unwrap_or_default(),
            pause_limit: layer.pause_limit.map(|it| it.0),
            adopt: layer.adopt,
            place,
        })
    }
}

/// The policy that a rule at this place wants.
pub(super) fn named_policy(
    source: Source<'_>,
    place: &Place,
    wanted: Option<&Spanned<String>>,
    policies: &[NamedPolicy],
) -> Result<NamedPolicy, ConfigError> {
    let wanted =
        wanted.ok_or_else(|| place.error("the rule has no policy; write policy = \"NAME\""))?;
    let found = policies.iter().find(|it| it.name == *wanted.get_ref());
    found.cloned().ok_or_else(|| {
        source.place(wanted.span().start).error(no_policy(wanted.get_ref(), policies))
    })
}

fn no_policy(name: &str, policies: &[NamedPolicy]) -> String {
    let known: Vec<_> = policies.iter().map(|it| it.name.as_str()).collect();
    match known.is_empty() {
        true => format!("there is no policy '{name}'; define it with [policy.{name}]"),
        false => format!("there is no policy '{name}'; {}", instead(name, &known)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, guest, matches) in [
            ("web", "web", true),
            ("web", "web-1", false),
            ("web", "Web", false),
            ("web-*", "web-1", true),
            ("web-*", "web-", true),
            ("web-*", "web", false),
            ("*", "anything", true),
            ("*-db", "a-db-b-db", true),
            ("*-db", "a-db-b", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("web-?", "web-1", true),
            ("web-?", "web-12", false),
            ("web-?", "web-", false),
            ("?*", "ü", true),
            ("**", "x", true),
            ("[ab]", "a", false),
            ("[ab]", "[ab]", true),
        ] {
            let found = Pattern(pattern.parse().unwrap()).matches(&guest.parse().unwrap());
            assert_eq!(found, matches, "{pattern} {guest}");
        }
    }

    #[test]
    fn one_rule_for_each_guest() {
        let one = "[policy.a]\nhourly = 1\n[[guest]]\nmatch = ['web-*', 'web-1']\npolicy = 'a'\n";
        let two =
            "[[guest]]\nmatch = 'db'\npolicy = 'a'\n\n[[guest]]\nmatch = '*-2'\npolicy = 'a'\n";
        let config = Config::parse([("one", one), ("two", two)]).unwrap();
        let names = |names: &[&str]| names.iter().map(|it| it.parse().unwrap()).collect::<Vec<_>>();
        for (guest, wanted) in [
            ("web-1", "one:3"),
            ("db", "two:1"),
            ("db-2", "two:5"),
            ("mail", "none"),
            ("web-2", "guest 'web-2' has two rules, at one:3 and at two:5; let only one match it"),
        ] {
            let found = match config.rule_for(&guest.parse().unwrap()) {
                Ok(rule) => rule.map_or("none".to_owned(), |it| it.place.to_string()),
                Err(error) => error.to_string(),
            };
            assert_eq!(found, wanted, "{guest}");
        }
        let unmatched: Vec<_> = config
            .unmatched(&names(&["web-2", "db", "mail"]))
            .iter()
            .map(|(rule, pattern)| format!("{} {pattern}", rule.place))
            .collect();
        assert_eq!(unmatched, ["one:3 web-1"]);
    }
}
