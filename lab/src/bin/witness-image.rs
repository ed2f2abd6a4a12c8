//! Builds the witness's kernel and initramfs, unless the cache has them, and prints their paths.
//! `cargo xtask lab` brings them into its machine.

use std::process::ExitCode;

use vitrify_lab::harness::chain;
use vitrify_lab::image::Image;

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints two paths")]
fn main() -> ExitCode {
    match Image::cached() {
        Ok(image) => {
            let Image { kernel, initramfs, initramfs_with_agent } = image;
            for path in [kernel, initramfs, initramfs_with_agent] {
                println!("{}", path.display());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}", chain(&error));
            ExitCode::FAILURE
        }
    }
}
