//! What is read of a configuration, and every kind of mistake in one.

use std::collections::BTreeMap;

use jiff::civil::{Weekday, time};

use super::*;
use crate::capture::Consistency;
use crate::policy::{Period, Policy, PreferredTimes};

#[test]
fn later_files_override() {
    let first = "timezone = 'Asia/Tokyo'\n[memory]\nstore = '/mem'\nreserve = '5%'\n";
    let second = "\ntimezone = 'Europe/Vienna'\n[memory]\nstore = '/big'\n\
                  [overlay]\ndump-limit = '90s'\n[capture]\npause-limit = '250ms'\n";
    let config = Config::parse([("a", first), ("b", second)]).unwrap();
    assert_eq!(config.store, Some("/big".into()));
    assert_eq!(config.reserve_percent, 5);
    assert_eq!(config.dump_limit, Duration::from_secs(90));
    assert_eq!(config.commit_limit, Config::default().commit_limit);
    assert_eq!(config.pause_limit, Duration::from_millis(250));
    let place = Place { file: "b".into(), line: 2 };
    assert_eq!(config.time_zone, Some(("Europe/Vienna".into(), place)));
}

#[test]
fn hooks_are_read() {
    let first = "[hooks]\npre-snapshot = 'one'\npost-prune = 'two three'\n[notify]\ncommand = 'x'";
    let second = "\n[hooks]\ntimeout = '5s'\npre-snapshot = 'four'\n";
    let command = |line: &str, file: &str, at| CommandLine {
        line: line.into(),
        place: Place { file: file.into(), line: at },
    };
    let config = Config::parse([("a", first), ("b", second)]).unwrap();
    let hooks = [
        (Hook::PreSnapshot, command("four", "b", 4)),
        (Hook::PostPrune, command("two three", "a", 3)),
    ];
    assert_eq!(config.hooks, BTreeMap::from(hooks));
    assert_eq!(config.script_limit, Duration::from_secs(5));
    assert_eq!(config.notify, Some(command("x", "a", 5)));
    assert_eq!(Config::default().script_limit, Duration::from_secs(30));
}

#[test]
fn policies_are_read() {
    let text = "
        [policy.bare]
        [policy.full]
        frequently = 8
        hourly = 36
        daily = 30
        weekly = 0
        monthly = 3
        yearly = 1
        memory = { hourly = 24, daily = 7 }
        frequent-period = 20
        hourly-min = 7
        daily-at = '02:30'
        weekly-on = 'sunday'
        weekly-at = '12:00'
        monthly-on = 31
        monthly-at = '00:05'
        yearly-on = '02-29'
        yearly-at = '06:00'";
    let config = Config::parse([("v.toml", text)]).unwrap();
    let names: Vec<_> = config.policies.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["bare", "full"]);
    assert_eq!(config.policies[0].policy, Policy::default());
    assert_eq!(config.policies[1].place, Place { file: "v.toml".into(), line: 3 });
    let counts = [8, 36, 30, 0, 3, 1];
    let full = Policy {
        keep: Period::ALL.into_iter().zip(counts).collect(),
        keep_memory: BTreeMap::from([(Period::Hourly, 24), (Period::Daily, 7)]),
        times: PreferredTimes {
            frequent_minutes: 20,
            hourly_minute: 7,
            daily: time(2, 30, 0, 0),
            weekly: (Weekday::Sunday, time(12, 0, 0, 0)),
            monthly: (31, time(0, 5, 0, 0)),
            yearly: (2, 29, time(6, 0, 0, 0)),
        },
    };
    assert_eq!(config.policies[1].policy, full);
}

#[test]
fn rules_are_read() {
    let policy = "[policy.a]\nhourly = 1\n";
    let rules = "[[guest]]\nmatch = 'web'\npolicy = 'a'\n\n[[guest]]\nmatch = ['db-*', 'db']\n\
                 policy = 'a'\nconsistency = 'frozen'\notherwise = 'fail'\npause-limit = '500ms'\n";
    // A rule may stand before its policy.
    let config = Config::parse([("rules", rules), ("policies", policy)]).unwrap();
    let [web, db] = &config.rules[..] else { panic!("{:?}", config.rules) };
    assert_eq!((web.consistency, web.otherwise), (None, Otherwise::Next));
    assert_eq!(web.pause_limit, None);
    assert_eq!(web.place.to_string(), "rules:1");
    assert_eq!(web.policy, config.policies[0]);
    assert_eq!((db.consistency, db.otherwise), (Some(Consistency::Frozen), Otherwise::Fail));
    assert_eq!(db.pause_limit, Some(Duration::from_millis(500)));
    assert_eq!(db.place.to_string(), "rules:5");
    let patterns: Vec<_> = db.patterns.iter().map(ToString::to_string).collect();
    assert_eq!(patterns, ["db-*", "db"]);
}

/// Columns: what stands behind `match`, whether it can be a volume's name.
#[test]
fn names_of_volumes() {
    for (name, is_one) in [
        ("tank", true),
        ("rpool/data", true),
        ("rpool/my data:1.2_3-4", true),
        ("/srv/data", true),
        ("/srv/päth with spaces", true),
        ("", false),
        ("/", false),
        ("/srv/", false),
        ("/srv//data", false),
        ("/srv/../data", false),
        ("rpool/", false),
        ("rpool//data", false),
        ("rpool/data@now", false),
        ("rpool/data,rpool/b", false),
        ("rpool/*", false),
        ("-r", false),
        ("data\\n", false),
    ] {
        let text = format!("[policy.a]\n[[volume]]\nmatch = \"{name}\"\npolicy = 'a'");
        match Config::parse([("v.toml", text.as_str())]) {
            Ok(config) => assert!(is_one && config.volumes[0].volume.as_str() == name, "{name}"),
            Err(errors) => {
                assert!(!is_one, "{errors:?}");
                assert_eq!(errors[0].line, 3);
            }
        }
    }
}

/// Columns: the text, the line of its one error, the message.
#[test]
fn errors_say_where_and_what_instead() {
    for (text, line, message) in [
        ("[memory]\nstroe = '/mem'", 2, "unknown key 'stroe'; did you mean 'store'?"),
        ("[memroy]\nstore = '/mem'", 1, "unknown key 'memroy'; did you mean 'memory'?"),
        ("[memory]\nstore = 'mem'", 2, "'mem' is not an absolute path"),
        ("\n[memory]\nreserve = 'ten'", 3, "'ten' is not a share below 100%, such as \"10%\""),
        (
            "[overlay]\ndump-limit = '0s'",
            2,
            "'0s' is not a time such as \"90s\", \"10min\" or \"1h\"",
        ),
        ("[capture]\npause-limit = '1min'", 2, "'1min' is not a time such as \"500ms\" or \"2s\""),
        ("[memory]\non-root = 'yes'", 2, "invalid type: string \"yes\", expected a boolean"),
        ("memory = 3", 1, "invalid type: integer `3`, expected the table [memory]"),
        (
            "[overlay]\nstore = '/mem'",
            2,
            "unknown key 'store'; what can stand here is path, dump-limit, commit-limit",
        ),
        (
            "[overlay]\ndump-limit = 90",
            2,
            "invalid type: integer `90`, expected a time such as \"90s\"",
        ),
        ("[memory]\nstore = '/a'\nstore = '/b'", 3, "the key 'store' is there twice"),
        (
            "\n[[memory]]\nstore = '/a'",
            2,
            "a table that is there once is written with single brackets: [memory]",
        ),
        (
            "[[policy.a]]",
            1,
            "a table that is there once is written with single brackets: [policy.a]",
        ),
        ("[[policy]]", 1, "a policy is a table with a name of its own: [policy.NAME]"),
        ("\n[guest]", 2, "a rule for guests begins with double brackets: [[guest]]"),
        ("[[guests]]", 1, "unknown key 'guests'; did you mean 'guest'?"),
        (
            "[pool]",
            1,
            "unknown key 'pool'; what can stand here is timezone, memory, overlay, capture, \
             hooks, notify, policy, guest, volume",
        ),
        ("[volume]", 1, "a rule for a volume begins with double brackets: [[volume]]"),
        ("[[volume]]\nmatch = 'tank'", 1, "the rule has no policy; write policy = \"NAME\""),
        (
            "[policy.a]\n[[volume]]\npolicy = 'a'",
            2,
            "the rule names no volume; write match = \"rpool/data\"",
        ),
        (
            "[[volume]]\nmatch = 'tank'\npolicy = 'a'",
            3,
            "there is no policy 'a'; define it with [policy.a]",
        ),
        (
            "[[volume]]\nmatch = 'tank'\nrecursive = 'zfs'",
            3,
            "invalid type: string \"zfs\", expected a boolean",
        ),
        (
            "[policy.a]\n[[volume]]\nmatch = '/srv/d'\npolicy = 'a'\n[[volume]]\nmatch = '/srv/d'\n\
             policy = 'a'",
            5,
            "volume '/srv/d' has two rules, this one and that at v.toml:2; remove one of the two",
        ),
        ("[memory]\ntimezone = 'UTC'", 2, "'timezone' stands above the first table"),
        ("timezone = '../x'", 1, "'../x' is not a time zone such as \"Europe/Vienna\""),
        (
            "timezone = 1",
            1,
            "invalid type: integer `1`, expected a time zone such as \"Europe/Vienna\"",
        ),
        (
            "[policy]\nhourly = 3",
            2,
            "invalid type: integer `3`, expected a policy's table, [policy.NAME]",
        ),
        ("[policy.a]\n[policy.a]", 2, "the key 'a' is there twice"),
        ("[policy.a]\nhuorly = 3", 2, "unknown key 'huorly'; did you mean 'hourly'?"),
        ("[policy.a]\nhourly = -1", 2, "-1 is not a whole number from 0 to 100000"),
        (
            "[policy.a]\nhourly = '36'",
            2,
            "invalid type: string \"36\", expected a whole number from 0 to 100000",
        ),
        ("[policy.a]\nfrequent-period = 61", 2, "61 is not a whole number from 1 to 60"),
        ("[policy.a]\nhourly-min = 60", 2, "60 is not a whole number from 0 to 59"),
        ("[policy.a]\nmonthly-on = 0", 2, "0 is not a whole number from 1 to 31"),
        ("[policy.a]\ndaily-at = '24:00'", 2, "'24:00' is not a time of day such as \"23:59\""),
        (
            "[policy.a]\nweekly-on = 'munday'",
            2,
            "'munday' is no day of the week; did you mean 'monday'?",
        ),
        (
            "[policy.a]\nyearly-on = '02-30'",
            2,
            "'02-30' is not a month and a day such as \"12-24\"",
        ),
        (
            "[policy.a]\nmemory = 24",
            2,
            "invalid type: integer `24`, expected counts such as { hourly = 24 }",
        ),
        (
            "[policy.a]\nhourly = 36\n[policy.a.memory]\ndaily = 7",
            4,
            "policy 'a' keeps no daily points that could have memory; write daily = 7 in the \
             policy as well, or leave it out here",
        ),
        (
            "[policy.a]\nhourly = 36\nmemory = { hourly = 48 }",
            3,
            "policy 'a' says hourly = 36, and only points that are kept have memory; write 36 at \
             most",
        ),
        ("\n[[guest]]\npolicy = 'a'", 2, "the rule matches no guest; write match = \"GUEST\""),
        ("[[guest]]\nmatch = []", 1, "the rule matches no guest; write match = \"GUEST\""),
        (
            "[[guest]]\nmatch = ['a',\n'b/c']",
            3,
            "'b/c' matches no guest: it holds a '/' or a control character",
        ),
        (
            "[[guest]]\nmatch = 3",
            2,
            "invalid type: integer `3`, expected a guest's name in quotes, or several in brackets",
        ),
        ("[[guest]]\nmatch = 'a'", 1, "the rule has no policy; write policy = \"NAME\""),
        (
            "[[guest]]\nmatch = 'a'\npolicy = 'b'",
            3,
            "there is no policy 'b'; define it with [policy.b]",
        ),
        (
            "[policy.production]\n[[guest]]\nmatch = 'a'\npolicy = 'prodution'",
            4,
            "there is no policy 'prodution'; did you mean 'production'?",
        ),
        (
            "[policy.gold]\n[policy.silver]\n[[guest]]\nmatch = 'a'\npolicy = 'tin'",
            5,
            "there is no policy 'tin'; what can stand here is gold, silver",
        ),
        (
            "[[guest]]\nconsistency = 'off'",
            2,
            "'off' is no consistency that can be demanded; what can stand here is memory, frozen, \
             crash",
        ),
        (
            "[[guest]]\notherwise = 'stop'",
            2,
            "'stop' is no answer to a consistency that is not reached; what can stand here is \
             next, fail",
        ),
        (
            "[policy.a]\n[[guest]]\nmatch = 'a'\npolicy = 'a'\notherwise = 'fail'",
            5,
            "'otherwise' needs a consistency that may not be reached; write consistency = \
             \"memory\", or leave it out",
        ),
        (
            "[hooks]\npre = 'x'",
            2,
            "unknown key 'pre'; what can stand here is pre-snapshot, \
             post-snapshot, pre-prune, post-prune, timeout",
        ),
        (
            "[hooks]\npre-snaphsot = 'x'",
            2,
            "unknown key 'pre-snaphsot'; did you mean 'pre-snapshot'?",
        ),
        ("[hooks]\n\npost-prune = ' '", 3, "an empty command line does nothing; leave it out"),
        ("[hooks]\npre-prune = \"x\\u0000\"", 2, "no program can be given the character NUL"),
        (
            "[hooks]\npre-prune = ['x']",
            2,
            "invalid type: sequence, expected a command line such as \
             \"/opt/scripts/pre.sh\"",
        ),
        ("[hooks]\ntimeout = 30", 2, "invalid type: integer `30`, expected a time such as \"90s\""),
        ("[hooks]\ntimeout = '0s'", 2, "'0s' is not a time such as \"90s\", \"10min\" or \"1h\""),
        ("hooks = 'x'", 1, "invalid type: string \"x\", expected the table [hooks]"),
        ("[notify]\ncomand = 'x'", 2, "unknown key 'comand'; did you mean 'command'?"),
        (
            "[notify]\ncommand = true",
            2,
            "invalid type: boolean `true`, expected a command line such as \
             \"/opt/scripts/pre.sh\"",
        ),
        (
            "[policy.a]\n[[guest]]\nmatch = 'web'\npolicy = 'a'\n[[guest]]\nmatch = ['x', 'web']\n\
             policy = 'a'",
            5,
            "guest 'web' has two rules, this one and that at v.toml:2; let only one match it",
        ),
        (
            "[policy.a]\n[[guest]]\nmatch = 'web'\npolicy = 'a'\n[[guest]]\nmatch = 'w*'\n\
             policy = 'a'",
            5,
            "guest 'web' has two rules, this one and that at v.toml:2; let only one match it",
        ),
        ("[memory]\non-root = 1", 2, "invalid type: integer `1`, expected a boolean"),
        ("[memory", 1, "unclosed table, expected `]`"),
    ] {
        let errors = Config::parse([("v.toml", text)]).expect_err(text);
        let [error] = &errors[..] else { panic!("{text}: {errors:?}") };
        assert_eq!((error.line, error.message.as_str()), (line, message), "{text}");
    }
}

#[test]
fn errors_of_several_files() {
    let said = |files: &[(&'static str, &'static str)]| {
        let errors = Config::parse(files.iter().copied()).unwrap_err();
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let policy = ("policy.toml", "\n[policy.a]\nhourly = 1\n");
    let rules = "[[guest]]\nmatch = 'x'\n[[guest]]\nmatch = 'y'\npolicy = 'b'\n";
    assert_eq!(
        said(&[policy, ("z.toml", rules), ("again.toml", "[policy.a]\n[policy.c]\n")]),
        [
            "again.toml:1: policy 'a' is defined at policy.toml:2 already; rename or remove one \
             of the two",
            "z.toml:1: the rule has no policy; write policy = \"NAME\"",
            "z.toml:5: there is no policy 'b'; what can stand here is a, c",
        ]
    );
    // A rule is not to blame for its policy.
    let wrong = "[policy.a]\nhourly = 1\nmemory.hourly = 2\nmemory.daily = 3\n\
                 [[guest]]\nmatch = 'x'\npolicy = 'a'\n";
    assert_eq!(
        said(&[("v.toml", wrong)]),
        [
            "v.toml:3: policy 'a' says hourly = 1, and only points that are kept have memory; write \
             1 at most",
            "v.toml:4: policy 'a' keeps no daily points that could have memory; write daily = 3 \
             in the policy as well, or leave it out here",
        ]
    );
    // The policies of a file that cannot be read are not missed.
    assert_eq!(
        said(&[("one.toml", "x = 1"), policy, ("z.toml", rules), ("two.toml", "[policy.b")]),
        [
            "one.toml:1: unknown key 'x'; what can stand here is timezone, memory, overlay, \
             capture, hooks, notify, policy, guest, volume",
            "two.toml:1: unclosed table, expected `]`",
        ]
    );
}

/// The keys that may stand in a table are those that an error tells of.
#[test]
fn the_schema_has_every_key() {
    let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
    let read = |header: &str| -> Vec<String> {
        let errors = Config::parse([("v.toml", format!("{header}\nxxxxxxxxxxxxxxx = 1").as_str())]);
        let message = errors.unwrap_err().remove(0).message;
        let known = message.split_once("what can stand here is ").expect(&message).1;
        let mut known: Vec<_> = known.split(", ").map(str::to_owned).collect();
        known.sort();
        known
    };
    for (header, place) in [
        ("", ""),
        ("[memory]", "/properties/memory"),
        ("[overlay]", "/properties/overlay"),
        ("[capture]", "/properties/capture"),
        ("[hooks]", "/properties/hooks"),
        ("[notify]", "/properties/notify"),
        ("[policy.a]", "/$defs/policy"),
        ("[policy.a.memory]", "/$defs/policy/properties/memory"),
        ("[[guest]]", "/$defs/guest"),
        ("[[volume]]", "/$defs/volume"),
    ] {
        let table = schema.pointer(place).unwrap();
        let mut keys: Vec<_> = table["properties"].as_object().unwrap().keys().cloned().collect();
        keys.sort();
        assert_eq!(keys, read(header), "{header}");
        assert_eq!(table["additionalProperties"], false, "{header}");
    }
}
