//! What the faults happen to: a server, a master, three workers, and the lines between them.
//!
//! Each piece stands behind a lock of its own, so that two faults can be under way at once as long
//! as they are about different pieces.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{self, Arc};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sqlx::mysql::MySqlPool;
use tokio::sync::Mutex;

use super::balancer::Balancer;
use super::job::{LOUD, OUTPUT_FILE, PATTERN, STUCK, is_on_demand};
use super::line::{Line, Lines};
use super::options::{Options, Table};
use super::record::Troubles;
use crate::galera::Cluster;
use crate::programs::{self, Daemon};
use crate::server::Durability;
use crate::template::Flavour;
use crate::witness::boot_ns;
use crate::{Database, Ini, Master, Scratch, Server, WitnessLog};

/// The workers.
pub const WORKERS: [&str; 3] = ["w1", "w2", "w3"];

/// The one that does not wait for its jobs when it is asked to end, where the table lets others run them.
pub const HASTY: usize = 2;

/// An end may wait so long for the database, if nothing longer was asked for, and be untold when its worker is lost.
const UNTOLD: Duration = Duration::from_secs(30);

/// The account that workers use: it may do what they need and no more, so that a read-only server is
/// read-only to them.
pub const ACCOUNT: &str = "chaos_worker";

/// The lease on the full table: short, so that many end within a run.
pub const LEASE: Duration = Duration::from_secs(6);

/// Names the host that a worker and everything it starts belong to.
pub const HOST_VARIABLE: &str = "JOBD_CHAOS_HOST";

/// One worker.
#[derive(Debug)]
pub struct Worker {
    /// Its name.
    pub name: &'static str,
    /// Its config.
    pub ini: Ini,
    /// Where it listens.
    pub addr: SocketAddr,
    /// It, running.
    pub daemon: Daemon,
    program: PathBuf,
    host: String,
}

impl Worker {
    fn launch(
        program: PathBuf,
        scratch: &Scratch,
        name: &'static str,
        ini: Ini,
        variables: &[(&str, &str)],
    ) -> Self {
        let host = programs::unique_name(name);
        let variables = [&[(HOST_VARIABLE, host.as_str())], variables].concat();
        let daemon = Daemon::launch_under(&program, scratch, &ini, &variables);
        Self {
            name,
            ini,
            addr: daemon.addr,
            daemon,
            program,
            host,
        }
    }

    /// Starts it again after its end, and waits until it listens.
    pub async fn start_again(&mut self, scratch: &Scratch) {
        self.launch_again(scratch, &[]);
        self.daemon.listening().await;
    }

    /// The same with variables in its environment, and without waiting.
    pub fn launch_again(&mut self, scratch: &Scratch, variables: &[(&str, &str)]) {
        let (program, ini) = (self.program.clone(), self.ini.clone());
        *self = Self::launch(program, scratch, self.name, ini, variables);
    }

    /// What [`HOST_VARIABLE`] says in everything that it started.
    pub fn host(&self) -> &str {
        &self.host
    }
}

/// Sends a signal to a process, which may have ended.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process number"));
    let _ = kill_process(pid.expect("not zero"), signal);
}

/// A clock that can be set for one process alone, by libfaketime.
#[derive(Debug)]
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    /// libfaketime, where it is installed.
    pub fn library() -> Option<PathBuf> {
        let folders = std::fs::read_dir("/usr/lib").ok()?.flatten();
        folders
            .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
            .find(|library| library.exists())
    }

    /// How many seconds it is wrong from now on; a second may pass until that is noticed.
    pub fn set(&self, wrong_by: i64) {
        // Renamed, so that nobody reads half a number.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{wrong_by:+}\n")).expect("write the clock's file");
        std::fs::rename(&new, &self.file).expect("put the clock's file in place");
    }
}

/// Everything that runs.
#[derive(Debug)]
pub struct Stage {
    /// The database server; of a cluster, whatever node the applications are led to.
    pub server: Mutex<Server>,
    /// The cluster, where there is one.
    pub cluster: Option<Mutex<Cluster>>,
    /// Leads to its nodes: the workers' lines first, as in [`WORKERS`].
    pub balancer: Option<Balancer>,
    /// Its clock, where libfaketime is installed.
    pub clock: Option<Clock>,
    /// The database, reached without a line.
    pub database: Database,
    /// Which table it holds.
    pub table: Table,
    /// Connections of applications to it; in a cluster, to each node.
    pub pools: Vec<MySqlPool>,
    /// From the workers to the server; in a cluster, one for each of them.
    pub database_line: Lines,
    /// From the applications, and from the suite itself, to the cluster.
    _application_lines: Vec<Arc<Line>>,
    /// From each worker to its line, as in [`WORKERS`].
    pub worker_lines: Vec<Line>,
    /// The master.
    pub master: Mutex<Daemon>,
    /// The master's config.
    pub master_ini: Ini,
    /// From the workers to the master.
    pub master_line: Line,
    /// The workers, as in [`WORKERS`].
    pub workers: Vec<Mutex<Worker>>,
    /// When workers were killed, or could not keep their leases: what they held then may be run again, and nothing
    /// else.
    pub troubles: sync::Mutex<Troubles>,
    /// Where workers listen.
    pub worker_addrs: Vec<SocketAddr>,
    /// What the jobs say.
    pub witness: WitnessLog,
    /// A file system that the first worker logs to, to be filled up.
    pub small_disk: Option<PathBuf>,
    /// Whether workers can be made to die at points of their code.
    pub crash_points: bool,
    /// How long freezes and outages last, where that was asked for.
    pub hold: Option<Duration>,
    /// Configs and logs. Last, so that it goes after those who write into it.
    pub scratch: Scratch,
}

impl Stage {
    /// Starts everything.
    pub async fn start(options: &Options) -> Self {
        let scratch = Scratch::new();
        let Ground {
            server,
            clock,
            cluster,
            balancer,
            database_line,
            application_lines,
        } = ground(options, &scratch).await;
        let database = server.database().await;
        let pool_through = |line: &Arc<Line>| {
            let server = Server::at(line.port, server.flavour());
            Database::open(&server, &database.name).pool
        };
        let pools = match &application_lines[..] {
            [] => vec![database.pool.clone()],
            lines => lines.iter().map(pool_through).collect(),
        };
        database.run(table(options.table)).await;
        for statement in [
            format!("CREATE USER '{ACCOUNT}'@'%' IDENTIFIED BY 'x'"),
            format!(
                "GRANT SELECT, UPDATE ON `{}`.* TO '{ACCOUNT}'@'%'",
                database.name
            ),
        ] {
            database.run(&statement).await;
        }
        if options.table == Table::Full {
            for statement in UNDONE {
                database.run(statement).await;
            }
        }
        let level = log_level(options);
        let master_ini = Ini::listen()
            .set("ping_interval", 1)
            .set("poke_throttle_interval", "0.1")
            .set("log_level_console", level);
        let master = Master::start(&scratch, &master_ini).await;
        let master_line = Line::start(master.addr).await;
        let witness = WitnessLog::new(&scratch);
        let (mut workers, mut worker_lines) = (Vec::new(), Vec::new());
        for (name, behind) in WORKERS.into_iter().zip(database_line.0.iter().cycle()) {
            let line = Line::start((Ipv4Addr::LOCALHOST, behind.port).into()).await;
            let state = match &options.small_disk {
                Some(disk) if name == WORKERS[0] => disk.join("state"),
                _ => scratch.join(&format!("state-{name}")),
            };
            std::fs::create_dir(&state).expect("a state folder");
            let mut ini = Ini::worker(&database)
                .set("name", name)
                .set("mysql_port", line.port)
                .set("mysql_user", ACCOUNT)
                .set("mysql_password", "x")
                // The line reads what passes.
                .set("mysql_tls", "off")
                .set("master_host", "127.0.0.1")
                .set("master_port", master_line.port)
                .set("master_reconnect_timeout", 1)
                .set("poll_interval", 1)
                .set("retry", 1)
                .set("retry_backoff", "0.1..2")
                .set("kill_sequence", "TERM,0.5s,KILL")
                .set("launcher", launcher(&witness, name))
                .set("state_dir", state.display())
                .set("log_level_console", level);
            for (target, slots) in options.targets() {
                if !is_on_demand(target) {
                    ini = ini.target(target, slots);
                }
            }
            // By way of the program that changes what jobs inherit.
            ini = ini.target(PATTERN.0, PATTERN.1).own(LOUD, "nice", 1);
            for target in [LOUD, PATTERN.0] {
                ini = ini.own(
                    target,
                    "output_file",
                    outputs(&scratch).join(OUTPUT_FILE).display(),
                );
            }
            if options.table == Table::Full {
                ini = ini
                    .set("lease", LEASE.as_secs())
                    .own(STUCK, "idle_timeout", "2s");
                if name == WORKERS[HASTY] {
                    ini = ini.set("drain_timeout", 1);
                }
            }
            let log = scratch.join(&format!("{name}.log"));
            ini = ini
                .set("log_file", log.display())
                .set("log_level_file", "info");
            if let (Some(disk), true) = (&options.small_disk, name == WORKERS[0]) {
                ini = ini
                    .set("log_file", disk.join("jobd.log").display())
                    .set("log_level_file", "debug")
                    .set("log_file_max_size", "100K")
                    .set("log_file_keep", 1);
            }
            let program = if options.crash_points {
                programs::faulty_path()
            } else {
                programs::path("jobd")
            };
            let mut worker = Worker::launch(program, &scratch, name, ini, &[]);
            worker.daemon.listening().await;
            workers.push(worker);
            worker_lines.push(line);
        }
        Master::has_workers(&master, WORKERS.len()).await;
        Self {
            server: Mutex::new(server),
            clock,
            cluster: cluster.map(Mutex::new),
            balancer,
            database,
            pools,
            table: options.table,
            database_line,
            _application_lines: application_lines,
            worker_lines,
            master: Mutex::new(master),
            master_ini,
            master_line,
            worker_addrs: workers.iter().map(|worker| worker.addr).collect(),
            troubles: sync::Mutex::new(Troubles::new(nanos(
                UNTOLD + Duration::from_secs(options.hold.unwrap_or(0)),
            ))),
            workers: workers.into_iter().map(Mutex::new).collect(),
            witness,
            small_disk: options.small_disk.clone(),
            crash_points: options.crash_points,
            hold: options.hold.map(Duration::from_secs),
            scratch,
        }
    }

    /// Notes that what `worker` holds may be run again, as it is about to end.
    pub fn lose(&self, worker: &Worker) {
        self.lose_until(worker, u64::MAX);
    }

    /// The same, as it cannot renew its leases for so long.
    pub fn lose_for(&self, worker: &Worker, time: Duration) {
        self.lose_until(worker, boot_ns() + nanos(time + LEASE));
    }

    fn lose_until(&self, worker: &Worker, until_ns: u64) {
        let from_ns = boot_ns();
        let mut troubles = self.troubles.lock().expect("the list of troubles");
        troubles.lose(worker.daemon.process.id(), from_ns, until_ns);
    }

    /// Where a claim's token stands while somebody holds the row.
    pub fn token_column(&self) -> &'static str {
        match self.table {
            Table::Minimal => "stderr",
            Table::Full => "worker",
        }
    }

    /// Where the master listens.
    pub fn master_addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.master_ini.port()).into()
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("hours at most")
}

/// What the daemons stand on.
struct Ground {
    server: Server,
    clock: Option<Clock>,
    cluster: Option<Cluster>,
    balancer: Option<Balancer>,
    database_line: Lines,
    /// The suite's own eye comes last: it is led to a node that is well, whatever happens.
    application_lines: Vec<Arc<Line>>,
}

async fn ground(options: &Options, scratch: &Scratch) -> Ground {
    if !options.galera {
        let (server, clock) = server(scratch).await;
        let line = Line::start((Ipv4Addr::LOCALHOST, server.port()).into()).await;
        return Ground {
            server,
            clock,
            cluster: None,
            balancer: None,
            database_line: Lines(vec![Arc::new(line)]),
            application_lines: Vec::new(),
        };
    }
    let cluster = Cluster::start().await;
    let nodes = cluster.ports();
    let mut lines = Vec::new();
    for port in nodes.iter().cycle().take(WORKERS.len() + nodes.len() + 1) {
        let line = Line::start((Ipv4Addr::LOCALHOST, *port).into()).await;
        lines.push(Arc::new(line));
    }
    let balancer = Balancer::start(nodes, lines.clone());
    let application_lines = lines.split_off(WORKERS.len());
    let eye = application_lines.last().expect("it was just made").port;
    Ground {
        server: Server::at(eye, Flavour::MariaDb),
        clock: None,
        cluster: Some(cluster),
        balancer: Some(balancer),
        database_line: Lines(lines),
        application_lines,
    }
}

async fn server(scratch: &Scratch) -> (Server, Option<Clock>) {
    let Some(library) = Clock::library() else {
        return (Server::start(Durability::Real, &[]).await, None);
    };
    let clock = Clock {
        file: scratch.join("clock"),
    };
    clock.set(0);
    let variables = [
        ("LD_PRELOAD", &*library.to_string_lossy()),
        ("FAKETIME_TIMESTAMP_FILE", &*clock.file.to_string_lossy()),
        ("FAKETIME_CACHE_DURATION", "1"),
        // Timeouts inside the server are no business of the calendar.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let server = Server::start_under(Durability::Real, &[], &variables).await;
    (server, Some(clock))
}

/// Notes every job whose row was done and says anything else afterwards, but one that nobody could say the end of.
const UNDONE: [&str; 2] = [
    "CREATE TABLE undone (n bigint unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY, id bigint unsigned NOT NULL)",
    "CREATE TRIGGER undone AFTER UPDATE ON jobs FOR EACH ROW \
     IF OLD.status = 'done' AND NOT (OLD.reason <=> 'orphaned') AND NOT (NEW.status = 'done' AND NEW.reason <=> OLD.reason \
     AND NEW.result <=> OLD.result AND NEW.return_code <=> OLD.return_code AND NEW.sig <=> OLD.sig AND NEW.stdout <=> OLD.stdout \
     AND NEW.stderr <=> OLD.stderr AND NEW.attempts = OLD.attempts AND NEW.time_finished = OLD.time_finished) \
     THEN INSERT INTO undone (id) VALUES (OLD.id); END IF",
];

/// The DDL of a table: every ability, where there are any.
pub fn table(table: Table) -> &'static str {
    match table {
        Table::Minimal => crate::database::MINIMAL,
        Table::Full => concat!(
            include_str!("../../../sql/mysql/jobs.sql"),
            include_str!("../../../sql/mysql/add-unique.sql")
        ),
    }
}

fn launcher(witness: &WitnessLog, worker: &str) -> String {
    format!(
        "{} {} {worker} {{id}} {{target}}",
        programs::path("chaos-job").display(),
        witness.path().display()
    )
}

/// The folder of the files of jobs whose output stands in one.
pub fn outputs(scratch: &Scratch) -> PathBuf {
    scratch.join("outputs")
}

/// A short run keeps everything to look at; a long one would fill the disk.
fn log_level(options: &Options) -> &'static str {
    if options.minutes <= 10.0 {
        "debug"
    } else {
        "info"
    }
}
