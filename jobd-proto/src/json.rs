//! JSON text to a value, within bounds. Must not know what the value means.
//!
//! A hostile megabyte of `{"a":0}` grows eightyfold when it is parsed into maps, so the parser
//! counts what it builds. Depth is bounded by serde_json itself (128 levels).

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Deserializer, Map, Value};

/// Units that one frame may grow to; a unit is about 32 bytes of memory. Two million are enough
/// for two million job ids or eighty thousand job results, and keep a frame below 64 MiB beside
/// its strings, which are never longer than the frame.
const MAX_UNITS: u32 = 2 << 20;

/// What the first node of a map costs beside its entries.
const MAP_UNITS: u32 = 20;

/// Parses one whole JSON text.
pub(crate) fn parse(text: &[u8]) -> Result<Value, serde_json::Error> {
    let budget = Cell::new(MAX_UNITS);
    let mut deserializer = Deserializer::from_slice(text);
    let value = Bounded(&budget).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// About how many bytes of memory a parsed value takes, its strings aside: they are never longer
/// than the text that they came from.
pub(crate) fn memory(value: &Value) -> usize {
    const UNIT: usize = size_of::<Value>();
    match value {
        Value::Array(members) => {
            UNIT * members.capacity() + members.iter().map(memory).sum::<usize>()
        }
        Value::Object(entries) => {
            let nodes = if entries.is_empty() {
                0
            } else {
                MAP_UNITS as usize
            };
            let inner: usize = entries.values().map(memory).sum();
            UNIT * (nodes + 2 * entries.len()) + inner
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

#[derive(Clone, Copy)]
struct Bounded<'a>(&'a Cell<u32>);

impl Bounded<'_> {
    fn spend<E: Error>(self, units: u32) -> Result<(), E> {
        match self.0.get().checked_sub(units) {
            Some(left) => {
                self.0.set(left);
                Ok(())
            }
            None => Err(E::custom("too many values in one message")),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(member) = members.next_element_seed(self)? {
            self.spend(1)?;
            list.push(member);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            self.spend(if map.is_empty() { MAP_UNITS } else { 2 })?;
            map.insert(key, entries.next_value_seed(self)?);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn reads_what_serde_json_reads() {
        for text in [
            "null",
            " true ",
            "-0.5e3",
            "18446744073709551615",
            r#""\ud83d\ude00 \u0004""#,
            r#"[1,[],{"a":{"b":[null,"c"]},"d":2}]"#,
            r#"{"twice":1,"twice":2}"#,
        ] {
            let expected: Value = serde_json::from_str(text).unwrap();
            assert_eq!(parse(text.as_bytes()).unwrap(), expected, "{text}");
        }
        for text in ["", "[", "[1,]", "{a:1}", "[2] 3", "\"\u{4}\"", "nul"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse(b"\"\xff\"").is_err());
    }

    #[test]
    fn refuses_what_would_grow_beyond_its_bounds() {
        let maps = format!("[{}0]", r#"{"a":0},"#.repeat(200_000));
        let error = parse(maps.as_bytes()).unwrap_err().to_string();
        assert!(
            error.starts_with("too many values in one message"),
            "{error}"
        );

        let ids = format!("[{}0]", "1,".repeat(1_000_000));
        assert_eq!(
            parse(ids.as_bytes()).unwrap().as_array().unwrap().len(),
            1_000_001
        );
    }

    #[test]
    fn refuses_depth_without_overflowing_the_stack() {
        for text in ["[".repeat(1 << 20), r#"{"a":"#.repeat(1 << 18)] {
            let error = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("recursion limit exceeded"), "{error}");
        }
    }
}
