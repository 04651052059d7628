//! Targets on demand: names that a pattern serves are made when somebody names them or a look finds rows of
//! theirs, and are gone when nothing is left to do. Pure.

use std::collections::HashMap;

use jobd_proto::worker::TargetStatus;
use jobd_proto::{Pattern, TargetName};

use super::target::{Target, Want};
use super::{TargetError, Targets};
use crate::job::Job;

/// Names that patterns may serve at a time, manual jobs aside: each may have jobs running. The rows of further
/// ones wait until others have none.
const MAX_ON_DEMAND: usize = 4096;

/// Names are looked for again once so few are left of that many.
const ROOM_AGAIN: usize = MAX_ON_DEMAND * 3 / 4;

/// A pattern with what holds for each name that it serves.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) pattern: Pattern,
    pub(super) concurrency: usize,
    pub(super) paused: bool,
    /// Names with waiting rows are to be looked for.
    wanted: bool,
    /// That is being done.
    looking: bool,
    /// Where to go on.
    after: Option<String>,
}

/// Every pattern, the most specific first.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    list: Vec<Served>,
    /// How many targets there are on demand.
    names: usize,
    /// Some name was not served because there were too many.
    starved: bool,
    /// Whether the table takes 'Mail' for 'mail'; then targets by what they are without case.
    spellings: Option<HashMap<String, TargetName>>,
}

/// Names of a pattern to look for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// The pattern's text.
    pub pattern: TargetName,
    /// What its names begin with.
    pub prefix: String,
    /// The name behind which to go on.
    pub after: Option<String>,
}

impl Patterns {
    pub(super) fn find(&self, name: &str) -> Option<&Served> {
        self.list.iter().find(|served| served.pattern.matches(name))
    }

    pub(super) fn get(&self, name: &TargetName) -> Option<&Served> {
        self.list
            .iter()
            .find(|served| served.pattern.name() == name)
    }

    pub(super) fn get_mut(&mut self, name: &TargetName) -> Option<&mut Served> {
        self.list
            .iter_mut()
            .find(|served| served.pattern.name() == name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &TargetName> {
        self.list.iter().map(|served| served.pattern.name())
    }

    pub(super) fn list(&self) -> impl Iterator<Item = &Served> {
        self.list.iter()
    }

    fn spelled(&self, name: &str) -> Option<&TargetName> {
        self.spellings.as_ref()?.get(&plain(name))
    }

    /// A target is on demand no more.
    pub(super) fn no_longer(&mut self) {
        self.names -= 1;
    }

    fn sort(&mut self) {
        self.list
            .sort_by(|a, b| a.pattern.rank().cmp(&b.pattern.rank()));
    }
}

/// What names that the table does not tell apart have in common.
fn plain(name: &str) -> String {
    name.trim_end_matches(' ').to_lowercase()
}

impl Targets {
    /// The table takes 'Mail' for 'mail', so that two spellings of a name must not be two targets. Before the
    /// first claim.
    pub fn ignore_case(&mut self) {
        if self.patterns.spellings.is_some() {
            return;
        }
        for served in &mut self.patterns.list {
            served.pattern = served.pattern.clone().ignoring_case();
        }
        self.patterns.sort();
        let mut spellings = HashMap::new();
        let names: Vec<TargetName> = self.by_name.keys().cloned().collect();
        for name in names {
            let known = spellings.entry(plain(name.as_str()));
            let known = known.or_insert_with(|| name.clone());
            let on_demand = self.by_name[&name].pattern.is_some();
            if *known != name && on_demand {
                self.by_name.remove(&name);
                self.patterns.names -= 1;
            }
        }
        self.patterns.spellings = Some(spellings);
    }

    /// Looks for the names of every pattern, and says where to.
    pub fn search(&mut self) {
        self.patterns.list.iter_mut().for_each(Served::want);
    }

    /// The names to look for now. One look per pattern at a time.
    pub fn searches(&mut self) -> Vec<Search> {
        if self.draining || self.patterns.names >= MAX_ON_DEMAND {
            return Vec::new();
        }
        let due = |served: &&mut Served| served.wanted && !served.looking && !served.paused;
        let due = self.patterns.list.iter_mut().filter(due);
        due.map(|served| {
            (served.wanted, served.looking) = (false, true);
            Search {
                pattern: served.pattern.name().clone(),
                prefix: served.pattern.prefix().to_owned(),
                after: served.after.take(),
            }
        })
        .collect()
    }

    /// Takes in the names that have waiting rows; `more` says that there are others behind the last.
    pub fn found(&mut self, search: &Search, names: Vec<String>, more: bool) {
        let mut after = search.after.clone();
        let mut full = false;
        for name in names {
            let Ok(served) = self.demand(&name) else {
                full = true;
                break;
            };
            self.want(served.as_slice());
            after = Some(name);
        }
        if let Some(served) = self.patterns.get_mut(&search.pattern) {
            served.looking = false;
            served.wanted |= more && !full;
            served.after = after.filter(|_| more || full);
        }
    }

    /// A look for names has failed: the next periodic one will do.
    pub fn search_failed(&mut self, search: &Search) {
        if let Some(served) = self.patterns.get_mut(&search.pattern) {
            served.looking = false;
        }
    }

    /// The target that serves a name, made where a pattern does; `None` where nothing serves it.
    pub(super) fn demand(&mut self, name: &str) -> Result<Option<TargetName>, Full> {
        match self.serving(name) {
            Some(Serving::Target(name)) => Ok(Some(name)),
            Some(Serving::Pattern(name)) if self.patterns.names < MAX_ON_DEMAND => {
                self.make(&name);
                Ok(Some(name))
            }
            Some(Serving::Pattern(_)) => {
                self.patterns.starved = true;
                Err(Full)
            }
            None => Ok(None),
        }
    }

    /// The target of a manual job, however many there are: a client waits for it.
    pub(super) fn demand_for(&mut self, job: &mut Job) {
        match self.serving(job.target.as_str()) {
            Some(Serving::Target(name)) => job.target = name,
            Some(Serving::Pattern(name)) => self.make(&name),
            None => {}
        }
    }

    /// What serves a name: a target that there is, or one to be made of this name.
    fn serving(&self, name: &str) -> Option<Serving> {
        let exact = self.by_name.get_key_value(name).map(|(name, _)| name);
        let known = exact.or_else(|| {
            self.patterns.find(name)?;
            self.patterns.spelled(name)
        });
        match known {
            Some(known) if !self.by_name[known].leaving => Some(Serving::Target(known.clone())),
            // It stays for its jobs, and its pattern serves it from now on.
            known => {
                let name = known.map_or(name, TargetName::as_str);
                self.patterns.find(name)?;
                TargetName::new(name).ok().map(Serving::Pattern)
            }
        }
    }

    fn make(&mut self, name: &TargetName) {
        let Some(served) = self.patterns.find(name.as_str()) else {
            return;
        };
        let target = self.by_name.entry(name.clone());
        let target = target.or_insert_with(|| Target::new(0));
        target.adopt(served);
        (target.leaving, target.want) = (false, Want::Rows);
        self.patterns.names += 1;
        self.note_spelling(name);
    }

    pub(super) fn note_spelling(&mut self, name: &TargetName) {
        if let Some(spellings) = &mut self.patterns.spellings {
            let known = spellings.entry(plain(name.as_str()));
            known.or_insert_with(|| name.clone());
        }
    }

    /// A target is gone.
    pub(super) fn gone(&mut self, name: &TargetName, target: &Target) {
        if let Some(spellings) = &mut self.patterns.spellings {
            let plain = plain(name.as_str());
            if spellings.get(&plain) == Some(name) {
                spellings.remove(&plain);
            }
        }
        if target.pattern.is_some() {
            self.patterns.names -= 1;
            if self.patterns.names < ROOM_AGAIN && std::mem::take(&mut self.patterns.starved) {
                self.search();
            }
        }
    }

    /// Whether a target is only there because a pattern serves it, and has nothing to do: names come and go by the thousand, and
    /// searches for them find what a second look would. One that differs from its pattern keeps what clients have set.
    pub(super) fn is_needless(&self, target: &Target) -> bool {
        let Some(name) = &target.pattern else {
            return false;
        };
        let same = |served: &Served| {
            served.concurrency == target.concurrency && served.paused == target.paused
        };
        (target.want != Want::Rows || target.paused) && self.patterns.get(name).is_none_or(same)
    }

    /// Forgets the targets of a pattern that have nothing to do.
    pub(super) fn part_with_idle(&mut self, pattern: &TargetName) {
        let targets = self.by_name.iter();
        let of_it = targets.filter(|(_, target)| target.pattern.as_ref() == Some(pattern));
        let names: Vec<TargetName> = of_it.map(|(name, _)| name.clone()).collect();
        for name in names {
            self.part(&name);
        }
    }

    /// Serves one more pattern.
    pub(super) fn add_pattern(
        &mut self,
        pattern: Pattern,
        concurrency: usize,
    ) -> Result<(), TargetError> {
        if self.patterns.get(pattern.name()).is_some() {
            return Err(TargetError::Exists(pattern.name().clone()));
        }
        let ignores_case = self.patterns.spellings.is_some();
        self.patterns.list.push(Served {
            pattern: if ignores_case {
                pattern.ignoring_case()
            } else {
                pattern
            },
            concurrency,
            paused: false,
            wanted: true,
            looking: false,
            after: None,
        });
        self.patterns.sort();
        drop(self.assign());
        Ok(())
    }

    /// Serves a pattern no longer; hands back what the names that nothing else serves had claimed ahead, and says
    /// how many of their jobs are left.
    pub(super) fn drop_pattern(&mut self, name: &TargetName) -> Option<(Vec<Job>, usize)> {
        let at = self.patterns.names().position(|known| known == name)?;
        self.patterns.list.remove(at);
        let retired = self.assign();
        let mut back = Vec::new();
        let mut left = 0;
        for name in retired {
            if let Some((jobs, running)) = self.retire(&name) {
                back.extend(jobs);
                left += running;
            }
        }
        Some((back, left))
    }

    /// Whether a name of a pattern has anything to do.
    pub(super) fn is_pattern_busy(&self, name: &TargetName) -> bool {
        let targets = self.by_name.values();
        let mut of_it = targets.filter(|target| target.pattern.as_ref() == Some(name));
        of_it.any(|target| target.claiming || target.length() > 0)
    }

    /// Gives each target on demand to the most specific pattern of now; names those that none serves any more.
    fn assign(&mut self) -> Vec<TargetName> {
        let on_demand = self
            .by_name
            .iter_mut()
            .filter(|(_, target)| target.pattern.is_some());
        let mut unserved = Vec::new();
        for (name, target) in on_demand {
            match self.patterns.find(name.as_str()) {
                Some(served) if target.pattern.as_ref() == Some(served.pattern.name()) => {}
                Some(served) => target.adopt(served),
                None => {
                    target.pattern = None;
                    self.patterns.names -= 1;
                    unserved.push(name.clone());
                }
            }
        }
        unserved
    }

    /// Changes a pattern's limit, and that of its names but for those that have been given one of their own.
    pub(super) fn set_pattern_concurrency(
        &mut self,
        name: &TargetName,
        concurrency: usize,
    ) -> bool {
        let Some(served) = self.patterns.get_mut(name) else {
            return false;
        };
        let former = std::mem::replace(&mut served.concurrency, concurrency);
        for target in self.by_name.values_mut() {
            if target.pattern.as_ref() == Some(name) && target.concurrency == former {
                target.limit(concurrency);
            }
        }
        true
    }

    /// Does something to a pattern and to every target that it serves; `false` where the name is none of a pattern.
    pub(super) fn each_of_pattern(
        &mut self,
        name: &TargetName,
        with_pattern: impl FnOnce(&mut Served),
        mut change: impl FnMut(&mut Target),
    ) -> bool {
        let Some(served) = self.patterns.get_mut(name) else {
            return false;
        };
        with_pattern(served);
        for target in self.by_name.values_mut() {
            if target.pattern.as_ref() == Some(name) {
                change(target);
            }
        }
        true
    }

    /// How many targets a pattern has just now.
    pub(super) fn names_of(&self, name: &TargetName) -> usize {
        let targets = self.by_name.values();
        targets
            .filter(|target| target.pattern.as_ref() == Some(name))
            .count()
    }
}

/// See [`Targets::serving`].
enum Serving {
    Target(TargetName),
    Pattern(TargetName),
}

/// There are as many targets on demand as there may be.
#[derive(Debug)]
pub(super) struct Full;

impl Served {
    /// Looks for its names.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    pub(super) fn status(&self, names: usize) -> TargetStatus {
        TargetStatus {
            paused: self.paused,
            concurrency: u32::try_from(self.concurrency).unwrap_or(u32::MAX),
            extra: [("names".to_owned(), names.into())].into_iter().collect(),
            ..TargetStatus::default()
        }
    }
}

impl Target {
    /// Takes on what holds for the names of a pattern.
    fn adopt(&mut self, served: &Served) {
        self.pattern = Some(served.pattern.name().clone());
        self.concurrency = served.concurrency;
        self.paused = served.paused;
    }
}
