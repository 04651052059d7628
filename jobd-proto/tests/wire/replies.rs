//! Typed requests and replies as bytes.

use jobd_proto::master::{
    ManualJob, MasterRequest, MasterSignalReply, MasterStatus, SignalJob, WorkerInfo,
};
use jobd_proto::memory::MemoryUsage;
use jobd_proto::worker::{
    JobOutcome, RunManualReply, SignalReply, TargetStatus, WorkerRequest, WorkerStatus,
};
use jobd_proto::{JobId, JobResult, TargetName, Targets};
use serde_json::{Value, json};

#[test]
fn worker_requests_are_written_as_they_are_read() {
    let target = || TargetName::new("n1").unwrap();
    let named = || Targets::Named(vec!["a".to_owned(), "b".to_owned()]);
    let rows = [
        (WorkerRequest::Poll(Targets::All), "poll", "null"),
        (
            WorkerRequest::Poll(named()),
            "poll",
            r#"{"targets":["a","b"]}"#,
        ),
        (
            WorkerRequest::Pause(named()),
            "pause",
            r#"{"targets":["a","b"]}"#,
        ),
        (WorkerRequest::Continue(Targets::All), "continue", "null"),
        (WorkerRequest::Status, "status", "null"),
        (
            WorkerRequest::RunManual {
                ids: vec![JobId(3), JobId(1)],
            },
            "run-manual",
            r#"{"ids":[3,1]}"#,
        ),
        (
            WorkerRequest::SendSignal {
                jobs: vec![(JobId(9), 2), (JobId(10), 15)],
            },
            "send-signal",
            r#"{"jobs":{"10":15,"9":2}}"#,
        ),
        (
            WorkerRequest::AddTarget {
                target: target(),
                concurrency: 2,
            },
            "add-target",
            r#"{"concurrency":2,"target":"n1"}"#,
        ),
        (
            WorkerRequest::RemoveTarget { target: target() },
            "remove-target",
            r#"{"target":"n1"}"#,
        ),
        (
            WorkerRequest::SetTargetConcurrency {
                target: target(),
                concurrency: 5,
            },
            "set-target-concurrency",
            r#"{"concurrency":5,"target":"n1"}"#,
        ),
    ];
    for (request, kind, data) in rows {
        assert_eq!(
            (request.kind(), request.data().to_string().as_str()),
            (kind, data)
        );
        assert_eq!(WorkerRequest::parse(kind, &request.data()), Ok(request));
    }
}

#[test]
fn master_requests_are_written_as_they_are_read() {
    let rows = [
        (
            MasterRequest::RegisterWorker {
                name: "w1".to_owned(),
                targets: vec![TargetName::new("a").unwrap()],
            },
            "register-worker",
            r#"{"name":"w1","targets":["a"]}"#,
        ),
        (MasterRequest::Poke(Targets::All), "poke", "null"),
        (MasterRequest::Pause(Targets::All), "pause", "null"),
        (
            MasterRequest::Continue(Targets::Named(vec!["a".to_owned()])),
            "continue",
            r#"{"targets":["a"]}"#,
        ),
        (
            MasterRequest::Status { poll_workers: true },
            "status",
            r#"{"poll_workers":true}"#,
        ),
        (
            MasterRequest::RunManual {
                jobs: vec![ManualJob {
                    id: JobId(1),
                    target: "a".to_owned(),
                }],
            },
            "run-manual",
            r#"{"jobs":[{"id":1,"target":"a"}]}"#,
        ),
        (
            MasterRequest::SetTargetConcurrency {
                target: TargetName::new("a").unwrap(),
                concurrency: 5,
                worker: None,
            },
            "set-target-concurrency",
            r#"{"concurrency":5,"target":"a"}"#,
        ),
        (
            MasterRequest::SetTargetConcurrency {
                target: TargetName::new("a").unwrap(),
                concurrency: 5,
                worker: Some("web1".to_owned()),
            },
            "set-target-concurrency",
            r#"{"concurrency":5,"target":"a","worker":"web1"}"#,
        ),
        (
            MasterRequest::SendSignal {
                jobs: vec![SignalJob {
                    id: JobId(1),
                    signal: 15,
                    target: "a".to_owned(),
                }],
            },
            "send-signal",
            r#"{"jobs":[{"id":1,"signal":15,"target":"a"}]}"#,
        ),
    ];
    for (request, kind, data) in rows {
        assert_eq!(
            (request.kind(), request.data().to_string().as_str()),
            (kind, data)
        );
        assert_eq!(MasterRequest::parse(kind, &request.data()), Ok(request));
    }
}

#[test]
fn flags_are_read_as_javascript_does() {
    for (flag, expected) in [
        ("true", true),
        ("1", true),
        (r#""1""#, true),
        ("[]", true),
        ("false", false),
        ("0", false),
        ("null", false),
        (r#""""#, false),
    ] {
        let data = serde_json::from_str(&format!(r#"{{"poll_workers":{flag}}}"#)).unwrap();
        let expected = Ok(MasterRequest::Status {
            poll_workers: expected,
        });
        assert_eq!(MasterRequest::parse("status", &data), expected, "{flag}");
    }
    let absent = MasterRequest::parse("status", &Value::Null);
    assert_eq!(
        absent,
        Ok(MasterRequest::Status {
            poll_workers: false
        })
    );
}

#[test]
fn manual_ids_are_taken_once_in_their_order() {
    let request = WorkerRequest::parse("run-manual", &json!({"ids": [5, 2, 5.0, 2, 9]}));
    let ids = vec![JobId(5), JobId(2), JobId(9)];
    assert_eq!(request, Ok(WorkerRequest::RunManual { ids }));
}

#[test]
fn a_workers_status_has_the_keys_of_the_original() {
    let text = concat!(
        r#"{"targets":{"a":{"paused":false,"concurrency":3,"length":2}},"jobPromisesCount":1,"#,
        r#""memoryUsage":{"rss":1,"heapTotal":2,"heapUsed":3,"external":4,"arrayBuffers":5}}"#
    );
    let target = TargetStatus {
        concurrency: 3,
        length: 2,
        ..TargetStatus::default()
    };
    let status = WorkerStatus {
        targets: [("a".to_owned(), target)].into(),
        waiters: 1,
        memory_usage: MemoryUsage {
            rss: 1,
            heap_total: 2,
            heap_used: 3,
            external: 4,
            array_buffers: 5,
            ..MemoryUsage::default()
        },
        ..WorkerStatus::default()
    };
    assert_eq!(serde_json::to_string(&status).unwrap(), text);
    assert_eq!(serde_json::from_str::<WorkerStatus>(text).unwrap(), status);
}

#[test]
fn keys_of_later_versions_pass_through() {
    let status = json!({
        "targets": {"a": {"paused": true, "concurrency": 1, "length": 0, "running": 0, "later": [1]}},
        "jobPromisesCount": 0,
        "memoryUsage": {"rss": 1, "heapTotal": 2, "heapUsed": 3, "external": 0, "arrayBuffers": 0, "more": 9},
        "uptime": 12,
        "leases": {"held": 3},
    });
    let typed: WorkerStatus = serde_json::from_value(status.clone()).unwrap();
    assert_eq!(serde_json::to_value(typed).unwrap(), status);
}

#[test]
fn a_masters_status_lists_its_workers() {
    let text = concat!(
        r#"{"workers":[{"remoteAddr":"10.0.0.5","remotePort":4711,"targets":["a"],"name":"w1","#,
        r#""workerStatusError":"no answer"}],"#,
        r#""memoryUsage":{"rss":0,"heapTotal":0,"heapUsed":0,"external":0,"arrayBuffers":0}}"#
    );
    let worker = WorkerInfo {
        remote_addr: "10.0.0.5".to_owned(),
        remote_port: 4711,
        targets: vec!["a".to_owned()],
        name: "w1".to_owned(),
        worker_status: None,
        worker_status_error: Some("no answer".to_owned()),
    };
    let status = MasterStatus {
        workers: vec![worker],
        ..MasterStatus::default()
    };
    assert_eq!(serde_json::to_string(&status).unwrap(), text);
    assert_eq!(serde_json::from_str::<MasterStatus>(text).unwrap(), status);
}

fn outcome(stdout: String) -> JobOutcome {
    JobOutcome {
        result: JobResult::Ok,
        code: Some(0),
        signal: None,
        stdout,
        stderr: String::new(),
    }
}

#[test]
fn a_manual_run_is_answered_by_results_and_errors() {
    let killed = JobOutcome {
        result: JobResult::Fail,
        code: None,
        signal: Some("SIGKILL".to_owned()),
        stdout: "a\u{4}b".to_owned(),
        stderr: "é".to_owned(),
    };
    let reply = RunManualReply {
        jobs: [(JobId(7), outcome("hi\n".to_owned())), (JobId(12), killed)].into(),
        errors: [(JobId(99999), "job 99999 not found".to_owned())].into(),
    };
    let text = concat!(
        r#"{"jobs":{"7":{"result":"ok","code":0,"signal":null,"stdout":"hi\n","stderr":""},"#,
        r#""12":{"result":"fail","code":null,"signal":"SIGKILL","stdout":"a\u0004b","stderr":"é"}},"#,
        r#""errors":{"99999":"job 99999 not found"}}"#
    );
    assert_eq!(serde_json::to_string(&reply).unwrap(), text);
    assert_eq!(serde_json::from_str::<RunManualReply>(text).unwrap(), reply);
    let value = Value::from(reply.clone());
    assert_eq!(value, serde_json::from_str::<Value>(text).unwrap());
    assert_eq!(
        serde_json::from_value::<RunManualReply>(value).unwrap(),
        reply
    );
    assert_eq!(Value::from(RunManualReply::default()).to_string(), "{}");
    assert_eq!(
        serde_json::to_string(&RunManualReply::default()).unwrap(),
        "{}"
    );
}

#[test]
fn outputs_are_shortened_fairly_and_say_so() {
    for (text, limit) in [
        ("x", 10_000),
        ("\u{0}", 10_000),
        ("ü\n", 9_999),
        ("\"", 5_000),
    ] {
        let mut reply = RunManualReply::default();
        for (id, length) in [(1, 10), (2, 3_000), (3, 50_000), (4, 90_000)] {
            reply.jobs.insert(JobId(id), outcome(text.repeat(length)));
        }
        let before = reply.clone();
        reply.shorten_outputs(limit);
        let wire = |output: &String| serde_json::to_string(output).unwrap().len() - 2;
        let total: usize = reply.jobs.values().map(|job| wire(&job.stdout)).sum();
        assert!(
            total <= limit && total > limit / 2,
            "{total} of {limit} for {text:?}"
        );
        assert_eq!(
            reply.jobs[&JobId(1)],
            before.jobs[&JobId(1)],
            "short ones stay whole"
        );
        let longest = &reply.jobs[&JobId(4)].stdout;
        let (head, note) = longest.split_once("\n[").unwrap();
        let (missing, note) = note.split_once(' ').unwrap();
        assert_eq!(note, "bytes left out of this reply; the table has them]\n");
        let kept = head.len();
        let whole = before.jobs[&JobId(4)].stdout.len();
        assert_eq!(kept + missing.parse::<usize>().unwrap(), whole, "{text:?}");

        // A master gathers what workers have shortened already.
        reply.shorten_outputs(limit / 2);
        let longest = &reply.jobs[&JobId(4)].stdout;
        let (head, note) = longest.split_once("\n[").unwrap();
        let missing = note.split_once(' ').unwrap().0;
        assert!(head.len() < kept, "shorter than before");
        assert_eq!(head.len() + missing.parse::<usize>().unwrap(), whole);
    }
    let mut reply = RunManualReply::default();
    reply.jobs.insert(JobId(1), outcome("x".repeat(1_000)));
    let before = reply.clone();
    reply.shorten_outputs(1_000);
    assert_eq!(reply, before);
}

#[test]
fn signals_are_answered_by_job() {
    let worker = SignalReply([(JobId(2), true), (JobId(10), false)].into());
    assert_eq!(
        serde_json::to_string(&worker).unwrap(),
        r#"{"2":true,"10":false}"#
    );
    let master = MasterSignalReply {
        errors: [(JobId(3), "worker serving target 'x' not found".to_owned())].into(),
        delivered: [("2".to_owned(), true)].into(),
    };
    let text = r#"{"errors":{"3":"worker serving target 'x' not found"},"2":true}"#;
    assert_eq!(serde_json::to_string(&master).unwrap(), text);
    assert_eq!(
        serde_json::from_str::<MasterSignalReply>(text).unwrap(),
        master
    );
    let none = MasterSignalReply {
        delivered: master.delivered,
        ..MasterSignalReply::default()
    };
    assert_eq!(serde_json::to_string(&none).unwrap(), r#"{"2":true}"#);
}
