//! Patterns of target names: `user/*` means every name that begins with `user/`. Pure; worker and master
//! must agree on what a pattern matches.

use std::cmp::Reverse;

use crate::TargetName;

/// Stands for one character or more.
const WILD: char = '*';

/// A name in `[targets]` that holds a `*`, and so serves many names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    name: TargetName,
    /// What names are compared with: `name`, or what it is without case.
    text: String,
    ignores_case: bool,
}

impl Pattern {
    /// The pattern that a name is; `None` for a plain name.
    pub fn of(name: &TargetName) -> Option<Self> {
        name.as_str().contains(WILD).then(|| Self {
            name: name.clone(),
            text: name.to_string(),
            ignores_case: false,
        })
    }

    /// The same, for a column that takes 'Mail' for 'mail'.
    #[must_use]
    pub fn ignoring_case(self) -> Self {
        Self {
            text: self.name.as_str().to_lowercase(),
            ignores_case: true,
            ..self
        }
    }

    /// Its text, as it stands in the config.
    pub fn name(&self) -> &TargetName {
        &self.name
    }

    /// What every name that it matches begins with.
    pub fn prefix(&self) -> &str {
        self.text.split(WILD).next().unwrap_or_default()
    }

    /// Whether it serves a name. What holds a `*` itself is no name of a queue, and matches none.
    pub fn matches(&self, name: &str) -> bool {
        if name.contains(WILD) {
            return false;
        }
        if self.ignores_case {
            fits(&self.text, &name.to_lowercase())
        } else {
            fits(&self.text, name)
        }
    }

    /// Sorts before every pattern that is less specific: longer before its first `*`, then longer at all.
    pub fn rank(&self) -> impl Ord + use<'_> {
        (
            Reverse(self.prefix().len()),
            Reverse(self.text.len()),
            self.name.as_str(),
        )
    }
}

/// Whether `name` is `text` with something for each `*`.
fn fits(text: &str, name: &str) -> bool {
    let mut parts = text.split(WILD);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        // The earliest place leaves the most for what follows.
        let found = behind_first(rest).and_then(|behind| behind.split_once(part));
        let Some((_, behind)) = found else {
            return false;
        };
        rest = behind;
    }
    rest.strip_suffix(last)
        .is_some_and(|between| !between.is_empty())
}

/// What comes behind the first character.
fn behind_first(text: &str) -> Option<&str> {
    let mut chars = text.chars();
    chars.next().map(|_| chars.as_str())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::of(&TargetName::new(text).unwrap()).unwrap()
    }

    #[test]
    fn a_star_stands_for_one_character_or_more() {
        for (text, good, bad) in [
            (
                "user/*",
                &["user/7", "user/7/low", "user/ж"][..],
                &["user", "user/", "User/7", "a/user/7", "user/*"][..],
            ),
            ("*", &["a", "жж"], &["*", "a*b"]),
            ("*/low", &["1/low", "a/b/low"], &["low", "/low", "1/lower"]),
            ("a*b*a", &["axbxa", "abbba"], &["aba", "abxa", "axba", "a"]),
            ("ab*ba", &["abxba", "ab ba"], &["abba", "aba"]),
            ("a**", &["abc", "aжж"], &["ab"]),
        ] {
            let pattern = pattern(text);
            for name in good {
                assert!(pattern.matches(name), "{text} {name}");
            }
            for name in bad {
                assert!(!pattern.matches(name), "{text} {name}");
            }
        }
        assert_eq!(Pattern::of(&TargetName::new("user/7").unwrap()), None);
        let loose = pattern("User/*").ignoring_case();
        assert!(loose.matches("uSER/Ä") && loose.matches("user/ä"));
        assert_eq!((loose.prefix(), loose.name().as_str()), ("user/", "User/*"));
    }

    #[test]
    fn the_most_specific_pattern_comes_first() {
        let mut patterns = ["*", "user/*", "*/low", "user/*/low", "user/vip/*", "a*"].map(pattern);
        patterns.sort_by(|a, b| a.rank().cmp(&b.rank()));
        assert_eq!(
            patterns.map(|pattern| pattern.name.to_string()),
            ["user/vip/*", "user/*/low", "user/*", "a*", "*/low", "*"]
        );
    }
}
