//! What a monitoring system is told, in Prometheus' text format.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use jiff::Timestamp;

use super::Period;
use super::retention::{PointFacts, facts, taken};
use super::status::Level;
use crate::capture::Consistency;
use crate::name::{Bytes, GuestName, Volume};
use crate::ports::{FoundPoint, StoreFacts};

/// What is told of a host.
#[derive(Debug)]
pub struct Metrics {
    /// The guests that a rule covers.
    pub guests: Vec<GuestMetrics>,
    /// How many guests no rule covers.
    pub unprotected: usize,
    /// The volumes without guests that a rule covers.
    pub volumes: Vec<VolumeMetrics>,
    /// When the last tick was, if there was one.
    pub last_tick: Option<Timestamp>,
    /// The memory store, where it is there.
    pub store: Option<StoreFacts>,
}

/// What is told of a volume without guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeMetrics {
    /// The volume.
    pub volume: Volume,
    /// How it stands.
    pub level: Level,
    /// How many snapshots of ours it has.
    pub snapshots: usize,
    /// When the newest snapshot of each period was taken.
    pub newest: BTreeMap<Period, Timestamp>,
}

impl VolumeMetrics {
    /// Of a volume with these snapshots.
    pub fn of(volume: &Volume, level: Level, snapshots: &[PointFacts]) -> Self {
        let newest = newest(snapshots);
        Self { volume: volume.clone(), level, snapshots: snapshots.len(), newest }
    }
}

/// When the newest of each period was taken.
fn newest(points: &[PointFacts]) -> BTreeMap<Period, Timestamp> {
    let mut newest = BTreeMap::new();
    for (period, time) in taken(points) {
        newest.entry(period).and_modify(|it: &mut Timestamp| *it = time.max(*it)).or_insert(time);
    }
    newest
}

/// What is told of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestMetrics {
    /// The guest.
    pub guest: GuestName,
    /// How it stands.
    pub level: Level,
    /// How many points it has.
    pub points: usize,
    /// How many of them have their memory image.
    pub memory_images: usize,
    /// How long those are together, before they share or compress anything.
    pub memory_image_bytes: Bytes,
    /// When the newest point of each period was taken.
    pub newest: BTreeMap<Period, Timestamp>,
    /// What the newest scheduled point promises.
    pub reached: Option<Consistency>,
    /// What its rule demands.
    pub demanded: Option<Consistency>,
    /// When the newest point that passed a drill was taken.
    pub drilled: Option<Timestamp>,
}

impl GuestMetrics {
    /// Of a guest with these published points.
    pub fn of<'a>(
        guest: &GuestName,
        level: Level,
        demanded: Option<Consistency>,
        points: impl Iterator<Item = &'a FoundPoint>,
    ) -> Self {
        let points: Vec<_> = points.filter(|it| it.manifest.is_ok()).collect();
        let facts = facts(points.iter().copied(), &[], demanded);
        let newest = newest(&facts);
        let scheduled = facts.iter().filter(|it| it.periods().next().is_some());
        let last = scheduled.max_by_key(|it| it.time).map(|it| &it.id);
        let manifests = points.iter().filter_map(|it| Some((*it, it.manifest.as_ref().ok()?)));
        let reached = manifests.clone().find(|it| Some(&it.0.id) == last);
        let images = manifests.filter(|it| !it.0.expired).filter_map(|it| it.1.memory.as_ref());
        let lengths: Vec<_> = images.map(|it| it.bytes.0).collect();
        Self {
            guest: guest.clone(),
            level,
            points: facts.len(),
            memory_images: lengths.len(),
            memory_image_bytes: Bytes(lengths.iter().sum()),
            newest,
            reached: reached.map(|(point, manifest)| point.promises(manifest)),
            demanded,
            drilled: facts.iter().filter(|it| it.drilled).map(|it| it.time).max(),
        }
    }

    fn has_reached(&self) -> Option<bool> {
        let reached = self.reached?;
        Some(self.demanded.is_none_or(|demanded| reached.meets(demanded)))
    }
}

impl Metrics {
    /// All of it as text. What is not known has no line.
    pub fn to_prometheus(&self) -> String {
        let mut text = Text::default();
        text.gauge("vitrify_guests", "Guests that a rule covers.", [sample(self.guests.len())]);
        let help = "Guests that no rule covers.";
        text.gauge("vitrify_guests_unprotected", help, [sample(self.unprotected)]);
        let tick = self.last_tick.map(|it| sample(it.as_second()));
        text.gauge("vitrify_last_tick_timestamp_seconds", "When 'vitrify run' last ran.", tick);
        let store = |of: fn(&StoreFacts) -> Bytes| self.store.as_ref().map(|it| sample(of(it).0));
        let help = "Free room of the memory store.";
        text.gauge("vitrify_store_free_bytes", help, store(|it| it.free));
        let help = "Room of the memory store that stays free.";
        text.gauge("vitrify_store_reserved_bytes", help, store(|it| it.reserve));
        text.gauge(
            "vitrify_guest_level",
            "How a guest stands against its policy: 0 ok, 1 warning, 2 critical.",
            self.of_guests(|it| Some(it.level as u8)),
        );
        let help = "Restore points of a guest.";
        text.gauge("vitrify_guest_points", help, self.of_guests(|it| Some(it.points)));
        let help = "Restore points of a guest that have their memory image.";
        text.gauge(
            "vitrify_guest_memory_images",
            help,
            self.of_guests(|it| Some(it.memory_images)),
        );
        text.gauge(
            "vitrify_guest_memory_image_bytes",
            "The length of a guest's memory images; the store shares and compresses them.",
            self.of_guests(|it| Some(it.memory_image_bytes.0)),
        );
        let newest = self.guests.iter().flat_map(|it| {
            it.newest.iter().map(|(period, time)| {
                let labels = [("guest", it.guest.to_string()), ("period", period.to_string())];
                (labels.to_vec(), time.as_second().to_string())
            })
        });
        text.gauge(
            "vitrify_guest_newest_point_timestamp_seconds",
            "When the newest point of a period was taken.",
            newest,
        );
        let reached = self.guests.iter().filter_map(|it| {
            let demanded = it.demanded.map_or("", Consistency::as_str);
            let labels = [
                ("guest", it.guest.as_str()),
                ("consistency", it.reached?.as_str()),
                ("demanded", demanded),
            ];
            let labels = labels.map(|(name, value)| (name, value.to_owned())).to_vec();
            Some((labels, u8::from(it.has_reached()?).to_string()))
        });
        text.gauge(
            "vitrify_guest_consistency_reached",
            "Whether the newest scheduled point promises what the guest's rule demands.",
            reached,
        );
        text.gauge(
            "vitrify_guest_drilled_point_timestamp_seconds",
            "When the newest point that passed a drill was taken.",
            self.of_guests(|it| Some(it.drilled?.as_second())),
        );
        text.gauge(
            "vitrify_volume_level",
            "How a volume without guests stands against its policy: 0 ok, 1 warning, 2 critical.",
            self.of_volumes(|it| (it.level as u8).to_string()),
        );
        let help = "Snapshots of ours that a volume without guests has.";
        text.gauge(
            "vitrify_volume_snapshots",
            help,
            self.of_volumes(|it| it.snapshots.to_string()),
        );
        let newest = self.volumes.iter().flat_map(|it| {
            it.newest.iter().map(|(period, time)| {
                let labels = [("volume", it.volume.to_string()), ("period", period.to_string())];
                (labels.to_vec(), time.as_second().to_string())
            })
        });
        text.gauge(
            "vitrify_volume_newest_snapshot_timestamp_seconds",
            "When the newest snapshot of a period was taken.",
            newest,
        );
        text.0
    }

    fn of_volumes(&self, value: fn(&VolumeMetrics) -> String) -> impl Iterator<Item = Sample> {
        self.volumes.iter().map(move |it| (vec![("volume", it.volume.to_string())], value(it)))
    }

    fn of_guests<T: Display>(
        &self,
        value: impl Fn(&GuestMetrics) -> Option<T>,
    ) -> impl Iterator<Item = Sample> {
        self.guests.iter().filter_map(move |it| {
            Some((vec![("guest", it.guest.to_string())], value(it)?.to_string()))
        })
    }
}

/// Labels and a value.
type Sample = (Vec<(&'static str, String)>, String);

/// A value without labels.
fn sample(value: impl Display) -> Sample {
    (Vec::new(), value.to_string())
}

#[derive(Default)]
struct Text(String);

impl Text {
    /// A metric with its samples; nothing of one that has none.
    fn gauge(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = Sample>) {
        for (index, (labels, value)) in samples.into_iter().enumerate() {
            if index == 0 {
                let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} gauge");
            }
            let labels =
                labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
            let labels = labels.collect::<Vec<_>>().join(",");
            let _ = match labels.is_empty() {
                true => writeln!(self.0, "{name} {value}"),
                false => writeln!(self.0, "{name}{{{labels}}} {value}"),
            };
        }
    }
}

/// A label's value, as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::sample_manifest;
    use crate::manifest::MemoryImage;
    use crate::problem::Problem;

    /// A point of this time and name; with memory of that many bytes.
    fn point(time: &str, name: &str, memory: Option<u64>, expired: bool) -> FoundPoint {
        let mut manifest = sample_manifest(time, name);
        let image = |bytes| MemoryImage { bytes: Bytes(bytes), blake3: String::new() };
        manifest.memory = memory.map(image);
        manifest.consistency = memory.map_or(Consistency::Crash, |_| Consistency::Memory);
        // Each has a number of its own.
        let number = manifest.time.as_second();
        manifest.id = format!("00000000-0000-4000-8000-{number:012}").parse().unwrap();
        FoundPoint {
            guest: manifest.guest_uuid.clone(),
            id: manifest.id.clone(),
            manifest: Ok(manifest),
            published: true,
            folder: "/store/point".into(),
            memory: None,
            expired,
            holds: Vec::new(),
        }
    }

    /// Columns: time, name, memory, whether that expired.
    #[test]
    fn points_are_counted_so() {
        let mut points: Vec<_> = [
            ("2026-11-27T12:30:00Z", "by-hand", None, false),
            ("2026-11-27T12:00:05Z", "vitrify_2026-11-27_12:00:05_hourly", Some(300), false),
            ("2026-11-27T11:00:05Z", "vitrify_2026-11-27_11:00:05_hourly", Some(20), false),
            ("2026-11-26T23:59:05Z", "vitrify_2026-11-26_23:59:05_daily", Some(1), true),
        ]
        .map(|(time, name, memory, expired)| point(time, name, memory, expired))
        .into();
        points.push(FoundPoint {
            manifest: Err(Problem::failed("damaged")),
            ..point("2026-11-27T13:00:00Z", "damaged", None, false)
        });
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let guest = "w".parse().unwrap();
        let demanded = Some(Consistency::Memory);
        let found = GuestMetrics::of(&guest, Level::Ok, demanded, points.iter());
        let expected = GuestMetrics {
            guest: guest.clone(),
            level: Level::Ok,
            points: 4,
            memory_images: 2,
            memory_image_bytes: Bytes(320),
            newest: [
                (Period::Hourly, at("2026-11-27T12:00:05Z")),
                (Period::Daily, at("2026-11-26T23:59:05Z")),
            ]
            .into(),
            reached: Some(Consistency::Memory),
            demanded,
            drilled: None,
        };
        assert_eq!(found, expected);
        // The daily one alone, and what a removed image promises.
        let last = GuestMetrics::of(&guest, Level::Ok, demanded, points[3..4].iter());
        assert_eq!((last.reached, last.has_reached()), (Some(Consistency::Crash), Some(false)));
        let none = GuestMetrics::of(&guest, Level::Critical, demanded, [].iter());
        assert_eq!((none.points, none.reached, none.has_reached()), (0, None, None));
    }

    fn guest(name: &str) -> GuestMetrics {
        GuestMetrics::of(&name.parse().unwrap(), Level::Critical, None, [].iter())
    }

    #[test]
    fn a_host_reads_so() {
        let time = Timestamp::from_second(1_700_000_000).unwrap();
        let web = GuestMetrics {
            level: Level::Warning,
            points: 3,
            memory_images: 1,
            memory_image_bytes: Bytes(1 << 30),
            newest: [(Period::Hourly, time), (Period::Daily, Timestamp::UNIX_EPOCH)].into(),
            reached: Some(Consistency::Crash),
            demanded: Some(Consistency::Memory),
            drilled: Some(time),
            ..guest("web")
        };
        let db = GuestMetrics { reached: Some(Consistency::Frozen), ..guest("a \"b\" \\ c") };
        let metrics = Metrics {
            guests: vec![web, db],
            unprotected: 2,
            volumes: vec![VolumeMetrics {
                volume: "tank/data".parse().unwrap(),
                level: Level::Ok,
                snapshots: 4,
                newest: [(Period::Hourly, time)].into(),
            }],
            last_tick: Some(time),
            store: Some(StoreFacts {
                path: "/mem".into(),
                kind: "zfs",
                no_memory: None,
                free: Bytes(500),
                reserve: Bytes(50),
            }),
        };
        assert_eq!(metrics.to_prometheus(), include_str!("../../tests/fixtures/metrics.prom"));
    }

    #[test]
    fn what_is_not_known_has_no_line() {
        let metrics = Metrics {
            guests: Vec::new(),
            unprotected: 0,
            volumes: Vec::new(),
            last_tick: None,
            store: None,
        };
        let text = metrics.to_prometheus();
        let samples: Vec<_> = text.lines().filter(|it| !it.starts_with('#')).collect();
        assert_eq!(samples, ["vitrify_guests 0", "vitrify_guests_unprotected 0"]);
        assert_eq!(text.matches("# TYPE").count(), 2);
    }

    #[test]
    fn labels_are_escaped() {
        for (value, expected) in [
            ("web", "web"),
            ("a\\b", "a\\\\b"),
            ("say \"hi\"", "say \\\"hi\\\""),
            ("two\nlines", "two\\nlines"),
            ("\\n", "\\\\n"),
        ] {
            assert_eq!(escaped(value), expected, "{value:?}");
        }
    }
}
