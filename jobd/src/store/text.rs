//! Makes what a process wrote fit for a text column: valid in its character set, within its size
//! and the server's packet. Pure.
//!
//! It must not fail: whatever bytes a job wrote, its row gets a text that the column takes.

use encoding_rs::Encoding;
use jobd_proto::table::{Columns, Kind};

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
#[derive(Clone, Copy, Debug)]
struct ColumnText {
    charset: Charset,
    max_bytes: usize,
}

/// Which characters a column takes.
#[derive(Clone, Copy, Debug)]
enum Charset {
    /// All of Unicode.
    Full,
    /// The first 65,536 code points: `utf8` of old, `ucs2`.
    Bmp,
    /// An 8-bit or Asian character set.
    Legacy(&'static Encoding),
    /// ASCII, which every character set of the server contains.
    Ascii,
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
            stdout: any,
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

    /// Makes texts fit again.
    pub fn refit(&self, stdout: &mut String, stderr: &mut String) {
        if !self.fits(stdout, stderr) {
            (*stdout, *stderr) = self.fit(&Captured::whole(stdout), &Captured::whole(stderr));
        }
    }

    /// The texts for `stdout` and `stderr`. Where both together are too large for a packet, the
    /// larger gives way.
    pub fn fit(&self, stdout: &Captured, stderr: &Captured) -> (String, String) {
        let (mut out, mut err) = (
            self.stdout.fit(stdout, usize::MAX),
            self.stderr.fit(stderr, usize::MAX),
        );
        if out.len().saturating_add(err.len()) > self.both {
            let half = self.both / 2;
            let (for_out, for_err) = (
                half.max(self.both.saturating_sub(err.len())),
                half.max(self.both.saturating_sub(out.len())),
            );
            (out, err) = (
                self.stdout.fit(stdout, for_out),
                self.stderr.fit(stderr, for_err),
            );
        }
        (out, err)
    }
}

/// At most `limit` bytes of a text in ASCII, which every column takes.
pub(super) fn ascii(text: &str, limit: usize) -> String {
    let ascii = ColumnText {
        charset: Charset::Ascii,
        max_bytes: limit,
    };
    ascii.fit(&Captured::whole(text), usize::MAX)
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
                other => (legacy(other), *max_bytes),
            },
            Kind::Integer { .. } | Kind::Other => return Self::UNKNOWN,
        };
        Self {
            charset,
            max_bytes: usize::try_from(max_bytes).unwrap_or(usize::MAX),
        }
    }

    /// At most `limit` bytes of UTF-8, and at most what the column takes.
    fn fit(self, captured: &Captured, limit: usize) -> String {
        let limit = limit.min(self.max_bytes);
        if captured.omitted == 0 {
            let whole = self.encodable(
                String::from_utf8_lossy(&[&*captured.head, &*captured.tail].concat()).into_owned(),
            );
            return if self.size(&whole) <= limit {
                whole
            } else {
                Self::cut(&whole, &whole, limit, 0)
            };
        }
        // The cut may have split a character: its pieces are left out too.
        let head = &captured.head[..whole_chars(&captured.head)];
        let tail = &captured.tail[continuation_bytes(&captured.tail)..];
        let omitted = captured.omitted
            + (captured.head.len() - head.len() + captured.tail.len() - tail.len()) as u64;
        let head = self.encodable(String::from_utf8_lossy(head).into_owned());
        let tail = self.encodable(String::from_utf8_lossy(tail).into_owned());
        let whole = format!("{head}{}{tail}", left_out(omitted));
        if self.size(&whole) <= limit {
            whole
        } else {
            Self::cut(&head, &tail, limit, omitted)
        }
    }

    /// The beginning of `head` and the end of `tail` with the line between that says how much is
    /// missing. They are the same text where nothing was missing before.
    fn cut(head: &str, tail: &str, limit: usize, omitted: u64) -> String {
        let marker = left_out(u64::MAX).len();
        let each = limit.saturating_sub(marker) / 2;
        let begin = &head[..head.floor_char_boundary(each)];
        let end = &tail[tail.ceil_char_boundary(tail.len().saturating_sub(each))..];
        let dropped = if omitted == 0 {
            (head.len() - begin.len() - end.len()) as u64
        } else {
            omitted + (head.len() - begin.len() + tail.len() - end.len()) as u64
        };
        let text = format!("{begin}{}{end}", left_out(dropped));
        if text.len() <= limit {
            text
        } else {
            text[..text.floor_char_boundary(limit)].to_owned()
        }
    }

    /// Replaces what the character set does not have.
    fn encodable(self, text: String) -> String {
        match self.charset {
            Charset::Full => text,
            Charset::Bmp if text.chars().all(|c| c <= '\u{FFFF}') => text,
            Charset::Bmp => text
                .chars()
                .map(|c| {
                    if c > '\u{FFFF}' {
                        char::REPLACEMENT_CHARACTER
                    } else {
                        c
                    }
                })
                .collect(),
            Charset::Ascii if text.is_ascii() => text,
            Charset::Ascii => text
                .chars()
                .map(|c| if c.is_ascii() { c } else { '?' })
                .collect(),
            Charset::Legacy(encoding) if !encoding.encode(&text).2 => text,
            Charset::Legacy(encoding) => {
                let has = |c: char| c.is_ascii() || !encoding.encode(c.encode_utf8(&mut [0; 4])).2;
                text.chars().map(|c| if has(c) { c } else { '?' }).collect()
            }
        }
    }

    /// Bytes in the column. UTF-8's length is exact or, for 8-bit sets, at least as large; Asian
    /// sets can take more for a few characters (GB 18030), so those are encoded.
    fn size(self, text: &str) -> usize {
        match self.charset {
            Charset::Legacy(encoding) => encoding.encode(text).0.len(),
            _ => text.len(),
        }
    }
}

/// The line between head and tail.
fn left_out(bytes: u64) -> String {
    format!("\n[jobd: {bytes} bytes left out]\n")
}

/// The encoding of a server's character set; ASCII for the rare ones.
fn legacy(charset: &str) -> Charset {
    let label = match charset {
        // The server's latin1 is cp1252 (server manual, "West European Character Sets").
        "latin1" => "windows-1252",
        "latin2" => "iso-8859-2",
        "latin5" => "windows-1254",
        "latin7" => "iso-8859-13",
        "greek" => "iso-8859-7",
        "hebrew" => "iso-8859-8",
        "cp1250" => "windows-1250",
        "cp1251" => "windows-1251",
        "cp1256" => "windows-1256",
        "cp1257" => "windows-1257",
        "koi8r" => "koi8-r",
        "koi8u" => "koi8-u",
        "tis620" => "windows-874",
        "gbk" | "gb2312" => "gbk",
        "gb18030" => "gb18030",
        "big5" => "big5",
        "sjis" | "cp932" => "shift_jis",
        "ujis" | "eucjpms" => "euc-jp",
        "euckr" => "euc-kr",
        _ => return Charset::Ascii,
    };
    Encoding::for_label(label.as_bytes()).map_or(Charset::Ascii, Charset::Legacy)
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
        assert_eq!(
            column(charset, 1000).fit(&captured(bytes), usize::MAX),
            expected
        );
    }

    #[test]
    fn text_takes_the_columns_characters() {
        check("utf8mb4", "zażółć 😀\0".as_bytes(), "zażółć 😀\0");
        check("utf8mb3", "zażółć 😀".as_bytes(), "zażółć \u{FFFD}");
        check("latin1", "naïve € 😀 ż".as_bytes(), "naïve € ? ?");
        check("cp1251", "дело é".as_bytes(), "дело ?");
        check("armscii8", "é".as_bytes(), "?");
        check("utf8mb4", b"a\xFFb", "a\u{FFFD}b");
    }

    #[test]
    fn what_is_too_long_keeps_its_head_and_tail_and_says_so() {
        let text = column("utf8mb4", 60).fit(&captured("é".repeat(500).as_bytes()), usize::MAX);
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
            column("utf8mb4", 1000).fit(&captured, usize::MAX),
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
        let (out, err) = both.fit(&captured(&[b'x'; 5000]), &captured(b"small"));
        assert!(out.len() <= 995 && out.len() > 900, "{}", out.len());
        assert_eq!(err, "small");
    }
}
