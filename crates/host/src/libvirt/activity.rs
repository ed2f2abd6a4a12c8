//! What is going on with a guest that its definitions do not tell. Changes nothing.

use std::time::{Duration, Instant};

use virt::domain::Domain;
use virt::domain_snapshot::DomainSnapshot;
use virt::error::Error;
use virt_sys as c;
use vitrify_core::definition::Definition;
use vitrify_core::inventory::Activity;
use vitrify_core::name::GuestUuid;
use vitrify_core::ports::Answer;
use vitrify_core::problem::Problem;

use super::error::{is_no_domain, problem};
use super::events::Mark;
use super::guests::{name_of, xml};
use super::{Libvirt, sys};

/// libvirt says that a guest has ended when it has seen that its QEMU is gone, which is later than
/// questions to that QEMU fail.
const ENDING: Duration = Duration::from_secs(5);

impl Libvirt {
    pub(super) fn activity_of(&self, guest: &GuestUuid) -> Answer<Activity> {
        let domain = self.domain(guest)?;
        let found =
            Activity { external_snapshots: external_snapshots(&domain)?, ..Activity::default() };
        if domain.id().is_none() {
            return Ok(found);
        }
        let before = self.log.mark();
        match self.activity_of_active(guest, &domain, found.clone()) {
            Err(_) if self.has_ended(&domain, guest, before) => Ok(found),
            seen => seen,
        }
    }

    /// Whether a guest of which something could not be learned has ended since, or is about to.
    fn has_ended(&self, domain: &Domain, guest: &GuestUuid, since: Mark) -> bool {
        let (mut seen, end) = (since, Instant::now() + ENDING);
        loop {
            match domain.is_active() {
                Ok(false) => return true,
                Err(error) => return is_no_domain(&error),
                Ok(true) if Instant::now() >= end => return false,
                Ok(true) => {}
            }
            seen =
                self.log.wait(seen, guest.as_str(), end.saturating_duration_since(Instant::now()));
        }
    }

    fn activity_of_active(
        &self,
        guest: &GuestUuid,
        domain: &Domain,
        mut found: Activity,
    ) -> Answer<Activity> {
        let name = name_of(domain);
        let failed = |error| unseen(&name, &error);
        let definition = Definition::parse(&xml(domain, 0).map_err(failed)?)
            .map_err(|error| Problem::failed(format!("guest '{name}'")).from(error))?;
        for disk in definition.disks.into_iter().filter(|it| it.source.path().is_some()) {
            if let Some(kind) = sys::block_job(domain, &disk.target).map_err(failed)? {
                found.block_jobs.push((disk.target, job_name(kind).to_owned()));
            }
        }
        // libvirt never sets the capability. Who did spoke to QEMU's monitor, and that taints a guest:
        // one that is not tainted need not be tainted by our question.
        found.background_snapshot =
            sys::taints(domain).map_err(failed)? > 0 && self.is_capable(guest)?;
        Ok(found)
    }
}

fn external_snapshots(domain: &Domain) -> Answer<Vec<String>> {
    let failed = |error| unseen(&name_of(domain), &error);
    let found = domain.list_all_snapshots(c::VIR_DOMAIN_SNAPSHOT_LIST_EXTERNAL).map_err(failed)?;
    let mut names =
        found.iter().map(DomainSnapshot::name).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    names.sort();
    Ok(names)
}

fn unseen(name: &str, error: &Error) -> Problem {
    problem(format!("cannot see what guest '{name}' is at"), error)
}

/// `virDomainBlockJobType` in words.
fn job_name(kind: u32) -> &'static str {
    match kind {
        c::VIR_DOMAIN_BLOCK_JOB_TYPE_PULL => "pull",
        c::VIR_DOMAIN_BLOCK_JOB_TYPE_COPY => "copy",
        c::VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT => "commit",
        c::VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT => "active commit",
        c::VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP => "backup",
        _ => "unknown",
    }
}
