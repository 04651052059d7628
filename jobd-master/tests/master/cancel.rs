//! Cancellations: everybody is asked for what he has, and one for the rows of the rest.

use jobd_proto::worker::WorkerRequest;
use serde_json::{Value, json};

use crate::played::Master;

/// A worker that runs `running`, and whose table has `row`, of which it says this.
fn answers(running: u64, row: u64, says: &'static str) -> impl Fn(WorkerRequest) -> Value + Send {
    move |request| {
        let WorkerRequest::Cancel { ids, held } = request else {
            panic!("asked for {request:?}")
        };
        let mut reply = json!({"jobs": {}, "errors": {}});
        for id in ids {
            let key = id.to_string();
            if id.0 == running {
                reply["jobs"][key] = "stopping".into();
            } else if !held && id.0 == row {
                reply["jobs"][key] = says.into();
            } else if !held {
                reply["errors"][key.clone()] = format!("job {id} not found").into();
            }
        }
        reply
    }
}

#[tokio::test]
async fn a_job_is_cancelled_wherever_it_is() {
    let master = Master::start().await;
    let client = master.client().await;
    let nobody = client.ask("cancel", json!({"ids": [1]})).await;
    assert_eq!(nobody, json!({"errors": {"1": "no worker is registered"}}));
    // One of a version before 2 knows nothing of it.
    let mut old = master.worker("old", &["a"]).await;
    let _one = master
        .worker("one", &["a"])
        .await
        .serve(answers(1, 3, "cancelled"));
    let _two = master
        .worker("two", &["b"])
        .await
        .serve(answers(2, 3, "too late"));
    let asked =
        tokio::spawn(async move { client.ask("cancel", json!({"ids": [1, 2, 3, 4, 4]})).await });
    for _ in 0..2 {
        let (_, request) = old.next().await;
        request.respond(Err("unknown request type: 'cancel'".into()));
    }
    let said = asked.await.unwrap();
    assert_eq!(
        said,
        json!({
            "jobs": {"1": "stopping", "2": "stopping", "3": "cancelled"},
            "errors": {"4": "job 4 not found"},
        })
    );
    let client = master.client().await;
    for (data, error) in [
        (json!({}), "ids must be array"),
        (json!({"ids": ["1"]}), "all ids must be numbers, got string"),
        (
            json!({"ids": [-1]}),
            "all ids must be positive integers, got -1",
        ),
    ] {
        assert_eq!(client.refused("cancel", data).await, error);
    }
}
