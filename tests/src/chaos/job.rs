//! What a job of the suite does: decided by its id and target alone, so that the job itself and
//! the checker agree without a word between them.

use std::fmt::Write as _;

use super::random::Random;

/// The targets, and how many slots each worker has for them.
pub const TARGETS: [(&str, u32); 9] = [
    ("quick", 6),
    (SLOW, 3),
    (LOUD, 2),
    (STUCK, 2),
    (LONG, 2),
    (FED, 2),
    ("user/1", 1),
    ("user/2", 1),
    ("user/3", 1),
];

/// What serves those that no config names.
pub const PATTERN: (&str, u32) = ("user/*", 1);

/// Whether a target is served on demand alone.
pub fn is_on_demand(target: &str) -> bool {
    target.starts_with("user/")
}

/// Jobs that take a while, and say how far they have come where the table can tell.
pub const SLOW: &str = "slow";

/// Jobs that print much.
pub const LOUD: &str = "loud";

/// Jobs that read their payload. On tables that have one only.
pub const FED: &str = "fed";

/// Whether what a job of this target prints stands in a file, too.
pub fn is_filed(target: &str) -> bool {
    target == LOUD || is_on_demand(target)
}

/// The `output_file` of these, in a folder of their own.
pub const OUTPUT_FILE: &str = "%i-%a";

/// What the payload repeats, and how often: more than a pipe holds.
pub const PAYLOAD: (&str, usize) = ("0123456789abcdef", 5_000);

/// Jobs that never end by themselves, and leave a process behind that hides in a session of its own and does not hear
/// SIGTERM. On tables with time limits only.
pub const STUCK: &str = "stuck";

/// What the witness is told of that process.
pub const HIDDEN: &str = "stuck-hidden";

/// Jobs that outlive a lease; only where that is asked for.
pub const LONG: &str = "long";

/// As good as never: longer than a run of the suite waits for its last jobs.
const NEVER_MILLIS: u64 = 120_000;

/// A line of a loud job: characters of two and three bytes stand at every offset of a read.
const LOUD_LINE: &str =
    "Zeile mit Ümläuten, Ελληνικά und 漢字, damit kein Lesen an einer Grenze endet\n";

/// EX_TEMPFAIL of sysexits(3).
const AGAIN_LATER: u8 = 75;

/// What a job is going to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How long it works, in milliseconds.
    pub millis: u64,
    /// How long its later attempts work.
    pub millis_again: u64,
    /// The code that it ends with; see [`Plan::code_of`].
    pub code: u8,
    /// How many lines it prints beside the first.
    pub lines: usize,
}

impl Plan {
    /// The plan of job `id` of `target`. A target whose name is a number takes so many milliseconds; behind a
    /// hyphen stands what later attempts take.
    pub fn of(id: u64, target: &str) -> Self {
        let mut random = Random::new(id);
        let first = match target {
            SLOW => random.between(300, 2_500),
            LONG => random.between(7_000, 12_000),
            STUCK | HIDDEN => NEVER_MILLIS,
            _ => millis(target).unwrap_or_else(|| random.between(1, 30)),
        };
        let again = target.split_once('-').and_then(|(_, again)| millis(again));
        let code = if random.one_in(11) {
            let code = random.between(1, 120);
            // One in five asks for another time.
            let code = if code.is_multiple_of(5) {
                AGAIN_LATER.into()
            } else {
                code
            };
            u8::try_from(code).expect("an exit code")
        } else {
            0
        };
        let lines = match target {
            LOUD => random.index(1_000),
            _ => 0,
        };
        Self {
            millis: first,
            millis_again: again.unwrap_or(first),
            code,
            lines,
        }
    }

    /// The code that an attempt ends with: "again later" is not said for ever.
    pub fn code_of(&self, attempt: u32) -> u8 {
        if self.code == AGAIN_LATER && attempt > 2 {
            0
        } else {
            self.code
        }
    }

    /// What attempt `attempt` of job `id`, run by process `pid`, prints to standard output. No
    /// two runs print the same.
    pub fn stdout(&self, id: u64, attempt: u32, pid: u32) -> String {
        let mut text = String::with_capacity(64 + self.lines * LOUD_LINE.len());
        writeln!(text, "job {id} attempt {attempt} process {pid}").expect("write to a string");
        text.extend(std::iter::repeat_n(LOUD_LINE, self.lines));
        text
    }

    /// What process `pid` says of how far it has come.
    pub fn progress(pid: u32) -> String {
        format!("50 process {pid}")
    }

    /// What it prints to standard error.
    pub fn stderr(id: u64, pid: u32) -> String {
        format!("{pid} worked on {id}\n")
    }
}

/// The number before the first hyphen.
fn millis(target: &str) -> Option<u64> {
    target.split('-').next()?.parse().ok()
}
