//! One file as serde reads it: every key that may stand there, and nothing else.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::rule::Otherwise;
use super::values::{
    AbsolutePath, Count, DayOfWeek, DayOfYear, Demand, Limit, Patterns, Percent, ShellLine,
    ShortLimit, TimeOfDay, VolumeName, Whole, ZoneName,
};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Layer {
    pub(super) timezone: Option<Spanned<ZoneName>>,
    pub(super) memory: MemoryLayer,
    pub(super) overlay: OverlayLayer,
    pub(super) capture: CaptureLayer,
    pub(super) hooks: HooksLayer,
    pub(super) notify: NotifyLayer,
    pub(super) policy: BTreeMap<Spanned<String>, PolicyLayer>,
    pub(super) guest: Vec<Spanned<RuleLayer>>,
    pub(super) volume: Vec<Spanned<VolumeLayer>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case", expecting = "the table [memory]")]
pub(super) struct MemoryLayer {
    pub(super) store: Option<AbsolutePath>,
    pub(super) reserve: Option<Percent>,
    pub(super) spool: Option<AbsolutePath>,
    pub(super) on_root: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case", expecting = "the table [overlay]")]
pub(super) struct OverlayLayer {
    pub(super) path: Option<AbsolutePath>,
    pub(super) dump_limit: Option<Limit>,
    pub(super) commit_limit: Option<Limit>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case", expecting = "the table [capture]")]
pub(super) struct CaptureLayer {
    pub(super) pause_limit: Option<ShortLimit>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case", expecting = "the table [hooks]")]
pub(super) struct HooksLayer {
    pub(super) pre_snapshot: Option<Spanned<ShellLine>>,
    pub(super) post_snapshot: Option<Spanned<ShellLine>>,
    pub(super) pre_prune: Option<Spanned<ShellLine>>,
    pub(super) post_prune: Option<Spanned<ShellLine>>,
    pub(super) timeout: Option<Limit>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case", expecting = "the table [notify]")]
pub(super) struct NotifyLayer {
    pub(super) command: Option<Spanned<ShellLine>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[serde(expecting = "a policy's table, [policy.NAME]")]
pub(super) struct PolicyLayer {
    pub(super) frequently: Option<Count>,
    pub(super) hourly: Option<Count>,
    pub(super) daily: Option<Count>,
    pub(super) weekly: Option<Count>,
    pub(super) monthly: Option<Count>,
    pub(super) yearly: Option<Count>,
    pub(super) memory: ImagesLayer,
    pub(super) frequent_period: Option<Whole<u8, 1, 60>>,
    pub(super) hourly_min: Option<Whole<u8, 0, 59>>,
    pub(super) daily_at: Option<TimeOfDay>,
    pub(super) weekly_on: Option<DayOfWeek>,
    pub(super) weekly_at: Option<TimeOfDay>,
    pub(super) monthly_on: Option<Whole<u8, 1, 31>>,
    pub(super) monthly_at: Option<TimeOfDay>,
    pub(super) yearly_on: Option<DayOfYear>,
    pub(super) yearly_at: Option<TimeOfDay>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "counts such as { hourly = 24 }")]
pub(super) struct ImagesLayer {
    pub(super) frequently: Option<Spanned<Count>>,
    pub(super) hourly: Option<Spanned<Count>>,
    pub(super) daily: Option<Spanned<Count>>,
    pub(super) weekly: Option<Spanned<Count>>,
    pub(super) monthly: Option<Spanned<Count>>,
    pub(super) yearly: Option<Spanned<Count>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[serde(expecting = "a rule for guests, [[guest]]")]
pub(super) struct RuleLayer {
    pub(super) r#match: Patterns,
    pub(super) policy: Option<Spanned<String>>,
    pub(super) consistency: Option<Demand>,
    pub(super) otherwise: Option<Spanned<Otherwise>>,
    pub(super) pause_limit: Option<ShortLimit>,
    pub(super) adopt: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[serde(expecting = "a rule for a volume, [[volume]]")]
pub(super) struct VolumeLayer {
    pub(super) r#match: Option<Spanned<VolumeName>>,
    pub(super) recursive: bool,
    pub(super) policy: Option<Spanned<String>>,
}
