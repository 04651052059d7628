//! Reads the `data` of a request, with the error texts that the installed base knows
//! (docs/PROTOCOL.md lists them). Must not know any particular request.

use serde_json::{Map, Value};

use crate::job::{JobId, TargetName, excerpt};
use crate::signal;

/// Why a request was refused: the text of the response's `error`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RequestError(pub String);

impl RequestError {
    /// An error with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// A request that this server does not know.
    pub fn unknown_type(kind: &str) -> Self {
        Self(format!("unknown request type: '{}'", excerpt(kind)))
    }
}

impl From<String> for RequestError {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for RequestError {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// The named arguments of a request. `null`, `{}`, `[]` and anything else that is no object hold
/// none.
pub(crate) struct Arguments<'a>(Option<&'a Map<String, Value>>);

impl<'a> Arguments<'a> {
    pub(crate) fn new(data: &'a Value) -> Self {
        Self(data.as_object())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.0?.get(name)
    }

    fn required(&self, name: &str) -> Result<&'a Value, RequestError> {
        self.get(name)
            .ok_or_else(|| RequestError(format!("missing required field {name}")))
    }

    /// A text that has to be there.
    pub(crate) fn text(&self, name: &str) -> Result<&'a str, RequestError> {
        let value = self.required(name)?;
        value
            .as_str()
            .ok_or_else(|| RequestError(format!("'{name}' must be string")))
    }

    /// A whole number that has to be there.
    pub(crate) fn integer(&self, name: &str) -> Result<i64, RequestError> {
        let value = self.required(name)?;
        integer(value).ok_or_else(|| RequestError(format!("'{name}' must be integer")))
    }

    /// The `target` of a request about one target.
    pub(crate) fn target(&self) -> Result<TargetName, RequestError> {
        TargetName::new(self.text("target")?).map_err(RequestError)
    }

    /// The `concurrency` of a target: at least one.
    pub(crate) fn concurrency(&self) -> Result<u32, RequestError> {
        match u32::try_from(self.integer("concurrency")?) {
            Ok(concurrency) if concurrency >= 1 => Ok(concurrency),
            _ => Err(RequestError::new("Invalid concurrency value.")),
        }
    }

    /// The `signal` to send: a number that the system knows.
    pub(crate) fn signal(&self) -> Result<i32, RequestError> {
        check_signal(self.integer("signal")?)
    }

    /// The `id` of a job.
    pub(crate) fn job_id(&self) -> Result<JobId, RequestError> {
        let id = self.integer("id")?;
        u64::try_from(id)
            .map(JobId)
            .map_err(|_| RequestError(format!("'id' must be positive integer, got {id}")))
    }

    /// The `ids` of jobs.
    pub(crate) fn ids(&self) -> Result<Vec<JobId>, RequestError> {
        match self.get("ids") {
            Some(Value::Array(ids)) => job_ids(ids),
            _ => Err(RequestError::new("ids must be array")),
        }
    }

    /// A flag as JavaScript understands one: absent, `null`, `false`, `0` and `""` are false.
    pub(crate) fn flag(&self, name: &str) -> bool {
        match self.get(name) {
            None | Some(Value::Null) => false,
            Some(Value::Bool(flag)) => *flag,
            Some(Value::Number(number)) => number.as_f64() != Some(0.0),
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(_) | Value::Object(_)) => true,
        }
    }
}

/// Checks that a number names a signal.
pub(crate) fn check_signal(number: i64) -> Result<i32, RequestError> {
    match i32::try_from(number) {
        Ok(signal) if (1..=signal::MAX).contains(&signal) => Ok(signal),
        _ => Err(RequestError(format!("invalid signal {number}"))),
    }
}

/// A list of job ids: numbers, whole and not negative, each kept once and in order.
fn job_ids(ids: &[Value]) -> Result<Vec<JobId>, RequestError> {
    let mut seen = std::collections::HashSet::with_capacity(ids.len());
    let mut unique = Vec::with_capacity(ids.len());
    for id in ids {
        if !id.is_number() {
            return Err(RequestError(format!(
                "all ids must be numbers, got {}",
                kind_of(id)
            )));
        }
        let number = integer(id)
            .and_then(|number| u64::try_from(number).ok())
            .ok_or_else(|| RequestError(format!("all ids must be positive integers, got {id}")))?;
        if seen.insert(number) {
            unique.push(JobId(number));
        }
    }
    Ok(unique)
}

/// A whole number, written as `3` or `3.0`.
pub(crate) fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let number = value.as_f64()?;
        // 2^63 itself is no i64 any more; below it every whole f64 is one.
        #[expect(clippy::cast_precision_loss, reason = "a power of two is exact")]
        let limit = i64::MAX as f64;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "whole and within the limit"
        )]
        (number.fract() == 0.0 && number.abs() < limit && !value.is_u64()).then_some(number as i64)
    })
}

/// What JavaScript's `typeof` calls a value; the installed base reads these words in errors.
pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Null | Value::Array(_) | Value::Object(_) => "object",
    }
}
