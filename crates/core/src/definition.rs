//! Reading libvirt's domain XML, and the one edit that is made in it.
//!
//! Format: <https://libvirt.org/formatdomain.html>.

use std::path::{Path, PathBuf};

use roxmltree::{Document, Node};

use crate::inventory::{Disk, DiskDevice, DiskSource};

/// A definition that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// Not XML.
    #[error("the domain definition is not well-formed XML")]
    Xml(#[from] roxmltree::Error),
    /// XML, but not what libvirt writes.
    #[error("the domain definition lacks {0}")]
    Lacks(&'static str),
    /// No such disk.
    #[error("the domain definition has no disk '{0}'")]
    NoDisk(String),
}

/// Whether an agent in the guest can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agent {
    /// The guest has no channel for one.
    Absent,
    /// There is a channel, and nobody has opened it in the guest.
    Silent,
    /// An agent has opened the channel.
    Connected,
}

/// What writes to a guest's RAM beside QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sharer {
    /// What it is.
    pub what: &'static str,
    /// Whether QEMU is told what it writes, or refuses to migrate a guest that has it. Where not, no
    /// image of that RAM is to be believed, whoever makes it.
    pub is_known_to_qemu: bool,
}

/// What a capture and a restore need to know of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Its disks, in order.
    pub disks: Vec<Disk>,
    /// The file with its UEFI variables, where it has one of its own.
    pub nvram: Option<PathBuf>,
    /// The file with its emulated TPM's state, where it has one that libvirt keeps in a folder.
    pub tpm: Option<PathBuf>,
    /// The guest agent.
    pub agent: Agent,
    /// Whether AppArmor confines its QEMU; known of a running guest.
    pub apparmor: bool,
    /// What writes to its RAM beside QEMU, where something does.
    pub shares_ram_with: Option<Sharer>,
    /// What its CPUs run on: `kvm`, or `qemu` where they are emulated.
    pub accelerator: String,
    /// The machine type: `pc-q35-10.0`.
    pub machine: String,
    /// RAM in KiB, as `<memory>` says.
    pub memory_kib: u64,
}

impl Definition {
    /// Reads a domain's XML, live or inactive.
    pub fn parse(xml: &str) -> Result<Self, DefinitionError> {
        let document = Document::parse(xml)?;
        let domain = document.root_element();
        let os = child(domain, "os").ok_or(DefinitionError::Lacks("<os>"))?;
        let machine = child(os, "type").and_then(|node| node.attribute("machine")).unwrap_or("");
        let nvram = child(os, "nvram")
            .and_then(|node| {
                let of_source = child(node, "source").and_then(|source| source.attribute("file"));
                of_source.or_else(|| node.text().map(str::trim)).filter(|text| !text.is_empty())
            })
            .map(PathBuf::from);
        let devices = child(domain, "devices").ok_or(DefinitionError::Lacks("<devices>"))?;
        let disks = children(devices, "disk").map(disk).collect::<Result<_, _>>()?;
        Ok(Self {
            disks,
            nvram,
            tpm: tpm_state(domain, devices),
            agent: agent(devices),
            apparmor: is_confined(domain),
            shares_ram_with: shares_ram_with(devices)
                .or_else(|| passed_to_qemu(domain))
                .or_else(|| shared_backing(domain)),
            accelerator: domain.attribute("type").unwrap_or("").to_owned(),
            machine: machine.to_owned(),
            memory_kib: memory_kib(domain),
        })
    }

    /// The disk that the guest knows as `target`.
    pub fn disk(&self, target: &str) -> Option<&Disk> {
        self.disks.iter().find(|disk| disk.target == target)
    }
}

/// The same definition with the disk `target` reading `path` as `format`, its recorded backing
/// chain dropped, and every other byte as it was.
pub fn repoint_disk(
    xml: &str,
    target: &str,
    path: &Path,
    format: &str,
) -> Result<String, DefinitionError> {
    let document = Document::parse(xml)?;
    let missing = || DefinitionError::NoDisk(target.to_owned());
    let devices = child(document.root_element(), "devices").ok_or_else(missing)?;
    let node = children(devices, "disk")
        .find(|node| {
            child(*node, "target").and_then(|target| target.attribute("dev")) == Some(target)
        })
        .ok_or_else(missing)?;
    let source = child(node, "source").ok_or(DefinitionError::Lacks("a disk's <source>"))?;
    let driver = child(node, "driver").ok_or(DefinitionError::Lacks("a disk's <driver>"))?;
    let file = source
        .attribute_node("file")
        .or_else(|| source.attribute_node("dev"))
        .ok_or(DefinitionError::Lacks("a disk's source path"))?;
    let kind = driver.attribute_node("type").ok_or(DefinitionError::Lacks("a disk's format"))?;

    let mut edits = vec![
        (file.range_value(), escape(&path.to_string_lossy())),
        (kind.range_value(), escape(format)),
    ];
    if let Some(backing) = child(node, "backingStore") {
        edits.push((backing.range(), String::new()));
    }
    edits.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
    let mut edited = xml.to_owned();
    for (range, text) in edits {
        edited.replace_range(range, &text);
    }
    Ok(edited)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;").replace('"', "&quot;")
}

fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| child.has_tag_name(name))
}

fn children<'a, 'input>(
    node: Node<'a, 'input>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'input>> {
    node.children().filter(move |child| child.has_tag_name(name))
}

/// Where libvirt has swtpm keep its state, and the file in there (libvirt's qemu_tpm.c, swtpm's
/// swtpm_nvstore_dir.c): an own folder where `<source>` names one, else one by the guest's UUID.
fn tpm_state(domain: Node<'_, '_>, devices: Node<'_, '_>) -> Option<PathBuf> {
    let backends = children(devices, "tpm").filter_map(|node| child(node, "backend"));
    let backend = backends.into_iter().find(|it| it.attribute("type") == Some("emulator"))?;
    let own = child(backend, "source").and_then(|source| source.attribute("path"));
    let first = backend.attribute("version") == Some("1.2");
    let (folder, file) = match first {
        true => ("tpm1.2", "tpm-00.permall"),
        false => ("tpm2", "tpm2-00.permall"),
    };
    let folder = match own {
        Some(path) => PathBuf::from(path),
        None => {
            let uuid = child(domain, "uuid").and_then(|node| node.text())?.trim();
            Path::new("/var/lib/libvirt/swtpm").join(uuid).join(folder)
        }
    };
    Some(folder.join(file))
}

fn agent(devices: Node<'_, '_>) -> Agent {
    let targets = children(devices, "channel").filter_map(|node| child(node, "target"));
    let of_agent = |it: &Node<'_, '_>| it.attribute("name") == Some("org.qemu.guest_agent.0");
    match targets.into_iter().find(of_agent).map(|it| it.attribute("state")) {
        None => Agent::Absent,
        Some(Some("connected")) => Agent::Connected,
        Some(_) => Agent::Silent,
    }
}

/// Devices behind which another process or real hardware writes to the guest's RAM, so that QEMU
/// cannot keep the pages of one instant and does not know.
fn shares_ram_with(devices: Node<'_, '_>) -> Option<Sharer> {
    let is = |node: Node<'_, '_>, attribute: &str, values: &[&str]| {
        node.attribute(attribute).is_some_and(|it| values.contains(&it))
    };
    let mut known = devices.children().filter(Node::is_element).filter_map(|device| {
        let of_model =
            |values: &[&str]| child(device, "model").is_some_and(|it| is(it, "type", values));
        let of_driver =
            |values: &[&str]| child(device, "driver").is_some_and(|it| is(it, "type", values));
        match device.tag_name().name() {
            "hostdev" if device.attribute("mode") != Some("capabilities") => {
                Some("a host device that is passed through")
            }
            "interface" if is(device, "type", &["vhostuser"]) => Some("a vhost-user interface"),
            "interface" if is(device, "type", &["vdpa"]) => Some("a vDPA interface"),
            "interface" if is(device, "type", &["hostdev"]) => {
                Some("a network device that is passed through")
            }
            "disk" if is(device, "type", &["vhostuser"]) => Some("a vhost-user disk"),
            "disk" if is(device, "type", &["vhostvdpa"]) => Some("a vDPA disk"),
            "filesystem" if of_driver(&["virtiofs"]) => Some("a shared folder by virtiofs"),
            "crypto"
                if of_model(&["virtio"])
                    && child(device, "backend")
                        .is_some_and(|it| is(it, "model", &["vhost-user"])) =>
            {
                Some("a vhost-user crypto device")
            }
            "video" if child(device, "driver").is_some_and(|it| is(it, "name", &["vhostuser"])) => {
                Some("a vhost-user graphics card")
            }
            _ => None,
        }
    });
    // Nobody tells QEMU what is written there.
    match child(devices, "shmem") {
        Some(_) => Some(Sharer { what: "shared memory (ivshmem)", is_known_to_qemu: false }),
        None => known.next().map(|what| Sharer { what, is_known_to_qemu: true }),
    }
}

/// The same for what libvirt hands on to QEMU without understanding it.
fn passed_to_qemu(domain: Node<'_, '_>) -> Option<Sharer> {
    const KINDS: [(&str, bool); 4] =
        [("ivshmem", false), ("vhost-user", true), ("vhost-vdpa", true), ("vfio", true)];
    let lines = children(domain, "commandline").flat_map(|line| children(line, "arg"));
    let values: Vec<_> = lines.filter_map(|arg| arg.attribute("value")).collect();
    let found = KINDS.into_iter().find(|(kind, _)| values.iter().any(|it| it.contains(kind)));
    let what = "a device of QEMU's command line";
    found.map(|(_, is_known_to_qemu)| Sharer { what, is_known_to_qemu })
}

/// RAM that lies where other processes can map it, and no device that needs that: who writes to it
/// does so unseen (measured with a process that wrote to a shared page).
fn shared_backing(domain: Node<'_, '_>) -> Option<Sharer> {
    let is_shared =
        |node: Node<'_, '_>, attribute: &str| node.attribute(attribute) == Some("shared");
    let backing = child(domain, "memoryBacking").and_then(|it| child(it, "access"));
    let numa = child(domain, "cpu").and_then(|it| child(it, "numa"));
    let shared = backing.is_some_and(|it| is_shared(it, "mode"))
        || numa.is_some_and(|it| children(it, "cell").any(|it| is_shared(it, "memAccess")));
    let what = "whoever has its shared memory open (<memoryBacking>)";
    shared.then_some(Sharer { what, is_known_to_qemu: false })
}

fn is_confined(domain: Node<'_, '_>) -> bool {
    let labels = children(domain, "seclabel");
    labels
        .into_iter()
        .any(|it| it.attribute("model") == Some("apparmor") && child(it, "label").is_some())
}

fn memory_kib(domain: Node<'_, '_>) -> u64 {
    let Some(node) = child(domain, "memory") else { return 0 };
    let value: u64 = node.text().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    match node.attribute("unit") {
        Some("b" | "bytes") => value / 1024,
        Some("MiB" | "M") => value * 1024,
        Some("GiB" | "G") => value * 1024 * 1024,
        _ => value,
    }
}

fn disk(node: Node<'_, '_>) -> Result<Disk, DefinitionError> {
    let target = child(node, "target")
        .and_then(|target| target.attribute("dev"))
        .ok_or(DefinitionError::Lacks("a disk's target"))?;
    let device = match node.attribute("device") {
        Some("cdrom") => DiskDevice::Cdrom,
        Some("floppy") => DiskDevice::Floppy,
        Some("lun") => DiskDevice::Lun,
        _ => DiskDevice::Disk,
    };
    let driver = child(node, "driver");
    let driver_attribute = |name| driver.and_then(|driver| driver.attribute(name));
    let mut backing = Vec::new();
    let mut layer = child(node, "backingStore");
    while let Some(store) = layer {
        backing.extend(source(store).path().cloned());
        layer = child(store, "backingStore");
    }
    Ok(Disk {
        target: target.to_owned(),
        device,
        source: source(node),
        format: driver_attribute("type").unwrap_or("raw").to_owned(),
        cache: driver_attribute("cache").map(str::to_owned),
        read_only: child(node, "readonly").is_some(),
        shareable: child(node, "shareable").is_some(),
        backing,
        mirror: child(node, "mirror").is_some(),
    })
}

fn source(node: Node<'_, '_>) -> DiskSource {
    let Some(source) = child(node, "source") else { return DiskSource::Empty };
    if let Some(path) = source.attribute("file") {
        return DiskSource::File(PathBuf::from(path));
    }
    if let Some(path) = source.attribute("dev") {
        return DiskSource::Block(PathBuf::from(path));
    }
    match node.attribute("type") {
        Some("file" | "block") | None => DiskSource::Empty,
        Some(other) => DiskSource::Elsewhere(other.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = r#"<domain type='qemu' id='3'>
  <name>w</name>
  <uuid>00000000-0000-4000-8000-000000000001</uuid>
  <memory unit='MiB'>512</memory>
  <os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type>
    <nvram format='raw'>/var/lib/libvirt/qemu/nvram/w_VARS.fd</nvram></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none'/>
      <source file='/ov/w &amp; x.overlay' index='4'/>
      <backingStore type='file' index='1'>
        <format type='raw'/>
        <source file='/pool/w/vda.img'/>
        <backingStore/>
      </backingStore>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw'/>
      <source protocol='nbd' name='x'/><target dev='vdb'/><shareable/>
    </disk>
    <disk type='file' device='cdrom'><target dev='sda'/><readonly/></disk>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/>
    </channel>
  </devices>
  <seclabel type='dynamic' model='dac' relabel='yes'><label>+64055:+64055</label></seclabel>
  <seclabel type='dynamic' model='apparmor' relabel='yes'><label>libvirt-1</label></seclabel>
</domain>"#;

    #[test]
    fn reads_what_a_capture_needs() {
        let definition = Definition::parse(XML).unwrap();
        assert_eq!(definition.machine, "pc-q35-10.0");
        assert_eq!(definition.accelerator, "qemu");
        assert_eq!(definition.memory_kib, 512 * 1024);
        assert_eq!(
            definition.nvram.as_deref(),
            Some(Path::new("/var/lib/libvirt/qemu/nvram/w_VARS.fd"))
        );
        let state =
            "/var/lib/libvirt/swtpm/00000000-0000-4000-8000-000000000001/tpm2/tpm2-00.permall";
        assert_eq!(definition.tpm.as_deref(), Some(Path::new(state)));
        assert_eq!((definition.agent, definition.apparmor), (Agent::Connected, true));
        let vda = definition.disk("vda").unwrap();
        assert_eq!(vda.source, DiskSource::File("/ov/w & x.overlay".into()));
        assert_eq!(vda.backing, [PathBuf::from("/pool/w/vda.img")]);
        assert_eq!(vda.cache.as_deref(), Some("none"));
        let vdb = definition.disk("vdb").unwrap();
        assert_eq!(vdb.source, DiskSource::Elsewhere("network".into()));
        assert!(vdb.shareable);
        assert_eq!(definition.disk("sda").unwrap().source, DiskSource::Empty);
    }

    #[test]
    fn agents_are_known_by_their_channel() {
        for (text, wanted) in [
            ("org.qemu.guest_agent.0' state='connected", Agent::Connected),
            ("org.qemu.guest_agent.0' state='disconnected", Agent::Silent),
            ("org.qemu.guest_agent.0", Agent::Silent),
            ("com.redhat.spice.0' state='connected", Agent::Absent),
        ] {
            let xml = XML.replace("org.qemu.guest_agent.0' state='connected", text);
            assert_eq!(Definition::parse(&xml).unwrap().agent, wanted, "{text}");
        }
        let unconfined = XML.replace("model='apparmor'", "model='none'");
        assert!(!Definition::parse(&unconfined).unwrap().apparmor);
    }

    /// Columns: what a definition has beside, what of it writes to RAM, whether QEMU knows.
    #[test]
    fn what_writes_to_ram_beside_qemu() {
        let shared = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>";
        let line = |value: &str| {
            format!(
                "<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>\
                 <q:arg value='-device'/><q:arg value='{value}'/></q:commandline>"
            )
        };
        let devices = |more: &str| XML.replace("</devices>", &format!("{more}</devices>"));
        let beside = |more: &str| XML.replace("</domain>", &format!("{more}</domain>"));
        let virtiofs = "<filesystem><driver type='virtiofs'/></filesystem>";
        for (xml, wanted) in [
            (beside(""), None),
            (beside("<memoryBacking><source type='memfd'/></memoryBacking>"), None),
            (beside(shared), Some(("whoever has its shared memory", false))),
            (
                beside("<cpu><numa><cell id='0' memAccess='shared'/></numa></cpu>"),
                Some(("whoever has its shared memory", false)),
            ),
            (devices(virtiofs), Some(("a shared folder by virtiofs", true))),
            (devices(&format!("{virtiofs}<shmem name='s'/>")), Some(("shared memory (iv", false))),
            (beside(&line("ivshmem-plain,memdev=m")), Some(("a device of QEMU's", false))),
            (beside(&line("vhost-user-fs-pci,chardev=c")), Some(("a device of QEMU's", true))),
            (beside(&line("virtio-rng-pci")), None),
        ] {
            let found = Definition::parse(&xml).unwrap().shares_ram_with;
            let shown = found.map(|it| (it.what, it.is_known_to_qemu));
            match (shown, wanted) {
                (Some((what, known)), Some((begins, wanted))) => {
                    assert!(what.starts_with(begins) && known == wanted, "{what} {known}: {xml}");
                }
                (found, wanted) => assert_eq!(found, wanted, "{xml}"),
            }
        }
    }

    #[test]
    fn repointing_changes_one_disk_and_nothing_else() {
        let edited = repoint_disk(XML, "vda", Path::new("/pool/w/<vda>.img"), "raw").unwrap();
        let before = Definition::parse(XML).unwrap();
        let after = Definition::parse(&edited).unwrap();
        let vda = after.disk("vda").unwrap();
        assert_eq!(vda.source, DiskSource::File("/pool/w/<vda>.img".into()));
        assert_eq!((vda.format.as_str(), vda.backing.len()), ("raw", 0));
        assert_eq!(before.disks[1..], after.disks[1..]);
        assert!(repoint_disk(XML, "vdz", Path::new("/x"), "raw").is_err());
    }
}
