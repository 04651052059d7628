//! Typed values and their mistakes: what an operator reads after a typing error.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::time::Duration;

use jobd_proto::settings::{
    Findings, IniFile, Key, LISTEN_KEYS, LOG_KEYS, LogLevel, Reader, Severity, Value, listen, logs,
    reference, with_reference,
};

/// Keys of a program that does not exist, of each kind.
const KEYS: &[Key] = &[
    Key {
        name: "mysql_host",
        kind: "text",
        default: "required",
        doc: "Where the database is.",
    },
    Key {
        name: "mysql_password",
        kind: "text",
        default: "",
        doc: "Only | for the test.",
    },
    Key {
        name: "launcher.env.*",
        kind: "text",
        default: "",
        doc: "Variables.",
    },
    Key {
        name: "[targets] NAME",
        kind: "integer",
        default: "",
        doc: "Targets.",
    },
];

/// Reads `text` as `read` does and returns the values beside everything that was found.
fn reading<T>(text: &str, read: impl FnOnce(&mut Reader<'_>) -> T) -> (T, Findings) {
    let file = IniFile::parse(Path::new("/etc/jobd.conf"), text);
    let mut reader = Reader::new(&file);
    let values = read(&mut reader);
    (values, reader.finish(&[KEYS]))
}

/// Asserts what is found where nothing but `KEYS` is known and `mysql_host` is required.
fn check(text: &str, printed: &[&str]) {
    let ((), findings) = reading(text, |reader| {
        reader.required_text("mysql_host");
        reader.secret("mysql_password");
        reader.section("targets");
    });
    let lines: Vec<_> = findings.iter().map(|(_, line)| line).collect();
    assert_eq!(lines, printed, "{text:?}");
}

#[test]
fn every_mistake_is_reported_at_once_by_line() {
    let text = "host = \nport = 70800\nmysql_pasword = hunter2\nping = 5x\nalways_allow_localhost = yes\n\
                max_connections = 0\nlog_level_file = loud\nlog_file_max_size = 10 T\nlog_file_keep\n";
    let file = IniFile::parse(Path::new("/etc/jobd.conf"), text);
    let mut reader = Reader::new(&file);
    listen(&mut reader);
    logs(&mut reader);
    let range = Duration::from_millis(100)..=Duration::from_hours(1);
    let ping = reader.seconds("ping", range, Duration::from_secs(30));
    assert_eq!(
        ping,
        Duration::from_secs(30),
        "a wrong value gives the default"
    );
    reader.required_text("mysql_host");
    let findings = reader.finish(&[KEYS, LISTEN_KEYS, LOG_KEYS]);
    let expected = "\
/etc/jobd.conf:1: missing required key host
/etc/jobd.conf:2: port must be a whole number from 0 to 65535, not '70800'
/etc/jobd.conf:3: unknown key mysql_pasword, did you mean mysql_password?
/etc/jobd.conf:4: ping must be a time from 100ms to 1h, like 5 (seconds), 500ms, 2m or 1h, not '5x'
/etc/jobd.conf:5: always_allow_localhost must be one of 1, true, 0, false, not 'yes'
/etc/jobd.conf:6: max_connections must be a whole number from 1 to 12288, not '0'
/etc/jobd.conf:7: log_level_file must be one of trace, debug, info, warn, error, off, not 'loud'
/etc/jobd.conf:8: log_file_max_size must be a size from 0 to 1024G, like 1048576, 512K or 16M, not '10 T'
/etc/jobd.conf:9: log_file_keep needs a value: write log_file_keep = …
/etc/jobd.conf: missing required key mysql_host";
    assert_eq!(findings.to_string(), expected);
    assert!(findings.has_errors());
}

#[test]
fn what_the_original_passed_over_is_a_warning_with_advice() {
    let known = "mysql_host = h\n";
    let warned = |text: &str, advice: &[&str]| {
        let printed: Vec<_> = advice
            .iter()
            .map(|line| format!("/etc/jobd.conf:{line}"))
            .collect();
        let printed: Vec<&str> = printed.iter().map(String::as_str).collect();
        check(&format!("{known}{text}"), &printed);
    };
    warned("", &[]);
    warned("launcher.env.X = 1\n[targets]\na/b = 2\n", &[]);
    warned(
        "MySQL-Host = h",
        &["2: unknown key MySQL-Host, did you mean mysql_host?"],
    );
    warned("colour = h", &["2: unknown key colour"]);
    warned(
        "mysql_host = i",
        &["2: mysql_host is set again, which overrides line 1"],
    );
    warned(
        "[target]\nlow = 1",
        &["2: unknown section [target], did you mean [targets]?"],
    );
    warned(
        "[mail]\nlow = 1",
        &["2: unknown section [mail], nothing in it is read"],
    );
    warned(
        "[targets] ; mine\n[targets] ; mine\n",
        &[
            "2: [targets] is read as a key, not as a section: leave nothing else on its line, no comment and no space",
            "3: [targets] is read as a key, not as a section: leave nothing else on its line, no comment and no space",
        ],
    );
    warned(
        "[targets]\nlow = 1\nlow = 2\nmysql_password = x\n",
        &[
            "4: low is set again, which overrides line 3",
            "5: mysql_password stands under [targets]: move it above that line",
        ],
    );
    warned("= 5", &["2: not read: no key before ="]);
}

#[test]
fn warnings_do_not_stop_a_start() {
    let ((), findings) = reading("colour = 1", |_| ());
    assert!(!findings.has_errors());
    assert_eq!(
        findings.iter().next().unwrap().0.severity,
        Severity::Warning
    );
    let ((), findings) = reading("", |_| ());
    assert!(findings.is_empty());
}

#[test]
fn no_message_shows_a_password() {
    for text in [
        "mysql_password = hunter2\nmysql_password = hunter2",
        "mysql_pasword = hunter2",
        "mysql_password hunter2\nmysql_password hunter2",
        "mysql_password: hunter2",
        "password hunter2",
        "hunter2",
        "hunter2\nhunter2",
        "x hunter2\nx hunter2",
        "[targets]\nmysql_password = hunter2",
        "mysql_password[] = hunter2",
        "mysql_password = hunter2\u{fffd}",
        "= hunter2",
    ] {
        let (_, findings) = reading(text, |reader| reader.secret("mysql_password"));
        let printed = format!("{findings} {findings:?}");
        assert!(!findings.is_empty(), "{text:?}");
        assert!(!printed.contains("hunter2"), "{text:?}: {printed}");
    }
}

#[test]
fn values_arrive_typed() {
    let text = "n = 7\nx = 0.5\nyes = 1\nno = false\nbare\nt = 1.5\nsize = 2M\nmode = b\np = /x y\n\
                empty =\nlauncher.env.A = 1\nlauncher.env.B =\nlauncher.env.A = 2\nlauncher.env.C = 3";
    let ((), findings) = reading(text, |reader| {
        assert_eq!(reader.integer("n", 1..=9_u32, 3), 7);
        assert_eq!(reader.integer("absent", 1..=9_u32, 3), 3);
        assert_eq!(reader.integer("empty", 1..=9_u32, 3), 3);
        assert_eq!(reader.optional_integer("absent", 1..=9_u32), None);
        assert_eq!(reader.required_integer("n", 1..=9_u32), 7);
        assert!((reader.float("x", 0.0..=1.0, 0.1) - 0.5).abs() < f64::EPSILON);
        assert!(
            reader.flag("yes", false) && reader.flag("bare", false) && reader.flag("absent", true)
        );
        assert!(!reader.flag("no", true) && !reader.flag("empty", false));
        let day = Duration::ZERO..=Duration::from_hours(24);
        assert_eq!(
            reader.seconds("t", day, Duration::ZERO),
            Duration::from_millis(1500)
        );
        assert_eq!(reader.bytes("size", 0..=u64::MAX, 0), 2 << 20);
        assert_eq!(reader.choice("mode", &[("a", 1), ("b", 2)], 0), 2);
        assert_eq!(reader.path("p").unwrap(), Path::new("/x y"));
        assert_eq!(reader.text("empty"), None);
        let variables = [("A", "2"), ("C", "3")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(reader.map("launcher.env."), variables);
    });
    assert!(!findings.has_errors(), "{findings}");
}

#[test]
fn of_equal_keys_in_a_section_the_last_one_counts() {
    let text = "[targets]\na = 1\nb = 2\n[other]\nc = 3\n[targets]\na = 4\nd\n[x] ;\n";
    let (targets, _) = reading(text, |reader| reader.section("targets"));
    let targets: Vec<_> = targets
        .iter()
        .map(|e| (e.key.as_str(), &e.value, e.line))
        .collect();
    let text = |text: &str| Value::Text(text.to_owned());
    let (two, four) = (text("2"), text("4"));
    assert_eq!(
        targets,
        [("b", &two, 3), ("a", &four, 7), ("d", &Value::True, 8)]
    );
}

#[test]
fn a_section_of_settings_is_read_with_the_same_getters() {
    let text = "mysql_host = h\ngrace = 5\nlauncher.env.A = 1\nnice = 1\n\
                [target:b]\ngrace = x\nlauncher.env.B = 2\nmysql_host = i\ngrase = 3\nlauncher.enw.C = 1\n\
                [target:a/low]\ngrace = 6\ngrace = 7\n[target:b]\nnice = 2\nhunter2\n[targets:b]\n[targt b]\n";
    let (values, findings) = reading(text, |reader| {
        let mut values = Vec::new();
        let mut settings = |reader: &mut Reader<'_>| {
            let grace = reader.integer("grace", 0..=9_usize, 4);
            values.push((grace, reader.integer("nice", 0..=9_usize, 0)));
            values.push((reader.map("launcher.env.").len(), 0));
        };
        settings(reader);
        for section in reader.sections_of("target:") {
            reader.within(&section.name, &mut settings);
        }
        reader.required_text("mysql_host");
        values
    });
    assert_eq!(values, [(5, 1), (1, 0), (4, 2), (1, 0), (7, 0), (0, 0)]);
    let lines: Vec<_> = findings.iter().map(|(_, line)| line).collect();
    let expected = [
        "6: grace must be a whole number from 0 to 9, not 'x'",
        "8: mysql_host is not read in [target:b]: move it above the first section",
        "9: unknown key grase, did you mean grace?",
        "10: unknown key launcher.enw.C, did you mean launcher.env.B?",
        "13: grace is set again, which overrides line 12",
        "16: no = on this line and no key that is known",
        "17: unknown section [targets:b], did you mean [target:b]?",
        "18: unknown section [targt b], did you mean [target:b]?",
    ];
    assert_eq!(lines, expected.map(|line| format!("/etc/jobd.conf:{line}")));
}

#[test]
fn the_shared_groups_have_the_defaults_of_the_reference() {
    let text = "host = 127.0.0.1\nport = 7080\n";
    let file = IniFile::parse(Path::new("x"), text);
    let mut reader = Reader::new(&file);
    let (listening, logging) = (listen(&mut reader), logs(&mut reader));
    assert!(reader.finish(&[]).is_empty());
    assert_eq!(
        (listening.host.as_str(), listening.port),
        ("127.0.0.1", 7080)
    );
    assert!(listening.access.password.is_none() && !listening.access.always_allow_localhost);
    assert_eq!(
        (logging.file_level, logging.console_level),
        (LogLevel::Warn, LogLevel::Warn)
    );
    assert_eq!(logging.file, None);
    // Written out, the defaults of the reference give the same settings.
    let defaults = |keys: &[Key]| {
        let given = keys
            .iter()
            .filter(|key| !["", "required"].contains(&key.default));
        let line = |key: &Key| [key.name, " = ", key.default.trim_matches('`')].concat();
        given.map(line).collect::<Vec<_>>().join("\n")
    };
    let text = format!("{text}{}\n{}", defaults(LISTEN_KEYS), defaults(LOG_KEYS));
    let file = IniFile::parse(Path::new("x"), &text);
    let mut reader = Reader::new(&file);
    let (written, written_logging) = (listen(&mut reader), logs(&mut reader));
    assert_eq!(format!("{written:?}"), format!("{listening:?}"));
    assert_eq!(written_logging, logging);
    let findings = reader.finish(&[]);
    assert!(findings.is_empty(), "{findings}");
}

#[test]
fn the_reference_is_a_markdown_table() {
    let page = "\
| key | value | default | meaning |
|---|---|---|---|
| `mysql_host` | text | *required* | Where the database is. |
| `mysql_password` | text | – | Only \\| for the test. |
| `launcher.env.*` | text | – | Variables. |
| `[targets] NAME` | integer | – | Targets. |
";
    assert_eq!(reference(&[&KEYS[..2], &KEYS[2..]]), page);
}

#[test]
fn the_reference_replaces_what_a_page_holds_between_its_marks() {
    let page = "# Config\n<!-- keys of jobd -->\nold\n<!-- end of keys -->\nend\n";
    let table = reference(&[KEYS]);
    let wanted = format!("# Config\n<!-- keys of jobd -->\n\n{table}\n<!-- end of keys -->\nend\n");
    let once = with_reference(page, "jobd", &[KEYS]).unwrap();
    assert_eq!(once, wanted);
    assert_eq!(with_reference(&once, "jobd", &[KEYS]).unwrap(), once);
    assert_eq!(with_reference(page, "jobctl", &[KEYS]), None);
}
