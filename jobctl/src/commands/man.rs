//! `man`: manual pages, made of the help texts.

use std::path::Path;

use clap::CommandFactory as _;
use clap_mangen::Man;

use crate::cli::Cli;
use crate::failure::Failure;
use crate::output;

/// What the page of jobctl itself says beside its options.
const DESCRIPTION: &str = "Looks at and steers jobd workers, a jobd-master and the job table.

Without --master it talks to the worker on 127.0.0.1:7080, with it to the master on 127.0.0.1:7081. \
Defaults for all of this can stand in ~/.jobctl.conf: master, host, port, password, log_level, and mysql_* or \
sqlite_path for the commands that use the table.

Exit codes: 0 ok, 1 refused or failed, 2 usage, 3 not reachable, 130 after Ctrl-C. Commands that wait for one \
job end with its code.";

/// Prints the page of jobctl, or writes one a command into a folder.
pub(crate) fn run(into: Option<&Path>) -> Result<u8, Failure> {
    let mut all = Cli::command().long_about(DESCRIPTION);
    all.build();
    let Some(folder) = into else {
        output::print(&page(&all)?)?;
        return Ok(0);
    };
    let commands = all
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    for command in std::iter::once(&all).chain(commands) {
        let name = command.get_display_name().unwrap_or(command.get_name());
        let file = folder.join(format!("{name}.1"));
        std::fs::write(&file, page(command)?).map_err(|error| {
            Failure::Refused(format!(
                "cannot write {}: {error}; is the folder there?",
                file.display()
            ))
        })?;
    }
    Ok(0)
}

fn page(command: &clap::Command) -> Result<String, Failure> {
    let mut page = Vec::new();
    let rendered = Man::new(command.clone()).render(&mut page);
    rendered.map_err(|error| Failure::Refused(format!("cannot render the page: {error}")))?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}
