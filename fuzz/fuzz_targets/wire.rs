//! Bytes of a stranger: cut into frames however they come, parsed, and every message that was
//! understood comes back from its own bytes; its arguments are read for both daemons.
//!
//! `cargo +nightly fuzz run wire -- -max_total_time=60`

#![no_main]

use bytes::{Bytes, BytesMut};
use jobd_proto::codec::EotCodec;
use jobd_proto::master::MasterRequest;
use jobd_proto::message::Message;
use jobd_proto::worker::WorkerRequest;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tokio_util::codec::{Decoder, Encoder};

const MAX_FRAME: usize = 4096;

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = (usize::from(input.0) + 1, input.1);
    let (whole, whole_failed) = cut(bytes, bytes.len().max(1));
    let (pieces, pieces_failed) = cut(bytes, piece);
    assert_eq!(whole_failed, pieces_failed);
    assert!(whole_failed || whole == pieces);
    for frame in pieces {
        assert!(!frame.is_empty() && frame.len() <= MAX_FRAME);
        if let Ok(message) = Message::parse(&frame) {
            comes_back(&message);
            read_arguments(&message);
        }
    }
});

/// The frames, and whether the stream ended in one that is too long.
fn cut(bytes: &[u8], piece: usize) -> (Vec<Bytes>, bool) {
    let mut codec = EotCodec::new(MAX_FRAME);
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    for piece in bytes.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            match codec.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
    }
    (frames, false)
}

fn comes_back(message: &Message) {
    let bytes = written(message);
    let again = Message::parse(&bytes[..bytes.len() - 1]).expect("what we write can be read");
    // The last digit of a fraction may change on the way.
    let data = match message {
        Message::Request(request) => &request.data,
        Message::Response(response) => response.result.as_ref().unwrap_or(&Value::Null),
        Message::Ping | Message::Pong => &Value::Null,
    };
    assert!(has_fractions(data) || again == *message);
}

fn has_fractions(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(members) => members.iter().any(has_fractions),
        Value::Object(entries) => entries.values().any(has_fractions),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

fn written(message: &Message) -> BytesMut {
    let mut out = BytesMut::new();
    EotCodec::new(MAX_FRAME)
        .encode(message.clone(), &mut out)
        .expect("memory takes everything");
    assert_eq!(out.iter().filter(|byte| **byte == 4).count(), 1);
    out
}

fn read_arguments(message: &Message) {
    let Message::Request(request) = message else {
        return;
    };
    if let Ok(typed) = WorkerRequest::parse(&request.kind, &request.data) {
        assert_eq!(WorkerRequest::parse(typed.kind(), &typed.data()), Ok(typed));
    }
    if let Ok(typed) = MasterRequest::parse(&request.kind, &request.data) {
        assert_eq!(MasterRequest::parse(typed.kind(), &typed.data()), Ok(typed));
    }
}
