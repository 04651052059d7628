//! What a job writes, shown while it comes: byte for byte in a pipe, without what could steer it on a terminal.

use std::io::{self, IsTerminal as _, Write};

use jobd_proto::JobId;
use jobd_proto::follow::{Followed, Output, Stream};
use serde_json::Value;

use super::logs::shown;
use crate::output::{Bar, bar, brief, complain, plain, wrote};

/// Bytes of a stream that are remembered, so that what was missed can be told from its whole: what a worker keeps
/// of it if nothing else is set.
const KEPT: usize = 16 << 20;

/// How it is shown.
pub(super) struct View {
    id: JobId,
    /// For people.
    name: String,
    /// Every message as a line of JSON.
    json: bool,
    /// The job was seen running.
    ran: bool,
    /// It is in a worker's hands, by the last that was heard.
    begun: bool,
    sides: [Side; 2],
    /// Says what is waited for, until there is something to show.
    bar: Option<Bar>,
}

/// One of the two streams.
struct Side {
    stream: Stream,
    terminal: bool,
    /// Whether a gap at the beginning is no reason to wait for the whole.
    before: bool,
    /// All that was shown, while that is the beginning of the whole.
    kept: Vec<u8>,
    state: Shown,
}

/// What was shown of a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// Everything so far.
    All,
    /// Everything up to a gap, and nothing behind it: the rest follows when the whole is there.
    Beginning,
    /// It has gaps, or nobody will ask for the rest.
    Parts,
}

impl View {
    /// Shows what comes, and counts what does not.
    pub(super) fn passing(id: JobId) -> Self {
        Self::new(id, Shown::Parts)
    }

    /// For one that gets the whole in the end: see [`Self::rest`]. A job that has begun long `before` is shown from where
    /// its worker still has it.
    pub(super) fn keeping(id: JobId, before: bool) -> Self {
        let mut view = Self::new(id, Shown::All);
        view.sides.iter_mut().for_each(|side| side.before = before);
        view
    }

    /// Shows the messages themselves.
    pub(super) fn json(id: JobId) -> Self {
        Self {
            json: true,
            ..Self::passing(id)
        }
    }

    fn new(id: JobId, state: Shown) -> Self {
        let side = |stream, terminal| Side {
            stream,
            terminal,
            before: false,
            kept: Vec::new(),
            state,
        };
        Self {
            id,
            name: format!("job {id}"),
            json: false,
            ran: false,
            begun: false,
            sides: [
                side(Stream::Stdout, io::stdout().is_terminal()),
                side(Stream::Stderr, io::stderr().is_terminal()),
            ],
            bar: None,
        }
    }

    /// Whose output it is.
    pub(super) fn id(&self) -> JobId {
        self.id
    }

    /// Whether the job was seen running.
    pub(super) fn ran(&self) -> bool {
        self.ran
    }

    /// Whether a manual job was heard to be in a worker's hands.
    pub(super) fn begun(&self) -> bool {
        self.begun
    }

    /// Shows a message that is not the last one.
    pub(super) async fn show(&mut self, message: Value) -> io::Result<()> {
        self.ran |= message.get("state").is_some_and(|state| state == "running");
        if self.json {
            return line(&message).await;
        }
        // Messages of a later version that this one does not know are none of its business.
        match serde_json::from_value(message) {
            Ok(Followed::Output(output)) => {
                self.bar = None;
                self.sides[output.stream as usize].show(output).await
            }
            // Among its output it would be in the way.
            Ok(Followed::Progress(progress)) => {
                if self.bar.is_some() {
                    self.tell(&format!("is running: {}", plain(&progress.to_string())));
                }
                Ok(())
            }
            Ok(Followed::State(state)) => {
                self.begun = state.state != "manual";
                self.tell(&format!("is {}", plain(&state.state)));
                Ok(())
            }
            Err(_) => Ok(()),
        }
    }

    /// Takes note of the last message.
    pub(super) async fn last(&mut self, message: &Value) -> io::Result<()> {
        self.bar = None;
        if self.json {
            return line(message).await;
        }
        Ok(())
    }

    /// The attempt is over, and there will be another one, whose output begins anew: that is the whole then. `state` is
    /// the job's now. Where somebody has seen the attempt that is told, below what it wrote.
    pub(super) fn again(&mut self, state: &str) {
        if std::mem::take(&mut self.ran) {
            self.bar = None;
            let (id, now) = (self.id, plain(state));
            complain(&format!(
                "jobctl: the attempt of job {id} was cut short; the job is {now} now"
            ));
        }
        for side in &mut self.sides {
            side.state = Shown::All;
            side.kept.clear();
        }
    }

    /// Says that nothing is known of the job yet.
    pub(super) fn asks(&mut self) {
        if !self.json && self.bar.is_none() {
            self.tell("is looked for");
        }
    }

    /// Says that a job of this target is to run.
    pub(super) fn waits(&mut self, target: &str) {
        self.name = format!("job {} ({})", self.id, brief(target));
        self.tell("is asked for");
    }

    /// There is nothing to wait for any more.
    pub(super) fn is_over(&mut self) {
        self.bar = None;
    }

    /// What is still to be shown of the whole output; `None` where that cannot be told. With `ended` all that the job
    /// wrote was shown, or counted as missing.
    pub(super) fn rest<'a>(&self, whole: [&'a [u8]; 2], ended: bool) -> [Option<&'a [u8]>; 2] {
        let [out, err] = &self.sides;
        [out.rest(whole[0], ended), err.rest(whole[1], ended)]
    }

    fn tell(&mut self, what: &str) {
        let new = || bar(1, "waiting: {msg} [{elapsed}]");
        let bar = self.bar.get_or_insert_with(new);
        bar.set_message(format!("{} {what}", self.name));
    }
}

impl Side {
    async fn show(&mut self, output: Output) -> io::Result<()> {
        if self.state == Shown::Beginning {
            return Ok(());
        }
        let missed = output.missed;
        if missed > 0 {
            // A person would rather see what goes on, a program all of it.
            let goes_on = self.terminal || (self.before && self.kept.is_empty());
            if self.state == Shown::All && !goes_on {
                self.state = Shown::Beginning;
                return Ok(());
            }
            self.state = Shown::Parts;
            let name = self.stream.name();
            complain(&format!("jobctl: {missed} bytes of {name} left out here"));
        }
        let mut bytes = output.into_bytes();
        if self.state == Shown::All {
            if self.kept.len() + bytes.len() > KEPT {
                self.state = Shown::Parts;
                self.kept = Vec::new();
            } else {
                self.kept.extend_from_slice(&bytes);
            }
        }
        if self.terminal {
            bytes = for_terminal(&String::from_utf8_lossy(&bytes)).into_bytes();
        }
        write(self.stream, bytes).await
    }

    fn rest<'a>(&self, whole: &'a [u8], ended: bool) -> Option<&'a [u8]> {
        let rest = match self.state {
            Shown::Parts => None,
            Shown::All | Shown::Beginning => whole.strip_prefix(&self.kept[..]),
        };
        // The row's text is another one where the job wrote what is none, or more than is kept.
        rest.or((ended && self.state == Shown::All).then_some(&[]))
    }
}

/// Without what could steer a terminal, its lines as they are.
fn for_terminal(text: &str) -> String {
    let mut safe = shown(text);
    if !text.ends_with('\n') {
        safe.pop();
    }
    safe
}

async fn line(message: &Value) -> io::Result<()> {
    write(Stream::Stdout, format!("{message}\n").into_bytes()).await
}

/// Writes aside, so that the connection is served while nobody reads.
async fn write(to: Stream, bytes: Vec<u8>) -> io::Result<()> {
    let writing = tokio::task::spawn_blocking(move || {
        let stream: &mut dyn Write = match to {
            Stream::Stdout => &mut io::stdout(),
            Stream::Stderr => &mut io::stderr(),
        };
        stream.write_all(&bytes)?;
        stream.flush()?;
        wrote(to, &bytes);
        Ok(())
    });
    writing.await.map_err(io::Error::other).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_followed_job_cannot_steer_the_terminal() {
        assert_eq!(for_terminal("a\n\tb \x1b[2J"), "a\n\tb \\u{1b}[2J");
        assert_eq!(for_terminal("a\n"), "a\n");
        assert_eq!(for_terminal(""), "");
    }

    #[test]
    fn the_rest_is_what_the_whole_has_behind_what_was_shown() {
        let side = |state, kept: &str| Side {
            stream: Stream::Stdout,
            terminal: false,
            before: false,
            kept: kept.into(),
            state,
        };
        for (state, kept, whole, ended, rest) in [
            (Shown::All, "", "all", false, Some("all")),
            (Shown::All, "al", "all", false, Some("l")),
            (Shown::All, "all", "all", true, Some("")),
            (Shown::Beginning, "a", "all", true, Some("ll")),
            // Bytes that are no text were shown as they are.
            (Shown::All, "b\u{1}", "b?", true, Some("")),
            (Shown::All, "b\u{1}", "b?", false, None),
            (Shown::Beginning, "ab", "a… left out …z", true, None),
            (Shown::Parts, "", "all", true, None),
        ] {
            let side = side(state, kept);
            let found = side.rest(whole.as_bytes(), ended);
            assert_eq!(found, rest.map(str::as_bytes), "{kept} of {whole}");
        }
    }
}
