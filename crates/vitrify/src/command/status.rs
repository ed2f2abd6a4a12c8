//! `vitrify status`: how the guests, and volumes without guests, stand against their policies.

use serde_json::{Value, json};
use vitrify_core::name::GuestName;
use vitrify_core::policy::metrics::{GuestMetrics, VolumeMetrics};
use vitrify_core::policy::retention::facts;
use vitrify_core::policy::status::{Level, Standing, standing};
use vitrify_core::ports::{Answer, FoundPoint};
use vitrify_host::public_file;

use crate::args::StatusArgs;
use crate::command::prune::published;
use crate::command::run::{Guests, look};
use crate::command::volumes::{self, SeenVolume, Volumes};
use crate::configuration::time_zone;
use crate::context::{Context, Host};
use crate::exit::Status;
use crate::output;

const HEADER: [&str; 6] = ["GUEST", "STATUS", "NEWEST", "CONSISTENCY", "NEXT", "WHY"];
const VOLUMES_HEADER: [&str; 5] = ["VOLUME", "STATUS", "NEWEST", "NEXT", "WHY"];

pub(crate) fn run(context: &Context, args: &StatusArgs) -> Answer<Status> {
    let answer = judge_all(context);
    if !args.nagios {
        let judged = answer?;
        print(context, &judged);
        return Ok(judged.status);
    }
    match answer {
        Ok(judged) => Ok(nagios(&judged)),
        Err(problem) => {
            output::result(&format!("VITRIFY {} - {}\n", Level::Unknown, problem.chain()));
            Ok(Level::Unknown.into())
        }
    }
}

/// A guest with a rule, and how it stands.
struct Seen {
    guest: GuestName,
    newest: Option<Value>,
    standing: Standing,
    metrics: GuestMetrics,
}

/// How all guests stand.
pub(crate) struct Judged {
    seen: Vec<Seen>,
    volumes: Vec<SeenVolume>,
    unprotected: Vec<GuestName>,
    pub(crate) status: Status,
}

fn judge_all(context: &Context) -> Answer<Judged> {
    let host = context.host()?;
    let guests = look(context, &host)?;
    let volumes = volumes::look(context, host.world().storage, Some(&guests))?;
    judge(context, &host, &guests, &volumes, &context.points()?)
}

/// Judges the guests by these points, newest first, and the volumes.
pub(crate) fn judge(
    context: &Context,
    host: &Host<'_>,
    guests: &Guests<'_>,
    volumes: &Volumes<'_>,
    points: &[FoundPoint],
) -> Answer<Judged> {
    let now = host.world().clock.now().to_zoned_datetime(time_zone(&context.config)?);
    let seen = guests.covered.iter().map(|(guest, rule)| {
        // What its snapshots are needed for has no bearing on that.
        let facts = facts(published(points, guest), &[], rule.consistency);
        let standing = standing(&rule.policy.policy, &facts, &now);
        let (name, points) = (guest.name.clone(), published(points, guest));
        let metrics = GuestMetrics::of(&name, standing.level, rule.consistency, points.clone());
        Seen { newest: newest(points), standing, metrics, guest: name }
    });
    let unprotected = guests.bare.iter().map(|it| it.name.clone());
    let world = host.world();
    Ok(Judged {
        seen: seen.collect(),
        volumes: volumes::judge(context, world.storage, world.clock, volumes)?,
        unprotected: unprotected.collect(),
        status: guests.status,
    })
}

/// Lays what `--json` prints, and when, where everybody may read it.
pub(crate) fn publish(
    context: &Context,
    host: &Host<'_>,
    guests: &Guests<'_>,
    points: &[FoundPoint],
) -> Answer<()> {
    let volumes = volumes::look(context, host.world().storage, Some(guests))?;
    let mut status = judge(context, host, guests, &volumes, points)?.to_json();
    status["written"] = json!(host.world().clock.now());
    let file = context.status_file();
    if let Some(folder) = file.parent() {
        public_file::ensure_folder(folder)?;
    }
    public_file::write(&file, &format!("{status}\n"))
}

impl Judged {
    /// What `--json` prints.
    fn to_json(&self) -> Value {
        let guests = self.seen.iter().map(|it| {
            json!({
                "guest": it.guest,
                "status": it.standing.level,
                "reasons": it.standing.reasons,
                "newest": it.newest,
                "next": it.standing.next,
            })
        });
        let guests: Vec<_> = guests.collect();
        let volumes = self.volumes.iter().map(|it| {
            json!({
                "volume": it.volume,
                "status": it.standing.level,
                "reasons": it.standing.reasons,
                "newest": it.newest,
                "next": it.standing.next,
            })
        });
        json!({
            "version": 1,
            "guests": guests,
            "volumes": volumes.collect::<Vec<_>>(),
            "unprotected": self.unprotected,
        })
    }

    /// What a monitoring system is told of the guests.
    pub(crate) fn metrics(&self) -> Vec<GuestMetrics> {
        self.seen.iter().map(|it| it.metrics.clone()).collect()
    }

    /// The same of the volumes.
    pub(crate) fn volume_metrics(&self) -> Vec<VolumeMetrics> {
        self.volumes.iter().map(|it| it.metrics.clone()).collect()
    }

    /// The number of guests that no rule covers.
    pub(crate) fn unprotected(&self) -> usize {
        self.unprotected.len()
    }
}

/// A guest's newest point.
fn newest<'a>(mut points: impl Iterator<Item = &'a FoundPoint>) -> Option<Value> {
    let point = points.next()?;
    let it = point.manifest.as_ref().ok()?;
    Some(json!({ "point": it.name(), "time": it.time, "consistency": point.promises(it) }))
}

fn print(context: &Context, judged: &Judged) {
    if context.json {
        output::json(&judged.to_json());
        return;
    }
    let field = |it: &Seen, key: &str| {
        let value = it.newest.as_ref().and_then(|it| it[key].as_str()).unwrap_or("-");
        value.to_owned()
    };
    let row = |it: &Seen| {
        let next = next(context, &it.standing);
        let why = it.standing.reasons.join("; ");
        let (level, name) = (it.standing.level.to_string(), it.guest.to_string());
        vec![name, level, field(it, "point"), field(it, "consistency"), next, why]
    };
    let mut rows: Vec<_> = judged.seen.iter().map(row).collect();
    let bare = |name: &GuestName| {
        let dash = || "-".to_owned();
        vec![
            name.to_string(),
            "unprotected".into(),
            dash(),
            dash(),
            dash(),
            "no rule covers it".into(),
        ]
    };
    rows.extend(judged.unprotected.iter().map(bare));
    if !rows.is_empty() {
        output::table(&HEADER, rows, false);
    }
    let row = |it: &SeenVolume| {
        let newest = it.newest.as_ref().and_then(|it| it["snapshot"].as_str()).unwrap_or("-");
        vec![
            it.volume.to_string(),
            it.standing.level.to_string(),
            newest.to_owned(),
            next(context, &it.standing),
            it.standing.reasons.join("; "),
        ]
    };
    if !judged.volumes.is_empty() {
        output::table(&VOLUMES_HEADER, judged.volumes.iter().map(row).collect(), false);
    }
}

/// When the next one is due.
fn next(context: &Context, standing: &Standing) -> String {
    standing.next.map_or_else(
        || "-".to_owned(),
        |it| it.to_zoned_datetime(context.zone.clone()).strftime("%Y-%m-%d %H:%M").to_string(),
    )
}

/// One line with performance data, and Nagios' own exit status.
fn nagios(judged: &Judged) -> Status {
    let (seen, unprotected) = (&judged.seen, judged.unprotected());
    let guests = seen.iter().map(|it| (it.guest.to_string(), &it.standing));
    let volumes = judged.volumes.iter().map(|it| (it.volume.to_string(), &it.standing));
    let all: Vec<_> = guests.chain(volumes).collect();
    let worst = all.iter().map(|it| it.1.level).max().unwrap_or(Level::Ok);
    let said = all.iter().filter(|it| it.1.level > Level::Ok);
    let said: Vec<_> = said.map(|it| format!("{}: {}", it.0, it.1.reasons.join(", "))).collect();
    let volumes = match judged.volumes.len() {
        0 => String::new(),
        count => format!(" and {count} volumes"),
    };
    let words = match said.is_empty() {
        true => format!("{} guests{volumes} as their policies have it", seen.len()),
        false => said.join("; "),
    };
    let bad = |level: Level| all.iter().filter(|it| it.1.level == level).count();
    output::result(&format!(
        "VITRIFY {worst} - {words}|guests={} volumes={} warning={} critical={} \
         unprotected={unprotected}\n",
        seen.len(),
        judged.volumes.len(),
        bad(Level::Warning),
        bad(Level::Critical),
    ));
    worst.into()
}
