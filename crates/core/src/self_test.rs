//! The self-test: an engine that keeps memory must have proved itself on a host before it is chosen
//! there by itself. What a verdict holds for, what follows from it, and what the witness's words
//! mean. It is carried out by `host`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::capture::{CapturePlan, CoveredDisk, Engine, Member};
use crate::definition::Definition;
use crate::name::Volume;

/// The version of the file that keeps the verdicts.
const VERSION: u32 = 1;
/// By so many steps may a status be late: one is said each 50 ms, and a step takes 20.
const LATE: u64 = 30;
/// A guest is put back only when it is so many steps on that it cannot be where it was by chance.
pub const FAR: u64 = 2 * LATE;

/// What a disk's volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StorageKind {
    /// A subvolume that holds the image.
    Subvolume,
    /// A dataset that holds the image.
    Dataset,
    /// A ZFS volume that is the image.
    Zvol,
}

impl StorageKind {
    /// What a covered disk lies on, by the grammar of volumes' names.
    pub fn of(disk: &CoveredDisk) -> Self {
        match (&disk.path_in_volume, disk.volume.as_str().starts_with('/')) {
            (None, _) => Self::Zvol,
            (_, true) => Self::Subvolume,
            (_, false) => Self::Dataset,
        }
    }
}

impl fmt::Display for StorageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Subvolume => "a Btrfs subvolume",
            Self::Dataset => "a ZFS dataset",
            Self::Zvol => "a ZFS volume",
        })
    }
}

/// What a verdict holds for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ground {
    /// libvirt's and QEMU's versions.
    pub hypervisor: String,
    /// The kernel.
    pub kernel: String,
    /// What confines the guests (`apparmor`, `selinux`, `none`), and what keeps their QEMU from streaming
    /// RAM, where something does.
    pub security: String,
    /// What their CPUs run on: `kvm`, `qemu`.
    pub accelerator: String,
    /// What the disks lie on.
    pub storage: StorageKind,
}

impl fmt::Display for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with accelerator {}", self.storage, self.accelerator)
    }
}

/// The grounds that a guest's capture would stand on, each with a volume of the guest that is of it;
/// none where no engine is planned that has to prove itself.
pub fn grounds(plan: &CapturePlan, member: &Member, security: &str) -> Vec<(Ground, Volume)> {
    if !matches!(member.engine, Engine::Instant | Engine::Overlay) {
        return Vec::new();
    }
    let definition = member.live_xml.as_deref().map(Definition::parse).and_then(Result::ok);
    let mut found: Vec<(Ground, Volume)> = Vec::new();
    for disk in &member.disks {
        let ground = Ground {
            hypervisor: plan.hypervisor.clone(),
            kernel: plan.kernel.clone(),
            security: security.to_owned(),
            accelerator: definition.as_ref().map_or("", |it| &it.accelerator).to_owned(),
            storage: StorageKind::of(disk),
        };
        if found.iter().all(|(known, _)| *known != ground) {
            found.push((ground, disk.volume.clone()));
        }
    }
    found
}

/// What the self-test found on one ground.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Where.
    pub ground: Ground,
    /// Why `instant` did not pass, if it did not.
    pub instant: Option<String>,
    /// Why `overlay` did not pass, if it did not.
    pub overlay: Option<String>,
}

impl Verdict {
    /// The engines that are not to be chosen there, and why.
    pub fn obstacles(&self) -> Vec<(Engine, String)> {
        [(Engine::Instant, &self.instant), (Engine::Overlay, &self.overlay)]
            .into_iter()
            .filter_map(|(engine, how)| Some((engine, how.as_ref()?)))
            .map(|(engine, how)| {
                (engine, format!("the self-test of {engine} on {} failed: {how}", self.ground))
            })
            .collect()
    }
}

/// The engines that are not to be chosen on a ground where the self-test cannot be carried out.
pub fn untried(ground: &Ground, why: &str) -> Vec<(Engine, String)> {
    let text = format!("the self-test on {ground} could not be carried out: {why}");
    [Engine::Instant, Engine::Overlay].map(|engine| (engine, text.clone())).into()
}

/// The verdicts that are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdicts {
    version: u32,
    verdicts: Vec<Verdict>,
}

impl Default for Verdicts {
    fn default() -> Self {
        Self { version: VERSION, verdicts: Vec::new() }
    }
}

impl Verdicts {
    /// Reads the file that keeps them. What cannot be read is as if it had never been: then the
    /// self-test is carried out again.
    pub fn parse(text: &str) -> Self {
        let read: Option<Self> = serde_json::from_str(text).ok();
        read.filter(|it| it.version == VERSION).unwrap_or_default()
    }

    /// The verdict for a ground.
    pub fn of(&self, ground: &Ground) -> Option<&Verdict> {
        self.verdicts.iter().find(|it| it.ground == *ground)
    }

    /// Takes a verdict in. Those for other versions of QEMU, libvirt and the kernel go.
    pub fn put(&mut self, verdict: Verdict) {
        let versions = |it: &Ground| (it.hypervisor.clone(), it.kernel.clone());
        self.verdicts.retain(|it| {
            it.ground != verdict.ground && versions(&it.ground) == versions(&verdict.ground)
        });
        self.verdicts.push(verdict);
    }
}

/// How far the witness says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// A number that no other boot of it has.
    pub boot: String,
    /// Its steps so far.
    pub count: u64,
    /// How often its memory and its disk differed since that boot.
    pub mismatches: u64,
}

/// What the witness says on a line of its serial port (`witness/steps.s`, `ring.s` and `ram.s` of
/// `host`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// How far it is.
    Status(Status),
    /// Its memory and its disk differ, or it cannot go on.
    Trouble(String),
    /// Anything else.
    Other,
}

impl Said {
    /// Reads a line. A guest that was put back begins in the middle of the line that it was stopped
    /// in.
    pub fn parse(line: &str) -> Self {
        let Some(at) = line.rfind("WITNESS ") else { return Self::Other };
        let said = line[at..].trim_end();
        if ["WITNESS MISMATCH ", "WITNESS fatal "].iter().any(|it| said.starts_with(it)) {
            return Self::Trouble(said.to_owned());
        }
        status(said).map_or(Self::Other, Self::Status)
    }
}

fn status(said: &str) -> Option<Status> {
    let rest = said.strip_prefix("WITNESS boot=")?;
    let (boot, rest) = rest.split_once(" count=")?;
    let (count, rest) = rest.split_once(" mismatches=")?;
    let (mismatches, _) = rest.split_once(' ')?;
    let [count, mismatches] = [count, mismatches].map(|it| it.parse().ok());
    Some(Status { boot: boot.to_owned(), count: count?, mismatches: mismatches? })
}

/// Whether the first status after a restore continues the memory that was captured between `before`
/// and `after`; else what is wrong.
pub fn continues(before: &Status, after: &Status, first: &Status) -> Result<(), String> {
    let counts = before.count..=after.count + LATE;
    if first.boot != before.boot {
        return Err("the restored guest booted instead of running on".into());
    }
    if !counts.contains(&first.count) {
        let (from, to) = (counts.start(), counts.end());
        return Err(format!(
            "the restored guest counts on from {}, and was captured at {from} to {to}",
            first.count
        ));
    }
    agrees(first)
}

/// Whether the witness found its memory and its disk in agreement so far.
pub fn agrees(status: &Status) -> Result<(), String> {
    match status.mismatches {
        0 => Ok(()),
        many => Err(format!("the guest found its memory and its disk to differ {many} times")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::plan_capture;
    use crate::fake::{Fake, capture_request};

    fn ground(kernel: &str, storage: StorageKind) -> Ground {
        Ground {
            hypervisor: "libvirt 1, QEMU 2".into(),
            kernel: kernel.into(),
            security: "none".into(),
            accelerator: "kvm".into(),
            storage,
        }
    }

    #[test]
    fn verdicts_are_kept_for_the_present_versions() {
        let mut verdicts = Verdicts::default();
        let [old, dataset, zvol] = [
            ground("6.1", StorageKind::Zvol),
            ground("6.12", StorageKind::Dataset),
            ground("6.12", StorageKind::Zvol),
        ];
        for (ground, instant) in [(&old, None), (&dataset, Some("x")), (&zvol, None)] {
            let instant = instant.map(str::to_owned);
            verdicts.put(Verdict { ground: ground.clone(), instant, overlay: None });
        }
        let text = serde_json::to_string(&verdicts).unwrap();
        let read = Verdicts::parse(&text);
        assert_eq!(read, verdicts);
        assert_eq!(read.of(&old), None);
        let failed = read.of(&dataset).unwrap().obstacles();
        let words = "the self-test of instant on a ZFS dataset with accelerator kvm failed: x";
        assert_eq!(failed, [(Engine::Instant, words.to_owned())]);
        verdicts.put(Verdict { ground: dataset.clone(), instant: None, overlay: None });
        assert_eq!(verdicts.of(&dataset).unwrap().obstacles(), []);
        for broken in ["", "{}", "[]", &text.replace("\"version\":1", "\"version\":2")] {
            assert_eq!(Verdicts::parse(broken), Verdicts::default(), "{broken}");
        }
    }

    #[test]
    fn a_plan_stands_on_the_grounds_of_its_disks() {
        let fake = Fake::with_guest(2);
        let plan = plan_capture(&fake.world(), &capture_request(1)).unwrap().plan.unwrap();
        let mut member = plan.members[0].clone();
        assert_eq!(grounds(&plan, &member, "none").len(), 1);
        member.disks[1].path_in_volume = None;
        let found = grounds(&plan, &member, "apparmor");
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].0.storage, StorageKind::Zvol);
        assert_eq!((&*found[1].0.security, &found[1].1), ("apparmor", &member.disks[1].volume));
        member.engine = Engine::Freeze;
        assert_eq!(grounds(&plan, &member, "none"), []);
    }

    #[test]
    fn what_the_witness_says() {
        let status = |boot: &str, count, mismatches| {
            Said::Status(Status { boot: boot.to_owned(), count, mismatches })
        };
        let mismatch = "WITNESS MISMATCH disk=vda slot=3 expected=4@1 found=5@1";
        for (line, wanted) in [
            ("WITNESS boot=0a count=12 mismatches=0 dirty_mbps=20", status("0a", 12, 0)),
            ("WITNESS boot=0a coWITNESS boot=0b count=7 mismatches=2 dirty_mbps=0\r", {
                status("0b", 7, 2)
            }),
            ("WITNESS boot=0a count=12 mism", Said::Other),
            ("WITNESS ready boot=0a disks=1 from=fresh count=0", Said::Other),
            ("SeaBIOS", Said::Other),
            (mismatch, Said::Trouble(mismatch.into())),
            ("WITNESS fatal no disk", Said::Trouble("WITNESS fatal no disk".into())),
        ] {
            assert_eq!(Said::parse(line), wanted, "{line}");
        }
    }

    #[test]
    fn what_continues_a_capture() {
        let status =
            |boot: &str, count, mismatches| Status { boot: boot.to_owned(), count, mismatches };
        let (before, after) = (status("a", 100, 0), status("a", 110, 0));
        for (first, fine) in [
            (status("a", 100, 0), true),
            (status("a", 140, 0), true),
            (status("a", 99, 0), false),
            (status("a", 141, 0), false),
            (status("b", 105, 0), false),
            (status("a", 105, 1), false),
        ] {
            assert_eq!(continues(&before, &after, &first).is_ok(), fine, "{first:?}");
        }
    }
}
