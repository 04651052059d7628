//! What stands between applications and a cluster in production: looks which nodes are well, and leads each
//! line to its home node while that is well, else to another one.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::line::Line;
use crate::galera;

/// Quicker than the usual two seconds, as the nodes exclude each other more quickly too.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Leads lines to nodes. It ends when it is dropped.
#[derive(Debug)]
pub struct Balancer {
    shared: Arc<Shared>,
    _task: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    nodes: Vec<u16>,
    lines: Vec<(Arc<Line>, AtomicUsize)>,
}

impl Balancer {
    /// Leads the first line to the first node, and so on around.
    pub fn start(nodes: Vec<u16>, lines: impl IntoIterator<Item = Arc<Line>>) -> Self {
        let homes = (0..nodes.len()).cycle().map(AtomicUsize::new);
        let lines = lines.into_iter().zip(homes).collect();
        let shared = Arc::new(Shared { nodes, lines });
        let mut task = JoinSet::new();
        let looking = shared.clone();
        task.spawn(async move {
            loop {
                looking.look().await;
                sleep(LOOK_EVERY).await;
            }
        });
        Self {
            shared,
            _task: task,
        }
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.shared.nodes.len()
    }

    /// Where a line's home is.
    pub fn home(&self, line: usize) -> usize {
        self.shared.lines[line].1.load(Ordering::Relaxed)
    }

    /// Leads a line to another node, now and for good.
    pub fn move_to(&self, line: usize, node: usize) {
        let (line, home) = &self.shared.lines[line];
        home.store(node, Ordering::Relaxed);
        line.lead_to(self.shared.addr(node));
    }

    /// Leads new connections of a line to another node, and leaves the present ones where they are.
    pub fn lead_new_to(&self, line: usize, node: usize) {
        let (line, home) = &self.shared.lines[line];
        home.store(node, Ordering::Relaxed);
        line.lead_new_to(self.shared.addr(node));
    }
}

impl Shared {
    fn addr(&self, node: usize) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.nodes[node]).into()
    }

    async fn look(&self) {
        let well = join_all(self.nodes.iter().map(|port| galera::is_well(*port))).await;
        for (line, home) in &self.lines {
            let home = home.load(Ordering::Relaxed);
            let count = self.nodes.len();
            let mut by_nearness = (0..count).map(|step| (home + step) % count);
            // With no node to go to, it stays where it is.
            if let Some(node) = by_nearness.find(|node| well[*node]) {
                line.lead_to(self.addr(node));
            }
        }
    }
}
