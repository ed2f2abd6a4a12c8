//! What an administrator is told at the end of a tick, where it is worth a word.

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Some of the work failed.
    Failure,
    /// A point was taken that is less than its rule demands.
    Degraded,
    /// All is well again, after a tick of which that could not be said.
    Recovery,
}

impl Event {
    /// The word for it, as the command is told.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Degraded => "degraded",
            Self::Recovery => "recovery",
        }
    }
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What happened.
    pub event: Event,
    /// A line for each thing that is not as it should be, what failed first.
    pub message: String,
}

impl Notice {
    /// Of a tick in which these things failed and fell short. Where nothing did, that is worth a word
    /// only if it could not be said before (`was_in_order`), and if what was taken then has been
    /// followed by better (`is_still_short`): a tick in which nothing was due makes nothing better.
    pub fn of(
        failures: &[String],
        shortfalls: &[String],
        was_in_order: bool,
        is_still_short: bool,
    ) -> Option<Self> {
        let event = match (failures, shortfalls) {
            ([], []) if was_in_order || is_still_short => return None,
            ([], []) => Event::Recovery,
            ([], _) => Event::Degraded,
            _ => Event::Failure,
        };
        let message = match event {
            Event::Recovery => "all guests are in order again".to_owned(),
            _ => [failures, shortfalls].concat().join("\n"),
        };
        Some(Self { event, message })
    }

    /// The variables that the command gets.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("VITRIFY_EVENT", self.event.as_str().to_owned()),
            ("VITRIFY_MESSAGE", self.message.clone()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns: what failed, what fell short, whether the last tick was in order, whether a newest point
    /// still falls short, what is told.
    #[test]
    fn what_is_told() {
        for (failures, shortfalls, was_in_order, is_still_short, wanted) in [
            (&[][..], &[][..], true, false, None),
            (&[], &[], true, true, None),
            (&[], &[], false, true, None),
            (&[], &[], false, false, Some("recovery: all guests are in order again")),
            (&[], &["web: it is crash"], true, true, Some("degraded: web: it is crash")),
            (&["db: no room"], &[], false, false, Some("failure: db: no room")),
            (
                &["db: no room", "mail: it is locked"],
                &["web: it is crash"],
                true,
                true,
                Some("failure: db: no room\nmail: it is locked\nweb: it is crash"),
            ),
        ] {
            let [failures, shortfalls]: [Vec<_>; 2] =
                [failures, shortfalls].map(|it| it.iter().map(ToString::to_string).collect());
            let notice = Notice::of(&failures, &shortfalls, was_in_order, is_still_short);
            let said = notice.map(|it| {
                let [event, message] = &it.environment()[..] else { panic!("{it:?}") };
                assert_eq!((event.0, message.0), ("VITRIFY_EVENT", "VITRIFY_MESSAGE"));
                format!("{}: {}", event.1, message.1)
            });
            assert_eq!(said.as_deref(), wanted);
        }
    }
}
