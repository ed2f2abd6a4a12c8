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

/// What a capture and a restore need to know of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Its disks, in order.
    pub disks: Vec<Disk>,
    /// The file with its UEFI variables, where it has one of its own.
    pub nvram: Option<PathBuf>,
    /// Whether it has an emulated TPM.
    pub tpm: bool,
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
        let tpm = children(devices, "tpm")
            .filter_map(|node| child(node, "backend"))
            .any(|backend| backend.attribute("type") == Some("emulator"));
        Ok(Self { disks, nvram, tpm, machine: machine.to_owned(), memory_kib: memory_kib(domain) })
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
  </devices>
</domain>"#;

    #[test]
    fn reads_what_a_capture_needs() {
        let definition = Definition::parse(XML).unwrap();
        assert_eq!(definition.machine, "pc-q35-10.0");
        assert_eq!(definition.memory_kib, 512 * 1024);
        assert_eq!(
            definition.nvram.as_deref(),
            Some(Path::new("/var/lib/libvirt/qemu/nvram/w_VARS.fd"))
        );
        assert!(definition.tpm);
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
