//! libvirt and QEMU, as far as they matter.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::storage::missing;
use super::{Fake, FakeGuest, FakeJob, FakeStream, State, managed_save_image};
use crate::definition::Definition;
use crate::inventory::{Activity, Guest, GuestState, Session};
use crate::name::{GuestName, GuestUuid};
use crate::ports::{Answer, Commit, Hypervisor, MemoryStream, OverlayDisk, Pause};
use crate::problem::{Problem, ProblemKind};

const PAUSE: Pause = Pause { pause: Duration::from_millis(5), stopped: Duration::ZERO };

impl Hypervisor for Fake {
    fn guests(&self) -> Answer<Vec<Guest>> {
        self.look(|state| Ok(state.guests.iter().map(|(uuid, it)| it.report(uuid)).collect()))
    }

    fn inspect(&self, guest: &GuestUuid) -> Answer<Guest> {
        self.look(|state| Ok(state.guest(guest)?.report(guest)))
    }

    fn activity(&self, guest: &GuestUuid) -> Answer<Activity> {
        self.look(|state| {
            let guest = state.guest(guest)?;
            let background_snapshot = guest.stream.is_some();
            Ok(Activity { background_snapshot, ..guest.activity.clone() })
        })
    }

    fn version(&self) -> Answer<String> {
        Ok("fake".into())
    }

    fn external_snapshot(
        &self,
        guest: &GuestUuid,
        memory: &Path,
        disks: &[OverlayDisk<'_>],
        limit: Duration,
    ) -> Answer<Pause> {
        let overlays = overlays_of(disks);
        let half = |state: &mut State| {
            if let Ok(guest) = state.guest(guest) {
                guest.job = Some(FakeJob::Dump);
            }
        };
        self.change("external snapshot", half, |state| {
            let it = state.guest(guest)?;
            if it.state != GuestState::Running {
                return Err(Problem::failed(format!("guest {} does not run", it.name)));
            }
            if limit.is_zero() {
                return Err(Problem::new(ProblemKind::TimedOut, "the dump takes too long"));
            }
            let ram = it.ram;
            let there = overlays.values().find(|path| state.files.contains_key(*path));
            let there = there.map(PathBuf::as_path);
            let image = state.memory_at(memory).ok_or_else(|| missing(memory))?;
            if let Some(there) = there.or(image.is_some().then_some(memory)) {
                return Err(Problem::refused(format!("{} exists already", there.display())));
            }
            *image = Some(ram);
            state.put_on_overlays(guest, &overlays)?;
            Ok(PAUSE)
        })
    }

    fn put_overlays(
        &self,
        guest: &GuestUuid,
        session: &Session,
        disks: &[OverlayDisk<'_>],
    ) -> Answer<()> {
        let overlays = overlays_of(disks);
        let half = |state: &mut State| {
            if let Ok(guest) = state.guest(guest) {
                guest.job = Some(FakeJob::Overlays(overlays.clone()));
            }
        };
        self.change("put overlays", half, |state| {
            let it = state.guest(guest)?.ours(session)?;
            if it.state != GuestState::PausedByUser {
                return Err(Problem::failed(format!("guest {} is not suspended", it.name)));
            }
            if let Some(there) = overlays.values().find(|path| state.files.contains_key(*path)) {
                return Err(Problem::refused(format!("{} exists already", there.display())));
            }
            state.put_on_overlays(guest, &overlays)
        })
    }

    fn abort_snapshot_job(&self, guest: &GuestUuid) -> Answer<()> {
        self.change("abort job", |_| {}, |state| state.end_job(guest))
    }

    fn commit_overlay(&self, commit: &Commit<'_>) -> Answer<()> {
        self.change(
            "commit",
            |_| {},
            |state| {
                let below = state.below(commit.overlay);
                let guest = state.guest(commit.guest)?;
                if !guest.state.is_active() {
                    return Err(Problem::failed(format!("guest {} is shut off", guest.name)));
                }
                let refused = |what| Problem::refused(format!("disk {} {what}", commit.target));
                let top = guest.live.get_mut(commit.target);
                let top = top.ok_or_else(|| refused("is not there"))?;
                if top == commit.base {
                    return Ok(());
                }
                if top != commit.overlay {
                    return Err(refused("is on another overlay"));
                }
                if below.as_deref() != Some(commit.base) {
                    return Err(refused("has another base"));
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
                let disk = state.guest(guest)?.inactive.get_mut(target);
                let disk = disk.ok_or_else(|| Problem::failed(format!("no disk {target}")))?;
                *disk = path.to_owned();
                Ok(())
            },
        )
    }

    fn commit_offline(&self, overlay: &Path, base: &Path) -> Answer<()> {
        self.change(
            "commit offline",
            |_| {},
            |state| {
                if !state.files.contains_key(overlay) {
                    return Err(missing(overlay));
                }
                if state.below(overlay).as_deref() != Some(base) {
                    return Err(Problem::refused(format!(
                        "{} has another base",
                        overlay.display()
                    )));
                }
                if state.guests.values().any(|it| it.live.values().any(|top| top == overlay)) {
                    return Err(Problem::failed(format!("{} is in use", overlay.display())));
                }
                state.pour(overlay, base)
            },
        )
    }

    fn open_stream(&self, guest: &GuestUuid, session: &Session) -> Answer<MemoryStream> {
        self.change(
            "open stream",
            |_| {},
            |state| {
                let guest = state.guest(guest)?.ours(session)?;
                if guest.state != GuestState::Running {
                    return Err(Problem::failed(format!("guest {} does not run", guest.name)));
                }
                if guest.stream.is_some() {
                    return Err(Problem::lacking(format!("guest {} is streamed", guest.name)));
                }
                guest.stream = Some(FakeStream::Open { resumes: guest.resumes });
                Ok(MemoryStream(Box::new(std::io::empty())))
            },
        )
    }

    fn begin_stream(&self, guest: &GuestUuid, session: &Session) -> Answer<()> {
        self.change(
            "begin stream",
            |_| {},
            |state| {
                let guest = state.guest(guest)?.ours(session)?;
                let Some(FakeStream::Open { resumes }) = guest.stream else {
                    return Err(Problem::failed("no stream was opened"));
                };
                let whole = guest.state == GuestState::PausedByUser && guest.resumes == resumes;
                guest.stream = Some(FakeStream::Begun { ram: guest.ram, whole });
                Ok(())
            },
        )
    }

    fn check_stream(&self, guest: &GuestUuid, session: &Session) -> Answer<Duration> {
        self.look(|state| match state.guest(guest)?.ours(session)?.stream {
            Some(FakeStream::Begun { whole: true, .. }) => Ok(Duration::ZERO),
            Some(FakeStream::Begun { whole: false, .. }) => {
                Err(Problem::failed("somebody else resumed it"))
            }
            _ => Err(Problem::failed("no stream was begun")),
        })
    }

    fn close_stream(&self, guest: &GuestUuid, session: &Session) -> Answer<()> {
        self.change(
            "close stream",
            |_| {},
            |state| {
                let guest = state.guest(guest)?;
                if guest.session.as_ref() == Some(session) {
                    guest.stream = None;
                }
                Ok(())
            },
        )
    }

    fn suspend(&self, guest: &GuestUuid, session: &Session) -> Answer<()> {
        self.change(
            "suspend",
            |_| {},
            |state| {
                state.guest(guest)?.ours(session)?.state = GuestState::PausedByUser;
                Ok(())
            },
        )
    }

    fn resume(&self, guest: &GuestUuid, session: &Session) -> Answer<Option<Pause>> {
        self.change(
            "resume",
            |_| {},
            |state| {
                state.end_job(guest)?;
                let guest = state.guest(guest)?.ours(session)?;
                let was = std::mem::replace(&mut guest.state, GuestState::Running);
                guest.resumes += u32::from(was != GuestState::Running);
                Ok((was != GuestState::Running).then_some(PAUSE))
            },
        )
    }

    fn retry(&self, guest: &GuestUuid, session: &Session) -> Answer<()> {
        self.change(
            "retry",
            |_| {},
            |state| {
                if let Some(it) = state.guests.get_mut(guest)
                    && it.session.as_ref() == Some(session)
                    && it.state == GuestState::PausedOnError
                {
                    it.set_state(GuestState::Running);
                }
                Ok(())
            },
        )
    }

    fn freeze(&self, guest: &GuestUuid, session: &Session, _: Duration) -> Answer<()> {
        let half = |state: &mut State| {
            if let Ok(guest) = state.guest(guest) {
                guest.frozen = true;
            }
        };
        self.change("freeze", half, |state| {
            state.guest(guest)?.ours(session)?.with_agent()?.frozen = true;
            Ok(())
        })
    }

    fn is_frozen(&self, guest: &GuestUuid, session: &Session, _: Duration) -> Answer<bool> {
        self.look(|state| Ok(state.guest(guest)?.ours(session)?.with_agent()?.frozen))
    }

    fn thaw(&self, guest: &GuestUuid, session: &Session, _: Duration) -> Answer<bool> {
        self.change(
            "thaw",
            |_| {},
            |state| match state.guest(guest)? {
                it if it.session.is_none() => Ok(false),
                it => Ok(std::mem::take(&mut it.ours(session)?.with_agent()?.frozen)),
            },
        )
    }

    fn stop(&self, guest: &GuestUuid, session: &Session) -> Answer<()> {
        self.change(
            "stop",
            |_| {},
            |state| match state.guest(guest) {
                Ok(guest) if guest.state.is_active() => {
                    guest.in_session(session)?.shut_off();
                    Ok(())
                }
                _ => Ok(()),
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
                if state.guest(guest)?.state.is_active() {
                    return Ok(());
                }
                state.check_not_barred(guest)?;
                let ram = state.content_of_disks(guest)?;
                state.power_on(guest, ram, paused.then_some(GuestState::PausedByUser))?;
                state.guest(guest)?.managed_save = None;
                Ok(())
            },
        )
    }

    fn start_from_image(&self, guest: &GuestUuid, image: &Path, paused: bool) -> Answer<()> {
        self.change(
            "start from image",
            |_| {},
            |state| {
                let written_out = state.save_images.get(image).copied();
                let ram = written_out.or_else(|| *state.memory_at(image)?);
                let ram = ram.ok_or_else(|| missing(image))?;
                state.check_not_barred(guest)?;
                state.power_on(guest, ram, paused.then_some(GuestState::PausedOtherwise))
            },
        )
    }

    fn managed_save_image(&self, guest: &GuestName) -> Answer<Option<PathBuf>> {
        self.look(|state| {
            let mut guests = state.guests.values();
            let saved = guests.any(|it| it.name == *guest && it.managed_save.is_some());
            Ok(saved.then(|| managed_save_image(guest)))
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

fn overlays_of(disks: &[OverlayDisk<'_>]) -> BTreeMap<String, PathBuf> {
    let overlay = |it: &OverlayDisk<'_>| Some((it.target.to_owned(), it.overlay?.to_owned()));
    disks.iter().filter_map(overlay).collect()
}

impl State {
    /// What asks anything of a guest waits until libvirt is done with it.
    fn end_job(&mut self, guest: &GuestUuid) -> Answer<()> {
        match self.guest(guest)?.job.take() {
            Some(FakeJob::Overlays(overlays)) => self.put_on_overlays(guest, &overlays),
            Some(FakeJob::Dump) | None => Ok(()),
        }
    }

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

    /// The image directly below an overlay.
    fn below(&self, overlay: &Path) -> Option<PathBuf> {
        self.files.get(overlay)?.backing.clone()
    }

    /// The memory image that lies at a path, or could.
    fn memory_at(&mut self, path: &Path) -> Option<&mut Option<u64>> {
        let point = path.parent()?.file_name()?.to_str()?;
        let mut points = self.points.iter_mut();
        points.find(|(id, _)| id.as_str() == point).map(|(_, (_, point))| &mut point.memory)
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

    fn power_on(&mut self, guest: &GuestUuid, ram: u64, paused: Option<GuestState>) -> Answer<()> {
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
        it.state = paused.unwrap_or(GuestState::Running);
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

    fn with_agent(&mut self) -> Answer<&mut Self> {
        match self.agent {
            true => Ok(self),
            false => Err(Problem::lacking(format!("guest {} has no agent", self.name))),
        }
    }

    /// The guest, if it runs in this life or was suspended by a user's request.
    fn ours(&mut self, session: &Session) -> Answer<&mut Self> {
        let it = self;
        match it.state {
            GuestState::ShutOff => Err(Problem::failed(format!("guest {} is shut off", it.name))),
            GuestState::Running | GuestState::PausedByUser => it.in_session(session),
            GuestState::PausedOnError | GuestState::PausedOtherwise => {
                Err(Problem::refused(format!("guest {} is paused otherwise", it.name)))
            }
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
            no_stream: None,
            frail_stream: None,
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
        if self.agent {
            xml.push_str(
                "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' \
                 state='connected'/></channel>",
            );
        }
        xml.push_str("</devices></domain>");
        xml
    }
}
