//! Transcripts of the command line: what needs no libvirt and no storage, down to the last word.
//! `TRYCMD=overwrite cargo test -p vitrify --test transcripts` writes down what is said now.

use std::env;
use std::path::Path;
use std::process::Command;

/// Set in the process that does the work.
const INSIDE: &str = "VITRIFY_TRANSCRIPTS";

/// The commands inherit nothing of whoever runs the test: it starts itself once more, with an
/// environment of its own.
#[test]
fn transcripts() {
    if env::var_os(INSIDE).is_some() {
        let vitrify = Path::new(env!("CARGO_BIN_EXE_vitrify"));
        // The name by which a program is called makes it sanoid.
        let sanoid = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sanoid");
        let _ = std::fs::remove_file(&sanoid);
        std::os::unix::fs::symlink(vitrify, &sanoid).unwrap();
        trycmd::TestCases::new()
            .register_bin("vitrify", vitrify)
            .register_bin("sanoid", sanoid.as_path())
            .case("tests/cmd/*.md");
        return;
    }
    let passed_on = ["TRYCMD", "CARGO_MANIFEST_DIR", "TMPDIR"];
    let passed_on = passed_on.iter().filter_map(|name| Some((*name, env::var_os(name)?)));
    let again = env::current_exe().map(|program| {
        Command::new(program)
            .args(["--exact", "transcripts", "--nocapture"])
            .env_clear()
            .envs([(INSIDE, "1"), ("TZ", "UTC"), ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")])
            .envs(passed_on)
            .status()
    });
    assert!(matches!(again, Ok(Ok(status)) if status.success()), "see above");
}
