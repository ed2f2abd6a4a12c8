//! `vitrify config`: reads the configuration and libvirt's guests, and makes nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use jiff::civil::Time;
use serde_json::{Value, json};
use vitrify_core::config::{
    CommandLine, Config, ConfigError, GuestRule, NamedPolicy, Otherwise, SCHEMA, VolumeRule,
};
use vitrify_core::engine::volumes_of;
use vitrify_core::hooks::Hook;
use vitrify_core::inventory::Guest;
use vitrify_core::name::GuestName;
use vitrify_core::policy::{Period, Policy, PreferredTimes, weekday_name};
use vitrify_core::ports::{Answer, Hypervisor, Storage as _};
use vitrify_core::problem::{Problem, ProblemKind};
use vitrify_core::sanoid;
use vitrify_host::libvirt::Libvirt;
use vitrify_host::storage::HostStorage;

use crate::args::{ConfigCommand, ConfigImportArgs, ConfigShowArgs, Global};
use crate::command::compare;
use crate::configuration;
use crate::exit::{DONE, FAILED, Status, USAGE};
use crate::output;
use crate::progress::note;

pub(crate) fn run(global: &Global, command: &ConfigCommand) -> Answer<Status> {
    match command {
        ConfigCommand::Check => check(global),
        ConfigCommand::Show(args) => show(global, args),
        ConfigCommand::Import(args) => import(global, args),
        ConfigCommand::Schema => {
            output::result(SCHEMA);
            Ok(DONE)
        }
    }
}

fn guest_names(global: &Global) -> Answer<Vec<GuestName>> {
    let guests = Libvirt::connect(&global.connect, Arc::default())?.guests()?;
    Ok(guests.into_iter().map(|it| it.name).collect())
}

fn check(global: &Global) -> Answer<Status> {
    let files = configuration::read(global.config.as_deref())?;
    let parsed = configuration::parse(&files).and_then(|config| {
        configuration::time_zone(&config).map_err(|error| vec![error])?;
        Ok(config)
    });
    let config = match parsed {
        Ok(config) => config,
        Err(errors) => return Ok(report(global, &errors, None)),
    };
    let mut notes = Vec::new();
    if files.is_empty() {
        notes.push("there is no configuration file, so the defaults hold".to_owned());
    }
    let names = guest_names(global);
    let guests = match &names {
        Ok(names) => Some(Guests::look(&config, names)),
        Err(problem) => {
            notes.push(format!("guest names were not looked at: {}", problem.chain()));
            None
        }
    };
    let unprotected = guests.as_ref().map(|it| it.unprotected.join(", "));
    if let Some(names) = unprotected.filter(|it| !it.is_empty()) {
        notes.push(format!("no rule protects {names}"));
    }
    if !global.quiet {
        notes.iter().for_each(|it| note(&format!("note: {it}")));
    }
    Ok(report(global, &[], Some((&config, guests))))
}

/// Why a command line will hardly work: its program is named by its path and cannot be executed.
fn doubt(command: &CommandLine) -> Option<ConfigError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    let program = command.line.split_whitespace().next()?;
    let path = Path::new(program);
    if !path.is_absolute() || !program.chars().all(plain) {
        return None;
    }
    let why = match path.metadata() {
        Err(error) => error.to_string(),
        Ok(found) if !found.is_file() => "it is not a file".to_owned(),
        Ok(found) if found.permissions().mode() & 0o111 == 0 => "it is not executable".to_owned(),
        Ok(_) => return None,
    };
    Some(command.place.error(format!("the command '{program}' will fail: {why}")))
}

/// Why nothing will be taken of a rule's volume.
fn absence(rule: &VolumeRule) -> Option<ConfigError> {
    let problem = HostStorage.volumes(&rule.volume, false).err()?;
    Some(rule.place.error(format!(
        "nothing can be taken of '{}': {}",
        rule.volume,
        problem.chain()
    )))
}

/// What the rules are to the guests that there are.
struct Guests<'a> {
    errors: Vec<ConfigError>,
    warnings: Vec<ConfigError>,
    unprotected: Vec<&'a str>,
}

impl<'a> Guests<'a> {
    fn look(config: &Config, guests: &'a [GuestName]) -> Self {
        let (mut errors, mut unprotected) = (Vec::new(), Vec::new());
        for guest in guests {
            match config.rule_for(guest) {
                Ok(Some(_)) => {}
                Ok(None) => unprotected.push(guest.as_str()),
                Err(two) => errors.push(two.error()),
            }
        }
        let unmatched = config.unmatched(guests).into_iter();
        let warnings = unmatched
            .map(|(rule, pattern)| rule.place.error(format!("'{pattern}' matches no guest")))
            .collect();
        Self { errors, warnings, unprotected }
    }
}

/// What is wrong with the files, or else what was read of them, and what it is to the guests where
/// libvirt could name them.
fn report(
    global: &Global,
    broken: &[ConfigError],
    read: Option<(&Config, Option<Guests<'_>>)>,
) -> Status {
    let guests = read.as_ref().and_then(|it| it.1.as_ref());
    let errors = guests.map_or(broken, |it| &it.errors);
    let commands = read.iter().flat_map(|it| it.0.hooks.values().chain(&it.0.notify));
    let volumes = read.iter().flat_map(|it| &it.0.volumes);
    let doubts = commands.filter_map(doubt).chain(volumes.filter_map(absence));
    let doubts: Vec<_> = doubts.collect();
    let warnings: Vec<_> = doubts.iter().chain(guests.iter().flat_map(|it| &it.warnings)).collect();
    errors.iter().for_each(|it| note(&it.to_string()));
    if !global.quiet {
        let warning =
            |it: &ConfigError| format!("{}:{}: warning: {}", it.file, it.line, it.message);
        warnings.iter().for_each(|it| note(&warning(it)));
    }
    let rules = |it: &Config| it.rules.len() + it.volumes.len();
    let counts = read.as_ref().map(|it| (it.0.policies.len(), rules(it.0)));
    if global.json {
        output::json(&json!({
            "version": 1,
            "errors": errors.iter().map(error_json).collect::<Vec<_>>(),
            "warnings": warnings.iter().copied().map(error_json).collect::<Vec<_>>(),
            "policies": counts.map(|it| it.0),
            "rules": counts.map(|it| it.1),
            "unprotected": guests.map(|it| &it.unprotected),
        }));
    } else if let (Some((policies, rules)), []) = (counts, errors) {
        let policies = counted(policies, "policy", "policies");
        let rules = counted(rules, "rule", "rules");
        output::result(&format!("configuration is in order: {policies}, {rules}\n"));
    }
    if errors.is_empty() { DONE } else { USAGE }
}

fn error_json(error: &ConfigError) -> Value {
    json!({ "file": error.file, "line": error.line, "message": error.message })
}

fn counted(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

fn show(global: &Global, args: &ConfigShowArgs) -> Answer<Status> {
    let config = configuration::load(global.config.as_deref())?;
    configuration::time_zone(&config)?;
    let guests = match &args.guest {
        Some(guest) => vec![guest.clone()],
        None => guest_names(global)?,
    };
    let mut status = DONE;
    let mut found = Vec::new();
    for guest in &guests {
        match config.rule_for(guest) {
            Ok(rule) => found.push((guest, rule)),
            Err(two) => status = output::problem(&two.into()),
        }
    }
    if global.json {
        let guests: Vec<_> = found.iter().map(|it| guest_json(&config, it.0, it.1)).collect();
        let time_zone = config.time_zone.as_ref().map(|it| &it.0);
        let line = |it: Option<&CommandLine>| it.map(|it| it.line.clone());
        let hooks =
            Hook::ALL.map(|it| (it.as_str().replace('-', "_"), line(config.hooks.get(&it))));
        output::json(&json!({
            "version": 1,
            "time_zone": time_zone,
            "guests": guests,
            "volumes": config.volumes.iter().map(volume_json).collect::<Vec<_>>(),
            "hooks": BTreeMap::from(hooks),
            "notify": line(config.notify.as_ref()),
            "timeout_s": config.script_limit.as_secs(),
        }));
    } else if args.guest.is_some() {
        found.iter().for_each(|it| output::result(&details(&config, it.0, it.1)));
    } else if !found.is_empty() {
        let rows = found.iter().map(|it| row(it.0, it.1)).collect();
        output::table(&["GUEST", "POLICY", "KEEPS", "CONSISTENCY", "RULE"], rows, false);
    }
    if !global.json && args.guest.is_none() && !config.volumes.is_empty() {
        let rows = config.volumes.iter().map(volume_row).collect();
        output::table(&["VOLUME", "POLICY", "KEEPS", "RULE"], rows, false);
    }
    if !global.json {
        output::result(&scripts(&config));
    }
    Ok(status)
}

fn import(global: &Global, args: &ConfigImportArgs) -> Answer<Status> {
    let file = args.file.display().to_string();
    let text = fs::read_to_string(&args.file).map_err(|error| {
        let mut problem = Problem::io(format!("cannot read {file}"), error);
        problem.kind = ProblemKind::NotFound;
        problem
    })?;
    if args.compare {
        return compare::run(global, &file, &text);
    }
    // What is wrong with the file needs no guests.
    let without = sanoid::import::import(&file, &text, None)?;
    match placed(global) {
        Ok((_, placed)) => {
            output::result(&sanoid::import::import(&file, &text, Some(&placed))?);
            Ok(DONE)
        }
        Err(problem) => {
            output::result(&without);
            output::problem(&problem);
            Ok(FAILED)
        }
    }
}

/// The guests, and what the disks of each lie on, in the same order.
pub(super) fn placed(global: &Global) -> Answer<(Vec<Guest>, Vec<sanoid::import::Placed>)> {
    let guests = Libvirt::connect(&global.connect, Arc::default())?.guests()?;
    let volumes = volumes_of(&HostStorage, &guests)?;
    let placed = guests.iter().map(|it| it.name.clone()).zip(volumes).collect();
    Ok((guests, placed))
}

/// The scripts that hold for every guest, a line each.
fn scripts(config: &Config) -> String {
    let hooks = config.hooks.iter().map(|(hook, command)| (hook.as_str(), command));
    let all = hooks.chain(config.notify.iter().map(|it| ("notify", it)));
    let limit = config.script_limit.as_secs();
    all.map(|(name, command)| {
        format!("{name:<15}{} ({}, at most {limit} s)\n", command.line, command.place)
    })
    .collect()
}

fn row(guest: &GuestName, rule: Option<&GuestRule>) -> Vec<String> {
    let Some(rule) = rule else {
        return [guest.as_str(), "-", "-", "-", "none: unprotected"].map(str::to_owned).to_vec();
    };
    let policy = &rule.policy.policy;
    vec![
        guest.to_string(),
        format!("{} ({})", rule.policy.name, rule.policy.place),
        keeps(policy, |it| kept(policy, it)),
        demand(rule),
        rule.place.to_string(),
    ]
}

fn volume_row(rule: &VolumeRule) -> Vec<String> {
    let policy = &rule.policy.policy;
    let below = if rule.recursive { " and below" } else { "" };
    vec![
        format!("{}{below}", rule.volume),
        format!("{} ({})", rule.policy.name, rule.policy.place),
        keeps(policy, |it| policy.keep.get(&it).copied().unwrap_or_default().to_string()),
        rule.place.to_string(),
    ]
}

/// Each period of a policy with what is kept of it.
fn keeps(policy: &Policy, kept: impl Fn(Period) -> String) -> String {
    let keeps: Vec<_> = policy.keep.keys().map(|it| format!("{it} {}", kept(*it))).collect();
    if keeps.is_empty() { "nothing".to_owned() } else { keeps.join(", ") }
}

/// How many points of a period are kept, and how many of them with memory.
fn kept(policy: &Policy, period: Period) -> String {
    let points = policy.keep.get(&period).copied().unwrap_or_default();
    match policy.keep_memory.get(&period) {
        None => points.to_string(),
        Some(images) => format!("{points} (memory {images})"),
    }
}

fn demand(rule: &GuestRule) -> String {
    match (rule.consistency, rule.otherwise) {
        (None, _) => "the best that can be had".to_owned(),
        (Some(wanted), Otherwise::Next) => format!("{wanted}, or the next lower"),
        (Some(wanted), Otherwise::Fail) => format!("{wanted}, or no point"),
    }
}

fn details(config: &Config, guest: &GuestName, rule: Option<&GuestRule>) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key:<15}{value}");
    };
    line("guest", guest.to_string());
    let Some(rule) = rule else {
        line("rule", "none: unprotected".to_owned());
        return text;
    };
    line("rule", rule.place.to_string());
    line("policy", format!("{} ({})", rule.policy.name, rule.policy.place));
    let policy = &rule.policy.policy;
    for period in policy.keep.keys() {
        line(period.as_str(), format!("{}, {}", kept(policy, *period), policy.times.when(*period)));
    }
    let zone = config.time_zone.as_ref();
    line("time zone", zone.map_or("the system's".to_owned(), |it| format!("{} ({})", it.0, it.1)));
    line("consistency", demand(rule));
    line("pause limit", format!("{} ms", pause_limit_ms(config, rule)));
    if rule.adopt {
        line("adopt", "sanoid's snapshots are pruned too".to_owned());
    }
    text
}

fn pause_limit_ms(config: &Config, rule: &GuestRule) -> u128 {
    rule.pause_limit.unwrap_or(config.pause_limit).as_millis()
}

fn guest_json(config: &Config, guest: &GuestName, rule: Option<&GuestRule>) -> Value {
    let Some(rule) = rule else {
        return json!({ "guest": guest, "policy": null, "rule": null });
    };
    json!({
        "guest": guest,
        "policy": policy_json(&rule.policy),
        "rule": { "file": rule.place.file, "line": rule.place.line },
        "consistency": rule.consistency,
        "otherwise": rule.consistency.map(|_| rule.otherwise.as_str()),
        "adopt": rule.adopt,
        "pause_limit_ms": u64::try_from(pause_limit_ms(config, rule)).unwrap_or(u64::MAX),
    })
}

fn volume_json(rule: &VolumeRule) -> Value {
    json!({
        "volume": rule.volume,
        "recursive": rule.recursive,
        "policy": policy_json(&rule.policy),
        "rule": { "file": rule.place.file, "line": rule.place.line },
    })
}

fn policy_json(named: &NamedPolicy) -> Value {
    let (policy, place) = (&named.policy, &named.place);
    json!({
        "name": named.name,
        "file": place.file,
        "line": place.line,
        "keep": policy.keep,
        "keep_memory": policy.keep_memory,
        "times": times_json(&policy.times),
    })
}

/// By the configuration's own keys.
fn times_json(times: &PreferredTimes) -> Value {
    let at = |time: Time| time.strftime("%H:%M").to_string();
    let (weekday, weekly_at) = times.weekly;
    let (day, monthly_at) = times.monthly;
    let (month, day_of_it, yearly_at) = times.yearly;
    json!({
        "frequent_period": times.frequent_minutes,
        "hourly_min": times.hourly_minute,
        "daily_at": at(times.daily),
        "weekly_on": weekday_name(weekday),
        "weekly_at": at(weekly_at),
        "monthly_on": day,
        "monthly_at": at(monthly_at),
        "yearly_on": format!("{month:02}-{day_of_it:02}"),
        "yearly_at": at(yearly_at),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_the_guests_that_there_are() {
        let text = "[policy.a]\n[[guest]]\nmatch = ['web-*', 'gone']\npolicy = 'a'\n\
                    [[guest]]\nmatch = '*-2'\npolicy = 'a'\n";
        let config = Config::parse([("v.toml", text)]).unwrap();
        let guests = ["mail", "web-1", "web-2"].map(|it| it.parse().unwrap());
        let found = Guests::look(&config, &guests);
        let said =
            |errors: &[ConfigError]| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            said(&found.errors),
            ["v.toml:5: guest 'web-2' has two rules, this one and that at v.toml:2; let only one \
              match it"]
        );
        assert_eq!(said(&found.warnings), ["v.toml:2: 'gone' matches no guest"]);
        assert_eq!(found.unprotected, ["mail"]);
    }
}
