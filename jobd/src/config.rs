//! `jobd.conf` → [`Config`]. Reports every mistake at once and starts nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jobd_proto::TargetName;
use jobd_proto::settings::{
    self, IniFile, Key, Listen, LogSettings, ReadError, Reader, Reading, Value,
};
use jobd_proto::table::{self, DatabaseSettings};
use rustix::fs::{Access, AtFlags, CWD, accessat};

use crate::launcher::{LauncherSettings, Template};
use crate::master_link::MasterSettings;

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
    /// `launcher*` and what belongs to it.
    pub launcher: LauncherSettings,
    /// `master_*`; `None` without host or port.
    pub master: Option<MasterSettings>,
    /// `[targets]`, in the file's order.
    pub targets: Vec<(TargetName, u32)>,
}

/// What a stream's output may take: what a MEDIUMTEXT holds, and a bound on memory per slot.
const MAX_OUTPUT: u64 = 16 << 20;

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
        name: "launcher",
        kind: "text",
        default: "required",
        doc: "The command for each job. `{id}` and `{target}` are replaced in every argument. Split at white space; quotes group; no shell is involved.",
    },
    Key {
        name: "launcher.shell",
        kind: "`never` or `always`",
        default: "`never`",
        doc: "`always` hands the launcher to `/bin/sh -c` as one line.",
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
        doc: "Environment variables of the jobs: `launcher.env.LC_ALL = en_US.UTF-8`.",
    },
    Key {
        name: "max_output_buffer",
        kind: "size",
        default: "`16M`",
        doc: "Bytes kept of a job's standard output, and as many of its standard error: the first half and the last, with a line between that says how many are missing. A loud job takes about five times as much memory for the moment in which its output is written.",
    },
    Key {
        name: "leak_timeout",
        kind: "time",
        default: "`200ms`",
        doc: "How long to wait for the end of the output after a job has exited, because a background child of it may hold the pipe for ever.",
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
        name: "kill_grace",
        kind: "time",
        default: "`5`",
        doc: "Between SIGTERM and SIGKILL to a job that has to stop.",
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
        doc: "A target that this worker serves, and how many of its jobs may run at a time.",
    },
];

/// Every key of a worker's config, for the reference and for near matches.
pub fn tables() -> [&'static [Key]; 4] {
    [
        settings::LISTEN_KEYS,
        KEYS,
        table::settings::KEYS,
        settings::LOG_KEYS,
    ]
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
    let state_dir = state_dir(reader);
    let launcher = launcher(reader);
    let targets = targets(reader);
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
        launcher: launcher?,
        master,
        targets,
    })
}

fn state_dir(reader: &mut Reader<'_>) -> Option<PathBuf> {
    let path = reader.path("state_dir")?;
    if !path.is_dir() {
        reader.mistake(
            "state_dir",
            format!("state_dir: {} is no directory: create it, or let StateDirectory= of the service do so", path.display()),
        );
        return None;
    }
    let access = Access::WRITE_OK | Access::EXEC_OK;
    if let Err(error) = accessat(CWD, &path, access, AtFlags::EACCESS) {
        reader.warn(
            "state_dir",
            format!("state_dir: cannot write to {} ({error}): if this worker dies, ends that the database did not take are lost; give it to the user that jobd runs as", path.display()),
        );
    }
    Some(path)
}

fn launcher(reader: &mut Reader<'_>) -> Option<LauncherSettings> {
    let text = reader.required_text("launcher");
    let shell = reader.choice(
        "launcher.shell",
        &[("never", false), ("always", true)],
        false,
    );
    let max_output = reader.bytes("max_output_buffer", 0..=1 << 30, MAX_OUTPUT);
    let grace = Duration::ZERO..=Duration::from_mins(10);
    let settings = |template| LauncherSettings {
        template,
        cwd: reader.path("launcher.cwd"),
        env: reader.map("launcher.env."),
        max_output: usize::try_from(max_output).unwrap_or(usize::MAX),
        leak_timeout: reader.seconds("leak_timeout", grace.clone(), Duration::from_millis(200)),
        kill_grace: reader.seconds("kill_grace", grace.clone(), Duration::from_secs(5)),
    };
    let template = if shell {
        Template::shell(&text)
    } else {
        Template::parse(&text)
    };
    match template.map(settings) {
        Ok(settings) => {
            if let Some(operator) = settings.template.shell_operator() {
                let text = format!(
                    "launcher holds {operator:?}, which only a shell acts on: set launcher.shell = always, or quote it"
                );
                reader.warn("launcher", text);
            }
            Some(settings)
        }
        Err(_) if text.is_empty() => None,
        Err(error) => {
            reader.mistake("launcher", error.to_string());
            None
        }
    }
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
        let wanted = settings::with_reference(&text, "jobd", &tables()).unwrap();
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
        assert_eq!(config.launcher.max_output, 16 << 20);
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
