//! Makes what a process wrote fit for a text column: valid in its character set, within its size
//! and the server's packet. Pure.
//!
//! It must not fail: whatever bytes a job wrote, its row gets a text that the column takes. And it must be quick,
//! as everything else waits for it: one pass over an output, and a second one only to cut it.

use jobd_proto::table::{Columns, Kind};

use super::charset::Charset;
use crate::launcher::Captured;

/// What must remain of `max_allowed_packet` for everything in a statement but the two outputs: most of it for the
/// starts beside them.
pub(super) const PACKET_RESERVE: u64 = 24 << 10;

/// What outputs get of a packet that leaves them nothing.
const LEAST_OUTPUT: u64 = 4096;

/// How outputs are made fit for one table.
#[derive(Clone, Debug)]
pub struct OutputText {
    stdout: ColumnText,
    stderr: ColumnText,
    both: usize,
}

/// One text column.
#[derive(Clone, Debug)]
struct ColumnText {
    charset: Charset,
    max_bytes: usize,
}

/// A text for a column, and where it may be cut further.
struct Fitted {
    text: String,
    /// Its beginning goes up to here.
    head: usize,
    /// Its end comes from here. They are the same, all of the text, where nothing is missing.
    tail: usize,
    /// Bytes that are missing between them.
    omitted: u64,
}

impl OutputText {
    /// For the columns `stdout` and `stderr`, and a server that takes packets of `max_packet` bytes.
    pub(super) fn new(columns: &Columns, max_packet: u64) -> Self {
        let of = |name| {
            columns
                .get(name)
                .map_or(ColumnText::UNKNOWN, |column| ColumnText::of(&column.kind))
        };
        let columns = Self {
            stdout: of("stdout"),
            stderr: of("stderr"),
            both: 0,
        };
        columns.with_packet(max_packet)
    }

    /// For columns that take any text, and a server that takes packets of `max_packet` bytes.
    #[cfg(test)]
    pub fn of_any_size(max_packet: u64) -> Self {
        let any = ColumnText {
            charset: Charset::Full,
            max_bytes: usize::MAX,
        };
        let columns = Self {
            stdout: any.clone(),
            stderr: any,
            both: 0,
        };
        columns.with_packet(max_packet)
    }

    /// The same for a server that takes packets of `max_packet` bytes.
    pub(super) fn with_packet(&self, max_packet: u64) -> Self {
        let both = max_packet.saturating_sub(PACKET_RESERVE).max(LEAST_OUTPUT);
        let both = usize::try_from(both).unwrap_or(usize::MAX);
        Self {
            both,
            ..self.clone()
        }
    }

    /// Whether texts made fit before still fit a packet.
    pub fn fits(&self, stdout: &str, stderr: &str) -> bool {
        stdout.len().saturating_add(stderr.len()) <= self.both
    }

    /// Cuts texts made fit before to what a packet takes.
    pub fn refit(&self, stdout: &mut String, stderr: &mut String) {
        if !self.fits(stdout, stderr) {
            let whole = |text: &mut String| Fitted::whole(std::mem::take(text));
            (*stdout, *stderr) = self.share(whole(stdout), whole(stderr));
        }
    }

    /// The texts for `stdout` and `stderr`.
    pub fn fit(&self, stdout: Captured, stderr: Captured) -> (String, String) {
        self.share(self.stdout.fit(stdout), self.stderr.fit(stderr))
    }

    /// Where both together are too large for a packet, the larger gives way.
    fn share(&self, out: Fitted, err: Fitted) -> (String, String) {
        let (of_out, of_err) = (out.text.len(), err.text.len());
        if of_out.saturating_add(of_err) <= self.both {
            return (out.text, err.text);
        }
        let least = self.both / 2;
        let rest = |other| least.max(self.both.saturating_sub(other));
        (out.within(rest(of_err)).text, err.within(rest(of_out)).text)
    }
}

/// How short texts are made fit for a column of their own.
#[derive(Clone, Debug)]
pub(super) struct LineText(ColumnText);

impl LineText {
    /// For this column.
    pub(super) fn of(columns: &Columns, name: &str) -> Self {
        let column = columns.get(name);
        Self(column.map_or(ColumnText::UNKNOWN, |column| ColumnText::of(&column.kind)))
    }

    /// The beginning of a text that the column takes.
    pub(super) fn fit(&self, text: &str) -> String {
        let ColumnText { charset, max_bytes } = &self.0;
        let mut end = text.floor_char_boundary(*max_bytes);
        loop {
            let (fitted, size) = charset.encodable(text[..end].to_owned());
            let over = size.saturating_sub(*max_bytes).min(end);
            if over == 0 {
                return fitted;
            }
            end = text.floor_char_boundary(end - over);
        }
    }
}

/// At most `limit` bytes of a text in ASCII, which every column takes.
pub(super) fn ascii(text: &str, limit: usize) -> String {
    let ascii = ColumnText {
        charset: Charset::Ascii,
        max_bytes: limit,
    };
    ascii.fit(Captured::whole(text)).text
}

impl ColumnText {
    const UNKNOWN: Self = Self {
        charset: Charset::Ascii,
        max_bytes: 255,
    };

    fn of(kind: &Kind) -> Self {
        let (charset, max_bytes) = match kind {
            Kind::Binary { max_bytes } => (Charset::Full, *max_bytes),
            Kind::Text {
                charset, max_bytes, ..
            } => match charset.as_str() {
                "utf8mb4" => (Charset::Full, *max_bytes),
                "utf8" | "utf8mb3" => (Charset::Bmp, *max_bytes),
                // Up to four bytes for what takes one in UTF-8.
                "utf16" | "utf16le" | "utf32" => (Charset::Full, max_bytes / 4),
                "ucs2" => (Charset::Bmp, max_bytes / 2),
                other => (Charset::of_server(other), *max_bytes),
            },
            Kind::Integer { .. } | Kind::Other => return Self::UNKNOWN,
        };
        Self {
            charset,
            max_bytes: usize::try_from(max_bytes).unwrap_or(usize::MAX),
        }
    }

    /// As much as the column takes.
    fn fit(&self, captured: Captured) -> Fitted {
        let Captured {
            mut head,
            tail,
            omitted,
        } = captured;
        if omitted == 0 {
            head.extend(tail);
            let (text, size) = self.charset.encodable(into_text(head));
            return self.cut(Fitted::whole(text), size);
        }
        // The cut may have split a character: its pieces are left out too.
        let of_head = whole_chars(&head);
        let of_tail = continuation_bytes(&tail);
        let omitted = omitted + (head.len() - of_head + of_tail) as u64;
        head.truncate(of_head);
        let (head, head_size) = self.charset.encodable(into_text(head));
        let (tail, tail_size) = self.charset.encodable(into_text(tail[of_tail..].to_vec()));
        let line = left_out(omitted);
        let size = head_size + line.len() + tail_size;
        let fitted = Fitted {
            text: [&*head, &*line, &*tail].concat(),
            head: head.len(),
            tail: head.len() + line.len(),
            omitted,
        };
        self.cut(fitted, size)
    }

    /// `size` is what the text takes in the column.
    fn cut(&self, fitted: Fitted, size: usize) -> Fitted {
        if size <= self.max_bytes {
            return fitted;
        }
        // Some characters take more bytes here than in UTF-8 (GB 18030).
        let share = fitted.text.len() as u128 * self.max_bytes as u128 / size as u128;
        let limit = usize::try_from(share).unwrap_or(usize::MAX);
        fitted.within(limit.min(self.max_bytes))
    }
}

impl Fitted {
    fn whole(text: String) -> Self {
        Self {
            head: text.len(),
            tail: 0,
            omitted: 0,
            text,
        }
    }

    /// At most `limit` bytes of UTF-8: the beginning and the end, with the line between that says how much is
    /// missing.
    fn within(self, limit: usize) -> Self {
        if self.text.len() <= limit {
            return self;
        }
        let (head, tail) = (&self.text[..self.head], &self.text[self.tail..]);
        let each = limit.saturating_sub(left_out(u64::MAX).len()) / 2;
        let begin = &head[..head.floor_char_boundary(each)];
        let end = &tail[tail.ceil_char_boundary(tail.len().saturating_sub(each))..];
        let known = if self.omitted == 0 {
            self.text.len()
        } else {
            head.len() + tail.len()
        };
        let omitted = self.omitted + (known - begin.len() - end.len()) as u64;
        let line = left_out(omitted);
        let mut text = [begin, &line, end].concat();
        if text.len() > limit {
            text.truncate(text.floor_char_boundary(limit));
            return Self::whole(text);
        }
        Self {
            head: begin.len(),
            tail: begin.len() + line.len(),
            omitted,
            text,
        }
    }
}

/// What is no UTF-8 is replaced.
fn into_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// The line between head and tail.
fn left_out(bytes: u64) -> String {
    format!("\n[jobd: {bytes} bytes left out]\n")
}

/// The length of `bytes` without an unfinished UTF-8 sequence at its end.
fn whole_chars(bytes: &[u8]) -> usize {
    let from = bytes.len().saturating_sub(3);
    for at in (from..bytes.len()).rev() {
        let needed = match bytes[at] {
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            0x80..=0xBF => continue,
            _ => return bytes.len(),
        };
        return if at + needed > bytes.len() {
            at
        } else {
            bytes.len()
        };
    }
    bytes.len()
}

/// How many bytes at the start (at most 3) continue a character that began before.
fn continuation_bytes(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .take(3)
        .take_while(|byte| matches!(byte, 0x80..=0xBF))
        .count()
}

#[cfg(test)]
mod tests {
    use encoding_rs::GB18030;

    use super::*;

    fn column(charset: &str, max_bytes: u64) -> ColumnText {
        ColumnText::of(&Kind::Text {
            charset: charset.into(),
            ignores_case: true,
            max_bytes,
            values: None,
        })
    }

    fn captured(bytes: &[u8]) -> Captured {
        Captured {
            head: bytes.to_vec(),
            tail: Vec::new(),
            omitted: 0,
        }
    }

    #[track_caller]
    fn check(charset: &str, bytes: &[u8], expected: &str) {
        assert_eq!(column(charset, 1000).fit(captured(bytes)).text, expected);
    }

    #[test]
    fn a_line_fits_its_column_from_its_beginning() {
        let line = |charset, max_bytes| LineText(ColumnText { charset, max_bytes });
        for (line, text, fitted) in [
            (line(Charset::Full, 5), "añé🐟", "añé"),
            (line(Charset::Bmp, 20), "a🐟", "a\u{fffd}"),
            (line(Charset::of_server("latin1"), 20), "é→", "é?"),
            (line(Charset::of_server("gb18030"), 4), "ñb", "ñ"),
            (line(Charset::Ascii, 0), "abc", ""),
        ] {
            assert_eq!(line.fit(text), fitted);
        }
    }

    #[test]
    fn text_takes_the_columns_characters() {
        check("utf8mb4", "zażółć 😀\0".as_bytes(), "zażółć 😀\0");
        check("utf8mb3", "zażółć 😀".as_bytes(), "zażółć \u{FFFD}");
        check("latin1", "naïve € 😀 ż".as_bytes(), "naïve € ? ?");
        check("cp1251", "дело é".as_bytes(), "дело ?");
        check("gbk", "ż中é😀".as_bytes(), "?中é?");
        check("gb18030", "ż😀".as_bytes(), "ż😀");
        check("armscii8", "é".as_bytes(), "?");
        check("utf8mb4", b"a\xFFb", "a\u{FFFD}b");
    }

    #[test]
    fn what_is_too_long_keeps_its_head_and_tail_and_says_so() {
        let text = column("utf8mb4", 60)
            .fit(captured("é".repeat(500).as_bytes()))
            .text;
        assert!(
            text.len() <= 60
                && text.starts_with('é')
                && text.ends_with('é')
                && text.contains("bytes left out"),
            "{text}"
        );
    }

    #[test]
    fn bytes_missing_from_the_capture_are_counted_with_the_split_characters() {
        let captured = Captured {
            head: b"ab\xC3".to_vec(),
            tail: b"\xA9cd".to_vec(),
            omitted: 10,
        };
        assert_eq!(
            column("utf8mb4", 1000).fit(captured).text,
            "ab\n[jobd: 12 bytes left out]\ncd"
        );
    }

    #[test]
    fn the_larger_output_gives_way_in_a_packet() {
        let both = OutputText {
            stdout: column("utf8mb4", 9999),
            stderr: column("utf8mb4", 9999),
            both: 1000,
        };
        let (out, err) = both.fit(captured(&[b'x'; 5000]), captured(b"small"));
        assert!(out.len() <= 995 && out.len() > 900, "{}", out.len());
        assert_eq!(err, "small");
    }

    #[test]
    fn what_takes_more_bytes_in_the_column_than_in_utf8_is_cut_by_those() {
        let text = column("gb18030", 1000).fit(captured("ñ".repeat(300).as_bytes()));
        let size = GB18030.encode(&text.text).0.len();
        assert!((800..=1000).contains(&size), "{size}");
    }

    #[test]
    fn a_packet_counts_what_is_sent_and_not_what_the_column_makes_of_it() {
        let both = OutputText {
            stdout: column("latin1", 9999),
            stderr: column("latin1", 9999),
            both: 1000,
        };
        let (out, err) = both.fit(captured("é".repeat(900).as_bytes()), captured(b""));
        assert!(both.fits(&out, &err) && out.len() > 900, "{}", out.len());
    }

    #[test]
    fn an_output_that_is_cut_again_says_how_much_is_missing_in_all() {
        let captured = Captured {
            head: vec![b'a'; 500],
            tail: vec![b'z'; 500],
            omitted: 10,
        };
        let text = column("latin1", 9999).fit(captured).within(600).within(200);
        let text = text.text;
        let kept = text.matches(['a', 'z']).count();
        assert!(text.len() <= 200 && text.starts_with("aa") && text.ends_with("zz"));
        assert_eq!(text.matches("left out").count(), 1, "{text}");
        assert!(
            text.contains(&format!("[jobd: {} bytes", 1010 - kept)),
            "{text}"
        );
    }

    /// Prints how long it takes; compare what is printed, as times say little on a busy machine.
    #[test]
    fn a_large_output_is_asked_about_once_a_character() {
        for (charset, unit) in [
            ("utf8mb4", "ż"),
            ("latin1", "é"),
            ("latin1", "ż"),
            ("gbk", "中"),
        ] {
            let (column, bytes) = (column(charset, 16 << 20), unit.repeat(2 << 20));
            let began = std::time::Instant::now();
            let fitted = column.fit(captured(bytes.as_bytes()));
            println!(
                "{} bytes of {unit} for {charset}: {:?}",
                bytes.len(),
                began.elapsed()
            );
            assert_eq!(fitted.text.chars().count(), 2 << 20);
        }
    }
}
