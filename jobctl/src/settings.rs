//! From raw arguments and the config file to what the commands need. Opens no connection.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use jobd_proto::Secret;
use jobd_proto::settings::{Findings, IniFile, Key, LogLevel, Reader};
use jobd_proto::table::{DatabaseSettings, settings as table_settings};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Cli;
use crate::database::Database;
use crate::failure::Failure;
use crate::given::Given;

/// The config file in the home directory.
pub(crate) const DEFAULT_CONFIG: &str = ".jobctl.conf";

/// The rows of `jobctl`'s own keys in the config reference.
pub(crate) const KEYS: &[Key] = &[
    Key {
        name: "master",
        kind: "`1` or `0`",
        default: "`0`",
        doc: "Same as `--master`.",
    },
    Key {
        name: "host",
        kind: "text",
        default: "`127.0.0.1`",
        doc: "Same as `--host`.",
    },
    Key {
        name: "port",
        kind: "integer",
        default: "`7080`, for a master `7081`",
        doc: "Same as `--port`.",
    },
    Key {
        name: "password",
        kind: "text",
        default: "",
        doc: "The daemon's password; `--password` asks for another.",
    },
    Key {
        name: "log_level",
        kind: "`trace`, `debug`, `info`, `warn`, `error` or `off`",
        default: "`warn`",
        doc: "Same as `--log-level`.",
    },
];

/// Which of the two daemons is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Worker,
    Master,
}

impl Kind {
    /// Where it listens unless told otherwise.
    pub(crate) fn default_port(self) -> u16 {
        match self {
            Self::Worker => 7080,
            Self::Master => 7081,
        }
    }
}

impl fmt::Display for Kind {
    /// The name of its program.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Worker => "jobd",
            Self::Master => "jobd-master",
        })
    }
}

/// The daemon to speak to.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) password: Option<Secret>,
}

impl Server {
    /// `host:port`, with brackets around an IPv6 address.
    pub(crate) fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.kind, self.address())
    }
}

/// Everything that does not depend on the command.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) server: Server,
    pub(crate) database: Option<Database>,
    pub(crate) log_level: LogLevel,
    /// The file that was read, or would be if it were there; for messages.
    pub(crate) config: PathBuf,
    pub(crate) given: Given,
}

/// What the config file says.
struct Config {
    master: bool,
    host: Option<String>,
    port: Option<u16>,
    password: Option<Secret>,
    log_level: LogLevel,
    database: Option<DatabaseSettings>,
}

impl Settings {
    /// Arguments win over the config file, the file over the defaults.
    pub(crate) fn resolve(cli: &Cli) -> Result<Self, Failure> {
        let (path, file) = read_config(cli.config.as_deref())?;
        let (config, findings) = read_keys(&file);
        if findings.has_errors() {
            return Err(Failure::Usage(format!(
                "the config has mistakes\n{findings}"
            )));
        }
        let log_level = cli.log_level.unwrap_or(config.log_level);
        if matches!(
            log_level,
            LogLevel::Trace | LogLevel::Debug | LogLevel::Info | LogLevel::Warn
        ) {
            for (_, line) in findings.iter() {
                crate::output::complain(&format!("jobctl: {line}"));
            }
        }
        let server = config.server(cli);
        let given = Given::of(cli, config.port_of(cli, server.kind));
        let database = config.database.map(|settings| Database {
            settings,
            given: given.clone(),
        });
        Ok(Self {
            server,
            database,
            log_level,
            config: path,
            given,
        })
    }

    /// Whether the config file holds a password, the daemon's or the database's.
    pub(crate) fn holds_password(&self) -> bool {
        let database = match self.database.as_ref().map(|database| &database.settings) {
            Some(DatabaseSettings::MySql(mysql)) => mysql.password.is_some(),
            _ => false,
        };
        database || self.server.password.is_some()
    }

    /// Asks for the daemon's password on the terminal; it wins over the one of the config.
    /// Needs the context of a runtime.
    pub(crate) fn ask_password(&mut self) -> Result<(), Failure> {
        let cannot = |error: io::Error| match error.kind() {
            io::ErrorKind::Interrupted => Failure::Interrupted("interrupted".to_owned()),
            _ => Failure::Usage(format!(
                "cannot ask for the password: {error}; without a terminal put it into {} as password = …",
                self.config.display()
            )),
        };
        // At Ctrl-C the library sends SIGINT, which would end us before it turns the echo on again.
        let _caught = signal(SignalKind::interrupt()).map_err(cannot)?;
        let prompt = format!("password of {}: ", self.server);
        let password = rpassword::prompt_password(prompt).map_err(cannot)?;
        self.server.password = Some(Secret::new(password));
        Ok(())
    }
}

impl Config {
    fn server(&self, cli: &Cli) -> Server {
        let kind = if cli.master || (self.master && !cli.worker) {
            Kind::Master
        } else {
            Kind::Worker
        };
        // The port of a config that is about a master is of no use for a worker.
        let config_port = self.port.filter(|_| !(self.master && cli.worker));
        Server {
            kind,
            host: cli
                .host
                .clone()
                .or_else(|| self.host.clone())
                .unwrap_or_else(|| "127.0.0.1".to_owned()),
            port: cli.port.or(config_port).unwrap_or(kind.default_port()),
            password: self.password.clone(),
        }
    }

    /// Whose port the config's is, if it names one. Where nothing says so, that of the daemon that it is used for.
    fn port_of(&self, cli: &Cli, asked: Kind) -> Option<Kind> {
        self.port.map(|_| match (self.master, cli.port) {
            (true, _) => Kind::Master,
            (false, Some(_)) => Kind::Worker,
            (false, None) => asked,
        })
    }
}

/// A default file that is not there is an empty one; one that was named must be there.
fn read_config(named: Option<&Path>) -> Result<(PathBuf, IniFile), Failure> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => std::env::home_dir()
            .unwrap_or_default()
            .join(DEFAULT_CONFIG),
    };
    match IniFile::read(&path) {
        Ok(file) => Ok((path, file)),
        Err(error) if named.is_none() && error.is_missing() => {
            Ok((path.clone(), IniFile::parse(&path, "")))
        }
        Err(error) => Err(Failure::Usage(error.to_string())),
    }
}

fn read_keys(file: &IniFile) -> (Config, Findings) {
    let mut reader = Reader::new(file);
    let config = Config {
        master: reader.flag("master", false),
        host: reader.text("host"),
        port: reader.optional_integer("port", 1..=u16::MAX),
        password: reader.secret("password"),
        log_level: reader.choice("log_level", &LogLevel::WORDS, LogLevel::Warn),
        database: table_settings::database(&mut reader),
    };
    (config, reader.finish(&[KEYS, table_settings::KEYS]))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn project() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
    }

    /// `JOBD_BLESS=1` writes the page instead.
    #[test]
    fn the_reference_page_lists_every_key() {
        let page = project().join("docs/CONFIG.md");
        let text = std::fs::read_to_string(&page).unwrap();
        let tables: [&[Key]; 2] = [KEYS, table_settings::KEYS];
        let wanted = jobd_proto::settings::with_reference(&text, "jobctl", &tables).unwrap();
        if std::env::var_os("JOBD_BLESS").is_some() {
            std::fs::write(&page, &wanted).unwrap();
        } else {
            assert!(
                text == wanted,
                "docs/CONFIG.md is out of date: run JOBD_BLESS=1 cargo test -p jobctl reference_page"
            );
        }
    }

    #[test]
    fn the_example_config_is_sound() {
        let path = project().join("examples/jobctl.conf.example");
        let (_, file) = read_config(Some(&path)).unwrap();
        let (config, findings) = read_keys(&file);
        assert!(findings.is_empty(), "{findings}");
        assert!(config.master);
    }

    /// Kind, address and whether there is a password, for a config text and arguments.
    #[track_caller]
    fn check(config: &str, arguments: &[&str], expected: &str) {
        let (config, findings) = read_keys(&IniFile::parse(Path::new("jobctl.conf"), config));
        assert!(findings.is_empty(), "{findings}");
        let cli = Cli::parse_from(["jobctl", "status"].iter().chain(arguments));
        assert_eq!(config.server(&cli).to_string(), expected);
    }

    #[test]
    fn arguments_win_over_the_config_and_the_config_over_the_defaults() {
        check("", &[], "jobd at 127.0.0.1:7080");
        check("", &["--master"], "jobd-master at 127.0.0.1:7081");
        check("master = 1", &[], "jobd-master at 127.0.0.1:7081");
        check(
            "master = true\nhost = db\nport = 99",
            &[],
            "jobd-master at db:99",
        );
        check(
            "host = db\nport = 99",
            &["--host", "::1"],
            "jobd at [::1]:99",
        );
        check("port = 99", &["--port", "98"], "jobd at 127.0.0.1:98");
        check("port = 99", &["--master"], "jobd-master at 127.0.0.1:99");
        check(
            "master = 1\nport = 99",
            &["--worker"],
            "jobd at 127.0.0.1:7080",
        );
    }

    #[test]
    fn the_other_daemon_is_proposed_at_a_port_of_its_own() {
        use Kind::{Master, Worker};
        for (text, options, other, expected) in [
            ("", [].as_slice(), Master, "jobctl --master --port 7081"),
            ("port = 7090", &[], Master, "jobctl --master --port 7081"),
            (
                "port = 9081",
                &["--master"],
                Worker,
                "jobctl --worker --port 7080",
            ),
            (
                "master = 1\nport = 9081",
                &[],
                Worker,
                "jobctl --worker --port 7080",
            ),
            // It is the config's.
            (
                "master = 1\nport = 9081",
                &["--worker"],
                Master,
                "jobctl --master",
            ),
            (
                "port = 7090",
                &["--master", "--port", "7081"],
                Worker,
                "jobctl --worker",
            ),
        ] {
            let (config, _) = read_keys(&IniFile::parse(Path::new("jobctl.conf"), text));
            let cli = Cli::read(["jobctl"].iter().chain(options)).unwrap();
            let asked = config.server(&cli).kind;
            let given = Given::of(&cli, config.port_of(&cli, asked));
            assert_eq!(given.other(other), expected, "{text} {options:?}");
        }
    }

    #[test]
    fn a_database_is_an_option() {
        let parse = |text: &str| read_keys(&IniFile::parse(Path::new("jobctl.conf"), text));
        assert!(parse("").0.database.is_none());
        assert!(matches!(
            parse("sqlite_path = /tmp/x").0.database,
            Some(DatabaseSettings::Sqlite(_))
        ));
        let (config, findings) =
            parse("mysql_host = h\nmysql_user = u\nmysql_database = d\nmysql_table = t");
        assert!(
            matches!(config.database, Some(DatabaseSettings::MySql(_))),
            "{findings}"
        );
        let (_, findings) = parse("mysql_host = h\npoort = 1");
        assert!(findings.has_errors());
        assert!(
            findings.to_string().contains("did you mean port?"),
            "{findings}"
        );
    }
}
