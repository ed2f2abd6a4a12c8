//! A policy as the configuration defines it.

use std::collections::BTreeMap;

use toml::Spanned;

use super::layer::PolicyLayer;
use super::{ConfigError, Place, Source};
use crate::policy::{Period, Policy, PreferredTimes};

/// A policy, by the name that rules know it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPolicy {
    /// `NAME` of `[policy.NAME]`.
    pub name: String,
    /// What it says.
    pub policy: Policy,
    /// Where it is defined.
    pub place: Place,
}

impl NamedPolicy {
    /// Where `memory` keeps what the policy does not, that is an error, and the policy is there all
    /// the same: the rules that name it are not to blame.
    pub(super) fn new(
        source: Source<'_>,
        name: Spanned<String>,
        layer: PolicyLayer,
        errors: &mut Vec<ConfigError>,
    ) -> Self {
        let place = source.place(name.span().start);
        let name = name.into_inner();
        let PolicyLayer { frequently, hourly, daily, weekly, monthly, yearly, .. } = layer;
        let counts = [frequently, hourly, daily, weekly, monthly, yearly];
        let named = Period::ALL.into_iter().zip(counts);
        let keep: BTreeMap<_, _> =
            named.filter_map(|(period, count)| Some((period, count?.0))).collect();

        let it = &layer.memory;
        let images = [&it.frequently, &it.hourly, &it.daily, &it.weekly, &it.monthly, &it.yearly];
        let mut keep_memory = BTreeMap::new();
        for (period, count) in Period::ALL.into_iter().zip(images) {
            let Some(count) = count else { continue };
            let images = count.get_ref().0;
            if let Err(message) = check(&name, period, images, keep.get(&period).copied()) {
                errors.push(source.place(count.span().start).error(message));
            }
            keep_memory.insert(period, images);
        }
        let policy = Policy { keep, keep_memory, times: times(layer) };
        Self { name, policy, place }
    }
}

/// Only a point that is kept has memory.
fn check(name: &str, period: Period, images: u32, points: Option<u32>) -> Result<(), String> {
    match points {
        None => Err(format!(
            "policy '{name}' keeps no {period} points that could have memory; write {period} = \
             {images} in the policy as well, or leave it out here"
        )),
        Some(points) if points < images => Err(format!(
            "policy '{name}' says {period} = {points}, and only points that are kept have memory; \
             write {points} at most"
        )),
        Some(_) => Ok(()),
    }
}

fn times(layer: PolicyLayer) -> PreferredTimes {
    let default = PreferredTimes::default();
    let (weekday, weekly_at) = default.weekly;
    let (day, monthly_at) = default.monthly;
    let (month, day_of_it, yearly_at) = default.yearly;
    let (month, day_of_it) = layer.yearly_on.map_or((month, day_of_it), |it| (it.0, it.1));
    PreferredTimes {
        frequent_minutes: layer.frequent_period.map_or(default.frequent_minutes, |it| it.0),
        hourly_minute: layer.hourly_min.map_or(default.hourly_minute, |it| it.0),
        daily: layer.daily_at.map_or(default.daily, |it| it.0),
        weekly: (
            layer.weekly_on.map_or(weekday, |it| it.0),
            layer.weekly_at.map_or(weekly_at, |it| it.0),
        ),
        monthly: (
            layer.monthly_on.map_or(day, |it| it.0),
            layer.monthly_at.map_or(monthly_at, |it| it.0),
        ),
        yearly: (month, day_of_it, layer.yearly_at.map_or(yearly_at, |it| it.0)),
    }
}
