//! A few rounds of chaos that are always the same ones; `cargo xtask chaos` draws others.

use std::process::ExitCode;

use vitrify_lab::chaos::{Ground, Round, play};
use vitrify_lab::harness::{self, Outcome};

const SEED: u64 = 1;
/// How many; `VITRIFY_ROUNDS` asks for more.
const ROUNDS: usize = 3;

fn main() -> ExitCode {
    harness::run(&[("rounds_of_chaos_end_well", rounds_of_chaos_end_well)])
}

/// A line for the reader of the test's output.
#[expect(clippy::print_stderr, reason = "what was played is part of what this test is for")]
fn say(text: &str) {
    eprintln!("{text}");
}

fn rounds_of_chaos_end_well() -> Outcome {
    for number in 0..harness::rounds(ROUNDS) as u64 {
        let round = Round::draw(Ground::Btrfs, SEED, number);
        match play(&round) {
            Ok(story) => say(&format!("round {number}: {round}: {story}")),
            Err(broken) => {
                let story = &broken.story;
                let error = harness::chain(&*broken.error);
                return Err(format!("round {number}: {round}\n{story}\n{error}").into());
            }
        }
    }
    Ok(())
}
