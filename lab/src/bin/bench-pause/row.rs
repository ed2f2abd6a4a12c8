//! One capture, measured.

use std::time::Duration;

use serde_json::{Value, json};

use crate::ways::How;

/// One capture, measured.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) how: How,
    pub(crate) round: u64,
    pub(crate) asked_mbps: u64,
    /// What the guest said just before the capture.
    pub(crate) reached_mbps: u64,
    /// From the command's start to its end, or to when it was given up.
    pub(crate) total: Duration,
    /// The guest's pauses in that time, summed up.
    pub(crate) pause: Duration,
    /// Bytes that reached the pool's device until then and with a sync after it.
    pub(crate) written_bytes: u64,
    /// What came of it.
    pub(crate) result: Result<Captured, String>,
}

/// A capture that was made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Captured {
    /// Of the memory image.
    pub(crate) image_bytes: u64,
    /// The pause that the way itself tells of.
    pub(crate) own_pause_ms: Option<f64>,
    /// What that pause was spent on, if the way tells.
    pub(crate) parts: Option<Parts>,
}

/// What a pause was spent on, in milliseconds, in the order of [`Parts::NAMES`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Parts(pub(crate) [f64; Parts::NAMES.len()]);

impl Parts {
    /// The parts that vitrify tells of a guest that is captured alone.
    pub(crate) const NAMES: [&'static str; 5] =
        ["suspend", "snapshot", "setup", "device_state", "resume"];

    /// Reads vitrify's `pause_parts_ms`.
    pub(crate) fn of(said: &Value) -> Option<Self> {
        said.is_object().then(|| Self(Self::NAMES.map(|name| said[name].as_f64().unwrap_or(0.0))))
    }

    fn to_json(self) -> Value {
        Value::Object(
            Self::NAMES.map(str::to_owned).into_iter().zip(self.0.map(Value::from)).collect(),
        )
    }
}

impl Row {
    /// One line for programs.
    pub(crate) fn to_json(&self) -> Value {
        let made = self.result.as_ref().ok();
        json!({
            "bench": "pause",
            "how": self.how.name(),
            "round": self.round,
            "asked_mbps": self.asked_mbps,
            "reached_mbps": self.reached_mbps,
            "pause_ms": in_ms(self.pause),
            "own_pause_ms": made.and_then(|it| it.own_pause_ms),
            "parts_ms": made.and_then(|it| it.parts).map(Parts::to_json),
            "total_ms": in_ms(self.total),
            "bytes": made.map(|it| it.image_bytes),
            "written_bytes": self.written_bytes,
            "error": self.result.as_ref().err(),
        })
    }
}

/// Milliseconds, to the microsecond.
pub(crate) fn in_ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
