//! `vitrify export`.

use vitrify_core::name::Bytes;
use vitrify_core::ports::{Answer, Homes};
use vitrify_core::problem::Problem;

use crate::args::ExportArgs;
use crate::context::Context;
use crate::exit::{DONE, Status};

/// Writes a point's memory out as a save image of libvirt's.
pub(crate) fn run(context: &Context, args: &ExportArgs) -> Answer<Status> {
    let target = &args.save_image;
    if target.symlink_metadata().is_ok() {
        let message = format!("{} exists already", target.display());
        return Err(Problem::refused(message).hint("name another file"));
    }
    let point = context.point(&args.point)?;
    let manifest = match &point.manifest {
        Ok(manifest) => manifest,
        Err(problem) => return Err(problem.note().into()),
    };
    let Some(image) = &manifest.memory else {
        let message = format!("the point has no memory image (it is '{}')", manifest.consistency);
        return Err(Problem::refused(message).hint("'vitrify list' shows which points have one"));
    };
    let progress = context.progress(manifest.guest.as_str());
    context.homes.write_save_image(&point, target, &|Bytes(read)| {
        progress.show(&format!("write the save image ({} of {})", Bytes(read), image.bytes));
    })?;
    Ok(DONE)
}
