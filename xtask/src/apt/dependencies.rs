//! Reads what `apt-cache depends --recurse` prints.

use std::collections::{BTreeMap, BTreeSet};

/// The libraries that a package depends on, and theirs. Other packages (tools that a package's
/// installation needs) are left out, with all that they need.
pub(super) fn libraries(tree: &str, package: &str) -> Vec<String> {
    let needs = parse(tree);
    let (mut found, mut open) = (BTreeSet::new(), vec![package]);
    while let Some(package) = open.pop() {
        for need in needs.get(package).into_iter().flatten() {
            if need.starts_with("lib") && found.insert(*need) {
                open.push(need);
            }
        }
    }
    found.into_iter().map(str::to_owned).collect()
}

/// Each package's name stands at the beginning of a line, what it needs below it, indented. A name
/// in angle brackets is one that several packages provide.
fn parse(tree: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut needs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut package = "";
    for line in tree.lines() {
        if !line.starts_with([' ', '|']) {
            package = line;
        } else if let Some((_, need)) = line.split_once("Depends: ") {
            needs.entry(package).or_default().push(need);
        }
    }
    needs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_followed_and_tools_are_not() {
        let tree = "\
agent
  Depends: libone
 |Depends: tool
  Depends: <libvirtual>
    libtwo
libone
  PreDepends: libtwo
tool
  Depends: libtool
libtwo
libtool
";
        assert_eq!(libraries(tree, "agent"), ["libone", "libtwo"]);
        assert_eq!(libraries(tree, "libtwo"), [""; 0]);
    }
}
