//! The main job on real input, end to end: a row, a poll, a process, a row that tells the truth.

use jobd_tests::{Ini, Jobd, Scratch, Server};
use serde_json::json;

#[tokio::test]
async fn a_polled_worker_runs_a_waiting_job_and_writes_its_row() {
    let scratch = Scratch::new();
    let database = Server::shared().await.database().await;
    database.minimal_table().await;
    let ini = Ini::worker(&database)
        // No poll of its own: what happens here, the request did.
        .set("poll_interval", 0)
        .set(
            "launcher",
            r#"sh -c "echo out {id}\; echo err {id} >&2\; exit 7""#,
        )
        .target("mail", 1);
    let jobd = Jobd::start(&scratch, &ini).await;
    let id = database.insert_one("mail", "waiting").await;
    let elsewhere = database.insert_one("other", "waiting").await;

    assert_eq!(jobd.ask("poll", json!({"targets": ["mail"]})).await, "ok");

    let row = database.done(id).await;
    assert_eq!(row.verdict(), ("done", Some("fail"), Some(7), None));
    assert_eq!((row.out(), row.err()), ("out 1\n", "err 1\n"));
    assert!(row.time_started > 0 && row.time_finished >= row.time_started);
    assert_eq!(database.row(elsewhere).await.status, "waiting");
    assert!(jobd.stop().await.success());
}
