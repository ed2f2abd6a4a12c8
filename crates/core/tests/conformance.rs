//! The fake keeps the rules of every port; the lab runs the same rules on the real ones.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use vitrify_core::conformance::{Verdict, homes, hypervisor, journal, storage};
use vitrify_core::fake::{Fake, guest_request};
use vitrify_core::inventory::GuestState;
use vitrify_core::name::{GuestUuid, PointId, Volume};
use vitrify_core::ports::{FoundPoint, Homes, Hypervisor, Journal, Storage};

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for (name, check) in storage::rules() {
        trials.push(trial("storage", name, move || check(&mut World::with_guest_off())));
    }
    for &(name, check) in storage::DEVICES {
        trials.push(trial("storage", name, move || check(&mut World::with_guest_off())));
    }
    for &(name, check) in homes::RULES {
        trials.push(trial("homes", name, move || check(&mut World::with_guest_off())));
    }
    for &(name, check) in journal::RULES {
        trials.push(trial("journal", name, move || check(&mut World::with_guest_off())));
    }
    for (name, check) in hypervisor::rules() {
        trials.push(trial("hypervisor", name, move || check(&mut World::new())));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial(port: &str, rule: &str, check: impl FnOnce() -> Verdict + Send + 'static) -> Trial {
    Trial::test(format!("{port}::{rule}"), move || check().map_err(Into::into))
}

/// The fake, and a number for each new name.
struct World {
    fake: Fake,
    next: u32,
}

impl World {
    fn new() -> Self {
        Self { fake: Fake::with_guest(2), next: 0 }
    }

    /// The guest is out of the way, and the files among its disks are gone.
    fn with_guest_off() -> Self {
        let world = Self { fake: Fake::with_disks(2, 1), next: 0 };
        world.fake.change_guest(|guest| {
            guest.state = GuestState::ShutOff;
            guest.session = None;
            guest.live.clear();
            guest.inactive.clear();
        });
        for path in world.fake.files().keys().filter(|path| path.ends_with("disk.img")) {
            let _ = world.fake.remove_file(path);
        }
        world
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn content(&self, path: &Path) -> Option<u64> {
        self.fake.files().get(path).map(|file| file.content)
    }
}

impl storage::Fixture for World {
    fn storage(&self) -> &dyn Storage {
        &self.fake
    }

    fn volumes(&self) -> [Volume; 2] {
        ["/pool/w0", "/pool/w1"].map(|text| match text.parse() {
            Ok(volume) => volume,
            Err(error) => unreachable!("{error}"),
        })
    }

    fn root(&self, volume: &Volume) -> PathBuf {
        volume.as_str().into()
    }

    fn elsewhere(&self) -> PathBuf {
        "/tmp".into()
    }

    fn write(&mut self, path: &Path, content: u8) -> Verdict {
        self.fake.put_file(path, content.into());
        Ok(())
    }

    fn read(&self, path: &Path) -> Result<Option<u8>, String> {
        Ok(self.content(path).and_then(|content| u8::try_from(content).ok()))
    }

    fn obstruct(&mut self, volume: &Volume) -> Verdict {
        self.fake.break_volume(volume);
        Ok(())
    }

    fn is_one_group(&self) -> bool {
        false
    }
}

impl storage::DeviceFixture for World {
    fn device(&self) -> (Volume, PathBuf) {
        match "/pool/w2".parse() {
            Ok(volume) => (volume, "/pool/w2".into()),
            Err(error) => unreachable!("{error}"),
        }
    }
}

impl homes::Fixture for World {
    fn homes(&self) -> &dyn Homes {
        &self.fake
    }

    fn write_memory(&mut self, _: &GuestUuid, point: &PointId, content: u8) -> Verdict {
        self.fake.put_memory(point, content.into());
        Ok(())
    }

    fn damage_memory(&mut self, point: &FoundPoint) -> Verdict {
        self.fake.put_memory(&point.id, 1 << 40);
        Ok(())
    }

    fn save_image(&mut self, content: u8) -> Result<PathBuf, String> {
        self.fake.change_guest(|guest| guest.managed_save = Some(content.into()));
        let image = self.fake.managed_save_image(&self.fake.guest().name);
        image.map_err(|problem| problem.chain())?.ok_or_else(|| "there is no image".to_owned())
    }

    fn file(&mut self, number: u8) -> Result<PathBuf, String> {
        let path = Path::new("/vars").join(self.number().to_string());
        self.fake.put_file(&path, number.into());
        Ok(path)
    }
}

impl journal::Fixture for World {
    fn journal(&self) -> &dyn Journal {
        &self.fake
    }

    fn another_process(&mut self) -> Verdict {
        Ok(())
    }

    fn is_barred(&self, guest: &GuestUuid) -> Result<bool, String> {
        Ok(self.fake.is_barred(guest))
    }
}

impl hypervisor::Fixture for World {
    fn hypervisor(&self) -> &dyn Hypervisor {
        &self.fake
    }

    fn guest(&self) -> GuestUuid {
        self.fake.guest_uuid()
    }

    fn memory(&mut self) -> Result<PathBuf, String> {
        let guest = self.fake.guest_uuid();
        let point = guest_request(guest.clone(), self.number()).point;
        self.fake.stage(&guest, &point, &[]).map_err(|problem| problem.chain())?;
        Ok(self.fake.staged_memory(&guest, &point))
    }

    fn overlay(&mut self) -> Result<PathBuf, String> {
        Ok(Path::new("/overlays").join(self.number().to_string()))
    }

    fn obstruct(&mut self, path: &Path) -> Verdict {
        let point = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        match point.and_then(|name| name.parse().ok()) {
            Some(point) => self.fake.put_memory(&point, 1),
            None => self.fake.put_file(path, 1),
        }
        Ok(())
    }

    fn guest_writes(&mut self, target: &str) -> Result<u64, String> {
        let top = self.fake.guest().live.get(target).cloned().ok_or("no such disk")?;
        let written = 1_000_000 + u64::from(self.number());
        self.fake.put_file(&top, written);
        Ok(written)
    }

    fn read(&self, image: &Path) -> Result<u64, String> {
        self.content(image).ok_or_else(|| format!("{} is not there", image.display()))
    }

    fn pause_otherwise(&mut self) -> Verdict {
        self.fake.change_guest(|guest| guest.state = GuestState::PausedOtherwise);
        Ok(())
    }

    fn managed_save(&mut self) -> Verdict {
        self.fake.change_guest(|guest| {
            guest.managed_save = Some(guest.ram);
            guest.state = GuestState::ShutOff;
            guest.session = None;
            guest.live.clear();
        });
        Ok(())
    }
}
