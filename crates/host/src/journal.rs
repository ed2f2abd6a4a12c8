//! The journal: one file for each operation in flight, `<id>.jsonl` in a private folder.
//!
//! The first line holds the version, the time of opening and the plan; every other line is a
//! record. A line is 16 hexadecimal digits of BLAKE3, a blank, JSON, a line feed. The digits cover
//! the line's number too, so that lines cannot change places. A file appears under its name only
//! when its first line is durable; what is found as `<id>.new` was never begun. Beside them,
//! `<guest>.barred` names the entry of an operation in whose course that guest must not be started.

mod line;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use serde::Serialize;
use vitrify_core::name::{GuestUuid, PointId};
use vitrify_core::operation::{JournalEntry, Plan, Record};
use vitrify_core::ports::{Answer, DamagedEntry, FileContent, Journal, NamedFile};
use vitrify_core::problem::Problem;

use self::line::{Bad, Content, Header, VERSION, line, parse};
use crate::files::{at, create, ensure_folder, exists, lay, names, sync_folder, unlink};

/// Room that is set aside for an entry when it is opened, so that a disk that fills up meanwhile
/// cannot stop the operation half-way. An operation on ten disks writes some 20 KiB.
const ROOM: u64 = 256 << 10;
/// How old a file that was never begun must be until it is litter. Nobody takes so long to open
/// an entry.
const LITTER_AGE: Duration = Duration::from_secs(3600);

/// The journal in a folder.
#[derive(Debug)]
pub struct FileJournal {
    folder: PathBuf,
    /// The entries that this process writes.
    open: Mutex<HashMap<PointId, Tail>>,
}

/// The end of an entry's file.
#[derive(Debug)]
struct Tail {
    file: File,
    /// The lines so far.
    lines: u64,
}

/// The first line as it is written; [`Header`] is what is read.
#[derive(Serialize)]
struct NewHeader<'a> {
    version: u32,
    opened: Timestamp,
    plan: &'a Plan,
}

impl FileJournal {
    /// The journal in this folder, which is made, mode 0700, where it is missing; its parent must
    /// exist.
    ///
    /// # Errors
    /// Where the folder cannot be made.
    pub fn open(folder: impl Into<PathBuf>) -> Answer<Self> {
        let folder = folder.into();
        ensure_folder(&folder)?;
        Ok(Self { folder, open: Mutex::new(HashMap::new()) })
    }

    fn path(&self, id: &PointId) -> PathBuf {
        self.folder.join(format!("{id}.jsonl"))
    }

    fn tails(&self) -> MutexGuard<'_, HashMap<PointId, Tail>> {
        // A panic elsewhere leaves the map whole: it is changed by single calls.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads one entry; `None` where it is void, or was closed meanwhile.
    fn read(&self, path: &Path) -> Answer<Option<Content>> {
        self.try_read(path)?.map_err(|bad| bad.problem(path))
    }

    fn try_read(&self, path: &Path) -> Answer<Result<Option<Content>, Bad>> {
        match fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Ok(None)),
            bytes => Ok(parse(&bytes.map_err(at("cannot read", path))?)),
        }
    }

    /// Every entry's file, by the id in its name.
    fn files(&self) -> Answer<Vec<(PointId, PathBuf)>> {
        let file = |name: &String| {
            Some((name.strip_suffix(".jsonl")?.parse().ok()?, self.folder.join(name)))
        };
        Ok(names(&self.folder)?.iter().filter_map(file).collect())
    }

    /// The end of an entry that this process did not open; a torn last line is cut off.
    fn tail(&self, path: &Path) -> Answer<Tail> {
        let content = self.read(path)?.ok_or_else(|| {
            Problem::not_found(format!("there is no journal entry {}", path.display()))
        })?;
        let open = || -> std::io::Result<File> {
            let mut file = OpenOptions::new().write(true).open(path)?;
            file.set_len(content.valid_bytes)?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        let file = open().map_err(at("cannot continue", path))?;
        Ok(Tail { file, lines: 1 + content.records.len() as u64 })
    }

    fn remove_litter(&self, path: &Path) -> Answer<()> {
        let Ok(age) = fs::metadata(path).and_then(|found| found.modified()) else { return Ok(()) };
        if age.elapsed().is_ok_and(|age| age > LITTER_AGE) {
            unlink(path).map(drop)
        } else {
            Ok(())
        }
    }
}

impl Journal for FileJournal {
    fn open(&self, plan: &Plan, records: &[Record]) -> Answer<()> {
        let path = self.path(plan.id());
        if exists(&path)? {
            let message = format!("the journal entry {} is open already", path.display());
            return Err(Problem::refused(message).hint("'vitrify repair' settles it"));
        }
        let beside = path.with_extension("new");
        unlink(&beside)?;
        let mut file = create(&beside)?;
        match fallocate(&file, FallocateFlags::KEEP_SIZE, 0, ROOM) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(error) => {
                unlink(&beside)?;
                return Err(at("cannot set room aside for", &beside)(error));
            }
        }
        let header = NewHeader { version: VERSION, opened: Timestamp::now(), plan };
        let mut text = line(0, &header).map_err(at("cannot write", &beside))?;
        let more = (1..).zip(records).map(|(number, record)| line(number, record));
        text.extend(more.collect::<Result<Vec<_>, _>>().map_err(at("cannot write", &beside))?);
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&beside, &path))
            .map_err(at("cannot write", &path))?;
        sync_folder(&self.folder)?;
        self.tails().insert(plan.id().clone(), Tail { file, lines: 1 + records.len() as u64 });
        Ok(())
    }

    fn append(&self, plan: &Plan, records: &[Record]) -> Answer<()> {
        let path = self.path(plan.id());
        let mut tails = self.tails();
        // Taken out: after a failure the next record looks at what reached the disk.
        let mut tail = match tails.remove(plan.id()) {
            Some(tail) => tail,
            None => self.tail(&path)?,
        };
        let lines = (tail.lines..).zip(records).map(|(number, record)| line(number, record));
        let text: String = lines.collect::<Result<_, _>>().map_err(at("cannot write", &path))?;
        tail.file
            .write_all(text.as_bytes())
            .and_then(|()| tail.file.sync_data())
            .map_err(at("cannot write", &path))?;
        tail.lines += records.len() as u64;
        tails.insert(plan.id().clone(), tail);
        Ok(())
    }

    fn close(&self, plan: &Plan) -> Answer<()> {
        self.tails().remove(plan.id());
        if unlink(&self.path(plan.id()))? { sync_folder(&self.folder) } else { Ok(()) }
    }

    /// The entries by the time at which they were opened. A file without even a first line is void
    /// and removed: no effect is begun before that line is durable.
    fn entries(&self) -> Answer<Vec<JournalEntry>> {
        let mut found: Vec<(Header, Vec<Record>)> = Vec::new();
        for (id, path) in self.files()? {
            match self.try_read(&path)? {
                Ok(Some(content)) if *content.header.plan.id() == id => {
                    found.push((content.header, content.records));
                }
                Ok(None) => drop(unlink(&path)?),
                Ok(Some(_)) | Err(_) => {}
            }
        }
        let never_begun = names(&self.folder)?.into_iter().filter(|name| name.ends_with(".new"));
        never_begun.into_iter().try_for_each(|name| self.remove_litter(&self.folder.join(name)))?;
        found.sort_by(|(one, _), (other, _)| {
            (one.opened, one.plan.id()).cmp(&(other.opened, other.plan.id()))
        });
        Ok(found
            .into_iter()
            .map(|(header, records)| JournalEntry { plan: header.plan, records })
            .collect())
    }

    fn damaged(&self) -> Answer<Vec<DamagedEntry>> {
        let mut found = Vec::new();
        for (id, path) in self.files()? {
            let (plan, problem) = match self.try_read(&path)? {
                Ok(Some(content)) if *content.header.plan.id() != id => {
                    let message =
                        format!("the journal entry {} is of another operation", path.display());
                    (None, Problem::refused(message).hint("was it renamed or copied?"))
                }
                Ok(_) => continue,
                Err(bad) => {
                    let problem = bad.problem(&path);
                    (bad.plan().filter(|plan| *plan.id() == id), problem)
                }
            };
            found.push(DamagedEntry { id, plan, problem });
        }
        Ok(found)
    }

    fn bar(&self, operation: &PointId, guest: &GuestUuid) -> Answer<()> {
        let text = format!("{}\n", self.path(operation).display());
        let file = NamedFile { name: barred(guest), content: FileContent::Text(text) };
        lay(&self.folder, &file)?;
        sync_folder(&self.folder)
    }

    fn unbar(&self, guest: &GuestUuid) -> Answer<()> {
        if unlink(&self.folder.join(barred(guest)))? { sync_folder(&self.folder) } else { Ok(()) }
    }

    fn set_aside(&self, entry: &DamagedEntry) -> Answer<()> {
        let path = self.path(&entry.id);
        fs::rename(&path, path.with_extension("damaged")).map_err(at("cannot rename", &path))?;
        sync_folder(&self.folder)
    }
}

/// The file that says that a guest must not be started. What reads it is libvirt's hook,
/// `packaging/libvirt/vitrify`.
fn barred(guest: &GuestUuid) -> String {
    format!("{guest}.barred")
}

#[cfg(test)]
mod tests;
