//! `vitrify doctor`.

use serde_json::{Value, json};
use vitrify_core::capture::{CapturePlan, Engine, Member};
use vitrify_core::engine::{Planned, plan_capture};
use vitrify_core::inventory::Guest;
use vitrify_core::name::GuestUuid;
use vitrify_core::point::Purpose;
use vitrify_core::ports::{Answer, World};
use vitrify_core::problem::{Problem, ProblemKind};
use vitrify_core::self_test::{Ground, Verdict as Proof};
use vitrify_core::userfault;
use vitrify_host::command::Command;

use crate::args::DoctorArgs;
use crate::command::capture::{Wanted, guest_request, request};
use crate::command::self_test::{all_grounds, carry_out, known_obstacles, sweep};
use crate::context::{Context, Host};
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

pub(crate) fn run(context: &Context, args: &DoctorArgs) -> Answer<Status> {
    let host = context.host()?;
    let world = host.world();
    let mut findings = check_host(context, &host);
    let mut guests = world.hypervisor.guests()?;
    if !args.guests.is_empty() {
        guests = args.guests.iter().map(|name| host.guest(name)).collect::<Answer<_>>()?;
    }
    let is_asked = |uuid: &GuestUuid| guests.iter().any(|it| it.uuid == *uuid);
    let mut entries = world.journal.entries()?;
    entries.retain(|it| args.guests.is_empty() || it.plan.guests().iter().any(|it| is_asked(it.1)));
    let mut planned = plan_all(context, &world, &guests, &[])?;
    findings.extend(check_engines(context, &host, planned.plan.as_ref(), args.self_test)?);
    if let Some(plan) = &planned.plan {
        let obstacles = known_obstacles(context, &host, plan)?;
        if !obstacles.is_empty() {
            planned = plan_all(context, &world, &guests, &obstacles)?;
        }
    }
    findings.extend(check_guests(&guests, planned));
    for entry in &entries {
        let uuids: Vec<_> = entry.plan.guests().into_iter().map(|it| it.1).collect();
        let _locks = match context.lock(&uuids, &[]) {
            Err(problem) if problem.kind == ProblemKind::Locked => continue,
            other => other?,
        };
        for (name, _) in entry.plan.guests() {
            findings.push(Finding {
                subject: format!("guest {name}"),
                verdict: Verdict::Bad,
                detail: "an operation was interrupted and is not settled".into(),
                hint: Some(format!("'vitrify repair {name}' settles it")),
            });
        }
    }
    report(context, &findings);
    let bad = findings.iter().any(|finding| finding.verdict == Verdict::Bad);
    Ok(if bad { FAILED } else { DONE })
}

fn check_host(context: &Context, host: &Host<'_>) -> Vec<Finding> {
    let world = host.world();
    let mut findings = vec![
        finding("libvirt", world.hypervisor.version(), |version| (Verdict::Good, version, None)),
        finding("kernel", world.clock.kernel(), |release| (Verdict::Good, release, None)),
        finding("qemu-img", tool("qemu-img", "--version"), |text| (Verdict::Good, text, None)),
    ];
    // A host that has no guest on one of these needs no tool for it; a guest that lacks one says so.
    for (subject, program) in [("btrfs-progs", "btrfs"), ("zfs", "zfs")] {
        match tool(program, "version") {
            Err(problem) if problem.kind == ProblemKind::Lacking => {}
            found => findings.push(finding(subject, found, |it| (Verdict::Good, it, None))),
        }
    }
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
    match host.userfault() {
        Ok(facts) => findings.extend(check_userfault(&facts)),
        Err(problem) => findings.push(bad("userfaultfd", problem)),
    }
    match sweep(context, host) {
        Ok(None) => {}
        Ok(Some(detail)) => findings.push(Finding {
            subject: "self-test".into(),
            verdict: Verdict::Attention,
            detail,
            hint: None,
        }),
        Err(problem) => findings.push(bad("self-test", problem)),
    }
    findings
}

/// What `instant` needs of the host.
fn check_userfault(facts: &userfault::Facts) -> Vec<Finding> {
    let subject = || "userfaultfd".to_owned();
    let advice = userfault::advice(facts);
    if advice.is_empty() {
        let detail = "QEMU may use it, as the engine instant needs".into();
        return vec![Finding { subject: subject(), verdict: Verdict::Good, detail, hint: None }];
    }
    advice
        .into_iter()
        .map(|it| Finding {
            subject: subject(),
            verdict: Verdict::Attention,
            detail: it.detail,
            hint: Some(it.hint),
        })
        .collect()
}

/// What the self-test has to say of the engines that these guests would be captured by.
fn check_engines(
    context: &Context,
    host: &Host<'_>,
    plan: Option<&CapturePlan>,
    again: bool,
) -> Answer<Vec<Finding>> {
    let security = host.security()?;
    let grounds = plan.map(|it| all_grounds(it, &security)).unwrap_or_default();
    if again && grounds.is_empty() {
        return Ok(vec![Finding {
            subject: "self-test".into(),
            verdict: Verdict::Attention,
            detail: "no guest runs whose memory could be captured, so there is nothing to try"
                .into(),
            hint: Some("start one whose disks lie on a subvolume or dataset".into()),
        }]);
    }
    let mut findings = Vec::new();
    for (ground, volume) in grounds {
        let known = match again {
            true => carry_out(context, host, &ground, &volume, true).map(Some),
            false => Ok(context.self_test(host).verdicts().of(&ground).cloned()),
        };
        findings.extend(match known {
            Ok(proof) => judged_engines(&ground, proof.as_ref(), again),
            Err(problem) => vec![bad(&format!("self-test on {ground}"), problem)],
        });
    }
    Ok(findings)
}

fn judged_engines(ground: &Ground, proof: Option<&Proof>, again: bool) -> Vec<Finding> {
    let subject = format!("self-test on {ground}");
    let told = |verdict, detail: String, hint: Option<&str>| {
        let hint = hint.map(str::to_owned);
        Finding { subject: subject.clone(), verdict, detail, hint }
    };
    let Some(proof) = proof else {
        let hint = "the first capture carries it out, or 'vitrify doctor --self-test'";
        return vec![told(
            Verdict::Good,
            "not carried out on these versions yet".into(),
            Some(hint),
        )];
    };
    let failed = [("instant", &proof.instant), ("overlay", &proof.overlay)];
    let mut findings: Vec<_> = failed
        .iter()
        .filter_map(|(engine, how)| Some((engine, how.as_ref()?)))
        .map(|(engine, how)| {
            let hint = "when that is mended, 'vitrify doctor --self-test' tries again";
            let verdict = if again { Verdict::Bad } else { Verdict::Attention };
            told(verdict, format!("{engine} failed: {how}"), Some(hint))
        })
        .collect();
    let passed: Vec<_> = failed.iter().filter(|it| it.1.is_none()).map(|it| it.0).collect();
    if !passed.is_empty() {
        let detail = format!("passed by {}, each with a restore", passed.join(" and "));
        findings.push(told(Verdict::Good, detail, None));
    }
    findings
}

fn finding<T>(
    subject: &str,
    answer: Answer<T>,
    judge: impl FnOnce(T) -> (Verdict, String, Option<String>),
) -> Finding {
    match answer {
        Ok(value) => {
            let (verdict, detail, hint) = judge(value);
            Finding { subject: subject.to_owned(), verdict, detail, hint }
        }
        Err(problem) => bad(subject, problem),
    }
}

fn bad(subject: &str, problem: Problem) -> Finding {
    let (verdict, detail, hint) = (Verdict::Bad, problem.chain(), problem.hint);
    Finding { subject: subject.to_owned(), verdict, detail, hint }
}

fn tool(program: &str, argument: &str) -> Answer<String> {
    let output = Command::new(program).arg(argument).run()?;
    Ok(output.text().lines().next().unwrap_or_default().to_owned())
}

/// What a capture would be: the real plan of all guests together, stopped before its effects.
fn plan_all(
    context: &Context,
    world: &World<'_>,
    guests: &[Guest],
    obstacles: &[(GuestUuid, Engine, String)],
) -> Answer<Planned> {
    let wanted = Wanted::best(Purpose::Manual);
    let mut requests =
        guests.iter().map(|it| guest_request(&it.uuid, &wanted)).collect::<Answer<Vec<_>>>()?;
    for request in &mut requests {
        let its = obstacles.iter().filter(|it| it.0 == request.guest);
        request.failed.extend(its.map(|(_, engine, how)| (*engine, how.clone())));
    }
    plan_capture(world, &request(context, &wanted, requests)?)
}

fn check_guests(guests: &[Guest], planned: Planned) -> Vec<Finding> {
    let mut findings: Vec<_> = planned.plan.iter().flat_map(|it| &it.members).map(judged).collect();
    for (uuid, problem) in planned.refused {
        let name = guests.iter().find(|it| it.uuid == uuid).map(|it| it.name.as_str());
        findings.push(bad(&format!("guest {}", name.unwrap_or(uuid.as_str())), problem));
    }
    findings.sort_by(|a, b| a.subject.cmp(&b.subject));
    findings.extend(planned.plan.iter().flat_map(shared_volumes));
    findings
}

fn judged(member: &Member) -> Finding {
    let mut detail =
        format!("{} by engine {}: {}", member.consistency, member.engine, member.reason);
    for disk in &member.uncovered {
        detail += &format!("; {} is left out: {}", disk.target, disk.reason);
    }
    for warning in &member.warnings {
        detail += &format!("; {warning}");
    }
    let poor = member.reason.contains("no memory image")
        || !member.uncovered.is_empty()
        || !member.warnings.is_empty();
    Finding {
        subject: format!("guest {}", member.guest),
        verdict: if poor { Verdict::Attention } else { Verdict::Good },
        detail,
        hint: None,
    }
}

/// Volumes that hold the disks of several guests.
fn shared_volumes(plan: &CapturePlan) -> Vec<Finding> {
    let mut findings = Vec::new();
    for volume in &plan.volumes {
        let on_it = plan.members.iter().filter(|it| it.volumes().contains(volume));
        let names: Vec<_> = on_it.map(|it| it.guest.as_str()).collect();
        if names.len() < 2 {
            continue;
        }
        findings.push(Finding {
            subject: format!("volume {volume}"),
            verdict: Verdict::Attention,
            detail: format!(
                "it holds disks of {}: a snapshot for one of them keeps the blocks of all, and only \
                 those that are asked for together are captured together",
                names.join(", ")
            ),
            hint: Some("give each guest a dataset or subvolume of its own".into()),
        });
    }
    findings
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
