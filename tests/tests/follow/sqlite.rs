//! Jobs of several workers on one SQLite file, seen through the master.

use jobd_tests::ground::Ground;
use jobd_tests::{Ini, Jobd, Master};
use serde_json::json;

use super::client::Following;

#[tokio::test]
async fn a_job_of_any_worker_on_a_file_is_followed_through_the_master() {
    let ground = Ground::sqlite().await;
    let listen = Ini::listen();
    let master = Master::start(&ground.scratch, &listen).await;
    let go = ground.scratch.join("go");
    let script = format!(
        "echo one $1; echo two >&2; while [ ! -e {} ]; do sleep 0.02; done; echo three; exit 3",
        go.display()
    );
    let script = ground.scratch.write("job.sh", script);
    let mut workers = Vec::new();
    for target in ["a", "b"] {
        let ini = ground
            .ini()
            .set("name", target)
            .set("master_host", "127.0.0.1")
            .set("master_port", listen.port())
            .set("launcher", format!("sh {} {{id}}", script.display()))
            .target(target, 1);
        workers.push(Jobd::ready(&ground.scratch, &ini).await);
    }
    Master::has_workers(&master, 2).await;
    let mut followers = Vec::new();
    for target in ["a", "b"] {
        let id = ground.insert(target, &[]).await;
        let wait = json!({"id": id, "wait": true});
        followers.push((id, Following::begin(master.addr, wait).await));
    }
    for (id, follower) in &mut followers {
        let all = |seen: &super::client::Seen| !seen.out.is_empty() && !seen.err.is_empty();
        follower.until(all).await;
        assert_eq!(follower.seen.out(), format!("one {id}\n"));
        assert_eq!(follower.seen.err(), "two\n");
    }
    ground.scratch.write("go", "");
    for (id, follower) in &mut followers {
        let last = follower.last().await;
        assert_eq!(last, json!({"state": "done", "result": "fail", "code": 3}));
        let whole = format!("one {id}\nthree\n");
        assert_eq!((follower.seen.out(), follower.seen.missed), (whole, 0));
        assert_eq!(ground.verdict(*id).await, "fail 3 - exit");
    }
    for worker in workers {
        assert!(worker.stop().await.success());
    }
}
