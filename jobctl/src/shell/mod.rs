//! `jobctl` without a command: a prompt that takes commands line by line, with a history and
//! completion. Each line is parsed and carried out like a command line of its own.

mod complete;
pub(crate) mod offer;

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;

use jobd_proto::Secret;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor};

use crate::cli::Cli;
use crate::commands::{self, Context};
use crate::failure::Failure;
use crate::output::{complain, end_line, print};
use crate::signals::Ends;
use complete::{Completion, Names};

/// Lines that the history keeps.
const HISTORY: usize = 1_000;

/// The history file in the home directory.
const HISTORY_FILE: &str = ".jobctl_history";

/// Reads and carries out lines until `exit` or Ctrl-D. `options` is the command line that jobctl was called
/// with; every line has its options too.
pub(crate) async fn run(context: &Context, options: &Cli) -> Result<u8, Failure> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(Failure::Usage(
            "no command, and no terminal for a shell; jobctl --help lists the commands".to_owned(),
        ));
    }
    let mut editor = editor().map_err(|error| no_shell(&error))?;
    let history = std::env::home_dir().map(|home| home.join(HISTORY_FILE));
    if let Some(history) = &history {
        // There is none before the first session.
        let _ = editor.load_history(history);
    }
    let server = &context.settings.server;
    print(&format!(
        "jobctl {} on {server}\nhelp lists the commands, Tab completes, exit or Ctrl-D ends\n",
        env!("CARGO_PKG_VERSION")
    ))?;
    let prompt = format!("{}> ", server.address());
    let mut names = Names::default();
    // What ends a command ends the shell, also where a command has listened to these signals before.
    let mut ends = Ends::listen()?;
    let modes = Modes::now();
    loop {
        names.refresh(context).await;
        if let Some(helper) = editor.helper_mut() {
            helper.names.clone_from(&names);
        }
        // What a job wrote stays: the prompt begins its line anew.
        end_line();
        // Nothing else is heard in the thread that waits for the line.
        let shown = prompt.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let line = editor.readline(&shown);
            (editor, line)
        });
        let line = tokio::select! {
            biased;
            code = ends.next() => {
                modes.restore();
                return Ok(code);
            }
            read = reading => {
                let (back, line) = read.map_err(|error| no_shell(&io::Error::other(error).into()))?;
                editor = back;
                line
            }
        };
        let line = match line {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(0),
            Err(error) => return Err(no_shell(&error)),
        };
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        if matches!(line, "exit" | "quit") {
            return Ok(0);
        }
        // A history that cannot be kept costs the history.
        let _ = editor.add_history_entry(line);
        if let Some(history) = &history {
            keep(&mut editor, history);
        }
        let asked = context.settings.server.password.as_ref();
        tokio::select! {
            biased;
            code = ends.next() => return Ok(code),
            () = carry_out(line, options, asked.filter(|_| options.password)) => {}
        }
    }
}

/// How the terminal was before a line was read from it, if that can be told.
struct Modes(Option<rustix::termios::Termios>);

impl Modes {
    fn now() -> Self {
        Self(rustix::termios::tcgetattr(io::stdin()).ok())
    }

    /// Where the terminal has gone there is nothing to restore.
    fn restore(&self) {
        use rustix::termios::{OptionalActions, tcsetattr};
        if let Some(modes) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Drain, modes);
        }
    }
}

type Lines = Editor<Completion, FileHistory>;

fn editor() -> rustyline::Result<Lines> {
    let config = Config::builder()
        .max_history_size(HISTORY)?
        .history_ignore_dups(true)?
        .history_ignore_space(true)
        .completion_type(CompletionType::List)
        .build();
    let mut editor = Editor::with_config(config)?;
    editor.set_helper(Some(Completion::default()));
    Ok(editor)
}

fn keep(editor: &mut Lines, history: &PathBuf) {
    // The file is its owner's alone: rustyline sees to that.
    if let Err(error) = editor.save_history(history) {
        tracing::debug!(%error, "the history is not kept");
    }
}

fn no_shell(error: &ReadlineError) -> Failure {
    Failure::Refused(format!("cannot read from the terminal: {error}"))
}

/// The words of a line without the program's name, with which the commands begin that people are told to enter.
fn without_name<T: AsRef<str>>(words: &[T]) -> &[T] {
    match words.split_first() {
        Some((first, others)) if first.as_ref() == "jobctl" => others,
        _ => words,
    }
}

/// One line. Whatever comes of it, the next one can be read: Ctrl-C ends the command only. `asked` is the password that
/// was typed when the shell began.
async fn carry_out(line: &str, options: &Cli, asked: Option<&Secret>) {
    let words = match shell_words::split(line) {
        Ok(words) => words,
        Err(error) => return complain(&format!("jobctl: {error}: close the quote")),
    };
    let words = without_name(&words).iter().map(String::as_str);
    let line = std::iter::once("jobctl").chain(words);
    let mut cli = match Cli::read(line) {
        Ok(cli) => cli,
        // Help, too, comes as an error, and on standard output.
        Err(error) => {
            let _ = error.print();
            return;
        }
    };
    cli.inherit(options);
    let ended = match (Context::resolve(&cli), cli.command) {
        (Err(failure), _) => Err(failure),
        (Ok(_), None) => Ok(0),
        (Ok(mut context), Some(command)) => {
            if let (Some(asked), false) = (asked, cli.password) {
                context.settings.server.password = Some(asked.clone());
            }
            commands::run_until_interrupted(command, &context).await
        }
    };
    if let Err(failure) = ended {
        complain(&format!("jobctl: {failure}"));
    }
}
