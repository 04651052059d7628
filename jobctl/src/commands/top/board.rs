//! What `top` knows and where the eye is: rows, the chosen one, what a key means. Pure: it knows no
//! terminal and no network.

use std::time::Duration;

use jobd_proto::JobId;
use jobd_proto::table::JobRow;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::super::outcome::standing;
use super::super::status::urgency;
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
    Pause(String),
    Continue(String),
    /// A target, and how many of its jobs may run at a time.
    Limit(String, u32),
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
                // The longest first: these are looked for.
                view.active
                    .sort_by_key(|row| (row.status != "running", row.time_started, row.id));
                self.error = (!view.errors.is_empty()).then(|| view.errors.join("; "));
                self.view = Some(view);
            }
            Err(failure) => self.error = Some(failure.to_string()),
        }
    }

    pub(super) fn tell(&mut self, said: String) {
        self.said = said;
    }

    pub(super) fn asking(&mut self, asking: Option<Duration>) {
        self.asking = asking;
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
            return (key.code == KeyCode::Char('c')).then_some(Wish::Leave);
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

    /// The chosen target; where the eye is on jobs that of the chosen one.
    fn target(&mut self) -> Option<Summary> {
        match self.pane {
            Pane::Targets => self.targets().get(self.place(Pane::Targets)?).cloned(),
            Pane::Jobs => {
                let job = self.jobs().get(self.place(Pane::Jobs)?)?;
                let mut targets = self.targets().iter();
                targets.find(|target| target.name == job.target).cloned()
            }
            Pane::Workers => {
                "choose a target first: Tab leads to them".clone_into(&mut self.said);
                None
            }
        }
    }

    /// The chosen job, where the eye is on jobs.
    fn job(&mut self) -> Option<JobRow> {
        if self.pane != Pane::Jobs {
            "choose a job first: Tab leads to them".clone_into(&mut self.said);
            return None;
        }
        self.jobs().get(self.place(Pane::Jobs)?).cloned()
    }

    fn pause(&mut self) -> Option<Wish> {
        let target = self.target()?;
        let name = target.name;
        Some(match target.state {
            Some("paused" | "partly paused") => Wish::Continue(name),
            _ => Wish::Pause(name),
        })
    }

    fn limit(&mut self, by: i64) -> Option<Wish> {
        if self.view.as_ref().is_none_or(|view| view.kind != "worker") {
            "limits are a worker's: jobctl --worker --host HOST top".clone_into(&mut self.said);
            return None;
        }
        let target = self.target()?;
        let slots = i64::try_from(target.slots?).ok()? + by;
        if slots < 1 {
            "a target runs one job at least; p pauses it".clone_into(&mut self.said);
            return None;
        }
        Some(Wish::Limit(target.name, u32::try_from(slots).ok()?))
    }

    fn cancel(&mut self) {
        if let Some(row) = self.job() {
            let now = self.view.as_ref().map_or(0, |view| view.now);
            self.said = format!("cancel {}? [y/N]", standing(&row, now));
            self.question = Some(Wish::Cancel(row.id, row.target));
        }
    }
}
