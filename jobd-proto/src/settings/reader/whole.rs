//! What only the whole file can show, once all that is known has been asked for: keys and sections that nobody reads.

use std::collections::BTreeMap;

use super::{Reader, is_spoilt_section};
use crate::settings::keys::near_match;
use crate::settings::{Entry, Findings, Key, Severity, Value};

impl Reader<'_> {
    /// Adds what only the whole file can show: keys and sections that neither `tables` nor a
    /// getter knows, repeated keys, and lines that were not read.
    pub fn finish(mut self, tables: &[&[Key]]) -> Findings {
        let keys: Vec<&Key> = tables.iter().copied().flatten().collect();
        for &(line, why) in self.file.oddities() {
            self.warn_at(Some(line), why);
        }
        self.find_unknown_sections(&keys);
        self.find_repeated();
        let file = self.file;
        for entry in file.entries() {
            self.judge(entry, &keys);
        }
        Findings::new(self.file.path(), self.found)
    }

    fn is_known_section(&self, name: &str, keys: &[&Key]) -> bool {
        self.sections.contains(name)
            || self.is_settings(name)
            || keys.iter().any(|key| key.section() == Some(name))
    }

    /// Whether a section holds settings, not names of the operator's own.
    fn is_settings(&self, name: &str) -> bool {
        let mut families = self.families.iter();
        families.any(|family| name.starts_with(family))
    }

    /// `[targets:mail]` for `[target:mail]`.
    fn near_family(&self, name: &str) -> Option<String> {
        let (family, rest) = name.split_once([':', ' '])?;
        let known = self.families.iter();
        let meant = near_match(family, known.map(|family| family.trim_end_matches(':')))?;
        Some(format!("{meant}:{}", rest.trim_start()))
    }

    fn find_unknown_sections(&mut self, keys: &[&Key]) {
        let file = self.file;
        for section in file.sections() {
            let name = &section.name;
            if self.is_known_section(name, keys) {
                continue;
            }
            let known = self.sections.iter().map(String::as_str);
            let known = known.chain(keys.iter().filter_map(|key| key.section()));
            let meant = self.near_family(name);
            let meant = meant.or_else(|| near_match(name, known).map(str::to_owned));
            let advice = match meant {
                Some(meant) => format!("did you mean [{meant}]?"),
                None => "nothing in it is read".to_owned(),
            };
            self.warn_at(
                Some(section.line),
                format!("unknown section [{name}], {advice}"),
            );
        }
    }

    fn find_repeated(&mut self) {
        let mut seen = BTreeMap::new();
        for entry in self.file.entries() {
            if is_spoilt_section(entry) {
                continue;
            }
            let Entry { section, key, .. } = entry;
            if let Some(earlier) = seen.insert((section, key), entry.line) {
                // A bare line may be a password that lost its key.
                let is_bare = entry.value == Value::True;
                let key = if is_bare { "this key" } else { key };
                let text = format!("{key} is set again, which overrides line {earlier}");
                self.note(Some(entry.line), Severity::Warning, text);
            }
        }
    }

    fn judge(&mut self, entry: &Entry, keys: &[&Key]) {
        if is_spoilt_section(entry) {
            let text = format!(
                "{} is read as a key, not as a section: leave nothing else on its line, \
                 no comment and no space",
                entry.key
            );
            return self.warn_at(Some(entry.line), text);
        }
        let is_key =
            self.is_read(None, &entry.key) || keys.iter().any(|key| key.describes(&entry.key));
        match &entry.section {
            None if !is_key => self.report_unknown(entry, keys),
            Some(name) if self.is_settings(name) => {
                let is_read = self.is_read(Some(name), &entry.key);
                match is_key {
                    _ if is_read => {}
                    true => {
                        let key = &entry.key;
                        let text = format!(
                            "{key} is not read in [{name}]: move it above the first section"
                        );
                        self.warn_at(Some(entry.line), text);
                    }
                    false => self.report_unknown(entry, &[]),
                }
            }
            Some(name)
                if is_key
                    && self.is_known_section(name, keys)
                    && !(is_number(entry) && is_plain_word(&entry.key)) =>
            {
                let key = &entry.key;
                let text = format!("{key} stands under [{name}]: move it above that line");
                self.warn_at(Some(entry.line), text);
            }
            _ => {}
        }
    }

    /// Whether a getter has asked for this key, there or outside all sections.
    fn is_read(&self, section: Option<&str>, key: &str) -> bool {
        let here = |(place, _): &&(Option<String>, String)| place.as_deref() == section;
        let mut asked = self.asked.iter().filter(here);
        let mut prefixes = self.prefixes.iter().filter(here);
        asked.any(|(_, asked)| asked == key)
            || prefixes.any(|(_, prefix)| key.len() > prefix.len() && key.starts_with(prefix))
    }

    fn report_unknown(&mut self, entry: &Entry, keys: &[&Key]) {
        let key = name_to_show(entry);
        let asked = self.asked.iter();
        let known = asked.filter(|(place, _)| *place == entry.section);
        let known = known.map(|(_, key)| key.as_str());
        let known = known.chain(keys.iter().map(|key| key.name));
        let text = match (near_match(key, known), &entry.value) {
            (Some(meant), Value::True) => {
                format!("no = on this line, did you mean {meant} = …?")
            }
            // The line may be a password that lost its key, so nothing of it is shown.
            (None, Value::True) => "no = on this line and no key that is known".to_owned(),
            (Some(meant), _) => format!("unknown key {key}, did you mean {meant}?"),
            (None, _) => format!("unknown key {key}"),
        };
        self.warn_at(Some(entry.line), text);
    }
}

/// What people call their own things too; `poll_interval` is hardly ever meant as a target.
fn is_plain_word(key: &str) -> bool {
    !key.contains(['_', '.'])
}

fn is_number(entry: &Entry) -> bool {
    matches!(&entry.value, Value::Text(text) if text.parse::<i64>().is_ok())
}

/// Of a bare line only its first word: `password hunter2` is a key that lost its `=`.
fn name_to_show(entry: &Entry) -> &str {
    if entry.value != Value::True {
        return &entry.key;
    }
    let ends = |c: char| !(c.is_alphanumeric() || "_-.".contains(c));
    entry.key.split(ends).next().unwrap_or_default()
}
