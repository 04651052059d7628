//! The column `data` on a job's standard input.

use std::time::{Duration, Instant};

use jobd_tests::Jobd;
use jobd_tests::ground::Ground;

/// As much as the column takes, in one packet of the server with everything else.
const LARGE: usize = 15 << 20;

fn bytes(length: usize) -> Vec<u8> {
    (0..=250).cycle().take(length).collect()
}

#[tokio::test]
async fn data_arrives_on_stdin_as_it_is() {
    for ground in Ground::each().await {
        let ini = ground
            .ini()
            .set("launcher", "sh -c 'cksum\\; readlink /proc/self/fd/0'")
            .target("a", 2);
        let _jobd = Jobd::start(&ground.scratch, &ini).await;
        // What cksum(1) prints for nothing, and for these bytes.
        for (data, sum) in [
            (Some(&b""[..]), "4294967295 0\n"),
            (Some(b"123456789"), "930766865 9\n"),
            (Some(b"\0\xff\r\n"), "1096715942 4\n"),
            (None, "4294967295 0\n/dev/null\n"),
        ] {
            let id = match data {
                Some(data) => ground.insert_data("a", data).await,
                None => ground.insert("a", &[]).await,
            };
            assert_eq!(ground.verdict(id).await, "ok 0 - -");
            let out = ground.text(id, "stdout").await.expect("output");
            assert!(out.starts_with(sum), "{data:?}: {out}");
            assert_eq!(out.contains("/dev/null"), data.is_none(), "{out}");
        }
    }
}

#[tokio::test]
async fn many_megabytes_go_in_and_out_at_once() {
    for ground in Ground::each().await {
        let script = ground
            .scratch
            .write("echo.sh", "cat | tee /dev/stderr | cksum");
        let ini = ground
            .ini()
            .set("launcher", format!("sh {}", script.display()))
            .set("max_output_buffer", "32M")
            .target("a", 1);
        let _jobd = Jobd::start(&ground.scratch, &ini).await;
        let data = vec![b'x'; LARGE];
        let id = ground.insert_data("a", &data).await;
        assert_eq!(ground.verdict(id).await, "ok 0 - -");
        let whole = LARGE.to_string();
        assert_eq!(
            ground.text(id, "LENGTH(stderr)").await.as_deref(),
            Some(&*whole)
        );
        let out = ground.text(id, "stdout").await.expect("output");
        assert!(out.trim_end().ends_with(&whole), "{out}");
    }
}

#[tokio::test]
async fn what_is_not_read_hurts_nobody() {
    for ground in Ground::each().await {
        let ini = ground
            .ini()
            .target("ignores", 1)
            .own("ignores", "launcher", "sh -c 'sleep 0.2\\; echo well'")
            .target("closes", 1)
            .own(
                "closes",
                "launcher",
                "sh -c 'exec <&-\\; sleep 0.2\\; echo well'",
            )
            .target("nothing", 1)
            .own("nothing", "launcher", "sh -c 'cat\\; echo well'")
            .own("nothing", "launcher.stdin", "null")
            .target("stopped", 1)
            .own("stopped", "launcher", "sleep 1000")
            .own("stopped", "timeout", "0.3s");
        let _jobd = Jobd::start(&ground.scratch, &ini).await;
        let data = bytes(1 << 20);
        for target in ["ignores", "closes", "nothing"] {
            let id = ground.insert_data(target, &data).await;
            assert_eq!(ground.verdict(id).await, "ok 0 - -", "{target}");
            let out = ground.text(id, "stdout").await;
            assert!(out.as_deref() == Some("well\n"), "{target}");
        }
        let begun = Instant::now();
        let id = ground.insert_data("stopped", &data).await;
        assert_eq!(ground.verdict(id).await, "fail - SIGTERM timeout");
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}
