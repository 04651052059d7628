//! The first screen: every command by what one wants to do, on a terminal of 80 by 24.

/// What `jobctl --help` shows.
pub(super) const TEXT: &str = "\
Look at and steer jobd workers, a jobd-master and the job table.
Usage: jobctl [OPTIONS] [COMMAND]    COMMAND --help has examples; none: a shell

See    status    targets and workers         stats  runs, failures, percentiles
       doctor    what is wrong, and the cure top    the same, live, with keys
       list-targets  list-workers  memory-usage
Jobs   list      newest rows, with filters   show   one row with its output
       logs      its output alone            wait   until jobs are done
       export    rows as JSON lines          follow its output as it comes
Start  add       insert rows and poke        run    one job now, like a command
       retry     failed jobs once more       run-manual
Stop   cancel    jobs, queued or running      pause  continue  send-signal
Steer  poll  poke  set-target-concurrency  add-target  remove-target
Table  create-table  prune (old rows)        Setup  completions  man

--master, --worker    talk to a master (port 7081) or a worker (7080, default)
--host H, --port P    where it is; ~/.jobctl.conf or --config F may say so
--password            ask for its password    --log-level L    [default: warn]
--json                print JSON              -h, --help   -V, --version

IDs are 17, 10-20, or last: the newest row. Times are 2h, yesterday, 2026-11-22.
Exit codes: 0 ok, 1 refused or failed, 2 usage, 3 not reachable; run, follow,
wait and add --wait of one job end with its code.
";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_first_screen_fits_and_names_every_command() {
        assert!(TEXT.lines().count() < 24, "the prompt needs a line too");
        for line in TEXT.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        let words: BTreeSet<&str> = TEXT.split_whitespace().collect();
        for command in crate::cli::Cli::command().get_subcommands() {
            let name = command.get_name();
            assert!(words.contains(name), "{name} is not on the first screen");
        }
        for option in crate::cli::Cli::command().get_arguments() {
            let name = format!("--{}", option.get_long().unwrap_or_default());
            assert!(TEXT.contains(&name), "{name} is not on the first screen");
        }
    }
}
