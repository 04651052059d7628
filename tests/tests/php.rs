//! The PHP examples do what their README says, against real programs and a real server.

use std::path::Path;
use std::process::{Command, Output};

use jobd_tests::programs::{Daemon, output};
use jobd_tests::server::{PASSWORD, USER};
use jobd_tests::{Database, Ini, Jobd, Master, Scratch, Server};

struct World {
    database: Database,
    master: Daemon,
    _jobd: Daemon,
    _scratch: Scratch,
}

impl World {
    async fn new() -> Self {
        let scratch = Scratch::new();
        let database = Server::shared().await.database().await;
        database.minimal_table().await;
        let ini = Ini::listen().set("password", "let me in");
        let master = Master::start(&scratch, &ini).await;
        let worker = Ini::worker(&database)
            .set("poll_interval", 0)
            .set("password", "let me in")
            .set("always_allow_localhost", 1)
            .set("master_host", "127.0.0.1")
            .set("master_port", ini.port())
            .set(
                "launcher",
                r#"sh -c "echo grüße {id}\; echo oh >&2\; exit 3""#,
            )
            .target("mail", 1);
        let jobd = Jobd::ready(&scratch, &worker).await;
        let world = Self {
            database,
            master,
            _jobd: jobd,
            _scratch: scratch,
        };
        world.registered().await;
        world
    }

    /// Until the master knows the worker, a manual run has nobody to go to.
    async fn registered(&self) {
        let request = r#"[0,{"no":1,"type":"status","password":"let me in"}]"#;
        jobd_tests::until(
            "a registered worker",
            jobd_tests::wait::PATIENCE,
            async || {
                let reply = jobd_tests::wire::php_request(self.master.addr, request).await;
                reply[1]["data"]["workers"][0].is_object().then_some(())
            },
        )
        .await;
    }

    async fn demo(&self, arguments: [&str; 2]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/php/demo.php");
        let dsn = format!(
            "mysql:host=127.0.0.1;port={};dbname={};charset=utf8mb4",
            self.database.port, self.database.name
        );
        let mut command = Command::new("php");
        command
            .arg(script)
            .args(arguments)
            .env("JOBD_DSN", dsn)
            .env("JOBD_DB_USER", USER)
            .env("JOBD_DB_PASSWORD", PASSWORD)
            .env("JOBD_MASTER", self.master.addr.to_string())
            .env("JOBD_PASSWORD", "let me in");
        output(&mut command).await
    }
}

#[tokio::test]
async fn an_added_job_runs_because_of_the_poke() {
    let world = World::new().await;
    let said = world.demo(["add", "mail"]).await;
    assert_eq!(said.status.code(), Some(0), "{said:?}");
    assert_eq!(String::from_utf8_lossy(&said.stdout), "added job 1\n");
    assert_eq!(String::from_utf8_lossy(&said.stderr), "");
    let row = world.database.done(1).await;
    assert_eq!((row.return_code, row.out()), (Some(3), "grüße 1\n"));
}

#[tokio::test]
async fn a_manual_run_prints_the_result() {
    let world = World::new().await;
    let said = world.demo(["run", "mail"]).await;
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    let expected = "job 1: fail (exit code 3)\ngrüße 1\n";
    assert_eq!(String::from_utf8_lossy(&said.stdout), expected);
    assert_eq!(String::from_utf8_lossy(&said.stderr), "oh\n");

    let said = world.demo(["run", "nobody"]).await;
    let expected = "job 2 did not run: worker serving target 'nobody' not found\n";
    assert_eq!(String::from_utf8_lossy(&said.stderr), expected);
}
