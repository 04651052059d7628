//! What the file is good for after anything that can happen to it.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use jobd_proto::{JobId, JobResult, TargetName};
use proptest::prelude::*;

use super::*;
use crate::fate::{Again, Reason};
use crate::job::{Job, Origin, Terms, Tokens};
use crate::launcher::Usage;

fn end(id: u64, stdout: &str) -> Finish {
    let origin = if id.is_multiple_of(2) {
        Origin::Background
    } else {
        Origin::Manual
    };
    Finish {
        job: Job {
            id: JobId(id),
            target: TargetName::new("ж/1").unwrap(),
            origin,
            token: Tokens::new("w", "h", id).next(origin),
            attempt: 3,
            interruptions: 0,
            again: false,
            terms: Terms::default(),
        },
        result: JobResult::Fail,
        code: (id > 2).then_some(7),
        signal: (id <= 2).then(|| "SIGTERM".to_owned()),
        reason: (id > 1).then_some(Reason::Cancelled),
        again: (id == 3).then_some(Again {
            after: Duration::from_millis(5300),
            counted: true,
        }),
        usage: (id > 1).then_some(Usage {
            cpu_ms: id,
            peak_kib: u64::MAX,
        }),
        stdout: stdout.to_owned(),
        stderr: "\0\n\u{1F600}".to_owned(),
        ended: Instant::now(),
    }
}

/// Everything of an end that its row will say.
fn said(end: &Finish) -> impl PartialEq + std::fmt::Debug + use<> {
    let job = &end.job;
    (
        (job.id, job.token.clone(), job.origin, job.target.clone()),
        (end.result, end.code, end.signal.clone()),
        (end.reason, end.again, end.usage),
        (end.stdout.clone(), end.stderr.clone()),
    )
}

#[track_caller]
fn check_holds(opened: &Opened, expected: &[Finish]) {
    let all = |ends: &[Finish]| ends.iter().map(said).collect::<Vec<_>>();
    assert_eq!(all(&opened.ends), all(expected));
}

/// A journal with three ends, and what it holds, byte by byte.
fn three() -> (tempfile::TempDir, PathBuf, Vec<Finish>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.journal");
    let ends = vec![end(1, ""), end(2, "two"), end(3, &"x".repeat(300))];
    let mut bytes = HEADER.to_vec();
    for end in &ends {
        record::encode(end, &mut bytes);
    }
    fs::write(&path, &bytes).unwrap();
    (folder, path, ends, bytes)
}

#[test]
fn ends_outlive_the_process_and_nobody_else_may_read_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.journal");
    let ends = [end(1, ""), end(2, "two")];
    let mut journal = Journal::open(&path).unwrap().journal;
    ends.chunks(1)
        .for_each(|ends| journal.append(ends).unwrap());
    assert_eq!(
        journal.bytes() + HEADER.len() as u64,
        fs::metadata(&path).unwrap().len()
    );
    drop(journal);
    let opened = Journal::open(&path).unwrap();
    assert_eq!(opened.damage, None);
    check_holds(&opened, &ends);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let ago = opened.ends[0].ended.elapsed();
    assert!(ago < Duration::from_mins(1), "{ago:?}");
}

#[test]
fn only_one_jobd_has_it() {
    let (_folder, path, ends, _) = three();
    let mut first = Journal::open(&path).unwrap();
    assert!(matches!(Journal::open(&path), Err(OpenError::Locked)));
    // The lock goes with the file that is put in its place.
    first.journal.replace(&ends[..1]).unwrap();
    assert!(matches!(Journal::open(&path), Err(OpenError::Locked)));
    drop(first);
    check_holds(&Journal::open(&path).unwrap(), &ends[..1]);
}

#[test]
fn what_was_cleared_or_replaced_is_gone() {
    let (_folder, path, ends, _) = three();
    let mut journal = Journal::open(&path).unwrap().journal;
    journal.clear().unwrap();
    assert_eq!(journal.bytes(), 0);
    journal.append(&ends[1..2]).unwrap();
    drop(journal);
    check_holds(&Journal::open(&path).unwrap(), &ends[1..2]);
}

#[test]
fn a_file_of_another_kind_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.journal");
    for foreign in ["jobd journal 2\nwhatever", "precious"] {
        fs::write(&path, foreign).unwrap();
        assert!(matches!(Journal::open(&path), Err(OpenError::Foreign)));
        assert_eq!(fs::read_to_string(&path).unwrap(), foreign);
    }
}

#[test]
fn what_a_failed_append_left_is_written_over() {
    let (_folder, path, ends, bytes) = three();
    let mut journal = Journal::open(&path).unwrap().journal;
    // As a disk leaves it that was full in the middle of a record.
    fs::File::options()
        .append(true)
        .open(&path)
        .and_then(|mut file| io::Write::write_all(&mut file, &bytes[100..300]))
        .unwrap();
    journal.append(&ends[..1]).unwrap();
    drop(journal);
    let opened = Journal::open(&path).unwrap();
    assert_eq!(opened.damage, None);
    let expected = [&ends[..], &ends[..1]].concat();
    check_holds(&opened, &expected);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    /// Whatever part of it reached the disk: a prefix of the ends, and the rest is reported.
    #[test]
    fn a_torn_tail_costs_what_is_torn_and_nothing_before(cut in 0_usize..1_000) {
        let (_folder, path, ends, bytes) = three();
        let cut = cut % bytes.len();
        fs::write(&path, &bytes[..cut]).unwrap();
        let opened = Journal::open(&path).unwrap();
        check_holds(&opened, &ends[..opened.ends.len()]);
        let whole = opened.journal.len;
        let expected = (cut as u64 > whole).then(|| (whole, cut as u64 - whole));
        prop_assert_eq!(opened.damage, expected);
        prop_assert!(opened.ends.len() < ends.len());
        // And it can be gone on with.
        let Opened { mut journal, ends: before, .. } = opened;
        journal.append(&ends[2..]).unwrap();
        drop(journal);
        let expected = [&before[..], &ends[2..]].concat();
        check_holds(&Journal::open(&path).unwrap(), &expected);
    }

    /// A byte that has changed costs the end that it stands in and those behind it, and is reported.
    #[test]
    fn a_changed_byte_never_makes_another_end(at in 0_usize..1_000, flip in 1_u8..=255) {
        let (_folder, path, ends, mut bytes) = three();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        fs::write(&path, &bytes).unwrap();
        if at < HEADER.len() {
            prop_assert!(matches!(Journal::open(&path), Err(OpenError::Foreign)));
        } else {
            let opened = Journal::open(&path).unwrap();
            check_holds(&opened, &ends[..opened.ends.len()]);
            let (offset, lost) = opened.damage.expect("damage");
            prop_assert!(offset <= at as u64 && offset + lost == bytes.len() as u64);
        }
    }

    /// Whatever stands behind the header.
    #[test]
    fn garbage_is_no_end(garbage in prop::collection::vec(any::<u8>(), 1..200)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.journal");
        fs::write(&path, [HEADER, &garbage].concat()).unwrap();
        let opened = Journal::open(&path).unwrap();
        prop_assert!(opened.ends.is_empty() && opened.damage.is_some());
    }
}
