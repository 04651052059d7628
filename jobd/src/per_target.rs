//! What may be set for each target on its own: the defaults, and those that differ. Pure.

use std::collections::{BTreeMap, HashMap};

use jobd_proto::{Pattern, TargetName};

use crate::fate::Retries;
use crate::launcher::LauncherSettings;

/// The settings of one target, read once for each launch.
#[derive(Clone, Debug)]
pub struct TargetSettings {
    /// How its jobs are started and stopped.
    pub launcher: LauncherSettings,
    /// What becomes of those that fail.
    pub retries: Retries,
}

/// Something that every target has, and some have another of.
#[derive(Clone, Debug)]
pub struct PerTarget<T = TargetSettings> {
    default: T,
    named: BTreeMap<TargetName, T>,
    /// Those of `named` that stand for many names, the most specific first.
    patterns: Vec<Pattern>,
    /// Where the table takes 'Mail' for 'mail': the names of `named` by what they are without case.
    spellings: Option<HashMap<String, TargetName>>,
}

impl<T> PerTarget<T> {
    /// `named` has what differs from `default`, by name or pattern.
    pub fn new(default: T, named: BTreeMap<TargetName, T>) -> Self {
        let mut patterns: Vec<Pattern> = named.keys().filter_map(Pattern::of).collect();
        patterns.sort_by(|a, b| a.rank().cmp(&b.rank()));
        Self {
            default,
            named,
            patterns,
            spellings: None,
        }
    }

    /// The same for a table that takes 'Mail' for 'mail'.
    #[must_use]
    pub fn ignoring_case(mut self) -> Self {
        let patterns = self.patterns.into_iter();
        self.patterns = patterns.map(Pattern::ignoring_case).collect();
        let names = self.named.keys();
        let spelled = names.map(|name| (name.as_str().to_lowercase(), name.clone()));
        self.spellings = Some(spelled.collect());
        self
    }

    /// What counts for a target: what has its name, else what has the most specific pattern of it, else the default.
    pub fn of(&self, target: &TargetName) -> &T {
        let by_pattern = || {
            let mut patterns = self.patterns.iter();
            let pattern = patterns.find(|pattern| pattern.matches(target.as_str()))?;
            self.named.get(pattern.name())
        };
        let by_spelling = || {
            let spellings = self.spellings.as_ref()?;
            let name = spellings.get(&target.as_str().to_lowercase())?;
            self.named.get(name)
        };
        let own = self.named.get(target).or_else(by_spelling);
        let own = own.or_else(by_pattern);
        own.unwrap_or(&self.default)
    }

    /// What counts for targets that have nothing of their own.
    pub fn default(&self) -> &T {
        &self.default
    }

    /// The targets that have something of their own.
    pub fn named(&self) -> impl Iterator<Item = (&TargetName, &T)> {
        self.named.iter()
    }

    /// All that counts for anybody.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.named.values().chain([&self.default])
    }

    /// The same for something that is made of each.
    pub fn map<U>(&self, make: impl Fn(&T) -> U) -> PerTarget<U> {
        let named = self.named.iter();
        PerTarget {
            default: make(&self.default),
            named: named.map(|(name, of)| (name.clone(), make(of))).collect(),
            patterns: self.patterns.clone(),
            spellings: self.spellings.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_counts_before_a_pattern_and_that_before_the_default() {
        let name = |name: &str| TargetName::new(name).unwrap();
        let own = ["user/*", "user/vip/*", "user/7", "mail"].map(|own| (name(own), own));
        let per_target = PerTarget::new("all", own.into());
        for (target, expected) in [
            ("mail", "mail"),
            ("mail2", "all"),
            ("user/7", "user/7"),
            ("user/8", "user/*"),
            ("user/vip/8", "user/vip/*"),
        ] {
            assert_eq!(*per_target.of(&name(target)), expected, "{target}");
        }
        let loose = per_target.clone().ignoring_case();
        for (target, strict, expected) in [
            ("Mail", "all", "mail"),
            ("USER/7", "all", "user/7"),
            ("User/Vip/8", "all", "user/vip/*"),
        ] {
            assert_eq!(*per_target.of(&name(target)), strict, "{target}");
            assert_eq!(*loose.of(&name(target)), expected, "{target}");
        }
        let lengths = per_target.map(|own| own.len());
        assert_eq!(*lengths.of(&name("user/vip/8")), 10);
    }
}
