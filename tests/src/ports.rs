//! Free TCP ports on 127.0.0.1, so that tests of several processes never get the same one.
//!
//! Binding to port 0 and letting go again would race with every other test and every outgoing
//! connection. Here each port is below the range for outgoing connections, and a locked file
//! stands for it until the process that asked for it ends.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

use crate::programs;

const FIRST: u16 = 21_000;
const COUNT: u16 = 10_000;

/// The locks of this process; files unlock when the process ends, also when it is killed.
static TAKEN: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A port that nobody listens on and that no other test will be given.
pub fn free() -> u16 {
    let folder = programs::state_folder().join("ports");
    std::fs::create_dir_all(&folder).expect("folder for port locks");
    let from = std::process::id();
    for step in 0..u32::from(COUNT) {
        let offset = u16::try_from((from * 7 + step) % u32::from(COUNT)).expect("below COUNT");
        let port = FIRST + offset;
        let lock = File::create(folder.join(port.to_string())).expect("file for a port lock");
        if lock.try_lock().is_err() {
            continue;
        }
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            TAKEN.lock().expect("port locks").push(lock);
            return port;
        }
    }
    panic!("no free port in {FIRST}..{}", FIRST + COUNT);
}
