//! Reads the statements of [`statements`](super::super::statements) and no others: one table, the operators that
//! they use, MySQL's NULLs. What it does not know is a panic that names the text, so that a new statement
//! is taught here before the simulation goes on.

use std::sync::Arc;

/// What a column, a parameter or an answer holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Val {
    Null,
    Int(i64),
    Text(Arc<str>),
}

/// A row, by the table's columns.
pub(crate) type Row = Vec<Val>;

/// What a SELECT does with the rows that it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lock {
    None,
    Wait,
    Skip,
}

/// A statement that was read.
#[derive(Debug)]
pub(super) enum Statement {
    Select {
        items: Vec<Expr>,
        /// `COUNT(*)` instead of items.
        count: bool,
        condition: Expr,
        /// Columns, each perhaps from the largest down.
        order: Vec<(usize, bool)>,
        limit: Option<Expr>,
        lock: Lock,
    },
    Update {
        set: Vec<(usize, Expr)>,
        condition: Expr,
    },
    /// For each condition, in order: is there a row?
    Probes(Vec<Expr>),
}

/// An expression.
#[derive(Debug)]
pub(super) enum Expr {
    Column(usize),
    Value(Val),
    Param(usize),
    Now,
    Or(Vec<Expr>),
    And(Vec<Expr>),
    Compare(Comparison, Box<(Expr, Expr)>),
    In(Box<Expr>, Vec<Expr>),
    Sum(Box<(Expr, Expr)>, i64),
    Coalesce(Box<(Expr, Expr)>),
    Length(Box<Expr>),
    IsNotNull(Box<Expr>),
    /// The first branch whose condition holds, or else the last.
    Case(Vec<(Expr, Expr)>, Box<Expr>),
    /// The first branch whose value is that of the subject, or else the last.
    Switch(Box<Expr>, Vec<(Expr, Expr)>, Box<Expr>),
}

/// A comparison.
#[derive(Clone, Copy, Debug)]
pub(super) enum Comparison {
    Equal,
    Same,
    More,
    AtLeast,
    Less,
    AtMost,
}

/// What expressions are worked out with.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) row: &'a [Val],
    pub(super) params: &'a [Val],
    /// Seconds since 1970, as the database believes.
    pub(super) now: i64,
}

impl Expr {
    pub(super) fn value(&self, context: Context<'_>) -> Val {
        match self {
            Self::Column(at) => context.row[*at].clone(),
            Self::Value(value) => value.clone(),
            Self::Param(at) => context.params[*at].clone(),
            Self::Now => Val::Int(context.now),
            Self::Sum(sides, sign) => match (sides.0.value(context), sides.1.value(context)) {
                (Val::Int(a), Val::Int(b)) => Val::Int(a + sign * b),
                (Val::Null, _) | (_, Val::Null) => Val::Null,
                other => panic!("a sum of {other:?}"),
            },
            Self::Coalesce(sides) => match sides.0.value(context) {
                Val::Null => sides.1.value(context),
                value => value,
            },
            Self::Length(inner) => match inner.value(context) {
                Val::Text(text) => Val::Int(i64::try_from(text.len()).unwrap_or(i64::MAX)),
                other => other,
            },
            Self::IsNotNull(inner) => Val::Int((inner.value(context) != Val::Null).into()),
            Self::Case(branches, otherwise) => {
                let mut branches = branches.iter();
                let taken = branches.find(|(when, _)| when.truth(context) == Some(true));
                taken.map_or(&**otherwise, |(_, then)| then).value(context)
            }
            Self::Switch(subject, branches, otherwise) => {
                let subject = subject.value(context);
                let same = |when: &Expr| {
                    compare(Comparison::Equal, &subject, &when.value(context)) == Some(true)
                };
                let taken = branches.iter().find(|(when, _)| same(when));
                taken.map_or(&**otherwise, |(_, then)| then).value(context)
            }
            Self::Or(_) | Self::And(_) | Self::Compare(..) | Self::In(..) => self
                .truth(context)
                .map_or(Val::Null, |truth| Val::Int(truth.into())),
        }
    }

    /// Whether a condition holds; `None` for NULL.
    pub(super) fn truth(&self, context: Context<'_>) -> Option<bool> {
        match self {
            Self::Or(parts) => any(parts.iter().map(|part| part.truth(context))),
            Self::And(parts) => any(parts
                .iter()
                .map(|part| part.truth(context).map(|truth| !truth)))
            .map(|any| !any),
            Self::Compare(how, sides) => {
                compare(*how, &sides.0.value(context), &sides.1.value(context))
            }
            Self::In(what, list) => {
                let what = what.value(context);
                any(list.iter().map(|item| match item {
                    Self::Param(at) => compare(Comparison::Equal, &what, &context.params[*at]),
                    item => compare(Comparison::Equal, &what, &item.value(context)),
                }))
            }
            other => match other.value(context) {
                Val::Null => None,
                Val::Int(number) => Some(number != 0),
                Val::Text(text) => panic!("'{text}' is no condition"),
            },
        }
    }
}

fn any(mut parts: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut unknown = false;
    let found = parts.any(|part| {
        unknown |= part.is_none();
        part == Some(true)
    });
    if found || !unknown { Some(found) } else { None }
}

fn compare(how: Comparison, a: &Val, b: &Val) -> Option<bool> {
    let order = match (a, b) {
        (Val::Int(a), Val::Int(b)) => a.cmp(b),
        (Val::Text(a), Val::Text(b)) => a.cmp(b),
        _ if matches!(how, Comparison::Same) => return Some(a == b),
        (Val::Null, _) | (_, Val::Null) => return None,
        (a, b) => panic!("{a:?} compared with {b:?}"),
    };
    Some(match how {
        Comparison::Equal | Comparison::Same => order.is_eq(),
        Comparison::More => order.is_gt(),
        Comparison::AtLeast => order.is_ge(),
        Comparison::Less => order.is_lt(),
        Comparison::AtMost => order.is_le(),
    })
}

/// Reads a statement about a table with these columns.
pub(super) fn read(text: &str, columns: &[String]) -> Statement {
    let mut reader = Reader {
        text,
        words: words(text),
        at: 0,
        params: 0,
        columns,
    };
    let statement = reader.statement();
    assert!(
        reader.at == reader.words.len(),
        "cannot read the end of: {text}"
    );
    statement
}

/// Words, names in backticks, strings, numbers and signs.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '`' | '\'' => rest[1..].find(first).expect("a closed quote") + 2,
            c if c.is_ascii_alphanumeric() || c == '_' => rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(rest.len()),
            _ if rest.starts_with("<=>") => 3,
            _ if rest.starts_with(">=") || rest.starts_with("<=") => 2,
            _ => 1,
        };
        words.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    words
}

struct Reader<'a> {
    text: &'a str,
    words: Vec<&'a str>,
    at: usize,
    params: usize,
    columns: &'a [String],
}

impl Reader<'_> {
    fn statement(&mut self) -> Statement {
        if self.skip("UPDATE") {
            self.at += 1;
            self.expect("SET");
            let mut set = Vec::new();
            loop {
                let column = self.column();
                self.expect("=");
                set.push((column, self.expression()));
                if !self.skip(",") {
                    break;
                }
            }
            self.expect("WHERE");
            let condition = self.expression();
            return Statement::Update { set, condition };
        }
        if self.words.get(3) == Some(&"(") && self.words.get(2) == Some(&"FROM") {
            return self.probes();
        }
        self.select()
    }

    fn select(&mut self) -> Statement {
        self.expect("SELECT");
        let (mut items, mut count) = (Vec::new(), false);
        loop {
            if self.skip("COUNT") {
                self.at += 3;
                count = true;
            } else {
                items.push(self.expression());
            }
            if !self.skip(",") {
                break;
            }
        }
        self.expect("FROM");
        self.at += 1;
        self.expect("WHERE");
        let condition = self.expression();
        let mut order = Vec::new();
        if self.skip("ORDER") {
            self.expect("BY");
            loop {
                let column = self.column();
                order.push((column, self.skip("DESC")));
                if !self.skip(",") {
                    break;
                }
            }
        }
        let limit = self.skip("LIMIT").then(|| self.expression());
        let lock = if self.skip("FOR") {
            self.expect("UPDATE");
            if self.skip("SKIP") {
                self.expect("LOCKED");
                Lock::Skip
            } else {
                Lock::Wait
            }
        } else {
            Lock::None
        };
        Statement::Select {
            items,
            count,
            condition,
            order,
            limit,
            lock,
        }
    }

    fn probes(&mut self) -> Statement {
        let mut conditions = Vec::new();
        loop {
            let number = conditions.len().to_string();
            let before = [
                "SELECT", &number, "FROM", "(", "SELECT", "1", ")", "AS", "one", "WHERE", "EXISTS",
                "(",
            ];
            for word in before {
                self.expect(word);
            }
            let Statement::Select { condition, .. } = self.select() else {
                unreachable!("a SELECT was read")
            };
            conditions.push(condition);
            self.expect(")");
            if !self.skip("UNION") {
                return Statement::Probes(conditions);
            }
            self.expect("ALL");
        }
    }

    fn expression(&mut self) -> Expr {
        let mut parts = vec![self.conjunction()];
        while self.skip("OR") {
            parts.push(self.conjunction());
        }
        if parts.len() == 1 {
            parts.remove(0)
        } else {
            Expr::Or(parts)
        }
    }

    fn conjunction(&mut self) -> Expr {
        let mut parts = vec![self.comparison()];
        while self.skip("AND") {
            parts.push(self.comparison());
        }
        if parts.len() == 1 {
            parts.remove(0)
        } else {
            Expr::And(parts)
        }
    }

    fn comparison(&mut self) -> Expr {
        let left = self.sum();
        let not = self.skip("NOT");
        if self.skip("IN") {
            self.expect("(");
            let mut list = vec![self.expression()];
            while self.skip(",") {
                list.push(self.expression());
            }
            self.expect(")");
            let among = Expr::In(Box::new(left), list);
            if !not {
                return among;
            }
            let no = Expr::Value(Val::Int(0));
            return Expr::Compare(Comparison::Equal, Box::new((among, no)));
        }
        let signs = [
            ("=", Comparison::Equal),
            ("<=>", Comparison::Same),
            (">", Comparison::More),
            (">=", Comparison::AtLeast),
            ("<", Comparison::Less),
            ("<=", Comparison::AtMost),
        ];
        if self.skip("IS") {
            self.expect("NOT");
            self.expect("NULL");
            return Expr::IsNotNull(Box::new(left));
        }
        for (sign, how) in signs {
            if self.skip(sign) {
                return Expr::Compare(how, Box::new((left, self.sum())));
            }
        }
        left
    }

    fn sum(&mut self) -> Expr {
        let mut left = self.primary();
        loop {
            let sign = match self.words.get(self.at) {
                Some(&"+") => 1,
                Some(&"-") => -1,
                _ => return left,
            };
            self.at += 1;
            left = Expr::Sum(Box::new((left, self.primary())), sign);
        }
    }

    fn primary(&mut self) -> Expr {
        let word = self.words[self.at];
        if word.starts_with('`') {
            return Expr::Column(self.column());
        }
        self.at += 1;
        match word {
            "?" => {
                self.params += 1;
                Expr::Param(self.params - 1)
            }
            "(" => {
                let inner = self.expression();
                self.expect(")");
                inner
            }
            "NULL" => Expr::Value(Val::Null),
            "CAST" => {
                self.expect("(");
                let inner = self.expression();
                self.expect("AS");
                self.at += 1;
                self.skip("INTEGER");
                self.expect(")");
                inner
            }
            "COALESCE" => {
                self.expect("(");
                let first = self.expression();
                self.expect(",");
                let second = self.expression();
                self.expect(")");
                Expr::Coalesce(Box::new((first, second)))
            }
            "CASE" => self.case(),
            // What stands in brackets is an operand as well.
            "LENGTH" => Expr::Length(Box::new(self.primary())),
            "UNIX_TIMESTAMP" => {
                self.expect("(");
                self.expect(")");
                Expr::Now
            }
            _ if word.starts_with('\'') => Expr::Value(Val::Text(word.trim_matches('\'').into())),
            _ => {
                let number = word.parse();
                let what = format!("the model knows {word}, which stands in: {}", self.text);
                Expr::Value(Val::Int(number.expect(&what)))
            }
        }
    }

    fn case(&mut self) -> Expr {
        let at_once = self.words[self.at] == "WHEN";
        let subject = (!at_once).then(|| Box::new(self.sum()));
        let mut branches = Vec::new();
        while self.skip("WHEN") {
            let when = self.expression();
            self.expect("THEN");
            branches.push((when, self.expression()));
        }
        self.expect("ELSE");
        let otherwise = Box::new(self.expression());
        self.expect("END");
        match subject {
            Some(subject) => Expr::Switch(subject, branches, otherwise),
            None => Expr::Case(branches, otherwise),
        }
    }

    fn column(&mut self) -> usize {
        if self.words.get(self.at + 1) == Some(&".") {
            self.at += 2;
        }
        let name = self.words[self.at].trim_matches('`');
        self.at += 1;
        let found = self.columns.iter().position(|column| column == name);
        found.unwrap_or_else(|| {
            panic!(
                "the model has no column {name}, which stands in: {}",
                self.text
            )
        })
    }

    fn skip(&mut self, word: &str) -> bool {
        let found = self.words.get(self.at) == Some(&word);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, word: &str) {
        assert!(
            self.skip(word),
            "the model expects {word} where {:?} stands in: {}",
            self.words.get(self.at),
            self.text
        );
    }
}
