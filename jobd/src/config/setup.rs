//! The keys for which a target's jobs are started through the shim: `user`, `group`, `umask`, `nice`, `limit.*`.

use jobd_proto::settings::{self, Key, Reader};

use crate::shim::{self, Setup};

pub(super) const KEYS: &[Key] = &[
    Key {
        name: "user",
        kind: "name or number",
        default: "jobd's own",
        doc: "Whose processes the jobs are, with all groups of that user, and `USER`, `LOGNAME`, `HOME` and `SHELL`. Only where jobd runs as root.",
    },
    Key {
        name: "group",
        kind: "name or number",
        default: "the user's",
        doc: "Their primary group. Only where jobd runs as root.",
    },
    Key {
        name: "umask",
        kind: "octal number",
        default: "jobd's own",
        doc: "Which rights new files of the jobs do not get: `027`.",
    },
    Key {
        name: "nice",
        kind: "integer",
        default: "jobd's own",
        doc: "Niceness of the jobs, from -20 to 19; below jobd's own only as root.",
    },
    Key {
        name: "limit.*",
        kind: "number, size or `unlimited`, or two as `SOFT:HARD`",
        default: "jobd's own",
        doc: "Limits of each process, by the names of setrlimit(2): `limit.nofile = 1024:4096`, `limit.as = 2G`, `limit.core = 0`.",
    },
];

/// What is said, and else what counts for all.
pub(super) fn read(reader: &mut Reader<'_>, default: &Setup) -> Setup {
    let mut setup = default.clone();
    let octal = |text: &str| {
        u32::from_str_radix(text, 8)
            .ok()
            .filter(|mask| *mask <= 0o777)
    };
    let wanted = || "an octal number from 0 to 777".to_owned();
    setup.umask = reader.parsed("umask", wanted, octal).or(setup.umask);
    setup.nice = reader.optional_integer("nice", -20..=19).or(setup.nice);
    for (name, value) in reader.map("limit.") {
        let key = format!("limit.{name}");
        if !shim::limit_names().any(|known| known == name) {
            let names: Vec<&str> = shim::limit_names().collect();
            let text = format!(
                "{key} is no limit of setrlimit(2): take one of {}",
                names.join(", ")
            );
            reader.mistake(&key, text);
        } else if !setup.set_limit(&name, &value, settings::bytes) {
            let text = format!(
                "{key} must be a number, a size or unlimited, or two of them as SOFT:HARD, the soft one not above the hard one, not '{value}'"
            );
            reader.mistake(&key, text);
        }
    }
    let (user, group) = (reader.text("user"), reader.text("group"));
    let key = if user.is_some() { "user" } else { "group" };
    if user.is_none() && group.is_none() {
        return setup;
    }
    if !rustix::process::geteuid().is_root() {
        let text = format!(
            "{key}: only root may start processes of others: leave it out, or start jobd as root"
        );
        reader.mistake(key, text);
    } else if let Err(error) = setup.set_owner(user, group) {
        reader.mistake(key, error);
    }
    setup
}
