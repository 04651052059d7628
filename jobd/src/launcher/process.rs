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

#![expect(unsafe_code, reason = "see the module")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ChildStderr, ChildStdin, ChildStdout, ExitStatus};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use rustix::io::Errno;
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

/// What is to be started.
#[derive(Debug)]
pub(super) struct Program<'a> {
    /// Its file, found without PATH.
    pub(super) file: CString,
    pub(super) argv: Vec<CString>,
    /// Its environment: what all jobs get, and its own.
    pub(super) variables: (&'a [CString], Vec<CString>),
    /// Its working directory, if not jobd's.
    pub(super) cwd: Option<&'a CStr>,
    /// Whether its standard input is a pipe, and not jobd's.
    pub(super) fed: bool,
    /// What it gets as its descriptor 3, which this is not here.
    pub(super) reports: Option<OwnedFd>,
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
    /// or execve(2), and leaves no process.
    pub(super) fn spawn(&self) -> io::Result<Spawned> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC);
        let (its_stdin, stdin) = if self.fed { Some(pipe()?) } else { None }.unzip();
        let (stdout, its_stdout) = pipe()?;
        let (stderr, its_stderr) = pipe()?;
        let (shared, own) = &self.variables;
        let argv = pointers(&self.argv);
        let variables = pointers(shared.iter().chain(own));
        let child = Plan {
            files: [
                its_stdin.as_ref(),
                Some(&its_stdout),
                Some(&its_stderr),
                self.reports.as_ref(),
            ]
            .map(|file| file.map(OwnedFd::as_raw_fd)),
            cwd: self.cwd.map_or(null(), CStr::as_ptr),
            file: self.file.as_ptr(),
            argv: argv.as_ptr(),
            variables: variables.as_ptr(),
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
    /// Where its standard files, and the one behind them, come from, if not from jobd's.
    files: [Option<RawFd>; 4],
    /// Null to stay.
    cwd: *const c_char,
    file: *const c_char,
    argv: *const *const c_char,
    variables: *const *const c_char,
    /// Why it has no program, as `errno`.
    failure: AtomicI32,
}

impl Plan {
    fn start(&self) -> io::Result<Child> {
        // They are closed when a program begins, unless they are one of its standard files already. The runtime has
        // opened those before `main`, so a pipe is none of them.
        assert!(self.files.iter().flatten().all(|file| *file > 2) && self.files[3] != Some(3));
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
            for (place, file) in (0..).zip(self.files) {
                if let Some(file) = file {
                    done(libc::dup2(file, place))?;
                }
            }
            if !self.cwd.is_null() {
                done(libc::chdir(self.cwd))?;
            }
            let none = &raw const default.sa_mask;
            done(libc::sigprocmask(libc::SIG_SETMASK, none, null_mut()))?;
            done(libc::execve(self.file, self.argv, self.variables))
        }
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
            cwd: None,
            fed: false,
            reports: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read as _, Write as _};

    use jobd_proto::daemon::signals::{Shutdown, UpkeepSignals};
    use rustix::process::{WaitOptions, waitpid};
    use tokio::signal::unix::{SignalKind, signal};

    use super::*;

    fn output(program: &Program<'_>) -> (String, ExitStatus) {
        let mut spawned = program.spawn().unwrap();
        drop(spawned.stdin.take());
        let mut output = String::new();
        spawned.stdout.read_to_string(&mut output).unwrap();
        spawned.stderr.read_to_string(&mut output).unwrap();
        let (status, _) = spawned.child.reap(0).unwrap().unwrap();
        (output, status)
    }

    /// The signals of a mask of /proc/PID/status.
    fn mask(status: &str, name: &str) -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
    }

    #[tokio::test]
    async fn a_program_begins_with_no_signal_blocked_and_none_ignored_but_what_jobd_was_started_with()
     {
        let _caught = (Shutdown::on_signals(), UpkeepSignals::new());
        let _caught = signal(SignalKind::child()).unwrap();
        let ours = fs::read_to_string("/proc/thread-self/status").unwrap();
        let known = CAUGHT
            .iter()
            .fold(0, |known, signal| known | 1_u64 << (signal - 1));
        // Beyond them are those that the C library keeps to itself.
        let standard = (1_u64 << 31) - 1;
        assert_eq!(mask(&ours, "SigCgt:") & standard & !known, 0, "{ours}");
        let (its, _) = output(&Program::shell("exec cat /proc/self/status"));
        assert_eq!(mask(&its, "SigBlk:"), 0, "{its}");
        assert_eq!(
            mask(&its, "SigIgn:"),
            mask(&ours, "SigIgn:") & !known,
            "{its}"
        );
        let after = fs::read_to_string("/proc/thread-self/status").unwrap();
        assert_eq!(mask(&after, "SigBlk:"), mask(&ours, "SigBlk:"));
    }

    #[test]
    fn a_program_gets_its_words_its_variables_its_folder_and_a_group() {
        let mut program =
            Program::shell("env; pwd; echo \"<$0><$1>$#\" >&2; ps -o pgid= -p $$; echo $$");
        program.argv.extend([c"a b".into(), c"".into()]);
        let shared = [c"A=1".into(), c"B=".into()];
        program.variables.0 = &shared;
        program.cwd = Some(c"/");
        let (output, status) = output(&program);
        assert!(status.success());
        let lines: Vec<&str> = output.lines().map(str::trim).collect();
        for expected in ["A=1", "B=", "PATH=/usr/bin:/bin", "/", "<a b><>1"] {
            assert!(lines.contains(&expected), "{expected}: {output}");
        }
        let group = lines.iter().filter(|line| line.parse::<u32>().is_ok());
        let group: Vec<_> = group.collect();
        assert_eq!(group.len(), 2, "{output}");
        assert_eq!(group[0], group[1], "{output}");
    }

    #[test]
    fn a_program_reads_what_it_is_fed() {
        let mut program = Program::shell("cat; exit 3");
        program.fed = true;
        let mut spawned = program.spawn().unwrap();
        let mut stdin = spawned.stdin.take().unwrap();
        stdin.write_all(b"so much").unwrap();
        drop(stdin);
        let mut output = String::new();
        spawned.stdout.read_to_string(&mut output).unwrap();
        assert_eq!(output, "so much");
        let (status, _) = spawned.child.reap(0).unwrap().unwrap();
        assert_eq!(status.code(), Some(3));
        let again = spawned.child.try_wait().unwrap();
        assert_eq!(again.map(|(status, _)| status), Some(status));
    }

    #[test]
    fn what_cannot_begin_is_an_error_and_leaves_no_process_and_no_file() {
        let cases: [(&CStr, Option<&CStr>, Errno); 4] = [
            (c"/no/such/file", None, Errno::NOENT),
            (c"/etc/passwd", None, Errno::ACCESS),
            (c"/bin", None, Errno::ACCESS),
            (c"/bin/true", Some(c"/no/such/folder"), Errno::NOENT),
        ];
        let files = || fs::read_dir("/proc/self/fd").unwrap().count();
        let before = files();
        for (file, cwd, expected) in cases {
            let mut program = Program::shell("");
            (program.file, program.cwd) = (file.into(), cwd);
            let error = program.spawn().unwrap_err();
            assert_eq!(
                error.raw_os_error(),
                Some(expected.raw_os_error()),
                "{file:?}"
            );
            let left = waitpid(None, WaitOptions::NOHANG).map(|_| ());
            assert_eq!(left, Err(Errno::CHILD), "{file:?}");
        }
        assert_eq!(files(), before);
    }
}
