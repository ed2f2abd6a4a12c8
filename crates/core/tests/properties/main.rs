//! Properties: what holds for every text and for every history, not only for those that somebody
//! thought of.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod histories;
mod manifests;
mod policies;
mod removals;
mod sanoid;
mod streams;
mod texts;
mod volumes;
