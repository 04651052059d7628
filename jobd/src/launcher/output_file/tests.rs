use std::collections::BTreeMap;

use futures::FutureExt as _;
use jobd_proto::{JobId, TargetName};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::*;
use crate::fate::Retries;
use crate::job::{Origin, Terms, Tokens};
use crate::launcher::{Attempt, Captured, Launcher, LauncherSettings, Order, Outcome, Template};
use crate::per_target::{PerTarget, TargetSettings};
use crate::reports::Reports;

#[test]
fn names_of_targets_stay_names() {
    for (target, name) in [
        ("mail", "mail"),
        ("user/7", "user%2F7"),
        ("..", "%2E."),
        (".hidden", "%2Ehidden"),
        ("a b%2Fж", "a%20b%252F%D0%B6"),
    ] {
        assert_eq!(file_name(target), name);
    }
    assert!(file_name(&"ж".repeat(400)).len() <= MAX_NAME + 3);
}

#[test]
fn a_template_is_an_absolute_path_with_letters_that_it_knows() {
    assert!(FileTemplate::parse("/var/log/%t/%i-%a.log").is_some());
    assert!(FileTemplate::parse("/100%%/x").is_some());
    for wrong in ["", "x.log", "/x/", "/%x", "/%"] {
        assert_eq!(FileTemplate::parse(wrong), None, "{wrong}");
    }
}

#[test]
fn what_fits_is_written_and_the_first_byte_too_much_ends_it() {
    let check = |chunks: &[&str], room, expected: &str, left, fits| {
        let mut chunks: Vec<Vec<u8>> = chunks.iter().map(|chunk| (*chunk).into()).collect();
        let mut room = room;
        assert_eq!(fit(&mut chunks, &mut room), fits, "{expected}");
        assert_eq!(
            (String::from_utf8(chunks.concat()).unwrap(), room),
            (expected.to_owned(), left)
        );
    };
    let full = |text: &str| format!("{text}{}", str::from_utf8(FULL).unwrap());
    check(&["abc", "de"], 6, "abcde", 1, true);
    check(&["abc", "de"], 5, "abcde", 0, true);
    check(&["abc", "de", "f"], 4, &full("abcd"), 0, false);
    check(&["abc", "de"], 3, &full("abc"), 0, false);
    check(&["a"], 0, &full(""), 0, false);
}

#[tokio::test]
async fn the_end_of_a_file_waits_for_its_disk_on_a_thread() {
    let base = std::env::temp_dir();
    let path = base.join(format!("jobd-output-{}", std::process::id()));
    let place = Place {
        path: path.clone(),
        base,
    };
    let writers = Writers::default();
    let (sender, chunks) = mpsc::channel(1);
    let writer = tokio::spawn(write(place, 10, chunks, writers.clone()));
    sender.send(b"all".to_vec()).await.unwrap();
    while !std::fs::read(&path).is_ok_and(|written| written == b"all") {
        tokio::task::yield_now().await;
    }
    let all = u32::try_from(MAX_WRITERS).unwrap();
    let hung = writers.own.acquire_many(all).await.unwrap();
    drop(sender);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!writer.is_finished(), "closed by the only thread");
    drop(hung);
    assert_eq!(writer.await.unwrap().unwrap(), Written::All);
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn who_asks_something_while_a_slow_disk_takes_the_end_of_the_output_loses_none_of_it() {
    let folder = std::env::temp_dir().join(format!("jobd-slow-{}", std::process::id()));
    // More chunks than there is room for, and less than a pipe holds.
    let script = "for n in $(seq 200); do echo $n; sleep 0.01; done; mkdir -p $0";
    let template = format!("sh -c '{script}' {}/over", folder.display());
    let mut settings = LauncherSettings::new(Template::parse(&template).unwrap());
    settings.output_file = FileTemplate::parse(&format!("{}/log", folder.display()));
    let settings = TargetSettings {
        launcher: settings,
        retries: Retries::default(),
    };
    let launcher = Launcher::new(
        &PerTarget::new(settings, BTreeMap::new()),
        std::env::vars_os(),
        "w",
        Arc::new(|_| async { Ok(None) }.boxed()),
        Reports::nowhere(),
    );
    let job = Job {
        id: JobId(1),
        target: TargetName::new("t").unwrap(),
        origin: Origin::Background,
        token: Tokens::new("w", "h", 1).next(Origin::Background),
        attempt: 1,
        interruptions: 0,
        again: false,
        terms: Terms::default(),
    };
    let writers = launcher.way(&job).writers.clone();
    let all = u32::try_from(MAX_WRITERS).unwrap();
    let slow = writers.own.acquire_many(all).await.unwrap();
    let (done, outcome) = oneshot::channel();
    let attempt = Attempt::start(&launcher, job, None, |outcome| {
        done.send(outcome).unwrap();
    });
    while !folder.join("over").exists() {
        sleep(Duration::from_millis(10)).await;
    }
    sleep(Duration::from_millis(500)).await;
    let (answer, delivered) = oneshot::channel();
    attempt.order(Order::Signal(0, answer));
    assert!(!delivered.await.unwrap(), "it is over");
    sleep(Duration::from_millis(300)).await;
    drop(slow);
    let Outcome::Ended(end) = outcome.await.unwrap() else {
        panic!("it has not begun");
    };
    let lines: Vec<String> = (1..=200).map(|n| format!("{n}\n")).collect();
    let all = lines.concat();
    assert_eq!(end.stdout, Captured::whole(&all));
    assert_eq!(std::fs::read_to_string(folder.join("log")).unwrap(), all);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_disk_that_hangs_takes_no_more_threads_than_it_may() {
    let writers = Writers::default();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = Arc::new(std::sync::Mutex::new(held));
    let hung = || {
        let held = held.clone();
        let wait = move || {
            let _ = held.lock().unwrap().recv();
            Ok(())
        };
        writers.run(Duration::from_millis(1), wait)
    };
    let hung = futures::future::join_all((0..=MAX_WRITERS).map(|_| hung())).await;
    let timed_out = |done: &io::Result<()>| matches!(done, Err(error) if error.kind() == io::ErrorKind::TimedOut);
    assert!(hung.iter().all(timed_out));
    // Others have theirs, those of other sections too, and files again once the disk goes on.
    spawn_blocking(|| ()).await.unwrap();
    let others = writers.of_others();
    others.run(WRITE_LIMIT, || Ok(())).await.unwrap();
    assert_eq!(Arc::strong_count(&held), 1 + MAX_WRITERS);
    drop(release);
    writers.run(WRITE_LIMIT, || Ok(())).await.unwrap();
}
