//! How often a job may change hands while somebody waits for it.

#![allow(clippy::unwrap_used, reason = "tests")]

use jobd_proto::connection::{ConnectionOptions, Incoming, Peer};
use jobd_proto::daemon::notify::Heartbeat;
use jobd_proto::{Connection, JobId, follow};
use serde_json::json;

use super::*;
use crate::hub::{self, Intervals};
use crate::registry::WorkerId;

/// Both ends of a connection.
fn link() -> [(Connection, Incoming); 2] {
    let (here, there) = tokio::io::duplex(1 << 16);
    [here, there]
        .map(|end| Connection::open(end, Peer::named("test"), ConnectionOptions::default()))
}

/// A hub with one worker, which has a job for so long each time that it is asked, and then says that another has it;
/// the sixth time, that it is done.
async fn hub_of(held: Duration) -> Hub {
    let never = Duration::from_hours(10_000);
    let intervals = Intervals {
        ping: never,
        poke_throttle: never,
    };
    let (owner, hub) = hub::new(intervals, Heartbeat::default(), CancellationToken::new());
    tokio::spawn(owner.run());
    let [(worker, mut asked), (to_worker, mut requests)] = link();
    tokio::spawn(async move {
        worker.request("", json!({}), None).await.unwrap();
        for attempt in 1..=6 {
            let responses = asked.next().await.unwrap().stream();
            let turn = responses.ready().await.unwrap();
            responses.send(turn, &json!({"state": "accepted"}));
            tokio::time::sleep(held).await;
            let state = if attempt < 6 { "accepted" } else { "done" };
            let last = json!({"state": state, "worker": "another", "attempt": attempt});
            responses.end(Ok(last));
        }
    });
    let request = requests.next().await.unwrap();
    hub.register(WorkerId(1), "w".to_owned(), Vec::new(), to_worker, request)
        .await
        .unwrap();
    hub
}

/// The last message to somebody who waits for that job.
async fn last(held: Duration) -> Value {
    let hub = hub_of(held).await;
    let [(client, _here), (_master, mut requests)] = link();
    let wait = Follow {
        wait: true,
        ..Follow::new(JobId(1))
    };
    tokio::spawn(async move {
        let asked = client.request_stream(follow::KIND, wait.data(), None);
        let mut replies = asked.await.unwrap();
        while let Ok(Reply::More(_)) = replies.next().await {}
    });
    let responses = requests.next().await.unwrap().stream();
    let (followers, never) = (Followers::default(), CancellationToken::new());
    let last = followers.serve(&hub, wait, &responses, &never).await;
    last.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_job_that_goes_from_hand_to_hand_is_waited_for_as_long_as_each_has_it_for_a_while() {
    let hour = Duration::from_hours(1);
    assert_eq!(last(hour).await["state"], "done");
    let brief = last(Duration::from_secs(2)).await;
    assert_eq!(
        (&brief["state"], &brief["attempt"]),
        (&json!("accepted"), &json!(ROUNDS))
    );
}
