//! The self-test: a transient guest of 64 MiB, the boot-sector witness on a scratch volume of its own
//! beside the guests' volumes, is captured by `instant` and by `overlay`, and put back with its
//! memory each time. The witness says whether that went well.
//!
//! Everything that it makes is written down first, in `<state>/self-test/<id>.json`, and carries that
//! id: the guest's UUID, the scratch volume's name. What a killed self-test leaves behind is removed
//! by the next look at these files, under a lock that a living one holds.

mod bench;
mod scratch;
mod serial;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use vitrify_core::capture::Engine;
use vitrify_core::engine::Observer;
use vitrify_core::name::{GuestUuid, PointId, Volume};
use vitrify_core::ports::{Answer, FileContent, NamedFile};
use vitrify_core::problem::{Problem, ProblemKind};
use vitrify_core::self_test::{Ground, Verdict, Verdicts};

use self::bench::Bench;
use self::scratch::Scratch;
use crate::files::{at, lay, sync_folder};
use crate::libvirt::Libvirt;
use crate::locks::Locks;

/// The file that keeps the verdicts, in the state folder.
const VERDICTS: &str = "self-test.json";
/// Where records lie, and where scratch datasets are mounted.
const FOLDER: &str = "self-test";
/// How long another process's self-test is waited for.
const PATIENCE: Duration = Duration::from_secs(300);

/// The self-test of this host.
pub struct SelfTest<'a> {
    /// Where the witness is booted.
    pub hypervisor: &'a Libvirt,
    /// The state folder.
    pub state: &'a Path,
    /// Makes identities that nothing else has.
    pub new_id: fn() -> Answer<PointId>,
    /// Whether somebody wants the work to be given up.
    pub cancelled: Arc<AtomicBool>,
}

impl SelfTest<'_> {
    /// The verdicts that were found before; none where they cannot be read.
    pub fn verdicts(&self) -> Verdicts {
        Verdicts::parse(&fs::read_to_string(self.state.join(VERDICTS)).unwrap_or_default())
    }

    /// Finds out which engines can be trusted on this ground, on a scratch volume beside `beside`, and
    /// keeps the verdict. Unless it is to be found `again`, one that another process found meanwhile
    /// will do.
    ///
    /// # Errors
    /// Where it could not be carried out: then nothing is known, and nothing is left behind.
    pub fn judge(
        &self,
        ground: &Ground,
        beside: &Volume,
        again: bool,
        observer: &dyn Observer,
    ) -> Answer<Verdict> {
        let _lock = self.wait_for_lock(observer)?;
        if let Some(known) = self.verdicts().of(ground).filter(|_| !again) {
            return Ok(known.clone());
        }
        // What cannot be removed is doctor's and repair's to tell.
        self.remove_leftovers().ok();
        let scratch = Scratch::make(&self.folder()?, &(self.new_id)()?, ground.storage, beside)?;
        let tried = self.try_engines(ground, &scratch, observer);
        let removed = self.remove(&scratch);
        let verdict = match (tried, removed) {
            (Err(problem), Err(left)) => return Err(problem.and_afterwards(&left)),
            (tried, removed) => removed.and(tried)?,
        };
        let mut verdicts = self.verdicts();
        verdicts.put(verdict.clone());
        self.keep(&verdicts)?;
        Ok(verdict)
    }

    /// Removes what self-tests left behind that were killed, and says what that was, each in words.
    /// While one is at work, nothing is.
    ///
    /// # Errors
    /// What could not be removed: it stays recorded.
    pub fn sweep(&self) -> Answer<Vec<String>> {
        if self.leftovers()?.is_empty() {
            return Ok(Vec::new());
        }
        match self.lock() {
            Ok(_lock) => self.remove_leftovers(),
            Err(problem) if problem.kind == ProblemKind::Locked => Ok(Vec::new()),
            Err(problem) => Err(problem),
        }
    }

    /// The guests of self-tests, living and dead.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn guests(&self) -> Answer<Vec<GuestUuid>> {
        Ok(Scratch::recorded(&self.state.join(FOLDER))?.into_iter().map(|it| it.id).collect())
    }

    /// What killed self-tests left behind, each in words.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn leftovers(&self) -> Answer<Vec<String>> {
        let records = Scratch::recorded(&self.state.join(FOLDER))?;
        Ok(records.iter().map(ToString::to_string).collect())
    }

    /// One that cannot be removed does not keep the others.
    fn remove_leftovers(&self) -> Answer<Vec<String>> {
        let (mut removed, mut failed) = (Vec::new(), None);
        for scratch in Scratch::recorded(&self.state.join(FOLDER))? {
            match self.remove(&scratch) {
                Ok(()) => removed.push(scratch.to_string()),
                Err(problem) => failed = failed.or(Some(problem)),
            }
        }
        failed.map_or(Ok(removed), Err)
    }

    /// The guest first, because it uses the volume.
    fn remove(&self, scratch: &Scratch) -> Answer<()> {
        self.hypervisor.stop_self_test(&scratch.id, &scratch.guest())?;
        scratch.remove()
    }

    fn try_engines(
        &self,
        ground: &Ground,
        scratch: &Scratch,
        observer: &dyn Observer,
    ) -> Answer<Verdict> {
        let mut bench = Bench::set_up(self, ground, scratch, observer)?;
        let mut reasons = [None, None];
        for (engine, reason) in [Engine::Instant, Engine::Overlay].into_iter().zip(&mut reasons) {
            bench.boot()?;
            *reason = bench.prove(engine).err().map(|problem| problem.chain());
            if observer.cancelled() {
                return Err(Problem::failed("cancelled"));
            }
        }
        let [instant, overlay] = reasons;
        Ok(Verdict { ground: ground.clone(), instant, overlay })
    }

    fn keep(&self, verdicts: &Verdicts) -> Answer<()> {
        let text = serde_json::to_string(verdicts)
            .map_err(|error| Problem::failed("cannot write the verdicts down").from(error))?;
        lay(self.state, &NamedFile { name: VERDICTS.into(), content: FileContent::Text(text) })?;
        sync_folder(self.state)
    }

    /// Where records lie. QEMU must be able to pass through to what is mounted there.
    fn folder(&self) -> Answer<PathBuf> {
        let state = fs::canonicalize(self.state).map_err(at("cannot find", self.state))?;
        let folder = state.join(FOLDER);
        scratch::ensure_passable(&folder)?;
        Ok(folder)
    }

    fn lock(&self) -> Answer<Locks> {
        Locks::acquire(&self.state.join("locks"), &["self-test".to_owned()])
    }

    fn wait_for_lock(&self, observer: &dyn Observer) -> Answer<Locks> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lock() {
                Err(problem)
                    if problem.kind == ProblemKind::Locked
                        && Instant::now() < deadline
                        && !observer.cancelled() =>
                {
                    thread::sleep(Duration::from_millis(100));
                }
                result => return result,
            }
        }
    }
}
