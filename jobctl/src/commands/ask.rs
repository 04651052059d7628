//! Questions to the person at the terminal, and what comes on standard input. Ctrl-C ends the wait
//! for either.

use std::io::{self, IsTerminal as _, Read as _, Write as _};

use crate::failure::Failure;
use crate::output::complain;

/// Between two looks whether somebody has answered.
const LOOK: std::time::Duration = std::time::Duration::from_millis(50);

/// Asks on the terminal whether to go on; anything but yes ends the command. A script says `--yes`.
pub(super) async fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        let words = std::env::args_os().skip(1);
        let words = words.map(|word| word.to_string_lossy().into_owned());
        let mut words: Vec<String> = std::iter::once("jobctl".to_owned()).chain(words).collect();
        // Behind two dashes nothing is an option.
        let dashes = words.iter().position(|word| word == "--");
        words.insert(dashes.unwrap_or(words.len()), "--yes".to_owned());
        return Err(Failure::Usage(format!(
            "{question}; nobody can be asked here, add --yes: {}",
            shell_words::join(words)
        )));
    }
    // Where standard error is closed nobody sees the question, and nobody says yes.
    let _ = write!(io::stderr(), "{question}. Go on? [y/N] ");
    match answer().await?.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::Refused("nothing was changed".to_owned())),
    }
}

/// A line from the terminal. Nobody waits in a read: after Ctrl-C that would take the next line, too.
pub(super) async fn answer() -> Result<String, Failure> {
    use rustix::event::{PollFd, PollFlags, poll};
    let stdin = io::stdin();
    loop {
        let mut stdin_fd = [PollFd::new(&stdin, PollFlags::IN)];
        let now = rustix::event::Timespec::default();
        match poll(&mut stdin_fd, Some(&now)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => tokio::time::sleep(LOOK).await,
            Ok(_) => break,
            Err(error) => return Err(unreadable(&error.into())),
        }
    }
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    read.map(|_| line).map_err(|error| unreadable(&error))
}

fn unreadable(error: &io::Error) -> Failure {
    Failure::Usage(format!("cannot read standard input: {error}"))
}

/// All of standard input as text.
pub(super) async fn standard_input() -> Result<String, Failure> {
    if io::stdin().is_terminal() {
        complain("jobctl: reading the data from standard input; Ctrl-D ends it");
    }
    let read = tokio::task::spawn_blocking(|| {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    });
    let read = read.await.map_err(io::Error::other).flatten();
    read.map_err(|error| unreadable(&error))
}
