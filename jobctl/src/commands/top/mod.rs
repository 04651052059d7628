//! `top`: the cluster live, with keys. The loop awaits nothing but the next look, the answer to an
//! order, and time; so keys are heard while a daemon is slow. Whatever ends it leaves the terminal
//! as it was.

mod board;
mod screen;

use std::future::Future;
use std::io::{self, IsTerminal as _};
use std::pin::Pin;
use std::time::{Duration, Instant};

use jobd_proto::master::{MasterRequest, SignalJob};
use jobd_proto::table::Connection;
use jobd_proto::worker::WorkerRequest;
use jobd_proto::{JobId, Targets, signal};
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind};

use super::ask::answer;
use super::cancel::{said, through_daemon};
use super::outcome::about;
use super::targets::{are_served, set};
use super::view::{View, look};
use super::{Context, logs};
use crate::cli::{Id, LogsArgs};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{complain, end_line, print};
use crate::settings::Kind;
use crate::signals::{self, Ends};
use board::{Board, Wish};

/// Between two looks at the keys: less than a person notices.
const KEYS: Duration = Duration::from_millis(40);

/// A look that takes longer is spoken of.
const SLOW: Duration = Duration::from_secs(1);

type Look<'a> = Pin<Box<dyn Future<Output = (Result<View, Failure>, Option<Connection>)> + 'a>>;
type Order<'a> = Pin<Box<dyn Future<Output = Result<String, Failure>> + 'a>>;

/// The terminal while the screen is ours.
struct Screen(ratatui::DefaultTerminal);

impl Screen {
    fn take() -> Result<Self, Failure> {
        ratatui::try_init()
            .map(Self)
            .map_err(|error| broken(&error))
    }

    /// Forgets what stands there, so that all of it is drawn the next time. The terminal is asked nothing, as `clear` would:
    /// one that does not answer would hold everything up.
    fn forget(&mut self) -> Result<(), Failure> {
        let size = self.0.size().map_err(|error| broken(&error))?;
        self.0.resize(size.into()).map_err(|error| broken(&error))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn broken(error: &io::Error) -> Failure {
    Failure::Refused(format!("cannot use the terminal: {error}"))
}

/// Shows it until somebody leaves.
pub(crate) async fn run(context: &Context, every: Duration) -> Result<u8, Failure> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(Failure::Usage(format!(
            "top needs a terminal; {} status --watch does not",
            context.jobctl()
        )));
    }
    let mut ends = Ends::listen()?;
    let mut interrupted = signals::listen(SignalKind::interrupt())?;
    let (loud, context) = (context, &context.quietly());
    let mut screen = Screen::take()?;
    let mut board = Board::new(&context.settings.server, context.screen.is_coloured());
    let (mut looking, mut acting): (Option<Look<'_>>, Option<Order<'_>>) = (None, None);
    let (mut table, mut begun) = (None, None);
    // Whether there is something new to draw.
    let mut is_stale = true;
    loop {
        if looking.is_none() && begun.is_none_or(|begun: Instant| begun.elapsed() >= every) {
            begun = Some(Instant::now());
            looking = Some(Box::pin(look_with(context, table.take())));
        }
        let asked = begun
            .filter(|_| looking.is_some())
            .map(|begun| begun.elapsed());
        is_stale |= board.asking(asked.filter(|asked| *asked > SLOW));
        if std::mem::take(&mut is_stale) {
            let drawn = screen.0.draw(|frame| screen::draw(frame, &board));
            drawn.map_err(|error| broken(&error))?;
        }
        tokio::select! {
            biased;
            code = ends.next() => return Ok(code),
            _ = interrupted.recv() => return Ok(130),
            said = ended(&mut acting) => {
                board.tell(&said.unwrap_or_else(|failure| failure.to_string()));
                // What it has changed is to be seen.
                begun = None;
                is_stale = true;
            }
            (view, open) = ended(&mut looking) => {
                table = open;
                board.show(view);
                is_stale = true;
            }
            () = tokio::time::sleep(KEYS) => {}
        }
        for event in events()? {
            // A window of another size is drawn anew as well.
            is_stale = true;
            let Event::Key(key) = event else { continue };
            if key.kind == KeyEventKind::Release {
                continue;
            }
            match board.press(key) {
                None => {}
                Some(Wish::Leave) => return Ok(0),
                Some(Wish::Redraw) => screen.forget()?,
                Some(Wish::Follow(id)) => {
                    drop(screen);
                    let said = tokio::select! {
                        biased;
                        code = ends.next() => return Ok(code),
                        said = follow(loud, id, &mut interrupted) => said,
                    };
                    screen = Screen::take()?;
                    board.tell(&said?);
                }
                // To give it up would leave open whether it was carried out.
                Some(_) if acting.is_some() => board.tell("the last order is not answered yet"),
                Some(wish) => {
                    board.tell(&format!("asking {}", context.settings.server));
                    acting = Some(Box::pin(carry_out(context, wish)));
                }
            }
        }
    }
}

/// Looks, and gives the open table back for the next time.
async fn look_with(
    context: &Context,
    mut table: Option<Connection>,
) -> (Result<View, Failure>, Option<Connection>) {
    let view = look(context, &mut table).await;
    (view, table)
}

/// Waits for the end of `work`, if there is any; given up before that, it goes on the next time.
async fn ended<T>(work: &mut Option<Pin<Box<dyn Future<Output = T> + '_>>>) -> T {
    let Some(going) = work else {
        return std::future::pending().await;
    };
    let end = going.await;
    *work = None;
    end
}

/// What keys and window did since the last time.
fn events() -> Result<Vec<Event>, Failure> {
    let mut events = Vec::new();
    while event::poll(Duration::ZERO).map_err(|error| broken(&error))? {
        events.push(event::read().map_err(|error| broken(&error))?);
    }
    Ok(events)
}

/// Gives the order that was wished for, and says what came of it.
async fn carry_out(context: &Context, wish: Wish) -> Result<String, Failure> {
    let client = context.client().await?;
    let named = |target: &str| Targets::Named(vec![target.to_owned()]).data();
    match wish {
        Wish::Pause(target) => {
            are_served(context, &client, std::slice::from_ref(&target)).await?;
            client.order("pause", named(&target)).await?;
            Ok(format!("paused {target}"))
        }
        Wish::Continue(target) => {
            client.order("continue", named(&target)).await?;
            Ok(format!("continued {target}"))
        }
        Wish::Limit(limit) => set(context, &client, limit).await,
        Wish::Cancel(id, target) => cancel(context, &client, id, target).await,
        Wish::Leave | Wish::Redraw | Wish::Follow(_) => Ok(String::new()),
    }
}

/// Asks for it; a daemon that does not know of cancelling sends SIGTERM.
async fn cancel(
    context: &Context,
    client: &Client<'_>,
    id: JobId,
    target: String,
) -> Result<String, Failure> {
    match through_daemon(context, vec![id]).await {
        Ok(reply) => {
            return Ok(match (reply.jobs.get(&id), reply.errors.get(&id)) {
                (Some(fate), _) => format!("job {id}: {}", said(*fate).1),
                (None, Some(error)) => about(id, error),
                (None, None) => format!("job {id}: the answer says nothing of it"),
            });
        }
        Err(Failure::Refused(text)) if text.contains("unknown request type") => {}
        Err(failure) => return Err(failure),
    }
    let signal = signal::number("TERM").unwrap_or(15);
    let (kind, data) = match context.kind() {
        Kind::Worker => {
            let request = WorkerRequest::SendSignal {
                jobs: vec![(id, signal)],
            };
            (request.kind(), request.data())
        }
        Kind::Master => {
            let request = MasterRequest::SendSignal {
                jobs: vec![SignalJob { id, signal, target }],
            };
            (request.kind(), request.data())
        }
    };
    let answer: Value = client.ask(kind, data).await?;
    Ok(match answer.get(id.to_string()).and_then(Value::as_bool) {
        Some(true) => format!("sent SIGTERM to job {id}"),
        _ => format!("job {id} does not run there any more"),
    })
}

/// Shows the output of a job in the terminal as it is without us, until its end or Ctrl-C.
async fn follow(context: &Context, id: JobId, interrupted: &mut Signal) -> Result<String, Failure> {
    print(&format!(
        "output of job {id}; Ctrl-C leaves, the job goes on\n"
    ))?;
    let args = LogsArgs {
        id: Id::Is(id),
        follow: true,
    };
    let shown = tokio::select! {
        biased;
        shown = logs::run(context, args) => Some(shown),
        _ = interrupted.recv() => None,
    };
    // The wait for its end hears the Ctrl-C as well, which was not for us.
    let _ = tokio::time::timeout(KEYS, interrupted.recv()).await;
    let said = match shown {
        None | Some(Err(Failure::Interrupted(_))) => format!("job {id} goes on"),
        Some(Ok(_)) => format!("job {id} has ended"),
        Some(Err(failure)) => {
            complain(&format!("jobctl: {failure}"));
            format!("the output of job {id} cannot be had")
        }
    };
    end_line();
    print("press Enter to go back\n")?;
    tokio::select! {
        biased;
        line = answer() => line.map(drop)?,
        _ = interrupted.recv() => {}
    }
    Ok(said)
}
