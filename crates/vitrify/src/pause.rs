//! What a guest's pause was spent on, for whoever wonders why it was long.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};
use vitrify_core::name::GuestName;
use vitrify_core::operation::{Effect, Fact};

/// An effect that was performed, and when it ended, as the time since 1970.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) effect: Effect,
    pub(crate) fact: Fact,
    pub(crate) ended: Duration,
}

/// The parts of a pause, which add up to it. Each has the journal's record of it, too.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parts {
    /// QEMU drains and flushes, and libvirt answers.
    pub(crate) suspend: Duration,
    /// The volumes' snapshots.
    pub(crate) snapshot: Duration,
    /// QEMU sets its stream up: the host's page tables.
    pub(crate) setup: Duration,
    /// QEMU saves the devices, write-protects RAM and sends the first page.
    pub(crate) device_state: Duration,
    /// Until QEMU runs the guest again.
    pub(crate) resume: Duration,
    /// Everything else: the same for the guests that are captured together with this one.
    pub(crate) others: Duration,
}

impl Parts {
    /// The parts of a guest's pause, if it was we who suspended and resumed it.
    pub(crate) fn of(steps: &[Step], guest: &GuestName) -> Option<Self> {
        let own = |step: &&Step| step.effect.guest() == Some(guest);
        let pause = steps.iter().filter(own).find_map(|step| match (&step.effect, &step.fact) {
            (Effect::Resume { .. }, Fact::Paused(pause)) => Some(*pause),
            _ => None,
        })?;
        let setup = steps.iter().filter(own).find_map(|step| match step.fact {
            Fact::Received { setup, .. } => Some(setup),
            _ => None,
        });
        let (mut parts, mut from) = (Self::default(), pause.stopped);
        for step in steps {
            let until = step.ended.clamp(from, pause.stopped + pause.pause);
            let took = until - from;
            from = until;
            match step.effect {
                Effect::SnapshotVolumes => parts.snapshot += took,
                Effect::Suspend { .. } if own(&step) => parts.suspend += took,
                Effect::SaveMemory { .. } if own(&step) => {
                    parts.setup = setup.unwrap_or_default().min(took);
                    parts.device_state = took - parts.setup;
                }
                Effect::Resume { .. } if own(&step) => parts.resume += took,
                _ => parts.others += took,
            }
        }
        Some(parts)
    }

    fn named(&self) -> [(&'static str, Duration); 6] {
        [
            ("suspend", self.suspend),
            ("snapshot", self.snapshot),
            ("setup", self.setup),
            ("device_state", self.device_state),
            ("resume", self.resume),
            ("others", self.others),
        ]
    }

    /// For programs, in milliseconds.
    pub(crate) fn to_json(self) -> Value {
        let parts = self.named().map(|(name, part)| (name.to_owned(), json!(in_ms(part))));
        Value::Object(parts.into_iter().collect())
    }
}

impl fmt::Display for Parts {
    /// For people: the parts that took any time.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.named().into_iter().filter(|(_, part)| !part.is_zero());
        let parts: Vec<_> = parts
            .map(|(name, part)| format!("{} {:.1} ms", name.replace('_', " "), in_ms(part)))
            .collect();
        f.write_str(&parts.join(", "))
    }
}

/// Milliseconds with three decimals.
pub(crate) fn in_ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use vitrify_core::ports::Pause;

    use super::*;

    fn step(effect: Effect, fact: Fact, ended_ms: u64) -> Step {
        Step { effect, fact, ended: Duration::from_millis(ended_ms) }
    }

    /// A guest that stopped at 1,000 ms and ran again at 1,100 ms, beside another.
    fn steps() -> [Step; 8] {
        let name = |name: &str| name.parse::<GuestName>().unwrap();
        let (web, db) = (|| name("web"), || name("db"));
        let ms = Duration::from_millis;
        let paused = |pause| Fact::Paused(Pause { pause: ms(pause), stopped: ms(1000) });
        [
            step(Effect::OpenStream { guest: web() }, Fact::Done, 990),
            step(Effect::Suspend { guest: web() }, Fact::Done, 1003),
            step(Effect::Suspend { guest: db() }, Fact::Done, 1010),
            step(Effect::SnapshotVolumes, Fact::Done, 1050),
            step(Effect::SaveMemory { guest: web() }, Fact::Done, 1090),
            // The answer comes later than the event.
            step(Effect::Resume { guest: web() }, paused(100), 1104),
            step(Effect::Resume { guest: db() }, Fact::Done, 1200),
            step(
                Effect::ReceiveMemory { guest: web() },
                Fact::Received { stalled: Duration::ZERO, setup: ms(12) },
                1500,
            ),
        ]
    }

    #[test]
    fn the_parts_add_up_to_the_pause() {
        let parts = Parts::of(&steps(), &"web".parse().unwrap()).unwrap();
        assert_eq!(
            parts.to_string(),
            "suspend 3.0 ms, snapshot 40.0 ms, setup 12.0 ms, device state 28.0 ms, \
             resume 10.0 ms, others 7.0 ms"
        );
        assert_eq!(
            parts.named().map(|it| it.1).iter().sum::<Duration>(),
            Duration::from_millis(100)
        );
        assert_eq!(parts.to_json()["device_state"], json!(28.0));
    }

    #[test]
    fn a_qemu_that_resumes_the_guest_itself_leaves_nothing_to_resume() {
        let mut steps = steps();
        if let Fact::Paused(pause) = &mut steps[5].fact {
            pause.pause = Duration::from_millis(80);
        }
        let parts = Parts::of(&steps, &"web".parse().unwrap()).unwrap();
        assert_eq!(parts.device_state, Duration::from_millis(18));
        assert_eq!(parts.resume, Duration::ZERO);
    }

    #[test]
    fn whose_pause_is_not_known_has_no_parts() {
        assert_eq!(Parts::of(&steps(), &"db".parse().unwrap()), None);
    }
}
