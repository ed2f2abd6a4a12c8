//! Figures for people: what the benchmarks' tables are made of.

use std::fmt::Write as _;

/// The upper median.
pub fn median<T: PartialOrd + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    values.get(values.len() / 2).copied()
}

/// A table whose columns are as wide as their widest cell, all to the right.
#[must_use]
pub fn aligned<const N: usize>(header: &[&str; N], lines: &[[String; N]]) -> String {
    let header = header.map(str::to_owned);
    let lines: Vec<_> = std::iter::once(&header).chain(lines).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for line in lines {
        for (cell, width) in line.iter().zip(&widths) {
            // Writing to a String cannot fail.
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

    #[test]
    fn medians() {
        assert_eq!(median([3, 1, 2].into_iter()), Some(2));
        assert_eq!(median([1.5, 0.5].into_iter()), Some(1.5));
        assert_eq!(median(std::iter::empty::<u64>()), None);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let lines = [["1", "web"], ["1000", "d"]].map(|line| line.map(str::to_owned));
        assert_eq!(aligned(&["ms", "of"], &lines), "  ms   of\n   1  web\n1000    d\n");
    }
}
