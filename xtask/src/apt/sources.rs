//! Source definitions, from those of the host to those that also name contrib and the backports.
//! Text to text.

/// Keeps what defines Debian's own archive for `codename` and adds the component contrib to it, and
/// the suite `backports` if one is given. Other archives are left out: they need not answer for us to install
/// what Debian has.
pub(crate) fn extended(
    text: &str,
    deb822: bool,
    codename: &str,
    backports: Option<&str>,
) -> String {
    let separator = if deb822 { "\n\n" } else { "\n" };
    let extend = if deb822 { stanza } else { one_line };
    let parts = text.split(separator);
    let parts = parts.filter_map(|part| extend(part.trim_matches('\n'), codename, backports));
    parts.map(|part| format!("{part}{separator}")).collect()
}

/// A stanza of the deb822 format.
fn stanza(text: &str, codename: &str, backports: Option<&str>) -> Option<String> {
    let suites = field(text, "Suites:")?;
    if !of_release(&suites, codename) || !signed_by_debian(&field(text, "Signed-By:")) {
        return None;
    }
    if !suites.split_whitespace().any(|suite| suite == codename) {
        return Some(text.to_owned());
    }
    let lines = text.lines().map(|line| match line.split_once(':').map(|(key, _)| key) {
        Some("Suites") => with_word(line, backports),
        Some("Components") => with_word(line, Some("contrib")),
        _ => line.to_owned(),
    });
    Some(lines.collect::<Vec<_>>().join("\n"))
}

/// A field's value with its continuation lines.
fn field(stanza: &str, key: &str) -> Option<String> {
    let mut lines = stanza.lines().skip_while(|line| !line.starts_with(key));
    let first = lines.next()?.strip_prefix(key)?;
    let rest = lines.take_while(|line| line.starts_with([' ', '\t']));
    Some(std::iter::once(first).chain(rest).collect::<Vec<_>>().join(" "))
}

/// A line `deb [options] uri suite component…`.
fn one_line(text: &str, codename: &str, backports: Option<&str>) -> Option<String> {
    let text = text.split('#').next()?.trim();
    let rest = text.strip_prefix("deb ")?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map(|(options, rest)| (Some(options), rest))?,
        None => (None, rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    let key =
        options.and_then(|options| options.split_once("signed-by=")).map(|it| it.1.to_owned());
    if !of_release(suite, codename) || !signed_by_debian(&key) {
        return None;
    }
    if suite != codename {
        return Some(text.to_owned());
    }
    let options = options.map(|options| format!("[{options}] ")).unwrap_or_default();
    let components = with_word(&words.collect::<Vec<_>>().join(" "), Some("contrib"));
    let suites = std::iter::once(codename).chain(backports);
    let lines = suites.map(|suite| format!("deb {options}{uri} {suite} {components}"));
    Some(lines.collect::<Vec<_>>().join("\n"))
}

/// A list of words with one more, unless it has that.
fn with_word(list: &str, word: Option<&str>) -> String {
    let new = word.filter(|word| list.split_whitespace().all(|it| it != *word));
    std::iter::once(list).chain(new).collect::<Vec<_>>().join(" ")
}

fn of_release(suites: &str, codename: &str) -> bool {
    suites.split_whitespace().any(|suite| suite.split('-').next() == Some(codename))
}

/// Debian's archive names its own keyring, or none.
fn signed_by_debian(key: &Option<String>) -> bool {
    key.as_ref().is_none_or(|key| key.contains("debian-archive-keyring"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_of_the_release_get_backports() {
        let text = "\
Types: deb
# a comment
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.test/security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://other.test/
Suites: bookworm
Components: stable
Signed-By: /etc/apt/keyrings/other.asc

Types: deb
URIs: http://third.test/
Suites: nodistro
Components: main
";
        let adapted = extended(text, true, "bookworm", Some("bookworm-backports"));
        let expected = "\
Types: deb
# a comment
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.test/security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

";
        assert_eq!(adapted, expected);
    }

    #[test]
    fn lines_of_the_release_get_backports() {
        let table = [
            ("# deb http://mirror.test/debian bookworm main", ""),
            ("deb-src http://mirror.test/debian bookworm main", ""),
            ("deb http://mirror.test/debian trixie main", ""),
            ("deb [signed-by=/etc/other.gpg] http://other.test bookworm main", ""),
            (
                "deb http://mirror.test/debian bookworm main non-free # ours",
                "deb http://mirror.test/debian bookworm main non-free contrib\n\
                 deb http://mirror.test/debian bookworm-backports main non-free contrib\n",
            ),
            (
                "deb [arch=amd64] http://mirror.test/debian bookworm main",
                "deb [arch=amd64] http://mirror.test/debian bookworm main contrib\n\
                 deb [arch=amd64] http://mirror.test/debian bookworm-backports main contrib\n",
            ),
            (
                "deb http://mirror.test/security bookworm-security main",
                "deb http://mirror.test/security bookworm-security main\n",
            ),
        ];
        for (text, expected) in table {
            let extended = extended(text, false, "bookworm", Some("bookworm-backports"));
            assert_eq!(extended, expected, "{text}");
        }
    }

    #[test]
    fn a_release_that_needs_no_backports_gets_contrib_alone() {
        let stanza = "Suites: trixie trixie-updates\nComponents: main";
        let expected = "Suites: trixie trixie-updates\nComponents: main contrib\n\n";
        assert_eq!(extended(stanza, true, "trixie", None), expected);
        let line = "deb http://mirror.test/debian trixie main contrib";
        assert_eq!(extended(line, false, "trixie", None), format!("{line}\n"));
    }
}
