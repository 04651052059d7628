//! Tables of one line a row: cut where the terminal ends, coloured by the row.

use comfy_table::{
    CellAlignment, ColumnConstraint, ContentArrangement, Row, Table as Layout, presets,
};

use super::text::plain;

/// Least columns that a table is laid out for; below, a terminal wraps anyway.
const LEAST_WIDTH: u16 = 40;

/// Columns of content up to which a column stays whole; longer ones are cut to make room.
const NARROW: u16 = 8;

/// Characters of a cell that are laid out: more than a line of any terminal has.
const MOST_CHARS: usize = 1_000;

/// Blanks between two columns.
const PADDING: u16 = 2;

/// What the colour of a row or word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
    Strong,
}

impl Tone {
    /// `text` in this tone, on a screen with colours.
    pub(super) fn paint(self, text: &str, colour: bool) -> String {
        let code = match self {
            Self::Good => "32",
            Self::Warning => "33",
            Self::Bad => "31",
            Self::Strong => "1",
            Self::Plain => "",
        };
        if colour && !code.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// A table to be shown. Its cells may hold anything: control characters are made visible.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    header: Vec<String>,
    numbers: Vec<usize>,
    spare: &'static [&'static str],
    rows: Vec<(Tone, Vec<String>)>,
}

impl Table {
    /// A table with these columns; those whose name begins with `>` hold numbers.
    pub(crate) fn new<T: AsRef<str>>(header: &[T]) -> Self {
        let names = || header.iter().map(AsRef::as_ref);
        let numbers = names()
            .enumerate()
            .filter(|(_, name)| name.starts_with('>'))
            .map(|(at, _)| at);
        Self {
            numbers: numbers.collect(),
            header: names()
                .map(|name| plain(name.trim_start_matches('>')))
                .collect(),
            spare: &[],
            rows: Vec::new(),
        }
    }

    /// The same with columns that are left out, the first of them first, where a terminal is too narrow
    /// for all.
    pub(crate) fn sparing(self, spare: &'static [&'static str]) -> Self {
        Self { spare, ..self }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, tone: Tone, cells: &[String]) {
        self.rows
            .push((tone, cells.iter().map(|cell| plain(cell)).collect()));
    }

    /// Header and rows with a tab between cells, for programs; cells hold no tabs of their own.
    pub(super) fn tab_separated(&self) -> String {
        let rows = self.rows.iter().map(|(_, cells)| cells.join("\t") + "\n");
        self.header.join("\t") + "\n" + &rows.collect::<String>()
    }

    /// What is laid out: of each cell as much as a line may show, as what is cut anyway should cost nothing.
    fn layout(&self) -> Layout {
        let mut layout = Layout::new();
        layout
            .load_style(presets::NOTHING)
            .set_truncation_indicator("…");
        layout.set_header(one_line(self.header.iter().map(String::as_str)));
        let beginning = |cell: &'_ String| -> String { cell.chars().take(MOST_CHARS).collect() };
        for (_, cells) in &self.rows {
            let cells: Vec<String> = cells.iter().map(beginning).collect();
            layout.add_row(one_line(cells.iter().map(String::as_str)));
        }
        layout
    }

    /// The lines with a newline each, at most `width` columns wide.
    pub(super) fn render(&self, width: u16, colour: bool) -> String {
        let mut layout = self.layout();
        // The padding behind the last column is trimmed, so it may stand out.
        layout
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width.max(LEAST_WIDTH) + PADDING);
        let widths = layout.column_max_content_widths();
        let names: Vec<&str> = self.header.iter().map(String::as_str).collect();
        let kept = kept(&names, &widths, self.spare, width.max(LEAST_WIDTH));
        for (at, column) in layout.column_iter_mut().enumerate() {
            if !kept.contains(&at) {
                column.set_constraint(ColumnConstraint::Hidden);
            } else if widths.get(at).is_some_and(|width| *width <= NARROW) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
            column.set_padding((0, PADDING));
            if self.numbers.contains(&at) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let tones = std::iter::once(Tone::Strong).chain(self.rows.iter().map(|(tone, _)| *tone));
        layout
            .lines()
            .zip(tones)
            .map(|(line, tone)| tone.paint(line.trim_end(), colour) + "\n")
            .collect()
    }
}

/// The places of the columns that have room beside each other, if the longer ones are cut; those named in
/// `spare` give way, the first of them first.
pub(crate) fn kept(names: &[&str], widths: &[u16], spare: &[&str], width: u16) -> Vec<usize> {
    let mut kept: Vec<usize> = (0..names.len()).collect();
    let mut spare = spare.iter();
    loop {
        let wide = |at: &usize| widths.get(*at).copied().unwrap_or(0).min(NARROW) + PADDING;
        if kept.iter().map(wide).sum::<u16>() <= width + PADDING {
            return kept;
        }
        let Some(next) = spare.next() else {
            return kept;
        };
        kept.retain(|at| names[*at] != *next);
    }
}

/// The colours are told apart by line, so no row may take two.
fn one_line<'a>(cells: impl Iterator<Item = &'a str>) -> Row {
    let mut row = Row::from(cells);
    row.max_height(1);
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_huge_cell_is_laid_out_as_far_as_it_is_shown() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(Tone::Plain, &["w".repeat(600_000), "up".into()]);
        let layout = table.layout();
        let cells = layout.row(0).unwrap().cell_iter();
        let lengths: Vec<usize> = cells.map(|cell| cell.content().len()).collect();
        assert_eq!(lengths, [MOST_CHARS, 2]);
        let shown = table.render(80, false);
        let row = shown.lines().nth(1).unwrap_or_default();
        assert!(row.ends_with("…  up"), "{row}");
    }

    fn table() -> Table {
        let mut table = Table::new(&["TARGET", ">SLOTS"]);
        table.row(Tone::Plain, &["mail".into(), "3".into()]);
        table.row(
            Tone::Bad,
            &[
                "a\nname of some length that has spaces in it".into(),
                "12".into(),
            ],
        );
        table
    }

    #[test]
    fn a_row_is_a_line() {
        let expected = "TARGET                                        SLOTS\n\
                        mail                                              3\n\
                        a\\nname of some length that has spaces in it     12\n";
        assert_eq!(table().render(80, false), expected);
    }

    #[test]
    fn programs_get_tabs() {
        let expected =
            "TARGET\tSLOTS\nmail\t3\na\\nname of some length that has spaces in it\t12\n";
        assert_eq!(table().tab_separated(), expected);
    }

    #[test]
    fn a_narrow_terminal_cuts_lines() {
        let lines = table().render(40, false);
        assert_eq!(lines.lines().count(), 3, "{lines}");
        assert!(
            lines.lines().all(|line| line.chars().count() <= 40),
            "{lines}"
        );
        assert!(lines.contains('…') && lines.contains("SLOTS"), "{lines}");
    }

    #[test]
    fn columns_give_way_on_a_terminal_that_is_too_narrow() {
        let names = ["TARGET", "STATE", "SLOTS", "P95"];
        let widths = [20, 8, 5, 3];
        let kept = |width| kept(&names, &widths, &["P95", "SLOTS"], width);
        assert_eq!(kept(30), [0, 1, 2, 3]);
        assert_eq!(kept(29), [0, 1, 2]);
        assert_eq!(kept(20), [0, 1]);
        assert_eq!(kept(1), [0, 1]);
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let mut table = Table::new(&["TARGET", "STATE"]);
        table.row(Tone::Plain, &["郵便/送信".into(), "active".into()]);
        table.row(Tone::Plain, &["mail".into(), "active".into()]);
        let lines = table.render(80, false);
        assert_eq!(
            lines,
            "TARGET     STATE\n郵便/送信  active\nmail       active\n"
        );
    }

    #[test]
    fn colours_are_whole_lines() {
        let lines = table().render(80, true);
        assert!(lines.starts_with("\x1b[1mTARGET"), "{lines:?}");
        assert!(lines.contains("\x1b[31ma\\nname"), "{lines:?}");
        assert!(!table().render(80, false).contains('\x1b'));
    }
}
