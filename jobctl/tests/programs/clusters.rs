//! What is shown of more than fits a screen: 50 workers, 300 targets, dozens of troubles.

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::jobctl::ask;
use crate::statuses::memory;
use crate::terminal::Terminal;

/// 50 workers that serve 6 of 300 targets each; the 300th has a backlog.
fn large() -> Value {
    let worker = |at: usize| {
        let targets = (0..6).map(|of| at * 6 + of);
        let status: serde_json::Map<String, Value> = targets
            .map(|of| {
                let running = usize::from(of == 299);
                (format!("target-{of:03}"), json!({"paused": false, "concurrency": 4, "length": running, "running": running, "queued": 0}))
            })
            .collect();
        let names: Vec<&String> = status.keys().collect();
        json!({"remoteAddr": "10.0.0.1", "remotePort": 1000 + at, "name": format!("web{at:02}"), "targets": names,
               "workerStatus": {"targets": status, "jobPromisesCount": 0, "memoryUsage": memory(), "uptime": 60}})
    };
    json!({"workers": (0..50).map(worker).collect::<Vec<_>>(), "memoryUsage": memory()})
}

/// 40 workers, of which all but the first are silent.
fn troubled() -> Value {
    let worker = |at: usize| {
        let mut info = json!({"remoteAddr": "10.0.0.1", "remotePort": 1000 + at, "name": format!("web{at:02}"), "targets": ["mail"]});
        if at == 0 {
            info["workerStatus"] = json!({"targets": {"mail": {"paused": false, "concurrency": 4, "length": 0}}, "jobPromisesCount": 0, "memoryUsage": memory()});
        } else {
            info["workerStatusError"] = format!(
                "worker 'web{at:02}' (10.0.0.1:{}) did not answer within 5 s",
                1000 + at
            )
            .into();
        }
        info
    };
    json!({"workers": (0..40).map(worker).collect::<Vec<_>>(), "memoryUsage": memory()})
}

#[tokio::test(flavor = "multi_thread")]
async fn many_troubles_leave_room_for_the_tables() {
    let master = Daemon::master(Ok(troubled())).await;
    let port = master.address.port().to_string();
    for (columns, lines) in [(80, 24), (200, 50)] {
        for command in ["status", "status --watch=200ms"] {
            let arguments = ["--master", "--port", &port].into_iter();
            let arguments: Vec<&str> = arguments.chain(command.split(' ')).collect();
            let mut screen = Terminal::sized(columns, lines, &arguments, &[]);
            let text = screen.sees(&["TARGET", "WORKER", "did not answer", "from jobd-master"]);
            assert!(text.starts_with("TARGET"), "{command}:\n{text}");
            let more = format!("jobctl --master --port {port} doctor what mends them");
            assert!(
                text.contains("more: --all shows them,") && text.contains(&more),
                "{command}:\n{text}"
            );
            // They take a fourth of the screen at most.
            let notes = text
                .lines()
                .skip_while(|line| !line.contains("did not answer"));
            let notes = notes.take_while(|line| !line.starts_with("40 workers"));
            assert!(
                notes.count() <= usize::from(lines) / 4,
                "{command}:\n{text}"
            );
            screen.press("\x03");
            screen.ends();
        }
    }
    let all = ["--master", "status", "--all"];
    let all = ask(master.address, &all).await.stdout;
    assert_eq!(all.matches("did not answer").count(), 39, "{all}");
}

// The daemon answers while the terminal is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_cluster_is_on_one_screen() {
    let master = Daemon::master(Ok(large())).await;
    let port = master.address.port().to_string();
    for (columns, lines) in [(80, 24), (200, 50)] {
        let arguments = ["--master", "--port", &port, "status"];
        let (code, text) = Terminal::sized(columns, lines, &arguments, &[]).ends();
        assert_eq!(code, 0);
        assert!(
            text.starts_with("TARGET"),
            "the first line has gone:\n{text}"
        );
        assert!(text.contains("target-299"), "what runs is shown:\n{text}");
        assert!(
            text.contains("50 workers, 300 targets, 1200 slots"),
            "{text}"
        );
        assert!(text.contains("targets with less to see: --all"), "{text}");
        let all = ["--master", "status", "--all"];
        let all = ask(master.address, &all).await.stdout;
        assert_eq!(all.lines().count(), 1 + 300 + 2 + 50 + 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_cluster_fits_the_screen_of_a_watch_and_of_top() {
    let master = Daemon::master(Ok(large())).await;
    let port = master.address.port().to_string();
    for (columns, lines) in [(80, 24), (200, 50)] {
        for command in ["status --watch=200ms", "top"] {
            let arguments = ["--master", "--port", &port].into_iter();
            let arguments: Vec<&str> = arguments.chain(command.split(' ')).collect();
            let mut screen = Terminal::sized(columns, lines, &arguments, &[]);
            let text = screen.sees(&["TARGET", "target-299", "WORKER", "web"]);
            assert!(
                text.lines().count() <= usize::from(lines),
                "{command}:\n{text}"
            );
            // What needs an eye is on top of it, whatever does not fit.
            let first = text.lines().position(|line| line.starts_with("target-"));
            let busy = text.lines().position(|line| line.starts_with("target-299"));
            assert_eq!(first, busy, "{command}:\n{text}");
            screen.press("\x03");
            assert_eq!(screen.ends().0, 0, "{command}");
            screen.look(|screen| assert!(!screen.alternate_screen() && !screen.hide_cursor()));
        }
    }
}
