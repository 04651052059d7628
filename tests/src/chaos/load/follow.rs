//! An application that follows jobs while they run, and keeps what it was told of their output.

use super::*;

/// No job is followed for longer.
const LIMIT: Duration = Duration::from_secs(10);

/// One of so many does not read for a while, and then goes away.
const DEAF: u64 = 4;

/// Follows one job after the other, among the last that were inserted.
pub(super) async fn follow(shared: Arc<Shared>, mut random: Random) {
    loop {
        let busy = shared.begin().await;
        let one = {
            let ledger = shared.ledger.lock().expect("the ledger");
            let mut last = ledger.acknowledged.keys().rev();
            last.nth(random.index(RECENT)).copied()
        };
        if let Some(id) = one {
            let addr = if random.one_in(2) {
                shared.master
            } else {
                shared.workers[random.index(shared.workers.len())]
            };
            let pause = if random.one_in(DEAF) {
                random.millis(500, 3_000)
            } else {
                Duration::ZERO
            };
            let wait = random.one_in(2);
            if let Ok(Some(text)) = timeout(LIMIT, stdout(addr, id, wait, pause)).await {
                let mut ledger = shared.ledger.lock().expect("the ledger");
                ledger.followed.push((id, text));
            }
        }
        drop(busy);
        sleep(random.millis(50, 500)).await;
    }
}

/// What an attempt of a job prints to standard output, from its beginning to its end or to a gap; the last attempt's that
/// was seen.
async fn stdout(addr: SocketAddr, id: u64, wait: bool, pause: Duration) -> Option<String> {
    let mut wire = Wire::over(TcpStream::connect(addr).await.ok()?);
    let data = json!({"id": id, "wait": wait});
    let request = json!([0, {"no": 1, "type": "follow", "data": data}]).to_string();
    send(&mut wire, &request).await?;
    sleep(pause).await;
    let (mut text, mut attempt) = (String::new(), Value::Null);
    loop {
        let message: Value = serde_json::from_str(&wire.next().await?).ok()?;
        if message[0] == 2 {
            send(&mut wire, "[3]").await?;
            continue;
        }
        let said = &message[1]["data"];
        if said["state"] == "running" && said["attempt"] != attempt {
            attempt = said["attempt"].clone();
            text.clear();
        }
        if said["stream"] == "stdout" {
            match said["text"].as_str() {
                Some(more) if said["at"] == text.len() => text.push_str(more),
                _ => return Some(text),
            }
        }
        if message[1]["more"] != true {
            return Some(text);
        }
    }
}

async fn send(wire: &mut Wire, text: &str) -> Option<()> {
    let bytes = [text.as_bytes(), &[crate::wire::EOT]].concat();
    wire.try_send(&bytes).await.ok()
}
