//! `vitrify man`: the manual pages, from the definition of the command line.

use std::fs;

use clap::CommandFactory;
use clap_mangen::Man;
use vitrify_core::ports::Answer;
use vitrify_core::problem::Problem;

use crate::args::{Args, ManArgs};
use crate::exit::{DONE, Status};

/// The section of the manual: commands of an administrator.
const SECTION: &str = "8";
/// What the commands belong to.
const SOURCE: &str = concat!("Vitrify ", env!("CARGO_PKG_VERSION"));

pub(crate) fn run(args: &ManArgs) -> Answer<Status> {
    let mut commands = vec![Args::command()];
    // The pages' names are those of the whole command line.
    commands[0].build();
    fs::create_dir_all(&args.folder).map_err(|error| {
        Problem::io(format!("cannot make the folder {}", args.folder.display()), error)
    })?;
    while let Some(command) = commands.pop() {
        commands.extend(command.get_subcommands().filter(|it| !it.is_hide_set()).cloned());
        let page = Man::new(command).section(SECTION).manual("Vitrify").source(SOURCE);
        page.generate_to(&args.folder).map_err(|error| {
            let file = args.folder.join(page.get_filename());
            Problem::io(format!("cannot write {}", file.display()), error)
        })?;
    }
    Ok(DONE)
}
