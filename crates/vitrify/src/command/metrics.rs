//! `vitrify metrics`: how the guests stand, for Prometheus.

use vitrify_core::policy::metrics::Metrics;
use vitrify_core::ports::Answer;
use vitrify_core::problem::Problem;
use vitrify_host::public_file;

use crate::args::MetricsArgs;
use crate::command::run::look;
use crate::command::status::judge;
use crate::command::volumes;
use crate::context::Context;
use crate::exit::Status;
use crate::output;

pub(crate) fn run(context: &Context, args: &MetricsArgs) -> Answer<Status> {
    if context.json {
        return Err(Problem::not_found("metrics are Prometheus' text, not JSON")
            .hint("'vitrify status --json' is for scripts"));
    }
    let host = context.host()?;
    let guests = look(context, &host)?;
    let volumes = volumes::look(context, host.world().storage, Some(&guests))?;
    let judged = judge(context, &host, &guests, &volumes, &context.points()?)?;
    let text = Metrics {
        guests: judged.metrics(),
        volumes: judged.volume_metrics(),
        unprotected: judged.unprotected(),
        last_tick: context.tick_file().read()?.map(|it| it.time),
        store: host.world().homes.store().ok(),
    }
    .to_prometheus();
    match &args.textfile {
        Some(file) => public_file::write(file, &text)?,
        None => output::result(&text),
    }
    Ok(judged.status)
}
