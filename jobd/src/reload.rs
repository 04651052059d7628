//! SIGHUP: other settings for a worker that runs.
//!
//! A file is applied as a whole or not at all. Running jobs keep what they were started with.

use std::sync::Arc;

use jobd_proto::listener::ListenerOptions;
use jobd_proto::{RequestError, TargetName};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::config::Config;
use crate::daemon;
use crate::dispatcher::{Handle, Limits, Reload};
use crate::launcher::Launcher;
use crate::master_link::MasterSettings;

/// Everything that a reload reaches beside the logs.
pub struct Keeper {
    /// This worker's name, which stays.
    pub name: String,
    /// `[targets]` as the file last said.
    pub targets: Vec<(TargetName, u32)>,
    /// What starts jobs at present.
    pub launcher: Launcher,
    /// The loop.
    pub dispatcher: Handle,
    /// How new clients are treated.
    pub door: watch::Sender<ListenerOptions>,
    /// The master to register with.
    pub master: watch::Sender<Option<MasterSettings>>,
}

impl Keeper {
    /// Applies what a file says; says what it changed of targets.
    pub async fn apply(&mut self, config: Config) -> Result<Vec<String>, RequestError> {
        let launcher = self.launcher.with(&config.per_target, std::env::vars_os());
        let wanted = launcher.clone();
        // Their disk may hang: whether they are there is said when it is known.
        spawn_blocking(move || {
            for warning in wanted.missing_programs() {
                tracing::warn!("{warning}");
            }
        });
        let (set, removed) = difference(&self.targets, &config.targets);
        let reload = Reload {
            limits: limits(&config),
            per_target: config.per_target.clone(),
            launcher: Arc::new(launcher.clone()),
            set,
            removed,
            targets: config.targets.clone(),
        };
        let changed = self.dispatcher.reload(reload).await?;
        self.launcher = launcher;
        self.targets = config.targets;
        self.door
            .send_replace(daemon::listener_options(&config.listen));
        let master = config.master.map(|master| MasterSettings {
            name: self.name.clone(),
            ..master
        });
        self.master.send_if_modified(|former| {
            let is_other = *former != master;
            *former = master;
            is_other
        });
        Ok(changed)
    }
}

/// What of a config the loop may be told while it runs.
pub fn limits(config: &Config) -> Limits {
    Limits {
        fetch_limit: config.fetch_limit,
        poll_interval: config.poll_interval,
        drain_timeout: config.drain_timeout,
    }
}

/// What a file says about targets that it did not say before: those that are new or have another
/// concurrency, and those that are gone.
fn difference(
    before: &[(TargetName, u32)],
    now: &[(TargetName, u32)],
) -> (Vec<(TargetName, u32)>, Vec<TargetName>) {
    let set = now.iter().filter(|target| !before.contains(target));
    let is_gone = |name: &TargetName| !now.iter().any(|(known, _)| known == name);
    let removed = before.iter().map(|(name, _)| name);
    (
        set.cloned().collect(),
        removed.filter(|name| is_gone(name)).cloned().collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_file_says_anew_is_applied() {
        let targets = |all: &[(&str, u32)]| -> Vec<(TargetName, u32)> {
            let target = |(name, n): &(&str, u32)| (TargetName::new(*name).unwrap(), *n);
            all.iter().map(target).collect()
        };
        let before = targets(&[("a", 1), ("b", 2), ("c", 3)]);
        let now = targets(&[("d", 4), ("b", 5), ("a", 1)]);
        let (set, removed) = difference(&before, &now);
        assert_eq!(set, targets(&[("d", 4), ("b", 5)]));
        assert_eq!(removed, [TargetName::new("c").unwrap()]);
        assert_eq!(difference(&now, &now), (vec![], vec![]));
    }
}
