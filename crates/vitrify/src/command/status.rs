//! `vitrify status`: how the guests stand against their policies.

use serde_json::{Value, json};
use vitrify_core::inventory::Guest;
use vitrify_core::name::GuestName;
use vitrify_core::policy::retention::facts;
use vitrify_core::policy::status::{Level, Standing, standing};
use vitrify_core::ports::{Answer, FoundPoint};

use crate::args::StatusArgs;
use crate::command::prune::published;
use crate::command::removal::snapshots_of;
use crate::command::run::look;
use crate::configuration::time_zone;
use crate::context::Context;
use crate::exit::Status;
use crate::output;

const HEADER: [&str; 6] = ["GUEST", "STATUS", "NEWEST", "CONSISTENCY", "NEXT", "WHY"];

pub(crate) fn run(context: &Context, args: &StatusArgs) -> Answer<Status> {
    let answer = judge_all(context);
    if !args.nagios {
        let (seen, unprotected, status) = answer?;
        print(context, &seen, &unprotected);
        return Ok(status);
    }
    match answer {
        Ok((seen, unprotected, _)) => Ok(nagios(&seen, unprotected.len())),
        Err(problem) => {
            output::result(&format!("VITRIFY {} - {}\n", Level::Unknown, problem.chain()));
            Ok(Level::Unknown.into())
        }
    }
}

/// A guest with a rule, and how it stands.
struct Seen {
    guest: Guest,
    newest: Option<Value>,
    standing: Standing,
}

type Judged = (Vec<Seen>, Vec<GuestName>, Status);

fn judge_all(context: &Context) -> Answer<Judged> {
    let host = context.host()?;
    let guests = look(context, &host)?;
    let points = context.points()?;
    let its = guests.covered.iter().flat_map(|(guest, _)| published(&points, guest));
    let snapshots = snapshots_of(&host, &its.collect::<Vec<_>>())?;
    let now = host.world().clock.now().to_zoned_datetime(time_zone(&context.config)?);
    let seen = guests.covered.into_iter().map(|(guest, rule)| {
        let facts = facts(published(&points, &guest), &snapshots, rule.consistency);
        let standing = standing(&rule.policy.policy, &facts, &now);
        Seen { newest: newest(&points, &guest), standing, guest }
    });
    let bare = guests.bare.into_iter().map(|it| it.name);
    Ok((seen.collect(), bare.collect(), guests.status))
}

/// A guest's newest point.
fn newest(points: &[FoundPoint], guest: &Guest) -> Option<Value> {
    let point = published(points, guest).next()?;
    let it = point.manifest.as_ref().ok()?;
    Some(json!({ "point": it.name(), "time": it.time, "consistency": point.promises(it) }))
}

fn print(context: &Context, seen: &[Seen], unprotected: &[GuestName]) {
    if context.json {
        let guests = seen.iter().map(|it| {
            json!({
                "guest": it.guest.name,
                "status": it.standing.level,
                "reasons": it.standing.reasons,
                "newest": it.newest,
                "next": it.standing.next,
            })
        });
        let guests: Vec<_> = guests.collect();
        output::json(&json!({ "version": 1, "guests": guests, "unprotected": unprotected }));
        return;
    }
    let field = |it: &Seen, key: &str| {
        let value = it.newest.as_ref().and_then(|it| it[key].as_str()).unwrap_or("-");
        value.to_owned()
    };
    let row = |it: &Seen| {
        let next = it.standing.next.map_or_else(
            || "-".to_owned(),
            |it| it.to_zoned_datetime(context.zone.clone()).strftime("%Y-%m-%d %H:%M").to_string(),
        );
        let why = it.standing.reasons.join("; ");
        let (level, name) = (it.standing.level.to_string(), it.guest.name.to_string());
        vec![name, level, field(it, "point"), field(it, "consistency"), next, why]
    };
    let mut rows: Vec<_> = seen.iter().map(row).collect();
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
    rows.extend(unprotected.iter().map(bare));
    if !rows.is_empty() {
        output::table(&HEADER, rows, false);
    }
}

/// One line with performance data, and Nagios' own exit status.
fn nagios(seen: &[Seen], unprotected: usize) -> Status {
    let worst = seen.iter().map(|it| it.standing.level).max().unwrap_or(Level::Ok);
    let said = seen.iter().filter(|it| it.standing.level > Level::Ok);
    let said: Vec<_> =
        said.map(|it| format!("{}: {}", it.guest.name, it.standing.reasons.join(", "))).collect();
    let words = match said.is_empty() {
        true => format!("{} guests as their policies have it", seen.len()),
        false => said.join("; "),
    };
    let bad = |level: Level| seen.iter().filter(|it| it.standing.level == level).count();
    output::result(&format!(
        "VITRIFY {worst} - {words}|guests={} warning={} critical={} unprotected={unprotected}\n",
        seen.len(),
        bad(Level::Warning),
        bad(Level::Critical),
    ));
    worst.into()
}
