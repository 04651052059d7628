//! How two readings of a config file differ, by key. Judges nothing.

use std::collections::BTreeMap;

use super::{IniFile, Value};

/// A key outside all sections whose value differs, or which only one of the files sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// The former value as it stood in the file, for messages; `unset` for none and `…` for that of a key
    /// which may be secret.
    pub before: String,
}

/// The keys outside all sections that differ, in alphabetical order. Of equal keys the last one counts, and
/// only the text is compared: `5` and `5s` differ.
pub fn changes(before: &IniFile, after: &IniFile) -> Vec<Change> {
    let (before, after) = (set(before), set(after));
    let mut keys: Vec<&str> = before.keys().chain(after.keys()).copied().collect();
    keys.sort_unstable();
    keys.dedup();
    keys.retain(|key| before.get(key) != after.get(key));
    let change = |key: &str| Change {
        key: key.to_owned(),
        before: match before.get(key) {
            None => "unset".to_owned(),
            Some(_) if is_secret(key) => "…".to_owned(),
            Some(Value::Text(text)) => text.clone(),
            Some(_) => "set".to_owned(),
        },
    };
    keys.into_iter().map(change).collect()
}

fn set(file: &IniFile) -> BTreeMap<&str, &Value> {
    let global = file
        .entries()
        .iter()
        .filter(|entry| entry.section.is_none());
    let mut set: BTreeMap<&str, &Value> = global
        .map(|entry| (entry.key.as_str(), &entry.value))
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
            "port = 1\nlease = 5\nlease = 30\nmysql_password = s3cret\nname =\nlog_file = a\n[targets]\na = 1\n",
        );
        let after = file(
            "lease=30 ; the same\nport = 2\nmysql_password = other\nhost = h\n[targets]\na = 2\nport = 3\n",
        );
        let found: Vec<_> = changes(&before, &after)
            .into_iter()
            .map(|change| format!("{}: {}", change.key, change.before))
            .collect();
        assert_eq!(
            found,
            ["host: unset", "log_file: a", "mysql_password: …", "port: 1"]
        );
        assert_eq!(changes(&after, &after), []);
    }
}
