//! One message of the wire: JSON bytes to a typed message and back. Pure; knows no sockets and no
//! meaning of a request. The format is described in docs/PROTOCOL.md.

use bytes::{BufMut, BytesMut};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::Secret;
use crate::arguments::{integer, kind_of};
use crate::json;

/// The byte that ends every message.
pub const EOT: u8 = 0x04;

/// Number of a request on its connection, echoed by the reply. Requests count from a random start
/// and wrap at [`RequestNo::MAX`], but whatever integer came is echoed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestNo(pub i64);

impl RequestNo {
    /// Reserved for errors about the message itself.
    pub const NONE: Self = Self(0);
    /// The last number before counting begins again at one.
    pub const MAX: Self = Self(999_999);
}

/// A message, in either direction.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// `[0, {…}]`: wants one response, or where it asks for a stream as many as there are.
    Request(Request),
    /// `[1, {…}]`: answers the request of the same number.
    Response(Response),
    /// `[2]`: wants a pong.
    Ping,
    /// `[3]`: shows that the peer is alive.
    Pong,
}

/// What one side asks of the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Echoed by the response.
    pub no: RequestNo,
    /// The `type` member: which request.
    pub kind: String,
    /// Arguments as they came; `Null` where there are none.
    pub data: Value,
    /// Needed in the first request of a connection only. One that is no string counts as absent.
    pub password: Option<Secret>,
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// The number of the request, or [`RequestNo::NONE`].
    pub no: RequestNo,
    /// The `data` member, or the `error` text.
    pub result: Result<Value, String>,
    /// Whether further responses to the same request follow. An error is always the last one.
    pub more: bool,
}

impl Response {
    /// An error about a message that could not be read as a request.
    pub fn to_nobody(error: impl Into<String>) -> Self {
        Self {
            no: RequestNo::NONE,
            result: Err(error.into()),
            more: false,
        }
    }
}

/// Why a frame is no message. Its text goes as it is into a response numbered 0, and never holds
/// a string of the frame, which might be a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Not JSON, nested too deeply or too rich in values.
    #[error("message is not valid JSON: {0}")]
    NotJson(#[source] serde_json::Error),
    /// JSON, but no array at the top.
    #[error("JSON array expected, got: {0}")]
    NotAnArray(&'static str),
    /// The first member names no kind of message.
    #[error("unexpected type {0}")]
    UnexpectedType(String),
    /// The second member is not what this kind of message needs.
    #[error("malformed {message} message: {problem}")]
    Malformed {
        /// `REQUEST` or `RESPONSE`.
        message: &'static str,
        /// The rule that was broken.
        problem: &'static str,
    },
}

impl Message {
    /// Reads one frame, which comes without its EOT.
    pub fn parse(frame: &[u8]) -> Result<Self, MessageError> {
        let members = match json::parse(frame).map_err(MessageError::NotJson)? {
            Value::Array(members) => members,
            other => return Err(MessageError::NotAnArray(kind_of(&other))),
        };
        let mut members = members.into_iter();
        let kind = members.next();
        match kind.as_ref().and_then(integer) {
            Some(0) => parse_request(members.next()).map(Self::Request),
            Some(1) => parse_response(members.next()).map(Self::Response),
            Some(2) => Ok(Self::Ping),
            Some(3) => Ok(Self::Pong),
            _ => Err(MessageError::UnexpectedType(match kind {
                Some(Value::Number(number)) => number.to_string(),
                Some(other) => kind_of(&other).to_owned(),
                None => "undefined".to_owned(),
            })),
        }
    }

    /// Appends the message and its EOT.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Request(r) => encode_request(r.no, &r.kind, &r.data, r.password.as_ref(), out),
            Self::Response(r) => {
                let result = r.result.as_ref().map_err(String::as_str);
                encode_response(r.no, result, r.more, out);
            }
            Self::Ping => out.put_slice(PING),
            Self::Pong => out.put_slice(PONG),
        }
    }
}

/// A whole ping with its EOT.
pub(crate) const PING: &[u8] = b"[2]\x04";
/// A whole pong with its EOT.
pub(crate) const PONG: &[u8] = b"[3]\x04";

/// Appends a request and its EOT, without a copy of its arguments.
pub(crate) fn encode_request(
    no: RequestNo,
    kind: &str,
    data: &Value,
    password: Option<&Secret>,
    out: &mut BytesMut,
) {
    #[derive(Serialize)]
    struct Wire<'a> {
        no: i64,
        #[serde(rename = "type")]
        kind: &'a str,
        #[serde(skip_serializing_if = "Value::is_null")]
        data: &'a Value,
        #[serde(skip_serializing_if = "Option::is_none")]
        password: Option<&'a str>,
    }
    let password = password.map(Secret::expose);
    write(
        &(
            0,
            Wire {
                no: no.0,
                kind,
                data,
                password,
            },
        ),
        out,
    );
}

/// Appends a response and its EOT, without a copy of its data.
pub(crate) fn encode_response(
    no: RequestNo,
    result: Result<&Value, &str>,
    more: bool,
    out: &mut BytesMut,
) {
    #[derive(Serialize)]
    struct Wire<'a> {
        no: i64,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        more: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<&'a Value>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a str>,
    }
    write(
        &(
            1,
            Wire {
                no: no.0,
                more: more && result.is_ok(),
                data: result.ok(),
                error: result.err(),
            },
        ),
        out,
    );
}

fn write<T: Serialize>(message: &T, out: &mut BytesMut) {
    serde_json::to_writer(out.writer(), message).expect("memory takes every JSON value");
    out.put_u8(EOT);
}

fn parse_request(data: Option<Value>) -> Result<Request, MessageError> {
    let malformed = |problem| MessageError::Malformed {
        message: "REQUEST",
        problem,
    };
    let mut fields = object(data).ok_or_else(|| malformed("data is not an object"))?;
    let kind = fields
        .remove("type")
        .ok_or_else(|| malformed("missing required field type"))?;
    let no = fields
        .remove("no")
        .ok_or_else(|| malformed("missing required field no"))?;
    let no = integer(&no).ok_or_else(|| malformed("'no' must be integer"))?;
    let Value::String(kind) = kind else {
        return Err(malformed("'type' must be string"));
    };
    let data = fields.remove("data").unwrap_or_default();
    if data.is_boolean() {
        return Err(malformed(
            "'data' must be any of: string, number, object, array",
        ));
    }
    let password = match fields.remove("password") {
        Some(Value::String(text)) => Some(Secret::new(text)),
        _ => None,
    };
    Ok(Request {
        no: RequestNo(no),
        kind,
        data,
        password,
    })
}

fn parse_response(data: Option<Value>) -> Result<Response, MessageError> {
    let malformed = |problem| MessageError::Malformed {
        message: "RESPONSE",
        problem,
    };
    let mut fields = object(data).ok_or_else(|| malformed("data is not an object"))?;
    let no = fields
        .remove("no")
        .ok_or_else(|| malformed("missing required field no"))?;
    let no = integer(&no).ok_or_else(|| malformed("'no' must be integer"))?;
    let result = match fields.remove("error") {
        None | Some(Value::Null) => Ok(fields.remove("data").unwrap_or_default()),
        Some(Value::String(error)) => Err(error),
        Some(_) => return Err(malformed("'error' must be string")),
    };
    Ok(Response {
        no: RequestNo(no),
        more: result.is_ok() && fields.get("more") == Some(&Value::Bool(true)),
        result,
    })
}

fn object(data: Option<Value>) -> Option<Map<String, Value>> {
    match data {
        Some(Value::Object(fields)) => Some(fields),
        _ => None,
    }
}
