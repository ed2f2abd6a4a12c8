//! What TOML and serde find wrong, as an administrator reads it.

use super::{ConfigError, Source};

pub(super) fn explain(source: Source<'_>, error: &toml::de::Error) -> ConfigError {
    let span = error.span().unwrap_or_default();
    let place = source.place(span.start);
    let found = source.text.get(span).unwrap_or_default();
    let message = match error.message() {
        unknown if unknown.starts_with("unknown field `") => explain_unknown(unknown),
        "duplicate key" => format!("the key '{found}' is there twice"),
        other => explain_brackets(found, other).unwrap_or_else(|| other.to_owned()),
    };
    place.error(message)
}

/// What is wrong with the brackets around a table's name.
fn explain_brackets(found: &str, message: &str) -> Option<String> {
    if message.ends_with(", expected a sequence") {
        let rule = match found.starts_with("[volume") {
            true => "a rule for a volume begins with double brackets: [[volume]]",
            false => "a rule for guests begins with double brackets: [[guest]]",
        };
        return Some(rule.to_owned());
    }
    if message.ends_with(", expected a map") {
        return Some("a policy is a table with a name of its own: [policy.NAME]".to_owned());
    }
    let (name, _) = found.strip_prefix("[[")?.split_once("]]")?;
    Some(format!("a table that is there once is written with single brackets: [{}]", name.trim()))
}

/// serde says: unknown field `key`, expected one of `this`, `that`.
fn explain_unknown(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let key = quoted.next().unwrap_or_default();
    let known: Vec<&str> = quoted.collect();
    match key {
        "timezone" => "'timezone' stands above the first table".to_owned(),
        _ => format!("unknown key '{key}'; {}", instead(key, &known)),
    }
}

/// What to write instead of an unknown word: the nearest of those that may stand there, or all.
pub(super) fn instead(word: &str, known: &[&str]) -> String {
    match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("what can stand here is {}", known.join(", ")),
    }
}

/// What was probably meant: at most two characters are different, missing or too many. A word of which
/// no letter stays is not near.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let furthest = word.chars().count().saturating_sub(1).min(2);
    let near = known.into_iter().filter(|it| distance(word, it) <= furthest);
    near.min_by_key(|it| distance(word, it))
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
