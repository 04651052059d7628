//! What one column of one row holds, whatever its type. Knows no database.

use std::ops::Deref;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

/// Text, or bytes that are none (of a BLOB, most of all).
///
/// It reads as text in any case, with U+FFFD for what is no UTF-8. As JSON it is a string where it is text, else
/// `{"base64": "…"}`, so that nothing is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    /// What stands there, where `text` is not the same.
    bytes: Option<Vec<u8>>,
}

impl Cell {
    /// What stands in the column, byte for byte.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or(self.text.as_bytes())
    }
}

impl From<Vec<u8>> for Cell {
    fn from(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(
            |error| Self {
                text: String::from_utf8_lossy(error.as_bytes()).into_owned(),
                bytes: Some(error.into_bytes()),
            },
            Self::from,
        )
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, bytes: None }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

impl From<Cell> for String {
    fn from(cell: Cell) -> Self {
        cell.text
    }
}

impl Deref for Cell {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(bytes) = &self.bytes else {
            return serializer.serialize_str(&self.text);
        };
        let mut object = serializer.serialize_map(Some(1))?;
        object.serialize_entry("base64", &BASE64_STANDARD.encode(bytes))?;
        object.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_is_a_string_and_other_bytes_are_kept() {
        for (bytes, shown, as_json) in [
            (&b"a\0\xc3\xa9"[..], "a\0é", json!("a\0é")),
            (b"", "", json!("")),
            (b"a\xff\0", "a\u{fffd}\0", json!({"base64": "Yf8A"})),
        ] {
            let cell = Cell::from(bytes.to_vec());
            assert_eq!((&*cell, cell.as_bytes()), (shown, bytes));
            assert_eq!(serde_json::to_value(&cell).ok(), Some(as_json));
        }
    }
}
