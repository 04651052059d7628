//! Names of targets, hosts, workers and jobs for the completion of bash, zsh and fish, whose scripts (`completions`) ask for
//! them. Complains of nothing: who presses Tab has not asked for anything yet.

use clap::CommandFactory as _;

use super::complete::{Names, name_at};
use crate::cli::Cli;
use crate::commands::Context;
use crate::output::print;

/// The word behind the program's name with which a script asks. It stands in no help, and is no command: whatever else
/// is called jobctl refuses it, and carries nothing out that somebody is only typing.
pub(crate) const ASKED: &str = "complete-names";

/// Prints the names that may stand where the last of `words` does, one a line. The first word is the program's name.
/// Takes half a second at most; where no name fits, nobody is asked.
pub(crate) async fn run(words: &[String]) {
    if let Some(names) = names(words).await {
        // Whoever asked is gone, or has it.
        let _ = print(&names);
    }
}

async fn names(words: &[String]) -> Option<String> {
    // Bash takes `--port=7080` apart.
    let words = words.iter().skip(1).map(String::as_str);
    let words: Vec<&str> = words.filter(|word| *word != "=").collect();
    let (word, before) = words.split_last()?;
    let name = name_at(&Cli::command(), before).filter(|_| !word.starts_with('-'))?;
    let line = std::iter::once("jobctl").chain(whom(before));
    let context = Context::resolve(&Cli::read(line).ok()?).ok()?;
    let mut known = Names::default();
    known.refresh(&context).await;
    let names = known.of(name).into_iter();
    let names = names.filter(|name| name.starts_with(word));
    Some(names.map(|name| name + "\n").collect())
}

/// The options among these words that say whom to ask. A password is asked for nowhere here.
fn whom<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let mut kept = Vec::new();
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        match word.split_once('=').map_or(word, |(name, _)| name) {
            "--master" | "--worker" => kept.push(word),
            "--host" | "--port" | "--config" => {
                kept.push(word);
                if !word.contains('=') {
                    kept.extend(words.next());
                }
            }
            _ => {}
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_whom_to_ask() {
        let line = "list --limit 5 --host db1 --port=99 --json --master --target mail --config";
        let words: Vec<&str> = line.split(' ').collect();
        let expected = ["--host", "db1", "--port=99", "--master", "--config"];
        assert_eq!(whom(&words), expected);
    }
}
