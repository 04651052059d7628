//! The units are what the service manager understands, and say what the daemons rely on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use jobd_tests::Scratch;
use jobd_tests::programs::path;

const UNITS: [&str; 3] = ["jobd.service", "jobd@.service", "jobd-master.service"];

fn unit(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../systemd")
        .join(name)
}

/// The unit as it would be installed beside the programs of this build.
fn installed(scratch: &Scratch, name: &str) -> PathBuf {
    let text = fs::read_to_string(unit(name)).expect("a unit file");
    let text: String = text
        .lines()
        .map(|line| match line.strip_prefix("ExecStart=") {
            Some(command) => {
                let (program, arguments) = command.split_once(' ').expect("arguments");
                let program = Path::new(program).file_name().expect("a program");
                let program = path(&program.to_string_lossy());
                format!("ExecStart={} {arguments}\n", program.display())
            }
            None => format!("{line}\n"),
        })
        .collect::<Vec<_>>()
        .concat();
    scratch.write(&name.replace('@', "@main"), text)
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let scratch = Scratch::new();
    let units = UNITS.map(|name| installed(&scratch, name));
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args(&units)
        .output()
        .expect("systemd-analyze: install systemd, as tests/run does");
    let said = String::from_utf8_lossy(&output.stderr);
    // Whatever is said about other units of this machine is not ours.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("jobd")).collect();
    assert!(output.status.success() && ours.is_empty(), "{said}");
}

#[test]
fn units_notify_and_give_a_drain_its_time() {
    for name in UNITS {
        let text = fs::read_to_string(unit(name)).expect("a unit file");
        let value = |key: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(key));
            found.unwrap_or_else(|| panic!("{name} says nothing of {key}"))
        };
        assert_eq!(value("Type="), "notify", "{name}");
        assert_eq!(value("KillMode="), "mixed", "{name}");
        assert!(!value("WatchdogSec=").is_empty(), "{name}");
        assert!(!value("TimeoutStopSec=").is_empty(), "{name}");
    }
}
