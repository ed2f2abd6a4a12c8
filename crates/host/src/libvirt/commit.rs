//! Bringing a disk back from its overlay to its base under the running guest, with libvirt's block
//! job: commit, wait until it is ready, pivot. Each look at the disk decides the next step, so that
//! a job which somebody else began is taken over.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use roxmltree::{Document, Node};
use virt::domain::Domain;
use virt::error::ErrorNumber;
use virt_sys as c;
use vitrify_core::definition;
use vitrify_core::name::GuestUuid;
use vitrify_core::ports::{Answer, Commit};
use vitrify_core::problem::{Problem, ProblemKind};

use super::apparmor::allow_base;
use super::error::problem;
use super::events::Mark;
use super::guests::{name_of, xml};
use super::snapshot::shown;
use super::sys::Notice;
use super::{Libvirt, sys};

/// How often a disk is looked at again where no event arrives.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long a pivot or an abort may take once libvirt has accepted it.
const END_LIMIT: Duration = Duration::from_secs(60);
/// A disk of a running guest, as far as a commit is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    /// The image that the guest writes to.
    top: PathBuf,
    /// The image directly below.
    below: Option<PathBuf>,
    /// The block job that fills another image, if one runs.
    job: Option<Job>,
}

/// `<mirror job='…' ready='…'>` in <https://libvirt.org/formatdomain.html>.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Job {
    /// `active-commit`, `copy`; empty while libvirt 9.0 brings one to its end (seen with the overlay
    /// as the disk's top, and then with the base).
    kind: String,
    /// Whether it can be pivoted to now.
    ready: bool,
}

/// What follows from the look of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// It is on its base.
    Done,
    /// Begin to commit.
    Begin,
    /// The job is under way.
    Wait,
    /// Make the base the top.
    Pivot,
    /// The job that was under way is gone, and the overlay is still the top.
    Lost,
    /// This is not the disk that the capture left.
    Refuse(String),
}

impl Libvirt {
    pub(super) fn commit_live(&self, commit: &Commit<'_>) -> Answer<()> {
        let name = name_of(&self.domain(commit.guest)?);
        let disk = format!("disk {} of guest '{name}'", commit.target);
        let begin = self.log.mark();
        let mut seen = begin;
        let mut begun = false;
        let mut pivot_end = None;
        let end = Instant::now() + commit.limit;
        loop {
            let domain = self.domain(commit.guest)?;
            let chain = chain_of(&domain, commit.target)?;
            match step(&chain, commit.overlay, commit.base, begun) {
                Step::Done => return Ok(()),
                Step::Begin => {
                    begin_commit(&domain, commit, &disk)?;
                    begun = true;
                    continue;
                }
                Step::Wait => begun = true,
                Step::Pivot => {
                    begun = true;
                    pivot_end = pivot_end.or_else(|| Some(Instant::now() + END_LIMIT));
                    pivot(&domain, commit.target, &disk)?;
                }
                Step::Lost => return Err(self.why_lost(begin, commit, &disk)),
                Step::Refuse(why) => return Err(Problem::refused(format!("{disk} {why}"))),
            }
            let left = pivot_end.unwrap_or(end).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.give_up(commit, &disk, pivot_end.is_some()));
            }
            seen = self.log.wait(seen, commit.guest.as_str(), left.min(LOOK_AGAIN));
        }
    }

    /// What the events say about a job that is gone.
    fn why_lost(&self, begin: Mark, commit: &Commit<'_>, disk: &str) -> Problem {
        let status =
            self.log.since(begin, commit.guest.as_str()).into_iter().rev().find_map(|notice| {
                match notice {
                    Notice::BlockJob { target, status } if target == commit.target => Some(status),
                    _ => None,
                }
            });
        let how = match status {
            Some(c::VIR_DOMAIN_BLOCK_JOB_FAILED) => "failed",
            Some(c::VIR_DOMAIN_BLOCK_JOB_CANCELED) => "was cancelled by somebody",
            _ => "ended without a result",
        };
        Problem::failed(format!("the commit of {disk} {how}")).hint(format!(
            "see whether there is room for {}, then run 'vitrify repair'",
            commit.base.display()
        ))
    }

    /// Ends a commit that took too long, so that no job is left behind; the overlay stays.
    fn give_up(&self, commit: &Commit<'_>, disk: &str, pivoting: bool) -> Problem {
        let what = if pivoting { "does not pivot" } else { "is not ready" };
        let limit = if pivoting { END_LIMIT } else { commit.limit };
        let message = format!("the commit of {disk} {what} after {}", shown(limit));
        let hint = "it writes faster than its storage can follow; run 'vitrify repair' when it is \
                    calmer";
        let problem = Problem::new(ProblemKind::TimedOut, message).hint(hint);
        match self.abort_commit(commit) {
            Ok(()) => problem,
            Err(error) => problem.from(error),
        }
    }

    fn abort_commit(&self, commit: &Commit<'_>) -> Answer<()> {
        let end = Instant::now() + END_LIMIT;
        let mut seen = self.log.mark();
        let mut asked = false;
        loop {
            let domain = self.domain(commit.guest)?;
            if chain_of(&domain, commit.target)?.job.is_none() {
                return Ok(());
            }
            if !asked {
                sys::end_block_job(&domain, commit.target, false)
                    .map_err(|error| problem("cannot abort the commit", &error))?;
                asked = true;
            }
            if Instant::now() >= end {
                return Err(Problem::new(ProblemKind::TimedOut, "the commit cannot be aborted"));
            }
            seen = self.log.wait(seen, commit.guest.as_str(), LOOK_AGAIN);
        }
    }

    pub(super) fn edit_disk(
        &self,
        guest: &GuestUuid,
        target: &str,
        path: &Path,
        format: &str,
    ) -> Answer<()> {
        let domain = self.domain(guest)?;
        let name = name_of(&domain);
        let what = || format!("cannot point disk {target} of guest '{name}' to {}", path.display());
        let before =
            xml(&domain, c::VIR_DOMAIN_XML_INACTIVE).map_err(|error| problem(what(), &error))?;
        let after = definition::repoint_disk(&before, target, path, format)
            .map_err(|error| Problem::failed(what()).from(error))?;
        if before == after {
            return Ok(());
        }
        self.connection()?
            .define_domain_xml_flags(&after, 0)
            .map(drop)
            .map_err(|error| problem(what(), &error))
    }
}

/// Begins to commit, and once more where AppArmor stood against it and could be told.
fn begin_commit(domain: &Domain, commit: &Commit<'_>, disk: &str) -> Answer<()> {
    let begin = || sys::block_commit(domain, commit.target, commit.base, commit.overlay);
    let failed = |error| problem(format!("cannot commit {disk}"), &error);
    match begin() {
        Err(error) if error.message().contains("Permission denied") => {
            match allow_base(commit.guest, commit.base) {
                Ok(true) => begin().map_err(failed),
                Ok(false) => Err(failed(error)),
                Err(mend) => Err(failed(error).hint(format!(
                    "AppArmor denies it, and its profile could not be changed: {}",
                    mend.chain()
                ))),
            }
        }
        result => result.map_err(failed),
    }
}

/// Makes the base the disk's top. A job that is not ready after all is left to the next look.
fn pivot(domain: &Domain, target: &str, disk: &str) -> Answer<()> {
    match sys::end_block_job(domain, target, true) {
        Err(error) if error.code().is(ErrorNumber::BlockCopyActive) => Ok(()),
        other => other.map_err(|error| problem(format!("cannot pivot {disk}"), &error)),
    }
}

fn chain_of(domain: &Domain, target: &str) -> Answer<Chain> {
    let name = name_of(domain);
    if domain.id().is_none() {
        let message = format!("guest '{name}' is shut off, disk {target} cannot be committed live");
        return Err(Problem::failed(message));
    }
    let live = xml(domain, 0)
        .map_err(|error| problem(format!("cannot read the definition of '{name}'"), &error))?;
    let document = Document::parse(&live).map_err(|error| {
        Problem::failed(format!("the definition of guest '{name}' is not XML")).from(error)
    })?;
    read_chain(&document, target)
        .ok_or_else(|| Problem::refused(format!("guest '{name}' has no disk {target} on a file")))
}

fn read_chain(document: &Document<'_>, target: &str) -> Option<Chain> {
    let disk = document.descendants().find(|node| {
        node.has_tag_name("disk")
            && child(*node, "target").and_then(|it| it.attribute("dev")) == Some(target)
    })?;
    let job = child(disk, "mirror").map(|mirror| Job {
        kind: mirror.attribute("job").unwrap_or("unknown").to_owned(),
        ready: mirror.attribute("ready") == Some("yes"),
    });
    let below = child(disk, "backingStore").and_then(image);
    Some(Chain { top: image(disk)?, below, job })
}

fn image(node: Node<'_, '_>) -> Option<PathBuf> {
    let source = child(node, "source")?;
    source.attribute("file").or_else(|| source.attribute("dev")).map(PathBuf::from)
}

fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| child.has_tag_name(name))
}

/// Decides from the look of the disk. `begun` says whether a job has been seen before.
fn step(chain: &Chain, overlay: &Path, base: &Path, begun: bool) -> Step {
    let on_base = chain.top == base;
    match &chain.job {
        Some(job) if job.kind.is_empty() => Step::Wait,
        Some(job) if job.kind != "active-commit" || on_base => {
            Step::Refuse(format!("has another block job ({})", job.kind))
        }
        _ if on_base => Step::Done,
        _ if chain.top != overlay => Step::Refuse(format!(
            "reads {}, which is neither the overlay nor the base of this capture",
            chain.top.display()
        )),
        _ if chain.below.as_deref().is_some_and(|below| below != base) => {
            Step::Refuse(format!("has an overlay that is not on top of {}", base.display()))
        }
        Some(Job { ready: true, .. }) => Step::Pivot,
        Some(_) => Step::Wait,
        None if begun => Step::Lost,
        None => Step::Begin,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(top: &str, below: Option<&str>, job: Option<(&str, bool)>) -> Chain {
        let job = job.map(|(kind, ready)| Job { kind: kind.into(), ready });
        Chain { top: top.into(), below: below.map(PathBuf::from), job }
    }

    #[test]
    fn each_look_of_a_disk_has_one_next_step() {
        let commit = |ready| Some(("active-commit", ready));
        let refused = |why: &str| Step::Refuse(why.to_owned());
        for (chain, begun, wanted) in [
            (chain("/base", None, None), false, Step::Done),
            (chain("/base", Some("/golden"), None), true, Step::Done),
            (chain("/ov", Some("/base"), None), false, Step::Begin),
            (chain("/ov", None, None), false, Step::Begin),
            (chain("/ov", Some("/base"), None), true, Step::Lost),
            (chain("/ov", Some("/base"), commit(false)), false, Step::Wait),
            (chain("/ov", Some("/base"), commit(true)), false, Step::Pivot),
            (chain("/ov", Some("/base"), commit(true)), true, Step::Pivot),
            (chain("/ov", Some("/base"), Some(("", false))), true, Step::Wait),
            (chain("/base", None, Some(("", false))), true, Step::Wait),
            (
                chain("/ov", Some("/base"), Some(("copy", true))),
                false,
                refused("has another block job (copy)"),
            ),
            (
                chain("/base", None, commit(true)),
                false,
                refused("has another block job (active-commit)"),
            ),
            (
                chain("/other", Some("/base"), None),
                false,
                refused("reads /other, which is neither the overlay nor the base of this capture"),
            ),
            (
                chain("/ov", Some("/golden"), None),
                false,
                refused("has an overlay that is not on top of /base"),
            ),
        ] {
            let found = step(&chain, Path::new("/ov"), Path::new("/base"), begun);
            assert_eq!(found, wanted, "{chain:?} begun={begun}");
        }
    }

    #[test]
    fn chains_are_read_from_the_live_definition() {
        let xml = |mirror: &str| {
            format!(
                "<domain><devices><disk><target dev='sda'/></disk><disk type='file'>
                   <source file='/ov'/>
                   <backingStore type='block'><source dev='/dev/zvol/x'/>
                     <backingStore type='file'><source file='/golden'/></backingStore>
                   </backingStore>{mirror}
                   <target dev='vda'/></disk></devices></domain>"
            )
        };
        for (mirror, job) in [
            ("", None),
            ("<mirror type='block' job='active-commit'/>", Some(("active-commit", false))),
            ("<mirror job='active-commit' ready='yes'/>", Some(("active-commit", true))),
            ("<mirror job='active-commit' ready='pivot'/>", Some(("active-commit", false))),
            ("<mirror job='copy' ready='yes'/>", Some(("copy", true))),
            ("<mirror type='file' job=''/>", Some(("", false))),
        ] {
            let text = xml(mirror);
            let document = Document::parse(&text).unwrap();
            let wanted = chain("/ov", Some("/dev/zvol/x"), job);
            assert_eq!(read_chain(&document, "vda"), Some(wanted), "{mirror}");
            assert_eq!(read_chain(&document, "sda"), None);
            assert_eq!(read_chain(&document, "vdz"), None);
        }
    }
}
