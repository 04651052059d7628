//! Starts a program in a process of its own, as posix_spawn(3) does, at less cost, and reaps it.
//!
//! # Why there is `unsafe` here, and nowhere else
//!
//! To start processes is what a worker does most of its life, and what is safe to call ends in posix_spawn(3) or in
//! fork(2). glibc's posix_spawn maps and unmaps a stack for each process, asks in the child for each of 64 signals how
//! it is handled, and in the parent six times for a limit; with what the standard library does to prepare it, that is a tenth
//! of the CPU time of a short process (docs/PERFORMANCE.md). fork copies the page tables, which costs far more. Here the
//! kernel is asked for the same thing as by posix_spawn, a child that shares the memory while its parent waits
//! (`CLONE_VM | CLONE_VFORK`, clone(2)), and that makes the same calls in the same order, without those.
//!
//! # Why it is sound
//!
//! - The parent's thread does not run before the child has its program or is gone. So all that the child is
//!   given, its stack too, outlives its use, and the child may write where the parent reads afterwards.
//! - The other threads run on, so the child takes no lock and allocates nothing: it makes system calls, by functions that may
//!   be called in a signal handler (signal-safety(7)), and cannot panic.
//! - No handler of jobd's runs in the child: all signals are blocked from before it begins until those that jobd
//!   catches ([`CAUGHT`]) have their default again. A test compares the list with what a worker catches.
//!   What the C library catches and does not let be blocked is sent by setuid(2) and pthread_cancel(3) alone, which jobd
//!   calls nowhere but in a shim, which starts nothing.
//! - Its stack is as large as the one that glibc gives it for the same calls.
//!
//! # What a program inherits
//!
//! Its standard files, what it is given besides, and no other descriptor. Where a file system hangs a child may take
//! long to its program, and would keep the pipes of other jobs open; and what jobd itself was started with (a lock, say) is no
//! business of its jobs.

#![expect(unsafe_code, reason = "see the module")]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ChildStderr, ChildStdin, ChildStdout, ExitStatus};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

/// Signals that jobd handles or, with SIGPIPE, ignores: a program begins with their default. Others are as jobd found them.
const CAUGHT: [c_int; 8] = [
    libc::SIGPIPE,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGCHLD,
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGUSR1,
];

/// Bytes of the stack on which the child makes its system calls.
const STACK: usize = 32 << 10;

/// How many descriptors a program may begin with: its standard files, and the two of [`Program`].
const PLACES: usize = 5;

/// What is to be started.
#[derive(Debug)]
pub(super) struct Program<'a> {
    /// Its file, found without PATH.
    pub(super) file: CString,
    pub(super) argv: Vec<CString>,
    /// Its environment: what all jobs get, and its own.
    pub(super) variables: (&'a [CString], Vec<CString>),
    /// The soft and the hard limit on file locks that mark it ([`marked`](crate::marked)).
    pub(super) limits: [u64; 2],
    /// Its working directory, if not jobd's.
    pub(super) cwd: Option<&'a CStr>,
    /// Whether its standard input is a pipe, and not jobd's.
    pub(super) fed: bool,
    /// What it gets as its descriptor 3: an end of a [`pipe_to_give`].
    pub(super) reports: Option<OwnedFd>,
    /// The same for 4.
    pub(super) teller: Option<OwnedFd>,
}

/// A pipe whose second end is for a program. That does not stand where it, or another, is to be there.
pub(super) fn pipe_to_give() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, its) = pipe_with(PipeFlags::CLOEXEC)?;
    let behind = RawFd::try_from(PLACES).expect("a small number");
    let its = if its.as_raw_fd() < behind {
        fcntl_dupfd_cloexec(&its, behind)?
    } else {
        its
    };
    Ok((ours, its))
}

/// Lets the processes that are started wait until they are reaped, also where whoever has started jobd ignored SIGCHLD:
/// that outlives execve(2), and nobody would learn how they have ended (wait(2)). To be called before anything is started.
///
/// # Errors
/// That of signal(2).
pub fn keep_children() -> io::Result<()> {
    // SAFETY: no handler is set, and there is none yet that would be lost.
    match unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// A process that leads a group of its own and is not reaped: until then its number is nobody else's.
#[derive(Debug)]
pub(super) struct Child {
    pid: Pid,
    /// How it ended, once it is reaped.
    over: Option<(ExitStatus, Used)>,
}

/// What a process, and those of its descendants that were waited for, have used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Used {
    /// In user and kernel mode.
    pub(super) cpu: Duration,
    /// What the largest of them had resident at its peak.
    pub(super) peak_kib: u64,
}

/// A process that has its program, and its pipes.
#[derive(Debug)]
pub(super) struct Spawned {
    pub(super) child: Child,
    pub(super) stdin: Option<ChildStdin>,
    pub(super) stdout: ChildStdout,
    pub(super) stderr: ChildStderr,
}

impl Program<'_> {
    /// Starts it with an empty signal mask. Waits until it has begun. An error is that of pipe(2), clone(2), chdir(2)
    /// or execve(2), and leaves no process. What it was given besides is closed on our side.
    pub(super) fn spawn(&mut self) -> io::Result<Spawned> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC);
        let (its_stdin, stdin) = if self.fed { Some(pipe()?) } else { None }.unzip();
        let (stdout, its_stdout) = pipe()?;
        let (stderr, its_stderr) = pipe()?;
        let (reports, teller) = (self.reports.take(), self.teller.take());
        let (shared, own) = &self.variables;
        let argv = pointers(&self.argv);
        // Its own first: who looks for it by these does not read for ever.
        let variables = pointers(own.iter().chain(*shared));
        let files = [
            its_stdin.as_ref(),
            Some(&its_stdout),
            Some(&its_stderr),
            reports.as_ref(),
            teller.as_ref(),
        ];
        let child = Plan {
            files: files.map(|file| file.map(OwnedFd::as_raw_fd)),
            cwd: self.cwd.map_or(null(), CStr::as_ptr),
            file: self.file.as_ptr(),
            argv: argv.as_ptr(),
            variables: variables.as_ptr(),
            limits: self.limits,
            failure: AtomicI32::new(0),
        }
        .start()?;
        Ok(Spawned {
            child,
            stdin: stdin.map(ChildStdin::from),
            stdout: stdout.into(),
            stderr: stderr.into(),
        })
    }
}

impl Child {
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// How it has ended and what it has used, if it has ended. Reaps it. An error: it is not ours to wait for.
    pub(super) fn try_wait(&mut self) -> io::Result<Option<(ExitStatus, Used)>> {
        self.reap(libc::WNOHANG)
    }

    fn reap(&mut self, options: c_int) -> io::Result<Option<(ExitStatus, Used)>> {
        if self.over.is_some() {
            return Ok(self.over);
        }
        let mut status = 0;
        let mut used = MaybeUninit::<libc::rusage>::zeroed();
        let pid = self.pid.as_raw_nonzero().get();
        // SAFETY: both places are good for what is written to them.
        let found = unsafe { libc::wait4(pid, &raw mut status, options, used.as_mut_ptr()) };
        match found {
            -1 => Err(io::Error::last_os_error()),
            0 => Ok(None),
            _ => {
                // SAFETY: numbers, which are zero where nothing was written.
                let used = Used::of(unsafe { used.assume_init_ref() });
                self.over = Some((ExitStatus::from_raw(status), used));
                Ok(self.over)
            }
        }
    }
}

impl Used {
    fn of(used: &libc::rusage) -> Self {
        let time = |time: libc::timeval| {
            let seconds = Duration::from_secs(time.tv_sec.try_into().unwrap_or(0));
            seconds + Duration::from_micros(time.tv_usec.try_into().unwrap_or(0))
        };
        Self {
            cpu: time(used.ru_utime) + time(used.ru_stime),
            peak_kib: used.ru_maxrss.try_into().unwrap_or(0),
        }
    }
}

/// A list of C strings as execve(2) takes it; good for as long as they are.
fn pointers<'a>(strings: impl IntoIterator<Item = &'a CString>) -> Vec<*const c_char> {
    let strings = strings.into_iter().map(|string| string.as_ptr());
    strings.chain([null()]).collect()
}

/// All that the child needs. Its pointers are good, and its lists end with a null, as long as it is in use.
struct Plan {
    /// Where its standard files come from, if not from jobd's, and what it gets besides.
    files: [Option<RawFd>; PLACES],
    /// Null to stay.
    cwd: *const c_char,
    file: *const c_char,
    argv: *const *const c_char,
    variables: *const *const c_char,
    limits: [u64; 2],
    /// Why it has no program, as `errno`.
    failure: AtomicI32,
}

impl Plan {
    fn start(&self) -> io::Result<Child> {
        // What is in its place already would be closed when the program begins. The runtime has opened the standard files
        // before `main`, so a pipe is none of them; and those come first, so that one in the place of another is used before.
        let (standard, given) = self.files.split_at(3);
        assert!(standard.iter().flatten().all(|file| *file > 2));
        assert!(given.iter().flatten().all(|file| *file > 4));
        let mut stack = Box::<[u128; STACK / size_of::<u128>()]>::new_uninit();
        // SAFETY: one past the end of the array, aligned as its items are; stacks grow downwards wherever this is built.
        let top = unsafe { stack.as_mut_ptr().add(1) };
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let plan: *const Self = self;
        let before = block_signals()?;
        // SAFETY: see the module. `stack` and `self` live until the child has its program or is gone, as this thread
        // goes on only then, and the child does what may be done in memory that is shared.
        let pid = unsafe { libc::clone(begin, top.cast(), flags, plan.cast_mut().cast()) };
        let refused = io::Error::last_os_error();
        restore_signals(&before);
        let Some(pid) = Pid::from_raw(pid.max(0)) else {
            return Err(refused);
        };
        let mut child = Child { pid, over: None };
        match self.failure.load(Ordering::Relaxed) {
            0 => Ok(child),
            failure => {
                child.reap(0)?;
                Err(io::Error::from_raw_os_error(failure))
            }
        }
    }

    /// In the child: returns only if it cannot have its program.
    ///
    /// # Safety
    ///
    /// To be called in the child alone, with all signals blocked.
    unsafe fn carry_out(&self) -> Result<(), Errno> {
        let done = |result: c_int| match result {
            -1 => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
            _ => Ok(()),
        };
        // SAFETY: all zeros is a set without signals and an action by default. What is passed is on this stack, or good
        // by what the fields say.
        unsafe {
            let default: libc::sigaction = MaybeUninit::zeroed().assume_init();
            for signal in CAUGHT {
                done(libc::sigaction(signal, &raw const default, null_mut()))?;
            }
            done(libc::setpgid(0, 0))?;
            mark(self.limits);
            let mut rest = 3;
            for (place, file) in (0..).zip(self.files) {
                if let Some(file) = file {
                    done(libc::dup2(file, place))?;
                    close(rest..place);
                    rest = rest.max(place + 1);
                }
            }
            close(rest..c_int::MAX);
            if !self.cwd.is_null() {
                done(libc::chdir(self.cwd))?;
            }
            let none = &raw const default.sa_mask;
            done(libc::sigprocmask(libc::SIG_SETMASK, none, null_mut()))?;
            done(libc::execve(self.file, self.argv, self.variables))
        }
    }
}

/// Sets the limits on file locks, softly and hard. Where jobd itself has been given a lower one, the environment alone marks
/// its jobs.
///
/// # Safety
///
/// To be called in a child.
unsafe fn mark([rlim_cur, rlim_max]: [u64; 2]) {
    let limits = libc::rlimit64 { rlim_cur, rlim_max };
    let before = null_mut::<libc::rlimit64>();
    // SAFETY: what is passed is on this stack.
    unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            libc::RLIMIT_LOCKS,
            &raw const limits,
            before,
        )
    };
}

/// Closes descriptors, where Linux can do it at once (5.9): elsewhere those that a program must not have are closed when it
/// begins.
///
/// # Safety
///
/// To be called in a child that has descriptors of its own.
unsafe fn close(descriptors: Range<c_int>) {
    if let (Ok(first), Ok(end)) = (
        c_uint::try_from(descriptors.start),
        c_uint::try_from(descriptors.end),
    ) && first < end
    {
        // SAFETY: nothing is passed but numbers.
        unsafe { libc::syscall(libc::SYS_close_range, first, end - 1, 0_u32) };
    }
}

/// What the child does with its [`Plan`].
extern "C" fn begin(plan: *mut c_void) -> c_int {
    // SAFETY: `Plan::start` gives us one that outlives this, with all signals blocked; nobody changes it meanwhile.
    let plan: &Plan = unsafe { &*plan.cast() };
    // SAFETY: this is the child.
    let failure = unsafe { plan.carry_out() };
    if let Err(errno) = failure {
        plan.failure.store(errno.raw_os_error(), Ordering::Relaxed);
    }
    // SAFETY: ends the child without running anything of the parent's.
    unsafe { libc::_exit(127) }
}

/// Blocks all signals for this thread; returns which were.
fn block_signals() -> io::Result<libc::sigset_t> {
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: the first call fills `all`, the second `before`.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        match libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) {
            0 => Ok(before.assume_init()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

fn restore_signals(before: &libc::sigset_t) {
    // SAFETY: a set that was filled by the same call. It cannot fail with one that was in force.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, null_mut()) };
}

#[cfg(test)]
impl Program<'_> {
    /// A line for the shell.
    pub(super) fn shell(line: &str) -> Self {
        let line = CString::new(line).unwrap();
        Self {
            file: c"/bin/sh".into(),
            argv: vec![c"sh".into(), c"-c".into(), line],
            variables: (&[], vec![c"PATH=/usr/bin:/bin".into()]),
            limits: [u64::MAX; 2],
            cwd: None,
            fed: false,
            reports: None,
            teller: None,
        }
    }
}

#[cfg(test)]
mod tests;
