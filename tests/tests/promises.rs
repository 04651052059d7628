//! Promises about the code itself that no run can show.

use std::fs;
use std::path::{Path, PathBuf};

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
