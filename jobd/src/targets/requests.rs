//! What requests about targets select and change: polls, pauses and their ends. Pure.

use jobd_proto::{TargetName, Targets as Selection};

use super::patterns::Served;
use super::target::{Target, Want};
use super::{TargetError, Targets};
use crate::job::Job;

impl Targets {
    /// The served targets and patterns that a request selects; makes those on demand.
    pub fn select(&mut self, selection: &Selection) -> Result<Vec<TargetName>, TargetError> {
        let names = match selection {
            Selection::All => return Ok(self.names()),
            Selection::Named(names) => names,
        };
        names.iter().map(|name| self.named(name)).collect()
    }

    /// What a poll selects. Names that there is no room for are left to the next look.
    pub fn poll(&mut self, selection: &Selection) -> Result<(), TargetError> {
        let names = match selection {
            Selection::All => {
                self.want(&self.names());
                return Ok(());
            }
            Selection::Named(names) => names,
        };
        for name in names {
            match self.named(name) {
                Ok(name) => self.want(&[name]),
                Err(TargetError::TooMany) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn named(&mut self, name: &str) -> Result<TargetName, TargetError> {
        if let Some(pattern) = self.patterns.names().find(|known| known.as_str() == name) {
            return Ok(pattern.clone());
        }
        let served = self.demand(name)?;
        served.ok_or_else(|| TargetError::Invalid(name.to_owned()))
    }

    /// Every served target but for those on demand, and every pattern: what the config and the master know.
    pub fn names(&self) -> Vec<TargetName> {
        let fixed = |target: &Target| !target.leaving && target.pattern.is_none();
        let served = self.by_name.iter().filter(|(_, target)| fixed(target));
        let served = served.map(|(name, _)| name);
        served.chain(self.patterns.names()).cloned().collect()
    }

    /// Remembers that a row with this target is waiting; `false` where it is not served. Databases mostly compare names
    /// without regard to case and to spaces behind them: so does this.
    pub fn told_of(&mut self, target: &str) -> bool {
        let target = target.trim_end_matches(' ');
        let lower = target.to_lowercase();
        let mut names = self.names();
        names.retain(|name| name.as_str().to_lowercase() == lower);
        self.want(&names);
        !names.is_empty()
            || self
                .poll(&Selection::Named(vec![target.to_owned()]))
                .is_ok()
    }

    /// Remembers that rows of these targets may be waiting. One on demand that was gone meanwhile is made again.
    pub fn want(&mut self, names: &[TargetName]) {
        for name in names {
            let want = |target: &mut Target| target.want = Want::Rows;
            if !self.each_of_pattern(name, Served::want, want)
                && let Ok(Some(name)) = self.demand(name.as_str())
            {
                self.each(std::slice::from_ref(&name), want);
                self.part(&name);
            }
        }
    }

    /// Pauses targets and hands back what they had claimed ahead. Running and manual jobs go on. A pattern is
    /// paused with all its names.
    pub fn pause(&mut self, names: &[TargetName]) -> Vec<Job> {
        let mut back = Vec::new();
        let mut pause = |target: &mut Target| {
            target.paused = true;
            back.extend(target.queue.drain(..).map(|(_, job)| job));
        };
        for name in names {
            if self.each_of_pattern(name, |served| served.paused = true, &mut pause) {
                self.part_with_idle(name);
            } else {
                self.each(std::slice::from_ref(name), &mut pause);
                self.part(name);
            }
        }
        back
    }

    /// Ends a pause, and looks for rows at once.
    pub fn resume(&mut self, names: &[TargetName]) {
        let mut resume = |target: &mut Target| {
            target.paused = false;
            target.want = Want::Rows;
        };
        for name in names {
            let pattern = |served: &mut Served| {
                served.paused = false;
                served.want();
            };
            if !self.each_of_pattern(name, pattern, &mut resume) {
                self.each(std::slice::from_ref(name), &mut resume);
            }
        }
    }
}
