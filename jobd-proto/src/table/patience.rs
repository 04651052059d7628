//! How long a database may take to answer, and who is told when it takes long. A statement that is
//! given up leaves its connection unusable: whoever gave it up drops the connection.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::rows::RowError;

/// How long connecting may take, name resolution and TLS included.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How long one statement may take. Each reads or changes a bounded number of rows, which takes
/// milliseconds; the servers give up waits for row locks by themselves after 50 s.
const STATEMENT_LIMIT: Duration = Duration::from_mins(1);

/// After this long somebody is told.
const SILENCE: Duration = Duration::from_secs(1);

/// Shows that the database is waited for, until what it returns is dropped.
type Notice = Arc<dyn Fn() -> Box<dyn Any> + Send + Sync>;

/// See above.
#[derive(Clone, Default)]
pub struct Patience {
    notice: Option<Notice>,
}

impl Patience {
    /// Calls `notice` where an answer takes longer than a second, and drops what it returned when the
    /// answer is there.
    pub fn telling(notice: impl Fn() -> Box<dyn Any> + Send + Sync + 'static) -> Self {
        Self {
            notice: Some(Arc::new(notice)),
        }
    }

    /// Waits for a connection.
    pub(super) async fn connecting<T>(
        &self,
        work: impl Future<Output = Result<T, RowError>>,
    ) -> Result<T, RowError> {
        self.within(CONNECT_LIMIT, work).await
    }

    /// Waits for a statement.
    pub(super) async fn statement<T>(
        &self,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, RowError> {
        let work = async { work.await.map_err(RowError::from) };
        self.within(STATEMENT_LIMIT, work).await
    }

    async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, RowError>>,
    ) -> Result<T, RowError> {
        let mut work = std::pin::pin!(work);
        if let Ok(done) = tokio::time::timeout(SILENCE, &mut work).await {
            return done;
        }
        let _shown = self.notice.as_ref().map(|notice| notice());
        let left = limit.saturating_sub(SILENCE);
        let done = tokio::time::timeout(left, work).await;
        done.unwrap_or(Err(RowError::NoAnswer(limit)))
    }
}

impl fmt::Debug for Patience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Patience")
    }
}
