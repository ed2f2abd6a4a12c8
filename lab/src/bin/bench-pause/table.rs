//! The figures for people: medians over the rounds, and how vitrify compares.

use std::fmt::Write as _;
use std::time::Duration;

use vitrify_lab::figures::{aligned, median};

use crate::row::{Parts, Row, in_ms};
use crate::ways::How;

const HEADER: [&str; 10] = [
    "asked MB/s",
    "reached",
    "how",
    "captured",
    "pause ms",
    "worst",
    "own figure",
    "total s",
    "image MiB",
    "written MiB",
];

const PARTS_HEADER: [&str; 2 + Parts::NAMES.len()] =
    ["asked MB/s", "how", "suspend", "snapshot", "setup", "devices", "resume"];

const LEGEND: &str = "\
Medians over the rounds; 'worst' is the longest pause. Pauses are from QEMU's STOP to its RESUME
event; 'own figure' is the pause that vitrify itself told. 'total' is until the guest is back on its
own image; vitrify's includes hashing the memory image and making it durable, the recipe does
neither. 'written' is what reached the device, with a sync at the end.";

const PARTS_LEGEND: &str = "\
What vitrify's pauses were spent on, in ms: until QEMU has drained and flushed, the volumes'
snapshots, QEMU's setup of the stream (the host's page tables), the devices' state and the first page
of RAM, and until QEMU ran the guest again. Medians, so they need not add up.";

const RATIOS_LEGEND: &str = "\
'<': the other had not come to an end when it was given up. RAM in use is what the image of 'instant'
holds: the pages that are not all zeros.";

/// The tables, what their columns mean, and the ratios.
pub(crate) fn of(rows: &[Row]) -> String {
    let mut rates: Vec<u64> = rows.iter().map(|row| row.asked_mbps).collect();
    rates.dedup();
    let of_rate = |rate: u64| How::ALL.map(|how| Summary::of(rows, rate, how));
    let summaries: Vec<_> = rates.iter().map(|rate| of_rate(*rate)).collect();
    let shown = || summaries.iter().flatten().filter(|it| it.tried > 0);
    let lines: Vec<_> = shown().map(Summary::cells).collect();
    let mut text = format!("\n{}\n{LEGEND}\n\n", aligned(&HEADER, &lines));
    let lines: Vec<_> = shown().filter_map(Summary::parts_cells).collect();
    if !lines.is_empty() {
        text += &format!("{}\n{PARTS_LEGEND}\n\n", aligned(&PARTS_HEADER, &lines));
    }
    text += &ratios(&summaries);
    for row in rows {
        if let Err(why) = &row.result {
            let (how, after) = (row.how.name(), row.total.as_secs_f64());
            let (rate, round) = (row.asked_mbps, row.round);
            // Writing to a String cannot fail.
            let _ =
                writeln!(text, "{rate:>4} MB/s: {how}, round {round}, after {after:.1} s: {why}");
        }
    }
    text.trim_end().to_owned()
}

/// How vitrify compares, rate by rate.
fn ratios(summaries: &[[Summary; How::ALL.len()]]) -> String {
    let mut text = String::new();
    for [recipe, live, overlay, instant] in summaries {
        let rate = recipe.rate;
        for ours in [overlay, instant] {
            for theirs in [recipe, live].into_iter().filter(|it| it.tried > 0 && ours.tried > 0) {
                let names = format!("{} / {}", ours.how.name(), theirs.how.name());
                let pause = ratio(ours.pause, theirs.pause, "");
                let total = match theirs.total {
                    None => ratio(ours.total, theirs.given_up, "<"),
                    total => ratio(ours.total, total, ""),
                };
                let _ = writeln!(
                    text,
                    "{rate:>4} MB/s: {names:<21}  pause {pause:>6}   total {total:>6}"
                );
            }
        }
        if let Some((written, used)) = instant.written.zip(instant.image) {
            let ratio = written as f64 / used as f64;
            let _ = writeln!(text, "{rate:>4} MB/s: instant / RAM in use   written {ratio:>6.3}");
        }
    }
    format!("{text}{RATIOS_LEGEND}\n\n")
}

/// The rounds of one way at one rate.
struct Summary {
    rate: u64,
    how: How,
    tried: usize,
    made: usize,
    reached: Option<u64>,
    pause: Option<Duration>,
    worst: Option<Duration>,
    own_ms: Option<f64>,
    parts: Option<[f64; Parts::NAMES.len()]>,
    total: Option<Duration>,
    /// The longest that one took that came to nothing.
    given_up: Option<Duration>,
    image: Option<u64>,
    written: Option<u64>,
}

impl Summary {
    fn of(rows: &[Row], rate: u64, how: How) -> Self {
        let all: Vec<&Row> =
            rows.iter().filter(|row| row.asked_mbps == rate && row.how == how).collect();
        let made: Vec<_> =
            all.iter().filter_map(|row| row.result.as_ref().ok().map(|it| (*row, it))).collect();
        Self {
            rate,
            how,
            tried: all.len(),
            made: made.len(),
            reached: median(all.iter().map(|row| row.reached_mbps)),
            pause: median(made.iter().map(|(row, _)| row.pause)),
            worst: made.iter().map(|(row, _)| row.pause).max(),
            own_ms: median(made.iter().filter_map(|(_, it)| it.own_pause_ms)),
            parts: parts(made.iter().filter_map(|(_, it)| it.parts)),
            total: median(made.iter().map(|(row, _)| row.total)),
            given_up: all.iter().filter(|row| row.result.is_err()).map(|row| row.total).max(),
            image: median(made.iter().map(|(_, it)| it.image_bytes)),
            written: median(made.iter().map(|(row, _)| row.written_bytes)),
        }
    }

    fn cells(&self) -> [String; HEADER.len()] {
        let ms = |pause: Option<Duration>| shown(pause, |it| format!("{:.1}", in_ms(it)));
        let mib = |bytes: Option<u64>| shown(bytes, |it| (it >> 20).to_string());
        [
            self.rate.to_string(),
            shown(self.reached, |it| it.to_string()),
            self.how.name().to_owned(),
            format!("{} of {}", self.made, self.tried),
            ms(self.pause),
            ms(self.worst),
            shown(self.own_ms, |it| format!("{it:.1}")),
            shown(self.total, |it| format!("{:.2}", it.as_secs_f64())),
            mib(self.image),
            mib(self.written),
        ]
    }

    fn parts_cells(&self) -> Option<[String; PARTS_HEADER.len()]> {
        let mut cells = PARTS_HEADER.map(str::to_owned);
        [cells[0], cells[1]] = [self.rate.to_string(), self.how.name().to_owned()];
        for (cell, part) in cells.iter_mut().skip(2).zip(self.parts?) {
            *cell = format!("{part:.1}");
        }
        Some(cells)
    }
}

/// The median of each part.
fn parts(all: impl Iterator<Item = Parts>) -> Option<[f64; Parts::NAMES.len()]> {
    let all: Vec<Parts> = all.collect();
    let mut medians = [0.0; Parts::NAMES.len()];
    for (place, part) in medians.iter_mut().enumerate() {
        *part = median(all.iter().map(|it| it.0[place]))?;
    }
    Some(medians)
}

fn ratio(ours: Option<Duration>, theirs: Option<Duration>, sign: &str) -> String {
    let ratio = ours.zip(theirs).map(|(ours, theirs)| ours.as_secs_f64() / theirs.as_secs_f64());
    shown(ratio, |it| format!("{sign}{it:.3}"))
}

fn shown<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Captured;

    fn row(how: How, pause_ms: u64, result: Result<Captured, String>) -> Row {
        let (round, asked_mbps, reached_mbps) = (1, 100, 99);
        let [pause, total] = [pause_ms, 10 * pause_ms].map(Duration::from_millis);
        Row { how, round, asked_mbps, reached_mbps, total, pause, written_bytes: 5 << 20, result }
    }

    #[test]
    fn the_table_has_medians_ratios_and_what_failed() {
        let parts = Some(Parts([1.0, 2.5, 0.0, 30.0, 4.0]));
        let made = || Ok(Captured { image_bytes: 4 << 20, own_pause_ms: Some(7.25), parts: None });
        let instant = Ok(Captured { image_bytes: 4 << 20, own_pause_ms: Some(7.25), parts });
        let rows = [
            row(How::Recipe, 900, made()),
            row(How::Recipe, 1000, made()),
            row(How::Recipe, 1200, made()),
            row(How::RecipeLive, 5000, Err("did not converge".to_owned())),
            row(How::Instant, 250, instant),
        ];
        let text = of(&rows);
        for wanted in [
            "100 99 recipe 3 of 3 1000.0 1200.0 7.2 10.00 4 5",
            "100 instant 1.0 2.5 0.0 30.0 4.0",
            "100 MB/s: instant / recipe pause 0.250 total 0.250",
            "100 MB/s: instant / recipe-live pause - total <0.050",
            "100 MB/s: instant / RAM in use written 1.250",
            "100 MB/s: recipe-live, round 1, after 50.0 s: did not converge",
        ] {
            let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(text.lines().any(|line| words(line) == wanted), "{wanted}:\n{text}");
        }
        assert!(!text.contains("overlay"), "nothing is said of a way that was not tried:\n{text}");
    }
}
