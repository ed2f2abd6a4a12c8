//! UEFI guests: what they set in their variables is there after a power cycle, with an emulated TPM
//! and without one.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use vitrify_lab::guest::{Format, Guest, Machine, Nvram, Witness};
use vitrify_lab::harness::{self, Outcome};
use vitrify_lab::world::World;
use witness::line::Line;

/// UEFI takes 10 to 20 s under emulation.
const BOOT: Duration = Duration::from_secs(180);

fn main() -> ExitCode {
    harness::run_in_pairs(&[
        ("variables_persist_in_a_raw_file_beside_a_tpm", variables_persist_beside_a_tpm),
        ("variables_persist_in_a_qcow2_file", variables_persist_in_a_qcow2_file),
        ("a_cold_restore_brings_variables_and_tpm_back", a_cold_restore_brings_them_back),
    ])
}

fn variables_persist_beside_a_tpm() -> Outcome {
    let world = World::new()?;
    let witness = witness(&world)?.machine(Machine::Q35).uefi(Nvram::Raw).tpm();
    let guest = variables_persist(&world, &witness)?;
    let state = Path::new("/var/lib/libvirt/swtpm").join(guest.uuid()?);
    assert!(state.join("tpm2/tpm2-00.permall").is_file());
    drop(guest);
    assert!(!state.exists(), "{} is left", state.display());
    Ok(())
}

fn variables_persist_in_a_qcow2_file() -> Outcome {
    let world = World::new()?;
    let guest = variables_persist(&world, &witness(&world)?.uefi(Nvram::Qcow2))?;
    assert!(guest.xml()?.contains("format='qcow2'"));
    Ok(())
}

/// What the guest set before the capture is there after a cold restore, and nothing that it set
/// since; a TPM whose state was lost meanwhile is the one that it was.
fn a_cold_restore_brings_them_back() -> Outcome {
    for nvram in [Nvram::Raw, Nvram::Qcow2] {
        let world = World::new()?;
        let witness = witness(&world)?.machine(Machine::Q35).uefi(nvram).tpm();
        let mut guest = variables_persist(&world, &witness)?;
        let state = Path::new("/var/lib/libvirt/swtpm").join(guest.uuid()?);
        let state = state.join("tpm2/tpm2-00.permall");
        let vitrify = |arguments: &[&str]| -> Result<String, Box<dyn Error>> {
            let said = world.vitrify.run(arguments)?;
            match said.code {
                Some(0) => Ok(said.stdout),
                _ => Err(format!("{arguments:?}: {said:?}").into()),
            }
        };
        vitrify(&["snapshot", guest.name(), "--consistency", "memory"])?;
        let tpm = std::fs::read(&state)?;
        guest.destroy()?;
        guest.start()?;
        boots_found(&mut guest, "2")?;
        guest.destroy()?;
        std::fs::remove_file(&state)?;
        let point = format!("{}@latest", guest.name());
        guest.serial.skip_to_end()?;
        vitrify(&["restore", "--cold", "--no-safety-point", "--yes", &point])?;
        assert!(std::fs::read(&state)? == tpm, "another TPM");
        boots_found(&mut guest, "2")?;
        // With memory, it goes on in the boot of the capture.
        guest.serial.skip_to_end()?;
        vitrify(&["restore", "--force", "--no-safety-point", "--yes", &point])?;
        guest.serial.steps_on(5, BOOT)?;
        assert_eq!(guest.serial.mismatches(), [""; 0]);
    }
    Ok(())
}

fn witness(world: &World) -> Result<Witness, Box<dyn Error>> {
    let disk = world.pool.subvolume("guest")?.join("a.raw");
    Ok(Witness::new(&world.guest_name("uefi")).disk(disk, Format::Raw).memory_mib(192))
}

fn variables_persist(world: &World, witness: &Witness) -> Result<Guest, Box<dyn Error>> {
    let mut guest = world.start(witness)?;
    boots_found(&mut guest, "0")?;
    guest.destroy()?;
    guest.start()?;
    boots_found(&mut guest, "1")?;
    Ok(guest)
}

/// Waits for a boot that found this many before it, and has written its own.
fn boots_found(guest: &mut Guest, wanted: &str) -> Outcome {
    let found = |line: &Line| matches!(line, Line::Note { what, .. } if what == "boots-found");
    let line = guest.serial.wait_for("UEFI variable", BOOT, found)?;
    assert_eq!(line.to_string(), format!("WITNESS note boots-found={wanted}"));
    guest.serial.ready(BOOT)?;
    Ok(())
}
