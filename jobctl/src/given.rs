//! The options that say whom to ask, as they were given: the commands that people are told to enter begin with them, so
//! that what is copied reaches the same daemon and table.

use crate::cli::Cli;
use crate::settings::Kind;

/// As far as they were given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Given {
    /// `--config FILE`, or nothing.
    config: Vec<String>,
    /// `--master`, `--worker`, `--host` and `--port`.
    daemon: Vec<String>,
    /// Whose port the config's is, if it names one.
    port_of: Option<Kind>,
}

impl Given {
    pub(crate) fn of(cli: &Cli, port_of: Option<Kind>) -> Self {
        let option = |name: &str, value: Option<String>| {
            let words = value.map(|value| [name.to_owned(), value]);
            words.into_iter().flatten()
        };
        let path = cli.config.as_ref().map(|path| path.display().to_string());
        let kinds = [("--master", cli.master), ("--worker", cli.worker)];
        let kinds = kinds.into_iter().filter(|(_, given)| *given);
        let kinds = kinds.map(|(name, _)| name.to_owned());
        let address = option("--host", cli.host.clone())
            .chain(option("--port", cli.port.map(|port| port.to_string())));
        Self {
            config: option("--config", path).collect(),
            daemon: kinds.chain(address).collect(),
            port_of,
        }
    }

    /// The beginning of a command to the same daemon or table: `jobctl --config F --master`.
    pub(crate) fn same(&self) -> String {
        line(self.config.iter().chain(&self.daemon))
    }

    /// The beginning of a command to another daemon, of that kind: of the options for this one the config alone counts there.
    /// The port is named unless the config's is that one's.
    pub(crate) fn other(&self, kind: Kind) -> String {
        let kind_option = match kind {
            Kind::Worker => "--worker",
            Kind::Master => "--master",
        };
        let port = match self.port_of {
            Some(of) if of == kind => String::new(),
            _ => format!(" --port {}", kind.default_port()),
        };
        format!("{} {kind_option}{port}", line(&self.config))
    }
}

fn line<'a>(options: impl IntoIterator<Item = &'a String>) -> String {
    let options = options.into_iter().map(String::as_str);
    shell_words::join(std::iter::once("jobctl").chain(options))
}
