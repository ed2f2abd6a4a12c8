//! Whatever is read is read without a panic, and what is understood is understood rightly.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use proptest::prelude::*;
use proptest::sample::select;
use vitrify_core::config::Config;
use vitrify_core::definition::{Definition, repoint_disk};
use vitrify_core::inventory::DiskSource;
use vitrify_core::manifest::Manifest;
use vitrify_core::point::{PointRef, Selector, selector};
use vitrify_core::sanoid::settings;

/// Texts made of a format's own pieces come further into its parser than noise does.
fn made_of(pieces: &'static [&'static str]) -> impl Strategy<Value = String> {
    let piece = prop_oneof![9 => select(pieces).prop_map(str::to_owned), 1 => "\\PC{0,3}"];
    prop_oneof![
        3 => prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat()),
        1 => any::<String>(),
    ]
}

const SANOID: &[&str] = &[
    "[tank]",
    "[tank/vm]",
    "[template_a]",
    "[template_default]",
    "[",
    "]",
    "\n",
    "\n",
    "\n",
    "\r\n",
    "path",
    "use_template",
    "recursive",
    "hourly",
    "huorly",
    "daily_hour",
    "weekly_wday",
    "hourly_warn",
    "script_timeout",
    " = ",
    " = ",
    " = ",
    "a,b",
    "a",
    "tank",
    "yes",
    "zfs",
    "7",
    "-1",
    "99999999999999999999",
    "9223372036854775807y",
    "90m",
    "ü",
    "# ",
];

const TOML: &[&str] = &[
    "[memory]",
    "[overlay]",
    "[[memory]]",
    "[memory.store]",
    "[policy.a]\n",
    "[policy.a.memory]\n",
    "[[guest]]\n",
    "match = '*'\n",
    "policy = 'a'\n",
    "timezone",
    "hourly",
    "daily",
    "memory",
    "daily-at",
    "weekly-on",
    "yearly-on",
    "frequent-period",
    "pause-limit",
    "match",
    "otherwise",
    "[",
    "]",
    "'next'",
    "'monday'",
    "'23:59'",
    "'02-29'",
    "-1",
    "\n",
    "\n",
    "\n",
    "store",
    "reserve",
    "on-root",
    "path",
    "dump-limit",
    "commit-limit",
    "stroe",
    " = ",
    " = ",
    " = ",
    "\"/mem\"",
    "\"mem\"",
    "'10%'",
    "'100%'",
    "'18446744073709551615h'",
    "'99999999999999999999s'",
    "true",
    "10",
    "1e400",
    "{",
    "}",
    "\"\"\"",
    "'''",
    "#",
    "\\u0000",
    "2026-11-23",
    "\u{feff}",
    "\r",
];

const XML: &[&str] = &[
    "<domain>",
    "</domain>",
    "<os>",
    "</os>",
    "<type machine='pc'>hvm</type>",
    "<nvram>",
    "</nvram>",
    "<devices>",
    "</devices>",
    "<disk type='file'>",
    "</disk>",
    "<source file='/a'/>",
    "<source",
    "<driver type='raw'/>",
    "<driver name='qemu'/>",
    "<target dev='vda'/>",
    "<target/>",
    "<backingStore>",
    "</backingStore>",
    "<backingStore/>",
    "<mirror/>",
    "<memory unit='GiB'>",
    "99999999999999999999",
    "17179869184",
    "</memory>",
    "&amp;",
    "&x;",
    "<!--",
    "-->",
    "<![CDATA[",
    "]]>",
    "<!DOCTYPE x [<!ENTITY x 'y'>]>",
    "é",
    "'",
    "\"",
    ">",
];

const JSON: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"manifest\"",
    "\"blake3\"",
    "\"version\"",
    "\"id\"",
    "1",
    "2",
    "-1",
    "1e400",
    "18446744073709551616",
    "null",
    "true",
    "\"\"",
    "\"\\ud800\"",
    "\"x\"",
    " ",
];

const POINT: &[&str] = &[
    "w",
    "@",
    "@",
    "latest",
    "latest-",
    "0",
    "18446744073709551616",
    "-",
    "2026-11-23",
    "T",
    " ",
    "12:00:00",
    "Z",
    "+01:00",
    "24:00",
    "é",
    "\0",
    "/",
    "2026-02-30",
    "-009999-01-01",
    "9999-12-31",
];

const DEFINITION: &str = "<domain type='qemu'><name>w</name><memory unit='MiB'>64</memory>\
    <os><type machine='pc'>hvm</type></os><devices><disk type='file' device='disk'>\
    <driver name='qemu' type='qcow2'/><source file='/ov/a' index='2'/><backingStore type='file'>\
    <format type='raw'/><source file='/pool/a'/><backingStore/></backingStore>\
    <target dev='vda'/></disk><disk type='file' device='disk'><driver name='qemu' type='raw'/>\
    <source file='/pool/b'/><target dev='vdb'/></disk></devices></domain>";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_configuration_is_read_or_its_errors_have_lines(text in made_of(TOML)) {
        if let Err(errors) = Config::parse([("v.toml", text.as_str())]) {
            prop_assert!(!errors.is_empty());
            for error in errors {
                let lines = 1..=text.matches('\n').count() + 1;
                prop_assert!(lines.contains(&error.line), "{error}");
                prop_assert!(!error.message.is_empty());
            }
        }
    }

    #[test]
    fn a_sanoid_conf_is_read_or_its_error_has_a_line(text in made_of(SANOID)) {
        match settings::read("f", &text) {
            Ok(read) => {
                let datasets: BTreeSet<_> = read.sections.iter().map(|it| &it.dataset).collect();
                prop_assert_eq!(datasets.len(), read.sections.len());
            }
            Err(error) => {
                prop_assert!((1..=text.matches('\n').count() + 1).contains(&error.line), "{error}");
                prop_assert!(!error.message.is_empty());
            }
        }
    }

    #[test]
    fn no_text_that_was_not_written_as_one_is_a_manifest(text in made_of(JSON)) {
        prop_assert!(Manifest::parse(&text).is_err());
    }

    #[test]
    fn a_definition_is_read_or_refused(text in made_of(XML)) {
        let _ = Definition::parse(&text);
        let _ = repoint_disk(&text, "vda", Path::new("/x"), "raw");
    }

    #[test]
    fn a_damaged_definition_is_read_or_refused(at in 0..DEFINITION.len(), with in made_of(XML)) {
        let damaged = format!("{}{with}{}", &DEFINITION[..at], &DEFINITION[at + 1..]);
        let _ = Definition::parse(&damaged);
        if let Ok(edited) = repoint_disk(&damaged, "vda", Path::new("/x"), "raw") {
            let shown = Definition::parse(&edited).map(|it| it.disk("vda").cloned());
            if let Ok(Some(disk)) = shown {
                prop_assert_eq!(disk.source, DiskSource::File("/x".into()));
            }
        }
    }

    #[test]
    fn a_disk_is_pointed_to_any_path(path in "/\\PC{0,40}", format in "[a-z0-9]{1,8}") {
        let before = Definition::parse(DEFINITION).unwrap();
        let edited = repoint_disk(DEFINITION, "vda", Path::new(&path), &format).unwrap();
        let after = Definition::parse(&edited).unwrap();
        prop_assert_eq!(&after.disks[0].source, &DiskSource::File(PathBuf::from(&path)));
        prop_assert_eq!(&after.disks[0].format, &format);
        prop_assert_eq!(&after.disks[1..], &before.disks[1..]);
        let back = repoint_disk(&edited, "vda", Path::new(&path), &format).unwrap();
        prop_assert_eq!(back, edited);
    }

    #[test]
    fn a_point_is_split_at_its_last_at(text in made_of(POINT)) {
        if let Ok(parsed) = text.parse::<PointRef>() {
            prop_assert!(!parsed.point.contains('@'));
            prop_assert_eq!(format!("{}@{}", parsed.guest, parsed.point), text);
        }
    }

    #[test]
    fn a_selector_is_one_of_its_kinds(text in made_of(POINT)) {
        match selector(&text, &TimeZone::UTC) {
            Selector::Latest(_) => prop_assert!(text.starts_with("latest")),
            Selector::Named(name) => prop_assert_eq!(name, text),
            Selector::At(_) => prop_assert!(text.contains('-'), "{} is a time", text),
        }
    }
}
