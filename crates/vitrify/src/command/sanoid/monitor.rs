//! The monitors: one line for Nagios, and its exit status.

use vitrify_core::policy::status::Level;
use vitrify_core::ports::{Answer, Clock as _};
use vitrify_core::sanoid::monitor::{Report, Watched, capacity, health, pool_of, snapshots};
use vitrify_host::clock::SystemClock;
use vitrify_host::zfs::sanoid::pools;

use super::{Seen, configuration};
use crate::args::SanoidArgs;
use crate::exit::Status;
use crate::output;

pub(super) fn run(args: &SanoidArgs) -> Status {
    let report = judge(args).unwrap_or_else(|problem| {
        let status = Level::Unknown;
        Report { status, line: format!("{status}: {}", problem.chain()) }
    });
    output::result(&format!("{}\n", report.line));
    report.status.into()
}

fn judge(args: &SanoidArgs) -> Answer<Report> {
    if args.monitor_health {
        return Ok(health(&pools(None)?));
    }
    let sections = configuration(&args.configdir)?.sections;
    if args.monitor_capacity {
        let names = sections.iter().map(|it| pool_of(&it.dataset).to_owned()).collect();
        return Ok(capacity(&sections, &pools(Some(&names))?));
    }
    let seen = Seen::of(&sections)?;
    let found = seen.targets();
    let watched: Vec<_> = found
        .targets
        .iter()
        .map(|it| Watched {
            dataset: it.dataset,
            settings: &it.section.settings,
            snapshots: seen.found.snapshots.get(it.dataset).map(Vec::as_slice).unwrap_or_default(),
        })
        .collect();
    let unfit = |pool: &str| seen.found.unfit.iter().find(|it| it.0 == pool).map(|it| &it.1);
    let beyond_reach =
        sections.iter().filter_map(|it| Some((it, unfit(pool_of(&it.dataset))?.message.clone())));
    let gone = found.unmatched.iter().map(|it| (*it, "there is no such dataset".to_owned()));
    let unseen: Vec<_> = beyond_reach.chain(gone).collect();
    Ok(snapshots(&watched, &unseen, SystemClock.now()))
}
