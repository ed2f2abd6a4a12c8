//! `vitrify completions`: what a shell asks for to complete our command line.

use clap::{Command, CommandFactory};

use crate::args::{Args, CompletionsArgs};
use crate::exit::{DONE, Status};
use crate::output;

pub(crate) fn run(args: &CompletionsArgs) -> Status {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut visible(&Args::command()), "vitrify", &mut script);
    output::result(&String::from_utf8_lossy(&script));
    DONE
}

/// Without what nobody types, which some shells would be told all the same.
fn visible(all: &Command) -> Command {
    let commands = all.get_subcommands().filter(|it| !it.is_hide_set()).cloned();
    Command::new("vitrify").args(all.get_arguments().cloned()).subcommands(commands)
}
