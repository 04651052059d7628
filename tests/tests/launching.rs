//! How a job is started: its arguments, folder, environment, input and process group.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use jobd_tests::process::Process;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Database, Ini, Jobd, Row, Scratch, Server, programs, until};
use serde_json::json;

struct World {
    scratch: Scratch,
    database: Database,
}

impl World {
    async fn new() -> Self {
        let database = Server::shared().await.database().await;
        database.minimal_table().await;
        Self {
            scratch: Scratch::new(),
            database,
        }
    }

    fn ini(&self) -> Ini {
        Ini::worker(&self.database)
            .set("name", "w1")
            .target("1/low", 1)
    }

    /// What one job of a worker with this config leaves in its row.
    async fn row(&self, ini: &Ini) -> Row {
        let jobd = Jobd::start(&self.scratch, ini).await;
        let id = self.database.insert_one("1/low", "waiting").await;
        jobd.ask("poll", json!({})).await;
        self.database.done(id).await
    }
}

#[tokio::test]
async fn arguments_are_split_and_filled_and_no_shell_touches_them() {
    let world = World::new().await;
    let script = world
        .scratch
        .write("arguments.sh", "printf '[%s]\\n' \"$@\"");
    let launcher = format!(
        r#"sh {} {{id}} --id={{id}} "two words {{target}}" 'a "b"' C:\temp App\Job\Run http://x/?a=1&b=2 $HOME * | >x"#,
        script.display()
    );
    let row = world.row(&world.ini().set("launcher", launcher)).await;
    assert_eq!(
        row.out(),
        "[1]\n[--id=1]\n[two words 1/low]\n[a \"b\"]\n[C:\\temp]\n[App\\Job\\Run]\n\
         [http://x/?a=1&b=2]\n[$HOME]\n[*]\n[|]\n[>x]\n"
    );
}

#[tokio::test]
async fn a_shell_comes_only_when_asked_for() {
    let world = World::new().await;
    let ini = world
        .ini()
        .set("launcher.shell", "always")
        .set("launcher", "echo job {id} | tr a-z A-Z");
    assert_eq!(world.row(&ini).await.out(), "JOB 1\n");
}

#[tokio::test]
async fn folder_and_environment_are_the_configs_and_the_jobs_own() {
    let world = World::new().await;
    let folder = world.scratch.path().canonicalize().expect("a folder");
    let ini = world
        .ini()
        .set("launcher.cwd", folder.display())
        .set("launcher.env.LC_ALL", "en_US.UTF-8")
        .set("launcher.env.GREETING", "hello there")
        .set("launcher", r#"sh -c "pwd\; env""#);
    let row = world.row(&ini).await;
    let lines: Vec<&str> = row.out().lines().collect();
    assert_eq!(lines[0], folder.display().to_string());
    for expected in [
        "LC_ALL=en_US.UTF-8",
        "GREETING=hello there",
        "JOBD_ID=1",
        "JOBD_TARGET=1/low",
    ] {
        assert!(lines.contains(&expected), "{expected} in {lines:?}");
    }
    let worker = lines.iter().find(|line| line.starts_with("JOBD_WORKER="));
    assert!(worker.expect("JOBD_WORKER").contains("w1@"), "{worker:?}");
    assert!(
        lines.iter().any(|line| line.starts_with("PATH=")),
        "jobd's own is handed on"
    );
}

#[tokio::test]
async fn the_service_managers_variables_are_not_handed_on() {
    let world = World::new().await;
    let ini = world.ini().set("launcher", "env");
    let config = world.scratch.write("jobd.conf", ini.text());
    let mut command = Command::new(programs::path("jobd"));
    command
        .arg("--config")
        .arg(config)
        .env("NOTIFY_SOCKET", world.scratch.join("nobody"))
        .env("LISTEN_FDS", "1")
        .env("WATCHDOG_USEC", "30000000")
        .env("CREDENTIALS_DIRECTORY", "/nowhere")
        .env("INVOCATION_ID", "0123")
        .env("MINE", "kept");
    let _jobd = Process::start(&command, &world.scratch.join("jobd.log"));
    let id = world.database.insert_one("1/low", "waiting").await;
    let row = world.database.done(id).await;
    assert!(row.out().contains("MINE=kept\n"), "{}", row.out());
    for name in [
        "NOTIFY_SOCKET",
        "LISTEN_",
        "WATCHDOG_",
        "CREDENTIALS_DIRECTORY",
    ] {
        assert!(!row.out().contains(name), "{name} in {}", row.out());
    }
}

#[tokio::test]
async fn input_is_empty_and_the_process_group_its_own() {
    let world = World::new().await;
    let script = world.scratch.write(
        "process.sh",
        "cat; echo $$; ps -o pgid= -p $$ 2>/dev/null || cut -d' ' -f5 /proc/$$/stat; ls -l /proc/self/fd",
    );
    let ini = world
        .ini()
        .set("launcher", format!("sh {}", script.display()));
    let row = world.row(&ini).await;
    let words: Vec<&str> = row.out().split_whitespace().collect();
    assert_eq!(
        words[0],
        words[1],
        "not the leader of its group: {}",
        row.out()
    );
    // Nothing of jobd's own, and nothing of what it was started with: its output, its input, and the folder that ls reads.
    let open = row.out().lines().filter(|line| line.contains(" -> "));
    assert_eq!(open.count(), 4, "{}", row.out());
}

#[tokio::test]
async fn a_signal_goes_to_the_launched_process_alone() {
    let world = World::new().await;
    let ready = world.scratch.join("ready");
    let script = format!(
        "trap 'echo told; kill -9 $child; exit 5' TERM\n\
         sh -c \"trap 'echo child told' TERM; : >{}; while :; do sleep 0.1; done\" & child=$!\n\
         while :; do sleep 0.05; done",
        ready.display()
    );
    let script = world.scratch.write("family.sh", script);
    let ini = world
        .ini()
        .set("launcher", format!("sh {}", script.display()));
    let jobd = Jobd::start(&world.scratch, &ini).await;
    let id = world.database.insert_one("1/low", "waiting").await;
    jobd.ask("poll", json!({})).await;
    world.database.reaches(id, "running").await;
    // Before the traps are set a TERM would simply end them.
    until("both traps to be set", PATIENCE, async || {
        ready.exists().then_some(())
    })
    .await;
    let reply = jobd.ask("send-signal", json!({"jobs": {"1": 15}})).await;
    assert_eq!(reply, json!({"1": true}));
    let row = world.database.done(id).await;
    assert_eq!(
        row.verdict(),
        ("done", Some("fail"), Some(5), None),
        "{}",
        row.out()
    );
    assert_eq!(row.out(), "told\n");
}

#[tokio::test]
async fn a_worker_that_was_started_with_children_ignored_knows_how_jobs_end() {
    let world = World::new().await;
    let ini = world
        .ini()
        .set("poll_interval", "0.05")
        .set("launcher", "sh -c 'sleep 0.{id}\\; exit {id}'");
    let config = world.scratch.write("jobd.conf", ini.text());
    let mut command = Command::new("env");
    command
        .arg("--ignore-signal=CHLD")
        .arg(programs::path("jobd"))
        .arg("--config")
        .arg(config);
    let jobd = Process::start(&command, &world.scratch.join("jobd.log"));
    for code in 1..4 {
        let id = world.database.insert_one("1/low", "waiting").await;
        let row = world.database.done(id).await;
        assert_eq!(row.verdict(), ("done", Some("fail"), Some(code), None));
    }
    assert!(
        !jobd.log().contains("the guard has ended"),
        "{}",
        jobd.log()
    );
}

/// Holds up whoever opens a file, as a file system does that hangs (fcntl(2), `F_SETLEASE`); for 45 s at the most.
async fn hold_up(scratch: &Scratch, file: &str) -> Process {
    let lease = "$SIG{IO} = 'IGNORE'; open(F, '+<', $ARGV[0]) and fcntl(F, 1024, 1) or die $!; \
                 $| = 1; print qq(held\\n); sleep 60";
    let mut command = Command::new("perl");
    command.args(["-e", lease, file]);
    let holder = Process::start(&command, &scratch.join("holder.log"));
    until("the file to be held", PATIENCE, async || {
        holder.log().contains("held").then_some(())
    })
    .await;
    holder
}

/// Processes whose command line has this in it.
fn processes_of(text: &str) -> usize {
    let processes = std::fs::read_dir("/proc").expect("read /proc");
    let lines =
        processes.filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok());
    lines
        .filter(|line| String::from_utf8_lossy(line).contains(text))
        .count()
}

#[tokio::test]
async fn a_launch_that_is_held_up_is_nothing_once_its_worker_is_gone() {
    let world = World::new().await;
    let ran = world.scratch.join("ran");
    let script = format!("#!/bin/sh\n: >{}\n", ran.display());
    let script = world.scratch.write("job", script);
    set_permissions(&script, Permissions::from_mode(0o755)).expect("make it a program");
    let folder = world.scratch.path().display().to_string();
    for umask in [false, true] {
        let mut holder = hold_up(&world.scratch, &script.display().to_string()).await;
        let ini = world.ini().set("launcher", script.display());
        let ini = if umask { ini.set("umask", "022") } else { ini };
        let mut jobd = Jobd::start(&world.scratch, &ini.set("poll_interval", "0.05")).await;
        let id = world.database.insert_one("1/low", "waiting").await;
        world.database.reaches(id, "running").await;
        until("somebody to be held up", PATIENCE, async || {
            let locks = std::fs::read_to_string("/proc/locks").expect("the locks");
            let holder = format!(" {} ", holder.id());
            let mut leases = locks.lines().filter(|line| line.contains(&holder));
            leases.any(|line| line.contains("BREAKING")).then_some(())
        })
        .await;
        jobd.process.kill();
        holder.kill();
        until("nobody to be left", PATIENCE, async || {
            (processes_of(&folder) == 0).then_some(())
        })
        .await;
        assert!(!ran.exists(), "it has begun for nobody");
    }
}
