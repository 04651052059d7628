//! Config values read as npm's `ini` 2.0 reads them: a table of cases with what we expect, and
//! random texts. Where npm is there, the real package reads both and has to agree.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use jobd_proto::settings::{IniFile, Value};

/// What a program sees: `section/key` to value, unset keys left out.
type Seen = BTreeMap<String, String>;

/// A text, and the pairs that are read from it.
type Case = (&'static str, &'static [(&'static str, &'static str)]);

const CASES: &[Case] = &[
    ("k = v", &[("/k", "v")]),
    ("k=v\r\nl=w\r\n", &[("/k", "v"), ("/l", "w")]),
    ("k=v\rl=w", &[("/k", "v"), ("/l", "w")]),
    ("  k \t=\u{a0} v ", &[("/k", "v")]),
    ("k = a=b==", &[("/k", "a=b==")]),
    ("k = 1\nk = 2", &[("/k", "2")]),
    ("k = 1\nk =", &[]),
    // Nothing and everything that means it.
    ("k =", &[]),
    ("k = \"\"", &[]),
    ("k = ''", &[]),
    ("k = '", &[]),
    ("k = null", &[]),
    ("k = \"null\"", &[]),
    ("k = 'null'", &[]),
    ("k = ; nothing", &[]),
    ("k = NULL", &[("/k", "NULL")]),
    ("k", &[("/k", "true")]),
    ("k = true", &[("/k", "true")]),
    ("k = 'false'", &[("/k", "false")]),
    ("= v", &[]),
    // Comments.
    ("; k = v\n# l = w\n \t;m = x", &[]),
    ("k = 30 ; seconds", &[("/k", "30")]),
    ("k = 30;sec", &[("/k", "30")]),
    ("k = pass#word", &[("/k", "pass")]),
    ("k = a\\;b\\#c", &[("/k", "a;b#c")]),
    ("k = 'it' ; said", &[("/k", "'it'")]),
    ("k = \"a;b\" # c", &[("/k", "\"a")]),
    ("k;x = v", &[("/k", "v")]),
    // Backslashes.
    ("k = C:\\temp\\new", &[("/k", "C:\\temp\\new")]),
    ("k = App\\\\Job", &[("/k", "App\\Job")]),
    ("k = end\\", &[("/k", "end\\")]),
    ("k = end\\\nl = w", &[("/k", "end\\"), ("/l", "w")]),
    ("k = \\\\\\;x ; y", &[("/k", "\\;x")]),
    // Quotes.
    ("k = \" a;b#c \"", &[("/k", " a;b#c ")]),
    ("k = \"a\\nb\\u00e9\\\"\"", &[("/k", "a\nb\u{e9}\"")]),
    ("k = \"C:\\temp\\x\"", &[("/k", "\"C:\\temp\\x\"")]),
    ("k = \"a\"b\"", &[("/k", "\"a\"b\"")]),
    ("k = \"", &[("/k", "\"")]),
    ("k = ' a;b#c '", &[("/k", " a;b#c ")]),
    ("k = 'it's'", &[("/k", "it's")]),
    ("k = '\"x\\ty\"'", &[("/k", "x\ty")]),
    ("k = '   '", &[("/k", "   ")]),
    ("k = 'a\\;b'", &[("/k", "a\\;b")]),
    ("k = '007'", &[("/k", "007")]),
    ("k = '1e3'", &[("/k", "1000")]),
    ("k = ' 1.50 '", &[("/k", "1.5")]),
    ("k = '-0'", &[("/k", "0")]),
    (
        "k = '12345678901234567890'",
        &[("/k", "12345678901234567000")],
    ),
    ("k = '1e21'", &[("/k", "1e+21")]),
    ("k = '0.00000012'", &[("/k", "1.2e-7")]),
    ("k = a \"b\" 'c'", &[("/k", "a \"b\" 'c'")]),
    ("\"k = 1\" = v", &[("/\"k", "1\" = v")]),
    ("'k' = v", &[("/k", "v")]),
    // Keys with dots, slashes and colons.
    (
        "launcher.env.LC_ALL = en_US.UTF-8",
        &[("/launcher.env.LC_ALL", "en_US.UTF-8")],
    ),
    (
        "[targets]\n1/low = 2\nmail:high = 3",
        &[("targets/1/low", "2"), ("targets/mail:high", "3")],
    ),
    // Sections, and what only looks like one.
    (
        "k=1\n[s]\nk=2\n[t]\nk=3",
        &[("/k", "1"), ("s/k", "2"), ("t/k", "3")],
    ),
    (
        "[s]\na=1\n[t]\n[s]\nb=2\na=3",
        &[("s/a", "3"), ("s/b", "2")],
    ),
    ("[ s ]\nk=1", &[("s/k", "1")]),
    ("['s']\nk=1", &[("s/k", "1")]),
    ("[s;t]\nk=1", &[("s/k", "1")]),
    ("[s] ; comment\nk=1", &[("/[s]", "true"), ("/k", "1")]),
    ("[s] \nk=1", &[("/[s]", "true"), ("/k", "1")]),
    (" [s]\nk=1", &[("/[s]", "true"), ("/k", "1")]),
    ("[s]=x\nk=1", &[("/[s]", "x"), ("/k", "1")]),
    ("[a]b]\nk=1", &[("/[a]b]", "true"), ("/k", "1")]),
    ("[]\nk=1", &[("/k", "1")]),
    ("[", &[("/[", "true")]),
    // Bytes at the edge.
    ("\u{feff}k = v", &[("/k", "v")]),
    ("\u{feff}; comment\nk = v", &[("/k", "v")]),
    ("k = a\u{2028}b\nl = 1", &[("/l", "1")]),
    ("k = \u{3000}v\u{feff}", &[("/k", "v")]),
    ("k = \u{85}v", &[("/k", "\u{85}v")]),
    ("k = caf\u{e9} \u{1f600}", &[("/k", "caf\u{e9} \u{1f600}")]),
    ("k = a\u{0}b\u{1b}", &[("/k", "a\u{0}b\u{1b}")]),
    ("k[] = 1", &[("/k", "1")]),
    ("k[] = 1\nk[] = 2", &[("/k", "2")]),
    ("[] = 1", &[("/[]", "1")]),
];

#[test]
fn every_value_reads_as_written_in_the_table() {
    for (text, pairs) in CASES {
        let wanted: Seen = pairs
            .iter()
            .map(|(k, v)| ((*k).into(), (*v).into()))
            .collect();
        assert_eq!(read(text), wanted, "{text:?}");
    }
}

#[test]
fn npm_reads_the_table_and_random_texts_alike() {
    let seed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .subsec_nanos();
    let mut texts: Vec<String> = CASES.iter().map(|(text, _)| (*text).to_owned()).collect();
    texts.extend(random_texts(u64::from(seed), 5_000));
    let Some(theirs) = npm_reads(&texts) else {
        return eprintln!("left out: npm or its package ini 2.0.0 is not to be had here");
    };
    assert_eq!(theirs.len(), texts.len());
    for (text, theirs) in texts.iter().zip(theirs) {
        assert_eq!(
            read(text),
            theirs,
            "seed {seed}: {text:?} (left: we, right: npm)"
        );
    }
}

#[test]
fn lines_are_counted_as_editors_count_them() {
    let text = "\u{feff}; one\r\n\r\nk = 1\n[s]\r\n\n l = 2 \nbare";
    let file = IniFile::parse(Path::new("x"), text);
    let lines: Vec<_> = file
        .entries()
        .iter()
        .map(|e| (e.key.as_str(), e.line))
        .collect();
    assert_eq!(lines, [("k", 3), ("l", 6), ("bare", 7)]);
    assert_eq!(file.sections()[0].line, 4);
}

#[test]
fn lines_that_are_dropped_or_bent_are_remembered() {
    let check = |text: &str, lines: &[u32]| {
        let file = IniFile::parse(Path::new("x"), text);
        let odd: Vec<u32> = file.oddities().iter().map(|(line, _)| *line).collect();
        assert_eq!(odd, lines, "{text:?}");
    };
    check("k = 1\n= 2\n'' = 3\n;x = 4", &[2, 3]);
    check("k[] = 1\n\nl = a\u{2028}b", &[1, 3]);
    check("# caf\u{fffd}\nk = caf\u{fffd}", &[2]);
    check("\u{feff}[s]\n \t\n\n# c\nk = v\nbare", &[]);
}

#[test]
fn files_that_are_none_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let missing = IniFile::read(&folder.path().join("none")).unwrap_err();
    assert!(missing.is_missing(), "{missing}");
    let device = IniFile::read(Path::new("/dev/zero")).unwrap_err();
    assert!(!device.is_missing(), "{device}");
    assert!(device.to_string().contains("larger than"), "{device}");
    let latin1 = folder.path().join("latin1");
    std::fs::write(&latin1, b"# caf\xe9\nk = v").unwrap();
    assert_eq!(IniFile::read(&latin1).unwrap().entries().len(), 1);
}

fn read(text: &str) -> Seen {
    let file = IniFile::parse(Path::new("x"), text);
    let mut seen = Seen::new();
    for entry in file.entries() {
        let name = format!(
            "{}/{}",
            entry.section.as_deref().unwrap_or_default(),
            entry.key
        );
        match &entry.value {
            Value::Unset => seen.remove(&name),
            Value::True => seen.insert(name, "true".to_owned()),
            Value::Text(text) => seen.insert(name, text.clone()),
        };
    }
    seen
}

/// Lines of signs that mean something, without those few on which we differ on purpose.
fn random_texts(seed: u64, count: usize) -> impl Iterator<Item = String> {
    const SIGNS: &[char] = &[
        'k',
        'k',
        'l',
        '=',
        '=',
        '=',
        ';',
        '#',
        '\\',
        '"',
        '\'',
        ' ',
        '\t',
        '1',
        '0',
        'e',
        '-',
        '.',
        ':',
        '\u{a0}',
        '\u{feff}',
        '\u{85}',
        '\u{2028}',
        '\u{e9}',
        '\u{1f600}',
        '\n',
        '\r',
        ']',
        '{',
        '\u{0}',
    ];
    let mut state = seed;
    let mut random = move |below: usize| {
        // Knuth's linear congruence; the upper half is random enough for this.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(state >> 33).unwrap() % below
    };
    let text = move || {
        let mut text = ["", "k=", "k='", "k=\"", "[s]\nk="][random(5)].to_owned();
        for _ in 0..random(16) {
            text.push(SIGNS[random(SIGNS.len())]);
        }
        text.push_str(["", "'", "\"", "\nl=1"][random(4)]);
        text
    };
    std::iter::repeat_with(text)
        .filter(|text| is_comparable(text))
        .take(count)
}

/// A dotted key that is null moves into an object there; JSON objects are objects there.
fn is_comparable(text: &str) -> bool {
    let file = IniFile::parse(Path::new("x"), text);
    let is_plain = |entry: &jobd_proto::settings::Entry| match &entry.value {
        Value::Text(text) => !text.trim().starts_with('{'),
        Value::Unset => !entry.key.contains('.'),
        Value::True => true,
    };
    file.entries().iter().all(is_plain)
}

const NPM_SCRIPT: &str = r"
const ini = require('ini');
const texts = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const answer = texts.map(text => {
  const seen = {};
  const put = (section, key, value) => {
    if (Array.isArray(value)) value = value[value.length - 1];
    if (value !== null && value !== '' && key !== '') seen[section + '/' + key] = String(value);
  };
  const file = ini.parse(text);
  for (const key of Object.keys(file)) {
    const value = file[key];
    if (value !== null && typeof value === 'object' && !Array.isArray(value))
      for (const inner of Object.keys(value)) put(key, inner, value[inner]);
    else put('', key, value);
  }
  return seen;
});
process.stdout.write(JSON.stringify(answer));
";

/// What the real package makes of each text; `None` without npm, node or a way to the package.
fn npm_reads(texts: &[String]) -> Option<Vec<Seen>> {
    let folder = tempfile::tempdir().unwrap();
    let install = ["install", "--no-audit", "--no-fund", "--ignore-scripts"];
    let limits = ["--fetch-retries=0", "--fetch-timeout=20000"];
    let mut npm = Command::new("npm");
    npm.args(install)
        .args(limits)
        .arg("--prefix")
        .arg(folder.path())
        .arg("ini@2.0.0");
    match npm.current_dir(folder.path()).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            eprintln!("npm: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => panic!("npm cannot be started: {error}"),
    }
    let mut node = Command::new("node")
        .args(["-e", NPM_SCRIPT])
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let question = serde_json::to_vec(texts).unwrap();
    node.stdin.take().unwrap().write_all(&question).unwrap();
    let output = node.wait_with_output().unwrap();
    assert!(output.status.success());
    Some(serde_json::from_slice(&output.stdout).unwrap())
}
