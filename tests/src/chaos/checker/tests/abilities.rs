//! Of retries, time limits, cancellations and reports.

use super::*;

/// What a row says of failed attempts: their numbers, and their processes.
fn failures(id: u64, attempts: &[(u32, u32)]) -> String {
    let code = Plan::of(id, "quick").code;
    let entry = |(attempt, pid): &(u32, u32)| {
        let stderr = Plan::stderr(id, *pid);
        serde_json::json!({"attempt": attempt, "reason": "exit", "code": code, "stderr": stderr})
    };
    let entries: Vec<_> = attempts.iter().map(entry).collect();
    serde_json::json!(entries).to_string()
}

#[test]
fn failures_that_are_forgotten_or_made_up_are_seen() {
    let id = id(false);
    let mut case = good(id);
    case.ledger.answers.clear();
    case.runs.insert(0, run(id, 1, 50, 10));
    case.runs[1].attempt = 2;
    row(&mut case, id).stdout = Some(Plan::of(id, "quick").stdout(id, 2, 100));
    for (errors, breaches) in [
        (Some(failures(id, &[(1, 50), (2, 100)])), &[][..]),
        (None, &[Promise::TrueVerdict]),
        (Some("no list".to_owned()), &[Promise::TrueVerdict]),
        (
            Some(failures(id, &[(1, 51), (2, 100)])),
            &[Promise::TrueVerdict],
        ),
        (Some(failures(id, &[(2, 100)])), &[Promise::TrueVerdict]),
        (Some(failures(id, &[(1, 50)])), &[Promise::TrueVerdict]),
        (
            Some(failures(id, &[(1, 50), (3, 100)])),
            &[Promise::TrueVerdict; 2],
        ),
    ] {
        let row = Ownership {
            reason: Some("exit".to_owned()),
            errors,
            ..counts(2, 2)
        };
        case.ownership.insert(id, row);
        assert_eq!(breached(&case), breaches, "{:?}", case.ownership);
    }
    case.ownership.get_mut(&id).unwrap().errors = None;
    // Its worker may not have been able to say it.
    case.troubles.lose(7, 0, u64::MAX);
    assert_eq!(breached(&case), []);
}

#[test]
fn jobs_that_begin_before_their_time_are_seen() {
    let id = id(true);
    for (due, breaches) in [(1_000, &[][..]), (1_001, &[Promise::NothingEarly])] {
        let mut case = good(id);
        case.ledger.due.insert(id, (500, due));
        assert_eq!(breached(&case), breaches);
        // By the database's clock, which may be wrong.
        case.troubles.add_wrong_clock(600, 700);
        assert_eq!(breached(&case), []);
    }
}

#[test]
fn what_a_job_cannot_have_used_is_seen() {
    let id = id(true);
    for (cpu_ms, peak_kib, breaches) in [
        (Some(0), Some(4_000), &[][..]),
        (None, Some(4_000), &[Promise::TrueVerdict]),
        (Some(0), None, &[Promise::TrueVerdict]),
        (Some(3_000), Some(4_000), &[Promise::TrueVerdict]),
        (Some(0), Some(0), &[Promise::TrueVerdict]),
        (Some(0), Some(4_000_000), &[Promise::TrueVerdict]),
    ] {
        let mut case = good(id);
        let used = Ownership {
            cpu_ms,
            peak_kib,
            ..counts(1, 1)
        };
        case.ownership.insert(id, used);
        assert_eq!(breached(&case), breaches, "{cpu_ms:?} {peak_kib:?}");
    }
}

#[test]
fn a_job_that_ends_for_another_with_its_key_passes_where_there_is_one() {
    let id = id(true);
    let mut case = good(id);
    case.ledger.answers.clear();
    case.runs.clear();
    let ended = row(&mut case, id);
    ended.result = Some("fail".to_owned());
    (ended.return_code, ended.stdout) = (None, None);
    ended.stderr = Some(format!("jobd: not given back, as {SUCCEEDED}\n"));
    let with_key = |key: &str| Ownership {
        unique_key: Some(key.to_owned()),
        ..counts(0, 1)
    };
    case.ownership.insert(id, with_key("k"));
    assert_eq!(breached(&case), [Promise::TrueVerdict]);
    let other = Row {
        id: id + 1,
        target: "quick".to_owned(),
        status: "ignored".to_owned(),
        ..Row::default()
    };
    case.ledger.withdrawn.insert(id + 1, 0);
    case.rows.insert(id + 1, other);
    case.ownership.insert(id + 1, with_key("other"));
    assert_eq!(breached(&case), [Promise::TrueVerdict]);
    case.ownership.insert(id + 1, with_key("k"));
    assert_eq!(breached(&case), []);
    // What came to its end while its worker was there has no need of another.
    case.runs = vec![run(id, 1, 100, 1_000)];
    case.ownership.get_mut(&id).unwrap().attempts = 1;
    assert_eq!(breached(&case), [Promise::TrueVerdict]);
}

#[test]
fn output_that_is_not_in_its_file_is_seen() {
    let id = id(true);
    let plan = Plan::of(id, LOUD);
    let (out, err) = (plan.stdout(id, 1, 100), Plan::stderr(id, 100));
    let check = |file: Option<String>, note: &str, breaches: &[Promise]| {
        let mut case = good(id);
        case.ledger.answers.clear();
        case.runs[0].target = LOUD.to_owned();
        let loud = row(&mut case, id);
        loud.target = LOUD.to_owned();
        (loud.stdout, loud.stderr) = (Some(out.clone()), Some(err.clone() + note));
        case.outputs.extend(file.map(|file| ((id, 1), file)));
        assert_eq!(breached(&case), breaches);
    };
    check(Some(err.clone() + &out), "", &[]);
    check(Some(out.clone()), "", &[Promise::TrueVerdict]);
    check(None, "", &[Promise::TrueVerdict]);
    let note = "jobd: cannot write output_file /x: no space left on device\n";
    check(None, note, &[]);
    check(None, "jobd: something else\n", &[Promise::TrueVerdict]);
}

#[test]
fn an_attempt_after_a_failed_one_passes_where_the_table_has_retries() {
    let id = id(false);
    let mut case = good(id);
    case.ledger.answers.clear();
    case.runs.insert(0, run(id, 1, 50, 10));
    case.runs[1].attempt = 2;
    row(&mut case, id).stdout = Some(Plan::of(id, "quick").stdout(id, 2, 100));
    assert_eq!(breached(&case), [Promise::NothingTwice]);
    let row = Ownership {
        reason: Some("exit".to_owned()),
        errors: Some(failures(id, &[(1, 50), (2, 100)])),
        ..counts(2, 2)
    };
    case.ownership.insert(id, row);
    assert_eq!(breached(&case), []);
    case.ownership.get_mut(&id).unwrap().max_attempts = Some(1);
    assert_eq!(breached(&case), [Promise::NothingTwice], "one too many");
    // Where the row counts wrong, what was seen tells.
    case.ownership.get_mut(&id).unwrap().interruptions = 1;
    assert_eq!(breached(&case), [Promise::NothingTwice]);
    case.ownership.get_mut(&id).unwrap().max_attempts = Some(2);
    case.ownership.get_mut(&id).unwrap().reason = None;
    assert_eq!(breached(&case), [Promise::TrueVerdict], "no reason");
}

#[test]
fn jobs_that_are_given_up_with_attempts_left_are_seen() {
    let id = id(false);
    let given_up = |attempts, most, interruptions, reason: &str| {
        let mut case = good(id);
        case.ledger.answers.clear();
        case.runs[0].attempt = attempts;
        row(&mut case, id).stdout = Some(Plan::of(id, "quick").stdout(id, attempts, 100));
        let mut errors = failures(id, &[(attempts, 100)]);
        if reason == "orphaned" {
            errors = format!(r#"[{{"attempt":{attempts},"reason":"orphaned"}}]"#);
        }
        let counts = Ownership {
            interruptions,
            reason: Some(reason.to_owned()),
            errors: Some(errors),
            ..counts(attempts, most)
        };
        case.ownership.insert(id, counts);
        case
    };
    assert_eq!(breached(&given_up(1, 1, 0, "exit")), []);
    assert_eq!(breached(&given_up(2, 1, 1, "exit")), []);
    assert_eq!(breached(&given_up(1, 2, 0, "exit")), [Promise::NothingLost]);
    assert_eq!(
        breached(&given_up(2, 1, 1 + 1, "exit")),
        [Promise::NothingLost]
    );
    let mut manual = given_up(1, 2, 0, "exit");
    manual.ledger.manual.insert(id);
    assert_eq!(breached(&manual), []);
    let mut orphan = given_up(1, 2, 0, "orphaned");
    row(&mut orphan, id).stderr = Some(format!("{ORPHANED} w1 was not seen\n"));
    orphan.troubles.lose(7, 0, u64::MAX);
    assert_eq!(breached(&orphan), [Promise::NothingLost]);
}

#[test]
fn a_job_that_begins_long_after_its_cancellation_is_seen() {
    for (asked, seen) in [(0, true), (2_000_000_000, false)] {
        let id = id(true);
        let mut case = good(id);
        (case.runs[0].begin_ns, case.runs[0].until_ns) = (21_000_000_000, 21_000_000_010);
        case.ledger.cancels.insert(id);
        case.ledger.asked.insert(id, asked);
        assert_eq!(breached(&case).contains(&Promise::NothingTwice), seen);
    }
}

#[test]
fn what_another_run_has_said_of_how_far_it_is_is_seen() {
    let id = id(true);
    for (pid, breaches) in [(100, &[][..]), (101, &[Promise::TrueVerdict])] {
        let mut case = good(id);
        let counts = Ownership {
            progress: Some(Plan::progress(pid)),
            ..counts(1, 1)
        };
        case.ownership.insert(id, counts);
        assert_eq!(breached(&case), breaches);
    }
}

/// A job that was stopped, for this reason, with the process that it left behind.
fn stopped(reason: &str) -> (u64, Case) {
    let id = 8;
    let mut case = good(id);
    case.ledger.answers.clear();
    let stuck = Run {
        target: STUCK.to_owned(),
        ended: false,
        ..run(id, 1, 100, 1_000)
    };
    let hidden = Run {
        target: HIDDEN.to_owned(),
        pid: 101,
        begin_ns: 1_005,
        until_ns: 1_020,
        ..stuck.clone()
    };
    case.runs = vec![stuck, hidden];
    let row = row(&mut case, id);
    row.target = STUCK.to_owned();
    row.result = Some("fail".to_owned());
    row.return_code = None;
    row.sig = Some("SIGKILL".to_owned());
    row.stdout = Some(Plan::of(id, STUCK).stdout(id, 1, 100));
    let further = Ownership {
        reason: Some(reason.to_owned()),
        ..counts(1, 1)
    };
    case.ownership.insert(id, further);
    case.ledger.cancels.insert(id);
    (id, case)
}

#[track_caller]
fn check_stopped(reason: &str, promise: Promise, spoil: impl FnOnce(&mut Case, u64)) {
    let (id, mut case) = stopped(reason);
    assert_eq!(breached(&case), []);
    spoil(&mut case, id);
    assert_eq!(breached(&case), [promise]);
}

#[test]
fn what_a_stopped_job_leaves_behind_is_seen() {
    for reason in ["timeout", "cancelled"] {
        check_stopped(reason, Promise::NothingLeftBehind, |case, _| {
            case.runs[1].until_ns = 21_000_000_000;
        });
    }
    check_stopped("timeout", Promise::NothingLeftBehind, |case, id| {
        let mut next = run(id, 2, 200, 1_015);
        next.target = STUCK.to_owned();
        next.ended = false;
        case.runs.push(next);
        let further = case.ownership.get_mut(&id).unwrap();
        (further.attempts, further.max_attempts) = (2, Some(2));
        row(case, id).stdout = None;
    });
}

#[test]
fn false_words_about_stopped_jobs_are_seen() {
    check_stopped("cancelled", Promise::TrueVerdict, |case, _| {
        case.ledger.cancels.clear();
    });
    for reason in ["timeout", "cancelled"] {
        check_stopped(reason, Promise::TrueVerdict, |case, id| {
            row(case, id).result = Some("ok".to_owned());
        });
        check_stopped(reason, Promise::TrueVerdict, |case, id| {
            row(case, id).stdout = Some("something else".to_owned());
        });
        check_stopped(reason, Promise::TrueVerdict, |case, id| {
            let row = row(case, id);
            (row.sig, row.return_code) = (None, Some(7));
        });
    }
    check_stopped("timeout", Promise::TrueVerdict, |case, id| {
        case.ownership.get_mut(&id).unwrap().reason = Some("exit".to_owned());
    });
    let (id, mut ran) = stopped("cancelled");
    ran.runs.truncate(1);
    ran.runs[0].target = "quick".to_owned();
    let row = row(&mut ran, id);
    row.target = "quick".to_owned();
    (row.sig, row.stdout) = (None, None);
    assert_eq!(
        breached(&ran),
        [Promise::TrueVerdict],
        "as if it had waited"
    );
    ran.troubles.lose(7, 0, u64::MAX);
    assert_eq!(breached(&ran), []);
    check_stopped("timeout", Promise::TrueVerdict, |case, _| {
        case.runs[0].ended = true;
    });
}

#[test]
fn a_job_that_is_stopped_before_it_says_a_word_passes() {
    for reason in ["timeout", "cancelled"] {
        let (id, mut case) = stopped(reason);
        case.runs.clear();
        row(&mut case, id).stdout = Some(String::new());
        let errors = format!(r#"[{{"attempt":1,"reason":"{reason}"}}]"#);
        case.ownership.get_mut(&id).unwrap().errors = Some(errors);
        assert_eq!(breached(&case), []);
    }
}

/// Or before its process has begun.
#[test]
fn a_job_that_is_called_off_between_its_start_and_its_launch_passes() {
    let note = "jobd: cancelled while it did not run\n";
    for (told, promise) in [(note, None), ("half\n", Some(Promise::NothingTwice))] {
        let (id, mut case) = stopped("cancelled");
        case.runs.clear();
        let row = row(&mut case, id);
        (row.stdout, row.stderr) = (Some(String::new()), Some(note.to_owned()));
        (row.return_code, row.sig) = (None, None);
        let errors = serde_json::json!([{"attempt": 1, "reason": "cancelled", "stderr": told}]);
        case.ownership.get_mut(&id).unwrap().errors = Some(errors.to_string());
        assert_eq!(breached(&case), promise.as_slice(), "{told}");
    }
}

#[test]
fn cancelled_jobs_that_do_not_stay_so_are_seen() {
    check_stopped("cancelled", Promise::NothingTwice, |case, id| {
        case.undone.push(id);
    });
    check_stopped("cancelled", Promise::NothingTwice, |case, id| {
        let counts = case.ownership.get_mut(&id).unwrap();
        counts.errors = Some(r#"[{"attempt":1,"reason":"cancelled"}]"#.to_owned());
        (counts.attempts, counts.max_attempts) = (2, Some(2));
    });
}
