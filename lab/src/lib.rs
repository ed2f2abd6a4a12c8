//! The lab: real libvirt guests on real pools, for the tests, the demo and the benchmark.
//!
//! A [`world::World`] ties together a fresh pool, a memory store, a place for overlays and a
//! configuration, and runs the real `vitrify` against them. A [`guest::Guest`] in it boots the
//! witness, which says on its serial port ([`serial::Serial`]) whether its memory and disks are of
//! one instant: a small Linux, or boot-sector code where that would take too long.
//! [`harness::run`] runs tests on such worlds one after the other and reports those that cannot run
//! here as skipped. Everything is removed when it is dropped. Needs root and what `cargo xtask setup`
//! provides; guests are emulated, no KVM is needed.

pub mod chaos;
pub mod cpio;
pub mod draw;
pub mod dump;
pub mod events;
pub mod figures;
pub mod files;
pub mod guest;
pub mod harness;
pub mod hook;
pub mod image;
pub mod interrupt;
pub mod journal;
pub mod leftovers;
pub mod pool;
pub mod program;
pub mod run;
pub mod scene;
pub mod scratch;
pub mod serial;
pub mod started;
pub mod trace;
pub mod units;
pub mod vitrify;
pub mod work;
pub mod world;

mod boot;
mod proof;
mod sweep;
mod watch;
mod xml;
