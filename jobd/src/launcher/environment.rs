//! A job's environment, and where its program is. Built once per configuration.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::reporter;
use crate::marked;

/// What the service manager tells jobd and nobody else (systemd.exec(5), sd_notify(3),
/// sd_listen_fds(3)): a job that found these would report jobd's readiness or write to its journal
/// stream.
const SERVICE_MANAGERS: [&str; 14] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "CREDENTIALS_DIRECTORY",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "SYSTEMD_EXEC_PID",
    "MAINPID",
    "MANAGERPID",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
];

/// Variables that tell a job what it is.
const OF_EACH_JOB: [&str; 6] = [
    "JOBD_ID",
    "JOBD_TARGET",
    "JOBD_ATTEMPT",
    marked::WORKER,
    marked::CLAIM,
    reporter::VARIABLE,
];

/// The program search path of a job whose environment names none.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Variables that every job gets; `JOBD_ID` and its like come on top.
#[derive(Clone, Debug)]
pub(super) struct Environment {
    variables: BTreeMap<OsString, OsString>,
    /// The same without what each job has of its own.
    shared: Vec<CString>,
    /// The program that was found first, which is that of every job as a rule, and its file.
    found: OnceLock<(String, PathBuf)>,
}

impl Environment {
    /// `inherited` less the service manager's variables, with `own` (the user's, `launcher.env.*`) on top.
    pub(super) fn new<'a>(
        inherited: impl Iterator<Item = (OsString, OsString)>,
        own: impl IntoIterator<Item = &'a (String, String)>,
    ) -> Self {
        let mut variables: BTreeMap<_, _> = inherited
            .filter(|(name, _)| !SERVICE_MANAGERS.iter().any(|manager| name == manager))
            .collect();
        variables.extend(
            own.into_iter()
                .map(|(name, value)| (name.into(), value.into())),
        );
        let shared = variables.iter().filter(|(name, _)| {
            let name = name.as_os_str();
            !OF_EACH_JOB.iter().any(|own| name == *own)
        });
        let shared = shared.filter_map(|(name, value)| {
            CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
        });
        Self {
            shared: shared.collect(),
            found: OnceLock::new(),
            variables,
        }
    }

    /// What all jobs get, as a program takes it. A value with a zero in it, which none can take, is left out.
    pub(super) fn shared(&self) -> &[CString] {
        &self.shared
    }

    /// The file that a program's name means to a job. `None` where no directory of PATH holds it. Looked for once, as shells do
    /// it, and again when it is gone.
    pub(super) fn find(&self, program: &str) -> Option<Cow<'_, Path>> {
        if program.contains('/') {
            return Some(PathBuf::from(program).into());
        }
        if let Some((name, file)) = self.found.get()
            && name == program
            && is_executable(file)
        {
            return Some(file.into());
        }
        let file = self.search(program)?;
        // Another one stands there where jobs have programs of their own.
        let _ = self.found.set((program.to_owned(), file.clone()));
        Some(file.into())
    }

    fn search(&self, program: &str) -> Option<PathBuf> {
        let path = self
            .variables
            .get(OsStr::new("PATH"))
            .map_or(OsStr::new(DEFAULT_PATH), OsString::as_os_str);
        std::env::split_paths(path)
            .map(|directory| directory.join(program))
            .find(|file| is_executable(file))
    }
}

fn is_executable(file: &Path) -> bool {
    file.metadata()
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn jobs_get_their_own_variables_and_not_the_service_managers() {
        let inherited = [
            ("NOTIFY_SOCKET", "/run/x"),
            ("JOBD_ID", "that of the job that we are"),
            ("LANG", "C"),
            ("PATH", "/nowhere"),
        ];
        let inherited = inherited
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()));
        let own = [
            ("LANG".to_owned(), "de_DE.UTF-8".to_owned()),
            ("PATH".to_owned(), "/nowhere:/bin".to_owned()),
        ];
        let environment = Environment::new(inherited, &own);
        assert_eq!(
            environment.shared(),
            [c"LANG=de_DE.UTF-8", c"PATH=/nowhere:/bin"].map(CString::from)
        );
        assert_eq!(environment.find("sh").unwrap(), Path::new("/bin/sh"));
        assert_eq!(environment.find("no-such-program"), None);
        assert_eq!(environment.find("./x").unwrap(), Path::new("./x"));
    }

    #[test]
    fn a_program_is_looked_for_once_and_again_when_it_is_gone() {
        let folders = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let [first, second] = folders.each_ref().map(|folder| folder.path().join("run"));
        let path = std::env::join_paths(folders.iter().map(TempDir::path)).unwrap();
        let environment = Environment::new([("PATH".into(), path)].into_iter(), &[]);
        let install = |file: &Path| {
            fs::write(file, "").unwrap();
            fs::set_permissions(file, Permissions::from_mode(0o755)).unwrap();
        };
        assert_eq!(environment.find("run"), None);
        install(&second);
        assert_eq!(environment.find("run").unwrap(), second);
        install(&first);
        assert_eq!(environment.find("run").unwrap(), second);
        fs::remove_file(&second).unwrap();
        assert_eq!(environment.find("run").unwrap(), first);
    }
}
