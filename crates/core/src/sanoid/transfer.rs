//! Which datasets a `zfs send` or `zfs receive` is at work on, by the command lines that run.

use crate::name::Volume;

/// Whether this command line sends or receives the dataset, or one above it: with `-R` or `-d` that
/// takes those below along.
pub fn transfers(command: &[impl AsRef<str>], dataset: &Volume) -> bool {
    let mut words = command.iter().map(AsRef::as_ref);
    let program = words.next().and_then(|it| it.rsplit('/').next());
    let verb = words.next();
    if program != Some("zfs") || !matches!(verb, Some("send" | "receive" | "recv")) {
        return false;
    }
    let names = words.filter_map(|it| it.split(['@', '#']).next());
    names.filter(|it| !it.is_empty()).any(|name| {
        let rest = dataset.as_str().strip_prefix(name);
        rest.is_some_and(|it| it.is_empty() || it.starts_with('/'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_at_work_on_a_dataset() {
        for (command, wanted) in [
            ("zfs send tank/vm@a", true),
            ("/usr/sbin/zfs send -w -I tank/vm@a tank/vm@b", true),
            ("zfs send -R tank@a", true),
            ("zfs send -i tank/vm#a tank/vm@b", true),
            ("zfs receive -s -F tank/vm", true),
            ("zfs recv -u tank/vm@a", true),
            ("zfs receive -d tank", true),
            ("zfs send tank/vm/disk@a", false),
            ("zfs send tank/vm2@a", false),
            ("zfs send @a", false),
            ("zfs list tank/vm", false),
            ("zfs", false),
            ("sh -c zfs send tank/vm@a", false),
            ("less zfs send tank/vm@a", false),
        ] {
            let words: Vec<_> = command.split(' ').collect();
            assert_eq!(transfers(&words, &"tank/vm".parse().unwrap()), wanted, "{command}");
        }
    }
}
