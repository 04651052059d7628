//! A client that is as simple as the installed ones: bytes over TCP. It shares no code with the
//! programs, so that a mistake in their codec cannot hide in it.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Ends each message.
pub const EOT: u8 = 4;

const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// One connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
    last_no: i64,
}

impl Wire {
    /// Connects.
    pub async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        Self::over(stream)
    }

    /// Speaks over a connection that exists, for tests that play a worker or a server.
    pub fn over(stream: TcpStream) -> Self {
        Self {
            stream,
            read: Vec::new(),
            last_no: 0,
        }
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.expect("send");
    }

    /// Sends bytes that the peer may refuse by closing.
    pub async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Sends text and EOT.
    pub async fn say(&mut self, text: &str) {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(EOT);
        self.send(bytes).await;
    }

    /// The text of the next message.
    ///
    /// # Panics
    /// When none comes in time, or the connection ends first.
    pub async fn frame(&mut self) -> String {
        self.frame_within(ANSWER_LIMIT).await
    }

    /// The same with a limit of one's own.
    pub async fn frame_within(&mut self, limit: Duration) -> String {
        let frame = timeout(limit, self.next()).await;
        let frame = frame.unwrap_or_else(|_| panic!("no answer in {limit:?}: {:?}", self.unread()));
        frame.unwrap_or_else(|| panic!("closed without an answer: {:?}", self.unread()))
    }

    /// The next message, or `None` where the peer closed the connection.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == EOT) {
                let frame: Vec<u8> = self.read.drain(..=end).collect();
                let text = frame[..end].to_vec();
                return Some(String::from_utf8(text).expect("messages are UTF-8"));
            }
            match self.stream.read_buf(&mut self.read).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Waits until the peer closes the connection without another word.
    pub async fn closed(&mut self) {
        let next = timeout(ANSWER_LIMIT, self.next()).await;
        let next = next.unwrap_or_else(|_| panic!("not closed within {ANSWER_LIMIT:?}"));
        assert_eq!(next, None, "expected the end of the connection");
    }

    /// What came and is not a whole message.
    pub fn unread(&self) -> String {
        String::from_utf8_lossy(&self.read).into_owned()
    }

    /// Sends a request and returns the whole response object.
    pub async fn respond(&mut self, kind: &str, data: Value) -> Value {
        self.last_no += 1;
        let no = self.last_no;
        let request = json!([0, {"no": no, "type": kind, "data": data}]);
        self.say(&request.to_string()).await;
        self.response(no).await
    }

    /// Waits for the response to request `no`; pings in between are answered.
    pub async fn response(&mut self, no: i64) -> Value {
        loop {
            let frame = self.frame().await;
            let message: Value = serde_json::from_str(&frame).expect("messages are JSON");
            match message[0].as_i64() {
                Some(1) => {
                    assert_eq!(message[1]["no"], no, "unasked answer {frame}");
                    return message[1].clone();
                }
                Some(2) => self.say("[3]").await,
                Some(3) => {}
                _ => panic!("unexpected message {frame}"),
            }
        }
    }

    /// Sends a request and returns the data of its answer.
    ///
    /// # Panics
    /// When the answer is an error.
    pub async fn ask(&mut self, kind: &str, data: Value) -> Value {
        let response = self.respond(kind, data).await;
        let error = response.get("error");
        assert!(error.is_none(), "{kind} failed: {response}");
        response["data"].clone()
    }

    /// Sends a request and returns its error.
    ///
    /// # Panics
    /// When it was served.
    pub async fn refused(&mut self, kind: &str, data: Value) -> String {
        let response = self.respond(kind, data).await;
        let error = response["error"].as_str();
        error
            .unwrap_or_else(|| panic!("{kind} was served: {response}"))
            .to_owned()
    }
}

/// One request as the PHP client makes it: a connection of its own, reading until the byte that
/// came last is EOT, and trouble when there is more than one message by then.
pub async fn php_request(addr: SocketAddr, request: &str) -> Value {
    let mut stream = TcpStream::connect(addr).await.expect("connect");
    let mut bytes = request.as_bytes().to_vec();
    bytes.push(EOT);
    stream.write_all(&bytes).await.expect("send");
    let mut read = Vec::new();
    while read.last() != Some(&EOT) {
        let count = timeout(ANSWER_LIMIT, stream.read_buf(&mut read)).await;
        let count = count.expect("an answer in time").expect("read");
        assert!(count > 0, "closed after {}", String::from_utf8_lossy(&read));
    }
    let text = String::from_utf8(read).expect("messages are UTF-8");
    let messages: Vec<&str> = text.split_terminator(char::from(EOT)).collect();
    assert_eq!(messages.len(), 1, "more than one message: {messages:?}");
    serde_json::from_str(messages[0]).expect("messages are JSON")
}
