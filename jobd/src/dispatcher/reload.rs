//! Other settings for a worker that runs. Running jobs keep what they were started with.

use std::fmt;
use std::sync::Arc;

use jobd_proto::TargetName;

use super::{Dispatcher, Limits, Table};
use crate::launcher::Executor;
use crate::per_target::PerTarget;

/// What a config that was read again changes about the loop.
pub struct Reload {
    /// In force from now on.
    pub limits: Limits,
    /// What is set for each target.
    pub per_target: Arc<PerTarget>,
    /// For jobs that start from now on.
    pub launcher: Arc<dyn Executor>,
    /// Targets that the file names anew or with another concurrency than before.
    pub set: Vec<(TargetName, u32)>,
    /// Targets that the file named before and names no longer.
    pub removed: Vec<TargetName>,
    /// All that it names, to compare with what clients have made of them.
    pub targets: Vec<(TargetName, u32)>,
}

impl fmt::Debug for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reload({:?}, {:?})", self.limits, self.targets)
    }
}

impl Dispatcher {
    /// What the file says anew counts; where it says what it said before, a client's change stays.
    pub(super) fn reload(&mut self, reload: Reload) -> Vec<String> {
        let mut said = Vec::new();
        for (name, concurrency) in reload.set {
            let text = match self.targets.concurrency(&name) {
                Some(former) if former == concurrency as usize => continue,
                Some(former) => format!("target {name} (from {former} to {concurrency} at a time)"),
                None => format!("target {name} (new, {concurrency} at a time)"),
            };
            let set = if self.targets.concurrency(&name).is_some() {
                self.targets.set_concurrency(&name, concurrency)
            } else {
                self.targets.add(name, concurrency)
            };
            set.expect("a target is served or it is not");
            said.push(text);
        }
        for name in reload.removed {
            let Some((unstarted, running)) = self.targets.retire(&name) else {
                continue;
            };
            said.push(match running {
                0 => format!("target {name} (removed)"),
                _ => format!("target {name} (removed, {running} of its jobs go on)"),
            });
            for job in unstarted {
                self.release(job);
            }
        }
        self.targets.set_fetch_limit(reload.limits.fetch_limit);
        self.former_kill = self.longest_kill();
        self.launcher = reload.launcher;
        self.settings.per_target = reload.per_target;
        if matches!(&self.table, Table::Ready(inspection) if inspection.target_ignores_case) {
            self.ignore_case_of_settings();
        }
        let former = std::mem::replace(&mut self.settings.limits, reload.limits);
        if former.poll_interval != reload.limits.poll_interval {
            self.next_poll = None;
            // Before the table is known there is nothing to look at, and then the first look is planned.
            if let Table::Ready(_) = self.table {
                self.schedule_poll();
            }
        }
        // The master knows their names only.
        let names = self.targets.names();
        self.served.send_if_modified(|served| {
            let differs = *served != names;
            *served = names;
            differs
        });
        self.compare(&reload.targets);
        said
    }

    /// The table takes 'Mail' for 'mail': what is set for one is set for the other.
    pub(super) fn ignore_case_of_settings(&mut self) {
        let per_target = PerTarget::clone(&self.settings.per_target);
        self.settings.per_target = Arc::new(per_target.ignoring_case());
        if let Some(launcher) = self.launcher.ignoring_case() {
            self.launcher = launcher;
        }
    }

    /// Says where clients have made something else of the targets than the file says.
    fn compare(&self, file: &[(TargetName, u32)]) {
        let mut differing = Vec::new();
        for (name, concurrency) in file {
            match self.targets.concurrency(name) {
                Some(served) if served == *concurrency as usize => {}
                Some(served) => differing.push(format!("{name} {served} (file: {concurrency})")),
                None => differing.push(format!("{name} removed (file: {concurrency})")),
            }
        }
        for name in self.targets.names() {
            if !file.iter().any(|(known, _)| *known == name) {
                differing.push(format!("{name} (not in the file)"));
            }
        }
        if !differing.is_empty() {
            tracing::info!(
                "targets stay as clients have set them: {}",
                differing.join(", ")
            );
        }
    }
}
