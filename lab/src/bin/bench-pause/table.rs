//! The figures for people: medians over the rounds, and how vitrify compares.

use std::fmt::Write as _;
use std::time::Duration;

use crate::row::{Row, in_ms};
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

const LEGEND: &str = "\
Medians over the rounds; 'worst' is the longest pause. Pauses are from QEMU's STOP to its RESUME
event; 'own figure' is the pause that vitrify itself told. 'total' is until the guest is back on its
own image; vitrify's includes hashing the memory image and making it durable, the recipe does
neither. 'written' is what reached the device, with a sync at the end.";

/// The table, what its columns mean, and the ratios.
pub(crate) fn of(rows: &[Row]) -> String {
    let mut rates: Vec<u64> = rows.iter().map(|row| row.asked_mbps).collect();
    rates.dedup();
    let of_rate = |rate: u64| How::ALL.map(|how| Summary::of(rows, rate, how));
    let summaries: Vec<_> = rates.iter().map(|rate| of_rate(*rate)).collect();
    let lines: Vec<_> = summaries.iter().flatten().map(Summary::cells).collect();
    let mut text = format!("\n{}\n{LEGEND}\n\n", aligned(&lines));
    for (rate, [recipe, live, vitrify]) in rates.iter().zip(&summaries) {
        for (name, other) in [("recipe", recipe), ("recipe-live", live)] {
            let [pause, total] =
                [ratio(vitrify.pause, other.pause), ratio(vitrify.total, other.total)];
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{rate:>4} MB/s: vitrify / {name:<11} pause {pause:>6}   total {total:>6}"
            );
        }
    }
    for row in rows {
        if let Err(why) = &row.result {
            let (how, after) = (row.how.name(), row.total.as_secs_f64());
            let (rate, round) = (row.asked_mbps, row.round);
            let _ =
                writeln!(text, "{rate:>4} MB/s: {how}, round {round}, after {after:.1} s: {why}");
        }
    }
    text.trim_end().to_owned()
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
    total: Option<Duration>,
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
            total: median(made.iter().map(|(row, _)| row.total)),
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
}

/// The upper median.
fn median<T: PartialOrd + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    values.get(values.len() / 2).copied()
}

fn ratio(ours: Option<Duration>, theirs: Option<Duration>) -> String {
    let ratio = ours.zip(theirs).map(|(ours, theirs)| ours.as_secs_f64() / theirs.as_secs_f64());
    shown(ratio, |it| format!("{it:.2}"))
}

fn shown<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

/// Columns as wide as their widest cell, all to the right.
fn aligned(lines: &[[String; HEADER.len()]]) -> String {
    let header = HEADER.map(str::to_owned);
    let lines: Vec<_> = std::iter::once(&header).chain(lines).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEADER.len()).map(width).collect();
    let mut text = String::new();
    for line in lines {
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(text, "{cell:>width$}  ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
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
        let made = || Ok(Captured { image_bytes: 3 << 20, own_pause_ms: Some(7.25) });
        let rows = [
            row(How::Recipe, 900, made()),
            row(How::Recipe, 1000, made()),
            row(How::Recipe, 1200, made()),
            row(How::RecipeLive, 1, Err("did not converge".to_owned())),
            row(How::Vitrify, 250, made()),
        ];
        let text = of(&rows);
        let line = |start: &str| {
            let line = text.lines().find(|line| line.trim_start().starts_with(start));
            line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            line("100       99       recipe"),
            "100 99 recipe 3 of 3 1000.0 1200.0 7.2 10.00 3 5"
        );
        assert_eq!(
            line("100 MB/s: vitrify / recipe "),
            "100 MB/s: vitrify / recipe pause 0.25 total 0.25"
        );
        assert_eq!(
            line("100 MB/s: vitrify / recipe-live"),
            "100 MB/s: vitrify / recipe-live pause - total -"
        );
        assert_eq!(
            line("100 MB/s: recipe-live"),
            "100 MB/s: recipe-live, round 1, after 0.0 s: did not converge"
        );
    }

    #[test]
    fn medians() {
        assert_eq!(median([3, 1, 2].into_iter()), Some(2));
        assert_eq!(median([1.5, 0.5].into_iter()), Some(1.5));
        assert_eq!(median(std::iter::empty::<u64>()), None);
    }
}
