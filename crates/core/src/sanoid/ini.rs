//! The text of a `sanoid.conf`: sections with keys and values. What the keys mean is not known here.

use super::Warning;
use crate::config::ConfigError;

/// A section, put together from every place where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// What stands in the brackets.
    pub name: String,
    /// The line of its first header, from 1.
    pub line: usize,
    /// Its entries in the file's order; no key is there twice.
    pub entries: Vec<Entry>,
}

/// `key = value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value, without the space around it; it may be empty.
    pub value: String,
    /// The line, from 1.
    pub line: usize,
}

/// Reads the text of a file of this name. A comment is a line of its own that begins with `#` or `;`.
/// Of a key that stands twice in a section the first counts, and the other is warned of.
pub fn parse(file: &str, text: &str) -> Result<(Vec<Section>, Vec<Warning>), ConfigError> {
    let mut sections: Vec<Section> = Vec::new();
    let mut warnings = Vec::new();
    let mut current = None;
    for (line, content) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let error = |message| ConfigError { file: file.to_owned(), line, message };
        let content = content.trim();
        if content.is_empty() || content.starts_with(['#', ';']) {
            continue;
        }
        if let Some(header) = content.strip_prefix('[') {
            let name = header.strip_suffix(']').map(str::trim).filter(|it| !it.is_empty());
            let Some(name) = name else {
                return Err(error(format!(
                    "'{content}' is no section: write [dataset] or [template_NAME]"
                )));
            };
            let known = sections.iter().position(|it| it.name == name);
            current = Some(known.unwrap_or(sections.len()));
            if known.is_none() {
                sections.push(Section { name: name.to_owned(), line, entries: Vec::new() });
            }
            continue;
        }
        let Some((key, value)) = content.split_once('=') else {
            return Err(error(format!("'{content}' is no setting: write key = value")));
        };
        let (key, value) = (key.trim(), value.trim());
        let Some(section) = current.and_then(|it: usize| sections.get_mut(it)) else {
            return Err(error(format!(
                "'{key}' belongs to no section: write [dataset] or [template_NAME] above it"
            )));
        };
        if let Some(first) = section.entries.iter().find(|it| it.key == key) {
            let message = format!("'{key}' is set in line {} already, and that counts", first.line);
            warnings.push(Warning { file: file.to_owned(), line, message });
            continue;
        }
        section.entries.push(Entry { key: key.to_owned(), value: value.to_owned(), line });
    }
    Ok((sections, warnings))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that was read, in one line.
    fn shown(sections: &[Section]) -> String {
        let entry = |it: &Entry| format!(" {}:{}={}", it.line, it.key, it.value);
        let section = |it: &Section| {
            let entries: String = it.entries.iter().map(entry).collect();
            format!("{}:[{}]{entries}", it.line, it.name)
        };
        sections.iter().map(section).collect::<Vec<_>>().join(" ")
    }

    /// Columns: the text, what is read, what is warned of.
    #[test]
    fn what_is_read() {
        for (text, wanted, warned) in [
            ("", "", ""),
            ("# a\n; b\n\n", "", ""),
            ("[tank/vm]\nhourly = 36\n", "1:[tank/vm] 2:hourly=36", ""),
            ("\u{feff}[ tank ]\r\n\thourly=36\r\n", "1:[tank] 2:hourly=36", ""),
            ("[tank/a b]\nx = 1 = 2 # 3", "1:[tank/a b] 2:x=1 = 2 # 3", ""),
            ("[a]\nx =\n[b]\nx = 1", "1:[a] 2:x= 3:[b] 4:x=1", ""),
            ("[a]\nx=1\nx=2", "1:[a] 2:x=1", "f:3: 'x' is set in line 2 already, and that counts"),
            (
                "[a]\nx=1\n[b]\n[a]\ny=2\nx=3",
                "1:[a] 2:x=1 5:y=2 3:[b]",
                "f:6: 'x' is set in line 2 already, and that counts",
            ),
        ] {
            let (sections, warnings) = parse("f", text).unwrap();
            let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
            assert_eq!((shown(&sections).as_str(), warnings.join("; ").as_str()), (wanted, warned));
        }
    }

    #[test]
    fn what_cannot_be_read() {
        for (text, wanted) in [
            ("[a\n", "f:1: '[a' is no section: write [dataset] or [template_NAME]"),
            ("\n[ ]\n", "f:2: '[ ]' is no section: write [dataset] or [template_NAME]"),
            ("[a]\n\nhourly 36\n", "f:3: 'hourly 36' is no setting: write key = value"),
            (
                "hourly = 36",
                "f:1: 'hourly' belongs to no section: write [dataset] or [template_NAME] above it",
            ),
        ] {
            assert_eq!(parse("f", text).unwrap_err().to_string(), wanted);
        }
    }
}
