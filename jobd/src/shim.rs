//! The shim: what a process is made before the job's program begins in it, by a `jobd --launch` that becomes that program.
//!
//! A target that asks for a user, a umask, a niceness or limits gets it between jobd and its program. All others
//! are started without it, as fast as ever. It is one thread, reads no config, and says what went wrong on a pipe that is
//! closed when the program begins, so that no program can speak for it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use nix::unistd::{Gid, Group, Uid, User, close, getgrouplist, setgid, setgroups, setuid};
use rustix::fs::Mode;
use rustix::io::{ioctl_fionbio, read};
use rustix::process::{Resource, Rlimit, setpriority_process, setrlimit, umask};

/// Limits by the names of setrlimit(2), without `RLIMIT_`.
const LIMITS: [(&str, Resource); 16] = [
    ("as", Resource::As),
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

/// A soft and a hard limit; `None` for unlimited.
type Limit = (Option<u64>, Option<u64>);

/// What a target asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    /// `user`, as it was written.
    user: Option<String>,
    /// `group`, as it was written.
    group: Option<String>,
    /// What these two mean.
    owner: Option<Owner>,
    /// `umask`.
    pub umask: Option<u32>,
    /// `nice`.
    pub nice: Option<i32>,
    /// `limit.*`.
    limits: BTreeMap<&'static str, Limit>,
}

/// Whose process it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    uid: Option<u32>,
    gid: u32,
    /// All groups, the primary one too.
    groups: Vec<u32>,
    /// What login(1) tells of the user: `USER`, `LOGNAME`, `HOME`, `SHELL`.
    variables: Vec<(String, String)>,
}

impl Owner {
    /// Without a group it is the user's own.
    fn find(user: Option<&str>, group: Option<&str>) -> Result<Option<Self>, String> {
        let group = group.map(find_group).transpose()?;
        let Some(name) = user else {
            return Ok(group.map(|gid| Self {
                uid: None,
                gid,
                groups: vec![gid],
                variables: Vec::new(),
            }));
        };
        let user = find_user(name)?;
        let gid = group.unwrap_or(user.gid.as_raw());
        let c_name = CString::new(user.name.clone()).map_err(|error| format!("user: {error}"))?;
        let groups = getgrouplist(&c_name, Gid::from_raw(gid))
            .map_err(|error| format!("user: cannot read the groups of {name}: {error}"))?;
        let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
        let variables = [
            ("USER", user.name.clone()),
            ("LOGNAME", user.name),
            ("HOME", text(&user.dir)),
            ("SHELL", text(&user.shell)),
        ];
        Ok(Some(Self {
            uid: Some(user.uid.as_raw()),
            gid,
            groups: groups.into_iter().map(Gid::as_raw).collect(),
            variables: variables
                .map(|(name, value)| (name.to_owned(), value))
                .into(),
        }))
    }
}

fn find_user(name: &str) -> Result<User, String> {
    let found = match name.parse() {
        Ok(number) => User::from_uid(Uid::from_raw(number)),
        Err(_) => User::from_name(name),
    };
    match found {
        Ok(Some(user)) => Ok(user),
        Ok(None) => Err(format!("user: there is no user {name}")),
        Err(error) => Err(format!("user: cannot look {name} up: {error}")),
    }
}

fn find_group(name: &str) -> Result<u32, String> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(format!("group: there is no group {name}")),
        Err(error) => Err(format!("group: cannot look {name} up: {error}")),
    }
}

/// The names that limits have.
pub fn limit_names() -> impl Iterator<Item = &'static str> {
    LIMITS.iter().map(|(name, _)| *name)
}

impl Setup {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Sets what is given, and looks both up, by name or number. An error says what is wrong with which key.
    pub fn set_owner(&mut self, user: Option<String>, group: Option<String>) -> Result<(), String> {
        self.user = user.or(self.user.take());
        self.group = group.or(self.group.take());
        self.owner = Owner::find(self.user.as_deref(), self.group.as_deref())?;
        Ok(())
    }

    /// What the environment says of the user.
    pub fn variables(&self) -> impl Iterator<Item = &(String, String)> {
        self.owner.iter().flat_map(|owner| &owner.variables)
    }

    /// Sets a limit to `SOFT` or `SOFT:HARD`, each a number that `number` reads or `unlimited`. `false` where it cannot
    /// be read.
    pub fn set_limit(
        &mut self,
        name: &str,
        value: &str,
        number: impl Fn(&str) -> Option<u64>,
    ) -> bool {
        let Some((name, _)) = LIMITS.iter().find(|(known, _)| *known == name) else {
            return false;
        };
        let part = |text: &str| match text.trim() {
            "unlimited" => Some(None),
            text => number(text).map(Some),
        };
        let (soft, hard) = value.split_once(':').unwrap_or((value, value));
        let (Some(soft), Some(hard)) = (part(soft), part(hard)) else {
            return false;
        };
        let fits = hard.is_none_or(|hard| soft.is_some_and(|soft| soft <= hard));
        if fits {
            self.limits.insert(name, (soft, hard));
        }
        fits
    }

    /// As the argument of `--launch`.
    pub fn argument(&self) -> String {
        let mut text = String::new();
        let mut say = |what: &str, value: &str| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{what}={value},");
        };
        for (name, (soft, hard)) in &self.limits {
            let part = |limit: &Option<u64>| {
                limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
            };
            say(
                &format!("limit.{name}"),
                &format!("{}:{}", part(soft), part(hard)),
            );
        }
        if let Some(nice) = self.nice {
            say("nice", &nice.to_string());
        }
        if let Some(mask) = self.umask {
            say("umask", &mask.to_string());
        }
        if let Some(owner) = &self.owner {
            let groups: Vec<String> = owner.groups.iter().map(ToString::to_string).collect();
            say("groups", &groups.join(":"));
            say("group", &owner.gid.to_string());
            if let Some(uid) = owner.uid {
                say("user", &uid.to_string());
            }
        }
        text
    }
}

/// The descriptor on which jobd is told why the job's program did not begin.
const TELLER: RawFd = 4;

/// The exit code of a shim that had no room for the program, as the user has too many processes (EAGAIN of execve(2)): it may
/// be tried again.
pub const NO_ROOM: u8 = 75;

/// Bytes of what is told that count.
const MAX_FAILURE: usize = 4 << 10;

/// Why a process that has ended never became its program, if that was it; `pipe` is where it was to tell.
pub fn failure(pipe: &OwnedFd) -> Option<String> {
    // It has told it by now. A process that is just being started may hold a copy of the other end.
    ioctl_fionbio(pipe, true).ok()?;
    let mut text = [0; MAX_FAILURE];
    let length = read(pipe, &mut text).ok()?;
    (length > 0).then(|| String::from_utf8_lossy(&text[..length]).into_owned())
}

/// Becomes the job's program, made what `setup` says.
pub fn run(setup: &str, command: &[OsString]) -> ExitCode {
    let teller = teller();
    let Err((code, why)) = become_it(setup, command);
    let told = teller.and_then(|mut teller| teller.write_all(why.as_bytes()));
    if told.is_err() {
        eprintln!("jobd --launch: {why}");
    }
    ExitCode::from(code)
}

/// The same file anew, as files of std are closed when a program begins.
fn teller() -> io::Result<File> {
    let path = format!("/proc/self/fd/{TELLER}");
    let teller = File::options().write(true).open(path);
    close(TELLER)?;
    teller
}

fn become_it(setup: &str, command: &[OsString]) -> Result<Infallible, (u8, String)> {
    for (what, value) in setup.split(',').filter_map(|part| part.split_once('=')) {
        apply(what, value).map_err(|error| (126, format!("{what}: {error}")))?;
    }
    let Some((program, arguments)) = command.split_first() else {
        return Err((126, "no program".to_owned()));
    };
    let error = Command::new(program).args(arguments).exec();
    let code = match error.kind() {
        ErrorKind::NotFound => 127,
        ErrorKind::WouldBlock => NO_ROOM,
        _ => 126,
    };
    Err((code, format!("{}: {error}", program.display())))
}

/// In the order of the argument: what only root may do comes before root goes.
fn apply(what: &str, value: &str) -> io::Result<()> {
    let unreadable = || io::Error::other(format!("cannot read {value}"));
    let number = |text: &str| text.parse::<u32>().map_err(|_| unreadable());
    match what {
        "nice" => {
            let nice = value.parse().map_err(|_| unreadable())?;
            setpriority_process(None, nice)?;
        }
        "umask" => drop(umask(Mode::from_raw_mode(number(value)?))),
        "groups" => {
            let groups: io::Result<Vec<u32>> = value.split(':').map(number).collect();
            let groups: Vec<Gid> = groups?.into_iter().map(Gid::from_raw).collect();
            setgroups(&groups)?;
        }
        "group" => setgid(Gid::from_raw(number(value)?))?,
        "user" => setuid(Uid::from_raw(number(value)?))?,
        limit => {
            let name = limit.strip_prefix("limit.").unwrap_or_default();
            let known = LIMITS.iter().find(|(known, _)| *known == name);
            let (_, resource) = known.ok_or_else(|| io::Error::other("is not known"))?;
            let (soft, hard) = value.split_once(':').ok_or_else(unreadable)?;
            setrlimit(
                *resource,
                Rlimit {
                    current: soft.parse().ok(),
                    maximum: hard.parse().ok(),
                },
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_soft_and_hard() {
        let mut setup = Setup::default();
        let number = |text: &str| text.parse().ok();
        for (name, value) in [
            ("nofile", "10"),
            ("core", "0:unlimited"),
            ("as", "unlimited"),
        ] {
            assert!(setup.set_limit(name, value, number), "{name} {value}");
        }
        setup.nice = Some(-3);
        setup.umask = Some(0o27);
        assert_eq!(
            setup.argument(),
            "limit.as=unlimited:unlimited,limit.core=0:unlimited,limit.nofile=10:10,nice=-3,umask=23,"
        );
        for (name, value) in [
            ("nofile", "9:8"),
            ("nofile", "unlimited:8"),
            ("nofile", "x"),
            ("x", "1"),
        ] {
            assert!(!setup.set_limit(name, value, number), "{name} {value}");
        }
    }
}
