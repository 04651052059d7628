//! A Galera cluster of three MariaDB nodes on 127.0.0.1, to kill, freeze and cut off; gone when the test
//! is.
//!
//! It does what a careful operator does: a node that was killed goes on from the position that its own
//! data show, a cluster that is down starts from its most advanced node, and a node whose data may not be
//! the cluster's any more starts empty. Timeouts are short, so that faults fit a run.

mod node;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::join_all;
use rustix::process::Signal;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};
use tokio::time::{Instant, sleep, timeout};

use self::node::Node;
use crate::scratch::Scratch;
use crate::server::{self, PASSWORD, USER};
use crate::template::{self, ServerProgram};
use crate::wait::until;

/// How many nodes there are.
pub const NODES: usize = 3;

/// All of them.
pub const ALL: Range<usize> = 0..NODES;

/// `auto_increment_increment`: fixed, so that an application knows the ids of a multi-row INSERT.
pub const ID_STEP: u64 = NODES as u64;

/// After this silence the others exclude a node. The defaults (5 and 15 s) would make every fault
/// longer than a lease.
pub const EVICTED_AFTER: Duration = Duration::from_secs(4);

/// A node that gets its whole state from another takes seconds; the rest is for a loaded machine.
const JOIN_LIMIT: Duration = Duration::from_mins(3);

/// A node that is asked how it is and does not answer within this is not well.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// The cluster.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    /// Last, so that it goes after those who write into it.
    _scratch: Scratch,
}

/// Whether the node on `port` is part of a working cluster and up to date, as a load balancer asks it.
pub async fn is_well(port: u16) -> bool {
    let state = async {
        let mut connection = options(port).connect().await.ok()?;
        let state = status(&mut connection, "wsrep_local_state").await?;
        // Without this the server would count an aborted connection.
        connection.close().await.ok()?;
        Some(state)
    };
    // 4 is "synced": not a donor, not behind, not alone.
    matches!(timeout(PROBE_LIMIT, state).await, Ok(Some(state)) if state == "4")
}

fn options(port: u16) -> MySqlConnectOptions {
    MySqlConnectOptions::new()
        .host("127.0.0.1")
        .port(port)
        .username(USER)
        .password(PASSWORD)
        .ssl_mode(MySqlSslMode::Disabled)
        .timezone(None)
        .pipes_as_concat(false)
}

/// How a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    /// Synced, and so is everybody else's view of it.
    Whole,
    /// In the cluster, but busy or alone.
    Member,
    /// Not there, or on its way.
    Out,
}

/// One of the `wsrep_` variables. In plain text: a node that is not ready prepares nothing.
async fn status(connection: &mut MySqlConnection, name: &str) -> Option<String> {
    let sql = format!("SHOW GLOBAL STATUS LIKE '{name}'");
    let row = sqlx::raw_sql(AssertSqlSafe(sql))
        .fetch_one(connection)
        .await
        .ok()?;
    row.try_get_unchecked::<String, _>(1).ok()
}

impl Cluster {
    /// Starts all nodes and waits until they are one cluster.
    ///
    /// # Panics
    /// Where the machine has no Galera.
    pub async fn start() -> Self {
        let scratch = Scratch::new();
        let program = ServerProgram::find();
        let mut cluster = Self {
            nodes: Node::all(NODES, &program, scratch.path()),
            _scratch: scratch,
        };
        cluster.nodes[0].fill(&template::folder(&program));
        cluster.nodes[0].launch(&["--wsrep-new-cluster".to_owned()]);
        cluster.create_account().await;
        cluster.synced(0).await;
        cluster.start_empty(&[1, 2]).await;
        cluster
    }

    /// The TCP ports of the nodes.
    pub fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.port).collect()
    }

    /// A connection to one node.
    pub async fn connection(&self, node: usize) -> Result<MySqlConnection, sqlx::Error> {
        options(self.nodes[node].port).connect().await
    }

    /// kill -9 of several nodes at once.
    pub fn kill(&mut self, nodes: &[usize]) {
        self.signal(nodes, Signal::STOP);
        for node in nodes {
            let mut process = self.nodes[*node].process.take().expect("it runs");
            process.kill();
        }
    }

    /// Sends a signal to several nodes.
    pub fn signal(&mut self, nodes: &[usize], signal: Signal) {
        for node in nodes {
            self.nodes[*node]
                .process
                .as_mut()
                .expect("it runs")
                .signal(signal);
        }
    }

    /// Starts nodes that were killed, where the rest of the cluster is: they get what they have missed.
    pub async fn start_again(&mut self, nodes: &[usize]) {
        let positions = join_all(nodes.iter().map(|node| self.nodes[*node].position())).await;
        for (node, (position, _)) in nodes.iter().zip(positions) {
            self.nodes[*node].launch(&[format!("--wsrep-start-position={position}")]);
        }
        self.all_well().await;
    }

    /// Starts nodes without the data that they have: they get everything from the others.
    pub async fn start_empty(&mut self, nodes: &[usize]) {
        for node in nodes {
            self.nodes[*node].empty();
            self.nodes[*node].launch(&[]);
        }
        self.all_well().await;
    }

    /// Starts a cluster of which no node runs, from its most advanced one.
    pub async fn start_from_most_advanced(&mut self) {
        let positions = join_all(self.nodes.iter().map(Node::position)).await;
        let seqnos: Vec<i64> = positions.iter().map(|(_, seqno)| *seqno).collect();
        let first = ALL
            .max_by_key(|node| seqnos[*node])
            .expect("there are nodes");
        println!(
            "galera: the nodes end at {seqnos:?}, {} is the first",
            self.nodes[first].name
        );
        let path = self.nodes[first].data().join("grastate.dat");
        let state = std::fs::read_to_string(&path).expect("the state of a node");
        std::fs::write(
            &path,
            state.replace("safe_to_bootstrap: 0", "safe_to_bootstrap: 1"),
        )
        .expect("the state of a node");
        let start = |node: usize| format!("--wsrep-start-position={}", positions[node].0);
        self.nodes[first].launch(&[start(first), "--wsrep-new-cluster".to_owned()]);
        self.synced(first).await;
        for node in ALL.filter(|node| *node != first) {
            self.nodes[node].launch(&[start(node)]);
        }
        self.all_well().await;
        println!("galera: all go on from {}", self.last_logged(first).await);
    }

    /// Makes one node the primary component by itself, as operators do where the majority is gone.
    pub async fn bootstrap(&self, node: usize) {
        self.provider(node, "pc.bootstrap=YES").await;
        self.synced(node).await;
        println!(
            "galera: {} goes on alone from {}",
            self.nodes[node].name,
            self.last_logged(node).await
        );
    }

    /// Waits until a node knows that it has no majority.
    pub async fn is_alone(&self, node: usize) {
        until(
            "a node to notice that it is alone",
            JOIN_LIMIT,
            async || {
                let mut connection = self.connection(node).await.ok()?;
                let found = status(&mut connection, "wsrep_cluster_status").await?;
                (found == "non-Primary").then_some(())
            },
        )
        .await;
    }

    /// The last write set in a node's binary log, as its list of what was taken back names them.
    pub async fn last_logged(&self, node: usize) -> String {
        let mut connection = self.connection(node).await.expect("a connection to a node");
        let sql = "SHOW GLOBAL VARIABLES LIKE 'gtid_binlog_pos'";
        let row = sqlx::raw_sql(sql).fetch_one(&mut connection).await;
        row.expect("a variable")
            .try_get_unchecked(1)
            .expect("its value")
    }

    /// Sets an option of a node's Galera.
    pub async fn provider(&self, node: usize, option: &str) {
        self.run(
            node,
            &format!("SET GLOBAL wsrep_provider_options = '{option}'"),
        )
        .await;
    }

    /// Runs a statement on a node.
    pub async fn run(&self, node: usize, sql: &str) {
        let mut connection = self.connection(node).await.expect("a connection to a node");
        let done = sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Waits until all nodes are one cluster again. A node that does not make it by itself, which Galera's
    /// do now and then, is started empty; returns how many those were.
    pub async fn all_well(&mut self) -> usize {
        let begun = Instant::now();
        let mut helped = 0;
        // Since when each node has had its chance to join by itself.
        let mut since = [begun; NODES];
        loop {
            let health = join_all(ALL.map(|node| self.health(node))).await;
            if health.iter().all(|health| *health == Health::Whole) {
                return helped;
            }
            // A member has what the others need.
            for node in ALL.filter(|node| health[*node] == Health::Out) {
                let process = self.nodes[node].process.as_mut();
                let dead = process.is_none_or(|process| process.ended().is_some());
                if dead || since[node].elapsed() > JOIN_LIMIT / 4 {
                    let why = if dead {
                        "it had ended"
                    } else {
                        "it did not join"
                    };
                    self.start_again_empty(node, why);
                    since[node] = Instant::now();
                    helped += 1;
                    // One at a time: a node without a donor cannot join.
                    break;
                }
            }
            assert!(
                begun.elapsed() < JOIN_LIMIT,
                "the cluster is not whole after {JOIN_LIMIT:?}; its nodes said last:\n{}",
                self.last_words()
            );
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn start_again_empty(&mut self, node: usize, why: &str) {
        let node = &mut self.nodes[node];
        println!("galera: {} is started empty ({why})", node.name);
        if let Some(mut process) = node.process.take() {
            process.kill();
        }
        node.empty();
        node.launch(&[]);
    }

    /// The end of each node's log.
    fn last_words(&self) -> String {
        let of_node = |node: &Node| {
            let said = std::fs::read(node.messages()).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            let lines = said.lines().rev().take(20);
            let mut lines: Vec<String> = lines
                .map(|line| format!("{}: {line}\n", node.name))
                .collect();
            lines.reverse();
            lines.concat()
        };
        self.nodes.iter().map(of_node).collect()
    }

    /// Every file of every node's binary log that there ever was, with the node's name.
    pub fn binary_logs(&self) -> Vec<(String, PathBuf)> {
        let of_node = |node: &Node| {
            let kept = node.kept_logs();
            kept.into_iter()
                .map(|file| (node.name.clone(), file))
                .collect::<Vec<_>>()
        };
        self.nodes.iter().flat_map(of_node).collect()
    }

    /// Prints how often transactions of different nodes met on a row, since each node's start.
    pub async fn print_conflicts(&self) {
        for (number, node) in self.nodes.iter().enumerate() {
            let mut connection = self
                .connection(number)
                .await
                .expect("a connection to a node");
            let mut count =
                async |name: &str| status(&mut connection, name).await.unwrap_or_default();
            println!(
                "{} since its start: {} write sets sent, {} refused at their commit, {} rolled back before it",
                node.name,
                count("wsrep_replicated").await,
                count("wsrep_local_cert_failures").await,
                count("wsrep_local_bf_aborts").await
            );
        }
    }

    /// Copies what the nodes said to `folder`.
    pub fn keep_messages(&self, folder: &Path) {
        for node in &self.nodes {
            // One that was never started has said nothing.
            let _ = std::fs::copy(node.messages(), folder.join(format!("{}.log", node.name)));
        }
    }

    /// Ends the present file of a node's binary log; the path of the next one.
    pub async fn new_binary_log(&self, node: usize) -> PathBuf {
        self.run(node, "FLUSH BINARY LOGS").await;
        let mut connection = self.connection(node).await.expect("a connection to a node");
        let row = sqlx::raw_sql("SHOW MASTER STATUS")
            .fetch_one(&mut connection)
            .await;
        let file: String = row
            .expect("its binary log")
            .try_get_unchecked(0)
            .expect("a file");
        self.nodes[node].logs().join(file)
    }

    async fn health(&self, node: usize) -> Health {
        let probe = async {
            let mut connection = self.connection(node).await.ok()?;
            let size = status(&mut connection, "wsrep_cluster_size").await?;
            let state = status(&mut connection, "wsrep_local_state").await?;
            Some((size, state))
        };
        if self.nodes[node].process.is_none() {
            return Health::Out;
        }
        match timeout(PROBE_LIMIT, probe).await {
            Ok(Some((size, state))) if size == NODES.to_string() && state == "4" => Health::Whole,
            // 2 gives its state to another node, 3 catches up.
            Ok(Some((_, state))) if ["2", "3", "4"].contains(&state.as_str()) => Health::Member,
            _ => Health::Out,
        }
    }

    async fn synced(&self, node: usize) {
        let port = self.nodes[node].port;
        until("a node to be synced", JOIN_LIMIT, async || {
            is_well(port).await.then_some(())
        })
        .await;
    }

    async fn create_account(&mut self) {
        let options = MySqlConnectOptions::new()
            .socket(self.nodes[0].socket())
            .username("root")
            .timezone(None)
            .pipes_as_concat(false);
        let first = self.nodes[0].process.as_mut().expect("it runs");
        let mut connection = until("the first node", JOIN_LIMIT, async || {
            assert!(first.ended().is_none(), "it ended: {}", first.log());
            let mut connection = options.connect().await.ok()?;
            let ready = status(&mut connection, "wsrep_ready").await?;
            (ready == "ON").then_some(connection)
        })
        .await;
        for statement in server::accounts().lines() {
            let done = sqlx::raw_sql(AssertSqlSafe(statement))
                .execute(&mut connection)
                .await;
            done.expect("create the account");
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Nobody needs its data any more: an orderly end would only take time.
        for process in self
            .nodes
            .iter_mut()
            .filter_map(|node| node.process.as_mut())
        {
            process.kill();
        }
    }
}
