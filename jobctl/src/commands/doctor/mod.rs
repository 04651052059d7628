//! `doctor`: looks at everything that can be amiss, and says what mends it. Changes nothing.

mod daemons;
mod table;

use jobd_proto::table::{Connection, RowError};
use serde::Serialize;

use super::Context;
use super::view::{View, look};
use crate::failure::Failure;
use crate::output::{Screen, Table, Tone, plain, several};
use crate::{
    database::{self, Database},
    settings::Settings,
};

/// `{"findings": [FINDING], "errors", "warnings"}`
#[derive(Serialize)]
struct Report {
    findings: Vec<Finding>,
    errors: usize,
    warnings: usize,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warning,
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    level: Level,
    /// `config`, `reach`, `table`, `indexes`, `clocks` or `rows`.
    about: &'static str,
    text: String,
    /// The command or statement that mends it.
    mend: Option<String>,
}

impl Finding {
    fn ok(about: &'static str, text: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            about,
            text: text.into(),
            mend: None,
        }
    }

    fn warning(about: &'static str, text: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            level: Level::Warning,
            mend: Some(mend.into()),
            ..Self::ok(about, text)
        }
    }

    fn error(about: &'static str, text: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            level: Level::Error,
            mend: Some(mend.into()),
            ..Self::ok(about, text)
        }
    }
}

/// What helps a worker whose table lacks columns, where the table itself cannot be looked at.
const ADD_COLUMNS: &str =
    "jobd --check-config # on its host: says what it finds; sql/mysql/add-*.sql add columns";

/// The same where the table has them by now.
const RESTART: &str = "systemctl restart jobd # on its host: it looks for columns when it starts, and this table has them";

/// Of many findings of one kind the first ones, and how many there are beside.
fn few(mut findings: Vec<Finding>, shows_all: &str) -> Vec<Finding> {
    const FEW: usize = 10;
    let left = findings.split_off(findings.len().min(FEW));
    findings.extend(left.first().map(|first| Finding {
        level: first.level,
        text: format!("and {} more of this kind", left.len()),
        mend: Some(shows_all.to_owned()),
        ..Finding::ok(first.about, "")
    }));
    findings
}

/// Examines; 1 if anything is an error.
pub(crate) async fn run(context: &Context) -> Result<u8, Failure> {
    let mut findings = vec![config(&context.settings)];
    let workers = daemons::examine(context, &mut findings).await;
    match &context.settings.database {
        None => {
            findings.extend(daemons::lacking(workers.as_deref(), ADD_COLUMNS));
            findings.push(Finding::warning(
                "table",
                "the config names no table, so that rows cannot be looked at",
                format!(
                    "put mysql_host, mysql_user, mysql_password, mysql_database and mysql_table, or sqlite_path, into {}",
                    context.settings.config.display()
                ),
            ));
        }
        Some(settings) => {
            let broken = |error: &RowError| {
                let failure = database::failure(settings, error).to_string();
                let mend = database::mend(settings, error, &context.settings.config);
                Finding::error("table", failure, mend)
            };
            match database::try_open(settings).await {
                Err(error) => {
                    findings.extend(daemons::lacking(workers.as_deref(), ADD_COLUMNS));
                    findings.push(broken(&error));
                }
                Ok(open) => {
                    // Else the table's own finding says the same, with the statements.
                    if table::has_ownership(&open) {
                        findings.extend(daemons::lacking(workers.as_deref(), RESTART));
                    }
                    let read =
                        read(context, settings, open, workers.is_some(), &mut findings).await;
                    findings.extend(read.err().map(|error| broken(&error)));
                }
            }
        }
    }
    let count = |level| findings.iter().filter(|found| found.level == level).count();
    let report = Report {
        errors: count(Level::Error),
        warnings: count(Level::Warning),
        findings,
    };
    let shown = |report: &Report| text(report, context.screen);
    context.screen.show(&report, shown)?;
    Ok(u8::from(report.errors > 0))
}

/// What the open table tells, by itself and together with the daemon, where that answers.
async fn read(
    context: &Context,
    settings: &Database,
    mut open: Connection,
    is_reached: bool,
    findings: &mut Vec<Finding>,
) -> Result<(), RowError> {
    table::examine(&mut open, settings, findings).await?;
    if !is_reached {
        return Ok(());
    }
    let gone = match look(context, &mut Some(open)).await {
        Ok(View {
            unread: Some(error),
            ..
        }) => return Err(error),
        Ok(view) if view.errors.is_empty() => {
            daemons::join(context, &view, findings);
            return Ok(());
        }
        Ok(view) => view.errors.join("; "),
        Err(failure) => failure.to_string(),
    };
    let again = format!(
        "{} doctor # once more: it answered before",
        context.jobctl()
    );
    findings.push(Finding::error("reach", gone, again));
    Ok(())
}

/// A file with passwords in it is its owner's alone.
fn config(settings: &Settings) -> Finding {
    use std::os::unix::fs::PermissionsExt as _;
    let path = settings.config.display().to_string();
    let Ok(found) = std::fs::metadata(&settings.config) else {
        return Finding::ok("config", format!("{path} is not there: all defaults"));
    };
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 && settings.holds_password() {
        return Finding::warning(
            "config",
            format!("{path} holds a password and others may read it (mode {mode:o})"),
            format!("chmod 600 {}", shell_words::quote(&path)),
        );
    }
    Finding::ok("config", path)
}

fn text(report: &Report, screen: Screen) -> String {
    if !screen.is_terminal() {
        let mut table = Table::new(&["LEVEL", "ABOUT", "FINDING", "MEND"]);
        for finding in &report.findings {
            let (word, tone) = word(finding.level);
            let mend = finding.mend.clone().unwrap_or_default();
            let cells = [word, finding.about, &finding.text, &mend].map(str::to_owned);
            table.row(tone, &cells);
        }
        return screen.table(&table);
    }
    let mut text = String::new();
    for finding in &report.findings {
        let (word, tone) = word(finding.level);
        let line = format!("{word:7}  {:7}  {}", finding.about, plain(&finding.text));
        text.extend([&screen.tone(tone, &line), "\n"]);
        if let Some(mend) = &finding.mend {
            text.extend(["         mend     ", &plain(mend), "\n"]);
        }
    }
    text + &match (report.errors, report.warnings) {
        (0, 0) => "all is well\n".to_owned(),
        (errors, warnings) => {
            let (errors, warnings) = (several(errors, "error"), several(warnings, "warning"));
            format!("{errors}, {warnings}\n")
        }
    }
}

fn word(level: Level) -> (&'static str, Tone) {
    match level {
        Level::Ok => ("ok", Tone::Plain),
        Level::Warning => ("warning", Tone::Warning),
        Level::Error => ("error", Tone::Bad),
    }
}
