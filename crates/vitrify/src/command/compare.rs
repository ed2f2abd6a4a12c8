//! `vitrify config import FILE --compare`: what sanoid does by its configuration, beside what we do by
//! ours. Changes nothing.

mod report;

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};
use vitrify_core::config::{Config, GuestRule, VolumeRule};
use vitrify_core::inventory::Guest;
use vitrify_core::name::{GuestName, PointName, Volume};
use vitrify_core::point::{Purpose, name_at};
use vitrify_core::policy::Policy;
use vitrify_core::policy::adoption::adopted;
use vitrify_core::policy::due::due;
use vitrify_core::policy::retention::{PointFacts, facts, retention, taken};
use vitrify_core::ports::{Answer, Clock as _, FoundPoint, Storage as _};
use vitrify_core::problem::Problem;
use vitrify_core::sanoid::compare::{Row, compare};
use vitrify_core::sanoid::datasets::{Targets, targets};
use vitrify_core::sanoid::decide::{Snapshot, prune};
use vitrify_core::sanoid::import::{Placed, import, not_imported};
use vitrify_core::sanoid::monitor::pool_of;
use vitrify_core::sanoid::plan::groups;
use vitrify_core::sanoid::settings::{Section, read};
use vitrify_core::volumes::ledger::Ledger;
use vitrify_host::clock::SystemClock;
use vitrify_host::storage::HostStorage;
use vitrify_host::zfs::sanoid::{Found, look};

use self::report::{Report, With};
use crate::args::Global;
use crate::command::config::placed;
use crate::command::prune::{periods_of, published};
use crate::command::removal::volumes_of_points;
use crate::configuration::time_zone;
use crate::context::Context;
use crate::exit::{DONE, FAILED, Status};
use crate::output;

pub(super) fn run(global: &Global, file: &str, text: &str) -> Answer<Status> {
    let sections = read(file, text)?.sections;
    let context = Context::new(global)?;
    let (guests, placed) = placed(global)?;
    let (config, with) = ours(&context.config, file, text, &placed)?;
    let zone = time_zone(&config)?;
    let seen = Seen::of(&sections, &placed);
    let found = targets(&sections, &seen.datasets);
    let rows = compare(&found.targets, &placed, &config, &|it| seen.snapshots(it));
    let mut now = Now {
        at: SystemClock.now(),
        zone,
        seen: &seen,
        targets: &found,
        guests: &guests,
        points: context.points()?,
        ledger: context.ledger_file().read()?,
        status: seen.status,
    };
    let deeds = rows.iter().map(|row| now.deeds(row)).collect();
    let status = now.status;
    let report = Report {
        with,
        time_zones: time_zones(&config).filter(|_| rows.iter().any(is_common)),
        rows: rows.into_iter().zip::<Vec<_>>(deeds).collect(),
        left_out: not_imported(file, text)?,
        unmatched: found.unmatched,
        unseen: sections.iter().filter(|it| seen.snapshots(&it.dataset).is_none()).collect(),
    };
    match global.json {
        true => output::json(&report.to_json()),
        false => report.print(),
    }
    // Nobody may take for the same what could not be looked at.
    Ok(if report.is_same() { status } else { FAILED })
}

/// The configuration that is in force; the one that would be imported, where no rule is.
fn ours(config: &Config, file: &str, text: &str, guests: &[Placed]) -> Answer<(Config, With)> {
    if !config.rules.is_empty() || !config.volumes.is_empty() {
        return Ok((config.clone(), With::InForce));
    }
    let imported = import(file, text, Some(guests))?;
    let name = format!("the import of {file}");
    match Config::parse([(name.as_str(), imported.as_str())]) {
        Ok(config) => Ok((config, With::Imported)),
        Err(errors) => {
            let first = errors.first().map_or_else(String::new, ToString::to_string);
            Err(Problem::failed(format!("what would be imported is wrong: {first}")))
        }
    }
}

/// The system's time zone, which sanoid goes by, and ours, where that is another one.
fn time_zones(config: &Config) -> Option<(String, String)> {
    let system = TimeZone::system();
    let (ours, theirs) = (&config.time_zone.as_ref()?.0, system.iana_name());
    (theirs != Some(ours)).then(|| (theirs.unwrap_or("the system's").to_owned(), ours.clone()))
}

/// Whether both take something there.
fn is_common(row: &Row<'_>) -> bool {
    !row.sanoid.takes.is_empty() && !row.ours.takes.is_empty()
}

/// What there is of what the sections name.
struct Seen {
    found: Found,
    /// Every dataset that is known of, in order.
    datasets: Vec<Volume>,
    /// What follows from what could not be looked at.
    status: Status,
}

impl Seen {
    /// Looks at the pools of the sections. Of a pool that does not answer, those datasets are known
    /// that a section or a guest names.
    fn of(sections: &[Section], guests: &[Placed]) -> Self {
        let pools: BTreeSet<_> =
            sections.iter().map(|it| pool_of(&it.dataset).to_owned()).collect();
        let looked = if pools.is_empty() { Ok(Found::default()) } else { look(&pools) };
        let mut status = DONE;
        let mut fail = |problem: &Problem| status = status.and(output::problem(problem));
        let mut found = looked.unwrap_or_else(|problem| {
            fail(&problem);
            Found::default()
        });
        found.unfit.iter().for_each(|it| fail(&it.1));
        let mut datasets: BTreeSet<_> = std::mem::take(&mut found.datasets).into_iter().collect();
        let answers =
            |it: &&Section| found.pools.iter().any(|pool| pool.name == pool_of(&it.dataset));
        let named = sections.iter().filter(|it| !answers(it)).map(|it| it.dataset.clone());
        datasets.extend(named.chain(guests.iter().flat_map(|it| it.1.clone())));
        Self { found, datasets: datasets.into_iter().collect(), status }
    }

    /// `None` where nobody could look.
    fn snapshots(&self, dataset: &Volume) -> Option<&[Snapshot]> {
        self.found.pools.iter().find(|it| it.name == pool_of(dataset))?;
        Some(self.found.snapshots.get(dataset).map(Vec::as_slice).unwrap_or_default())
    }
}

/// What one of the two would do at this moment.
#[derive(Debug, Default, PartialEq, Eq)]
struct Deeds {
    takes: Vec<String>,
    prunes: Vec<String>,
}

/// What sanoid would do, and what we would; `None`: nobody could look.
type Both = (Option<Deeds>, Option<Deeds>);

/// What is known of this moment.
struct Now<'a> {
    at: Timestamp,
    zone: TimeZone,
    seen: &'a Seen,
    targets: &'a Targets<'a>,
    guests: &'a [Guest],
    points: Vec<FoundPoint>,
    ledger: Ledger,
    status: Status,
}

impl Now<'_> {
    fn deeds(&mut self, row: &Row<'_>) -> Both {
        let sanoid = match row.section {
            None => Ok(Some(Deeds::default())),
            Some(section) => self.sanoids(row.dataset, section),
        };
        let ours = match (&row.rule, row.guest, row.volume_rule) {
            (Ok(Some(rule)), Some(guest), _) => self.of_guest(row, guest, rule).map(Some),
            (_, None, Some(rule)) => self.of_volume(row, rule).map(Some),
            _ => Ok(Some(Deeds::default())),
        };
        (self.or_told(sanoid), self.or_told(ours))
    }

    fn or_told(&mut self, deeds: Answer<Option<Deeds>>) -> Option<Deeds> {
        deeds.unwrap_or_else(|problem| {
            self.status = self.status.and(output::problem(&problem));
            None
        })
    }

    fn sanoids(&self, dataset: &Volume, section: &Section) -> Answer<Option<Deeds>> {
        let Some(snapshots) = self.seen.snapshots(dataset) else { return Ok(None) };
        let now = self.at.to_zoned_datetime(TimeZone::system());
        let groups = groups(&self.targets.targets, &self.seen.found.snapshots, &now)
            .map_err(|error| Problem::failed("cannot name a snapshot").from(error))?;
        let mine = groups.into_iter().filter(|it| it.datasets.contains(&dataset));
        let takes = mine.flat_map(|it| it.takes).map(|it| it.name.to_string()).collect();
        let pool = self.seen.found.pools.iter().find(|it| it.name == pool_of(dataset));
        let judged = prune(&section.settings, snapshots, pool.and_then(|it| it.used), self.at);
        let gone = judged.into_iter().flatten().filter(|it| it.1.is_err());
        Ok(Some(Deeds { takes, prunes: gone.map(|it| it.0.name.to_string()).collect() }))
    }

    fn of_guest(&self, row: &Row<'_>, guest: &GuestName, rule: &GuestRule) -> Answer<Deeds> {
        let whose = self.guests.iter().find(|it| it.name == *guest);
        let its: Vec<_> = whose.into_iter().flat_map(|it| published(&self.points, it)).collect();
        let volumes: Vec<_> = volumes_of_points(its.iter().copied()).into_iter().collect();
        let facts = facts(its.iter().copied(), &HostStorage.snapshots(&volumes)?, rule.consistency);
        let mut deeds = self.ours(&rule.policy.policy, &facts)?;
        if !row.adopting.is_empty() {
            let snapshots = HostStorage.snapshots(std::slice::from_ref(row.dataset))?;
            let judged = adopted(&row.adopting, &snapshots, &periods_of(&self.points), self.at);
            let gone = judged.iter().filter(|it| it.1.is_err());
            deeds.prunes.extend(gone.map(|it| it.0.snapshot.name.to_string()));
        }
        Ok(deeds)
    }

    fn of_volume(&self, row: &Row<'_>, rule: &VolumeRule) -> Answer<Deeds> {
        let snapshots = HostStorage.snapshots(std::slice::from_ref(row.dataset))?;
        self.ours(&rule.policy.policy, &self.ledger.facts(row.dataset, &snapshots))
    }

    fn ours(&self, policy: &Policy, facts: &[PointFacts]) -> Answer<Deeds> {
        let now: ZonedDateTime = self.at.to_zoned_datetime(self.zone.clone());
        let due = due(policy, &taken(facts), &now).into_iter();
        let names = due.map(|it| name_at(self.at, Purpose::Scheduled(it.period)));
        let names = names
            .collect::<Result<Vec<PointName>, _>>()
            .map_err(|error| Problem::failed("cannot name a point").from(error))?;
        let decided = retention(policy, facts, self.at);
        let doomed = decided.doomed();
        let points = decided.names.iter().filter(|it| doomed.contains(&it.0));
        let prunes = points.map(|it| it.1.to_string()).collect();
        Ok(Deeds { takes: names.iter().map(ToString::to_string).collect(), prunes })
    }
}
