//! Promises about the code itself that no run can show.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use jobd_tests::chaos::scene::CRASH_POINTS;
use jobd_tests::programs;

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found
}

/// The words of SQL that make or remove rows, wherever they stand in a line.
fn makes_or_removes_rows(line: &str) -> bool {
    let line = line.to_lowercase();
    [
        "insert into",
        "insert ignore",
        "delete from",
        "replace into",
        "truncate table",
    ]
    .iter()
    .any(|statement| line.contains(statement))
}

#[test]
fn the_daemons_never_insert_or_delete() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for program in ["jobd", "jobd-master"] {
        let files = sources(&root.join(program).join("src"));
        assert!(!files.is_empty(), "no sources of {program}");
        for file in files {
            let text = fs::read_to_string(&file).expect("a source file");
            for (number, line) in text.lines().enumerate() {
                assert!(
                    !makes_or_removes_rows(line),
                    "{}:{}: {line}",
                    file.display(),
                    number + 1
                );
            }
        }
    }
}

/// The names behind every `before` in the sources of jobd.
fn names(before: &str) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../jobd/src");
    let mut found = BTreeSet::new();
    for file in sources(&folder) {
        let text = fs::read_to_string(&file).expect("a source file");
        let calls = text.split(before).skip(1);
        found.extend(calls.filter_map(|call| Some(call.split_once('"')?.0.to_owned())));
    }
    found
}

#[test]
fn the_tests_know_every_crash_point_in_the_code() {
    let mut found = names("crash_point!(\"");
    for when in names("batch_point!(\"") {
        found.extend(["start", "finish", "retry", "release"].map(|what| format!("{what}-{when}")));
    }
    let known: BTreeSet<String> = CRASH_POINTS.map(str::to_owned).into();
    assert_eq!(found, known);
}

#[test]
fn no_shipped_program_can_be_made_to_fail() {
    let traces = |program: &Path| {
        let bytes = fs::read(program).expect("a program");
        let found = |word: &&&str| contains(&bytes, word.as_bytes());
        let words = ["JOBD_CRASH_AT", "JOBD_STOP_AT", "JOBD_PLANT"];
        let words = words.iter().chain(&CRASH_POINTS);
        words.filter(found).count()
    };
    for program in [programs::path("jobd"), programs::release_path("jobd")] {
        assert_eq!(traces(&program), 0, "{}", program.display());
    }
    // The words are there to be found, where they are.
    assert!(traces(&programs::faulty_path()) > 3);
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}
