//! A private database server on 127.0.0.1 and on a unix socket, gone when the test is.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use tokio::sync::OnceCell;

use crate::database::Database;
use crate::process::Process;
use crate::scratch::Scratch;
use crate::template::{self, Flavour, ServerProgram};
use crate::wait::until;
use crate::{ports, programs};

/// The account that tests and programs use; it may do everything.
pub const USER: &str = "jobd";
/// Its password.
pub const PASSWORD: &str = "not very secret";

/// Names the server that a whole test run shares, as `PORT SOCKET FLAVOUR`; set by the program
/// `with-server`.
pub const SHARED_SERVER: &str = "JOBD_TEST_SERVER";

/// A server that was killed may have to repair its tables.
const START_LIMIT: Duration = Duration::from_mins(1);

/// What a server does to keep its data through a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Nothing: quick, for most tests.
    ThrowAway,
    /// The server's own defaults, as in production: for tests that kill it.
    Real,
}

/// A database server.
#[derive(Debug)]
pub struct Server {
    port: u16,
    socket: PathBuf,
    flavour: Flavour,
    own: Option<Own>,
}

/// What only the one who started a server has.
#[derive(Debug)]
struct Own {
    command: Command,
    process: Option<Process>,
    data: PathBuf,
    scratch: Scratch,
}

impl Server {
    /// The server of this test run, or of this process where the run has none.
    pub async fn shared() -> Arc<Self> {
        static SHARED: OnceCell<Arc<Server>> = OnceCell::const_new();
        SHARED
            .get_or_init(async || {
                Arc::new(match Self::of_the_run() {
                    Some(server) => server,
                    None => Self::start(Durability::ThrowAway, &[]).await,
                })
            })
            .await
            .clone()
    }

    /// A server of one's own, to kill and to start again; `options` are added to its command.
    pub async fn start(durability: Durability, options: &[&str]) -> Self {
        Self::start_under(durability, options, &[]).await
    }

    /// The same with variables in its environment.
    pub async fn start_under(
        durability: Durability,
        options: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let scratch = Scratch::new();
        let data = scratch.join("data");
        Self::launch(scratch, data, durability, options, variables).await
    }

    /// The same with its files in `data`, where they stay and are found by the next one.
    pub async fn start_in(data: &Path, durability: Durability, options: &[&str]) -> Self {
        Self::launch(Scratch::new(), data.to_owned(), durability, options, &[]).await
    }

    async fn launch(
        scratch: Scratch,
        data: PathBuf,
        durability: Durability,
        options: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let program = ServerProgram::find();
        let port = ports::free();
        let socket = scratch.join("server.sock");
        if !data.exists() {
            copy(&template::folder(&program), &data);
        }
        let mut command = command(&program, &scratch, &data, port, durability, options);
        command.envs(variables.iter().copied());
        let mut server = Self {
            port,
            socket,
            flavour: program.flavour,
            own: Some(Own {
                command,
                process: None,
                data,
                scratch,
            }),
        };
        server.start_again().await;
        server
    }

    /// A server that somebody else started and ends, on TCP alone.
    pub fn at(port: u16, flavour: Flavour) -> Self {
        Self {
            port,
            socket: PathBuf::new(),
            flavour,
            own: None,
        }
    }

    /// Its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its unix socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process number; only a server of one's own is known by it.
    pub fn process_id(&self) -> u32 {
        let own = self.own.as_ref().expect("a server of one's own");
        own.process.as_ref().expect("it runs").id()
    }

    /// Where its files lie; known of a server of one's own.
    pub fn data(&self) -> &Path {
        &self.own.as_ref().expect("a server of one's own").data
    }

    /// Its family.
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// Kills it with -9: connections break, what it had not made durable is lost.
    pub fn kill(&mut self) {
        let own = self.own.as_mut().expect("a server of one's own");
        let mut process = own.process.take().expect("it runs");
        process.kill();
    }

    /// Freezes it with SIGSTOP: connections stay, nothing is answered.
    pub fn freeze(&mut self) {
        self.signal(Signal::STOP);
    }

    /// Lets a frozen one go on.
    pub fn thaw(&mut self) {
        self.signal(Signal::CONT);
    }

    fn signal(&mut self, signal: Signal) {
        let own = self.own.as_mut().expect("a server of one's own");
        own.process.as_mut().expect("it runs").signal(signal);
    }

    /// Starts it on the same port with the same data, and waits until it answers.
    pub async fn start_again(&mut self) {
        let options = self.options();
        let own = self.own.as_mut().expect("a server of one's own");
        assert!(own.process.is_none(), "it runs already");
        let mut process = Process::start(&own.command, &own.scratch.join("server.log"));
        until("the database server", START_LIMIT, async || {
            assert!(process.ended().is_none(), "it ended: {}", process.log());
            options.connect().await.ok()
        })
        .await
        .close()
        .await
        .expect("close the first connection");
        own.process = Some(process);
    }

    /// How to reach it over TCP, in the clear.
    pub fn options(&self) -> MySqlConnectOptions {
        MySqlConnectOptions::new()
            .host("127.0.0.1")
            .port(self.port)
            .username(USER)
            .password(PASSWORD)
            .ssl_mode(MySqlSslMode::Disabled)
            .timezone(None)
            .pipes_as_concat(false)
    }

    /// Makes an empty database for one test. It goes with the server.
    pub async fn database(&self) -> Database {
        let name = programs::unique_name("t");
        let mut connection = self.connection().await;
        connection
            .execute(AssertSqlSafe(format!("CREATE DATABASE `{name}`")))
            .await
            .expect("create a database");
        connection.close().await.expect("close");
        Database::open(self, &name)
    }

    /// A database that exists already.
    pub fn open(&self, name: &str) -> Database {
        Database::open(self, name)
    }

    /// A connection to no database in particular.
    pub async fn connection(&self) -> MySqlConnection {
        self.options()
            .connect()
            .await
            .expect("connect to the server")
    }

    /// What the program `with-server` passes on in [`SHARED_SERVER`].
    pub fn address(&self) -> String {
        let flavour = match self.flavour {
            Flavour::MariaDb => "mariadb",
            Flavour::MySql => "mysql",
        };
        format!("{} {} {flavour}", self.port, self.socket.display())
    }

    fn of_the_run() -> Option<Self> {
        let address = std::env::var(SHARED_SERVER).ok()?;
        let mut parts = address.split(' ');
        let mut part = || parts.next().expect("PORT SOCKET FLAVOUR");
        Some(Self {
            port: part().parse().expect("a port"),
            socket: part().into(),
            flavour: match part() {
                "mariadb" => Flavour::MariaDb,
                _ => Flavour::MySql,
            },
            own: None,
        })
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // Nobody needs its data any more: an orderly end would only take time.
        if let Some(process) = self.process.as_mut() {
            process.kill();
        }
    }
}

pub(crate) fn copy(template: &Path, data: &Path) {
    let status = Command::new("cp")
        .args(["-a", "--reflink=auto"])
        .args([template, data])
        .status()
        .expect("run cp");
    assert!(status.success(), "cannot copy {}", template.display());
}

fn command(
    program: &ServerProgram,
    scratch: &Scratch,
    data: &Path,
    port: u16,
    durability: Durability,
    options: &[&str],
) -> Command {
    let init = scratch.write("init.sql", accounts());
    let mut command = Command::new(&program.path);
    command
        .arg("--no-defaults")
        .args(ServerProgram::user_option())
        .arg(format!("--datadir={}", data.display()))
        .arg(format!("--tmpdir={}", scratch.path().display()))
        .arg(format!(
            "--socket={}",
            scratch.join("server.sock").display()
        ))
        .arg(format!(
            "--pid-file={}",
            scratch.join("server.pid").display()
        ))
        .arg(format!("--init-file={}", init.display()))
        .arg(format!("--port={port}"))
        .args([
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--skip-log-bin",
            "--max-connections=500",
            "--performance-schema=0",
            "--innodb-buffer-pool-size=32M",
        ]);
    match program.flavour {
        Flavour::MariaDb => command.arg("--innodb-log-file-size=8M"),
        Flavour::MySql => command.args(["--mysqlx=OFF", "--innodb-redo-log-capacity=16M"]),
    };
    if durability == Durability::ThrowAway {
        command.args([
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-flush-method=nosync",
            "--innodb-doublewrite=0",
        ]);
    }
    command.args(options);
    command
}

/// What the server does at each start. Each statement stands on a line of its own; both hosts are
/// named because an anonymous local user would win over `%`.
pub(crate) fn accounts() -> String {
    let of_host = |host| {
        format!(
            "CREATE USER IF NOT EXISTS '{USER}'@'{host}' IDENTIFIED BY '{PASSWORD}';\n\
             GRANT ALL ON *.* TO '{USER}'@'{host}' WITH GRANT OPTION;\n"
        )
    };
    of_host("%") + &of_host("localhost")
}
