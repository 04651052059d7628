//! The simulated database server: connections, transactions, and everything that may go wrong on the way.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::agenda::{Event, Fault, Incarnation, Inner};
use super::plan::{LEASE, MS, SECOND, Time};
use crate::store::model::{Answer, Change, Failure, Reply, Say, Session, Table, Val};

/// How long a statement waits for a row.
const LOCK_WAIT: Time = LEASE / 3;

/// See the module.
pub(super) struct Server {
    pub(super) table: Table,
    sessions: BTreeMap<Session, Client>,
    blocked: Vec<Blocked>,
    waits: u64,
    /// Replies that never come.
    limbo: Vec<Reply>,
    /// Its clock less the truth, in seconds.
    pub(super) clock: i64,
    pub(super) faults: Faults,
}

/// What goes wrong just now. Percentages; silent: without an error.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub(super) away: Option<bool>,
    /// By worker.
    pub(super) cut_off: [Option<bool>; 3],
    pub(super) slow_answers: Time,
    pub(super) lossy: u64,
    pub(super) lossy_after: bool,
    pub(super) conflicts: u64,
    pub(super) refusals: u64,
}

struct Client {
    owner: Incarnation,
    in_transaction: bool,
    gone: bool,
}

struct Blocked {
    session: Session,
    number: u64,
    text: Arc<str>,
    params: Vec<Val>,
    reply: Reply,
}

/// What a request came to, and what it committed.
type Done = (Result<Answer, Failure>, Vec<Committed>);

/// Rows that a session has committed.
pub(super) struct Committed {
    pub(super) by: Incarnation,
    pub(super) changes: Vec<Change>,
}

impl Server {
    pub(super) fn new(table: Table) -> Self {
        Self {
            table,
            sessions: BTreeMap::new(),
            blocked: Vec::new(),
            waits: 0,
            limbo: Vec::new(),
            clock: 0,
            faults: Faults::default(),
        }
    }

    pub(super) fn end(&mut self, fault: Fault) {
        match fault {
            Fault::Away => self.faults.away = None,
            Fault::CutOff(worker) => self.faults.cut_off[worker] = None,
            Fault::SlowAnswers => self.faults.slow_answers = 0,
            Fault::Lossy => self.faults.lossy = 0,
            Fault::Conflicts => self.faults.conflicts = 0,
            Fault::Refusals => self.faults.refusals = 0,
            Fault::Slow | Fault::NoRoom(_) => {}
        }
    }

    /// Seconds since 1970, as it believes.
    pub(super) fn now(&self, agenda: &Inner) -> i64 {
        1_700_000_000 + self.clock + i64::try_from(agenda.now / SECOND).unwrap()
    }

    /// Takes a request; what it committed.
    pub(super) fn take(
        &mut self,
        agenda: &mut Inner,
        (owner, worker): (Incarnation, usize),
        session: Session,
        say: Say,
        reply: Option<Reply>,
    ) -> Vec<Committed> {
        let Some(reply) = reply else {
            // The client has hung up; now and then the server is slow to notice.
            let after = if agenda.random.percent(20) {
                agenda.random.below(2 * SECOND)
            } else {
                agenda.random.below(20 * MS)
            };
            agenda.add(agenda.now + after, Event::HangUp(session));
            return Vec::new();
        };
        if let Some(silent) = self.faults.away.or(self.faults.cut_off[worker]) {
            self.lose(agenda, session, reply, silent);
            return Vec::new();
        }
        if matches!(say, Say::Connect) {
            self.sessions.entry(session).or_insert(Client {
                owner,
                in_transaction: false,
                gone: false,
            });
            self.answer(agenda, reply, Ok(Answer::Changed(0)));
            return Vec::new();
        }
        if self.sessions.get(&session).is_none_or(|client| client.gone) {
            self.lose(agenda, session, reply, false);
            return Vec::new();
        }
        let lost = self.faults.lossy > 0 && agenda.random.percent(self.faults.lossy);
        if lost && !self.faults.lossy_after {
            let silent = agenda.random.percent(30);
            self.lose(agenda, session, reply, silent);
            return Vec::new();
        }
        let (outcome, committed) = match self.carry_out(agenda, session, say) {
            Ok(done) => done,
            Err((text, params)) => {
                self.wait(agenda, session, text, params, reply);
                return Vec::new();
            }
        };
        if lost {
            let silent = agenda.random.percent(30);
            self.lose(agenda, session, reply, silent);
        } else {
            self.answer(agenda, reply, outcome);
        }
        committed
    }

    /// What a request comes to, and what it committed; a statement that has to wait for a row comes back.
    fn carry_out(
        &mut self,
        agenda: &mut Inner,
        session: Session,
        say: Say,
    ) -> Result<Done, (Arc<str>, Vec<Val>)> {
        match say {
            Say::Run {
                text,
                params,
                begins,
            } => {
                self.client(session).in_transaction |= begins;
                if self.faults.conflicts > 0 && agenda.random.percent(self.faults.conflicts) {
                    let committed = self.roll_back(agenda, session);
                    return Ok((Err(Failure::Conflict), committed));
                }
                let refusals = self.faults.refusals;
                if refusals > 0 && text.starts_with("UPDATE") && agenda.random.percent(refusals) {
                    return Ok((Err(Failure::Refused), Vec::new()));
                }
                let now = self.now(agenda);
                match self.table.run(session, &text, &params, now) {
                    Some(answer) => Ok((Ok(answer), self.settle(agenda, session))),
                    None => Err((text, params)),
                }
            }
            Say::Commit => {
                self.client(session).in_transaction = false;
                Ok((Ok(Answer::Changed(0)), self.settle(agenda, session)))
            }
            Say::RollBack => Ok((Ok(Answer::Changed(0)), self.roll_back(agenda, session))),
            Say::Connect | Say::Close => unreachable!("these need no session"),
        }
    }

    fn roll_back(&mut self, agenda: &mut Inner, session: Session) -> Vec<Committed> {
        self.client(session).in_transaction = false;
        self.table.roll_back(session);
        self.unblock(agenda)
    }

    /// Lets a statement wait for rows that others have locked.
    fn wait(
        &mut self,
        agenda: &mut Inner,
        session: Session,
        text: Arc<str>,
        params: Vec<Val>,
        reply: Reply,
    ) {
        self.waits += 1;
        let number = self.waits;
        self.blocked.push(Blocked {
            session,
            number,
            text,
            params,
            reply,
        });
        agenda.add(agenda.now + LOCK_WAIT, Event::LockTimeout(session, number));
    }

    /// Commits where no transaction is open.
    fn settle(&mut self, agenda: &mut Inner, session: Session) -> Vec<Committed> {
        let client = self.client(session);
        if client.in_transaction {
            return Vec::new();
        }
        let by = client.owner;
        let changes = self.table.commit(session);
        let mut committed = self.unblock(agenda);
        committed.insert(0, Committed { by, changes });
        committed
    }

    /// Lets statements go on that waited for rows.
    fn unblock(&mut self, agenda: &mut Inner) -> Vec<Committed> {
        let mut committed = Vec::new();
        for blocked in std::mem::take(&mut self.blocked) {
            let now = self.now(agenda);
            match self
                .table
                .run(blocked.session, &blocked.text, &blocked.params, now)
            {
                Some(answer) => {
                    self.answer(agenda, blocked.reply, Ok(answer));
                    committed.extend(self.settle(agenda, blocked.session));
                }
                None => self.blocked.push(blocked),
            }
        }
        committed
    }

    pub(super) fn lock_timeout(&mut self, agenda: &mut Inner, session: Session, number: u64) {
        if let Some(at) = self
            .blocked
            .iter()
            .position(|blocked| (blocked.session, blocked.number) == (session, number))
        {
            let blocked = self.blocked.remove(at);
            self.answer(agenda, blocked.reply, Err(Failure::Conflict));
        }
    }

    /// Drops a client that has gone, with its transaction.
    pub(super) fn hang_up(&mut self, agenda: &mut Inner, session: Session) -> Vec<Committed> {
        self.sessions.remove(&session);
        self.blocked.retain(|blocked| blocked.session != session);
        self.table.roll_back(session);
        self.unblock(agenda)
    }

    fn client(&mut self, session: Session) -> &mut Client {
        self.sessions
            .get_mut(&session)
            .expect("a session that was just there")
    }

    /// The connection is lost: the server rolls back when it notices.
    fn lose(&mut self, agenda: &mut Inner, session: Session, reply: Reply, silent: bool) {
        if let Some(client) = self.sessions.get_mut(&session)
            && !std::mem::replace(&mut client.gone, true)
        {
            let after = agenda.random.below(SECOND);
            agenda.add(agenda.now + after, Event::HangUp(session));
        }
        if silent {
            self.limbo.push(reply);
        } else {
            self.answer(agenda, reply, Err(Failure::Lost));
        }
    }

    fn answer(&self, agenda: &mut Inner, reply: Reply, outcome: Result<Answer, Failure>) {
        if self.faults.slow_answers > 0 {
            let after = agenda.random.below(self.faults.slow_answers);
            agenda.add(agenda.now + after, Event::Answer(reply, outcome));
        } else {
            // Whoever asked may be gone.
            let _ = reply.send(outcome);
        }
    }
}
