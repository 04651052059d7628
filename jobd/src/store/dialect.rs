//! How the servers differ in what they are told.

/// How a server says it.
#[derive(Debug, Default)]
pub(super) struct Dialect {
    /// Begins a transaction that reads before it writes.
    pub(super) begin: &'static str,
    /// Seconds since 1970, by the database's clock.
    pub(super) now: &'static str,
    /// `=` for which NULL equals NULL.
    pub(super) same: &'static str,
    /// Behind a SELECT: locks its rows.
    pub(super) lock: &'static str,
    /// Behind a SELECT: locks its rows, passing over locked ones.
    pub(super) skip_locked: &'static str,
    /// How to go from target to target, of those that begin with something.
    pub(super) beginning: Beginning,
    /// Behind the table: which index leads to waiting rows.
    pub(super) claim_index: String,
    /// Behind the table: which index leads to a row by its id.
    pub(super) id_index: String,
    /// Behind the table: which index leads to requests for cancellation.
    pub(super) cancel_index: String,
    /// Behind the table: which index leads to rows whose time has come.
    pub(super) run_at_index: String,
    /// Before a column: keeps an index from being used for ranges of it, where the server would sort what it finds in several.
    pub(super) unranged: &'static str,
    /// The largest statement with its values, in bytes.
    pub(super) max_packet: u64,
}

/// The condition that a name comes behind another one and begins with a prefix, so that an index serves it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Beginning {
    /// It comes before every name that does not, which begins behind the prefix: for an order by characters. The other one
    /// may be no UTF-8.
    #[default]
    Below,
    /// Whatever the column's collation takes for the same.
    Like,
}

impl Beginning {
    pub(super) fn condition(self) -> &'static str {
        match self {
            Self::Below => "`target` > CAST(? AS TEXT) AND `target` < ?",
            Self::Like => "`target` > ? AND `target` LIKE ? ESCAPE '|'",
        }
    }

    /// The value for the prefix.
    pub(super) fn value(self, prefix: &str) -> String {
        match self {
            Self::Below => {
                let mut end = prefix.to_owned();
                let last = end.pop();
                let next = last.and_then(|last| (last..).nth(1));
                end.push(next.unwrap_or(char::MAX));
                end
            }
            Self::Like => {
                let mut like = String::with_capacity(prefix.len() + 1);
                for c in prefix.chars() {
                    if "|%_".contains(c) {
                        like.push('|');
                    }
                    like.push(c);
                }
                like + "%"
            }
        }
    }
}
