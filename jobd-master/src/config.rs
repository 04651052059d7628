//! The master's config file as typed values. Opens nothing but that file.

use std::path::Path;
use std::time::Duration;

use jobd_proto::settings::{
    self, Findings, IniFile, Key, LISTEN_KEYS, LOG_KEYS, Listen, LogSettings, ReadError, Reader,
    Reading,
};

/// The rows of the master's own keys in the config reference.
const KEYS: &[Key] = &[
    Key {
        name: "ping_interval",
        kind: "time",
        default: "`30`",
        doc: "How often registered workers are pinged. One that says nothing for three intervals \
              is dropped, and registers again when it can.",
    },
    Key {
        name: "poke_throttle_interval",
        kind: "time",
        default: "`0.5`",
        doc: "The workers of a target are told of its first poke at once, and of all that follow \
              within this time together at its end. 0: of each one.",
    },
];

/// Every key of jobd-master.conf.
const TABLES: &[&[Key]] = &[LISTEN_KEYS, LOG_KEYS, KEYS];

const DEFAULT_PING_INTERVAL: Duration = Duration::from_secs(30);
/// Below it a worker that swaps would be dropped, above it a dead one be listed all day.
const PING_INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_hours(1);
const DEFAULT_POKE_THROTTLE: Duration = Duration::from_millis(500);
/// A longer wait than this is what `poll_interval` of the workers is for.
const POKE_THROTTLES: std::ops::RangeInclusive<Duration> = Duration::ZERO..=Duration::from_mins(1);

/// Everything that the master is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen, and whom to let in.
    pub listen: Listen,
    /// What is logged, and where to.
    pub logs: LogSettings,
    /// How often registered workers are pinged.
    pub ping_interval: Duration,
    /// At most one poll per target in this time.
    pub poke_throttle_interval: Duration,
}

/// Reads the file.
///
/// # Errors
/// There is no such file, or it cannot be read.
pub fn read(path: &Path) -> Result<Reading<Config>, ReadError> {
    let file = IniFile::read(path)?;
    let (config, findings) = from_ini(&file);
    Ok(Reading {
        config: Some(config).filter(|_| !findings.has_errors()),
        findings,
        file,
    })
}

/// Whether a master that runs cannot change this key.
pub fn needs_restart(key: &str) -> bool {
    ["host", "port"].contains(&key)
}

fn from_ini(file: &IniFile) -> (Config, Findings) {
    let mut reader = Reader::new(file);
    let config = Config {
        listen: settings::listen(&mut reader),
        logs: settings::logs(&mut reader),
        ping_interval: reader.seconds("ping_interval", PING_INTERVALS, DEFAULT_PING_INTERVAL),
        poke_throttle_interval: reader.seconds(
            "poke_throttle_interval",
            POKE_THROTTLES,
            DEFAULT_POKE_THROTTLE,
        ),
    };
    (config, reader.finish(TABLES))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn project() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
    }

    /// `JOBD_BLESS=1` writes the page instead.
    #[test]
    fn the_reference_page_lists_every_key() {
        let page = project().join("docs/CONFIG.md");
        let text = std::fs::read_to_string(&page).unwrap();
        let wanted = settings::with_reference(&text, "jobd-master", TABLES).unwrap();
        if std::env::var_os("JOBD_BLESS").is_some() {
            std::fs::write(&page, &wanted).unwrap();
        } else {
            assert!(
                text == wanted,
                "docs/CONFIG.md is out of date: run JOBD_BLESS=1 cargo test -p jobd-master reference_page"
            );
        }
    }

    #[test]
    fn the_example_config_is_sound() {
        let Reading { findings, .. } =
            read(&project().join("examples/jobd-master.conf.example")).unwrap();
        assert!(findings.is_empty(), "{findings}");
    }

    fn parse(text: &str) -> (Config, String) {
        let file = IniFile::parse(Path::new("master.conf"), text);
        let (config, findings) = from_ini(&file);
        (config, findings.to_string())
    }

    #[test]
    fn the_keys_of_the_original_are_read_with_their_defaults() {
        let (config, findings) = parse("host = 0.0.0.0\nport = 7081\n");
        assert_eq!(findings, "");
        assert_eq!(config.listen.port, 7081);
        assert_eq!(config.ping_interval, Duration::from_secs(30));
        assert_eq!(config.poke_throttle_interval, Duration::from_millis(500));
        let (config, findings) = parse(
            "host = 127.0.0.1\nport = 1\nping_interval = 5 ; seconds\n\
             poke_throttle_interval = 0.05\nalways_allow_localhost = 1\npassword = \"a;b\"\n\
             log_file = /tmp/x\nlog_level_file = info\nlog_level_console = debug\n",
        );
        assert_eq!(findings, "");
        assert_eq!(config.ping_interval, Duration::from_secs(5));
        assert_eq!(config.poke_throttle_interval, Duration::from_millis(50));
        assert!(config.listen.access.always_allow_localhost);
    }

    #[test]
    fn every_mistake_is_found_at_its_line() {
        let (_, findings) = parse(
            "host = 127.0.0.1\nport = 70810\nping_interval = 0\npoke_throttle_interval = -1\n\
             ping_intervall = 3\n",
        );
        let lines: Vec<&str> = findings.lines().collect();
        for (line, start) in [
            "master.conf:2: port must be ",
            "master.conf:3: ping_interval must be a time from 1s to 1h",
            "master.conf:4: poke_throttle_interval must be ",
            "master.conf:5: unknown key ping_intervall, did you mean ping_interval?",
        ]
        .iter()
        .enumerate()
        {
            assert!(lines[line].starts_with(start), "{findings}");
        }
        assert_eq!(lines.len(), 4, "{findings}");
    }
}
