//! The units in `systemd/`: accepted by the service manager, and as tight as they claim to be.
//! Without systemd-analyze (`apt-get install systemd`) only their text is looked at.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Output};

const UNITS: [&str; 3] = ["jobd.service", "jobd@.service", "jobd-master.service"];

fn read(unit: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
    fs::read_to_string(folder.join(unit)).unwrap()
}

/// Runs systemd-analyze on copies of the units whose programs exist; `None` without it.
fn analyze(arguments: &[&str], units: &[&str]) -> Option<Output> {
    let folder = tempfile::tempdir().unwrap();
    for unit in UNITS {
        let text = read(unit);
        let program = text
            .lines()
            .find_map(|line| line.strip_prefix("ExecStart="))
            .unwrap();
        let program = program.split(' ').next().unwrap();
        let text = text.replace(program, "/bin/true");
        fs::write(folder.path().join(unit), text).unwrap();
    }
    let mut command = Command::new("systemd-analyze");
    command.args(arguments).current_dir(folder.path());
    command.args(units.iter().map(|unit| folder.path().join(unit)));
    match command.output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("left out: systemd-analyze is not installed");
            None
        }
        output => Some(output.unwrap()),
    }
}

#[test]
fn the_service_manager_accepts_every_unit() {
    let Some(output) = analyze(&["verify", "--man=no", "--recursive-errors=no"], &UNITS) else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn the_master_is_locked_in() {
    let arguments = ["security", "--offline=true", "--threshold=20", "--no-pager"];
    let Some(output) = analyze(&arguments, &["jobd-master.service"]) else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "exposure above 2.0:\n{said}");
}

/// The settings of a unit; comments left out, of equal ones the last.
fn settings(unit: &str) -> BTreeMap<String, String> {
    let text = read(unit);
    let pairs = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = pairs.filter_map(|line| line.split_once('='));
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn every_unit_notifies_and_gives_up_on_a_wrong_config() {
    for unit in UNITS {
        let settings = settings(unit);
        let expected = [
            ("Type", "notify"),
            ("KillMode", "mixed"),
            ("Restart", "on-failure"),
            ("RestartPreventExitStatus", "78 2"),
            ("StartLimitIntervalSec", "0"),
        ];
        for (key, value) in expected {
            assert_eq!(settings[key], value, "{key} of {unit}");
        }
        assert!(settings.contains_key("WatchdogSec"), "{unit}");
        assert_eq!(settings["ExecReload"], "/bin/kill -HUP $MAINPID", "{unit}");
    }
}

#[test]
fn workers_are_left_the_time_to_drain_and_jobs_their_rights() {
    for unit in ["jobd.service", "jobd@.service"] {
        let settings = settings(unit);
        let stop: u32 = settings["TimeoutStopSec"]
            .trim_end_matches('s')
            .parse()
            .unwrap();
        let (drain, grace, writing) = (60, 10, 30);
        assert!(stop > drain + grace + writing, "{unit}");
        // The job that uses up the memory fails, not the worker.
        assert_eq!(settings["OOMPolicy"], "continue", "{unit}");
        // Each of these takes setuid programs away from jobs.
        for key in [
            "NoNewPrivileges",
            "SystemCallFilter",
            "PrivateDevices",
            "RestrictRealtime",
        ] {
            assert!(!settings.contains_key(key), "{key} of {unit}");
        }
    }
    assert_eq!(
        settings("jobd.service")["TimeoutStopSec"],
        settings("jobd@.service")["TimeoutStopSec"]
    );
}
