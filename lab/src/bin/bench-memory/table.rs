//! The figures for people, and the ratios that they come to.

use std::time::Duration;

use vitrify_lab::figures::{aligned, median};

use crate::options::Writer;
use crate::row::{Capture, Image, Rows};

const CAPTURES: [&str; 10] = [
    "RAM MiB",
    "writer",
    "pause ms",
    "stalled",
    "total s",
    "changed MiB",
    "growth MiB",
    "growth ratio",
    "work ratio",
    "resident MiB",
];

const CAPTURES_LEGEND: &str = "\
Medians over the rounds; 'growth ratio' (what exceeds 2 MiB of growth, beside what changed) and
'resident' are the highest, 'work ratio' (during the captures beside before them) is the mean.";

const IMAGES: [&str; 12] = [
    "RAM MiB",
    "image MiB",
    "cat s",
    "durable",
    "ingest s",
    "durable",
    "cat / ingest",
    "virsh s",
    "cp s",
    "restore s",
    "restore ratio",
    "resident MiB",
];

const IMAGES_LEGEND: &str = "\
Medians over the rounds. 'restore ratio' is our time beside that of virsh with one and a half times
that of cp. See --help for what each figure is.";

/// The tables and what their columns mean.
pub(crate) fn of(rows: &Rows) -> String {
    let mut guests: Vec<(u64, Writer)> =
        rows.captures.iter().map(|row| (row.memory_mib, row.writer)).collect();
    guests.dedup();
    let captures: Vec<_> = guests
        .iter()
        .map(|guest| {
            let is_its = |row: &&Capture| (row.memory_mib, row.writer) == *guest;
            captures(*guest, &rows.captures.iter().filter(is_its).collect::<Vec<_>>())
        })
        .collect();
    let images: Vec<_> = rows.images.iter().map(image).collect();
    format!(
        "\n{}\n{CAPTURES_LEGEND}\n\n{}\n{IMAGES_LEGEND}",
        aligned(&CAPTURES, &captures),
        aligned(&IMAGES, &images)
    )
}

fn captures((memory_mib, writer): (u64, Writer), rows: &[&Capture]) -> [String; CAPTURES.len()] {
    let of = |figure: fn(&Capture) -> f64| rows.iter().map(move |row| figure(row));
    let middle = |figure| median(of(figure)).unwrap_or(f64::NAN);
    let highest = |figure| of(figure).fold(0.0, f64::max);
    let work: f64 = of(Capture::work).sum::<f64>() / rows.len().max(1) as f64;
    [
        memory_mib.to_string(),
        writer.name().to_owned(),
        format!("{:.1}", middle(|row| row.pause_ms)),
        format!("{:.0}", middle(|row| row.stalled_ms)),
        format!("{:.2}", middle(|row| row.total.as_secs_f64())),
        format!("{:.1}", middle(|row| mib(row.changed))),
        format!("{:.1}", middle(|row| mib(row.growth))),
        format!("{:.3}", highest(Capture::growth_per_changed)),
        format!("{work:.2}"),
        format!("{:.0}", highest(|row| mib(row.resident))),
    ]
}

fn image(row: &Image) -> [String; IMAGES.len()] {
    let seconds = |time: Duration| format!("{:.2}", time.as_secs_f64());
    [
        row.memory_mib.to_string(),
        format!("{:.0}", mib(row.bytes)),
        seconds(row.ingest.cat),
        seconds(row.ingest.cat_durable),
        seconds(row.ingest.ours),
        seconds(row.ingest.ours_durable),
        format!("{:.2}", row.ingest_per_cat()),
        seconds(row.restore.virsh),
        seconds(row.restore.cp),
        seconds(row.restore.ours),
        format!("{:.2}", row.restore_per_virsh()),
        format!("{:.0}", mib(row.restore.resident)),
    ]
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{Ingest, Restore};

    #[test]
    fn the_tables_have_medians_and_ratios() {
        let capture = |round, growth_mib: u64, work_during| Capture {
            memory_mib: 256,
            writer: Writer::Busy,
            round,
            pause_ms: 30.0,
            stalled_ms: 0.0,
            total: Duration::from_millis(1500),
            growth: growth_mib << 20,
            changed: 100 << 20,
            resident: round << 20,
            work_before: 200.0,
            work_during,
        };
        let times = [100, 400, 200, 500].map(Duration::from_millis);
        let [cat, cat_durable, ours, ours_durable] = times;
        let image = Image {
            memory_mib: 256,
            bytes: 200 << 20,
            ingest: Ingest { cat, cat_durable, ours, ours_durable },
            restore: Restore { virsh: times[1], cp: times[0], ours: times[3], resident: 9 << 20 },
        };
        let captures = vec![capture(1, 112, 100.0), capture(2, 52, 200.0)];
        let text = of(&Rows { captures, images: vec![image] });
        for wanted in [
            "256 busy 30.0 0 1.50 100.0 112.0 1.100 0.75 2",
            "256 200 0.10 0.40 0.20 0.50 0.50 0.40 0.10 0.50 0.91 9",
        ] {
            let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(text.lines().any(|line| words(line) == wanted), "{wanted}:\n{text}");
        }
    }
}
