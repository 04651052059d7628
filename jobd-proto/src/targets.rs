//! Which targets a request means.

use serde_json::{Value, json};

use crate::RequestError;
use crate::arguments::{Arguments, kind_of};

/// The `targets` argument of a request: absent means all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Every target.
    All,
    /// These, as they were written; whether anybody serves them is the server's to say.
    Named(Vec<String>),
}

impl Targets {
    /// Reads `targets` from the arguments of a request.
    pub(crate) fn parse(arguments: &Arguments<'_>) -> Result<Self, RequestError> {
        match arguments.get("targets") {
            None => Ok(Self::All),
            Some(targets) => Self::parse_named(targets).map(Self::Named),
        }
    }

    /// Reads a list of names that has to be there.
    pub(crate) fn parse_named(targets: &Value) -> Result<Vec<String>, RequestError> {
        let Value::Array(targets) = targets else {
            return Err(RequestError::new("targets must be array"));
        };
        if targets.is_empty() {
            return Err(RequestError::new("targets are empty"));
        }
        targets
            .iter()
            .map(|target| match target {
                Value::String(name) => Ok(name.clone()),
                other => Err(RequestError::new(format!(
                    "all targets must be strings, {} given",
                    kind_of(other)
                ))),
            })
            .collect()
    }

    /// The arguments of a request that means these targets.
    pub fn data(&self) -> Value {
        match self {
            Self::All => Value::Null,
            Self::Named(names) => json!({ "targets": names }),
        }
    }
}
