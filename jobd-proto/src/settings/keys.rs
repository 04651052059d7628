//! The description of config keys: one table for the reference and for misspelt keys.

use std::fmt::Write;

/// One row of the config reference.
///
/// A `name` that ends with `*` stands for every key with that beginning (`launcher.env.*`); one
/// that begins with `[` opens a section whose keys are the operator's own (`[targets] NAME`).
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The key as it is written in the file.
    pub name: &'static str,
    /// What may stand there: `text`, `integer`, `seconds`, `1 or 0`, `off, preferred, required`.
    pub kind: &'static str,
    /// What counts without it, or `required`.
    pub default: &'static str,
    /// What it does, for operators, in a sentence or two.
    pub doc: &'static str,
}

impl Key {
    /// The name of the section, where this row describes one.
    pub(super) fn section(&self) -> Option<&'static str> {
        let (name, _) = self.name.strip_prefix('[')?.split_once(']')?;
        Some(name)
    }

    /// Whether a key outside any section is the one described here.
    pub(super) fn describes(&self, key: &str) -> bool {
        match self.name.strip_suffix('*') {
            Some(prefix) => key.len() > prefix.len() && key.starts_with(prefix),
            None => self.name == key,
        }
    }
}

/// The reference of `tables` as a Markdown table with a heading row, for docs/CONFIG.md.
pub fn reference(tables: &[&[Key]]) -> String {
    let mut page = String::from("| key | value | default | meaning |\n|---|---|---|---|\n");
    for key in tables.iter().copied().flatten() {
        let cell = |text: &str| text.replace('|', "\\|");
        let code = |text: &str| match text {
            "" => "–".to_owned(),
            "required" => "*required*".to_owned(),
            text => format!("`{}`", cell(text)),
        };
        let Key {
            name, kind, doc, ..
        } = key;
        let (name, default) = (code(name), code(key.default));
        // Writing to a string cannot fail.
        let _ = writeln!(
            page,
            "| {name} | {} | {default} | {} |",
            cell(kind),
            cell(doc)
        );
    }
    page
}

/// The name among `known` that somebody who wrote `wrong` most likely meant.
///
/// Case and `-` for `_` do not count; of the rest about one letter in four may differ.
pub(super) fn near_match<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Nobody misspells a page of text, and the comparison takes the square of the length.
    const LONGEST: usize = 64;
    if wrong.len() > LONGEST {
        return None;
    }
    let fold = |text: &str| text.to_lowercase().replace('-', "_");
    let folded = fold(wrong);
    let allowed = (folded.chars().count() / 4).clamp(1, 3);
    known
        .map(|name| (strsim::osa_distance(&folded, &fold(name)), name))
        .filter(|&(distance, _)| distance <= allowed)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, name)| name)
}
