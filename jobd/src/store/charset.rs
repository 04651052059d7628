//! Which characters a text column takes, and how many bytes each takes there. Pure.
//!
//! It must be quick: everything else waits while an output is made fit.

use std::sync::{Arc, OnceLock};

use encoding_rs::{Encoding, GB18030};

/// Which characters a column takes.
#[derive(Clone, Debug)]
pub(super) enum Charset {
    /// All of Unicode.
    Full,
    /// The first 65,536 code points: `utf8` of old, `ucs2`.
    Bmp,
    /// An 8-bit or Asian character set.
    Legacy(Legacy),
    /// ASCII, which every character set of the server contains.
    Ascii,
}

/// A character set that lacks most of Unicode.
#[derive(Clone, Debug)]
pub(super) struct Legacy {
    encoding: &'static Encoding,
    /// How many bytes each of the first 65,536 code points takes, none where it is lacking. Found out when first needed: to
    /// ask the encoding about each character of an output takes seconds.
    sizes: Arc<OnceLock<Vec<u8>>>,
}

impl Charset {
    /// That of the server's name; ASCII for the rare ones.
    pub(super) fn of_server(charset: &str) -> Self {
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
            _ => return Self::Ascii,
        };
        let encoding = Encoding::for_label(label.as_bytes());
        encoding.map_or(Self::Ascii, |encoding| {
            Self::Legacy(Legacy {
                encoding,
                sizes: Arc::default(),
            })
        })
    }

    /// Replaces what the character set does not have; with the bytes that the text takes in it, or more: UTF-8's
    /// length is taken where that is at least as large.
    pub(super) fn encodable(&self, text: String) -> (String, usize) {
        let text = match self {
            Self::Legacy(legacy) if !text.is_ascii() => return legacy.encodable(text),
            Self::Bmp if text.chars().any(|c| c > '\u{FFFF}') => text
                .chars()
                .map(|c| {
                    if c > '\u{FFFF}' {
                        char::REPLACEMENT_CHARACTER
                    } else {
                        c
                    }
                })
                .collect(),
            Self::Ascii if !text.is_ascii() => text
                .chars()
                .map(|c| if c.is_ascii() { c } else { '?' })
                .collect(),
            _ => text,
        };
        let size = text.len();
        (text, size)
    }
}

impl Legacy {
    fn encodable(&self, text: String) -> (String, usize) {
        let sizes = self.sizes.get_or_init(|| {
            let code_points = 0..=u32::from(u16::MAX);
            code_points.map(|code| self.ask(code)).collect()
        });
        // Of what lies beyond them GB 18030 has everything, and the others have nothing.
        let beyond = if self.encoding == GB18030 { 4 } else { 0 };
        let size = |c: char| sizes.get(c as usize).copied().unwrap_or(beyond);
        let (mut bytes, mut lacks) = (0, false);
        for c in text.chars() {
            bytes += usize::from(size(c).max(1));
            lacks |= size(c) == 0;
        }
        if !lacks {
            return (text, bytes);
        }
        let has = |c: char| if size(c) > 0 { c } else { '?' };
        (text.chars().map(has).collect(), bytes)
    }

    /// Bytes that a code point takes; none where it is lacking, or no character.
    fn ask(&self, code: u32) -> u8 {
        let Some(c) = char::from_u32(code) else {
            return 0;
        };
        let mut c_bytes = [0; 4];
        let (bytes, _, lacking) = self.encoding.encode(c.encode_utf8(&mut c_bytes));
        let size = if lacking { 0 } else { bytes.len() };
        u8::try_from(size).unwrap_or(0)
    }
}
