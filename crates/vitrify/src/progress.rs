//! What a user sees while an operation runs: a spinner with the present step on a terminal, a line
//! for each step otherwise; and Ctrl-C.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use indicatif::ProgressBar;
use vitrify_core::engine::Observer;
use vitrify_core::name::{GuestName, PointName};
use vitrify_core::operation::{Effect, Fact};
use vitrify_core::problem::{Problem, ProblemKind};

use crate::journald::Message;
use crate::pause::{Parts, Step};

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Nothing but errors.
    Quiet,
    /// A line for each step.
    Lines,
    /// A spinner.
    Spinner,
}

impl Style {
    pub(crate) fn of(quiet: bool, verbose: bool, no_progress: bool) -> Self {
        match (quiet, verbose) {
            (true, _) => Self::Quiet,
            (_, true) => Self::Lines,
            _ if no_progress => Self::Quiet,
            _ if std::io::stderr().is_terminal() => Self::Spinner,
            _ => Self::Lines,
        }
    }
}

/// Shows an operation's steps, and hears of Ctrl-C.
pub(crate) struct Progress {
    subject: String,
    /// The one guest that it is about, and the point.
    about: (Option<GuestName>, Option<PointName>),
    style: Style,
    bar: ProgressBar,
    steps: RefCell<Vec<Step>>,
    cancelled: Arc<AtomicBool>,
}

impl Progress {
    /// For the operation on `subject`.
    pub(crate) fn new(
        subject: impl Into<String>,
        style: Style,
        cancelled: Arc<AtomicBool>,
    ) -> Self {
        let bar = match style {
            Style::Spinner => ProgressBar::new_spinner(),
            _ => ProgressBar::hidden(),
        };
        bar.enable_steady_tick(Duration::from_millis(100));
        let (subject, about) = (subject.into(), (None, None));
        Self { subject, about, style, bar, steps: RefCell::default(), cancelled }
    }

    /// What its messages are about.
    pub(crate) fn about(mut self, guest: Option<&GuestName>, point: Option<&PointName>) -> Self {
        self.about = (guest.cloned(), point.cloned());
        self
    }

    /// Says what is being done now.
    pub(crate) fn say(&self, what: &str) {
        self.say_of(None, what);
    }

    fn say_of(&self, guest: Option<&GuestName>, what: &str) {
        match self.style {
            Style::Quiet => {}
            Style::Lines => self.note(guest, &format!("{}: {what}", self.subject)),
            Style::Spinner => self.show(what),
        }
    }

    fn note(&self, guest: Option<&GuestName>, text: &str) {
        let (only, point) = &self.about;
        let guest = guest.or(only.as_ref()).map(GuestName::as_str);
        let point = point.as_ref().map(PointName::as_str);
        self.bar.suspend(|| note_of(guest, point, text));
    }

    /// What a guest's pause was spent on, as far as it is over.
    pub(crate) fn pause(&self, guest: &GuestName) -> Option<Parts> {
        Parts::of(&self.steps.borrow(), guest)
    }

    /// Says how far it is, where that can be seen to move.
    pub(crate) fn show(&self, what: &str) {
        self.bar.set_message(format!("{}: {what}", self.subject));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for Progress {
    fn begins(&self, effect: &Effect) {
        self.say_of(effect.guest(), &effect.to_string());
    }

    fn ended(&self, effect: &Effect, result: &Result<Fact, Problem>) {
        if let Ok(Fact::Torn { snapshots }) = result {
            for it in snapshots {
                let text = format!(
                    "warning: {}: snapshot {} was taken by others while an overlay was committed \
                     there: what it holds of the guest's disks is of no instant",
                    self.subject, it.name
                );
                self.note(effect.guest(), &text);
            }
        }
        if let Ok(fact) = result {
            let ended = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
            let (effect, fact) = (effect.clone(), fact.clone());
            self.steps.borrow_mut().push(Step { effect, fact, ended });
        }
        if let Err(problem) = result
            && problem.kind != ProblemKind::Dying
            && self.style != Style::Quiet
        {
            let text = format!("{}: cannot {effect}: {}", self.subject, problem.chain());
            self.note(effect.guest(), &text);
        }
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// A message to the user.
pub(crate) fn note(text: &str) {
    note_of(None, None, text);
}

/// A message about a guest, or about its point.
#[expect(clippy::print_stderr, reason = "this is where messages go to stderr")]
pub(crate) fn note_of(guest: Option<&str>, point: Option<&str>, text: &str) {
    if !(Message { text, guest, point }).send_instead_of(std::io::stderr()) {
        eprintln!("{text}");
    }
}
