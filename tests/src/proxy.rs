//! A connection to the database that breaks again and again, at every moment: before a statement
//! has reached the server, and after, when only its answer is lost. That second case is the one in
//! which nobody can know whether a COMMIT happened without asking.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// One packet in so many is lost, with its connection.
const ONE_IN: u64 = 40;

/// A relay to a server. It ends when it is dropped.
#[derive(Debug)]
pub struct FlakyProxy {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    shared: Arc<Shared>,
    _relays: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    flaky: AtomicBool,
    random: AtomicU64,
    lost_requests: AtomicU32,
    lost_answers: AtomicU32,
}

impl FlakyProxy {
    /// Listens, and relays to `server`. The same seed gives the same sequence of decisions.
    pub async fn start(server: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port for the proxy");
        let port = listener.local_addr().expect("its address").port();
        let shared = Arc::new(Shared {
            flaky: AtomicBool::new(true),
            random: AtomicU64::new(seed.max(1)),
            lost_requests: AtomicU32::new(0),
            lost_answers: AtomicU32::new(0),
        });
        let mut relays = JoinSet::new();
        let of_listener = shared.clone();
        relays.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.expect("accept");
                open.spawn(relay(client, server, of_listener.clone()));
            }
        });
        Self {
            port,
            shared,
            _relays: relays,
        }
    }

    /// Loses nothing from now on.
    pub fn calm(&self) {
        self.shared.flaky.store(false, Ordering::Relaxed);
    }

    /// How many statements never arrived, and how many answers got lost.
    pub fn losses(&self) -> (u32, u32) {
        (
            self.shared.lost_requests.load(Ordering::Relaxed),
            self.shared.lost_answers.load(Ordering::Relaxed),
        )
    }
}

impl Shared {
    /// Whether this packet is lost (xorshift64).
    fn loses(&self) -> bool {
        let step = |mut x: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            Some(x)
        };
        let order = Ordering::Relaxed;
        let before = self.random.fetch_update(order, order, step);
        let number = before.expect("always a next one");
        self.flaky.load(order) && (number >> 32).is_multiple_of(ONE_IN)
    }
}

async fn relay(mut client: TcpStream, server: SocketAddr, shared: Arc<Shared>) {
    let Ok(mut server) = TcpStream::connect(server).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut asked, mut answered) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => match read {
                Ok(count @ 1..) => {
                    if shared.loses() {
                        shared.lost_requests.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                    if server.write_all(&asked[..count]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
            read = server.read(&mut answered) => match read {
                Ok(count @ 1..) => {
                    if shared.loses() {
                        shared.lost_answers.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                    if client.write_all(&answered[..count]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
        }
    }
}
