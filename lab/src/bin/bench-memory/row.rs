//! What was measured: of a capture, and of an image.

use std::time::Duration;

use serde_json::{Value, json};

use crate::options::Writer;

/// Everything that was measured.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) captures: Vec<Capture>,
    pub(crate) images: Vec<Image>,
}

/// One capture.
#[derive(Clone, Debug)]
pub(crate) struct Capture {
    pub(crate) memory_mib: u64,
    pub(crate) writer: Writer,
    pub(crate) round: u64,
    pub(crate) pause_ms: f64,
    pub(crate) stalled_ms: f64,
    pub(crate) total: Duration,
    /// Bytes that the store's file system uses more.
    pub(crate) growth: u64,
    /// Bytes that changed, in blocks of 64 KiB.
    pub(crate) changed: u64,
    /// Bytes of RAM that vitrify had at most.
    pub(crate) resident: u64,
    /// MB/s that the guest made dirty before.
    pub(crate) work_before: f64,
    /// MB/s that it made dirty meanwhile.
    pub(crate) work_during: f64,
}

/// The last image of a guest, received and restored. Times of several rounds are their medians.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) memory_mib: u64,
    pub(crate) bytes: u64,
    pub(crate) ingest: Ingest,
    pub(crate) restore: Restore,
}

/// The same stream received by `cat` and by us.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ingest {
    pub(crate) cat: Duration,
    /// With a sync.
    pub(crate) cat_durable: Duration,
    /// Until the guest would be free.
    pub(crate) ours: Duration,
    pub(crate) ours_durable: Duration,
}

/// The same point restored by libvirt and by us.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Restore {
    /// `virsh restore` of the image as a save image.
    pub(crate) virsh: Duration,
    /// A copy of that.
    pub(crate) cp: Duration,
    /// `vitrify restore`.
    pub(crate) ours: Duration,
    /// Bytes of RAM that vitrify had at most.
    pub(crate) resident: u64,
}

impl Capture {
    /// The growth beyond 2 MiB beside what changed.
    pub(crate) fn growth_per_changed(&self) -> f64 {
        self.growth.saturating_sub(2 << 20) as f64 / self.changed.max(1) as f64
    }

    /// The guest's work during the capture beside before.
    pub(crate) fn work(&self) -> f64 {
        self.work_during / self.work_before
    }

    /// One line for programs.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "bench": "memory", "of": "capture", "memory_mib": self.memory_mib,
            "writer": self.writer.name(), "round": self.round,
            "pause_ms": self.pause_ms, "stalled_ms": self.stalled_ms, "total_ms": in_ms(self.total),
            "growth_bytes": self.growth, "changed_bytes": self.changed,
            "resident_bytes": self.resident,
            "work_before_mbps": tenths(self.work_before), "work_during_mbps": tenths(self.work_during),
        })
    }
}

impl Image {
    /// `cat`'s time beside ours: how fast we are.
    pub(crate) fn ingest_per_cat(&self) -> f64 {
        self.ingest.cat.as_secs_f64() / self.ingest.ours.as_secs_f64()
    }

    /// Our time beside libvirt's with one and a half times the copy's.
    pub(crate) fn restore_per_virsh(&self) -> f64 {
        let Restore { virsh, cp, ours, .. } = self.restore;
        ours.as_secs_f64() / (virsh + cp * 3 / 2).as_secs_f64()
    }

    /// One line for programs.
    pub(crate) fn to_json(&self) -> Value {
        let Ingest { cat, cat_durable, ours, ours_durable } = self.ingest;
        json!({
            "bench": "memory", "of": "image", "memory_mib": self.memory_mib, "bytes": self.bytes,
            "cat_ms": in_ms(cat), "cat_durable_ms": in_ms(cat_durable),
            "ingest_ms": in_ms(ours), "ingest_durable_ms": in_ms(ours_durable),
            "virsh_restore_ms": in_ms(self.restore.virsh), "cp_ms": in_ms(self.restore.cp),
            "restore_ms": in_ms(self.restore.ours),
            "restore_resident_bytes": self.restore.resident,
        })
    }
}

fn in_ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e4).round() / 10.0
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
