//! What `top` knows and where the eye is: rows, the chosen one, what a key means. Pure: it knows no
//! terminal and no network.

use std::time::Duration;

use jobd_proto::table::JobRow;
use jobd_proto::{JobId, TargetName};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::super::outcome::standing;
use super::super::status::{several_names, urgency, worker_urgency};
use super::super::targets::Limit;
use super::super::view::{Summary, View, Worker};
use crate::failure::Failure;
use crate::settings::Server;

/// The three tables of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pane {
    Targets,
    Workers,
    Jobs,
}

/// What a key asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Leave,
    /// The whole screen anew: something else has written on it.
    Redraw,
    Pause(String),
    Continue(String),
    Limit(Limit),
    /// A job and its target.
    Cancel(JobId, String),
    Follow(JobId),
}

/// All that is shown.
pub(super) struct Board {
    /// The daemon, in words.
    pub(super) server: String,
    pub(super) coloured: bool,
    pub(super) view: Option<View>,
    /// Why there is nothing new.
    pub(super) error: Option<String>,
    /// What an order came to, or a question.
    pub(super) said: String,
    /// A look that takes long.
    pub(super) asking: Option<Duration>,
    pub(super) pane: Pane,
    /// The chosen row of each pane, by its name or id: rows move, the choice stays with its row.
    chosen: [Option<String>; 3],
    /// What waits for a yes.
    question: Option<Wish>,
}

impl Board {
    pub(super) fn new(server: &Server, coloured: bool) -> Self {
        Self {
            server: server.to_string(),
            coloured,
            view: None,
            error: None,
            said: String::new(),
            asking: None,
            pane: Pane::Targets,
            chosen: [const { None }; 3],
            question: None,
        }
    }

    /// Takes in a look.
    pub(super) fn show(&mut self, view: Result<View, Failure>) {
        match view {
            Ok(mut view) => {
                view.targets.sort_by_cached_key(|target| {
                    (std::cmp::Reverse(urgency(target)), target.name.clone())
                });
                view.workers
                    .sort_by_key(|worker| std::cmp::Reverse(worker_urgency(worker)));
                // The longest first: these are looked for.
                view.active
                    .sort_by_key(|row| (row.status != "running", row.time_started, row.id));
                self.error = (!view.errors.is_empty()).then(|| view.errors.join("; "));
                self.view = Some(view);
            }
            Err(failure) => self.error = Some(failure.to_string()),
        }
    }

    /// Says it; a question that waits for its answer stays in sight.
    pub(super) fn tell(&mut self, said: &str) {
        self.said = match self.question {
            Some(_) => format!("{said}; {}", self.said),
            None => said.to_owned(),
        };
    }

    /// Takes note of how long the daemon has been asked, in whole seconds; whether that is to be seen.
    pub(super) fn asking(&mut self, asking: Option<Duration>) -> bool {
        let asking = asking.map(|asking| Duration::from_secs(asking.as_secs()));
        std::mem::replace(&mut self.asking, asking) != asking
    }

    pub(super) fn targets(&self) -> &[Summary] {
        self.view.as_ref().map_or(&[], |view| &view.targets)
    }

    pub(super) fn workers(&self) -> &[Worker] {
        self.view.as_ref().map_or(&[], |view| &view.workers)
    }

    pub(super) fn jobs(&self) -> &[JobRow] {
        self.view.as_ref().map_or(&[], |view| &view.active)
    }

    fn keys(&self, pane: Pane) -> Vec<String> {
        match pane {
            Pane::Targets => self
                .targets()
                .iter()
                .map(|target| target.name.clone())
                .collect(),
            Pane::Workers => {
                let workers = self.workers().iter();
                workers
                    .map(|worker| format!("{} {}", worker.name, worker.address))
                    .collect()
            }
            Pane::Jobs => self.jobs().iter().map(|row| row.id.to_string()).collect(),
        }
    }

    /// The place of the chosen row of a pane, if it has rows: the first one until somebody chooses,
    /// or when the chosen one has gone.
    pub(super) fn place(&self, pane: Pane) -> Option<usize> {
        let keys = self.keys(pane);
        let chosen = self.chosen[pane as usize].as_ref();
        let place = chosen.and_then(|chosen| keys.iter().position(|key| key == chosen));
        place.or((!keys.is_empty()).then_some(0))
    }

    /// What a key means; `None` where it only moves the eye.
    pub(super) fn press(&mut self, key: KeyEvent) -> Option<Wish> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Some(Wish::Leave),
                KeyCode::Char('l') => Some(Wish::Redraw),
                _ => None,
            };
        }
        if let Some(wish) = self.question.take() {
            let is_yes = matches!(key.code, KeyCode::Char('y' | 'Y'));
            self.said = if is_yes {
                String::new()
            } else {
                "nothing was changed".to_owned()
            };
            return is_yes.then_some(wish);
        }
        self.said.clear();
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Some(Wish::Leave),
            KeyCode::Tab | KeyCode::Right => self.turn(1),
            KeyCode::BackTab | KeyCode::Left => self.turn(2),
            KeyCode::Up | KeyCode::Char('k') => self.go(-1),
            KeyCode::Down | KeyCode::Char('j') => self.go(1),
            KeyCode::PageUp => self.go(-10),
            KeyCode::PageDown => self.go(10),
            KeyCode::Char('p') => return self.pause(),
            KeyCode::Char('+') => return self.limit(1),
            KeyCode::Char('-') => return self.limit(-1),
            KeyCode::Char('x') => self.cancel(),
            KeyCode::Char('f') | KeyCode::Enter => {
                let job = self.job();
                return job.map(|row| Wish::Follow(row.id));
            }
            _ => {}
        }
        None
    }

    fn turn(&mut self, by: usize) {
        let panes = [Pane::Targets, Pane::Workers, Pane::Jobs];
        self.pane = panes[(self.pane as usize + by) % panes.len()];
    }

    fn go(&mut self, by: isize) {
        let keys = self.keys(self.pane);
        let place = self.place(self.pane).unwrap_or(0);
        let place = place
            .saturating_add_signed(by)
            .min(keys.len().saturating_sub(1));
        self.chosen[self.pane as usize] = keys.get(place).cloned();
    }

    /// The chosen target of a pane; of jobs that of the chosen one.
    fn target_in(&self, pane: Pane) -> Option<&Summary> {
        match pane {
            Pane::Targets => self.targets().get(self.place(pane)?),
            Pane::Jobs => {
                let job = self.jobs().get(self.place(pane)?)?;
                let mut targets = self.targets().iter();
                targets.find(|target| target.name == job.target)
            }
            Pane::Workers => None,
        }
    }

    /// The chosen job, where the eye is on jobs.
    fn job(&mut self) -> Option<JobRow> {
        if self.pane != Pane::Jobs {
            "choose a job first: Tab leads to them".clone_into(&mut self.said);
            return None;
        }
        let job = self.place(Pane::Jobs).map(|at| self.jobs()[at].clone());
        if job.is_none() {
            let said = if self.has_no_table() {
                "jobs stand in the table, and the config names none"
            } else {
                "no job runs"
            };
            said.clone_into(&mut self.said);
        }
        job
    }

    /// Whether there is no table that would say which jobs run.
    pub(super) fn has_no_table(&self) -> bool {
        let view = self.view.as_ref();
        view.is_some_and(|view| view.database.is_none() && view.errors.is_empty())
    }

    fn pause(&mut self) -> Option<Wish> {
        if self.pane == Pane::Workers {
            "choose a target first: Tab leads to them".clone_into(&mut self.said);
            return None;
        }
        let target = self.target_in(self.pane)?;
        let name = target.name.clone();
        Some(match target.state {
            Some("paused" | "partly paused") => Wish::Continue(name),
            _ => Wish::Pause(name),
        })
    }

    /// The limit of the chosen target, by one more or less. Asks where several workers are to have it, and where the
    /// target was chosen elsewhere.
    fn limit(&mut self, by: i32) -> Option<Wish> {
        let (limit, workers) = match self.changed(by) {
            Ok(changed) => changed,
            Err(said) => {
                self.said = said;
                return None;
            }
        };
        if workers.len() < 2 && self.pane != Pane::Workers {
            return Some(Wish::Limit(limit));
        }
        let workers: Vec<&str> = workers.iter().map(String::as_str).collect();
        self.said = format!(
            "set {} to {} at a time on {}? [y/N]",
            limit.target,
            limit.concurrency,
            several_names(&workers)
        );
        self.question = Some(Wish::Limit(limit));
        None
    }

    /// The new limit, and the workers that are to have it, with what they have now: where the eye is on workers the chosen
    /// one, else all that serve the target. They get the same, one from the largest that one of them has.
    fn changed(&self, by: i32) -> Result<(Limit, Vec<String>), String> {
        let view = self.view.as_ref().filter(|view| view.kind != "table");
        let view = view.ok_or("limits are the workers', and no daemon can be asked")?;
        let pane = match self.pane {
            Pane::Jobs => Pane::Jobs,
            Pane::Targets | Pane::Workers => Pane::Targets,
        };
        let name = &self.target_in(pane).ok_or("there is no target")?.name;
        let only = self
            .place(Pane::Workers)
            .filter(|_| self.pane == Pane::Workers);
        let only = only.and_then(|at| view.workers.get(at));
        let workers = match only {
            Some(worker) => std::slice::from_ref(worker),
            None => &view.workers,
        };
        let limits = workers.iter().filter_map(|worker| {
            let target = worker.targets.iter().find(|target| target.name == *name)?;
            Some((worker.name.as_str(), target.slots))
        });
        let limits: Vec<(&str, Option<u32>)> = limits.collect();
        let most = limits.iter().filter_map(|(_, slots)| *slots).max();
        let most = most.ok_or_else(|| match only {
            Some(worker) => format!(
                "{} says nothing of {name}: choose one of its targets, then it",
                worker.name
            ),
            None => format!("no worker says how many jobs of {name} may run at a time"),
        })?;
        let concurrency = most.checked_add_signed(by).filter(|slots| *slots > 0);
        let limit = Limit {
            target: TargetName::new(name.as_str())?,
            concurrency: concurrency.ok_or("a target runs one job at least; p pauses it")?,
            on: only
                .filter(|_| view.kind == "master")
                .map(|worker| worker.name.clone()),
        };
        let known = limits.into_iter().map(|(worker, slots)| match slots {
            Some(slots) => format!("{worker} (now {slots})"),
            None => format!("{worker} (now unknown)"),
        });
        Ok((limit, known.collect()))
    }

    fn cancel(&mut self) {
        if let Some(row) = self.job() {
            let now = self.view.as_ref().map_or(0, |view| view.now);
            self.said = format!("cancel {}? [y/N]", standing(&row, now));
            self.question = Some(Wish::Cancel(row.id, row.target));
        }
    }
}
