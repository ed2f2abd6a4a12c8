//! The definition of a witness guest, as libvirt reads it.

use witness::params::Agent;

use crate::guest::{Disk, Format, Machine, Nvram, Witness};
use crate::image::Image;
use std::path::Path;

/// What shortens the boot under emulation: no security modules, self-tests or mitigations.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 loglevel=4 edd=off lsm= audit=0 \
    cryptomgr.notests nokaslr mitigations=off tsc=reliable no_timer_check";

/// The channel by which libvirt and the guest agent talk.
const CHANNEL: &str = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/>\
    </channel>";
const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// What the firmware's variables are at first.
pub(crate) const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
const TPM: &str = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>";
const UNCONFINED: &str = "<seclabel type='none' model='apparmor'/>";

/// Writes the definition. `variables` is where qcow2 variables of UEFI lie.
pub(crate) fn definition(
    witness: &Witness,
    image: Option<&Image>,
    serial: &Path,
    variables: &Path,
) -> String {
    let Witness { name, memory_mib, vcpus, machine, extra_devices, .. } = witness;
    let machine = match machine {
        Machine::Pc => "pc",
        Machine::Q35 => "q35",
    };
    // The BIOS looks at no disk that has no place in the order.
    let is_in_order = image.is_none();
    let files = witness.files.iter().map(|path| Disk { path: path.clone(), format: Format::Raw });
    let disks: Vec<Disk> = witness.disks.iter().cloned().chain(files).collect();
    let disks = disks.iter().zip('a'..='z').zip(1..);
    let disks: String = disks
        .map(|((disk, letter), order)| device(disk, letter, is_in_order.then_some(order)))
        .collect();
    let boot = image.map(|image| boot(witness, image)).unwrap_or_default();
    // The BIOS's way through system management mode is slow where all is emulated.
    let smm = if image.is_none() { "<smm state='off'/>" } else { "" };
    let channel = if witness.agent.is_some() { CHANNEL } else { "" };
    let firmware = witness.uefi.map_or_else(String::new, |nvram| firmware(nvram, variables));
    let tpm = if witness.tpm { TPM } else { "" };
    let label = if witness.unconfined { UNCONFINED } else { "" };
    let serial = escape(serial);
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>{memory_mib}</memory>\
         <vcpu>{vcpus}</vcpu>\
         <os><type arch='x86_64' machine='{machine}'>hvm</type>{firmware}{boot}</os>\
         <features><acpi/><apic/>{smm}</features>\
         <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model></cpu>\
         <devices>{disks}{channel}{tpm}{extra_devices}\
         <controller type='usb' model='none'/><memballoon model='none'/>\
         <serial type='file'><source path='{serial}' append='on'/><target port='0'/></serial>\
         </devices>{label}</domain>"
    )
}

fn device(disk: &Disk, letter: char, order: Option<u32>) -> String {
    let (kind, attribute, format) = match disk.format {
        Format::Raw => ("file", "file", "raw"),
        Format::Qcow2 => ("file", "file", "qcow2"),
        Format::Block => ("block", "dev", "raw"),
    };
    let order = order.map(|order| format!("<boot order='{order}'/>")).unwrap_or_default();
    format!(
        "<disk type='{kind}' device='disk'><driver name='qemu' type='{format}'/>\
         <source {attribute}='{}'/><target dev='vd{letter}' bus='virtio'/>{order}</disk>",
        escape(&disk.path)
    )
}

/// UEFI without Secure Boot, from Debian's package `ovmf`. Raw variables lie where libvirt puts them.
fn firmware(nvram: Nvram, variables: &Path) -> String {
    let nvram = match nvram {
        Nvram::Raw => format!("<nvram template='{VARIABLES}'/>"),
        Nvram::Qcow2 => format!("<nvram format='qcow2'>{}</nvram>", escape(variables)),
    };
    format!("<loader readonly='yes' type='pflash'>{FIRMWARE}</loader>{nvram}")
}

fn boot(witness: &Witness, image: &Image) -> String {
    let initramfs =
        if witness.agent.is_some() { &image.initramfs_with_agent } else { &image.initramfs };
    let [kernel, initramfs] = [&image.kernel, initramfs].map(|path| escape(path));
    let arguments = arguments(witness);
    format!("<kernel>{kernel}</kernel><initrd>{initramfs}</initrd><cmdline>{arguments}</cmdline>")
}

fn arguments(witness: &Witness) -> String {
    let Witness { fill_mib, dirty_mbps, step, .. } = witness;
    let scattered = u8::from(witness.scattered);
    let (files, variable) = (u8::from(witness.files.is_some()), u8::from(witness.uefi.is_some()));
    let agent = witness.agent.unwrap_or(Agent::Absent).name();
    format!(
        "{KERNEL_ARGUMENTS} witness.fill_mib={fill_mib} witness.dirty_mbps={dirty_mbps} \
         witness.scattered={scattered} \
         witness.files={files} witness.agent={agent} witness.variable={variable} \
         witness.step_ms={}",
        step.as_millis()
    )
}

/// A path as the text of an element or attribute.
fn escape(path: &Path) -> String {
    let text = path.display().to_string();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_break_out_of_its_place() {
        assert_eq!(escape(Path::new("/a'b<c>&d")), "/a&apos;b&lt;c>&amp;d");
    }
}
