//! Who follows a job on the wire.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jobd_tests::Wire;
use jobd_tests::wait::PATIENCE;
use serde_json::{Value, json};

/// A client in the middle of a `follow`.
pub struct Following {
    pub wire: Wire,
    pub seen: Seen,
}

/// What it was told.
#[derive(Debug, Default)]
pub struct Seen {
    pub states: Vec<Value>,
    pub out: Vec<u8>,
    pub err: Vec<u8>,
    pub missed: u64,
    pub messages: usize,
}

impl Following {
    pub async fn begin(addr: SocketAddr, data: Value) -> Self {
        Self::over(Wire::connect(addr).await, data).await
    }

    /// The same on a connection that is there.
    pub async fn over(mut wire: Wire, data: Value) -> Self {
        let request = json!([0, {"no": 1, "type": "follow", "data": data}]);
        wire.say(&request.to_string()).await;
        Self {
            wire,
            seen: Seen::default(),
        }
    }

    /// The next message, or the last one as an error.
    pub async fn step(&mut self) -> Result<(), Value> {
        let frame = self.wire.frame_within(PATIENCE * 2).await;
        let message: Value = serde_json::from_str(&frame).expect("messages are JSON");
        assert_eq!((&message[0], &message[1]["no"]), (&json!(1), &json!(1)));
        let message = &message[1];
        if message["more"] != true {
            return Err(message.clone());
        }
        self.seen.messages += 1;
        let data = &message["data"];
        match data["stream"].as_str() {
            None => self.seen.states.push(data.clone()),
            Some(stream) => self.seen.output(stream, data),
        }
        Ok(())
    }

    /// Reads until this is true.
    pub async fn until(&mut self, condition: impl Fn(&Seen) -> bool) {
        while !condition(&self.seen) {
            let step = self.step().await;
            assert!(step.is_ok(), "ended too early: {step:?}, {:?}", self.seen);
        }
    }

    /// Reads to the end; the last message.
    pub async fn end(&mut self) -> Value {
        loop {
            if let Err(last) = self.step().await {
                return last;
            }
        }
    }

    /// The same, which must be no error.
    pub async fn last(&mut self) -> Value {
        let last = self.end().await;
        assert!(last.get("error").is_none(), "{last}");
        last["data"].clone()
    }
}

impl Seen {
    pub fn output(&mut self, stream: &str, data: &Value) {
        let bytes = match (&data["text"], &data["base64"]) {
            (Value::String(text), Value::Null) => text.as_bytes().to_vec(),
            (Value::Null, Value::String(text)) => BASE64_STANDARD.decode(text).expect("base64"),
            _ => panic!("bytes in one way: {data}"),
        };
        let missed = data["missed"].as_u64().unwrap_or_default();
        let seen = if stream == "stdout" {
            &mut self.out
        } else {
            assert_eq!(stream, "stderr");
            &mut self.err
        };
        self.missed += missed;
        seen.extend(bytes);
    }

    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.err).into_owned()
    }
}
