//! libvirt and QEMU, as far as they matter.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Fake, FakeGuest, State};
use crate::definition::Definition;
use crate::inventory::{Guest, GuestState, Session};
use crate::name::{GuestName, GuestUuid};
use crate::ports::{Answer, Commit, Hypervisor, OverlayDisk, Pause};
use crate::problem::Problem;

const PAUSE: Pause = Pause { pause: Duration::from_millis(5) };

impl Hypervisor for Fake {
    fn guests(&self) -> Answer<Vec<Guest>> {
        self.look(|state| Ok(state.guests.iter().map(|(uuid, it)| it.report(uuid)).collect()))
    }

    fn inspect(&self, guest: &GuestUuid) -> Answer<Guest> {
        self.look(|state| Ok(state.guest(guest)?.report(guest)))
    }

    fn version(&self) -> Answer<String> {
        Ok("fake".into())
    }

    fn external_snapshot(
        &self,
        guest: &GuestUuid,
        memory: &Path,
        disks: &[OverlayDisk<'_>],
        _limit: Duration,
    ) -> Answer<Pause> {
        let overlays: BTreeMap<String, PathBuf> = disks
            .iter()
            .filter_map(|disk| Some((disk.target.to_owned(), disk.overlay?.to_owned())))
            .collect();
        let half = |state: &mut State| {
            if let Ok(guest) = state.guest(guest) {
                guest.job = Some(overlays.clone());
            }
        };
        self.change("external snapshot", half, |state| {
            let it = state.guest(guest)?;
            if it.state != GuestState::Running {
                return Err(Problem::failed(format!("guest {} does not run", it.name)));
            }
            let ram = it.ram;
            state.put_on_overlays(guest, &overlays)?;
            let staged = state.points.values_mut().find(|(owner, point)| {
                owner == guest && point.manifest.is_none() && memory.ends_with("memory")
            });
            match staged {
                Some((_, point)) => point.memory = Some(ram),
                None => return Err(Problem::not_found(format!("{}", memory.display()))),
            }
            Ok(PAUSE)
        })
    }

    fn abort_snapshot_job(&self, guest: &GuestUuid) -> Answer<()> {
        self.change(
            "abort job",
            |_| {},
            |state| {
                state.guest(guest)?.job = None;
                Ok(())
            },
        )
    }

    fn commit_overlay(&self, commit: &Commit<'_>) -> Answer<()> {
        self.change(
            "commit",
            |_| {},
            |state| {
                let guest = state.guest(commit.guest)?;
                let Some(top) = guest.live.get_mut(commit.target) else {
                    return Err(Problem::failed(format!("no active disk {}", commit.target)));
                };
                if top == commit.base {
                    return Ok(());
                }
                if top != commit.overlay {
                    return Err(Problem::refused(format!(
                        "{} is on another overlay",
                        commit.target
                    )));
                }
                *top = commit.base.to_owned();
                guest.inactive.insert(commit.target.to_owned(), commit.base.to_owned());
                state.pour(commit.overlay, commit.base)
            },
        )
    }

    fn repoint_disk(
        &self,
        guest: &GuestUuid,
        target: &str,
        path: &Path,
        _format: &str,
    ) -> Answer<()> {
        self.change(
            "repoint disk",
            |_| {},
            |state| {
                state.guest(guest)?.inactive.insert(target.to_owned(), path.to_owned());
                Ok(())
            },
        )
    }

    fn commit_offline(&self, overlay: &Path, base: &Path) -> Answer<()> {
        self.change("commit offline", |_| {}, |state| state.pour(overlay, base))
    }

    fn suspend(&self, guest: &GuestUuid, session: &Session) -> Answer<()> {
        self.change(
            "suspend",
            |_| {},
            |state| {
                let guest = state.guest(guest)?.in_session(session)?;
                guest.state = GuestState::PausedByUser;
                Ok(())
            },
        )
    }

    fn resume(&self, guest: &GuestUuid, session: &Session) -> Answer<Option<Pause>> {
        self.change(
            "resume",
            |_| {},
            |state| {
                let guest = state.guest(guest)?;
                if guest.state == GuestState::ShutOff {
                    return Ok(None);
                }
                guest.in_session(session)?.state = GuestState::Running;
                Ok(Some(PAUSE))
            },
        )
    }

    fn stop(&self, guest: &GuestUuid, session: &Session) -> Answer<()> {
        self.change(
            "stop",
            |_| {},
            |state| {
                let guest = state.guest(guest)?;
                if guest.state.is_active() {
                    guest.in_session(session)?.shut_off();
                }
                Ok(())
            },
        )
    }

    fn define(&self, xml: &str) -> Answer<()> {
        self.change(
            "define",
            |_| {},
            |state| {
                let definition = Definition::parse(xml)
                    .map_err(|error| Problem::failed("define").from(error))?;
                let guest = state.guest(&super::sample::guest_uuid())?;
                guest.inactive = definition
                    .disks
                    .iter()
                    .filter_map(|disk| Some((disk.target.clone(), disk.source.path()?.clone())))
                    .collect();
                Ok(())
            },
        )
    }

    fn start(&self, guest: &GuestUuid, paused: bool) -> Answer<()> {
        self.change(
            "start",
            |_| {},
            |state| {
                let ram = state.content_of_disks(guest)?;
                state.power_on(guest, ram, paused)
            },
        )
    }

    fn start_from_image(&self, guest: &GuestUuid, image: &Path, paused: bool) -> Answer<()> {
        self.change(
            "start from image",
            |_| {},
            |state| {
                let point = image.parent().and_then(Path::file_name).map(|it| it.to_string_lossy());
                let ram = state
                    .points
                    .iter()
                    .find(|(id, _)| point.as_deref() == Some(id.as_str()))
                    .and_then(|(_, (_, point))| point.memory)
                    .ok_or_else(|| Problem::not_found(format!("{}", image.display())))?;
                state.power_on(guest, ram, paused)
            },
        )
    }

    fn managed_save_image(&self, _: &GuestName) -> Answer<Option<PathBuf>> {
        self.look(|state| {
            let saved = state.guests.values().any(|guest| guest.managed_save.is_some());
            Ok(saved.then(|| PathBuf::from("/save/w.save")))
        })
    }

    fn remove_managed_save(&self, guest: &GuestUuid) -> Answer<()> {
        self.change(
            "remove managed save",
            |_| {},
            |state| {
                state.guest(guest)?.managed_save = None;
                Ok(())
            },
        )
    }
}

impl State {
    fn put_on_overlays(
        &mut self,
        guest: &GuestUuid,
        overlays: &BTreeMap<String, PathBuf>,
    ) -> Answer<()> {
        for (target, overlay) in overlays {
            let it = self.guest(guest)?;
            let ram = it.ram;
            let base = it.live.insert(target.clone(), overlay.clone());
            it.inactive.insert(target.clone(), overlay.clone());
            self.new_file(overlay, ram, base);
        }
        Ok(())
    }

    fn pour(&mut self, overlay: &Path, base: &Path) -> Answer<()> {
        let content = self.files.get(overlay).map(|file| file.content);
        match (content, self.files.get_mut(base)) {
            (Some(content), Some(base)) => base.content = content,
            _ => return Err(Problem::not_found(format!("{}", overlay.display()))),
        }
        Ok(())
    }

    /// What the guest's disks hold, which must be one thing.
    fn content_of_disks(&mut self, guest: &GuestUuid) -> Answer<u64> {
        let disks = self.guest(guest)?.inactive.clone();
        let mut contents: Vec<u64> = disks
            .values()
            .map(|path| self.files.get(path).map_or(u64::MAX, |file| file.content))
            .collect();
        contents.dedup();
        match contents[..] {
            [content] => Ok(content),
            _ => Err(Problem::failed(format!("the disks are torn: {contents:?}"))),
        }
    }

    fn power_on(&mut self, guest: &GuestUuid, ram: u64, paused: bool) -> Answer<()> {
        if self.guest(guest)?.state.is_active() {
            return Ok(());
        }
        if self.content_of_disks(guest)? != ram {
            return Err(Problem::failed("memory and disks differ"));
        }
        let domain_id = u32::try_from(self.number()).unwrap_or(u32::MAX);
        let session = Session { boot: format!("boot-{}", self.boot), domain_id, started_ticks: 1 };
        let it = self.guest(guest)?;
        it.live = it.inactive.clone();
        it.ram = ram;
        it.session = Some(session);
        it.state = if paused { GuestState::PausedByUser } else { GuestState::Running };
        Ok(())
    }
}

impl FakeGuest {
    fn in_session(&mut self, session: &Session) -> Answer<&mut Self> {
        if self.session.as_ref() == Some(session) {
            Ok(self)
        } else {
            Err(Problem::refused(format!("guest {} is in another session", self.name)))
        }
    }

    fn report(&self, uuid: &GuestUuid) -> Guest {
        let active = self.state.is_active();
        Guest {
            name: self.name.clone(),
            uuid: uuid.clone(),
            state: self.state,
            session: self.session.clone(),
            persistent: true,
            managed_save: self.managed_save.is_some(),
            job: self.job.as_ref().map(|_| "snapshot".to_owned()),
            live_xml: active.then(|| self.xml(uuid, &self.live)),
            inactive_xml: Some(self.xml(uuid, &self.inactive)),
        }
    }

    fn xml(&self, uuid: &GuestUuid, disks: &BTreeMap<String, PathBuf>) -> String {
        let mut xml = format!("<domain><name>{}</name><uuid>{uuid}</uuid>", self.name);
        xml.push_str("<memory unit='MiB'>64</memory><os><type machine='pc'>hvm</type>");
        if let Some(nvram) = &self.nvram {
            let _ = write!(xml, "<nvram>{}</nvram>", nvram.display());
        }
        xml.push_str("</os><devices>");
        for (target, path) in disks {
            let _ = write!(
                xml,
                "<disk type='file' device='disk'><driver name='qemu' type='raw'/>\
                 <source file='{}'/><target dev='{target}'/></disk>",
                path.display()
            );
        }
        xml.push_str("</devices></domain>");
        xml
    }
}
