//! The definition of a witness guest, as libvirt reads it.

use crate::guest::{Format, Machine, Witness};
use crate::image::Image;
use std::path::Path;

/// What shortens the boot under emulation: no security modules, self-tests or mitigations.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 loglevel=4 edd=off lsm= audit=0 \
    cryptomgr.notests nokaslr mitigations=off tsc=reliable no_timer_check";

/// Writes the definition.
pub(crate) fn definition(witness: &Witness, image: &Image, serial: &Path) -> String {
    let Witness { name, memory_mib, vcpus, machine, extra_devices, .. } = witness;
    let machine = match machine {
        Machine::Pc => "pc",
        Machine::Q35 => "q35",
    };
    let disks: String = witness
        .disks
        .iter()
        .zip('a'..='z')
        .map(|(disk, letter)| {
            let kind = match disk.format {
                Format::Raw => "raw",
                Format::Qcow2 => "qcow2",
            };
            format!(
                "<disk type='file' device='disk'><driver name='qemu' type='{kind}'/>\
             <source file='{}'/><target dev='vd{letter}' bus='virtio'/></disk>",
                escape(&disk.path)
            )
        })
        .collect();
    let kernel = escape(&image.kernel);
    let initramfs = escape(&image.initramfs);
    let serial = escape(serial);
    let arguments = arguments(witness);
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>{memory_mib}</memory>\
         <vcpu>{vcpus}</vcpu>\
         <os><type arch='x86_64' machine='{machine}'>hvm</type>\
         <kernel>{kernel}</kernel><initrd>{initramfs}</initrd><cmdline>{arguments}</cmdline></os>\
         <features><acpi/><apic/></features>\
         <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model></cpu>\
         <devices>{disks}{extra_devices}\
         <controller type='usb' model='none'/><memballoon model='none'/>\
         <serial type='file'><source path='{serial}' append='on'/><target port='0'/></serial>\
         </devices></domain>"
    )
}

fn arguments(witness: &Witness) -> String {
    let Witness { fill_mib, dirty_mbps, step, .. } = witness;
    format!(
        "{KERNEL_ARGUMENTS} witness.fill_mib={fill_mib} witness.dirty_mbps={dirty_mbps} \
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
