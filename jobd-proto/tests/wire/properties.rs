//! What holds for every message and every way it may be cut.

use bytes::{Bytes, BytesMut};
use jobd_proto::codec::{EotCodec, FrameError};
use jobd_proto::master::MasterRequest;
use jobd_proto::message::{Message, Request, RequestNo, Response};
use jobd_proto::worker::WorkerRequest;
use jobd_proto::{Secret, message};
use proptest::prelude::*;
use serde_json::Value;
use tokio_util::codec::{Decoder, Encoder};

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i32>().prop_map(|number| Value::from(f64::from(number) / 4.0)),
        any::<String>().prop_map(Value::from),
        Just(Value::from("\u{4}\u{0}😀\"\\")),
    ];
    leaf.prop_recursive(5, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_message() -> impl Strategy<Value = Message> {
    let no = || any::<i64>().prop_map(RequestNo);
    let request = (
        no(),
        any::<String>(),
        any_value().prop_filter("no boolean arguments", |data| !data.is_boolean()),
        prop::option::of(any::<String>().prop_map(Secret::new)),
    )
        .prop_map(|(no, kind, data, password)| Request {
            no,
            kind,
            data,
            password,
        });
    let result = prop_oneof![any_value().prop_map(Ok), any::<String>().prop_map(Err)];
    let response = (no(), result, any::<bool>()).prop_map(|(no, result, more)| Response {
        no,
        more: more && result.is_ok(),
        result,
    });
    prop_oneof![
        request.prop_map(Message::Request),
        response.prop_map(Message::Response),
        Just(Message::Ping),
        Just(Message::Pong),
    ]
}

/// Feeds bytes in pieces of the given sizes, over and over.
fn decode_in_pieces(
    codec: &mut EotCodec,
    bytes: &[u8],
    sizes: &[usize],
) -> Result<Vec<Bytes>, FrameError> {
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    let mut sizes = sizes.iter().cycle();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, later) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
        buffer.extend_from_slice(piece);
        rest = later;
        while let Some(frame) = codec.decode(&mut buffer)? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

proptest! {
    #[test]
    fn messages_come_back_through_any_cut(
        messages in prop::collection::vec(any_message(), 1..6),
        sizes in prop::collection::vec(1..40_usize, 1..10),
    ) {
        let mut codec = EotCodec::new(1 << 20);
        let mut bytes = BytesMut::new();
        for message in &messages {
            codec.encode(message.clone(), &mut bytes).unwrap();
        }
        let ends = bytes[..].split(|byte| *byte == message::EOT).count() - 1;
        prop_assert_eq!(ends, messages.len());
        let frames = decode_in_pieces(&mut codec, &bytes, &sizes).unwrap();
        let read: Vec<_> = frames.iter().map(|frame| Message::parse(frame).unwrap()).collect();
        prop_assert_eq!(read, messages);
    }

    #[test]
    fn bytes_are_cut_alike_however_they_come(
        bytes in prop::collection::vec(prop_oneof![Just(4_u8), Just(b' '), any::<u8>()], 0..400),
        sizes in prop::collection::vec(1..40_usize, 1..10),
        max_frame in 5..200_usize,
    ) {
        let whole = decode_in_pieces(&mut EotCodec::new(max_frame), &bytes, &[400]);
        let pieces = decode_in_pieces(&mut EotCodec::new(max_frame), &bytes, &sizes);
        match (whole, pieces) {
            (Ok(whole), Ok(pieces)) => {
                prop_assert!(whole.iter().all(|frame| !frame.is_empty() && frame.len() <= max_frame));
                prop_assert_eq!(whole, pieces);
            }
            (Err(_), Err(_)) => {}
            (whole, pieces) => prop_assert!(false, "{whole:?} but {pieces:?}"),
        }
    }

    #[test]
    fn no_frame_is_a_reason_to_panic(frame in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Message::parse(&frame);
    }

    #[test]
    fn no_arguments_are_a_reason_to_panic(kind in 0..16_usize, data in any_value(), key in 0..7_usize) {
        const KINDS: [&str; 12] = [
            "poll", "pause", "continue", "status", "run-manual", "send-signal", "add-target",
            "remove-target", "set-target-concurrency", "register-worker", "poke", "nope",
        ];
        const KEYS: [&str; 7] = ["targets", "ids", "jobs", "target", "concurrency", "name", "worker"];
        let kind = KINDS[kind % KINDS.len()];
        for data in [data.clone(), serde_json::json!({ KEYS[key]: data })] {
            if let Ok(request) = WorkerRequest::parse(kind, &data) {
                prop_assert_eq!(WorkerRequest::parse(kind, &request.data()), Ok(request));
            }
            if let Ok(request) = MasterRequest::parse(kind, &data) {
                prop_assert_eq!(MasterRequest::parse(kind, &request.data()), Ok(request));
            }
        }
    }
}
