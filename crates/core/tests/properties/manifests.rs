//! Manifests come back as they were written and in no other way, and points are selected fairly.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select as one_of;
use vitrify_core::capture::{Consistency, Engine, MachineFile, NVRAM};
use vitrify_core::fake::sample_manifest;
use vitrify_core::inventory::{GuestState, Snapshot};
use vitrify_core::manifest::{Manifest, MemoryImage, PointDisk, UncoveredDisk};
use vitrify_core::name::{Bytes, PointId, PointName};
use vitrify_core::point::{PointRef, is_safety, select};

const TIMES: std::ops::Range<i64> = 1_700_000_000_000_000..1_800_000_000_000_000;

fn uuid() -> impl Strategy<Value = String> {
    "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
}

fn point_name() -> impl Strategy<Value = PointName> {
    "[a-zA-Z0-9_][a-zA-Z0-9_:.-]{0,20}(_safety|_manual)?".prop_map(|text| text.parse().unwrap())
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    ("/\\PC{0,12}", point_name(), uuid()).prop_map(|(volume, name, id)| Snapshot {
        volume: volume.parse().unwrap(),
        name,
        id: id.parse().unwrap(),
    })
}

fn disk() -> impl Strategy<Value = PointDisk> {
    ("\\PC{0,6}", "/\\PC{0,20}", "raw|qcow2", "/\\PC{0,12}", "\\PC{0,12}").prop_map(
        |(target, path, format, volume, below)| PointDisk {
            target,
            path: path.into(),
            format,
            volume: volume.parse().unwrap(),
            path_in_volume: Some(below.into()),
        },
    )
}

fn memory() -> impl Strategy<Value = MemoryImage> {
    (any::<u64>(), "[0-9a-f]{64}")
        .prop_map(|(bytes, blake3)| MemoryImage { bytes: Bytes(bytes), blake3 })
}

prop_compose! {
    fn manifest()(
        (id, names) in (uuid(), prop::collection::vec(point_name(), 0..3)),
        microseconds in TIMES,
        state in one_of(vec![GuestState::Running, GuestState::PausedByUser, GuestState::ShutOff]),
        consistency in one_of(vec![Consistency::Memory, Consistency::Crash, Consistency::Off]),
        engine in one_of(vec![Engine::Overlay, Engine::Plain]),
        (reason, pause_us, stalled_us) in (any::<String>(), any::<Option<u64>>(), any::<u64>()),
        volumes in prop::collection::vec(snapshot(), 0..3),
        disks in prop::collection::vec(disk(), 0..3),
        uncovered in prop::collection::vec(("\\PC{0,6}", any::<String>()), 0..2),
        (memory, nvram) in (option::of(memory()), option::of("/\\PC{0,12}")),
    ) -> Manifest {
        let uncovered = uncovered.into_iter().map(|(target, reason)| UncoveredDisk { target, reason });
        Manifest {
            id: id.parse().unwrap(),
            names,
            time: Timestamp::from_microsecond(microseconds).unwrap(),
            state,
            consistency,
            engine,
            reason,
            pause_us,
            stalled_us,
            volumes,
            disks,
            uncovered: uncovered.collect(),
            memory,
            machine_files: nvram.into_iter().map(machine_file).collect(),
            ..sample_manifest("2026-11-23T10:00:00Z", "one")
        }
    }
}

fn machine_file(path: String) -> MachineFile {
    MachineFile { name: NVRAM.into(), path: path.into() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_manifest_comes_back_as_it_was_written(manifest in manifest()) {
        let text = manifest.to_text();
        let read = Manifest::parse(&text).unwrap();
        prop_assert_eq!(&read, &manifest);
        prop_assert_eq!(read.to_text(), text);
    }

    /// A byte that has no meaning (blanks between words) may change; none that has.
    #[test]
    fn a_changed_manifest_is_refused_or_says_the_same(
        manifest in manifest(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 40),
    ) {
        let text = manifest.to_text();
        for (index, byte) in changes {
            let mut bytes = text.clone().into_bytes();
            let at = index.index(bytes.len());
            bytes[at] = byte;
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            if let Ok(read) = Manifest::parse(&changed) {
                prop_assert_eq!(&read, &manifest, "byte {} became {:?}", at, byte as char);
            }
        }
    }

    #[test]
    fn what_is_selected_was_there_and_fits(
        points in prop::collection::vec(manifest(), 0..8),
        text in prop_oneof!["latest(-[0-9])?", "20(23|24|25)-0[1-9]-0[1-9]", "\\PC{1,8}"],
    ) {
        let points: Vec<&Manifest> = points.iter().collect();
        let wanted = PointRef { guest: "w".parse().unwrap(), point: text.clone() };
        if let Ok(found) = select(&points, &wanted, &TimeZone::UTC) {
            prop_assert!(points.iter().any(|point| std::ptr::eq(*point, found)));
            let named = found.names.iter().any(|name| name.as_str() == text);
            prop_assert!(named || !is_safety(found), "a safety point was not asked for");
        }
    }

    #[test]
    fn names_and_ids_find_their_point(points in prop::collection::vec(manifest(), 1..8)) {
        let all: Vec<&Manifest> = points.iter().collect();
        for point in &points {
            let by = |text: &str| {
                let wanted = PointRef { guest: "w".parse().unwrap(), point: text.to_owned() };
                select(&all, &wanted, &TimeZone::UTC).map(|found| found.id.clone())
            };
            let id: Result<PointId, _> = by(point.id.as_str());
            prop_assert_eq!(id.as_ref(), Ok(&point.id));
            for name in &point.names {
                let found = by(name.as_str()).unwrap();
                let bearers = points.iter().filter(|it| it.names.contains(name));
                prop_assert!(bearers.map(|it| &it.id).any(|id| *id == found));
            }
        }
    }

    /// `latest` is the newest regular point, `latest-1` the one before, and a newer one moves each
    /// by one.
    #[test]
    fn latest_counts_back_in_time(points in prop::collection::vec(manifest(), 0..8)) {
        let regular = |points: &[&Manifest]| points.iter().filter(|it| !is_safety(it)).count();
        let nth = |points: &[&Manifest], back: usize| {
            let point = format!("latest-{back}");
            let wanted = PointRef { guest: "w".parse().unwrap(), point };
            select(points, &wanted, &TimeZone::UTC).ok().map(|found| found.time)
        };
        let all: Vec<&Manifest> = points.iter().collect();
        let times: Vec<_> = (0..=points.len()).map(|back| nth(&all, back)).collect();
        prop_assert_eq!(times.iter().flatten().count(), regular(&all));
        prop_assert!(times.is_sorted_by(|newer, older| newer >= older), "{:?}", times);

        let newest = sample_manifest("2099-01-01T00:00:00Z", "newest");
        let more: Vec<&Manifest> = all.iter().copied().chain([&newest]).collect();
        prop_assert_eq!(nth(&more, 0), Some(newest.time));
        for (back, time) in times.iter().enumerate() {
            prop_assert_eq!(&nth(&more, back + 1), time);
        }
    }
}
