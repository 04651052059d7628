//! The data directory that every private server starts from: made once for each server version,
//! then copied, which takes milliseconds where making it takes seconds.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::programs;

/// Raise it when the way templates are made changes.
const GENERATION: u32 = 1;

/// Which of the two families a server binary belongs to; they differ in their options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// MariaDB, from 10.6.
    MariaDb,
    /// MySQL, from 8.0.
    MySql,
}

/// A server program on this machine.
#[derive(Clone, Debug)]
pub struct ServerProgram {
    /// Its path.
    pub path: PathBuf,
    /// Its family.
    pub flavour: Flavour,
    /// What `--version` prints.
    pub version: String,
}

impl ServerProgram {
    /// The server named by `JOBD_TEST_MYSQLD`, else the machine's MariaDB.
    ///
    /// # Panics
    /// When there is none, with what to do.
    pub fn find() -> Self {
        let path = std::env::var_os("JOBD_TEST_MYSQLD")
            .map(PathBuf::from)
            .or_else(|| {
                [
                    "/usr/sbin/mariadbd",
                    "/usr/bin/mariadbd",
                    "/usr/local/sbin/mariadbd",
                ]
                .into_iter()
                .map(PathBuf::from)
                .find(|path| path.exists())
            })
            .expect("mariadbd: install mariadb-server, or set JOBD_TEST_MYSQLD=/path/to/mysqld");
        let output = Command::new(&path)
            .args(["--no-defaults", "--version"])
            .output()
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", path.display()));
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(!version.is_empty(), "{} names no version", path.display());
        let flavour = if version.contains("MariaDB") {
            Flavour::MariaDb
        } else {
            Flavour::MySql
        };
        Self {
            path,
            flavour,
            version,
        }
    }

    /// Whether this process needs `--user=root` to be let in.
    pub fn user_option() -> Option<&'static str> {
        rustix::process::geteuid()
            .is_root()
            .then_some("--user=root")
    }
}

/// The template for `program`, made now if this is the first time. Safe to call from many
/// processes at once.
pub fn folder(program: &ServerProgram) -> PathBuf {
    let templates = programs::state_folder().join("templates");
    std::fs::create_dir_all(&templates).expect("folder for templates");
    let name: String = program
        .version
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let folder = templates.join(format!("{GENERATION}{name}"));
    let lock = File::create(folder.with_extension("lock")).expect("template lock");
    lock.lock().expect("lock the templates");
    if !folder.exists() {
        let unfinished = folder.with_extension("new");
        let _ = std::fs::remove_dir_all(&unfinished);
        initialise(program, &unfinished);
        std::fs::rename(&unfinished, &folder).expect("put the template in place");
    }
    folder
}

fn initialise(program: &ServerProgram, folder: &Path) {
    let datadir = format!("--datadir={}", folder.display());
    let mut command = match program.flavour {
        Flavour::MariaDb => {
            let mut command = Command::new("mariadb-install-db");
            command.args([
                "--no-defaults",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                &datadir,
            ]);
            command
        }
        Flavour::MySql => {
            let mut command = Command::new(&program.path);
            command.args(["--no-defaults", "--initialize-insecure", &datadir]);
            command
        }
    };
    command.args(ServerProgram::user_option());
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("start the making of a data directory");
    assert!(
        output.status.success(),
        "no data directory for {}: {}\n{}",
        program.version,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}
