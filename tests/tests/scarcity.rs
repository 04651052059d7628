//! What a host withholds from a daemon: further threads, and answers of a disk.

use std::ffi::OsStr;
use std::fs::{File, Permissions, copy, set_permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::process::Command;

use jobd_tests::process::Process;
use jobd_tests::programs::{self, Daemon};
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Ini, Jobd, Master, Scratch, Server, until};
use rustix::fs::OFlags;
use rustix::process::{Resource, Signal, geteuid, getrlimit};

/// `program`, to be started by a user whom a limit of processes holds back, as it does not root.
fn as_user(program: impl AsRef<OsStr>) -> Command {
    if !geteuid().is_root() {
        return Command::new(program);
    }
    // Without any other process.
    let user = 20_000 + std::process::id() % 20_000;
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={user}"), format!("--regid={user}")]);
    command.arg("--clear-groups").arg(program);
    command
}

/// Starts a worker as that user.
async fn start_as_user(scratch: &Scratch, ini: &Ini) -> Daemon {
    let config = scratch.write("jobd.conf", ini.text());
    let program = scratch.join("jobd");
    copy(programs::path("jobd"), &program).expect("copy the program to where everybody may go");
    set_permissions(scratch.path(), Permissions::from_mode(0o755)).expect("let everybody in");
    let mut command = as_user(&program);
    command.arg("--config").arg(&config);
    let mut daemon = Daemon {
        process: Process::start(&command, &scratch.join("jobd.log")),
        addr: ([127, 0, 0, 1], ini.port()).into(),
        config,
    };
    daemon.listening().await;
    daemon
}

/// Limits the processes and threads that a worker may start.
async fn limit(jobd: &Daemon, processes: &str) {
    let mut command = as_user("prlimit");
    command.arg(format!("--pid={}", jobd.process.id()));
    command.arg(format!("--nproc={processes}:"));
    let done = programs::output(&mut command).await;
    assert!(done.status.success(), "{done:?}");
}

#[tokio::test]
async fn a_worker_that_gets_no_further_thread_reads_its_config_and_resolves_names() {
    let scratch = Scratch::new();
    let database = Server::shared().await.database().await;
    database.minimal_table().await;
    let master_ini = Ini::listen();
    let master = Master::start(&scratch, &master_ini).await;
    let ini = Ini::worker(&database)
        .set("poll_interval", "0.2")
        .target("a", 1);
    let mut jobd = start_as_user(&scratch, &ini).await;
    let id = database.insert_one("a", "waiting").await;
    assert_eq!(database.done(id).await.result.as_deref(), Some("ok"));
    limit(&jobd, "1").await;

    let with_master = ini
        .set("master_host", "localhost")
        .set("master_port", master_ini.port());
    std::fs::write(&jobd.config, with_master.text()).expect("write the config");
    jobd.process.signal(Signal::HUP);
    Master::has_workers(&master, 1).await;

    let before = getrlimit(Resource::Nproc).current;
    let before = before.map_or("unlimited".to_owned(), |n| n.to_string());
    limit(&jobd, &before).await;
    let id = database.insert_one("a", "waiting").await;
    assert_eq!(database.done(id).await.result.as_deref(), Some("ok"));
}

#[tokio::test]
async fn a_config_file_whose_disk_hangs_does_not_hold_up_the_end() {
    let scratch = Scratch::new();
    let database = Server::shared().await.database().await;
    database.minimal_table().await;
    let jobd = Jobd::start(&scratch, &Ini::worker(&database).target("a", 1)).await;
    let master = Master::start(&scratch, &Ini::listen()).await;
    for mut daemon in [jobd, master] {
        std::fs::remove_file(&daemon.config).expect("remove the config");
        let made = programs::output(Command::new("mkfifo").arg(&daemon.config)).await;
        assert!(made.status.success(), "{made:?}");
        daemon.process.signal(Signal::HUP);
        let mut options = File::options();
        let at_once = i32::try_from(OFlags::NONBLOCK.bits()).expect("a flag");
        options.write(true).custom_flags(at_once);
        let writer = until("the config to be read", PATIENCE, async || {
            options.open(&daemon.config).ok()
        });
        // It says nothing, so that the reading never ends.
        let writer = writer.await;
        assert!(daemon.stop().await.success());
        drop(writer);
    }
}
