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
    /// What may stand there, in Markdown: text, integer, time, size, path, or the words.
    pub kind: &'static str,
    /// What counts without it, in Markdown; empty for nothing, or the word `required`.
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
    pub fn describes(&self, key: &str) -> bool {
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
        let default = match key.default {
            "" => "–".to_owned(),
            "required" => "*required*".to_owned(),
            default => cell(default),
        };
        let (name, kind, doc) = (cell(key.name), cell(key.kind), cell(key.doc));
        // Writing to a string cannot fail.
        let _ = writeln!(page, "| `{name}` | {kind} | {default} | {doc} |");
    }
    page
}

/// `page` with the reference of `tables` between the lines `<!-- keys of PROGRAM -->` and
/// `<!-- end of keys -->`, in place of what stands there; `None` where the page lacks them.
///
/// A test of each program compares docs/CONFIG.md with this, so that the page cannot grow old.
pub fn with_reference(page: &str, program: &str, tables: &[&[Key]]) -> Option<String> {
    let opening = format!("<!-- keys of {program} -->\n");
    let (before, rest) = page.split_once(&opening)?;
    let (_, after) = rest.split_once(END_OF_KEYS)?;
    let table = reference(tables);
    Some(format!("{before}{opening}\n{table}\n{END_OF_KEYS}{after}"))
}

const END_OF_KEYS: &str = "<!-- end of keys -->";

/// The name among `known` that somebody who wrote `wrong` most likely meant.
///
/// Case and `-` for `_` do not count; of the rest about one letter in four may differ.
pub fn near_match<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
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
