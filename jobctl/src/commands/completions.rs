//! `completions`: a script for the shell, which asks jobctl for names of targets, hosts, workers and jobs.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::failure::Failure;
use crate::output;

/// Where the function begins that completes a line, in bash and zsh.
const FUNCTION: &str = "_jobctl() {\n";

/// What it does first: names that fit are all that is offered. `%q`, as bash puts them on the line as they are.
const BASH: &str = r#"    local name names
    names="$("$1" complete-names "${COMP_WORDS[@]:0:COMP_CWORD}" "$2" 2>/dev/null)"
    if [[ -n $names ]]; then
        COMPREPLY=()
        while IFS= read -r name; do
            printf -v name %q "$name"
            COMPREPLY+=("$name")
        done <<<"$names"
        return 0
    fi
"#;

/// The same in zsh, which quotes by itself.
const ZSH: &str = r#"    local -a names
    names=("${(@f)$("${(Q)words[1]}" complete-names "${(@Q)words[1,CURRENT-1]}" "$PREFIX" 2>/dev/null)}")
    if [[ -n "${names[1]}" ]]; then
        compadd -a names
        return
    fi
"#;

/// Fish adds these to what else it offers in a place, and offers no files there.
const FISH: &str =
    " -f -a '(jobctl complete-names (commandline -opc) (commandline -ct) 2>/dev/null)'\n";

/// The options in fish's script whose values are names.
const FISH_OPTIONS: [&str; 3] = [" -l target ", " -l host ", " -l on "];

/// Prints the script.
pub(crate) fn run(shell: Shell) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "jobctl", &mut script);
    let script = String::from_utf8_lossy(&script);
    let begun = |first: &str| script.replacen(FUNCTION, &format!("{FUNCTION}{first}"), 1);
    output::print(&match shell {
        Shell::Bash => begun(BASH),
        Shell::Zsh => begun(ZSH),
        Shell::Fish => in_fish(&script),
        _ => script.into_owned(),
    })?;
    Ok(0)
}

/// Names where arguments stand, and as values of the options that take them.
fn in_fish(script: &str) -> String {
    let lines = script.lines().map(|line| {
        let is_name = FISH_OPTIONS.iter().any(|option| line.contains(option));
        line.to_owned() + if is_name { FISH } else { "\n" }
    });
    let all = Cli::command();
    let commands: Vec<&str> = all.get_subcommands().map(clap::Command::get_name).collect();
    let behind = format!(
        "complete -c jobctl -n '__fish_seen_subcommand_from {}'",
        commands.join(" ")
    );
    lines.collect::<String>() + &behind + FISH
}
