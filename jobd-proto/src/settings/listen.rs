//! Where a daemon listens and whom it lets in: the group of keys that both daemons share.

use super::{Key, Reader};
use crate::listener::{Access, MAX_CONNECTIONS};

/// The rows of this group in the config reference.
pub const LISTEN_KEYS: &[Key] = &[
    Key {
        name: "host",
        kind: "text",
        default: "required",
        doc: "Address or name to listen on: `127.0.0.1` for this host only, `0.0.0.0` for every \
              IPv4 network.",
    },
    Key {
        name: "port",
        kind: "integer",
        default: "required",
        doc: "TCP port to listen on, by custom 7080 for jobd and 7081 for jobd-master. 0 lets \
              the system choose; the log says which.",
    },
    Key {
        name: "password",
        kind: "text",
        default: "",
        doc: "Wanted in the first request of a connection. jobd also sends it when it registers \
              with its master, so both need the same.",
    },
    Key {
        name: "always_allow_localhost",
        kind: "`1` or `0`",
        default: "`0`",
        doc: "Whether clients on the same host are let in without the password.",
    },
    Key {
        name: "max_connections",
        kind: "integer",
        default: "`4096`",
        doc: "Connections served at a time. At the limit the longest idle one makes room, never \
              a registered worker.",
    },
];

/// The most connections that `max_connections` may ask for: more do not fit into the open files
/// that a daemon is allowed (16,384), with room for jobs and the database.
const MOST_CONNECTIONS: usize = 12_288;

/// Where to listen, and whom to let in.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Address or name to bind to; empty only where it was missing, which is a mistake.
    pub host: String,
    /// TCP port to bind to; 0 asks the system for a free one.
    pub port: u16,
    /// Who may send requests.
    pub access: Access,
    /// Connections served at a time.
    pub max_connections: usize,
}

/// Reads the group. `host` and `port` are required, as in the original.
pub fn listen(reader: &mut Reader<'_>) -> Listen {
    let host = reader.required_text("host");
    let port = reader.required_integer("port", 0..=u16::MAX);
    let password = reader.secret("password");
    let always_allow_localhost = reader.flag("always_allow_localhost", false);
    Listen {
        host,
        port,
        access: Access {
            password,
            always_allow_localhost,
        },
        max_connections: reader.integer("max_connections", 1..=MOST_CONNECTIONS, MAX_CONNECTIONS),
    }
}
