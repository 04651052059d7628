//! What docs/JOBCTL.md says of `--json`, against what every command has answered: tests/fixtures/jobctl, which
//! `commands.rs` compares with the real ones. A key that is not documented fails, and a documented one that no answer
//! has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

const PAGE: &str = include_str!("../../docs/JOBCTL.md");

/// Commands whose `--json` changes nothing, or is described elsewhere.
const OTHERS: [&str; 5] = ["completions", "follow", "help", "man", "top"];

/// A value as the page writes it down.
#[derive(Clone, Debug, PartialEq)]
enum Shape {
    /// `{"key", "key"?: VALUE}`: by key, whether it may be missing, and what it holds.
    Keys(BTreeMap<String, (bool, Shape)>),
    /// `{ID: VALUE}`: any keys.
    Map(Box<Shape>),
    /// `[VALUE]`
    List(Box<Shape>),
    /// A name of something that is written down elsewhere, or of a simple value.
    Named(String),
}

/// Reads a shape from the front of `text`; what stands behind it is left there.
fn shape(text: &mut &str) -> Shape {
    let first = one_shape(text);
    let mut shapes = vec![first];
    while let Some(rest) = text.trim_start().strip_prefix('|') {
        *text = rest;
        shapes.push(one_shape(text));
    }
    // Of a choice what has parts is looked at.
    let has_parts = |shape: &Shape| !matches!(shape, Shape::Named(_));
    let place = shapes.iter().position(has_parts).unwrap_or(0);
    shapes.swap_remove(place)
}

fn one_shape(text: &mut &str) -> Shape {
    *text = text.trim_start();
    if let Some(rest) = text.strip_prefix('[') {
        *text = rest;
        let list = Shape::List(Box::new(shape(text)));
        expect(text, ']');
        return list;
    }
    let Some(rest) = text.strip_prefix('{') else {
        return Shape::Named(word(text));
    };
    *text = rest;
    let mut keys = BTreeMap::new();
    loop {
        let is_key = text.trim_start().starts_with('"');
        let name = word(text);
        let optional = accept(text, '?');
        let value = if accept(text, ':') {
            shape(text)
        } else {
            Shape::Named(String::new())
        };
        if !is_key {
            expect(text, '}');
            return Shape::Map(Box::new(value));
        }
        keys.insert(name, (optional, value));
        if !accept(text, ',') {
            expect(text, '}');
            return Shape::Keys(keys);
        }
    }
}

/// `"key"` or `NAME`.
fn word(text: &mut &str) -> String {
    *text = text.trim_start();
    let (quoted, rest) = match text.strip_prefix('"') {
        Some(rest) => (true, rest),
        None => (false, *text),
    };
    let is_end = |char: char| {
        if quoted {
            char == '"'
        } else {
            !char.is_alphanumeric() && char != '_'
        }
    };
    let end = rest.find(is_end).unwrap_or(rest.len());
    assert!(end > 0, "a name is missing at {rest:?}");
    *text = &rest[end + usize::from(quoted)..];
    rest[..end].to_owned()
}

fn accept(text: &mut &str, char: char) -> bool {
    let rest = text.trim_start().strip_prefix(char);
    rest.inspect(|rest| *text = rest).is_some()
}

fn expect(text: &mut &str, char: char) {
    assert!(accept(text, char), "{char} is missing at {text:?}");
}

/// The code of a piece of the page: what stands between backticks.
fn code(text: &str) -> Vec<String> {
    let code = text.split('`').skip(1).step_by(2);
    code.map(|code| code.replace("\\|", "|").replace('\n', " "))
        .collect()
}

/// What the page says: the line of each command with its shapes, and those with a name.
struct Page {
    commands: BTreeMap<String, (String, Vec<Shape>)>,
    named: BTreeMap<String, Shape>,
}

impl Page {
    fn read() -> Self {
        let (_, json) = PAGE.split_once("\n## JSON\n").expect("a part about JSON");
        let mut page = Self {
            commands: BTreeMap::new(),
            named: BTreeMap::new(),
        };
        for line in json.lines().filter(|line| line.starts_with("| `")) {
            let (names, says) = line[2..].split_once(" | ").expect("two cells");
            let mut shapes = Vec::new();
            let mut pieces = says.split('`');
            while let (Some(before), Some(code)) = (pieces.next(), pieces.next()) {
                let code = code.replace("\\|", "|");
                match before.strip_suffix(" being ") {
                    Some(before) => page.define(before, &code),
                    None if code.starts_with('{') || code == "ROW" => {
                        shapes.push(shape(&mut &*code));
                    }
                    None => {}
                }
            }
            for name in code(names) {
                page.commands
                    .insert(name, (names.to_owned(), shapes.clone()));
            }
        }
        let items = json.split("\n- ").skip(1);
        for item in items.filter_map(|item| item.split_once(" is")) {
            let code = code(item.1).swap_remove(0);
            page.define(item.0, &code);
        }
        page
    }

    /// The last word of `before` is the name of this.
    fn define(&mut self, before: &str, code: &str) {
        let name = before.split(' ').next_back().unwrap_or_default();
        self.named.insert(name.to_owned(), shape(&mut &*code));
    }

    /// Holds a value against its shape: what is wrong with it, or the paths of its keys. `at` is where it stands.
    fn hold(
        &self,
        value: &Value,
        shape: &Shape,
        at: &str,
        seen: &mut BTreeSet<String>,
    ) -> Result<(), String> {
        match (value, shape) {
            (_, Shape::Named(name)) => match self.named.get(name) {
                Some(shape) => self.hold(value, shape, name, seen),
                None if value.is_object() => Err(format!("{at}: {value} is not documented")),
                None => Ok(()),
            },
            (Value::Null, _) => Ok(()),
            (Value::Array(values), Shape::List(shape)) => values
                .iter()
                .try_for_each(|value| self.hold(value, shape, at, seen)),
            (Value::Object(members), Shape::Map(shape)) => members
                .values()
                .try_for_each(|value| self.hold(value, shape, at, seen)),
            (Value::Object(members), Shape::Keys(keys)) => {
                for (name, value) in members {
                    let at = format!("{at}.{name}");
                    let (_, shape) = keys
                        .get(name)
                        .ok_or_else(|| format!("{at} is not documented"))?;
                    self.hold(value, shape, &at, seen)?;
                    seen.insert(at);
                }
                let missing = keys
                    .iter()
                    .find(|(name, (optional, _))| !optional && !members.contains_key(*name));
                missing.map_or(Ok(()), |(name, _)| Err(format!("{at}.{name} is missing")))
            }
            _ => Err(format!("{at}: {value} is not {shape:?}")),
        }
    }

    /// The paths of all keys of a shape.
    fn paths(&self, shape: &Shape, at: &str, paths: &mut BTreeSet<String>) {
        match shape {
            Shape::Named(name) => {
                if let Some(shape) = self.named.get(name) {
                    self.paths(shape, name, paths);
                }
            }
            Shape::List(shape) | Shape::Map(shape) => self.paths(shape, at, paths),
            Shape::Keys(keys) => {
                for (name, (_, shape)) in keys {
                    let at = format!("{at}.{name}");
                    self.paths(shape, &at, paths);
                    paths.insert(at);
                }
            }
        }
    }
}

/// The values that a command has answered with.
fn answers(file: &str) -> Vec<Value> {
    let parts = file.split("\n--- Json: ").skip(1);
    let values = parts.flat_map(|part| {
        let lines = part.lines().skip(1);
        let lines = lines.take_while(|line| !line.starts_with("=== "));
        let lines = lines.filter(|line| !line.starts_with("stderr: "));
        let text: Vec<&str> = lines.collect();
        let values = serde_json::Deserializer::from_str(&text.join("\n"))
            .into_iter()
            .collect::<Vec<_>>();
        values.into_iter().map(|value| value.expect("JSON"))
    });
    values.collect()
}

#[test]
fn json_has_the_documented_keys_and_no_others() {
    let page = Page::read();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/jobctl");
    let (mut seen, mut documented) = (BTreeSet::new(), BTreeSet::new());
    let mut found = BTreeSet::new();
    for file in std::fs::read_dir(folder).expect("the answers") {
        let path = file.expect("a file").path();
        let name = path
            .file_stem()
            .and_then(|name| name.to_str())
            .expect("a name")
            .to_owned();
        found.insert(name.clone());
        if OTHERS.contains(&name.as_str()) {
            continue;
        }
        let line = page.commands.get(&name);
        let (at, shapes) =
            line.unwrap_or_else(|| panic!("the table of docs/JOBCTL.md lacks {name}"));
        assert!(!shapes.is_empty(), "{name} has no value there");
        let text = std::fs::read_to_string(&path).expect("answers");
        for value in answers(&text) {
            let held = shapes.iter().map(|shape| {
                let mut keys = BTreeSet::new();
                page.hold(&value, shape, at, &mut keys).map(|()| keys)
            });
            let held: Vec<_> = held.collect();
            let fits = held.iter().flatten().next();
            seen.extend(
                fits.unwrap_or_else(|| panic!("{held:?} in {value:#}"))
                    .iter()
                    .cloned(),
            );
        }
        for shape in shapes {
            page.paths(shape, at, &mut documented);
        }
    }
    let unseen: Vec<&String> = documented.difference(&seen).collect();
    assert_eq!(
        unseen, [""; 0],
        "documented, and in no answer of tests/fixtures/jobctl"
    );
    assert!(documented.len() > 100, "{documented:?}");
    let known = page.commands.keys().cloned();
    let known: BTreeSet<String> = known.chain(OTHERS.map(str::to_owned)).collect();
    assert_eq!(
        known, found,
        "the commands of the page, and those with answers"
    );
}
