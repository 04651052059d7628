//! One node of a cluster: its folders, its command, its process.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::geteuid;

use super::{EVICTED_AFTER, ID_STEP};
use crate::process::Process;
use crate::template::ServerProgram;
use crate::{ports, programs, server};

/// Who the servers are where we are root: a state transfer goes through an rsync that gives root's rights
/// up, and could not write into root's folders.
const NOBODY: &str = "nobody";

/// A node, running or not.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) process: Option<Process>,
    /// All of its options but those of one start.
    options: Vec<String>,
    program: PathBuf,
    folder: PathBuf,
}

impl Node {
    /// The nodes of a cluster in `folder`.
    pub(super) fn all(count: usize, program: &ServerProgram, folder: &Path) -> Vec<Self> {
        give_away(folder);
        let groups: Vec<u16> = (0..count).map(|_| ports::free()).collect();
        let members: Vec<String> = groups
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        let members = members.join(",");
        let node =
            |(at, group): (usize, &u16)| Self::new(at + 1, *group, &members, program, folder);
        groups.iter().enumerate().map(node).collect()
    }

    fn new(
        number: usize,
        group: u16,
        members: &str,
        program: &ServerProgram,
        folder: &Path,
    ) -> Self {
        let mut node = Self {
            name: format!("n{number}"),
            port: ports::free(),
            process: None,
            options: Vec::new(),
            program: program.path.clone(),
            folder: folder.to_owned(),
        };
        if geteuid().is_root() {
            node.options.push(format!("--user={NOBODY}"));
        }
        node.options.extend([
            format!("--datadir={}", node.data().display()),
            format!("--log-bin={}", node.logs().join("log").display()),
            format!("--socket={}", node.socket().display()),
            format!("--pid-file={}", node.path(".pid").display()),
            format!("--port={}", node.port),
            format!("--auto-increment-increment={ID_STEP}"),
            format!("--auto-increment-offset={number}"),
            format!("--wsrep-provider={}", library().display()),
            format!("--wsrep-node-name={}", node.name),
            format!("--wsrep-cluster-address=gcomm://{members}"),
            format!("--wsrep-sst-receive-address=127.0.0.1:{}", ports::free()),
            format!("--wsrep-provider-options={}", provider_options(group)),
        ]);
        node
    }

    pub(super) fn data(&self) -> PathBuf {
        self.path("")
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.path("-log")
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.path(".sock")
    }

    /// What its server prints, over all of its lives.
    pub(super) fn messages(&self) -> PathBuf {
        self.path(".log")
    }

    fn path(&self, what: &str) -> PathBuf {
        self.folder.join(format!("{}{what}", self.name))
    }

    /// Gives second names to the files of the binary log, because a state transfer removes the first ones;
    /// returns all second names.
    pub(super) fn kept_logs(&self) -> Vec<PathBuf> {
        let kept = self.path("-log-kept");
        std::fs::create_dir_all(&kept).expect("a folder for binary logs");
        let is_numbered = |file: &PathBuf| {
            let end = file.extension().unwrap_or_default().as_encoded_bytes();
            !end.is_empty() && end.iter().all(u8::is_ascii_digit)
        };
        for file in files(&self.logs()).filter(is_numbered) {
            let number = file.metadata().expect("a file").ino();
            let second = kept.join(number.to_string());
            if !second.exists() {
                std::fs::hard_link(&file, &second).expect("a second name");
            }
        }
        files(&kept).collect()
    }

    /// Leaves it without data.
    pub(super) fn empty(&self) {
        self.kept_logs();
        for folder in [self.data(), self.logs()] {
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir(&folder).expect("a folder for a node");
            give_away(&folder);
        }
    }

    /// Gives it the data of a server.
    pub(super) fn fill(&self, template: &Path) {
        self.empty();
        std::fs::remove_dir(self.data()).expect("an empty folder");
        server::copy(template, &self.data());
        give_away(&self.data());
    }

    /// Starts it, without waiting for anything.
    pub(super) fn launch(&mut self, options: &[String]) {
        self.kept_logs();
        let mut command = self.command();
        command.args(options);
        self.process = Some(Process::start(&command, &self.messages()));
    }

    /// Where its own data end, as it is told again at its start, and the number of the last write set there.
    pub(super) async fn position(&self) -> (String, i64) {
        let mut command = self.command();
        command.arg("--wsrep-recover");
        let output = programs::output(&mut command).await;
        let text = String::from_utf8_lossy(&output.stderr);
        let found = text.rsplit_once("Recovered position: ");
        let position = found.and_then(|(_, rest)| rest.split_whitespace().next());
        // `cluster:number`, and behind a comma what the binary log calls it.
        let number = position.and_then(|position| {
            let (_, number) = position.split_once(':')?;
            number.split(',').next()?.parse().ok()
        });
        match (position, number) {
            (Some(position), Some(number)) => (position.to_owned(), number),
            _ => panic!("{} does not say where its data end: {text}", self.name),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--no-defaults").args(&self.options).args([
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--max-connections=500",
            "--performance-schema=0",
            "--innodb-buffer-pool-size=24M",
            "--innodb-log-file-size=8M",
            "--innodb-autoinc-lock-mode=2",
            // Every node keeps a record of everything that it has committed: see chaos::history.
            "--log-slave-updates",
            "--binlog-format=ROW",
            "--log-bin-compress=ON",
            "--server-id=1",
            "--wsrep-gtid-mode=ON",
            "--wsrep-gtid-domain-id=7",
            "--wsrep-on=ON",
            "--wsrep-cluster-name=jobd-chaos",
            "--wsrep-node-address=127.0.0.1",
            "--wsrep-auto-increment-control=OFF",
            "--wsrep-slave-threads=2",
            "--wsrep-sst-method=rsync",
        ]);
        command
    }
}

fn library() -> PathBuf {
    let places = [
        "/usr/lib/galera/libgalera_smm.so",
        "/usr/lib/libgalera_smm.so",
        "/usr/lib64/galera-4/libgalera_smm.so",
    ];
    let mut places = places.into_iter().map(PathBuf::from);
    let found = places.find(|place| place.exists());
    found.expect("libgalera_smm.so: apt-get install galera-4 rsync")
}

fn provider_options(group: u16) -> String {
    let seconds = |time: std::time::Duration| format!("PT{}S", time.as_secs_f32());
    let evicted = seconds(EVICTED_AFTER);
    [
        "base_host=127.0.0.1".to_owned(),
        format!("base_port={group}"),
        format!("gmcast.listen_addr=tcp://127.0.0.1:{group}"),
        format!("ist.recv_addr=127.0.0.1:{}", ports::free()),
        "evs.keepalive_period=PT0.5S".to_owned(),
        "evs.inactive_check_period=PT0.25S".to_owned(),
        format!("evs.suspect_timeout={}", seconds(EVICTED_AFTER * 3 / 4)),
        format!("evs.inactive_timeout={evicted}"),
        format!("evs.install_timeout={evicted}"),
        "gcache.size=64M".to_owned(),
    ]
    .join(";")
}

fn files(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

fn give_away(folder: &Path) {
    if geteuid().is_root() {
        let status = Command::new("chown")
            .args(["-R", NOBODY])
            .arg(folder)
            .status();
        assert!(
            status.expect("run chown").success(),
            "cannot give {} away",
            folder.display()
        );
    }
}
