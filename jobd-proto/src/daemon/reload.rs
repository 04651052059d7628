//! A config file that is read again while its daemon runs: says what is wrong with it, what has changed, and
//! what would need a restart. Applies nothing itself but what it says of logs.

use std::convert::Infallible;
use std::path::{Path, PathBuf};

use super::logs::LogGuard;
use super::notify;
use super::signals::{Upkeep, UpkeepSignals};
use super::threads::blocking;
use crate::RequestError;
use crate::settings::{Change, IniFile, LogSettings, ReadError, Reading, Severity, changes};

/// How a daemon reads its config file.
pub type Read<C> = fn(&Path) -> Result<Reading<C>, ReadError>;

/// The config file of a running daemon.
#[derive(Debug)]
pub struct ConfigFile<C> {
    path: PathBuf,
    read: Read<C>,
    /// Whether a key needs a restart.
    is_fixed: fn(&str) -> bool,
    /// What is in force of the keys that need a restart.
    at_start: IniFile,
    /// What is in force of all others.
    applied: IniFile,
}

/// What the file says now and has not been applied yet.
#[derive(Debug)]
pub struct News<C> {
    /// Its meaning; of the keys that need a restart some may not be in force.
    pub config: C,
    /// Its text.
    pub file: IniFile,
}

/// Does what the signals ask for: opens the log file anew, or reads the config again and has it applied, as a whole or
/// not at all. `apply` says what has changed of what is no plain key, or why nothing may change; what the file says of
/// logs, which `of_logs` finds, is in force by then.
pub async fn keep<C: Send + 'static>(
    mut file: ConfigFile<C>,
    logs: &LogGuard,
    of_logs: fn(&C) -> &LogSettings,
    mut signals: UpkeepSignals,
    mut apply: impl AsyncFnMut(C) -> Result<Vec<String>, RequestError>,
) -> Infallible {
    loop {
        match signals.next().await {
            Upkeep::ReopenLogs => {
                logs.reopen();
                tracing::info!("received SIGUSR1: log file opened anew");
            }
            Upkeep::Reload => {
                notify::reloading();
                if let Some(news) = file.read_again().await {
                    // First what can fail.
                    if let Err(error) = logs.change(of_logs(&news.config)).await {
                        file.refuse(&error.to_string());
                    } else {
                        match apply(news.config).await {
                            Ok(changed) => file.applied(news.file, changed),
                            Err(error) => file.refuse(&error.to_string()),
                        }
                    }
                }
                notify::reloaded();
            }
        }
    }
}

impl<C: Send + 'static> ConfigFile<C> {
    /// The file that a daemon was started with.
    pub fn new(path: &Path, file: IniFile, read: Read<C>, is_fixed: fn(&str) -> bool) -> Self {
        Self {
            path: path.to_owned(),
            read,
            is_fixed,
            applied: file.clone(),
            at_start: file,
        }
    }

    /// Reads the file again and logs everything that is wrong with it, as a start does; `None` where the
    /// old settings have to stay, which is logged too.
    pub async fn read_again(&self) -> Option<News<C>> {
        let (path, read) = (self.path.clone(), self.read);
        // A file may lie on a disk that has gone to sleep.
        let reading = match blocking(move || read(&path)).await {
            Ok(reading) => reading,
            Err(error) => {
                self.refuse(&error.to_string());
                return None;
            }
        };
        let mut errors = 0;
        for (finding, line) in reading.findings.iter() {
            match finding.severity {
                Severity::Error => {
                    errors += 1;
                    tracing::error!("{line}");
                }
                Severity::Warning => tracing::warn!("{line}"),
            }
        }
        let Some(config) = reading.config else {
            let several = if errors == 1 { "" } else { "s" };
            self.refuse(&format!("{errors} mistake{several}"));
            return None;
        };
        Some(News {
            config,
            file: reading.file,
        })
    }

    /// Logs that the old settings stay, and why.
    pub fn refuse(&self, why: &str) {
        tracing::error!(
            "{} is not reloaded, the old settings stay: {why}",
            self.path.display()
        );
    }

    /// Logs what has changed; `more` says it of what is no plain key, such as targets.
    pub fn applied(&mut self, file: IniFile, more: Vec<String>) {
        let changed = changes(&self.applied, &file).into_iter();
        let mut changed: Vec<String> = changed
            .map(|change| change.key)
            .filter(|key| !(self.is_fixed)(key))
            .collect();
        let kept: Vec<String> = changes(&self.at_start, &file)
            .into_iter()
            .filter(|change| (self.is_fixed)(&change.key))
            .map(|Change { key, before }| format!("{key} = {before}"))
            .collect();
        self.applied = file;
        changed.extend(more);
        let path = self.path.display();
        if changed.is_empty() {
            tracing::info!("{path} reloaded, nothing changed");
        } else {
            tracing::info!("{path} reloaded, changed: {}", changed.join(", "));
        }
        if !kept.is_empty() {
            tracing::warn!(
                "{path}: changes that need a restart are not in force, still counts: {}",
                kept.join(", ")
            );
        }
    }
}
