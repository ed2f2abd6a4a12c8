//! Which volumes without guests a policy holds for.

use toml::Spanned;

use super::layer::VolumeLayer;
use super::rule::named_policy;
use super::{Config, ConfigError, NamedPolicy, Place, Source};
use crate::name::Volume;

/// What `[[volume]]` says of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRule {
    /// The volume.
    pub volume: Volume,
    /// Whether it holds for the volumes below as well.
    pub recursive: bool,
    /// When snapshots are taken, and for how long they are kept.
    pub policy: NamedPolicy,
    /// Where the rule stands.
    pub place: Place,
}

impl VolumeRule {
    /// An error where it names no volume or none of these policies.
    pub(super) fn new(
        source: Source<'_>,
        layer: Spanned<VolumeLayer>,
        policies: &[NamedPolicy],
    ) -> Result<Self, ConfigError> {
        let place = source.place(layer.span().start);
        let layer = layer.into_inner();
        let Some(volume) = layer.r#match else {
            return Err(place.error("the rule names no volume; write match = \"rpool/data\""));
        };
        let policy = named_policy(source, &place, layer.policy.as_ref(), policies)?;
        Ok(Self { volume: volume.into_inner().0, recursive: layer.recursive, policy, place })
    }

    /// What is wrong with a second rule for its volume.
    pub(crate) fn second(&self, second: &Self) -> ConfigError {
        second.place.error(format!(
            "volume '{}' has two rules, this one and that at {}; remove one of the two",
            self.volume, self.place
        ))
    }
}

impl Config {
    /// The rule of a volume by its name: its own, or else the nearest recursive one above. What is
    /// on the host may say otherwise ([`crate::volumes::assign`]).
    pub fn volume_rule_for(&self, volume: &Volume) -> Option<&VolumeRule> {
        let covers = |it: &&VolumeRule| {
            let below = volume.as_str().strip_prefix(it.volume.as_str());
            below.is_some_and(str::is_empty)
                || it.recursive && below.is_some_and(|it| it.starts_with('/'))
        };
        self.volumes.iter().filter(covers).max_by_key(|it| it.volume.as_str().len())
    }

    /// The volumes that two rules name. The same volume under another name is found on the host only.
    pub(super) fn volumes_named_twice(&self) -> Vec<ConfigError> {
        let first = |it: &VolumeRule| self.volumes.iter().find(|first| first.volume == it.volume);
        let seconds = self.volumes.iter().filter_map(|it| {
            let first = first(it)?;
            (!std::ptr::eq(first, it)).then(|| first.second(it))
        });
        seconds.collect()
    }
}
