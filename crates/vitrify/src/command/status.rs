//! `vitrify status`: how the guests stand against their policies.

use serde_json::{Value, json};
use vitrify_core::config::GuestRule;
use vitrify_core::inventory::Guest;
use vitrify_core::policy::status::{Level, Standing, standing};
use vitrify_core::ports::{Answer, FoundPoint};
use vitrify_core::problem::{Problem, ProblemKind};

use crate::args::StatusArgs;
use crate::command::prune::facts_of;
use crate::command::run::protected;
use crate::configuration::time_zone;
use crate::context::{Context, Host};
use crate::exit::{CRITICAL, DONE, Status, UNKNOWN, WARNING};
use crate::output;

const HEADER: [&str; 6] = ["GUEST", "STATUS", "NEWEST", "CONSISTENCY", "NEXT", "WHY"];

pub(crate) fn run(context: &Context, args: &StatusArgs) -> Answer<Status> {
    let answer = look(context);
    if !args.nagios {
        let (seen, unprotected, status) = answer?;
        print(context, &seen, &unprotected);
        return Ok(status);
    }
    match answer {
        Ok((seen, unprotected, _)) => Ok(nagios(&seen, unprotected.len())),
        Err(problem) => {
            output::result(&format!("VITRIFY UNKNOWN - {}\n", problem.chain()));
            Ok(UNKNOWN)
        }
    }
}

/// A guest with a rule, and how it stands.
struct Seen {
    guest: Guest,
    newest: Option<Value>,
    standing: Standing,
}

type Looked = (Vec<Seen>, Vec<String>, Status);

fn look(context: &Context) -> Answer<Looked> {
    let host = context.host()?;
    let mut status = DONE;
    let covered = protected(context, &host, &mut status)?;
    let points = context.points()?;
    let all = host.world().hypervisor.guests()?;
    let is_covered = |it: &&Guest| covered.iter().any(|(guest, _)| guest.uuid == it.uuid);
    let bare = all.iter().filter(|it| !is_covered(it)).map(|it| it.name.to_string()).collect();
    let seen = covered.into_iter().map(|(guest, rule)| judge(context, &host, guest, rule, &points));
    Ok((seen.collect::<Answer<_>>()?, bare, status))
}

fn judge(
    context: &Context,
    host: &Host<'_>,
    guest: Guest,
    rule: &GuestRule,
    points: &[FoundPoint],
) -> Answer<Seen> {
    let facts = facts_of(host, &guest, rule, points)?;
    let zone = time_zone(&context.config)
        .map_err(|error| Problem::new(ProblemKind::NotFound, error.to_string()))?;
    let now = host.world().clock.now().to_zoned_datetime(zone);
    let newest = points.iter().find(|it| it.guest == guest.uuid && it.published);
    let newest = newest.and_then(|it| Some((it, it.manifest.as_ref().ok()?)));
    let newest = newest.map(|(point, it)| {
        json!({ "point": it.name(), "time": it.time, "consistency": point.promises(it) })
    });
    Ok(Seen { newest, standing: standing(&rule.policy.policy, &facts, &now), guest })
}

fn print(context: &Context, seen: &[Seen], unprotected: &[String]) {
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
    let bare = |name: &String| {
        let dash = || "-".to_owned();
        vec![name.clone(), "unprotected".into(), dash(), dash(), dash(), "no rule covers it".into()]
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
    match worst {
        Level::Ok => DONE,
        Level::Warning => WARNING,
        Level::Critical => CRITICAL,
    }
}
