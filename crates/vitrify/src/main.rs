//! `vitrify`: reads the command line, runs one command, prints the result to stdout and what goes
//! wrong, once, to stderr.

#![forbid(unsafe_code)]

mod args;
mod command;
mod configuration;
mod context;
mod exit;
mod journald;
mod output;
mod pause;
mod progress;

use std::process::ExitCode;

use clap::Parser;
use vitrify_core::ports::Answer;

use crate::args::{Args, Command, command_line};
use crate::context::Context;
use crate::exit::Status;

fn main() -> ExitCode {
    let args = match Args::try_parse_from(command_line(std::env::args_os())) {
        Ok(args) => args,
        Err(error) => {
            // Help and version are results, not errors.
            let code = if error.use_stderr() { exit::USAGE } else { exit::DONE };
            let _ = error.print();
            return code.into();
        }
    };
    if matches!(args.command, Command::Guard) {
        return match vitrify_host::guard::serve(&args.global.connect, &progress::note) {
            Ok(()) => exit::DONE,
            Err(problem) => output::problem(&problem),
        }
        .into();
    }
    let result = match &args.command {
        // A configuration that is wrong keeps the others from being begun.
        Command::Config(command) => command::config::run(&args.global, &command.command),
        // sanoid's work needs neither our configuration nor libvirt.
        Command::Sanoid(command) => command::sanoid::run(&args.global, command),
        Command::Completions(args) => Ok(command::completions::run(args)),
        Command::Man(args) => command::man::run(args),
        Command::Uninstall(args) if !args.dry_run => Err(command::uninstall::refusal()),
        other => Context::new(&args.global).and_then(|context| run(&context, other)),
    };
    match result {
        Ok(status) => status,
        Err(problem) => output::problem(&problem),
    }
    .into()
}

fn run(context: &Context, command: &Command) -> Answer<Status> {
    match command {
        Command::Snapshot(args) => command::snapshot::run(context, args),
        Command::List(args) => command::list::run(context, args),
        Command::Show(args) => command::show::run(context, args),
        Command::Restore(args) => command::restore::run(context, args),
        Command::Verify(args) => command::verify::run(context, args),
        Command::Export(args) => command::export::run(context, args),
        Command::Doctor(args) => command::doctor::run(context, args),
        Command::Repair(args) => command::repair::run(context, args),
        Command::Run(args) => command::run::run(context, args),
        Command::Status(args) => command::status::run(context, args),
        Command::Metrics(args) => command::metrics::run(context, args),
        Command::Uninstall(_) => command::uninstall::run(context),
        Command::Prune(args) => command::prune::run(context, args),
        Command::Delete(args) => command::delete::run(context, args),
        Command::Hold(args) => command::hold::run(context, args, true),
        Command::Release(args) => command::hold::run(context, args, false),
        Command::Config(_)
        | Command::Sanoid(_)
        | Command::Completions(_)
        | Command::Man(_)
        | Command::Guard => Ok(exit::DONE),
    }
}
