//! The job table in memory, with transactions as InnoDB has them under READ COMMITTED: what is not
//! committed nobody else sees, rows that were changed or read FOR UPDATE are locked until then, who needs them waits.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use super::sql::{self, Context, Expr, Lock, Row, Statement, Val};

/// Names a connection.
pub(crate) type Session = u32;

/// What a statement came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Rows(Vec<Row>),
    /// So many rows matched.
    Changed(u64),
}

/// A row that was committed: its id, what it was, what it is.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) id: i64,
    pub(crate) before: Row,
    pub(crate) after: Row,
}

/// Statements that were read before, by where their texts stand: they live as long as their schema does.
#[derive(Debug, Default)]
pub(crate) struct Texts(Mutex<HashMap<usize, Arc<Statement>>>);

impl Texts {
    fn read(&self, text: &Arc<str>, columns: &[String]) -> Arc<Statement> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = Arc::as_ptr(text).cast::<u8>() as usize;
        let statement = known.entry(place);
        statement
            .or_insert_with(|| Arc::new(sql::read(text, columns)))
            .clone()
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Arc<[String]>,
    rows: BTreeMap<i64, Slot>,
    read: Arc<Texts>,
}

#[derive(Debug)]
struct Slot {
    committed: Row,
    /// Who has it locked, and what he has made of it.
    held: Option<(Session, Row)>,
}

impl Slot {
    fn seen_by(&self, session: Session) -> &Row {
        match &self.held {
            Some((holder, row)) if *holder == session => row,
            _ => &self.committed,
        }
    }

    fn is_locked_for(&self, session: Session) -> bool {
        self.held
            .as_ref()
            .is_some_and(|(holder, _)| *holder != session)
    }
}

impl Table {
    pub(crate) fn new(columns: Arc<[String]>, read: Arc<Texts>) -> Self {
        Self {
            columns,
            rows: BTreeMap::new(),
            read,
        }
    }

    /// The place of a column in rows; `None` where the table has none of that name.
    pub(crate) fn place(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|name| name == column)
    }

    /// Adds a row, committed.
    pub(crate) fn add(&mut self, id: i64, row: Row) {
        self.rows.insert(
            id,
            Slot {
                committed: row,
                held: None,
            },
        );
    }

    /// A row as everybody sees it.
    pub(crate) fn row(&self, id: i64) -> Option<&Row> {
        self.rows.get(&id).map(|slot| &slot.committed)
    }

    /// Every row as everybody sees it.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (i64, &Row)> {
        self.rows.iter().map(|(id, slot)| (*id, &slot.committed))
    }

    /// Whether somebody has it locked.
    pub(crate) fn is_locked(&self, id: i64) -> bool {
        self.rows.get(&id).is_some_and(|slot| slot.held.is_some())
    }

    /// Runs a statement in the transaction of `session`; `None` where it has to wait for a row first.
    pub(crate) fn run(
        &mut self,
        session: Session,
        text: &Arc<str>,
        params: &[Val],
        now: i64,
    ) -> Option<Answer> {
        let statement = self.read.read(text, &self.columns);
        match &*statement {
            Statement::Update { .. } => self.update(session, &statement, params, now),
            Statement::Select { .. } => self.select(session, &statement, params, now),
            Statement::Probes(conditions) => Some(self.probe(session, conditions, params, now)),
        }
    }

    fn probe(&self, session: Session, conditions: &[Expr], params: &[Val], now: i64) -> Answer {
        let mut found = Vec::new();
        let mut there = false;
        for (number, condition) in conditions.iter().enumerate() {
            // Probes beyond the list repeat its last target.
            let asked = |number: usize| params.get(number);
            let again = number > 0 && asked(number).is_some() && asked(number) == asked(number - 1);
            if !again {
                let mut rows = self.rows.values().map(|slot| slot.seen_by(session));
                let holds = |row| condition.truth(Context { row, params, now }) == Some(true);
                there = rows.any(|row| holds(row));
            }
            if there {
                found.push(vec![Val::Int(i64::try_from(number).expect("a few"))]);
            }
        }
        Answer::Rows(found)
    }

    fn update(
        &mut self,
        session: Session,
        statement: &Statement,
        params: &[Val],
        now: i64,
    ) -> Option<Answer> {
        let Statement::Update { set, condition } = statement else {
            unreachable!("an UPDATE is run as one")
        };
        let mut matching = Vec::new();
        for (id, slot) in &self.rows {
            // A locked row is waited for where it matches as it was committed last.
            let row = slot.seen_by(session);
            if condition.truth(Context { row, params, now }) == Some(true) {
                if slot.is_locked_for(session) {
                    return None;
                }
                matching.push(*id);
            }
        }
        for id in &matching {
            let slot = self.rows.get_mut(id).expect("a row that was just there");
            let mut row = slot.seen_by(session).clone();
            // From left to right, each seeing what those before it have set.
            for (column, value) in set {
                row[*column] = value.value(Context {
                    row: &row,
                    params,
                    now,
                });
            }
            slot.held = Some((session, row));
        }
        Some(Answer::Changed(matching.len() as u64))
    }

    fn select(
        &mut self,
        session: Session,
        statement: &Statement,
        params: &[Val],
        now: i64,
    ) -> Option<Answer> {
        let Statement::Select {
            items,
            count,
            condition,
            order,
            limit,
            lock,
        } = statement
        else {
            unreachable!("a SELECT is run as one")
        };
        let limit = limit.as_ref().map_or(usize::MAX, |limit| {
            match limit.value(Context {
                row: &[],
                params,
                now,
            }) {
                Val::Int(limit) => usize::try_from(limit).expect("a limit is not negative"),
                other => panic!("a limit of {other:?}"),
            }
        });
        let mut found = Vec::new();
        let matches = |row: &Row| condition.truth(Context { row, params, now }) == Some(true);
        for (id, slot) in self.ordered(session, order) {
            // A locking read waits before it looks: for a row that will match, too.
            let awaited = *lock == Lock::Wait && slot.is_locked_for(session);
            if awaited && slot.held.as_ref().is_some_and(|(_, row)| matches(row)) {
                return None;
            }
            if found.len() == limit || !matches(slot.seen_by(session)) {
                continue;
            }
            match lock {
                Lock::Wait if awaited => return None,
                Lock::Skip if slot.is_locked_for(session) => {}
                _ => found.push(*id),
            }
        }
        if *lock != Lock::None {
            self.lock(session, &found);
        }
        if *count {
            let count = i64::try_from(found.len()).expect("a few rows");
            return Some(Answer::Rows(vec![vec![Val::Int(count)]]));
        }
        let answer = found.iter().map(|id| {
            let row = self.rows[id].seen_by(session);
            items
                .iter()
                .map(|item| item.value(Context { row, params, now }))
                .collect()
        });
        Some(Answer::Rows(answer.collect()))
    }

    /// Its rows, as `session` sees them, in this order and by their ids.
    fn ordered(&self, session: Session, order: &[(usize, bool)]) -> Vec<(&i64, &Slot)> {
        let mut rows: Vec<(&i64, &Slot)> = self.rows.iter().collect();
        rows.sort_by(|(_, a), (_, b)| {
            let (a, b) = (a.seen_by(session), b.seen_by(session));
            let columns = order.iter().map(|(column, down)| {
                let order = a[*column].cmp(&b[*column]);
                if *down { order.reverse() } else { order }
            });
            columns.fold(Ordering::Equal, Ordering::then)
        });
        rows
    }

    fn lock(&mut self, session: Session, ids: &[i64]) {
        for id in ids {
            let slot = self.rows.get_mut(id).expect("a row that was just there");
            let row = slot.seen_by(session).clone();
            slot.held = Some((session, row));
        }
    }

    /// Ends the transaction of `session` and lets go of its rows; what it changed.
    pub(crate) fn commit(&mut self, session: Session) -> Vec<Change> {
        let mut changes = Vec::new();
        for (id, slot) in &mut self.rows {
            if let Some((_, after)) = slot.held.take_if(|(holder, _)| *holder == session)
                && after != slot.committed
            {
                let before = std::mem::replace(&mut slot.committed, after.clone());
                changes.push(Change {
                    id: *id,
                    before,
                    after,
                });
            }
        }
        changes
    }

    /// The same without its changes.
    pub(crate) fn roll_back(&mut self, session: Session) {
        for slot in self.rows.values_mut() {
            slot.held.take_if(|(holder, _)| *holder == session);
        }
    }
}
