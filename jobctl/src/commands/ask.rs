//! Questions to the person at the terminal, and what comes on standard input. Both are read beside
//! the runtime, so that Ctrl-C ends the wait.

use std::io::{self, IsTerminal as _, Read as _, Write as _};

use crate::failure::Failure;

/// Asks on the terminal whether to go on; anything but yes ends the command. A script says `--yes`.
pub(super) async fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage(format!(
            "{question}; nobody can be asked here: add --yes to go on"
        )));
    }
    // Where standard error is closed nobody sees the question, and nobody says yes.
    let _ = write!(io::stderr(), "{question}. Go on? [y/N] ");
    let line = aside(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    });
    match line.await?.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::Refused("nothing was changed".to_owned())),
    }
}

/// All of standard input as text.
pub(super) async fn standard_input() -> Result<String, Failure> {
    aside(|| {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    })
    .await
}

async fn aside(
    read: impl FnOnce() -> io::Result<String> + Send + 'static,
) -> Result<String, Failure> {
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(io::Error::other)
        .flatten()
        .map_err(|error| Failure::Usage(format!("cannot read standard input: {error}")))
}
