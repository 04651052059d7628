//! Configs of the programs under test, as text.

use std::fmt::Write as _;
use std::path::Path;

use crate::database::Database;
use crate::ports;
use crate::server::{PASSWORD, USER};

/// A config: keys in the order given, a key set again replaces the former value.
#[derive(Clone, Debug, Default)]
pub struct Ini {
    keys: Vec<(String, String)>,
    targets: Vec<(String, u32)>,
    /// Sections with keys of their own.
    sections: Vec<(String, String, String)>,
}

impl Ini {
    /// What both daemons need: an address to listen on, and much to read in the log.
    pub fn listen() -> Self {
        Self::default()
            .set("host", "127.0.0.1")
            .set("port", ports::free())
            .set("log_level_console", "debug")
    }

    /// A worker on the table `jobs` of `database`, over TCP; it has no targets yet.
    pub fn worker(database: &Database) -> Self {
        Self::listen()
            .set("mysql_host", "127.0.0.1")
            .set("mysql_port", database.port)
            .set("mysql_user", USER)
            .set("mysql_password", PASSWORD)
            .set("mysql_database", &database.name)
            .set("mysql_table", "jobs")
            .set("launcher", "true {id}")
    }

    /// A worker on the table `jobs` of an SQLite file; it has no targets yet.
    pub fn sqlite_worker(file: &Path) -> Self {
        Self::listen()
            .set("storage", "sqlite")
            .set("sqlite_path", file.display())
            .set("launcher", "true {id}")
    }

    /// Sets `key`; the value is written as it is.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        self = self.unset(key);
        self.keys.push((key.to_owned(), value.to_string()));
        self
    }

    /// Takes `key` out.
    #[must_use]
    pub fn unset(mut self, key: &str) -> Self {
        self.keys.retain(|(name, _)| name != key);
        self
    }

    /// Adds a target with so many slots.
    #[must_use]
    pub fn target(mut self, name: &str, concurrency: u32) -> Self {
        self.targets.push((name.to_owned(), concurrency));
        self
    }

    /// Sets `key` for one target alone.
    #[must_use]
    pub fn own(mut self, target: &str, key: &str, value: impl std::fmt::Display) -> Self {
        let section = format!("target:{target}");
        self.sections
            .push((section, key.to_owned(), value.to_string()));
        self
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        let found = self.keys.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }

    /// The port to listen on.
    pub fn port(&self) -> u16 {
        self.get("port")
            .and_then(|port| port.parse().ok())
            .expect("a port in the config")
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (key, value) in &self.keys {
            writeln!(text, "{key} = {value}").expect("write to a string");
        }
        if !self.targets.is_empty() {
            text.push_str("\n[targets]\n");
        }
        for (name, concurrency) in &self.targets {
            writeln!(text, "{name} = {concurrency}").expect("write to a string");
        }
        for (section, key, value) in &self.sections {
            writeln!(text, "[{section}]\n{key} = {value}").expect("write to a string");
        }
        text
    }
}
