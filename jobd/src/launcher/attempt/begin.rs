//! The beginning of an attempt: its program is found and started, or it is said why not. It blocks, on a thread for that.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;

use crate::clock;
use crate::faults::crash_point;
use crate::job::Job;
use crate::launcher::process::{Program, pipe_to_give};
use crate::launcher::start::{Started, start};
use crate::launcher::{End, Launcher, reporter};
use crate::store::Ability;

/// What became of the beginning of a process.
#[expect(
    clippy::large_enum_variant,
    reason = "moved once a job; a box would cost more"
)]
pub(super) enum Begun {
    Started(Started),
    /// It can never begin.
    Never(End),
    /// It may be tried again.
    NotNow(io::Error),
}

/// Finds the program and starts it: on a thread, as file systems may be slow.
pub(super) fn begin(launcher: &Launcher, job: &Job, fed: bool, until: Option<Duration>) -> Begun {
    let way = launcher.way(job);
    let mut program = match way.program(job, &launcher.inner.worker, fed) {
        Ok(program) => program,
        Err(reason) => return Begun::Never(End::never_started(127, &reason)),
    };
    // The last moment: threads that thaw do not wait for the loop to notice what it has missed.
    if until.is_some_and(|until| clock::since_boot() >= until) {
        return Begun::NotNow(io::Error::other("its lease may have ended meanwhile"));
    }
    // What is to be fed waits for that; copies of the output and what the shim says are not this thread's business.
    let stay = !fed && way.settings.output_file.is_none() && way.shim.is_none();
    let has = |ability| job.terms.abilities.has(ability);
    let reports = way.settings.progress.unwrap_or(has(Ability::Progress));
    let reports = reports.then(|| reporter::attach(&mut program)).transpose();
    let failure = way.shim.as_ref().map(|_| attach_shim(&mut program));
    let (reports, failure) = match (reports, failure.transpose()) {
        (Ok(reports), Ok(failure)) => (reports, failure),
        (Err(error), _) | (_, Err(error)) => return Begun::NotNow(error),
    };
    crash_point!("spawn-before");
    match start(
        &mut program,
        way.settings.max_output,
        stay,
        has(Ability::Accounting),
    ) {
        Ok(mut started) => {
            let over = started.over.is_some();
            started.reports = reports.filter(|pipe| !over || !reporter::is_mute(pipe));
            started.failure = failure;
            Begun::Started(started)
        }
        Err(error) if is_no_room(&error) => Begun::NotNow(error),
        Err(error) => {
            let code = if error.kind() == io::ErrorKind::NotFound {
                127
            } else {
                126
            };
            let program = program.file.to_string_lossy();
            let missing = way.missing_cwd();
            let reason = missing.unwrap_or_else(|| format!("{program}: {error}"));
            Begun::Never(End::never_started(code, &reason))
        }
    }
}

/// Gives the shim a descriptor to say on what went wrong; the end to read.
fn attach_shim(program: &mut Program<'_>) -> io::Result<OwnedFd> {
    let (failure, teller) = pipe_to_give()?;
    program.teller = Some(teller);
    Ok(failure)
}

/// Errors of fork(2) and pipe(2) that say nothing about the job.
fn is_no_room(error: &io::Error) -> bool {
    let codes = [Errno::AGAIN, Errno::NOMEM, Errno::MFILE, Errno::NFILE];
    error
        .raw_os_error()
        .is_some_and(|code| codes.iter().any(|known| known.raw_os_error() == code))
}
