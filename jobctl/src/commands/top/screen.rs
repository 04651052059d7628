//! Draws the board: a title, three tables, and a line of keys or of what was said.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState};

use super::super::outcome::{progress, worker};
use super::super::status::{
    SPARE, TARGET_COLUMNS, WORKER_COLUMNS, target_cells, target_tone, worker_cells,
};
use super::board::{Board, Pane};
use crate::output::{Tone, columns_of, kept, plain, seconds, wrapped};

/// The columns of jobs; `>` marks numbers.
const JOB_COLUMNS: [&str; 6] = [">JOB", "TARGET", "STATUS", ">FOR", "WORKER", "PROGRESS"];

const KEYS: &str = "Tab, arrows: choose  p pause, continue  +/- limit  x cancel  f follow  q leave";

/// A column keeps this much, whatever the others need.
const LEAST: u16 = 4;

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, board: &Board) {
    let area = frame.area();
    let foot = foot(board, area.width);
    let below = u16::try_from(foot.height())
        .unwrap_or(u16::MAX)
        .min(area.height / 3)
        .max(1);
    let tables = area.height.saturating_sub(1 + below);
    // Each with its header; targets take most, and none more than it has.
    let wanted = |rows: usize| u16::try_from(rows + 1).unwrap_or(u16::MAX);
    let workers = wanted(board.workers().len()).min((tables / 4).max(2));
    let jobs = wanted(board.jobs().len().max(1)).min((tables / 3).max(2));
    let [title, targets, workers, jobs, bottom] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(2),
        Constraint::Length(workers),
        Constraint::Length(jobs),
        Constraint::Length(below),
    ])
    .areas(area);
    frame.render_widget(heading(board), title);
    let rows = board.targets().iter();
    let rows = rows.map(|target| (target_cells(target).to_vec(), target_tone(target)));
    table(
        frame,
        board,
        Pane::Targets,
        &TARGET_COLUMNS,
        &rows.collect::<Vec<_>>(),
        targets,
    );
    let rows = board.workers().iter().map(|worker| {
        let (cells, tone) = worker_cells(worker);
        (cells.to_vec(), tone)
    });
    table(
        frame,
        board,
        Pane::Workers,
        &WORKER_COLUMNS,
        &rows.collect::<Vec<_>>(),
        workers,
    );
    table(
        frame,
        board,
        Pane::Jobs,
        &JOB_COLUMNS,
        &job_rows(board),
        jobs,
    );
    frame.render_widget(Paragraph::new(foot), bottom);
}

/// What was said, or what is wrong, or the keys; in as many lines as that takes.
fn foot(board: &Board, width: u16) -> Text<'static> {
    let (text, style) = match (&board.error, board.said.as_str()) {
        (_, said) if !said.is_empty() => (said, tone(board, Tone::Strong)),
        (Some(error), _) => (error.as_str(), tone(board, Tone::Bad)),
        _ => (KEYS, Style::default()),
    };
    Text::from(lines(&plain(text), width.into())).style(style)
}

/// Lines that end between words, or within what is too long for a line.
fn lines(text: &str, width: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for wrapped in wrapped(text, width) {
        let mut line = String::new();
        for char in wrapped.trim_end().chars() {
            if !line.is_empty() && columns_of(&format!("{line}{char}")) > width {
                lines.push(Line::from(std::mem::take(&mut line)));
            }
            line.push(char);
        }
        lines.push(Line::from(line));
    }
    lines
}

fn heading(board: &Board) -> Paragraph<'static> {
    let text = match (&board.view, board.asking) {
        (_, Some(asking)) => {
            let asking = seconds(asking.as_secs());
            format!("jobctl top: asking {} for {asking}", board.server)
        }
        (None, None) => format!("jobctl top: asking {}", board.server),
        (Some(view), None) => {
            let more = view.more().map_or_else(String::new, |more| more + "; ");
            let no_table = if board.has_no_table() {
                "; no jobs, as the config names no table"
            } else {
                ""
            };
            format!("jobctl top: {more}{}{no_table}", view.source())
        }
    };
    Paragraph::new(Line::styled(plain(&text), tone(board, Tone::Strong)))
}

fn job_rows(board: &Board) -> Vec<(Vec<String>, Tone)> {
    let now = board.view.as_ref().map_or(0, |view| view.now);
    let rows = board.jobs().iter().map(|row| {
        let since = match row.time_started {
            0 => row.time_created,
            started => started,
        };
        let cells = vec![
            row.id.to_string(),
            row.target.clone(),
            row.status.clone(),
            seconds(now.saturating_sub(since).max(0).unsigned_abs()),
            worker(row).unwrap_or_default().to_owned(),
            progress(row).unwrap_or_default(),
        ];
        (cells, Tone::Plain)
    });
    rows.collect()
}

fn table(
    frame: &mut Frame<'_>,
    board: &Board,
    pane: Pane,
    columns: &[&str],
    rows: &[(Vec<String>, Tone)],
    area: Rect,
) {
    // A row that is seen is worth more than the number of those that are not.
    let is_cut = rows.len() >= area.height.into() && area.height > 2;
    let parts = [Constraint::Min(2), Constraint::Length(is_cut.into())];
    let [area, last] = Layout::vertical(parts).areas(area);
    if is_cut {
        let hidden = rows.len() + 1 - usize::from(area.height);
        frame.render_widget(Line::from(format!("… {hidden} more")), last);
    }
    let (columns, rows) = fitting(columns, rows, area.width);
    let widths = widths(&columns, &rows, area.width);
    let right: Vec<bool> = columns.iter().map(|name| name.starts_with('>')).collect();
    let cell = |(at, text): (usize, &str)| {
        let text = Text::from(cut(&plain(text), widths[at]));
        Cell::from(if right[at] {
            text.alignment(Alignment::Right)
        } else {
            text
        })
    };
    let names = columns.iter().map(|name| name.trim_start_matches('>'));
    let header = Row::new(names.enumerate().map(cell)).style(tone(board, Tone::Strong));
    let lines = rows.iter().map(|(cells, row_tone)| {
        let cells = cells.iter().map(String::as_str).enumerate().map(cell);
        Row::new(cells).style(tone(board, *row_tone))
    });
    // Only where the eye is: three marked rows would say nothing.
    let is_here = board.pane == pane;
    let mark = Style::default().add_modifier(Modifier::REVERSED);
    let table = Table::new(lines, widths.iter().copied().map(Constraint::Length))
        .header(header)
        .column_spacing(2)
        .row_highlight_style(if is_here { mark } else { Style::default() });
    let mut state = TableState::default().with_selected(board.place(pane));
    frame.render_stateful_widget(table, area, &mut state);
}

/// The columns that have room, and their cells.
fn fitting<'a>(
    columns: &[&'a str],
    rows: &[(Vec<String>, Tone)],
    width: u16,
) -> (Vec<&'a str>, Vec<(Vec<String>, Tone)>) {
    let plain_names: Vec<&str> = columns
        .iter()
        .map(|name| name.trim_start_matches('>'))
        .collect();
    let kept = kept(&plain_names, &contents(columns, rows), SPARE, width);
    let cells = |cells: &[String]| kept.iter().map(|at| cells[*at].clone()).collect();
    let rows = rows.iter().map(|(row, tone)| (cells(row), *tone)).collect();
    (kept.iter().map(|at| columns[*at]).collect(), rows)
}

/// How wide the cells of each column are, as a terminal shows them.
fn contents(columns: &[&str], rows: &[(Vec<String>, Tone)]) -> Vec<u16> {
    let length = |text: &str| u16::try_from(Line::from(plain(text)).width()).unwrap_or(u16::MAX);
    let columns = columns.iter().enumerate().map(|(at, name)| {
        let cells = rows.iter().map(|(cells, _)| length(&cells[at]));
        let name = length(name.trim_start_matches('>'));
        cells.max().unwrap_or(0).max(name).max(LEAST)
    });
    columns.collect()
}

/// As wide as their content where there is room; else the widest give way.
fn widths(columns: &[&str], rows: &[(Vec<String>, Tone)], width: u16) -> Vec<u16> {
    let mut widths = contents(columns, rows);
    let gaps = 2 * u16::try_from(columns.len().saturating_sub(1)).unwrap_or(0);
    let room = u32::from(width.saturating_sub(gaps));
    loop {
        let sum: u32 = widths.iter().copied().map(u32::from).sum();
        let widest = widths.iter_mut().max_by_key(|width| **width);
        match widest {
            Some(widest) if sum > room && *widest > LEAST => {
                let over = u16::try_from(sum - room).unwrap_or(u16::MAX);
                // Half of it at a time, so that two wide ones share what is missing.
                *widest = (*widest - (over / 2).max(1).min(*widest - LEAST)).max(LEAST);
            }
            _ => break,
        }
    }
    widths
}

/// The text, or as much of it as has room before an ellipsis: part of an address could be another one.
fn cut(text: &str, width: u16) -> String {
    let wide = |text: &str| Line::from(text).width();
    let width = usize::from(width);
    if wide(text) <= width {
        return text.to_owned();
    }
    let ends = text.char_indices().map(|(end, _)| end);
    let end = ends.take_while(|end| wide(&text[..*end]) < width).last();
    format!("{}…", &text[..end.unwrap_or_default()])
}

fn tone(board: &Board, tone: Tone) -> Style {
    let style = Style::default();
    match tone {
        Tone::Strong => style.add_modifier(Modifier::BOLD),
        _ if !board.coloured => style,
        Tone::Good => style.fg(Color::Green),
        Tone::Warning => style.fg(Color::Yellow),
        Tone::Bad => style.fg(Color::Red),
        Tone::Plain => style,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_between_words_or_where_there_is_no_more_room() {
        for (text, expected) in [
            ("one two three", &["one two", "three"][..]),
            ("muchtoolong a", &["muchtool", "ong", "a"]),
            ("日本語日本 b", &["日本語日", "本", "b"]),
            ("", &[""]),
        ] {
            let found: Vec<String> = lines(text, 8).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{text}");
        }
    }
}
