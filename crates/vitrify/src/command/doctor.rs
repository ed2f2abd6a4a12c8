//! `vitrify doctor`.

use serde_json::{Value, json};
use vitrify_core::engine::plan_capture;
use vitrify_core::inventory::Guest;
use vitrify_core::point::Purpose;
use vitrify_core::ports::{Answer, World};
use vitrify_core::problem::{Problem, ProblemKind};
use vitrify_host::command::Command;

use crate::command::capture::{Wanted, request};
use crate::context::Context;
use crate::exit::{DONE, FAILED, Status};
use crate::output;

/// One line of the report.
struct Finding {
    subject: String,
    verdict: Verdict,
    detail: String,
    hint: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    Attention,
    Bad,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Attention => "warning",
            Self::Bad => "problem",
        }
    }
}

pub(crate) fn run(context: &Context) -> Answer<Status> {
    let host = context.host()?;
    let world = host.world();
    let mut findings = check_host(context, &world);
    let guests = world.hypervisor.guests()?;
    let entries = world.journal.entries()?;
    for guest in &guests {
        findings.push(check_guest(context, &world, guest));
    }
    for entry in &entries {
        let (name, uuid) = entry.plan.guest();
        let _locks = match context.lock(uuid, &[]) {
            Err(problem) if problem.kind == ProblemKind::Locked => continue,
            other => other?,
        };
        findings.push(Finding {
            subject: format!("guest {name}"),
            verdict: Verdict::Bad,
            detail: "an operation was interrupted and is not settled".into(),
            hint: Some(format!("'vitrify repair {name}' settles it")),
        });
    }
    report(context, &findings);
    let bad = findings.iter().any(|finding| finding.verdict == Verdict::Bad);
    Ok(if bad { FAILED } else { DONE })
}

fn check_host(context: &Context, world: &World<'_>) -> Vec<Finding> {
    let mut findings = vec![
        finding("libvirt", world.hypervisor.version(), |version| (Verdict::Good, version, None)),
        finding("kernel", world.clock.kernel(), |release| (Verdict::Good, release, None)),
        finding("btrfs-progs", tool("btrfs", "--version"), |text| (Verdict::Good, text, None)),
        finding("qemu-img", tool("qemu-img", "--version"), |text| (Verdict::Good, text, None)),
    ];
    findings.push(finding("memory store", world.homes.store(), |facts| {
        let detail = format!(
            "{} ({}), {} free, {} kept free",
            facts.path.display(),
            facts.kind,
            facts.free,
            facts.reserve
        );
        match facts.no_memory {
            None => (Verdict::Good, detail, None),
            Some(reason) => (
                Verdict::Attention,
                format!("{detail}; {reason}"),
                Some("set [memory] store in the configuration to a folder on another drive".into()),
            ),
        }
    }));
    let folder = &context.overlay_folder;
    let overlays = match folder.is_dir() {
        true => Ok(folder.display().to_string()),
        false => Err(Problem::lacking(format!("{} is not a folder", folder.display()))
            .hint("create it, or set [overlay] path in the configuration")),
    };
    findings.push(finding("overlays", overlays, |path| (Verdict::Good, path, None)));
    findings
}

fn finding<T>(
    subject: &str,
    answer: Answer<T>,
    judge: impl FnOnce(T) -> (Verdict, String, Option<String>),
) -> Finding {
    let (verdict, detail, hint) = match answer {
        Ok(value) => judge(value),
        Err(problem) => (Verdict::Bad, problem.chain(), problem.hint),
    };
    Finding { subject: subject.to_owned(), verdict, detail, hint }
}

fn tool(program: &str, argument: &str) -> Answer<String> {
    let output = Command::new(program).arg(argument).run()?;
    Ok(output.text().lines().next().unwrap_or_default().to_owned())
}

/// What a capture would be: the real plan, stopped before its effects.
fn check_guest(context: &Context, world: &World<'_>, guest: &Guest) -> Finding {
    let subject = format!("guest {}", guest.name);
    let plan = request(context, &Wanted::best(Purpose::Manual), None)
        .and_then(|request| plan_capture(world, &request, &guest.uuid));
    finding(&subject, plan, |plan| {
        let mut detail = format!("{} by engine {}: {}", plan.consistency, plan.engine, plan.reason);
        for disk in &plan.uncovered {
            detail += &format!("; {} is left out: {}", disk.target, disk.reason);
        }
        let poor = plan.reason.starts_with("no memory image") || !plan.uncovered.is_empty();
        (if poor { Verdict::Attention } else { Verdict::Good }, detail, None)
    })
}

fn report(context: &Context, findings: &[Finding]) {
    if context.json {
        let values: Vec<Value> = findings
            .iter()
            .map(|it| {
                json!({
                    "subject": it.subject,
                    "verdict": it.verdict.word(),
                    "detail": it.detail,
                    "hint": it.hint,
                })
            })
            .collect();
        return output::json(&json!({ "version": 1, "findings": values }));
    }
    let mut text = String::new();
    for it in findings {
        text += &format!("{:<8} {}: {}\n", it.verdict.word(), it.subject, it.detail);
        if let Some(hint) = &it.hint {
            text += &format!("         hint: {hint}\n");
        }
    }
    output::result(&text);
}
