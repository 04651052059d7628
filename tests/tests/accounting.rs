//! What a job has used: in the columns for that, whichever way it runs and ends.

use std::time::Duration;

use jobd_tests::ground::Ground;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Jobd, until};

/// CPU time and memory of a job that is done, in milliseconds and KiB.
async fn used(ground: &Ground, id: u64) -> (u64, u64) {
    let words = ground.words(id, &["cpu_ms", "peak_kib"]).await;
    let numbers = words.split_once(' ').expect("two words");
    let number = |word: &str| word.parse().unwrap_or_else(|_| panic!("job {id}: {words}"));
    (number(numbers.0), number(numbers.1))
}

/// A script as a launcher.
fn launcher(ground: &Ground, name: &str, script: &str) -> String {
    let script = ground.scratch.write(name, script);
    format!("sh {} {{id}}", script.display())
}

/// The sum of what the shell's `times` says: `0m0.32s 0m0.01s`, once of itself and once of its children.
fn cpu_ms_of(times: &str) -> u64 {
    let time = |word: &str| {
        let (minutes, seconds) = word.strip_suffix('s')?.split_once('m')?;
        let seconds = 60.0 * minutes.parse::<f64>().ok()? + seconds.parse::<f64>().ok()?;
        Some(Duration::from_secs_f64(seconds))
    };
    let sum = times.split_whitespace().map(|word| time(word).expect(word));
    u64::try_from(sum.sum::<Duration>().as_millis()).expect("less than an age")
}

/// Some work for a shell.
const WORK: &str = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done\n";

/// dd(1) has this much in memory, and in one piece.
const PIECE: &str = "dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null\n";

const PIECE_KIB: u64 = 64 << 10;

/// For a shell, a dd without its piece, or jobd itself.
const PROGRAM_KIB: u64 = 40 << 10;

#[tokio::test]
async fn what_a_job_has_used_stands_in_its_row() {
    for ground in Ground::each().await {
        let work = format!("{WORK}times\nkill -USR1 $$\n");
        let nested = format!("({WORK}) & wait $!\n({PIECE})\ntimes\nexit 3\n");
        let ini = ground
            .ini()
            .target("nothing", 1)
            .own("nothing", "launcher", "true")
            .target("work", 1)
            .own("work", "launcher", launcher(&ground, "work.sh", &work))
            .target("piece", 1)
            .own("piece", "launcher", launcher(&ground, "piece.sh", PIECE))
            .target("nested", 1)
            .own(
                "nested",
                "launcher",
                launcher(&ground, "nested.sh", &nested),
            )
            .target("shim", 1)
            .own("shim", "launcher", launcher(&ground, "shim.sh", &nested))
            .own("shim", "nice", 1);
        let _jobd = Jobd::start(&ground.scratch, &ini).await;
        // One after the other: each may be as large as jobd is when it begins.
        for (target, verdict, works, piece) in [
            ("nothing", "ok 0 - -", false, false),
            ("work", "fail - SIGUSR1 signal", true, false),
            ("piece", "ok 0 - -", false, true),
            ("nested", "fail 3 - exit", true, true),
            ("shim", "fail 3 - exit", true, true),
        ] {
            let id = ground.insert(target, &[]).await;
            assert_eq!(ground.verdict(id).await, verdict, "{target}");
            let (cpu_ms, peak_kib) = used(&ground, id).await;
            let said = ground.text(id, "stdout").await.expect("output");
            let said_ms = cpu_ms_of(&said);
            assert_eq!(said_ms > 50, works, "{target}: {said}");
            // To begin and to end takes a moment too.
            let times = said_ms..said_ms + 500;
            assert!(times.contains(&cpu_ms), "{target}: {cpu_ms} ms, {said}");
            let least_kib = if piece { PIECE_KIB } else { 100 };
            let sizes = least_kib..least_kib + PROGRAM_KIB;
            assert!(sizes.contains(&peak_kib), "{target}: {peak_kib} KiB");
        }
    }
}

#[tokio::test]
async fn a_job_that_is_stopped_has_used_something_and_one_that_never_ran_nothing() {
    let ground = Ground::mysql().await;
    let busy = "while :; do :; done";
    let ini = ground
        .ini()
        .target("late", 1)
        .own("late", "launcher", launcher(&ground, "busy.sh", busy))
        .own("late", "timeout", "1s")
        .target("missing", 1)
        .own("missing", "launcher", "/no/such/program");
    let _jobd = Jobd::start(&ground.scratch, &ini).await;
    let late = ground.insert("late", &[]).await;
    let missing = ground.insert("missing", &[]).await;
    assert_eq!(ground.verdict(late).await, "fail - SIGTERM timeout");
    let (cpu_ms, peak_kib) = used(&ground, late).await;
    assert!(cpu_ms > 0 && peak_kib > 0, "{cpu_ms} ms, {peak_kib} KiB");
    assert_eq!(ground.verdict(missing).await, "fail 127 - spawn");
    assert_eq!(
        ground.words(missing, &["cpu_ms", "peak_kib"]).await,
        "- -",
        "nobody knows"
    );
}

#[tokio::test]
async fn a_large_job_makes_no_other_look_large() {
    let ground = Ground::sqlite().await;
    // jobd itself holds this output, more than once, while it writes it.
    let loud = launcher(&ground, "loud.sh", "head -c 16M /dev/zero | tr '\\0' x");
    let ini = ground
        .ini()
        .target("loud", 1)
        .own("loud", "launcher", loud)
        .target("small", 1)
        .own("small", "launcher", "true");
    let jobd = Jobd::start(&ground.scratch, &ini).await;
    let loud = ground.insert("loud", &[]).await;
    assert_eq!(ground.verdict(loud).await, "ok 0 - -");
    assert!(
        jobd.process.peak_rss_kib() > PROGRAM_KIB,
        "jobd was not large"
    );
    until("a small job to look small", PATIENCE, async || {
        let small = ground.insert("small", &[]).await;
        assert_eq!(ground.verdict(small).await, "ok 0 - -");
        (used(&ground, small).await.1 < PROGRAM_KIB).then_some(())
    })
    .await;
}
