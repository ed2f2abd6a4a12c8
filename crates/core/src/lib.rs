//! What Vitrify decides: names, plans, the machines of capture and restore, and the ports through
//! which an engine performs what they decide. Nothing here touches the machine; `clippy.toml`
//! beside this crate forbids the clock, the environment, processes and files.

#![forbid(unsafe_code)]

pub mod capture;
pub mod config;
pub mod definition;
pub mod engine;
pub mod foreign;
pub mod hooks;
pub mod inventory;
pub mod manifest;
pub mod name;
pub mod notice;
pub mod operation;
pub mod point;
pub mod policy;
pub mod ports;
pub mod problem;
pub mod removal;
pub mod restore;
pub mod sanoid;
pub mod save_image;
pub mod self_test;
pub mod stream;
pub mod userfault;
pub mod volumes;

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
