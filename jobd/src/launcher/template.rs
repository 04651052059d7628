//! The `launcher` setting: a command line with `{id}` and `{target}` in it. Pure.
//!
//! Split at white space; balanced quotes group; everything else is literal, backslashes and `&`
//! too, because URLs and PHP class names stand in launchers. No shell, unless
//! `launcher.shell = always`.

use crate::job::Job;

/// A parsed launcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Template {
    /// Program and arguments, each of which may hold `{id}` and `{target}`.
    Words(Vec<String>),
    /// A line for `/bin/sh -c`, in which `{id}` is replaced and `{target}` quoted for the shell.
    Shell(String),
}

/// Why a launcher cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TemplateError {
    /// Nothing to run.
    #[error("launcher is empty")]
    Empty,
    /// A quote without its partner.
    #[error(
        "launcher has an unbalanced {0} quote; an unquoted ; or # begins a comment: put the whole value into quotes, or write \\; and \\#"
    )]
    Unbalanced(char),
}

impl Template {
    /// Reads a launcher that runs without a shell.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let mut quote = None;
        for c in text.chars() {
            match quote {
                Some(open) if c == open => quote = None,
                None if c == '"' || c == '\'' => {
                    quote = Some(c);
                    word.get_or_insert_default();
                }
                None if c.is_whitespace() => words.extend(word.take()),
                _ => word.get_or_insert_default().push(c),
            }
        }
        if let Some(open) = quote {
            return Err(TemplateError::Unbalanced(open));
        }
        words.extend(word);
        if words.first().is_none_or(String::is_empty) {
            return Err(TemplateError::Empty);
        }
        Ok(Self::Words(words))
    }

    /// Takes a launcher for the shell.
    pub fn shell(text: &str) -> Result<Self, TemplateError> {
        if text.trim().is_empty() {
            return Err(TemplateError::Empty);
        }
        Ok(Self::Shell(text.to_owned()))
    }

    /// A word that only a shell would act on, standing alone: probably a mistake.
    pub fn shell_operator(&self) -> Option<&str> {
        let Self::Words(words) = self else {
            return None;
        };
        words.iter().map(String::as_str).find(|word| {
            matches!(
                *word,
                "|" | "||" | "&" | "&&" | ";" | ">" | ">>" | "<" | "2>&1" | "2>"
            )
        })
    }

    /// Program and arguments for a job.
    pub fn argv(&self, job: &Job) -> Vec<String> {
        match self {
            Self::Words(words) => words
                .iter()
                .map(|word| fill(word, job, job.target.as_str()))
                .collect(),
            Self::Shell(line) => {
                let target = format!("'{}'", job.target.as_str().replace('\'', r"'\''"));
                vec!["/bin/sh".into(), "-c".into(), fill(line, job, &target)]
            }
        }
    }
}

/// Replaces both names in one pass: what a replacement brings in is not looked at again.
fn fill(text: &str, job: &Job, target: &str) -> String {
    let mut filled = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        filled.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("{id}") {
            filled.push_str(&job.id.to_string());
            rest = after;
        } else if let Some(after) = rest.strip_prefix("{target}") {
            filled.push_str(target);
            rest = after;
        } else {
            filled.push('{');
            rest = &rest[1..];
        }
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use jobd_proto::{JobId, TargetName};

    use super::*;
    use crate::job::{Origin, Terms, Tokens};

    fn job(target: &str) -> Job {
        Job {
            id: JobId(42),
            target: TargetName::new(target).unwrap(),
            origin: Origin::Background,
            token: Tokens::new("w", "h", 1).next(Origin::Background),
            attempt: 1,
            interruptions: 0,
            again: false,
            terms: Terms::default(),
        }
    }

    #[track_caller]
    fn check(launcher: &str, argv: &[&str]) {
        assert_eq!(
            Template::parse(launcher).unwrap().argv(&job("a {id}")),
            argv
        );
    }

    #[test]
    fn words_are_split_at_white_space_outside_quotes() {
        check(
            "php /app/cron.php --id {id}",
            &["php", "/app/cron.php", "--id", "42"],
        );
        check("\tphp  'a b'\"c d\"e ''", &["php", "a bc de", ""]);
        check(
            r"php App\Job\Run --url=http://x/?a=1&b={id}",
            &["php", r"App\Job\Run", "--url=http://x/?a=1&b=42"],
        );
        check(r#"sh -c 'echo "$1"' x"#, &["sh", "-c", r#"echo "$1""#, "x"]);
        check("{target}/{id}/{other} {", &["a {id}/42/{other}", "{"]);
    }

    #[test]
    fn a_shell_gets_the_line_with_the_target_quoted() {
        let template = Template::shell("run {target} {id} | tee x").unwrap();
        assert_eq!(
            template.argv(&job("it's")),
            ["/bin/sh", "-c", r"run 'it'\''s' 42 | tee x"]
        );
    }

    #[test]
    fn what_cannot_be_run_is_an_error() {
        assert_eq!(Template::parse("  "), Err(TemplateError::Empty));
        assert_eq!(Template::parse("'' x"), Err(TemplateError::Empty));
        assert_eq!(
            Template::parse("php \"x"),
            Err(TemplateError::Unbalanced('"'))
        );
        assert_eq!(
            Template::parse("a | b").unwrap().shell_operator(),
            Some("|")
        );
        assert_eq!(
            Template::parse("a 'b|c' d&e").unwrap().shell_operator(),
            None
        );
    }
}
