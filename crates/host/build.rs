//! Assembles the boot-sector witness, so that the program carries it onto hosts without binutils.

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode};

const SOURCES: &str = "witness";
/// What binutils for x86 are called where the compiler runs: Debian's package elsewhere is
/// binutils-x86-64-linux-gnu.
const PREFIX: &str = match cfg!(any(target_arch = "x86_64", target_arch = "x86")) {
    true => "",
    false => "x86_64-linux-gnu-",
};

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed={SOURCES}");
    let folder = env::var_os("OUT_DIR").unwrap_or_default();
    let [object, code] = ["witness.o", "witness.bin"].map(|name| Path::new(&folder).join(name));
    let mut assemble = Command::new(format!("{PREFIX}as"));
    assemble.args(["--32", "-I", SOURCES, "-o"]).arg(&object);
    assemble.arg(Path::new(SOURCES).join("witness.s"));
    let mut link = Command::new(format!("{PREFIX}ld"));
    link.args(["-m", "elf_i386", "--oformat", "binary", "-e", "start"]);
    link.args(["-Ttext=0x7c00", "-Tbss=0x9000", "-o"]).arg(&code).arg(&object);
    for mut step in [assemble, link] {
        match step.status() {
            Ok(status) if status.success() => {}
            Ok(status) => {
                println!("cargo::error={step:?}: {status}");
                return ExitCode::FAILURE;
            }
            Err(error) => {
                println!("cargo::error=cannot run {step:?}, of binutils: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
