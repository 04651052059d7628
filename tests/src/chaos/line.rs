//! A TCP line that can be cut, slowed, stalled, led to another server, and cut at exactly one moment: when a
//! COMMIT is under way.
//!
//! For that last one it reads just enough of the MySQL protocol. A client's packets begin with three bytes of
//! length, one number, which is 0 at the beginning of a command, and the command: a query in plain text, a
//! statement to be prepared, or the number of a prepared one, as the server's answer to that gave it. Nothing
//! is asked before that answer is there. Lines to anything else never use these modes.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A server that does not answer a COMMIT within this is frozen: the line is cut all the same.
const COMMIT_LIMIT: Duration = Duration::from_secs(5);

/// What the line does to what passes over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Hands everything on.
    Open,
    /// Closes every connection, new ones at once.
    Cut,
    /// Hands everything on later.
    Slow(Duration),
    /// Keeps connections, hands nothing on.
    Stalled,
    /// Hands on what is asked, and no answer.
    HoldsAnswers,
    /// Hands a COMMIT to the server and closes both sides once the server has answered.
    LosesCommitAnswers,
    /// Closes both sides instead of handing a COMMIT to the server.
    LosesCommits,
    /// Closes the client's side instead of handing a COMMIT to the server, whose side stays open: it does
    /// not notice, and the transaction keeps its locks. Connections that are made meanwhile are stalled.
    StrandsCommits,
    /// Closes the client's side and hands the COMMIT to the server after this time.
    LateCommits(Duration),
}

/// What a relay must know at every moment.
#[derive(Clone, Copy, Debug)]
struct State {
    mode: Mode,
    server: SocketAddr,
    /// How often all connections were cut: a connection of an earlier time ends.
    cuts: u64,
    /// How often the connections of the moment were forgotten.
    forgotten: u64,
}

/// A relay on 127.0.0.1. It ends when it is dropped.
#[derive(Debug)]
pub struct Line {
    /// Where it listens.
    pub port: u16,
    state: watch::Sender<State>,
    lost: Arc<AtomicU32>,
    _relays: JoinSet<()>,
}

impl Line {
    /// A line to `server`, which need not listen yet.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port for a line");
        let port = listener.local_addr().expect("its address").port();
        let state = watch::Sender::new(State {
            mode: Mode::Open,
            server,
            cuts: 0,
            forgotten: 0,
        });
        let lost = Arc::new(AtomicU32::new(0));
        let mut relays = JoinSet::new();
        let (states, count) = (state.subscribe(), lost.clone());
        relays.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.expect("accept");
                open.spawn(relay(client, states.clone(), count.clone()));
                while open.try_join_next().is_some() {}
            }
        });
        Self {
            port,
            state,
            lost,
            _relays: relays,
        }
    }

    /// From now on.
    pub fn set(&self, mode: Mode) {
        self.state.send_modify(|state| {
            state.mode = mode;
            state.cuts += u64::from(mode == Mode::Cut);
        });
    }

    /// Closes every connection; new ones are served.
    pub fn cut_once(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Hands nothing on any more over the connections there are, and tells nobody; new ones are served. So does a
    /// firewall that has lost its state.
    pub fn forget(&self) {
        self.state.send_modify(|state| state.forgotten += 1);
    }

    /// Leads to another server from now on: connections to the former one are closed.
    pub fn lead_to(&self, server: SocketAddr) {
        self.state.send_if_modified(|state| {
            let moves = state.server != server;
            state.server = server;
            state.cuts += u64::from(moves);
            moves
        });
    }

    /// Leads new connections to another server.
    pub fn lead_new_to(&self, server: SocketAddr) {
        self.state.send_modify(|state| state.server = server);
    }

    /// How many COMMITs, or answers to one, have been lost so far.
    pub fn lost(&self) -> u32 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// Several lines of the same kind, to be treated alike.
#[derive(Debug)]
pub struct Lines(pub Vec<Arc<Line>>);

impl Lines {
    /// Of all; see [`Line::set`].
    pub fn set(&self, mode: Mode) {
        self.0.iter().for_each(|line| line.set(mode));
    }

    /// Of all; see [`Line::cut_once`].
    pub fn cut_once(&self) {
        self.0.iter().for_each(|line| line.cut_once());
    }

    /// On all together; see [`Line::lost`].
    pub fn lost(&self) -> u32 {
        self.0.iter().map(|line| line.lost()).sum()
    }
}

async fn relay(mut client: TcpStream, mut states: watch::Receiver<State>, lost: Arc<AtomicU32>) {
    let born = *states.borrow_and_update();
    if born.mode == Mode::Cut {
        return;
    }
    let Ok(mut server) = TcpStream::connect(born.server).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut asked, mut answered) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut packets = Packets::default();
    loop {
        let State {
            mode,
            cuts,
            forgotten,
            ..
        } = *states.borrow_and_update();
        if cuts != born.cuts {
            return;
        }
        let strands = mode == Mode::StrandsCommits;
        let stalled =
            mode == Mode::Stalled || forgotten != born.forgotten || (strands && born.mode == mode);
        let unanswered = stalled || mode == Mode::HoldsAnswers;
        let passed = tokio::select! {
            biased;
            changed = states.changed() => changed.map_err(|_| ()),
            read = client.read(&mut asked), if !stalled => {
                let Ok(count @ 1..) = read else { return };
                let commits = packets.commits(&asked[..count]);
                if commits && mode == Mode::LosesCommits {
                    lost.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                if commits && let Mode::LateCommits(delay) = mode {
                    drop(client);
                    lost.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(delay).await;
                    let _ = hand_on(&asked[..count], &mut server, mode).await;
                    // A server that finds its client gone before it has read on would not commit.
                    let _ = tokio::time::timeout(COMMIT_LIMIT, server.read(&mut answered)).await;
                    return;
                }
                if commits && strands {
                    lost.fetch_add(1, Ordering::Relaxed);
                    drop(client);
                    return until_cut(&mut states, born).await;
                }
                let passed = hand_on(&asked[..count], &mut server, mode).await;
                if commits && mode == Mode::LosesCommitAnswers {
                    let answer = tokio::time::timeout(COMMIT_LIMIT, server.read(&mut answered));
                    if let Ok(Ok(1..)) = answer.await {
                        lost.fetch_add(1, Ordering::Relaxed);
                    }
                    return;
                }
                passed
            }
            read = server.read(&mut answered), if !unanswered => {
                let Ok(count @ 1..) = read else { return };
                packets.answered(&answered[..count]);
                hand_on(&answered[..count], &mut client, mode).await
            }
        };
        if passed.is_err() {
            return;
        }
    }
}

async fn until_cut(states: &mut watch::Receiver<State>, born: State) {
    while states.borrow_and_update().cuts == born.cuts {
        if states.changed().await.is_err() {
            return;
        }
    }
}

async fn hand_on(bytes: &[u8], to: &mut TcpStream, mode: Mode) -> Result<(), ()> {
    if let Mode::Slow(delay) = mode {
        tokio::time::sleep(delay).await;
    }
    to.write_all(bytes).await.map_err(|_| ())
}

/// Where the packets of a client begin, and which of them commit.
#[derive(Debug, Default)]
struct Packets {
    /// The header and the payload's first bytes of the packet under way.
    start: Vec<u8>,
    /// How much of its payload is still to come.
    rest: usize,
    /// Between START TRANSACTION and COMMIT or ROLLBACK.
    in_transaction: bool,
    /// What the server has answered so far to an UPDATE that it is to prepare.
    preparing: Option<Vec<u8>>,
    /// The numbers of the UPDATEs that are prepared, as they stand in an answer.
    updates: HashSet<[u8; 4]>,
}

impl Packets {
    const HEADER: usize = 4;
    const QUERY: u8 = 3;
    const PREPARE: u8 = 0x16;
    const EXECUTE: u8 = 0x17;
    /// What is kept of a payload.
    const KEPT: usize = 32;
    /// Up to the number of a prepared statement: a header, a byte that says how it went, the number.
    const ANSWER: usize = Self::HEADER + 1 + 4;

    /// Whether one of the packets that end in `bytes` commits.
    fn commits(&mut self, mut bytes: &[u8]) -> bool {
        let mut found = false;
        while let Some((byte, more)) = bytes.split_first() {
            if self.start.len() < Self::HEADER {
                self.start.push(*byte);
                bytes = more;
                if let [a, b, c, _] = self.start[..] {
                    self.rest = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
                }
            } else {
                let taken = self.rest.min(bytes.len());
                let room = Self::HEADER + Self::KEPT - self.start.len();
                self.start.extend(&bytes[..taken.min(room)]);
                self.rest -= taken;
                bytes = &bytes[taken..];
            }
            if self.start.len() >= Self::HEADER && self.rest == 0 {
                found |= self.ends_a_transaction();
                self.start.clear();
            }
        }
        found
    }

    /// Whether the packet is a COMMIT, or an UPDATE that commits by itself.
    fn ends_a_transaction(&mut self) -> bool {
        // Other numbers: what follows on a greeting, and the rest of what is too long for one packet.
        let Some([0, command @ ..]) = self.start.get(Self::HEADER - 1..) else {
            return false;
        };
        match *command {
            [Self::QUERY, ref text @ ..] => {
                let commits = text == b"COMMIT";
                if commits || text == b"ROLLBACK" {
                    self.in_transaction = false;
                } else if text == b"START TRANSACTION" {
                    self.in_transaction = true;
                }
                commits
            }
            [Self::PREPARE, ref text @ ..] => {
                self.preparing = text.starts_with(b"UPDATE ").then(Vec::new);
                false
            }
            [Self::EXECUTE, a, b, c, d, ..] => {
                !self.in_transaction && self.updates.contains(&[a, b, c, d])
            }
            _ => false,
        }
    }

    /// Takes in what the server answers.
    fn answered(&mut self, bytes: &[u8]) {
        let Some(answer) = &mut self.preparing else {
            return;
        };
        answer.extend(&bytes[..bytes.len().min(Self::ANSWER - answer.len())]);
        if let [_, _, _, _, well, number @ ..] = &answer[..]
            && let Ok(number) = number.try_into()
        {
            // Another first byte is that of an error.
            if *well == 0 {
                self.updates.insert(number);
            }
            self.preparing = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
        [&length[..3], &[0], payload].concat()
    }

    #[test]
    fn finds_a_commit_among_other_packets_however_they_are_cut() {
        let long = packet(&vec![7; 70_000]);
        let talk = [
            packet(b"\x03SELECT 1"),
            long,
            packet(b""),
            packet(b"\x03COMMIT"),
        ]
        .concat();
        for size in [1, 3, 4, 5, 11, 1_000, talk.len()] {
            let mut packets = Packets::default();
            let found = talk.chunks(size).filter(|part| packets.commits(part));
            assert_eq!(found.count(), 1, "parts of {size}");
        }
        for other in [&b"\x03COMMIT WORK"[..], b"\x03COMMI", b"\x16COMMIT", b""] {
            assert!(!Packets::default().commits(&packet(other)), "{other:?}");
        }
    }

    /// Has a statement prepared, which the server numbers so, or refuses.
    fn prepare(packets: &mut Packets, text: &str, number: Result<u8, u8>) {
        assert!(!packets.commits(&packet(format!("\x16{text}").as_bytes())));
        let (well, number) = number.map_or_else(|code| (0xff, code), |number| (0, number));
        let answer = packet(&[well, number, 0, 0, 0, 9, 9, 9]);
        for part in answer.chunks(4) {
            packets.answered(part);
        }
    }

    fn execute(number: u8) -> Vec<u8> {
        packet(&[0x17, number, 0, 0, 0, 0])
    }

    #[test]
    fn an_update_outside_of_a_transaction_commits_by_itself() {
        let mut packets = Packets::default();
        let (refused, select, update, unknown) = (1, 2, 5, 7);
        prepare(&mut packets, "UPDATE `nothing`", Err(refused));
        prepare(&mut packets, "SELECT 1 FROM `UPDATE `", Ok(select));
        prepare(
            &mut packets,
            "UPDATE `jobs` SET `status` = 'accepted'",
            Ok(update),
        );
        for other in [refused, select, unknown] {
            assert!(!packets.commits(&execute(other)), "{other}");
        }
        assert!(packets.commits(&execute(update)));
        assert!(!packets.commits(&packet(b"\x03START TRANSACTION")));
        assert!(!packets.commits(&execute(update)));
        assert!(packets.commits(&packet(b"\x03COMMIT")));
        assert!(packets.commits(&execute(update)));
    }

    #[test]
    fn what_is_no_command_is_not_taken_for_one() {
        let mut packets = Packets::default();
        prepare(&mut packets, "UPDATE `jobs`", Ok(1));
        for command in [packet(b"\x03COMMIT"), execute(1)] {
            let mut answer = command.clone();
            answer[3] = 1;
            assert!(!packets.commits(&answer), "{answer:?}");
            assert!(packets.commits(&command), "{command:?}");
        }
    }
}
