//! A master over bytes, which answers, or does what a master should not.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What a master does with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Does {
    /// Answers as one should.
    Answers,
    /// The same, when a person has begun to wonder.
    AnswersLate,
    /// Bytes that are no message.
    Garbage,
    /// A message whose parts have other types than they should.
    WrongParts,
    /// An answer that is none to this request.
    WrongData,
    /// An answer that says nothing of what was asked.
    SaysNothing,
    /// An answer to a request that nobody made, and goes.
    WrongNumber,
    /// Half an answer, and goes.
    Half,
    /// Nothing, for ever.
    Nothing,
}

/// What a master with one worker and the job 17 says.
fn proper(kind: &str) -> Value {
    let target = json!({"paused": false, "concurrency": 4, "length": 1, "running": 1, "queued": 0});
    let status = json!({"targets": {"mail": target}, "jobPromisesCount": 0, "memoryUsage": {}, "name": "web1",
        "version": "2.0.0", "uptime": 60});
    let worker = json!({"remoteAddr": "10.0.0.1", "remotePort": 1, "name": "web1", "targets": ["mail"], "workerStatus": status});
    match kind {
        "status" => json!({"workers": [worker], "memoryUsage": {"rss": 1024}}),
        "follow" => json!({"state": "done", "result": "ok", "code": 0}),
        "run-manual" => {
            let outcome =
                json!({"result": "ok", "code": 0, "signal": null, "stdout": "", "stderr": ""});
            json!({"jobs": {"17": outcome}})
        }
        "cancel" => json!({"jobs": {"17": "stopping"}}),
        "send-signal" => json!({"17": true}),
        _ => "ok".into(),
    }
}

/// Answers all requests of a connection; `first` is what it does with `status`.
async fn converse(first: Does, does: Does, stream: &mut TcpStream) -> std::io::Result<()> {
    let (mut heard, mut bytes) = (Vec::new(), vec![0; 4096]);
    loop {
        let read = stream.read(&mut bytes).await?;
        if read == 0 {
            return Ok(());
        }
        heard.extend_from_slice(&bytes[..read]);
        while let Some(end) = heard.iter().position(|byte| *byte == 4) {
            let message: Vec<u8> = heard.drain(..=end).collect();
            let message: Value = serde_json::from_slice(&message[..end]).unwrap();
            let (no, kind) = (message[1]["no"].as_i64(), message[1]["type"].as_str());
            let (Some(no), Some(kind)) = (no, kind) else {
                continue;
            };
            let does = if kind == "status" { first } else { does };
            let answer =
                |no: i64, data: Value| format!("[1,{}]\u{4}", json!({"no": no, "data": data}));
            let said = match does {
                Does::Answers | Does::AnswersLate => answer(no, proper(kind)).into_bytes(),
                Does::Garbage => (0..=255).cycle().take(4096).collect(),
                Does::WrongParts => b"[1,{\"no\":\"x\",\"data\":[]}]\x04".to_vec(),
                Does::WrongData => answer(no, json!(["\u{1b}[2J", 17])).into_bytes(),
                Does::SaysNothing => answer(no, json!({})).into_bytes(),
                Does::WrongNumber => answer(no + 1000, proper(kind)).into_bytes(),
                Does::Half => answer(no, proper(kind)).into_bytes()[..20].to_vec(),
                Does::Nothing => continue,
            };
            if does == Does::AnswersLate {
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            stream.write_all(&said).await?;
            if matches!(does, Does::WrongNumber | Does::Half) {
                return Ok(());
            }
        }
    }
}

/// A port that is free.
const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A listening master; it is gone, and its connections with it, when this is dropped.
pub(crate) struct Master {
    pub(crate) address: SocketAddr,
    _serving: JoinSet<()>,
}

impl Master {
    pub(crate) async fn at(address: SocketAddr, does: Does) -> Self {
        Self::serve(address, does, does).await
    }

    pub(crate) async fn start(does: Does) -> Self {
        Self::at(ANY, does).await
    }

    /// One that says how it is as it should, and does this with every other request.
    pub(crate) async fn after_status(does: Does) -> Self {
        Self::serve(ANY, Does::Answers, does).await
    }

    async fn serve(address: SocketAddr, first: Does, does: Does) -> Self {
        let deadline = Instant::now() + Duration::from_secs(10);
        // The one before is on its way out.
        let listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                // It does not matter how the client went.
                connections.spawn(async move { drop(converse(first, does, &mut stream).await) });
            }
        });
        Self {
            address,
            _serving: serving,
        }
    }
}
