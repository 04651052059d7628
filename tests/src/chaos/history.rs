//! What the nodes of a cluster committed, by their own binary logs, and which of it the cluster took back.
//!
//! Each logged write of a row leads from one content of it to another. The contents from which the row's
//! last content can be reached, over the writes of any node, are its history. A write that leads elsewhere
//! was committed by a node, and is no part of what the cluster then went on from: taken back. Nothing is
//! guessed: where the logs do not show an unbroken history, down to the INSERT, nothing is said of a row.
//! Nobody deletes rows here, and the workers' account could not; a row that is gone was taken back whole.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// The content of a row, as its hash; `None` where there is no row.
pub type Content = Option<u64>;

/// One write of one row, as nodes have logged it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Write {
    /// The content that it found.
    pub before: Content,
    /// The content that it left.
    pub after: Content,
    /// The nodes that have logged it.
    pub nodes: BTreeSet<String>,
    /// For people: the write set's number, the row's status and claim.
    pub what: What,
}

/// What a write did, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct What {
    /// `domain-server-number` of the write set.
    pub gtid: String,
    /// The row's new status.
    pub status: String,
    /// The claim that the row carries.
    pub token: String,
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.before.is_none() {
            "inserted as"
        } else {
            "set to"
        };
        let What {
            gtid,
            status,
            token,
        } = &self.what;
        let nodes: Vec<&str> = self.nodes.iter().map(String::as_str).collect();
        write!(
            f,
            "{verb} {status} {token} by write set {gtid}, committed by {}",
            nodes.join(" and ")
        )
    }
}

/// All logged writes, by the row's id.
#[derive(Clone, Debug, Default)]
pub struct History {
    writes: BTreeMap<u64, Vec<Write>>,
}

impl History {
    /// Adds what a node's binary log file holds of the table `jobs`.
    ///
    /// # Errors
    /// Where `mariadb-binlog` cannot be run or read. A file that ends in the middle, as that of a node that
    /// was killed may, is read as far as it goes.
    pub fn read(&mut self, node: &str, file: &Path) -> io::Result<()> {
        for (id, write) in logged(node, file)? {
            self.add(id, write);
        }
        Ok(())
    }

    /// Adds one write.
    pub fn add(&mut self, id: u64, write: Write) {
        let writes = self.writes.entry(id).or_default();
        let same = |known: &&mut Write| (known.before, known.after) == (write.before, write.after);
        if let Some(known) = writes.iter_mut().find(same) {
            known.nodes.extend(write.nodes);
        } else {
            writes.push(write);
        }
    }

    /// How many rows have logged writes.
    pub fn rows(&self) -> usize {
        self.writes.len()
    }

    /// The writes that were taken back, by row. `last` is the content of each row that there is now.
    pub fn taken_back(&self, last: &BTreeMap<u64, u64>) -> BTreeMap<u64, Vec<Write>> {
        let of_row = |(id, writes): (&u64, &Vec<Write>)| {
            let gone = gone(writes, last.get(id).copied());
            (!gone.is_empty()).then_some((*id, gone))
        };
        self.writes.iter().filter_map(of_row).collect()
    }
}

/// The writes from which `last` cannot be reached; none where the way to `last` is not known down to the
/// INSERT.
fn gone(writes: &[Write], last: Content) -> Vec<Write> {
    if last.is_none() && writes.iter().any(|write| write.after.is_none()) {
        // Somebody has deleted it after all: not for us to judge.
        return Vec::new();
    }
    let mut reaching: HashSet<Content> = HashSet::from([last]);
    // Where there is no row, every write of it is gone, if all are known.
    let mut inserted = last.is_none() && writes.iter().any(|write| write.before.is_none());
    let mut more = true;
    while more {
        more = false;
        for write in writes.iter().filter(|write| write.after.is_some()) {
            if reaching.contains(&write.after) {
                match write.before {
                    None => inserted = true,
                    content => more |= reaching.insert(content),
                }
            }
        }
    }
    let all = writes
        .iter()
        .filter(|write| inserted && !reaching.contains(&write.after));
    all.cloned().collect()
}

/// The content that each row has after the writes of one file.
///
/// # Errors
/// As [`History::read`].
pub fn contents_after(node: &str, file: &Path) -> io::Result<BTreeMap<u64, u64>> {
    let writes = logged(node, file)?.into_iter();
    let content = |(id, write): (u64, Write)| write.after.map(|after| (id, after));
    Ok(writes.filter_map(content).collect())
}

fn logged(node: &str, file: &Path) -> io::Result<Vec<(u64, Write)>> {
    let mut program = Command::new("mariadb-binlog")
        .args(["--base64-output=decode-rows", "-v"])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let output = program.stdout.take().expect("its output");
    let mut reader = Reader::of(node);
    for line in BufReader::new(output).split(b'\n') {
        // Column values are escaped; statements may hold any bytes, and do not matter.
        reader.line(&String::from_utf8_lossy(&line?));
    }
    program.wait()?;
    Ok(reader.committed)
}

/// Reads the text that `mariadb-binlog -v` makes of row events.
#[derive(Debug, Default)]
struct Reader {
    node: String,
    gtid: String,
    /// Of the transaction under way.
    pending: Vec<(u64, Write)>,
    committed: Vec<(u64, Write)>,
    row: Option<Row>,
}

/// A row event under way.
#[derive(Debug, Default)]
struct Row {
    ours: bool,
    before: Option<Image>,
    after: Option<Image>,
    /// Whether columns belong to `after`.
    second: bool,
}

#[derive(Debug, Default)]
struct Image {
    id: u64,
    hasher: DefaultHasher,
    status: String,
    token: String,
}

/// The columns `id`, `status`, `stderr` and `worker` of both tables, as the log numbers them.
const ID: &str = "@1";
const STATUS: &str = "@6";
const STDERR: &str = "@11";
const WORKER: &str = "@12";

/// The ENUM's values, from 1.
const STATUSES: [&str; 7] = [
    "waiting",
    "manual",
    "accepted",
    "running",
    "done",
    "ignored",
    "scheduled",
];

/// A claim's name is no longer.
const TOKEN: usize = 191;

impl Reader {
    fn of(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            ..Self::default()
        }
    }

    fn line(&mut self, line: &str) {
        if let Some(event) = line.strip_prefix("### ") {
            self.event(event);
            return;
        }
        self.end_row();
        if let Some((_, gtid)) = line.split_once("\tGTID ") {
            self.pending.clear();
            gtid.split(' ')
                .next()
                .unwrap_or_default()
                .clone_into(&mut self.gtid);
        } else if line.starts_with("COMMIT") {
            self.committed.append(&mut self.pending);
        }
    }

    fn event(&mut self, text: &str) {
        if let Some(column) = text.strip_prefix("  ") {
            if let (Some(row), Some((name, value))) = (&mut self.row, column.split_once('=')) {
                row.column(name, value);
            }
        } else if text == "SET" {
            if let Some(row) = &mut self.row {
                row.second = true;
            }
        } else if text != "WHERE" {
            // The first line of an event about a row: INSERT INTO, UPDATE or DELETE FROM a table.
            self.end_row();
            self.row = Some(Row {
                ours: text.ends_with(".`jobs`"),
                ..Row::default()
            });
        }
    }

    fn end_row(&mut self) {
        let Some(row) = self.row.take().filter(|row| row.ours) else {
            return;
        };
        let Some(image) = row.after.as_ref().or(row.before.as_ref()) else {
            return;
        };
        let what = What {
            gtid: self.gtid.clone(),
            status: image.status.clone(),
            token: image.token.clone(),
        };
        let content = |image: &Option<Image>| image.as_ref().map(|image| image.hasher.finish());
        let write = Write {
            before: content(&row.before),
            after: content(&row.after),
            nodes: BTreeSet::from([self.node.clone()]),
            what,
        };
        self.pending.push((image.id, write));
    }
}

impl Row {
    fn column(&mut self, name: &str, value: &str) {
        let image = if self.second {
            &mut self.after
        } else {
            &mut self.before
        };
        let image = image.get_or_insert_default();
        (name, value).hash(&mut image.hasher);
        match name {
            ID => image.id = value.parse().expect("an id"),
            STATUS => {
                let number = value.parse::<usize>().unwrap_or(0).wrapping_sub(1);
                STATUSES
                    .get(number)
                    .copied()
                    .unwrap_or(value)
                    .clone_into(&mut image.status);
            }
            STDERR | WORKER if value.contains('@') && value.len() <= TOKEN + 2 => {
                value.trim_matches('\'').clone_into(&mut image.token);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(before: u64, after: u64, node: &str) -> Write {
        let content = |number| (number > 0).then_some(number);
        Write {
            before: content(before),
            after: content(after),
            nodes: BTreeSet::from([node.to_owned()]),
            what: What::default(),
        }
    }

    /// The `(before, after)` of what was taken back of row 1; 0 stands for no row.
    fn taken_back(writes: &[(u64, u64)], last: u64) -> Vec<(u64, u64)> {
        let mut history = History::default();
        for (before, after) in writes {
            history.add(1, write(*before, *after, "n1"));
        }
        let last = (last > 0).then_some((1, last));
        let found = history
            .taken_back(&last.into_iter().collect())
            .remove(&1)
            .unwrap_or_default();
        let number = |content: Content| content.unwrap_or(0);
        found
            .iter()
            .map(|write| (number(write.before), number(write.after)))
            .collect()
    }

    #[test]
    fn a_write_that_leads_nowhere_was_taken_back() {
        let whole = [(0, 1), (1, 2), (2, 3)];
        assert_eq!(taken_back(&whole, 3), []);
        assert_eq!(
            taken_back(&whole, 2),
            [(2, 3)],
            "the last write is not in the row"
        );
        let forked = [(0, 1), (1, 2), (2, 3), (1, 4), (4, 5)];
        assert_eq!(taken_back(&forked, 5), [(1, 2), (2, 3)]);
        assert_eq!(
            taken_back(&[(0, 1), (1, 2)], 0),
            [(0, 1), (1, 2)],
            "the row is gone"
        );
        assert_eq!(
            taken_back(&[(0, 1), (1, 2), (0, 7)], 7),
            [(0, 1), (1, 2)],
            "its id was given to another"
        );
    }

    #[test]
    fn nothing_is_said_where_the_logs_do_not_show_how_it_came() {
        assert_eq!(
            taken_back(&[(0, 1), (1, 2), (3, 4)], 4),
            [],
            "who led to 3?"
        );
        assert_eq!(taken_back(&[(1, 2), (2, 3), (2, 4)], 4), [], "no INSERT");
        assert_eq!(taken_back(&[(0, 1), (1, 0)], 0), [], "deleted");
        let circle = [(0, 1), (1, 2), (2, 1), (1, 3)];
        assert_eq!(taken_back(&circle, 3), [], "given back and claimed again");
    }

    #[test]
    fn reads_what_was_committed() {
        let text = "#261122  8:27:28 server id 1  end_log_pos 398 CRC32 0x66a0b87c \tGTID 7-1-6 trans\n\
            ### INSERT INTO `t`.`jobs`\n### SET\n###   @1=4\n###   @6=1\n###   @11=NULL\n\
            ### INSERT INTO `t`.`other`\n### SET\n###   @1=9\n\
            # Number of rows: 2\nCOMMIT/*!*/;\n\
            #261122  8:27:28 server id 1  end_log_pos 399 CRC32 0x66a0b87c \tGTID 7-1-7 trans\n\
            ### UPDATE `t`.`jobs`\n### WHERE\n###   @1=4\n###   @6=1\n###   @11=NULL\n\
            ### SET\n###   @1=4\n###   @6=3\n###   @11='w1@h/1f/2'\nCOMMIT/*!*/;\n\
            #261122  8:27:28 server id 1  end_log_pos 400 CRC32 0x66a0b87c \tGTID 7-1-8 trans\n\
            ### UPDATE `t`.`jobs`\n### WHERE\n###   @1=4\n### SET\n###   @1=5\n";
        let mut reader = Reader::of("n2");
        text.lines().for_each(|line| reader.line(line));
        let [(4, first), (4, second)] = &reader.committed[..] else {
            panic!("{:?}", reader.committed);
        };
        assert!(first.before.is_none() && first.after == second.before && second.after.is_some());
        assert_eq!(
            second.to_string(),
            "set to accepted w1@h/1f/2 by write set 7-1-7, committed by n2"
        );
    }
}
