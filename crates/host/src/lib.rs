//! What Vitrify does on a real host: the ports of `vitrify-core`, implemented with libvirt, Btrfs,
//! and plain files.
//!
//! Every module names what it may touch. Programs are started in [`command`] only.

pub mod btrfs;
pub mod clock;
pub mod command;
mod files;
pub mod homes;
pub mod journal;
pub mod libvirt;
pub mod locks;
mod mounts;
