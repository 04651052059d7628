//! The settings of targets: before the first section for all of them, in `[target:NAME]` for one.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use jobd_proto::settings::{self, Key, Reader};
use jobd_proto::{Pattern, TargetName};

use super::setup;
use crate::fate::{Causes, Reason, Retries};
use crate::launcher::{FileTemplate, KillSequence, LauncherSettings, MAX_KILL, Template};
use crate::per_target::{PerTarget, TargetSettings};

/// More are a slip.
const MAX_RETRY: u32 = 1_000_000;

/// Longer pauses are a slip.
const DAY: Duration = Duration::from_hours(24);

/// More than a year is a mistake.
const LONGEST: Duration = Duration::from_hours(24 * 366);

/// What the names of their sections begin with.
pub const FAMILY: &str = "target:";

/// The keys that may also stand in `[target:NAME]`.
pub const KEYS: &[Key] = &[
    Key {
        name: "launcher",
        kind: "text",
        default: "required",
        doc: "The command for each job. `{id}` and `{target}` are replaced in every argument. Split at white space; quotes group; no shell is involved. A program without `/` is looked for in PATH once, and again when it is gone from there.",
    },
    Key {
        name: "launcher.shell",
        kind: "`never` or `always`",
        default: "`never`",
        doc: "`always` hands the launcher to `/bin/sh -c` as one line.",
    },
    Key {
        name: "launcher.stdin",
        kind: "`data` or `null`",
        default: "`data`",
        doc: "What the jobs find on their standard input: the column `data` of their row, where there is something in it, or nothing.",
    },
    Key {
        name: "launcher.cwd",
        kind: "path",
        default: "jobd's own",
        doc: "Working directory of the jobs.",
    },
    Key {
        name: "launcher.env.*",
        kind: "text",
        default: "",
        doc: "Environment variables of the jobs: `launcher.env.LC_ALL = en_US.UTF-8`. Those of a target come beside those of all.",
    },
    Key {
        name: "max_output_buffer",
        kind: "size",
        default: "`16M`",
        doc: "Bytes kept of a job's standard output, and as many of its standard error: the first half and the last, with a line between that says how many are missing. A loud job takes about five times as much memory for the moment in which its output is written.",
    },
    Key {
        name: "output_file",
        kind: "path or `none`",
        default: "`none`",
        doc: "A file that output is appended to as it comes, stdout and stderr together, beside the columns. `%t` is the target (made fit for a file's name), `%i` the id, `%a` the attempt, `%%` a percent sign. Folders are made.",
    },
    Key {
        name: "output_file_max",
        kind: "size",
        default: "`1G`",
        doc: "Bytes that one run of a job may write to its `output_file`; the job goes on, and the file ends with a line that says so. `0`: as many as it likes, and as the disk holds.",
    },
    Key {
        name: "output_file_only",
        kind: "`1` or `0`",
        default: "`0`",
        doc: "Whether the columns stay empty where all output is in `output_file`.",
    },
    Key {
        name: "progress",
        kind: "`1` or `0`",
        default: "`1` where the table has the column `progress`",
        doc: "Whether jobs get a file descriptor to say how far they have come: `echo \"40 copying files\" >&$JOBD_PROGRESS_FD`. It goes to followers, and into the column `progress` where there is one.",
    },
    Key {
        name: "leak_timeout",
        kind: "time",
        default: "`200ms`",
        doc: "How long to wait for the end of the output after a job has exited, because a background child of it may hold the pipe for ever. An order to stop the job ends the child, and the wait.",
    },
    Key {
        name: "timeout",
        kind: "time",
        default: "`0`",
        doc: "How long a job may take; then it is stopped, and `fail`. `0`: for ever. The column `timeout` of its row, in seconds, goes before.",
    },
    Key {
        name: "idle_timeout",
        kind: "time",
        default: "`0`",
        doc: "How long a job may write nothing, to stdout or stderr; then it is stopped, and `fail`. `0`: for ever.",
    },
    Key {
        name: "kill_sequence",
        kind: "signals and times",
        default: "`TERM,5s,KILL`",
        doc: "How a job is stopped: signals to its whole process group, and pauses between them. KILL comes last.",
    },
    Key {
        name: "kill_grace",
        kind: "time",
        default: "`5`",
        doc: "Short for `kill_sequence = TERM,TIME,KILL`.",
    },
    Key {
        name: "retry",
        kind: "integer",
        default: "`0`",
        doc: "How often a job that fails runs again, where its row does not say how often it may run (`max_attempts`). For tables with the columns of [retries](abilities/retries.md).",
    },
    Key {
        name: "retry_backoff",
        kind: "two times",
        default: "`5s..10m`",
        doc: "The pause before it runs again: the first one at least, twice as much after each attempt [of its kind](abilities/retries.md), the second one at most, drawn at random in between.",
    },
    Key {
        name: "retry_on",
        kind: "list",
        default: "`exit, signal, timeout, idle, spawn`",
        doc: "What lets a job run again: these [reasons](abilities/reason.md), and exit codes instead of all of them: `retry_on = signal, 1, 100-110`. Exit code 75 always means \"again later\", and does not count.",
    },
];

/// A launcher as it was written.
#[derive(Clone)]
struct Line {
    text: String,
    shell: bool,
}

/// Reads all of them. Where the reader has found a mistake, they are not to be used.
pub(super) fn read(reader: &mut Reader<'_>, targets: &[(TargetName, u32)]) -> PerTarget {
    let (line, default) = defaults(reader);
    let mut named = BTreeMap::new();
    for section in reader.sections_of(FAMILY) {
        let settings = reader.within(&section.name, |reader| own(reader, &line, &default));
        let name = &section.name[FAMILY.len()..];
        let name = match TargetName::new(name) {
            Ok(name) => name,
            Err(error) => {
                reader.mistake_at(Some(section.line), error);
                continue;
            }
        };
        if !targets.iter().any(|(known, _)| is_about(&name, known)) {
            let text = format!(
                "[{}] is about no target below [targets]: it counts only if a client adds one",
                section.name
            );
            reader.warn_at(Some(section.line), text);
        }
        named.insert(name, settings);
    }
    PerTarget::new(default, named)
}

/// Whether a section of this name, or pattern, is about what stands below `[targets]`.
fn is_about(name: &TargetName, known: &TargetName) -> bool {
    let matches = |pattern: &TargetName, name: &TargetName| {
        Pattern::of(pattern).is_some_and(|pattern| pattern.matches(name.as_str()))
    };
    name == known || matches(name, known) || matches(known, name)
}

fn defaults(reader: &mut Reader<'_>) -> (Line, TargetSettings) {
    let text = reader.required_text("launcher");
    let line = Line {
        shell: shell(reader, false),
        text,
    };
    let default = TargetSettings {
        launcher: LauncherSettings::new(template(reader, &line)),
        retries: Retries::default(),
    };
    let settings = rest(reader, &default);
    (line, settings)
}

/// What the section that is being read says, and else what counts for all.
fn own(reader: &mut Reader<'_>, line: &Line, default: &TargetSettings) -> TargetSettings {
    let mut settings = rest(reader, default);
    let text = reader.text("launcher");
    let shell = shell(reader, line.shell);
    if text.is_some() || shell != line.shell {
        let text = text.unwrap_or_else(|| line.text.clone());
        settings.launcher.template = template(reader, &Line { text, shell });
    }
    settings
}

/// Everything but the launcher's line.
fn rest(reader: &mut Reader<'_>, default: &TargetSettings) -> TargetSettings {
    let TargetSettings { launcher, retries } = default;
    let max_output = reader.bytes("max_output_buffer", 0..=1 << 30, launcher.max_output as u64);
    let leak = Duration::ZERO..=Duration::from_mins(10);
    let mut env = launcher.env.clone();
    for (name, value) in reader.map("launcher.env.") {
        env.retain(|(known, _)| *known != name);
        env.push((name, value));
    }
    let launcher = LauncherSettings {
        template: launcher.template.clone(),
        cwd: reader.path("launcher.cwd").or(launcher.cwd.clone()),
        env,
        max_output: usize::try_from(max_output).unwrap_or(usize::MAX),
        output_file: output_file(reader, launcher.output_file.clone()),
        output_file_max: output_file_max(reader, launcher.output_file_max),
        output_file_only: reader.flag("output_file_only", launcher.output_file_only),
        progress: reader.optional_flag("progress").or(launcher.progress),
        leak_timeout: reader.seconds("leak_timeout", leak, launcher.leak_timeout),
        data_on_stdin: data_on_stdin(reader, launcher.data_on_stdin),
        setup: setup::read(reader, &launcher.setup),
        timeout: limit(reader, "timeout", launcher.timeout),
        idle_timeout: limit(reader, "idle_timeout", launcher.idle_timeout),
        kill: kill(reader).unwrap_or_else(|| launcher.kill.clone()),
    };
    let retries = Retries {
        retry: reader.integer("retry", 0..=MAX_RETRY, retries.retry),
        backoff: reader.times(
            "retry_backoff",
            Duration::ZERO..=DAY,
            retries.backoff.clone(),
        ),
        on: causes(reader).unwrap_or_else(|| retries.on.clone()),
    };
    TargetSettings { launcher, retries }
}

/// `retry_on`.
fn causes(reader: &mut Reader<'_>) -> Option<Causes> {
    enum Cause {
        Reason(Reason),
        Codes(RangeInclusive<i32>),
    }
    let code = |text: &str| {
        text.trim()
            .parse()
            .ok()
            .filter(|code| (1..=255).contains(code))
    };
    let cause = |text: &str| {
        let mut reasons = Causes::default().reasons.into_iter();
        if let Some(reason) = reasons.find(|reason| reason.as_str() == text) {
            return Some(Cause::Reason(reason));
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (code(first)?, code(last)?);
        (first <= last).then_some(Cause::Codes(first..=last))
    };
    let wanted =
        "exit, signal, timeout, idle, spawn and exit codes from 1 to 255, like signal, 1, 100-110";
    let mut causes = Causes {
        reasons: Vec::new(),
        codes: Vec::new(),
    };
    for cause in reader.list("retry_on", wanted, cause)? {
        match cause {
            Cause::Reason(reason) => causes.reasons.push(reason),
            Cause::Codes(codes) => causes.codes.push(codes),
        }
    }
    Some(causes)
}

/// Of all keys this one may be set to `null`, and means it.
fn data_on_stdin(reader: &mut Reader<'_>, default: bool) -> bool {
    let words = [("data", true), ("null", false)];
    reader.choice("launcher.stdin", &words, default) && !reader.is_unset("launcher.stdin")
}

fn output_file(reader: &mut Reader<'_>, default: Option<FileTemplate>) -> Option<FileTemplate> {
    let wanted = || {
        "none, or an absolute path with %t, %i, %a or %% in it, like /var/log/jobs/%t/%i.log"
            .to_owned()
    };
    let read = reader.parsed("output_file", wanted, |text| match text {
        "none" => Some(None),
        text => FileTemplate::parse(text).map(Some),
    });
    read.unwrap_or(default)
}

/// Zero stands for no limit.
fn output_file_max(reader: &mut Reader<'_>, default: u64) -> u64 {
    match reader.bytes("output_file_max", 0..=1 << 50, default) {
        0 => u64::MAX,
        most => most,
    }
}

/// Zero turns one off that is set for all.
fn limit(reader: &mut Reader<'_>, key: &str, default: Option<Duration>) -> Option<Duration> {
    let limit = reader.optional_seconds(key, Duration::ZERO..=LONGEST);
    let limit = limit.or(default);
    limit.filter(|limit| !limit.is_zero())
}

fn kill(reader: &mut Reader<'_>) -> Option<KillSequence> {
    let grace = reader.optional_seconds("kill_grace", Duration::ZERO..=MAX_KILL);
    let wanted = || {
        "signals by name and times, at most 10m together, that end with KILL, like TERM,10s,KILL"
            .to_owned()
    };
    let parse = |text: &str| KillSequence::parse(text, settings::duration);
    let sequence = reader.parsed("kill_sequence", wanted, parse);
    if grace.is_some() && sequence.is_some() {
        reader.warn(
            "kill_grace",
            "kill_grace does not count beside kill_sequence: leave one of them out",
        );
    }
    sequence.or(grace.map(KillSequence::with_grace))
}

fn shell(reader: &mut Reader<'_>, default: bool) -> bool {
    let words = [("never", false), ("always", true)];
    reader.choice("launcher.shell", &words, default)
}

fn template(reader: &mut Reader<'_>, line: &Line) -> Template {
    let template = if line.shell {
        Template::shell(&line.text)
    } else {
        Template::parse(&line.text)
    };
    match template {
        Ok(template) => {
            if let Some(operator) = template.shell_operator() {
                let text = format!(
                    "launcher holds {operator:?}, which only a shell acts on: set launcher.shell = always, or quote it"
                );
                reader.warn("launcher", text);
            }
            template
        }
        Err(error) => {
            // A missing one has been noted.
            if !line.text.is_empty() {
                reader.mistake("launcher", error.to_string());
            }
            Template::Words(vec![line.text.clone()])
        }
    }
}
