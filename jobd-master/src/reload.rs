//! SIGHUP and SIGUSR1: other settings for a master that runs, and logs that somebody has moved away.
//!
//! A file is applied as a whole or not at all. Registered workers stay registered.

use std::convert::Infallible;

use jobd_proto::daemon::logs::LogGuard;
use jobd_proto::daemon::notify;
use jobd_proto::daemon::reload::{ConfigFile, News};
use jobd_proto::daemon::signals::{Upkeep, UpkeepSignals};
use jobd_proto::listener::ListenerOptions;
use tokio::sync::watch;

use crate::config::Config;
use crate::daemon;
use crate::hub::{Hub, Intervals};

/// Everything that a reload reaches.
pub struct Keeper<'a> {
    /// The config file.
    pub file: ConfigFile<Config>,
    /// The logs.
    pub logs: &'a LogGuard,
    /// The registry and the throttle.
    pub hub: Hub,
    /// How new clients are treated.
    pub door: watch::Sender<ListenerOptions>,
}

impl Keeper<'_> {
    /// Does what the signals ask for.
    pub async fn run(mut self, mut signals: UpkeepSignals) -> Infallible {
        loop {
            match signals.next().await {
                Upkeep::ReopenLogs => {
                    self.logs.reopen();
                    tracing::info!("received SIGUSR1: log file opened anew");
                }
                Upkeep::Reload => {
                    notify::reloading();
                    if let Some(news) = self.file.read_again().await {
                        self.apply(news).await;
                    }
                    notify::reloaded();
                }
            }
        }
    }

    async fn apply(&mut self, news: News<Config>) {
        let config = news.config;
        // First what can fail.
        if let Err(error) = self.logs.change(&config.logs) {
            return self.file.refuse(&error.to_string());
        }
        if let Err(error) = self.hub.set_intervals(Intervals::of(&config)).await {
            return self.file.refuse(&error.to_string());
        }
        self.door
            .send_replace(daemon::listener_options(config.listen));
        self.file.applied(news.file, Vec::new());
    }
}
