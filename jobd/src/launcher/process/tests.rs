//! Real processes: what they begin with, and what is left of those that cannot begin.

use std::fs;
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use jobd_proto::daemon::signals::{Shutdown, UpkeepSignals};
use rustix::process::{Signal, WaitOptions, kill_process, waitpid};
use tokio::signal::unix::{SignalKind, signal};

use super::*;
use crate::marked::{self, Mark};

fn output(program: &mut Program<'_>) -> (String, ExitStatus) {
    let mut spawned = program.spawn().unwrap();
    drop(spawned.stdin.take());
    let mut output = String::new();
    spawned.stdout.read_to_string(&mut output).unwrap();
    spawned.stderr.read_to_string(&mut output).unwrap();
    let (status, _) = spawned.child.reap(0).unwrap().unwrap();
    (output, status)
}

/// A hundred times what a look for a thousand marks takes on a machine with little else to do.
const LOOK: Duration = Duration::from_secs(5);

/// The signals of a mask of /proc/PID/status.
fn mask(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
}

#[tokio::test]
async fn a_program_begins_with_no_signal_blocked_and_none_ignored_but_what_jobd_was_started_with() {
    let _caught = (Shutdown::on_signals(), UpkeepSignals::new());
    let _caught = signal(SignalKind::child()).unwrap();
    let ours = fs::read_to_string("/proc/thread-self/status").unwrap();
    let known = CAUGHT
        .iter()
        .fold(0, |known, signal| known | 1_u64 << (signal - 1));
    // Beyond them are those that the C library keeps to itself.
    let standard = (1_u64 << 31) - 1;
    assert_eq!(mask(&ours, "SigCgt:") & standard & !known, 0, "{ours}");
    let (its, _) = output(&mut Program::shell("exec cat /proc/self/status"));
    assert_eq!(mask(&its, "SigBlk:"), 0, "{its}");
    assert_eq!(
        mask(&its, "SigIgn:"),
        mask(&ours, "SigIgn:") & !known,
        "{its}"
    );
    let after = fs::read_to_string("/proc/thread-self/status").unwrap();
    assert_eq!(mask(&after, "SigBlk:"), mask(&ours, "SigBlk:"));
}

#[test]
fn a_program_gets_its_words_its_variables_its_folder_and_a_group() {
    let mut program =
        Program::shell("env; pwd; echo \"<$0><$1>$#\" >&2; ps -o pgid= -p $$; echo $$");
    program.argv.extend([c"a b".into(), c"".into()]);
    let shared = [c"A=1".into(), c"B=".into()];
    program.variables.0 = &shared;
    program.cwd = Some(c"/");
    let (output, status) = output(&mut program);
    assert!(status.success());
    let lines: Vec<&str> = output.lines().map(str::trim).collect();
    for expected in ["A=1", "B=", "PATH=/usr/bin:/bin", "/", "<a b><>1"] {
        assert!(lines.contains(&expected), "{expected}: {output}");
    }
    let group = lines.iter().filter(|line| line.parse::<u32>().is_ok());
    let group: Vec<_> = group.collect();
    assert_eq!(group.len(), 2, "{output}");
    assert_eq!(group[0], group[1], "{output}");
}

#[test]
fn a_program_inherits_what_it_is_given_and_nothing_else() {
    let file = fs::File::open("/etc/passwd").unwrap();
    // As a service manager, or flock(1), leaves them open.
    let _inherited: Vec<OwnedFd> = (0..4).map(|_| rustix::io::dup(&file).unwrap()).collect();
    for (reports, teller, expected) in [
        (false, false, "0\n1\n2\n"),
        (true, false, "0\n1\n2\n3\nto 3"),
        (false, true, "0\n1\n2\n4\nto 4"),
        (true, true, "0\n1\n2\n3\n4\nto 3to 4"),
    ] {
        let mut program =
            Program::shell("ls /proc/$$/fd; for n in 3 4; do printf \"to $n\" >&$n; done");
        let mut given = Vec::new();
        for (place, wanted) in [
            (&mut program.reports, reports),
            (&mut program.teller, teller),
        ] {
            if wanted {
                let (ours, its) = pipe_to_give().unwrap();
                *place = Some(its);
                given.push(fs::File::from(ours));
            }
        }
        let (output, _) = output(&mut program);
        let mut said = output.split("sh:").next().unwrap().to_owned();
        for mut pipe in given {
            pipe.read_to_string(&mut said).unwrap();
        }
        assert_eq!(said, expected, "{output}");
    }
}

#[test]
fn what_names_a_job_or_its_worker_is_found_by_either_way() {
    let name = format!("either-way/{}", std::process::id());
    let (claim, worker) = (Mark::of_claim(&name), Mark::of_worker(&name));
    let large = CString::new(format!("A={}", "x".repeat(100_000))).unwrap();
    let shared = vec![large; 12];
    let unlimited = [u64::MAX; 2];
    for (mark, variable, limits) in [
        (&claim, &*claim.variable, unlimited),
        (&worker, &*worker.variable, unlimited),
        (&claim, "", [claim.limit, worker.limit]),
        (&worker, "", [claim.limit, worker.limit]),
        (&worker, "", [0, worker.limit]),
    ] {
        let mut program = Program::shell("");
        program.file = c"/bin/sleep".into();
        program.argv = vec![c"sleep".into(), c"60".into()];
        program.variables = (&shared, vec![CString::new(variable).unwrap()]);
        program.limits = limits;
        let mut child = program.spawn().unwrap().child;
        // As a guard looks for those of many predecessors.
        let others = (0..999).map(|other| Mark::of_worker(&format!("{name}/{other}")));
        let marks: Vec<Mark> = others.chain([mark.clone()]).collect();
        let mut longest = Duration::ZERO;
        // A new program's environment is seen a moment after it has begun.
        let found = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            let began = Instant::now();
            let killed = marked::kill(&marks);
            longest = longest.max(began.elapsed());
            killed > 0
        });
        kill_process(child.pid(), Signal::KILL).unwrap();
        child.reap(0).unwrap();
        assert!(found, "{mark:?} {variable} {limits:?}");
        // Were each process read for each mark, it would take long.
        assert!(longest < LOOK, "{longest:?} for a look");
    }
}

#[test]
fn a_program_reads_what_it_is_fed() {
    let mut program = Program::shell("cat; exit 3");
    program.fed = true;
    let mut spawned = program.spawn().unwrap();
    let mut stdin = spawned.stdin.take().unwrap();
    stdin.write_all(b"so much").unwrap();
    drop(stdin);
    let mut output = String::new();
    spawned.stdout.read_to_string(&mut output).unwrap();
    assert_eq!(output, "so much");
    let (status, _) = spawned.child.reap(0).unwrap().unwrap();
    assert_eq!(status.code(), Some(3));
    let again = spawned.child.try_wait().unwrap();
    assert_eq!(again.map(|(status, _)| status), Some(status));
}

#[test]
fn what_cannot_begin_is_an_error_and_leaves_no_process_and_no_file() {
    let cases: [(&CStr, Option<&CStr>, Errno); 4] = [
        (c"/no/such/file", None, Errno::NOENT),
        (c"/etc/passwd", None, Errno::ACCESS),
        (c"/bin", None, Errno::ACCESS),
        (c"/bin/true", Some(c"/no/such/folder"), Errno::NOENT),
    ];
    let files = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = files();
    for (file, cwd, expected) in cases {
        let mut program = Program::shell("");
        (program.file, program.cwd) = (file.into(), cwd);
        let error = program.spawn().unwrap_err();
        assert_eq!(
            error.raw_os_error(),
            Some(expected.raw_os_error()),
            "{file:?}"
        );
        let left = waitpid(None, WaitOptions::NOHANG).map(|_| ());
        assert_eq!(left, Err(Errno::CHILD), "{file:?}");
    }
    assert_eq!(files(), before);
}
