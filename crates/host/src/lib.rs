//! What Vitrify does on a real host: the ports of `vitrify-core`, implemented with libvirt, Btrfs,
//! ZFS and plain files.
//!
//! Every module names what it may touch. Programs are started in [`command`] only.

mod blocks;
mod btrfs;
pub mod clock;
pub mod command;
mod files;
pub mod guard;
pub mod homes;
mod huge_pages;
pub mod journal;
pub mod ledger;
pub mod libvirt;
pub mod locks;
mod memory;
mod mounts;
pub mod public_file;
pub mod ram_socket;
pub mod rival;
pub mod script;
pub mod self_test;
pub mod storage;
pub mod tick;
pub mod userfault;
pub mod witness;
pub mod zfs;
