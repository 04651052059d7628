//! Whole screens that were read and found good: `jobctl/tests/screens/NAME.txt` has what stands on a terminal in each
//! of [`SIZES`], and in which colours. With `NO_COLOR` the same text has to come without any. `JOBD_BLESS=1` writes
//! these files instead of comparing, to be read before they are committed.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use portable_pty::CommandBuilder;
use vt100::Color;

use crate::jobctl::LIMIT;
use crate::terminal::Terminal;

/// Columns and lines.
const SIZES: [(u16, u16); 2] = [(80, 24), (200, 50)];

/// A screen that does not change for so long is blessed.
const STILL: Duration = Duration::from_millis(700);

/// Ends the text of a screen.
const COLOURS: &str = "--- colours\n";

/// One run of a story, in a terminal of one size.
pub(crate) struct Scene {
    size: (u16, u16),
    /// Whether `NO_COLOR` is set.
    plain: bool,
    /// Screens that are to be seen, in order; `None` where they are to be blessed.
    expected: Option<Vec<String>>,
    seen: Vec<String>,
}

/// Plays the story in each size, with colours and without, and compares what it shows.
pub(crate) async fn screens(name: &str, play: impl AsyncFn(&mut Scene)) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/screens/{name}.txt"));
    let bless = std::env::var_os("JOBD_BLESS").is_some();
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    let mut written = String::new();
    for size in SIZES {
        let screens = stored.split_inclusive("\n\n=== ");
        let screens = screens.map(|screen| screen.trim_end_matches("=== "));
        let screens = screens.map(|screen| screen.trim_start_matches("=== ").to_owned());
        let of_size = screens.filter(|screen| screen.starts_with(&begin(size)));
        let mut scene = Scene {
            size,
            plain: false,
            expected: (!bless).then(|| of_size.collect()),
            seen: Vec::new(),
        };
        play(&mut scene).await;
        for screen in &scene.seen {
            written.extend(["=== ", screen]);
        }
        let mut plain = Scene {
            plain: true,
            expected: Some(std::mem::take(&mut scene.seen)),
            ..scene
        };
        play(&mut plain).await;
    }
    if bless {
        std::fs::write(&path, written).unwrap();
    } else {
        assert_eq!(stored, written, "{} has more", path.display());
    }
}

/// How a screen of this size begins.
fn begin((columns, lines): (u16, u16)) -> String {
    format!("{columns}x{lines}: ")
}

impl Scene {
    /// Starts jobctl in `folder`, which is its home as well.
    pub(crate) fn start(&self, folder: &Path, arguments: &[&str]) -> Terminal {
        let mut command = CommandBuilder::new(PathBuf::from(env!("CARGO_BIN_EXE_jobctl")));
        command.args(arguments);
        command.cwd(folder);
        command.env("HOME", folder);
        command.env_remove("NO_COLOR");
        if self.plain {
            command.env("NO_COLOR", "1");
        }
        let (columns, lines) = self.size;
        Terminal::of(command, columns, lines)
    }

    /// Waits until the screen is the stored one; where it is to be blessed, until it has each of `wanted` and stands
    /// still.
    #[track_caller]
    pub(crate) fn shows(&mut self, terminal: &Terminal, title: &str, wanted: &[&str]) {
        let expected = self.expected.as_ref().map(|expected| {
            let next = expected.get(self.seen.len()).cloned();
            next.unwrap_or_else(|| format!("nothing is stored: {title}"))
        });
        let look = || format!("{}{title}\n{}", begin(self.size), terminal.look(screen));
        let deadline = Instant::now() + LIMIT;
        let mut found = look();
        let mut since = Instant::now();
        loop {
            let is_there = match &expected {
                Some(expected) if self.plain => text(expected) == text(&found),
                Some(expected) => *expected == found,
                None => since.elapsed() > STILL && wanted.iter().all(|text| found.contains(text)),
            };
            if is_there {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "NO_COLOR: {}; JOBD_BLESS=1 writes what is found:\n{found}\nexpected:\n{}",
                self.plain,
                expected.unwrap_or_else(|| wanted.join(", "))
            );
            std::thread::sleep(Duration::from_millis(20));
            let now = look();
            if now != found {
                (found, since) = (now, Instant::now());
            }
        }
        if self.plain {
            is_plain(&terminal.written());
        }
        self.seen.push(found);
    }
}

/// A screen without its colours.
fn text(screen: &str) -> &str {
    screen.split_once(COLOURS).map_or(screen, |(text, _)| text)
}

/// What stands there, but for what is never twice the same; and what is not in plain letters, by line and column.
fn screen(screen: &vt100::Screen) -> String {
    let (lines, columns) = screen.size();
    let text: Vec<String> = screen
        .rows(0, columns)
        .map(|line| steady(line.trim_end()))
        .collect();
    let mut shown = text.join("\n").trim_end().to_owned() + "\n" + COLOURS;
    for line in 0..lines {
        let look = |column| {
            let cell = screen.cell(line, column);
            cell.map(look_of).unwrap_or_default()
        };
        let mut column = 0;
        while column < columns {
            let (from, is) = (column, look(column));
            while column < columns && look(column) == is {
                column += 1;
            }
            if !is.is_empty() {
                writeln!(shown, "{}: {}-{column}{is}", line + 1, from + 1).unwrap();
            }
        }
    }
    shown + "\n"
}

fn look_of(cell: &vt100::Cell) -> String {
    let mut look = String::new();
    for (color, of) in [(cell.fgcolor(), ""), (cell.bgcolor(), "on ")] {
        match color {
            Color::Default => {}
            Color::Idx(at) => {
                let names = ["black", "red", "green", "yellow", "blue", "magenta", "cyan"];
                let name = names.get(usize::from(at)).copied();
                let name = name.map_or_else(|| at.to_string(), str::to_owned);
                write!(look, " {of}{name}").unwrap();
            }
            Color::Rgb(..) => write!(look, " {of}{color:?}").unwrap(),
        }
    }
    for (is_on, name) in [
        (cell.bold(), " bold"),
        (cell.inverse(), " inverse"),
        (cell.italic(), " italic"),
        (cell.underline(), " underlined"),
    ] {
        if is_on {
            look += name;
        }
    }
    look
}

/// Without what is another one each time: ports, which all have five digits, dates, the clocks of bars, milliseconds.
/// `0` stands for a digit, `#` for some.
fn steady(line: &str) -> String {
    const VARYING: [&str; 5] = [
        "127.0.0.1:00000",
        "127.0.0.1:#…",
        "0000-00-00 00:00:00",
        "[#s]",
        " # ms",
    ];
    let mut steady = String::new();
    let mut rest = line;
    while let Some(char) = rest.chars().next() {
        let found = VARYING
            .iter()
            .find_map(|pattern| Some((behind(rest, pattern)?, *pattern)));
        if let Some((behind, pattern)) = found {
            steady += pattern;
            rest = behind;
        } else {
            steady.push(char);
            rest = &rest[char.len_utf8()..];
        }
    }
    steady.replace(env!("CARGO_PKG_VERSION"), "VERSION")
}

/// What stands behind the pattern, where that is how the text begins.
fn behind<'a>(text: &'a str, pattern: &str) -> Option<&'a str> {
    let mut rest = text;
    for wanted in pattern.chars() {
        rest = match wanted {
            '0' => rest.strip_prefix(|char: char| char.is_ascii_digit())?,
            '#' => {
                let digits = rest.trim_start_matches(|char: char| char.is_ascii_digit());
                (digits.len() < rest.len()).then_some(digits)?
            }
            _ => rest.strip_prefix(wanted)?,
        };
    }
    Some(rest)
}

/// No colours; and where nothing took the whole screen, nothing that steers letters at all.
#[track_caller]
fn is_plain(written: &str) {
    let takes_screen = written.contains("\x1b[?1049h");
    for sequence in written.split("\x1b[").skip(1) {
        let end = sequence.find(|char: char| char.is_ascii_alphabetic());
        let Some((codes, "m")) = end.map(|end| (&sequence[..end], &sequence[end..=end])) else {
            continue;
        };
        let is_colour = |code: &str| {
            let code: u16 = code.parse().unwrap_or_default();
            matches!(code, 30..=38 | 40..=48 | 58 | 90..=107)
        };
        assert!(
            takes_screen && !codes.split([';', ':']).any(is_colour),
            "a colour, {codes}m, in {written:?}"
        );
    }
}
