//! How two readings of a config file differ, by key. Judges nothing. Sections that list things (`[targets]`) are
//! their reader's matter; those that hold the settings of one thing have a colon in their names (`[target:mail]`).

use std::collections::BTreeMap;

use super::{IniFile, Value};

/// A key whose value differs, or which only one of the files sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key, behind its section where it stands in one: `[target:mail] launcher`.
    pub key: String,
    /// The former value as it stood in the file, for messages; `unset` for none and `…` for that of a key
    /// which may be secret.
    pub before: String,
}

/// The keys that differ, in alphabetical order. Of equal keys the last one counts, and
/// only the text is compared: `5` and `5s` differ.
pub fn changes(before: &IniFile, after: &IniFile) -> Vec<Change> {
    let (before, after) = (set(before), set(after));
    let mut keys: Vec<&Place<'_>> = before.keys().chain(after.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.retain(|key| before.get(*key) != after.get(*key));
    let change = |place: &Place<'_>| Change {
        key: match place {
            (None, key) => (*key).to_owned(),
            (Some(section), key) => format!("[{section}] {key}"),
        },
        before: match before.get(place) {
            None => "unset".to_owned(),
            Some(_) if is_secret(place.1) => "…".to_owned(),
            Some(Value::Text(text)) => text.clone(),
            Some(_) => "set".to_owned(),
        },
    };
    keys.into_iter().map(change).collect()
}

/// The section of a key, if any, and the key.
type Place<'a> = (Option<&'a str>, &'a str);

fn set(file: &IniFile) -> BTreeMap<Place<'_>, &Value> {
    let settings = file.entries().iter().filter(|entry| {
        let section = entry.section.as_ref();
        section.is_none_or(|section| section.contains(':'))
    });
    let mut set: BTreeMap<Place<'_>, &Value> = settings
        .map(|entry| ((entry.section.as_deref(), entry.key.as_str()), &entry.value))
        .collect();
    set.retain(|_, value| **value != Value::Unset);
    set
}

/// Passwords, and what jobs find in their environment.
fn is_secret(key: &str) -> bool {
    key.contains("password") || key.starts_with("launcher.env.")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_differs_is_named_with_its_former_value_and_secrets_are_not_shown() {
        let file = |text| IniFile::parse(Path::new("x"), text);
        let before = file(
            "port = 1\nlease = 5\nlease = 30\nmysql_password = s3cret\nname =\nlog_file = a\n[targets]\na = 1\n\
             [target:a]\nnice = 1\nlauncher.env.A = s3cret\n",
        );
        let after = file(
            "lease=30 ; the same\nport = 2\nmysql_password = other\nhost = h\n[targets]\na = 2\nport = 3\n\
             [target:a]\nnice = 1\numask = 7\n",
        );
        let found: Vec<_> = changes(&before, &after)
            .into_iter()
            .map(|change| format!("{}: {}", change.key, change.before))
            .collect();
        assert_eq!(
            found,
            [
                "host: unset",
                "log_file: a",
                "mysql_password: …",
                "port: 1",
                "[target:a] launcher.env.A: …",
                "[target:a] umask: unset"
            ]
        );
        assert_eq!(changes(&after, &after), []);
    }
}
