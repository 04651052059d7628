//! `jobd.conf` → [`Config`]. Reports every mistake at once and starts nothing.

mod setup;
mod state;
mod target;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jobd_proto::TargetName;
use jobd_proto::settings::{
    self, Entry, IniFile, Key, Listen, LogSettings, ReadError, Reader, Reading, Value,
};
use jobd_proto::table::{self, DatabaseSettings};

use crate::master_link::MasterSettings;
use crate::per_target::PerTarget;

pub use state::file as state_file;

/// Everything that a config file says.
#[derive(Clone, Debug)]
pub struct Config {
    /// `name`, or the host's name.
    pub name: String,
    /// The host's name.
    pub host_name: String,
    /// Where to listen.
    pub listen: Listen,
    /// What to log.
    pub logs: LogSettings,
    /// Where the table is.
    pub database: DatabaseSettings,
    /// `mysql_fetch_limit`; 0 for none.
    pub fetch_limit: u32,
    /// `poll_interval`; zero for never.
    pub poll_interval: Duration,
    /// `lease`.
    pub lease: Duration,
    /// `state_dir`, where it is one.
    pub state_dir: Option<PathBuf>,
    /// `drain_timeout`.
    pub drain_timeout: Duration,
    /// What may be set for each target: `launcher*` and what belongs to it.
    pub per_target: Arc<PerTarget>,
    /// `master_*`; `None` without host or port.
    pub master: Option<MasterSettings>,
    /// `[targets]`, in the file's order.
    pub targets: Vec<(TargetName, u32)>,
}

/// A day: a time-out beyond is a mistake for any of the keys here.
const DAY: Duration = Duration::from_hours(24);

/// The keys that only a worker has, with those that it shares in their own tables ([`tables`]).
const KEYS: &[Key] = &[
    Key {
        name: "name",
        kind: "text",
        default: "the host's name",
        doc: "What this worker is called in `status`, at the master and in the table.",
    },
    Key {
        name: "mysql_fetch_limit",
        kind: "integer",
        default: "`100`",
        doc: "The most rows of one claim; `0` for no limit. A worker never claims more than it has slots for, plus what it is about to have.",
    },
    Key {
        name: "poll_interval",
        kind: "time",
        default: "`5`",
        doc: "How often to look for waiting rows without being told to, so that a lost poke costs at most this. `0` turns it off.",
    },
    Key {
        name: "lease",
        kind: "time",
        default: "`30`",
        doc: "On a table with the columns of ownership: how long a claim is good for without a renewal. The rows of a worker that dies are rescued after it. Must be the same on all workers of a table. Below 8 s there is no time to replace a connection that has gone dead without a word.",
    },
    Key {
        name: "state_dir",
        kind: "path",
        default: "unset",
        doc: "A directory on a local disk for a lock and a journal with this worker's name. With it, a restarted worker gives back or ends what its predecessor on this host left, within a second or two, and results that the database did not take outlive the worker and a power failure. Without it, leases decide. Needs room for the output of as many jobs as there are slots, twice.",
    },
    Key {
        name: "drain_timeout",
        kind: "time",
        default: "`60`",
        doc: "How long running jobs may go on after SIGTERM or SIGINT. A second signal ends the wait.",
    },
    Key {
        name: "master_host",
        kind: "text",
        default: "unset",
        doc: "Where jobd-master is. Without host or port there is no master.",
    },
    Key {
        name: "master_port",
        kind: "integer",
        default: "unset",
        doc: "Its port.",
    },
    Key {
        name: "master_reconnect_timeout",
        kind: "time",
        default: "`10`",
        doc: "Between two tries to reach the master, on average: each pause is drawn at random, so that many workers do not return at once.",
    },
    Key {
        name: "master_ping_interval",
        kind: "time",
        default: "`30`",
        doc: "How often the master is pinged. One that says nothing for three intervals is taken for gone, and registered with again.",
    },
    Key {
        name: "[targets] NAME",
        kind: "integer",
        default: "",
        doc: "A target that this worker serves, and how many of its jobs may run at a time. With a `*`, which stands for one character or more, it is a pattern: `user/* = 1` serves every name that matches, each by itself.",
    },
    Key {
        name: "[target:NAME] KEY",
        kind: "",
        default: "as for all",
        doc: "A setting of that target alone: see [below](#settings-of-targets).",
    },
];

/// Every key of a worker's config, for the reference and for near matches.
pub fn tables() -> [&'static [Key]; 6] {
    [
        settings::LISTEN_KEYS,
        KEYS,
        target::KEYS,
        setup::KEYS,
        table::settings::KEYS,
        settings::LOG_KEYS,
    ]
}

/// What a file sets for single targets, a line each: `[target:mail] launcher = …`. What jobs find in their environment
/// may be secret, and is left out; so may be what is no setting of a target.
pub fn own_settings(file: &IniFile) -> impl Iterator<Item = String> {
    file.entries().iter().filter_map(|entry| {
        let section = entry.section.as_ref()?;
        let Entry { key, value, .. } = entry;
        let value = match value {
            Value::Text(_) if key.starts_with("launcher.env.") => "…",
            Value::Text(text) => text,
            Value::True | Value::Unset => return None,
        };
        let mut settings = target::KEYS.iter().chain(setup::KEYS);
        let is_own =
            section.starts_with(target::FAMILY) && settings.any(|known| known.describes(key));
        is_own.then(|| format!("[{section}] {key} = {value}"))
    })
}

/// Reads a config file.
pub fn read(path: &Path) -> Result<Reading<Config>, ReadError> {
    let file = IniFile::read(path)?;
    let mut reader = Reader::new(&file);
    let config = typed(&mut reader);
    let findings = reader.finish(&tables());
    Ok(Reading {
        config: config.filter(|_| !findings.has_errors()),
        findings,
        file,
    })
}

/// Whether a worker that runs cannot change this key: its address, its name and what stands in rows under
/// it, and the database.
pub fn needs_restart(key: &str) -> bool {
    ["host", "port", "name", "lease", "state_dir"].contains(&key)
        || table::settings::KEYS.iter().any(|known| known.name == key)
}

fn typed(reader: &mut Reader<'_>) -> Option<Config> {
    let host_name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let name = reader.text("name").unwrap_or_else(|| host_name.clone());
    let listen = settings::listen(reader);
    let master = master(reader, &name, &listen);
    let logs = settings::logs(reader);
    let database = table::settings::database(reader);
    let seconds = Duration::from_secs;
    let fetch_limit = reader.integer("mysql_fetch_limit", 0..=1_000_000, 100);
    let poll_interval = reader.seconds("poll_interval", Duration::ZERO..=DAY, seconds(5));
    let drain_timeout = reader.seconds("drain_timeout", Duration::ZERO..=DAY, seconds(60));
    let lease = reader.seconds("lease", seconds(1)..=Duration::from_hours(1), seconds(30));
    let state_dir = state::dir(reader, &name);
    let targets = targets(reader);
    let per_target = target::read(reader, &targets);
    if targets.is_empty() {
        reader.warn(
            "targets",
            "no targets: this worker claims nothing until a client adds one; name them below [targets], as in mail = 2",
        );
    }
    if database.is_none()
        && reader.line_of("storage").is_none()
        && reader.line_of("mysql_table").is_none()
    {
        reader.mistake("mysql_host", "no database: set mysql_host, mysql_user, mysql_password, mysql_database and mysql_table, or sqlite_path");
    }
    Some(Config {
        name,
        host_name,
        listen,
        logs,
        database: database?,
        fetch_limit,
        poll_interval,
        lease,
        state_dir,
        drain_timeout,
        per_target: Arc::new(per_target),
        master,
        targets,
    })
}

fn master(reader: &mut Reader<'_>, name: &str, listen: &Listen) -> Option<MasterSettings> {
    let host = reader.text("master_host");
    let port = reader.optional_integer("master_port", 1..=u16::MAX);
    let reconnect = reader.seconds(
        "master_reconnect_timeout",
        Duration::from_millis(10)..=DAY,
        Duration::from_secs(10),
    );
    let ping = reader.seconds(
        "master_ping_interval",
        Duration::from_secs(1)..=Duration::from_hours(1),
        Duration::from_secs(30),
    );
    match (host, port) {
        (Some(host), Some(port)) => {
            let password = listen.access.password.clone();
            Some(MasterSettings {
                host,
                port,
                reconnect,
                ping,
                password,
                name: name.to_owned(),
            })
        }
        (Some(_), None) if reader.line_of("master_port").is_none() => {
            reader.warn(
                "master_host",
                "master_host without master_port: this worker connects to no master",
            );
            None
        }
        (None, Some(_)) => {
            reader.warn(
                "master_port",
                "master_port without master_host: this worker connects to no master",
            );
            None
        }
        _ => None,
    }
}

fn targets(reader: &mut Reader<'_>) -> Vec<(TargetName, u32)> {
    let mut targets: Vec<(TargetName, u32)> = Vec::new();
    for entry in reader.section("targets") {
        let line = Some(entry.line);
        let name = match TargetName::new(entry.key.clone()) {
            Ok(name) => name,
            Err(error) => {
                reader.mistake_at(line, error);
                continue;
            }
        };
        let concurrency = match &entry.value {
            Value::Text(text) => text.parse::<u32>().ok().filter(|number| *number > 0),
            Value::True | Value::Unset => None,
        };
        match concurrency {
            Some(concurrency) => targets.push((name, concurrency)),
            None => reader.mistake_at(line, format!("target {name}: its number of concurrent jobs must be a whole number from 1, as in {name} = 2")),
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launcher::{KillSequence, LauncherSettings, Template};

    fn project() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .unwrap()
            .to_owned()
    }

    fn read_text(text: &str) -> (Option<Config>, String) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let Reading {
            config, findings, ..
        } = read(file.path()).unwrap();
        (
            config,
            findings
                .to_string()
                .replace(&file.path().display().to_string(), "jobd.conf"),
        )
    }

    const MINIMAL: &str = "host = 127.0.0.1\nport = 7080\nsqlite_path = x.db\nlauncher = true\n";

    /// `JOBD_BLESS=1` writes the page instead.
    #[test]
    fn the_reference_page_lists_every_key() {
        let page = project().join("docs/CONFIG.md");
        let text = std::fs::read_to_string(&page).unwrap();
        let is_own = |table: &&[Key]| {
            [target::KEYS, setup::KEYS]
                .iter()
                .any(|own| own[0].name == table[0].name)
        };
        let (own, all): (Vec<_>, Vec<_>) = tables().into_iter().partition(is_own);
        let wanted = settings::with_reference(&text, "jobd", &all).unwrap();
        let wanted = settings::with_reference(&wanted, "each target", &own).unwrap();
        if std::env::var_os("JOBD_BLESS").is_some() {
            std::fs::write(&page, &wanted).unwrap();
        } else {
            assert!(
                text == wanted,
                "docs/CONFIG.md is out of date: run JOBD_BLESS=1 cargo test -p jobd reference_page"
            );
        }
    }

    #[test]
    fn the_example_config_is_sound() {
        let Reading {
            config, findings, ..
        } = read(&project().join("examples/jobd.conf.example")).unwrap();
        assert!(findings.is_empty(), "{findings}");
        assert_eq!(config.unwrap().targets.len(), 2);
    }

    #[test]
    fn defaults_are_those_of_the_reference() {
        let (config, findings) = read_text(&format!("{MINIMAL}[targets]\n1/low = 2\n"));
        assert_eq!(findings, "");
        let config = config.unwrap();
        assert_eq!(
            (
                config.fetch_limit,
                config.poll_interval.as_secs(),
                config.drain_timeout.as_secs()
            ),
            (100, 5, 60)
        );
        assert_eq!(config.per_target.default().launcher.max_output, 16 << 20);
        assert_eq!(config.name, config.host_name);
        assert_eq!(config.targets[0].0.as_str(), "1/low");
        assert!(config.master.is_none());
    }

    #[test]
    fn a_worker_without_targets_and_a_key_that_became_one_are_warned_about() {
        let (config, findings) = read_text(MINIMAL);
        assert!(
            config.is_some() && findings.contains("no targets: "),
            "{findings}"
        );
        let (config, findings) = read_text(&format!(
            "{MINIMAL}[targets]\nname = 1\npoll_interval = 5\n"
        ));
        assert!(config.is_some());
        assert!(
            findings.starts_with("jobd.conf:7: poll_interval stands under [targets]"),
            "{findings}"
        );
    }

    #[test]
    fn a_target_has_settings_of_its_own_beside_those_of_all() {
        let (config, findings) = read_text(&format!(
            "{MINIMAL}kill_grace = 9\nlauncher.cwd = /\nlauncher.env.A = 1\nlauncher.env.B = 2\n[targets]\na = 1\nb/c = 1\n\
             [target:b/c]\nlauncher.shell = always\nlauncher.env.B = 3\nkill_grace = 1\n[target:a]\nmax_output_buffer = 1K\n"
        ));
        assert_eq!(findings, "");
        let per_target = config.unwrap().per_target;
        let of = |name| &per_target.of(&TargetName::new(name).unwrap()).launcher;
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let own = of("b/c");
        assert_eq!(own.template, Template::shell("true").unwrap());
        assert_eq!(own.env, [pair("A", "1"), pair("B", "3")]);
        assert_eq!(
            (own.kill.duration().as_secs(), own.max_output),
            (1, 16 << 20)
        );
        for name in ["a", "other"] {
            let LauncherSettings {
                template, env, cwd, ..
            } = of(name);
            assert_eq!(*template, Template::parse("true").unwrap());
            assert_eq!(*env, [pair("A", "1"), pair("B", "2")]);
            assert_eq!(cwd.as_deref(), Some(Path::new("/")));
            assert_eq!(of(name).kill.duration().as_secs(), 9);
        }
        assert_eq!(
            (of("a").max_output, of("other").max_output),
            (1 << 10, 16 << 20)
        );
    }

    #[test]
    fn the_way_to_stop_a_job_is_the_nearest_that_is_written() {
        let (config, findings) = read_text(&format!(
            "{MINIMAL}kill_sequence = INT,1s,KILL\ntimeout = 9\n[targets]\na = 1\n[target:a]\nkill_grace = 3\ntimeout = 0\n"
        ));
        assert_eq!(findings, "");
        let per_target = config.unwrap().per_target;
        let all = &per_target.default().launcher;
        assert_eq!(all.kill.duration(), Duration::from_secs(1));
        assert_eq!(all.timeout, Some(Duration::from_secs(9)));
        let own = &per_target.of(&TargetName::new("a").unwrap()).launcher;
        assert_eq!(own.kill, KillSequence::with_grace(Duration::from_secs(3)));
        assert_eq!(own.timeout, None);
        let (_, findings) = read_text(&format!(
            "{MINIMAL}kill_grace = 3\nkill_sequence = TERM,5s\n[targets]\na=1\n"
        ));
        assert!(
            findings.starts_with("jobd.conf:6: kill_sequence must be signals by name"),
            "{findings}"
        );
        let (_, findings) = read_text(&format!(
            "{MINIMAL}kill_grace = 3\nkill_sequence = TERM,5s,KILL\n[targets]\na=1\n"
        ));
        assert!(
            findings.starts_with("jobd.conf:5: kill_grace does not count"),
            "{findings}"
        );
    }

    #[test]
    fn mistakes_in_the_sections_of_targets_are_reported_with_their_lines() {
        let (config, findings) = read_text(&format!(
            "{MINIMAL}[targets]\na = 1\n[target:*]\n[target:a]\nkill_grace = x\nlaunchre = true\nport = 5\n\
             launcher = 'x\n[target:b]\n[target:]\n[target: a]\n[targets:a]\n"
        ));
        assert!(config.is_none());
        let expected = [
            "9: kill_grace must be a time from 0 to 10m",
            "10: unknown key launchre, did you mean launcher?",
            "11: port is not read in [target:a]",
            "12: launcher has an unbalanced ' quote",
            "13: [target:b] is about no target below [targets]",
            "14: ",
            "15: [target: a] is about no target",
            "16: unknown section [targets:a], did you mean [target:a]?",
        ];
        let lines: Vec<&str> = findings.lines().collect();
        assert_eq!(lines.len(), expected.len(), "{findings}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.starts_with(&format!("jobd.conf:{expected}")), "{line}");
        }
    }

    #[test]
    fn every_mistake_is_reported_with_its_line() {
        let (config, findings) = read_text(
            "port = x\nlauncher = \"php\nmysql_pasword = s3cret\n[targets]\nmail = 0\nnull = 1\n",
        );
        assert!(config.is_none());
        for expected in [
            "jobd.conf:1: ",
            "jobd.conf:2: launcher has an unbalanced",
            "did you mean mysql_password",
            "jobd.conf:5: target mail",
            "jobd.conf:6: 'null' cannot name a target",
            "missing required key host",
        ] {
            assert!(findings.contains(expected), "{expected} in\n{findings}");
        }
        assert!(!findings.contains("s3cret"));
    }
}
