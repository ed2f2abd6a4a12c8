//! Homes in plain folders; those on Btrfs are the lab's.

use std::os::unix::fs::MetadataExt;

use serde_json::json;
use tempfile::TempDir;
use vitrify_core::fake::sample_save_image;
use vitrify_core::ports::FileContent;
use vitrify_core::problem::ProblemKind;

use super::*;

const GUEST: &str = "0b6c9c52-7d4e-4c0e-9b3c-0d1f5f0e2a11";
const POINT: &str = "11111111-7d4e-4c0e-9b3c-0d1f5f0e2a11";

struct World {
    scratch: TempDir,
    store: Store,
    guest: GuestUuid,
    point: PointId,
}

fn store_at(path: PathBuf, on_root: bool) -> Store {
    let reserve = Reserve::default();
    Store::new(
        StoreConfig { path, reserve, on_root, spool: None, stall: StallLimits::default() },
        Arc::default(),
    )
}

fn world() -> World {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().to_owned();
    let store = store_at(path, true);
    World { scratch, store, guest: GUEST.parse().unwrap(), point: POINT.parse().unwrap() }
}

impl World {
    fn stage(&self, memory: Option<u8>) -> Manifest {
        let xml = FileContent::Text("<domain/>".into());
        let file = NamedFile { name: "domain.xml".into(), content: xml };
        self.store.stage(&self.guest, &self.point, &[file]).unwrap();
        let memory = memory.map(|content| {
            let place = self.store.staged_memory(&self.guest, &self.point);
            fs::write(place, sample_save_image(content)).unwrap();
            self.store.seal_memory(&self.guest, &self.point).unwrap()
        });
        manifest(memory)
    }

    fn found(&self) -> FoundPoint {
        let mut points = self.store.points().unwrap();
        assert_eq!(points.len(), 1);
        points.remove(0)
    }

    fn home(&self) -> PathBuf {
        self.scratch.path().join(GUEST)
    }
}

fn manifest(memory: Option<MemoryImage>) -> Manifest {
    serde_json::from_value(json!({
        "version": 1, "id": POINT, "names": ["p1"], "guest": "web", "guest_uuid": GUEST,
        "time": "2026-11-23T12:00:00Z", "state": "running", "consistency": "memory",
        "engine": "overlay", "reason": "as asked", "pause_us": null, "stalled_us": 0,
        "volumes": [], "disks": [], "uncovered": [], "memory": memory, "machine_files": [],
        "machine": "pc", "hypervisor": "none", "kernel": "6.1",
    }))
    .unwrap()
}

#[test]
fn a_point_is_staged_published_and_found() {
    let world = world();
    let manifest = world.stage(Some(7));
    assert!(world.store.points().unwrap().is_empty());
    let memory = manifest.memory.clone().unwrap();
    assert_eq!(world.store.seal_memory(&world.guest, &world.point).unwrap(), memory);

    let published = world.store.publish(&manifest).unwrap();
    assert!(published.stored.0 >= 4096 && published.home_snapshot.is_none(), "{published:?}");
    assert_eq!(world.store.publish(&manifest).unwrap(), published);
    let found = world.found();
    assert!(found.published);
    assert_eq!(found.manifest.as_ref().unwrap(), &manifest);
    assert_eq!(fs::read_to_string(found.folder.join("domain.xml")).unwrap(), "<domain/>");
    // By pages in a folder, or as a whole in a file, as the test's own file system has it.
    let mode_of_image = if found.memory.as_ref().unwrap().is_dir() { 0o700 } else { 0o600 };
    for (path, mode) in [
        (world.home(), 0o700),
        (found.folder.clone(), 0o700),
        (found.folder.join("manifest.json"), 0o600),
        (found.memory.clone().unwrap(), mode_of_image),
    ] {
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, mode, "{}", path.display());
    }
    let told = std::cell::Cell::new(Bytes(0));
    world.store.check_memory(&found, &|bytes| told.set(bytes)).unwrap();
    assert_eq!(told.get(), memory.bytes);

    world.store.discard(&world.guest, &world.point).unwrap();
    world.store.discard(&world.guest, &world.point).unwrap();
    assert!(world.store.points().unwrap().is_empty());
}

#[test]
fn staging_twice_keeps_the_image() {
    let world = world();
    let manifest = world.stage(Some(7));
    let nvram = FileContent::Text("vars".into());
    let file = NamedFile { name: "nvram".into(), content: nvram };
    world.store.stage(&world.guest, &world.point, &[file]).unwrap();
    world.store.publish(&manifest).unwrap();
    let found = world.found();
    assert_eq!(fs::read(found.folder.join("nvram")).unwrap(), b"vars");
    world.store.check_memory(&found, &|_| {}).unwrap();
}

#[test]
fn a_managed_save_image_is_copied() {
    let world = world();
    world.stage(None);
    let image = world.scratch.path().join("web.save");
    fs::write(&image, sample_save_image(7)).unwrap();
    world.store.stage_memory_copy(&world.guest, &world.point, &image).unwrap();
    world.store.stage_memory_copy(&world.guest, &world.point, &image).unwrap();
    let memory = world.store.seal_memory(&world.guest, &world.point).unwrap();
    world.store.publish(&manifest(Some(memory))).unwrap();
    let found = world.found();
    world.store.check_memory(&found, &|_| {}).unwrap();
}

#[test]
fn an_image_that_is_gone_is_refused() {
    let world = world();
    let manifest = world.stage(Some(7));
    world.store.publish(&manifest).unwrap();
    let path = world.found().memory.unwrap();
    if path.is_dir() {
        fs::remove_dir_all(&path).unwrap();
    } else {
        fs::remove_file(&path).unwrap();
    }
    let problem = world.store.check_memory(&world.found(), &|_| {}).unwrap_err();
    assert_eq!(problem.kind, ProblemKind::Refused);
    assert!(problem.message.contains(POINT), "{problem}");
}

#[test]
fn memory_is_written_out_for_libvirt() {
    let world = world();
    let manifest = world.stage(Some(7));
    world.store.publish(&manifest).unwrap();
    let target = world.store.save_image(&world.guest, &world.point);
    for _ in 0..2 {
        world.store.write_save_image(&world.found(), &target, &|_| {}).unwrap();
    }
    let written = fs::read(&target).unwrap();
    assert!(written.starts_with(b"LibvirtQemudSave"));
    assert_eq!(fs::metadata(&target).unwrap().mode() & 0o7777, 0o600);
}

#[test]
fn a_manifest_that_cannot_be_believed_is_reported() {
    let world = world();
    let manifest = world.stage(None);
    world.store.publish(&manifest).unwrap();
    let file = world.found().folder.join("manifest.json");
    let text = fs::read_to_string(&file).unwrap();
    let other = PathBuf::from(file.to_str().unwrap().replace("11111111-", "22222222-"));
    fs::create_dir(other.parent().unwrap()).unwrap();
    for changed in [text.replace("web", "wed"), text[..text.len() / 2].into(), String::new()] {
        fs::write(&file, changed).unwrap();
        fs::write(&other, &text).unwrap();
        let points = world.store.points().unwrap();
        assert_eq!(points.len(), 2);
        for point in points {
            let problem = point.manifest.unwrap_err();
            assert_eq!(problem.kind, ProblemKind::Refused);
            assert!(problem.message.contains(point.folder.to_str().unwrap()), "{problem}");
        }
    }
}

#[test]
fn foreign_folders_are_ignored() {
    let world = world();
    for folder in ["lost+found", "points", &GUEST.to_uppercase(), &format!("{GUEST}/points/notes")]
    {
        fs::create_dir_all(world.scratch.path().join(folder)).unwrap();
    }
    fs::write(world.scratch.path().join("22222222-7d4e-4c0e-9b3c-0d1f5f0e2a11"), "a file").unwrap();
    assert!(world.store.points().unwrap().is_empty());
}

#[test]
fn publishing_is_carried_on_and_a_half_published_point_discarded() {
    let world = world();
    let manifest = world.stage(Some(7));
    // As after a crash between the manifest and the rename.
    let incoming = world.home().join("incoming").join(POINT);
    fs::write(incoming.join(".manifest.json.new"), "half").unwrap();
    fs::write(incoming.join("manifest.json"), manifest.to_text()).unwrap();
    world.store.publish(&manifest).unwrap();
    let found = world.found();
    assert!(found.published && !found.folder.join(".manifest.json.new").exists());
    // As after a crash in the middle of a discard: the files are back in the staging folder.
    fs::rename(&found.folder, &incoming).unwrap();
    assert!(world.store.points().unwrap().is_empty());
    world.store.discard(&world.guest, &world.point).unwrap();
    assert!(!incoming.exists());
}

#[test]
fn an_image_that_vanished_is_not_published() {
    let world = world();
    let manifest = world.stage(Some(7));
    let incoming = world.home().join("incoming").join(POINT);
    for name in ["memory", "memory.zst"] {
        let _ = fs::remove_dir_all(incoming.join(name))
            .or_else(|_| fs::remove_file(incoming.join(name)));
    }
    assert!(world.store.publish(&manifest).is_err());
    assert!(world.store.points().unwrap().is_empty());
}

#[test]
fn the_store_is_looked_at() {
    let world = world();
    let facts = world.store.store().unwrap();
    assert_eq!(facts.path, world.scratch.path());
    assert_eq!(facts.no_memory, None);
    assert!(facts.free > Bytes(0));
    let absent = world.scratch.path().join("absent");
    let store = store_at(absent, false);
    assert_eq!(store.store().unwrap_err().kind, ProblemKind::Lacking);
    assert_eq!(
        store.stage(&world.guest, &world.point, &[]).unwrap_err().kind,
        ProblemKind::Lacking
    );
    assert!(store.points().unwrap().is_empty());
}
